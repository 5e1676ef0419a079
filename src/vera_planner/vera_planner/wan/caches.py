"""Step caches: sampling steps that reuse what an earlier step computed.

Three of diffusers' caches, each with a counter, since some of them can do nothing without saying
so: TaylorSeer with its default names of modules hooks none of Wan's, and a threshold can be so
strict that no step is ever skipped. A cache that saves nothing is refused, not reported as speed.

How much a cache may skip must be measured on plans: see `vera bench planner`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

KINDS = ('first_block', 'mag', 'taylor')
# TaylorSeer predicts what these parts of a block add, instead of computing it.
TAYLOR_MODULES = (r'blocks\.\d+\.attn1', r'blocks\.\d+\.attn2', r'blocks\.\d+\.ffn')
CHECKED_STEPS = 5  # a plan of fewer steps tells nothing about whether a cache works


class CacheError(ValueError):
    """A cache that cannot work on this model, or that saves nothing; the message says which."""


@dataclass(frozen=True)
class CacheSettings:
    """What is reused, and how boldly.

    Attributes:
        kind: 'first_block' (the rest is skipped while the first block changes little), 'mag'
            (a step is skipped while the measured growth of the residual promises a small error;
            arXiv 2506.09045), 'taylor' (parts of blocks are extrapolated; arXiv 2503.06923).
        threshold: largest relative change (first_block) or accumulated error (mag).
        max_skip: mag: steps skipped in a row.
        retention: mag: share of the first steps that are always computed.
        ratios: mag: growth of the residual at each step, of this checkpoint; measured during the
            first plan if empty.
        interval: taylor: steps from one computation to the next.
        warm_up: taylor: first steps that are always computed.
        order: taylor: of the series.
    """

    kind: str
    threshold: float = 0.06
    max_skip: int = 3
    retention: float = 0.2
    ratios: tuple[float, ...] = ()
    interval: int = 3
    warm_up: int = 3
    order: int = 1

    def __post_init__(self) -> None:
        """Refuse values out of range, by name."""
        if self.kind not in KINDS:
            raise CacheError(f'unknown cache {self.kind!r}; known: {", ".join(KINDS)}')
        if not self.threshold > 0:
            raise CacheError(f'cache threshold {self.threshold}; it must be positive')
        if not 0 <= self.retention < 1:
            raise CacheError(f'cache retention {self.retention}; it lies in 0..1')
        for name, low in (('max_skip', 1), ('interval', 2), ('warm_up', 1), ('order', 0)):
            if getattr(self, name) < low:
                raise CacheError(f'cache {name} {getattr(self, name)}; at least {low}')


class StepCache:
    """A cache on a transformer of diffusers, with its counter; `SamplingHooks` of the sampler.

    Args:
        transformer: its blocks are hooked until `close`.
        settings: which cache.

    Attributes:
        computed: calls of hooked modules that were computed in the last plan.
        possible: calls there would have been without a cache.

    Raises:
        CacheError: the cache finds nothing to hook in this model.
    """

    def __init__(self, transformer: Any, settings: CacheSettings) -> None:
        self.settings = settings
        self.ratios = list(settings.ratios)
        self.computed = self.possible = 0
        self._transformer = transformer
        self._calibrating = settings.kind == 'mag' and not self.ratios
        self._checked = False
        self._first = self._steps = 0
        self._config = self._make_config()
        try:
            transformer.enable_cache(self._config)
        except (IndexError, ValueError, KeyError) as error:
            raise CacheError(
                f'cache {settings.kind!r} does not fit {type(transformer).__name__} with '
                f'{len(transformer.blocks)} blocks: {error}'
            ) from error
        self._hooks = self._find_hooks()
        if not self._hooks:
            transformer.disable_cache()
            raise CacheError(
                f'cache {settings.kind!r} hooks nothing in {type(transformer).__name__}: it would '
                'do nothing'
            )
        self._originals = [hook.fn_ref.original_forward for hook in self._hooks]
        for hook in self._hooks:
            hook.fn_ref.original_forward = self._counted(hook.fn_ref.original_forward)

    @property
    def saved(self) -> float:
        """Share of the hooked computation that the last plan went without, 0..1."""
        return 1 - self.computed / self.possible if self.possible else 0.0

    def begin(self, first: int, steps: int) -> None:
        """A plan of the steps `first` .. `steps` - 1 starts: nothing of the last one is reused."""
        self._transformer._reset_stateful_cache()
        self._first, self._steps = first, steps
        self.computed = self.possible = 0
        if self.settings.kind != 'mag':
            return
        # One more than there are: at the end diffusers would print the ratios and forget them.
        self._config.num_inference_steps = steps - first + 1
        self._config.calibrate = self._calibrating
        if not self._calibrating:
            from diffusers.hooks.mag_cache import nearest_interp

            fitted = nearest_interp(torch.tensor(self.ratios), steps)
            self._config.mag_ratios = fitted[first:]

    @contextmanager
    def branch(self, name: str) -> Iterator[None]:
        """Around one forward pass; each branch has a memory of its own."""
        self.possible += len(self._hooks)
        with self._transformer.cache_context(name):
            yield

    def end(self) -> None:
        """The plan is done.

        Raises:
            CacheError: the first plan of enough steps was computed as if there were no cache.
        """
        if self.finish() or self._checked or self._steps - self._first < CHECKED_STEPS:
            return
        self._checked = True
        if self.computed >= self.possible:
            raise CacheError(
                f'cache {self.settings.kind!r} skipped nothing in {self._steps - self._first} '
                'steps; raise its threshold (measure with `vera bench planner`) or leave it out'
            )

    def finish(self) -> bool:
        """The plan is done, without the check; True if it was one to measure the ratios."""
        measured = self._calibrating
        if measured and self._first == 0:
            self._harvest()
        return measured

    def close(self) -> None:
        """Take the hooks out again."""
        for hook, original in zip(self._hooks, self._originals, strict=True):
            hook.fn_ref.original_forward = original
        self._transformer.disable_cache()
        self._hooks, self._originals = [], []

    def _make_config(self) -> Any:
        import diffusers

        s = self.settings
        if s.kind == 'first_block':
            return diffusers.FirstBlockCacheConfig(threshold=s.threshold)
        if s.kind == 'mag':
            return diffusers.MagCacheConfig(
                threshold=s.threshold,
                max_skip_steps=s.max_skip,
                retention_ratio=s.retention,
                mag_ratios=self.ratios or None,
                num_inference_steps=max(1, len(self.ratios)),
                calibrate=not self.ratios,
            )
        return diffusers.TaylorSeerCacheConfig(
            cache_interval=s.interval,
            disable_cache_before_step=s.warm_up,
            max_order=s.order,
            taylor_factors_dtype=self._transformer.dtype,
            cache_identifiers=list(TAYLOR_MODULES),
        )

    def _find_hooks(self) -> list[Any]:
        """The hooks that can leave out a forward pass; a first block that decides never does."""
        pattern = {
            'first_block': 'fbc_block_hook', 'mag': 'mag_cache_.*', 'taylor': 'taylorseer_cache'
        }[self.settings.kind]  # fmt: skip
        return [
            hook
            for module in self._transformer.modules()
            for name, hook in getattr(getattr(module, '_diffusers_hook', None), 'hooks', {}).items()
            if re.fullmatch(pattern, name)
        ]

    def _counted(self, forward: Callable[..., Any]) -> Callable[..., Any]:
        def count() -> None:
            self.computed += 1

        count = torch.compiler.disable(count)

        def computed(*args: Any, **kwargs: Any) -> Any:
            count()
            return forward(*args, **kwargs)

        return computed

    def _harvest(self) -> None:
        """Growth of the residual at each step, the mean of the branches (MagCache, section 4)."""
        head = next(hook for hook in self._hooks if hasattr(hook, 'config'))
        states = head.state_manager._state_cache.values()
        measured = torch.tensor([state.calibration_ratios for state in states])
        self.ratios = measured.mean(dim=0).tolist()
        self._calibrating = False


__all__ = ['KINDS', 'CacheError', 'CacheSettings', 'StepCache']
