"""Processes that share the forward passes of a plan: the same plan as one process makes."""

import functools
import os
import signal

import pytest
import torch

from vera_planner.wan.caches import CacheSettings
from vera_planner.wan.layouts import LAYOUTS
from vera_planner.wan.model import WanDenoiser, build_transformer
from vera_planner.wan.parallel import Workers
from vera_planner.wan.sampler import sample_future
from vera_planner.wan.speed import SpeedError, SpeedOptions

TINY = LAYOUTS['tiny']


def make(device, fail=''):
    if fail:
        raise RuntimeError(fail)
    return WanDenoiser(build_transformer(TINY, device, seed=1), TINY)


def plan(denoiser, steps=3, seed=5, **settings):
    g = torch.Generator().manual_seed(seed)
    context, text, negative = (
        torch.randn(1, 16, 1, 4, 4, generator=g),
        torch.randn(1, 5, 384, generator=g),
        torch.randn(1, 5, 384, generator=g),
    )
    return sample_future(
        denoiser, context, 1, text, negative, steps=steps, generator=g, **settings
    )


@pytest.fixture
def alone():
    torch.set_num_threads(1)
    return make('cpu')


def group(count, alone, hooks=None, **options):
    workers = Workers(make, SpeedOptions(processes=count, **options), 'cpu')
    return workers, workers.join(alone, hooks)


def test_three_processes_make_the_plan_of_one(alone):
    full = plan(alone)
    workers, shared = group(3, alone)
    try:
        assert (plan(shared, hooks=workers) - full).abs().max() < 1e-5 * full.abs().max()
        # Of two branches the third process has none; of other words, they are sent anew.
        other = plan(alone, seed=6, history_guidance=0)
        found = plan(shared, seed=6, history_guidance=0, hooks=workers)
        assert (found - other).abs().max() < 1e-5 * other.abs().max()
    finally:
        workers.close()


@pytest.mark.slow
def test_two_processes_with_step_caches_and_a_death(alone):
    """What each process skips, it decides on its own branches; one that dies is named."""
    from vera_planner.wan.speed import accelerate

    settings = CacheSettings('first_block', threshold=0.5)
    full = plan(alone, steps=8)
    cache = accelerate(alone.transformer, SpeedOptions(cache=settings))
    workers, shared = group(2, alone, cache, cache=settings)
    try:
        near = plan(shared, steps=8, hooks=workers)
        assert 0 < cache.saved < 1
        assert 0 < (near - full).norm() < 0.5 * full.norm()
        assert torch.equal(plan(shared, steps=8, hooks=workers), near)
        os.kill(workers._processes[0].pid, signal.SIGKILL)
        workers._processes[0].join(10)
        with pytest.raises(SpeedError, match='process'):
            plan(shared, steps=8, hooks=workers)
    finally:
        workers.close()


def test_a_process_that_cannot_start_says_why(alone):
    workers = Workers(
        functools.partial(make, fail='no such weights'), SpeedOptions(processes=2), 'cpu'
    )
    with pytest.raises(SpeedError, match='process 1 cannot start: RuntimeError: no such weights'):
        workers.join(alone)


def test_tokens_are_shared_between_gpus_only():
    with pytest.raises(SpeedError, match='there are none'):
        Workers(make, SpeedOptions(processes=2, parallel='context'), 'cpu')


def make_for_tokens(device):
    # diffusers counts accelerators to choose one, which fails where there are none.
    torch.accelerator.device_count = lambda: 1
    return make(device)


@pytest.mark.slow
def test_two_processes_share_the_tokens(alone, monkeypatch):
    monkeypatch.setattr('vera_planner.wan.parallel.TOKEN_DEVICES', ('cpu',))
    monkeypatch.setattr(torch.accelerator, 'device_count', lambda: 1)
    full, seen = plan(alone), []
    workers = Workers(make_for_tokens, SpeedOptions(processes=2, parallel='context'), 'cpu')
    shared = workers.join(alone)
    alone.transformer.blocks[1].register_forward_pre_hook(lambda _, a: seen.append(a[0].shape))
    try:
        found = plan(shared, hooks=workers)
        assert seen[0] == (3, 4, TINY.dim)  # of the three branches, half of the 8 tokens each
        assert (found - full).abs().max() < 1e-5 * full.abs().max()
    finally:
        workers.close()


@pytest.mark.skipif(torch.cuda.is_available(), reason='there may be enough GPUs')
def test_more_processes_than_gpus_are_refused():
    with pytest.raises(SpeedError, match='has 0 GPUs'):
        Workers(make, SpeedOptions(processes=2), 'cuda')
