"""The Wan planner behind its seam: contexts, pending frames, warm starts, options, bad input."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from vera_core.checkpoint import CheckpointError
from vera_core.contract import load_contract
from vera_core.seams import VideoPlanner
from vera_planner.compact import PlannerError
from vera_planner.planning import PlanRequest, imagine, warm_up
from vera_planner.registry import make_planner
from vera_planner.wan.checkpoints import write_planner
from vera_planner.wan.latents import LatentCodec
from vera_planner.wan.layouts import LAYOUTS
from vera_planner.wan.model import WanDenoiser, build_transformer, build_vae
from vera_planner.wan.planner import SamplingOptions, WanPlanner, WarmStart, read_options
from vera_planner.wan.sampler import SamplingError, last_level
from vera_planner.wan.speed import SpeedError

TINY = LAYOUTS['tiny']
QUICK = {'steps': 2, 'context': 3}


class Words:
    """Tokens that differ from prompt to prompt."""

    def __call__(self, prompt):
        g = torch.Generator().manual_seed(len(prompt))
        return torch.randn(4, TINY.text_dim, generator=g)


@pytest.fixture(scope='module')
def models():
    torch.set_num_threads(1)
    return WanDenoiser(build_transformer(TINY, seed=1), TINY), build_vae(TINY, seed=0)


@pytest.fixture(scope='module')
def contract():
    return load_contract('finger', {'canvas': {'height': 32, 'width': 32}})


def planner_of(models, contract, denoiser=None, **sampling):
    return WanPlanner(
        denoiser or models[0], LatentCodec(models[1]), Words(), contract,
        SamplingOptions(**{**QUICK, **sampling}),
    )  # fmt: skip


def canvases(count, seed=0):
    return np.random.default_rng(seed).integers(0, 255, (count, 32, 32, 3), np.uint8)


class Spy:
    """A denoiser that remembers what it is given."""

    def __init__(self, denoiser):
        self.denoiser, self.calls = denoiser, []

    def __call__(self, latents, levels, text, image=None):
        self.calls.append((latents, levels, text))
        return self.denoiser(latents, levels, text, image)


def test_it_is_a_video_planner_that_fits_the_contract(models, contract):
    planner = planner_of(models, contract)
    assert isinstance(planner, VideoPlanner)
    assert warm_up(planner, contract) > 0
    request = PlanRequest(context=canvases(1), anchor=0, prompt='touch the red disc')
    plan = imagine(planner, request, contract)
    assert plan.frames.shape == (4, 32, 32, 3) and plan.frames.dtype == np.uint8
    assert plan.latency > 0
    assert set(planner.timings) == {'text', 'encode', 'denoise', 'decode', 'steps'}
    assert len(planner.timings['steps']) == 2


@pytest.mark.parametrize('have, latents', [(1, 1), (4, 1), (5, 2), (8, 2), (9, 3), (40, 3)])
def test_the_newest_frames_that_fill_latents_are_the_context(models, contract, have, latents):
    spy = Spy(models[0])
    planner = planner_of(models, contract, spy, steps=1)
    context = canvases(have)
    planner.plan(context, 'touch the red disc')
    seen = spy.calls[0][0][0]
    assert seen.shape[1] == latents + planner.look_ahead
    expected = planner.codec.encode(context[-(4 * latents - 3) :])
    assert torch.equal(seen[:, :latents], expected)


def test_seeds_and_words_make_the_plan(models, contract):
    planner = planner_of(models, contract)
    context = canvases(5)
    first = planner.plan(context, 'touch the red disc', seed=3).frames
    assert (planner.plan(context, 'touch the red disc', seed=3).frames == first).all()
    assert (planner.plan(context, 'touch the red disc', seed=4).frames != first).any()
    assert (planner.plan(context, 'the blue one', seed=3).frames != first).any()


def test_only_the_committed_latents_are_decoded_and_they_are_those_of_all(models, contract):
    long = load_contract(
        'finger',
        {'canvas': {'height': 32, 'width': 32}, 'video': {'look_ahead': 12, 'committed': 4}},
    )
    context = canvases(5)
    some = planner_of(models, long).plan(context, 'go', seed=1)
    every = planner_of(models, long, decode='all').plan(context, 'go', seed=1)
    assert len(some.frames) == 4 and len(every.frames) == 12
    assert (every.frames[:4] == some.frames).all()


def test_pending_frames_follow_the_context_slightly_noised(models, contract):
    spy = Spy(models[0])
    planner = planner_of(models, contract, spy, steps=1, pending_level=0.3)
    context, pending = canvases(5, seed=1), canvases(4, seed=2)
    plan = planner.plan(context, 'go', pending=pending, seed=5)
    assert plan.frames.shape == (4, 32, 32, 3)
    latents, levels, _ = spy.calls[0]
    clean = planner.codec.encode(np.concatenate([context, pending]))
    assert latents.shape[2] == 3 + planner.look_ahead
    assert torch.equal(latents[0, :, :2], clean[:, :2])
    noise = (latents[0, :, 2] - 0.7 * clean[:, 2]) / 0.3
    assert abs(float(noise.mean())) < 0.3 and 0.7 < float(noise.std()) < 1.3
    assert levels[0, :2].tolist() == pytest.approx([last_level(1, 3.0)] * 2)
    assert levels[0, 2] == pytest.approx(max(0.3, last_level(1, 3.0)))
    with pytest.raises(PlannerError, match='pending has shape'):
        planner.plan(context, 'go', pending=canvases(4)[:, :16])


def test_more_pending_frames_than_the_context_holds_are_cut(models, contract):
    spy = Spy(models[0])
    planner = planner_of(models, contract, spy, steps=1)
    planner.plan(canvases(1), 'go', pending=canvases(20))
    assert spy.calls[0][0].shape[2] == 3 + planner.look_ahead


def test_a_warm_start_saves_steps_and_starts_from_the_rest_of_the_last_plan(models, contract):
    long = load_contract(
        'finger', {'canvas': {'height': 32, 'width': 32}, 'video': {'look_ahead': 12}}
    )
    spy = Spy(models[0])
    planner = planner_of(models, long, spy, steps=10, strength=0.3)
    cold = planner.plan(canvases(5), 'go')
    assert len(spy.calls) == 10 and isinstance(cold.warm_start, WarmStart)
    assert cold.warm_start.latents.shape == (16, 3, 4, 4) and cold.warm_start.executed == 4
    spy.calls.clear()
    planner.plan(canvases(5), 'go', warm_start=cold.warm_start)
    assert len(spy.calls) == 3
    latents = cold.warm_start.latents
    shifted = cold.warm_start.shifted(4)
    assert torch.equal(shifted[:, 0], latents[:, 1])
    assert torch.equal(shifted[:, 1], latents[:, 2]) and torch.equal(shifted[:, 2], latents[:, 2])
    assert torch.equal(replace(cold.warm_start, executed=8).shifted(4)[:, 0], latents[:, 2])
    assert replace(cold.warm_start, executed=12).shifted(4) is None
    every = planner_of(models, long, decode='all').plan(canvases(5), 'go').warm_start
    assert every.behind(every.frames[2:8]).executed == 8
    assert every.behind(canvases(3)).executed == every.behind(None).executed == 4
    spy.calls.clear()
    for useless in (None, 'of another planner', replace(cold.warm_start, executed=12)):
        planner.plan(canvases(5), 'go', warm_start=useless)
    assert len(spy.calls) == 30


@pytest.mark.parametrize('shape', [(0, 32, 32, 3), (4, 64, 32, 3), (32, 32, 3), (4, 32, 32, 1)])
def test_a_context_of_another_shape_is_refused_by_name(models, contract, shape):
    with pytest.raises(PlannerError, match='context has shape'):
        planner_of(models, contract).plan(np.zeros(shape, np.uint8), 'go')


def test_a_look_ahead_shorter_than_what_is_committed_is_refused(models):
    contract = load_contract(
        'finger', {'canvas': {'height': 32, 'width': 32}, 'video': {'look_ahead': 8,
                                                                    'committed': 8}},
    )  # fmt: skip
    with pytest.raises(PlannerError, match='commits 8'):
        planner_of(models, contract, look_ahead=1)


# Checkpoints and options ---------------------------------------------------------------------


@pytest.fixture(scope='module')
def folder(models, tmp_path_factory):
    contract = load_contract('finger')
    folder = tmp_path_factory.mktemp('planners') / 'tiny'
    write_planner(
        folder, models[0], models[1], contract=contract.visual_fields(),
        sampling={'steps': 2, 'context': 2}, licence='Apache-2.0',
    )  # fmt: skip
    return folder


def test_a_folder_makes_the_planner_and_its_own_defaults(folder):
    contract = load_contract('finger')
    planner = make_planner('wan', contract, checkpoint=str(folder), threads=1)
    assert planner.planner_id == 'wan' and len(planner.checkpoint_hash) == 16
    assert planner.sampling.steps == 2 and planner.sampling.shift == 3.0
    plan = planner.plan(np.zeros((1, 64, 64, 3), np.uint8), 'touch the red disc')
    assert plan.frames.shape == (4, 64, 64, 3)
    assert make_planner('wan', contract, checkpoint=str(folder), steps=3).sampling.steps == 3


def test_a_file_of_options_goes_over_the_checkpoints_defaults(folder):
    file = folder.parent / 'options.yaml'
    file.write_text(
        'checkpoint: ./tiny\nsampling: {steps: 5, text_guidance: 1.5}\n'
        'speed: {batched: true, cache: {kind: taylor, interval: 2}}\n'
    )
    planner = make_planner('wan', load_contract('finger'), checkpoint=str(file), threads=1)
    assert (planner.sampling.steps, planner.sampling.context) == (5, 2)
    assert planner.sampling.text_guidance == 1.5
    planner.plan(np.zeros((1, 64, 64, 3), np.uint8), 'touch the red disc')
    assert 0 < planner.hooks.saved < 1


def test_a_planner_of_another_canvas_is_refused_by_what_differs(folder):
    other = load_contract('finger', {'canvas': {'height': 128, 'width': 128}})
    with pytest.raises(CheckpointError, match=r'canvas\.height: checkpoint 64, contract 128'):
        make_planner('wan', other, checkpoint=str(folder))


@pytest.mark.parametrize(
    'text, error, message',
    [
        ('speed: {}', ValueError, 'checkpoint: is missing'),
        ('checkpoint: a\nsped: {}', ValueError, "did you mean 'speed'"),
        ('checkpoint: a\nsampling: {step: 4}', ValueError, "sampling.step.*did you mean 'steps'"),
        ('checkpoint: a\nsampling: {steps: 0}', SamplingError, '0 sampling steps'),
        ('checkpoint: a\nsampling: {strength: 2.0}', SamplingError, 'strength'),
        ('checkpoint: a\nsampling: {decode: none}', SamplingError, 'committed'),
        ('checkpoint: a\nspeed: {quantise: int3}', SpeedError, 'quantise'),
        ('checkpoint: a\nspeed:\n  cache: {kind: tea}', ValueError, 'first_block'),
        ('checkpoint: a\ndtype: float8', SamplingError, 'dtype'),
        ('checkpoint: [a]', ValueError, 'checkpoint'),
    ],
)
def test_options_that_cannot_be_are_refused_by_name(tmp_path, text, error, message):
    file = tmp_path / 'options.yaml'
    file.write_text(text + '\n')
    with pytest.raises(error, match=message):
        read_options(str(file))


def test_no_checkpoint_and_a_missing_one_say_what_to_do():
    contract = load_contract('finger')
    with pytest.raises(ValueError, match='needs a checkpoint'):
        make_planner('wan', contract)
    with pytest.raises(CheckpointError, match='vera train video'):
        make_planner('wan', contract, checkpoint='no_such_planner')
