"""The codec of the views and the sampling behind a context, on tiny random models."""

import numpy as np
import pytest
import torch

from vera_core.contract import load_contract
from vera_planner.wan.latents import LatentCodec, LatentError, usable_frames, view_boxes
from vera_planner.wan.layouts import LAYOUTS
from vera_planner.wan.model import WanDenoiser, build_transformer, build_vae
from vera_planner.wan.sampler import (
    SamplingError,
    first_step,
    last_level,
    make_scheduler,
    sample_future,
)

TINY = LAYOUTS['tiny']


@pytest.fixture(scope='module')
def vae():
    torch.set_num_threads(1)
    return build_vae(TINY, seed=0)


@pytest.fixture(scope='module')
def denoiser():
    torch.set_num_threads(1)
    return WanDenoiser(build_transformer(TINY, seed=1), TINY)


@pytest.fixture
def case():
    g = torch.Generator().manual_seed(3)
    return {
        'context': torch.randn(1, 16, 2, 4, 6, generator=g),
        'text': torch.randn(1, 5, 384, generator=g),
        'negative': torch.randn(1, 7, 384, generator=g),
    }


def frames(count, height=32, width=32, seed=0):
    """Smooth frames, so that neighbouring pixels matter."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 255, (count, height // 8, width // 8, 3), np.uint8)
    return coarse.repeat(8, axis=1).repeat(8, axis=2)


def run(denoiser, case, seed=5, **settings):
    settings = {'steps': 4, 'look_ahead': 2, **settings}
    generator = torch.Generator().manual_seed(seed)
    look_ahead = settings.pop('look_ahead')
    return sample_future(
        denoiser, case['context'], look_ahead, case['text'], case['negative'],
        generator=generator, **settings,
    )  # fmt: skip


# Codec ---------------------------------------------------------------------------------------


def test_decoding_a_prefix_gives_exactly_the_frames_of_the_full_decode(vae):
    codec = LatentCodec(vae)
    latents = torch.randn(16, 5, 4, 4, generator=torch.Generator().manual_seed(0))
    full = codec.decode(latents, keep=5)
    assert full.shape == (17, 32, 32, 3) and full.std() > 1
    for length in range(1, 6):
        assert (codec.decode(latents[:, :length], keep=length) == full[: 4 * length - 3]).all()
    # Context of two latents, one committed of the three imagined.
    committed = codec.decode(latents[:, :3], keep=1)
    assert committed.shape[0] == 4 and (committed == full[5:9]).all()
    # From the middle it is another thing: why the whole context is decoded.
    assert (codec.decode(latents[:, 1:3], keep=1) != full[5:9]).any()


def test_each_view_is_encoded_as_if_it_were_alone(vae):
    canvas = frames(5, width=96)
    boxes = ((0, 32), (32, 32), (64, 32))
    tiled = LatentCodec(vae, boxes).encode(canvas)
    assert tiled.shape == (16, 2, 4, 12) and tiled.dtype == torch.float32
    alone = LatentCodec(vae)
    for i, (left, width) in enumerate(boxes):
        part = alone.encode(canvas[:, :, left : left + width])
        assert torch.allclose(tiled[..., 4 * i : 4 * i + 4], part, atol=1e-5)
    whole = alone.encode(canvas)
    assert not torch.allclose(whole, tiled, atol=1e-3)  # views would have bled into each other
    decoded = LatentCodec(vae, boxes).decode(tiled, keep=2)
    for i, (left, width) in enumerate(boxes):
        part = alone.decode(tiled[..., 4 * i : 4 * i + 4], keep=2)
        assert np.abs(decoded[:, :, left : left + width].astype(int) - part).max() <= 1


def test_views_of_several_widths_keep_their_places(vae):
    canvas = frames(1, width=96)
    boxes = ((0, 32), (32, 48), (80, 16))
    tiled = LatentCodec(vae, boxes).encode(canvas)
    part = LatentCodec(vae).encode(canvas[:, :, 32:80])
    assert torch.allclose(tiled[..., 4:10], part, atol=1e-5)


def test_latents_are_normalised_by_the_published_statistics(vae):
    picture = frames(1)
    codec = LatentCodec(vae)
    signal = torch.from_numpy(picture).permute(3, 0, 1, 2)[None].float() / 127.5 - 1
    with torch.inference_mode():
        raw = vae.encode(signal).latent_dist.mode()[0]
    mean = torch.tensor(vae.config.latents_mean).view(-1, 1, 1, 1)
    std = torch.tensor(vae.config.latents_std).view(-1, 1, 1, 1)
    assert torch.allclose(codec.encode(picture), (raw - mean) / std, atol=1e-6)


def test_the_views_of_a_contract_and_its_black_padding_become_boxes():
    contract = load_contract('finger', {'canvas': {'height': 64, 'width': 208}})
    assert view_boxes(contract) == ((0, 64), (64, 64), (128, 64), (192, 16))
    assert view_boxes(load_contract('finger')) == ((0, 64),)


@pytest.mark.parametrize(
    'count, most, used', [(1, 6, 1), (4, 6, 1), (5, 6, 5), (8, 6, 5), (30, 6, 21), (30, 1, 1)]
)
def test_a_context_is_1_plus_4k_frames_and_never_filled_up(count, most, used):
    assert usable_frames(count, 4, most) == used


@pytest.mark.parametrize('count', [0, 2, 4])
def test_frames_that_do_not_fill_latents_are_refused(vae, count):
    with pytest.raises(LatentError, match='do not fill latents'):
        LatentCodec(vae).encode(np.zeros((count, 32, 32, 3), np.uint8))


@pytest.mark.parametrize(
    'boxes, message',
    [(((0, 20), (20, 12)), 'does not divide'), (((0, 16),), 'end at column 16'),
     (((0, 16), (8, 24)), 'gaps or overlap')],
)  # fmt: skip
def test_boxes_that_do_not_fit_the_canvas_are_refused(vae, boxes, message):
    with pytest.raises(LatentError, match=message):
        LatentCodec(vae, boxes).encode(frames(1))


# Sampler -------------------------------------------------------------------------------------


def test_three_branches_in_one_batch_equal_three_forward_passes(denoiser, case):
    together = run(denoiser, case)
    apart = run(denoiser, case, batched=False)
    assert together.shape == (1, 16, 2, 4, 6)
    assert (together - apart).abs().max() < 1e-5 * together.abs().max()


def test_the_sum_of_guidances_is_the_one_written_out(denoiser, case):
    """One step by hand, from the three velocities."""
    got = run(denoiser, case, steps=1, text_guidance=2.0, history_guidance=0.5)
    g = torch.Generator().manual_seed(5)
    future = torch.randn(1, 16, 2, 4, 6, generator=g)
    no_past = torch.randn(1, 16, 2, 4, 6, generator=g)
    t = 0.999
    with torch.inference_mode():
        past = torch.tensor([[t, t, t, t]])  # with one step the last level is the first
        seen = torch.cat([case['context'], future], 2)
        v_c = denoiser(seen, past, case['text'])[:, :, 2:]
        v_n = denoiser(seen, past, case['negative'])[:, :, 2:]
        v_h = denoiser(torch.cat([no_past, future], 2), past, case['text'])[:, :, 2:]
    v = 3.5 * v_c - 2.0 * v_n - 0.5 * v_h
    sigma = float(make_scheduler(1, 3.0).sigmas[0])
    assert torch.allclose(got, future - sigma * v, atol=1e-4)


def test_the_grid_is_that_of_wans_own_solver():
    scheduler = make_scheduler(40, 3.0)
    assert int(scheduler.timesteps[0]) == 999 and int(scheduler.timesteps[-1]) == 71
    assert int(make_scheduler(10, 3.0).timesteps[-1]) == 249
    assert last_level() == pytest.approx(0.071)


def test_the_context_is_said_to_be_at_the_last_level_and_is_never_stepped(case):
    seen = []

    def spy(latents, levels, text, image=None):
        seen.append((latents.clone(), levels.clone()))
        return torch.ones_like(latents)

    run(spy, case, steps=3, batched=False)
    context, last = case['context'], last_level(3)
    for i, (latents, levels) in enumerate(seen):
        history = i % 3 == 2
        assert torch.equal(latents[:, :, :2], context) != history
        expected = 0.999 if history else last
        assert torch.allclose(levels[:, :2], torch.full((1, 2), expected))
        assert (levels[:, 2:] == levels[0, 2]).all()
    run(spy, case, steps=1, context_level=torch.tensor([0.1, 0.2]), history_guidance=0)
    assert torch.allclose(seen[-1][1][:, :2], torch.tensor([[0.1, 0.2]]))


def test_a_guidance_of_zero_saves_its_forward_pass(case):
    batches = []

    def spy(latents, levels, text, image=None):
        batches.append(len(latents))
        return torch.zeros_like(latents)

    run(spy, case, steps=1)
    run(spy, case, steps=1, history_guidance=0)
    run(spy, case, steps=1, history_guidance=0, text_guidance=0)
    assert batches == [3, 2, 1]


def test_a_seed_is_a_plan_and_another_seed_another(denoiser, case):
    assert torch.equal(run(denoiser, case), run(denoiser, case))
    assert not torch.allclose(run(denoiser, case), run(denoiser, case, seed=6), atol=1e-3)


@pytest.mark.parametrize('latents', [1, 2, 5])
def test_any_length_of_context_will_do(denoiser, case, latents):
    case['context'] = torch.randn(1, 16, latents, 4, 6)
    assert run(denoiser, case, steps=1).isfinite().all()


def test_a_warm_start_takes_its_share_of_the_steps_and_stays_near_its_guess(denoiser, case):
    taken = []
    guess = torch.randn(1, 16, 2, 4, 6, generator=torch.Generator().manual_seed(9))
    settings = {'steps': 20, 'text_guidance': 0.0, 'history_guidance': 0.0}
    near = run(
        denoiser, case, warm_start=guess, strength=0.1, on_step=taken.append, **settings
    )
    assert taken == [18, 19] and first_step(20, 0.1) == 18
    far = run(denoiser, case, warm_start=guess, strength=1.0, **settings)
    assert (near - guess).norm() < 0.7 * (far - guess).norm()
    # At full strength the guess hardly counts: sigma is 0.9997 at the first step.
    cold = run(denoiser, case, **settings)
    assert (far - cold).norm() < 0.05 * cold.norm()


@pytest.mark.parametrize(
    'settings, message',
    [({'steps': 0}, 'steps'), ({'shift': 0.0}, 'shift'), ({'look_ahead': 0}, 'look-ahead'),
     ({'warm_start': torch.zeros(1, 16, 3, 4, 6)}, 'warm start is'),
     ({'warm_start': torch.zeros(1, 16, 2, 4, 6), 'strength': 0.0}, 'strength')],
)  # fmt: skip
def test_settings_out_of_range_are_refused_by_name(denoiser, case, settings, message):
    with pytest.raises(SamplingError, match=message):
        run(denoiser, case, **settings)


def test_text_guidance_without_negative_words_is_refused(denoiser, case):
    with pytest.raises(SamplingError, match='negative'):
        sample_future(denoiser, case['context'], 1, case['text'], steps=1)
