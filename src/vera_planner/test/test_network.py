"""The networks of the compact planner."""

import math

import pytest
import torch

from vera_planner.network import LayerHead, NetworkConfig, build
from vera_planner.training import video_loss

SMALL = {
    'unet': NetworkConfig(kind='unet', width=16, depth=1, height=32, canvas_width=32),
    'transformer': NetworkConfig(kind='transformer', width=32, depth=2, height=32, canvas_width=32),
    'pieces': NetworkConfig(width=16, depth=1, height=32, canvas_width=32, layers=3),
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
    most = 0.7 if SMALL[kind].layers else 0.3  # pieces already paint behind themselves
    assert (future - anchor).abs().mean() < most * anchor.abs().mean()


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


def pieces_of(shift, turn, monkeypatch) -> torch.Tensor:
    """A bright bar on dark ground, its mask known, moved by `shift` [px] and `turn` [rad]."""
    head = LayerHead(8, look_ahead=2, layers=1)
    anchor = -torch.ones(1, 3, 32, 32)
    anchor[..., 10:13, 8:17] = 1  # centre (12, 11), 9 wide, 3 high
    y = torch.zeros(1, 4, 32, 32)
    y[:, 0] = torch.where(anchor[:, 0] > 0, 20.0, -20.0)
    y[:, 1:4] = -1.0  # the ground that is painted where the bar was
    path = torch.tensor([shift, [2 * v for v in shift]]).view(1, 1, 2, 2)
    angle = torch.tensor([turn, 2 * turn]).view(1, 1, 2)
    monkeypatch.setattr(head, '_motion', lambda *_: (path, angle))
    frames = head._compose(y, torch.zeros(1, 8, 8, 8), anchor)
    assert frames.shape == (1, 2, 3, 32, 32)
    return frames


def test_a_piece_is_carried_whole_and_leaves_painted_ground(monkeypatch):
    frames = pieces_of([5.0, 3.0], 0.0, monkeypatch)
    expected = -torch.ones(3, 32, 32)
    expected[:, 13:16, 13:22] = 1
    torch.testing.assert_close(frames[0, 0], expected, atol=1e-3, rtol=0)
    twice = -torch.ones(3, 32, 32)
    twice[:, 16:19, 18:27] = 1
    torch.testing.assert_close(frames[0, 1], twice, atol=1e-3, rtol=0)


def test_a_piece_turns_about_its_own_centre(monkeypatch):
    frames = pieces_of([0.0, 0.0], math.pi / 2, monkeypatch)
    upright = -torch.ones(3, 32, 32)
    upright[:, 7:16, 11:14] = 1
    torch.testing.assert_close(frames[0, 0], upright, atol=0.05, rtol=0)


def test_pieces_learn_a_jump_longer_than_the_thing():
    torch.manual_seed(0)
    net = build(NetworkConfig(width=16, depth=1, height=32, canvas_width=32, layers=2))
    optimiser = torch.optim.Adam(net.parameters(), lr=3e-3)
    frames = -torch.ones(4, 8, 3, 32, 32)
    for i in range(4):
        for k in range(8):
            x = 2 + 2 * i + 2 * max(0, k - 3)
            frames[i, k, :, 12:16, x : x + 4] = 1
    levels = torch.cat([torch.zeros(4, 4), torch.ones(4, 4)], dim=1)
    text, target = torch.zeros(4, 384), frames[:, 4:]
    noisy = torch.cat([frames[:, :4], torch.randn(4, 4, 3, 32, 32)], dim=1)
    losses = []
    for _ in range(60):
        loss = video_loss(net(noisy, levels, text), target, frames[:, 3], 8.0).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.35 * losses[0]
