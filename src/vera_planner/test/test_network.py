"""The networks of the compact planner."""

import pytest
import torch

from vera_planner.network import NetworkConfig, build

SMALL = {
    'unet': NetworkConfig(kind='unet', width=16, depth=1, height=32, canvas_width=32),
    'transformer': NetworkConfig(kind='transformer', width=32, depth=2, height=32, canvas_width=32),
}


def inputs(batch=2, size=32):
    torch.manual_seed(0)
    return (
        torch.rand(batch, 8, 3, size, size) * 2 - 1,
        torch.rand(batch, 8),
        torch.nn.functional.normalize(torch.randn(batch, 384), dim=1),
    )


@pytest.mark.parametrize('kind', SMALL)
def test_an_untrained_network_dreams_the_anchor_standing_still(kind):
    network = build(SMALL[kind]).eval()
    frames, levels, text = inputs()
    future = network(frames, levels, text)
    assert future.shape == (2, 4, 3, 32, 32)
    anchor = frames[:, 3:4].expand_as(future)
    assert (future - anchor).abs().mean() < 0.3 * anchor.abs().mean()


@pytest.mark.parametrize('kind', SMALL)
def test_a_few_steps_make_it_fit_one_moving_square_named_in_words(kind):
    torch.manual_seed(0)
    network = build(SMALL[kind]).train()
    optimiser = torch.optim.AdamW(network.parameters(), lr=2e-3)
    frames = -torch.ones(2, 8, 3, 32, 32)
    for k in range(8):
        x = 4 + max(0, k - 3) * 3
        frames[0, k, :, 12:20, x : x + 8] = 1  # one sentence: it goes right
        frames[1, k, :, 12:20, 4:12] = 1  # the other: it stays
    levels = torch.zeros(2, 8)
    levels[:, 4:] = 1
    shown = frames.clone()
    shown[:, 4:] = torch.randn(2, 4, 3, 32, 32)
    text = torch.nn.functional.normalize(torch.randn(2, 384), dim=1)
    losses = []
    for _ in range(60):
        loss = ((network(shown, levels, text) - frames[:, 4:]) ** 2).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.5 * losses[0]


def test_every_parameter_learns():
    network = build(SMALL['unet'])
    frames, levels, text = inputs()
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.05)
    network(frames, levels, text).square().mean().backward()
    silent = [n for n, p in network.named_parameters() if p.grad is None or not p.grad.any()]
    assert silent == []


def test_a_canvas_that_does_not_divide_is_refused():
    with pytest.raises(ValueError, match='multiples of 16'):
        build(NetworkConfig(height=60))


def test_sentences_are_standardised_over_the_training_captions():
    network = build(SMALL['unet'])
    captions = torch.randn(50, 384) * 0.02 + 0.4
    network.standardise_text(captions)
    seen = (captions - network.text_mean) * network.text_scale
    assert seen.mean().abs() < 1e-4
    assert 0.9 < seen.std() < 1.1
