"""What planners need in memory, which level of offloading is taken, and a GPU that is full."""

from __future__ import annotations

import logging
import weakref
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from vera_planner.wan import memory
from vera_planner.wan.layouts import LAYOUTS, WanLayout
from vera_planner.wan.memory import MemoryNeedError, Placement, choose_level, estimate
from vera_planner.wan.model import WanDenoiser, build_transformer, build_vae

TINY = LAYOUTS['tiny']
GPU = torch.device('cuda:0')


class Live(TorchDispatchMode):
    """Counts the bytes of tensors that are alive at a time, of those made within."""

    def __init__(self) -> None:
        super().__init__()
        self.now, self.peak, self.known = 0, 0, set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, torch.Tensor):
                storage = tensor.untyped_storage()
                key, size = storage._cdata, storage.nbytes()
                if size and key not in self.known:
                    self.known.add(key)
                    self.now += size
                    self.peak = max(self.peak, self.now)
                    weakref.finalize(storage, self._gone, key, size)
        return out

    def _gone(self, key, size):
        self.now -= size
        self.known.discard(key)


def test_weights_are_counted_as_they_are_loaded():
    for dtype in (torch.float32, torch.bfloat16):
        model = build_transformer(TINY, dtype=dtype)
        expected = sum(p.numel() * p.element_size() for p in model.parameters())
        assert estimate(TINY, dtype).transformer == expected
    vae = build_vae(TINY)
    assert estimate(TINY, torch.bfloat16).vae == sum(4 * p.numel() for p in vae.parameters())


def test_activations_are_near_those_measured():
    layout = replace(LAYOUTS['compact'], layers=2)
    height, width, latents = 64, 128, 5
    shape = (latents, height // 8, width // 8)
    denoiser, vae = WanDenoiser(build_transformer(layout), layout), build_vae(layout)
    sizes = {'height': height, 'width': width, 'latents': latents}
    with torch.inference_mode():
        x, levels, text = torch.randn(3, 16, *shape), torch.rand(3, latents), torch.zeros(3, 4, 384)
        with Live() as denoising:
            denoiser(x, levels, text)
        with Live() as decoding:
            vae.decode(x[:1])
    both = estimate(layout, torch.float32, **sizes).activations
    assert 0.7 < max(denoising.peak, decoding.peak) / both < 1.2
    # With hardly any autoencoder, the transformer's own share is what counts.
    alone = estimate(replace(layout, vae_width=1), torch.float32, **sizes).activations
    assert 0.7 < denoising.peak / alone < 1.2


def test_published_sizes():
    need = estimate(LAYOUTS['i2v-14b'], torch.bfloat16)
    assert 32e9 < need.transformer < 34e9
    assert 11e9 < need.text < 12e9
    assert need.image > 1e9
    assert need.on_device('none') > need.on_device('text') + 11e9
    assert need.on_device('group') < 8e9, 'fits a small GPU'
    assert need.in_ram('group') > need.transformer
    assert estimate(LAYOUTS['i2v-14b'], torch.bfloat16, text=False).text == 0
    assert estimate(LAYOUTS['compact'], torch.float32).text == 0


@pytest.fixture
def machine(monkeypatch):
    """A machine with so many GB on its GPU and of main memory."""

    def of(gpu: float, ram: float) -> None:
        monkeypatch.setattr(
            memory, 'free_memory', lambda d: int((gpu if d.type == 'cuda' else ram) * 1e9)
        )

    return of


@pytest.mark.parametrize(
    ('gpu', 'ram', 'expected'),
    [(80, 64, 'none'), (40, 64, 'text'), (12, 64, 'group'), (12, 16, None), (1, 64, None)],
)
def test_the_first_level_that_fits_is_taken(machine, gpu, ram, expected):
    layout, dtype = LAYOUTS['t2v-14b'], torch.bfloat16
    need = estimate(layout, dtype)
    machine(gpu, ram)
    if expected is not None:
        assert choose_level(need, GPU, 'auto', layout, dtype) == expected
        return
    with pytest.raises(MemoryNeedError) as failed:
        choose_level(need, GPU, 'auto', layout, dtype)
    said = str(failed.value)
    for part in (
        't2v-14b in bfloat16 needs',
        f'{gpu}.0 GB are free',
        't2v-1.3b',
        'compact',
        'remote',
    ):
        assert part in said


def test_a_level_that_was_asked_for_is_not_changed_but_another_is_advised(machine):
    layout, dtype = LAYOUTS['t2v-14b'], torch.bfloat16
    need = estimate(layout, dtype)
    machine(40, 64)
    assert choose_level(need, GPU, 'group', layout, dtype) == 'group'
    with pytest.raises(MemoryNeedError, match=r"Cures: offload='text' \(3\d\.\d GB on the GPU"):
        choose_level(need, GPU, 'none', layout, dtype)
    with pytest.raises(ValueError, match="offload 'disk'; known: auto, none, text, group"):
        choose_level(need, GPU, 'disk', layout, dtype)


def test_on_the_cpu_half_the_bytes_are_advised(machine):
    layout = LAYOUTS['t2v-1.3b']
    machine(0, 8)
    need = estimate(layout, torch.float32)
    with pytest.raises(MemoryNeedError, match='dtype bfloat16'):
        choose_level(need, torch.device('cpu'), 'auto', layout, torch.float32)


class Text:
    """As Umt5Text: has a device, and can be released."""

    def __init__(self) -> None:
        self.device, self.released = torch.device('cpu'), 0

    def release(self) -> None:
        self.released += 1


class Crowded(WanDenoiser):
    """On a GPU that is full until a level of offloading, as far as this process can pretend."""

    enough = 'group'
    placement: Placement
    error: type[Exception] | None = torch.OutOfMemoryError

    def forward(self, *arguments):
        level = memory.LEVELS.index(self.placement.level)
        if self.enough is None or level < memory.LEVELS.index(self.enough):
            raise self.error('CUDA out of memory. Tried to allocate 2.00 GiB.\nMore lines')
        return super().forward(*arguments)


def crowded(enough: str | None) -> tuple[Crowded, Placement]:
    denoiser = Crowded(build_transformer(TINY, seed=1), TINY)
    parts = SimpleNamespace(denoiser=denoiser, vae=build_vae(TINY), text=Text(), image=None)
    placement = Placement(parts, torch.device('cpu'))
    placement.can_offload = True  # as on a GPU; here weights move from main memory to main memory
    denoiser.placement, denoiser.enough = placement, enough
    return denoiser, placement


def inputs():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(1, 16, 3, 4, 4, generator=generator)
    return x, torch.rand(1, 3, generator=generator), torch.randn(1, 5, 384, generator=generator)


@pytest.mark.parametrize('enough', ['none', 'text', 'group'])
def test_a_full_gpu_goes_to_the_next_level_and_the_plan_is_the_same(enough, caplog):
    denoiser, placement = crowded(enough)
    with torch.inference_mode():
        expected = WanDenoiser(build_transformer(TINY, seed=1), TINY)(*inputs())
        with caplog.at_level(logging.WARNING):
            found = placement.run(lambda: denoiser(*inputs()))
    assert placement.level == enough
    assert torch.equal(found, expected)
    assert len(caplog.records) == memory.LEVELS.index(enough)
    if enough == 'group':
        assert denoiser.compute_device == torch.device('cpu')
        assert hasattr(denoiser.transformer.blocks[0], '_diffusers_hook'), 'blocks are offloaded'
    with torch.inference_mode():
        again = placement.run(lambda: denoiser(*inputs()))
    assert torch.equal(again, expected), 'it goes on there'


def test_a_gpu_that_stays_full_is_reported_with_the_need():
    denoiser, placement = crowded(None)
    with pytest.raises(MemoryNeedError, match=r"offload='group' \(CUDA out of memory") as failed:
        placement.run(lambda: denoiser(*inputs()))
    assert 'smaller canvas' in str(failed.value)
    assert 'More lines' not in str(failed.value)


def test_memory_that_is_full_by_another_name_counts_and_other_errors_do_not():
    denoiser, placement = crowded('text')
    denoiser.error = RuntimeError  # as some kernels say it
    with torch.inference_mode():
        placement.run(lambda: denoiser(*inputs()))
    assert placement.level == 'text'

    def broken() -> None:
        raise RuntimeError('shapes do not fit')

    with pytest.raises(RuntimeError, match='shapes do not fit'):
        placement.run(broken)
    assert placement.level == 'text'


def test_main_memory_that_is_full_too_is_reported(monkeypatch):
    denoiser, placement = crowded('group')

    def full(*_, **__):
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 GB")

    monkeypatch.setattr(denoiser.transformer, 'enable_group_offload', full)
    with pytest.raises(MemoryNeedError, match='CUDA out of memory'):
        placement.run(lambda: denoiser(*inputs()))


def test_on_the_cpu_there_is_nothing_to_fall_back_to():
    denoiser, placement = crowded(None)
    placement.can_offload = False
    with pytest.raises(MemoryNeedError, match="offload='none'"):
        placement.run(lambda: denoiser(*inputs()))


def test_the_text_encoder_leaves_the_gpu_at_the_level_of_its_name():
    _, placement = crowded('none')
    text = placement.parts.text
    text.device = GPU  # as if it had been there
    assert placement.lower()
    assert text.device == torch.device('cpu')
    assert text.released == 1, 'and what it held there is freed'


def test_sizes_of_the_cures_are_smaller():
    layout = LAYOUTS['t2v-14b']
    weights = memory._weights(layout)
    actual = sum(p.numel() for p in build_transformer(layout, 'meta').parameters())
    assert 0.9 < weights / actual < 1.1
    assert isinstance(layout, WanLayout)
