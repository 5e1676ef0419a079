"""Step caches on a tiny model: they skip, they are counted, and a silent one is refused."""

import pytest
import torch

from vera_planner.wan.caches import CacheError, CacheSettings, StepCache
from vera_planner.wan.layouts import LAYOUTS
from vera_planner.wan.model import WanDenoiser, build_transformer
from vera_planner.wan.sampler import sample_future

TINY = LAYOUTS['tiny']
STEPS = 12


@pytest.fixture
def denoiser():
    torch.set_num_threads(1)
    return WanDenoiser(build_transformer(TINY, seed=1), TINY)


def plan(denoiser, seed=5, steps=STEPS, **settings):
    g = torch.Generator().manual_seed(seed)
    context, text, negative = (
        torch.randn(1, 16, 1, 4, 4, generator=g),
        torch.randn(1, 5, 384, generator=g),
        torch.randn(1, 5, 384, generator=g),
    )
    return sample_future(
        denoiser, context, 1, text, negative, steps=steps, generator=g, **settings
    )


BOLD = [
    CacheSettings('first_block', threshold=0.5),
    CacheSettings('mag', threshold=0.5),
    CacheSettings('taylor'),
]


@pytest.mark.parametrize('settings', BOLD, ids=lambda s: s.kind)
@pytest.mark.parametrize('batched', [True, False])
def test_a_cache_skips_is_counted_and_stays_near_the_full_plan(denoiser, settings, batched):
    full = plan(denoiser)
    cache = StepCache(denoiser.transformer, settings)
    plan(denoiser, hooks=cache, batched=batched)  # mag measures its ratios here
    # Count what is really computed, below diffusers' hooks and our own counter.
    passes = []
    last = denoiser.transformer.blocks[-1].ffn.net[-1]
    handle = last.register_forward_hook(lambda *_: passes.append(1))
    near = plan(denoiser, hooks=cache, batched=batched)
    handle.remove()
    forwards = STEPS * (1 if batched else 3)
    assert len(passes) < forwards and 0 < cache.saved < 1
    if settings.kind != 'mag':  # its counter has a second hook on the first block
        assert cache.saved == pytest.approx(1 - len(passes) / forwards)
    assert 0 < (near - full).norm() < 0.5 * full.norm()
    cache.close()
    assert torch.equal(plan(denoiser), full)  # nothing is left behind


@pytest.mark.parametrize('settings', BOLD, ids=lambda s: s.kind)
def test_plans_do_not_remember_each_other(denoiser, settings):
    cache = StepCache(denoiser.transformer, settings)
    plan(denoiser, hooks=cache, seed=1)
    first = plan(denoiser, hooks=cache, seed=2)
    plan(denoiser, hooks=cache, seed=3)
    assert torch.equal(plan(denoiser, hooks=cache, seed=2), first)


def test_a_cache_that_skips_nothing_is_refused(denoiser):
    cache = StepCache(denoiser.transformer, CacheSettings('first_block', threshold=1e-9))
    with pytest.raises(CacheError, match='skipped nothing in 12 steps'):
        plan(denoiser, hooks=cache)


def test_a_cache_that_hooks_nothing_is_refused_at_once(denoiser, monkeypatch):
    monkeypatch.setattr('vera_planner.wan.caches.TAYLOR_MODULES', ('^blocks.*attn',))
    with pytest.raises(CacheError, match='hooks nothing in WanTransformer3DModel'):
        StepCache(denoiser.transformer, CacheSettings('taylor'))
    plan(denoiser, steps=1)  # the model works on


def test_mag_measures_the_growth_of_its_own_residuals(denoiser, capsys):
    cache = StepCache(denoiser.transformer, CacheSettings('mag', threshold=0.5))
    plan(denoiser, hooks=cache, batched=False)
    assert len(cache.ratios) == STEPS and cache.ratios[0] == 1.0 and cache.saved == 0
    assert all(0.2 < ratio < 5 for ratio in cache.ratios)
    assert capsys.readouterr().out == ''  # diffusers would print them
    cache.close()
    settings = CacheSettings('mag', threshold=0.5, ratios=tuple(cache.ratios))
    again = StepCache(denoiser.transformer, settings)
    plan(denoiser, hooks=again)
    assert again.saved > 0  # with ratios given, from the first plan on


def test_a_warm_start_uses_the_ratios_of_its_own_steps(denoiser):
    ratios = tuple([1.0] * 6 + [3.0] * 6)
    settings = CacheSettings('mag', threshold=0.1, ratios=ratios, retention=0.0)
    cache = StepCache(denoiser.transformer, settings)
    plan(denoiser, hooks=cache)
    assert cache.saved > 0
    plan(denoiser, hooks=cache, warm_start=torch.zeros(1, 16, 1, 4, 4), strength=0.5)
    assert cache.saved == 0


@pytest.mark.parametrize(
    'settings, message',
    [({'kind': 'tea'}, 'first_block'), ({'kind': 'mag', 'threshold': 0}, 'threshold'),
     ({'kind': 'taylor', 'interval': 1}, 'interval'), ({'kind': 'mag', 'retention': 1}, 'reten')],
)  # fmt: skip
def test_settings_out_of_range_are_refused_by_name(settings, message):
    with pytest.raises(CacheError, match=message):
        CacheSettings(**settings)
