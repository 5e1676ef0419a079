"""Diffusion forcing: what is noised, what is not, and what sampling starts from."""

import pytest
import torch

from vera_planner.diffusion import NoiseConfig, noised, sample, training_levels


def levels(history=4, batch=400, **options):
    generator = torch.Generator().manual_seed(0)
    return training_levels(torch.full((batch,), history), 4, 4, NoiseConfig(**options), generator)


def test_each_frame_has_its_own_level_and_the_future_covers_all_of_them():
    future = levels()[:, 4:]
    assert future.shape == (400, 4)
    assert future.min() >= 0 and future.max() <= 1
    assert (future.std(1) > 0.05).float().mean() > 0.15
    assert future.min() < 0.1 and future.max() > 0.95


def test_history_that_is_dropped_is_pure_noise_and_the_anchor_is_always_there():
    drawn = levels(drop_history=1.0)
    assert (drawn[:, :3] == 1).all()
    assert (drawn[:, 3] < 1).all()


def test_history_that_does_not_exist_is_never_shown():
    drawn = levels(history=2, drop_history=0.0)
    assert (drawn[:, :2] == 1).all()
    assert (drawn[:, 2] < 1).any()


def test_context_is_clean_or_slightly_noised():
    drawn = levels(drop_history=0.0, clean_context=0.5, noisy_context=0.25)
    kept = drawn[:, 3]
    assert (kept == 0).float().mean() > 0.4
    assert 0 < kept[kept > 0].max() <= 0.25


def test_noising_mixes_by_level():
    frames, noise = torch.ones(1, 3, 3, 2, 2), torch.zeros(1, 3, 3, 2, 2)
    mixed = noised(frames, torch.tensor([[0.0, 0.25, 1.0]]), noise)
    assert mixed[0, :, 0, 0, 0].tolist() == [1.0, 0.75, 0.0]


class Recorder:
    """A network that is always right, and remembers what it was shown."""

    def __init__(self, truth):
        self.truth, self.calls = truth, []

    def __call__(self, frames, levels, text):
        self.calls.append((frames.clone(), levels.clone()))
        return self.truth


@pytest.mark.parametrize('have', [1, 3, 4])
def test_sampling_keeps_the_context_clean_and_walks_the_future_from_noise(have):
    truth = torch.full((1, 4, 3, 8, 8), 0.3)
    network = Recorder(truth)
    context = torch.zeros(1, have, 3, 8, 8)
    out = sample(
        network,
        context,
        torch.zeros(1, 384),
        slots=4,
        look_ahead=4,
        steps=3,
        generator=torch.Generator().manual_seed(1),
    )
    torch.testing.assert_close(out, truth)
    assert len(network.calls) == 3
    for frames, at in network.calls:
        assert (at[:, : 4 - have] == 1).all() and (at[:, 4 - have : 4] == 0).all()
        assert (frames[:, 4 - have : 4] == 0).all()
    walked = [float(at[0, 4]) for _, at in network.calls]
    assert walked == pytest.approx([1, 2 / 3, 1 / 3])
    # Missing history is noise, never a copy of what is there.
    if have < 4:
        assert network.calls[0][0][:, : 4 - have].std() > 0.5


def test_sampling_is_reproducible_by_its_seed():
    def blurry(frames, at, text):
        return frames[:, 4:] * 0.5

    def draw(seed):
        return sample(
            blurry,
            torch.zeros(1, 1, 3, 8, 8),
            torch.zeros(1, 384),
            slots=4,
            look_ahead=4,
            steps=2,
            generator=torch.Generator().manual_seed(seed),
        )

    torch.testing.assert_close(draw(3), draw(3))
    assert (draw(3) != draw(4)).any()
