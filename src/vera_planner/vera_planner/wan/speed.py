"""What makes plans faster, each an option; `vera bench planner` measures what each does to plans.

Order matters and is kept here: adapters are merged before weights are quantised, and blocks are
compiled last, with the hooks of a cache in them.
"""

from __future__ import annotations

import importlib
import importlib.util
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from vera_planner.wan.caches import CacheSettings, StepCache

QUANTISED = ('', 'fp8', 'fp8_weights', 'int8')
CASTS = ('', 'float8_e4m3fn', 'float8_e5m2')
PARALLEL = ('branch', 'context')
COMPILE_MODES = (
    '', 'default', 'reduce-overhead', 'max-autotune', 'max-autotune-no-cudagraphs'
)  # fmt: skip
RECOMPILES = 64  # one for each length of the context, batch and history


class SpeedError(ValueError):
    """A speed option that cannot be had here; the message names it, what it needs and the cure."""


@dataclass(frozen=True)
class SpeedOptions:
    """How plans are made faster.

    Attributes:
        batched: the branches of a step in one forward pass.
        compile: mode of torch.compile for the repeated blocks; not compiled if empty.
        attention: attention backend of diffusers, such as 'native', '_native_cudnn', 'flash',
            '_flash_3' or 'sage'; as it comes if empty.
        quantise: 'fp8' (weights and activations; GPUs from Ada on), 'fp8_weights' or 'int8'
            (weights); needs torchao.
        cast: weights are stored as this float8 type and computed with in the model's own, block
            by block: half the memory of bfloat16, no speed.
        lora: few-step adapter that is merged into the weights: a .safetensors file, or
            'owner/name:file.safetensors@commit' on the hub.
        lora_scale: of the adapter.
        cache: a step cache.
        processes: processes, on a GPU each, that share the work of a step.
        parallel: what they share: the guidance branches ('branch') or the tokens ('context').
    """

    batched: bool = True
    compile: str = ''
    attention: str = ''
    quantise: str = ''
    cast: str = ''
    lora: str = ''
    lora_scale: float = 1.0
    cache: CacheSettings | None = None
    processes: int = 1
    parallel: str = 'branch'

    def __post_init__(self) -> None:
        """Refuse values and combinations that cannot be, by name."""
        for name, known in (
            ('quantise', QUANTISED), ('cast', CASTS), ('parallel', PARALLEL),
            ('compile', COMPILE_MODES),
        ):  # fmt: skip
            if getattr(self, name) not in known:
                raise SpeedError(
                    f'speed.{name} {getattr(self, name)!r}; known: '
                    f'{", ".join(repr(k) for k in known)}'
                )
        if self.processes < 1:
            raise SpeedError(f'speed.processes {self.processes}; at least 1')
        if self.quantise and self.cast:
            raise SpeedError('speed.quantise and speed.cast are two ways to store weights; one')
        if self.processes > 1 and self.parallel == 'branch' and not self.batched:
            raise SpeedError('speed.processes share a batch of branches: speed.batched is needed')


def accelerate(transformer: Any, options: SpeedOptions) -> StepCache | None:
    """Apply the options to a transformer of diffusers, in place.

    Returns:
        The step cache, if one is asked for: hand it to the sampler.

    Raises:
        SpeedError: an option that needs a package, a file or hardware that is not there.
        CacheError: a cache that does not fit the model.
    """
    if options.lora:
        merge_lora(transformer, options.lora, options.lora_scale)
    if options.quantise:
        quantise(transformer, options.quantise)
    if options.cast:
        transformer.enable_layerwise_casting(
            storage_dtype=getattr(torch, options.cast), compute_dtype=transformer.dtype
        )
    if options.lora or options.quantise or options.cast:
        from diffusers.hooks import group_offloading

        # Offloading holds the weights as they were; it does nothing where nothing is offloaded.
        group_offloading._maybe_remove_and_reapply_group_offloading(transformer)
    if options.attention:
        set_attention(transformer, options.attention)
    cache = StepCache(transformer, options.cache) if options.cache is not None else None
    if options.compile:
        compile_blocks(transformer, options.compile, whole=cache is None)
    return cache


def set_attention(transformer: Any, backend: str) -> None:
    """Compute attention by a backend of diffusers.

    Raises:
        SpeedError: it is unknown, or its package or hardware is missing.
    """
    from diffusers.models.attention_dispatch import _AttentionBackendRegistry as Registry

    before, _ = Registry.get_active_backend()
    try:
        transformer.set_attention_backend(backend)
    except (ValueError, RuntimeError, ImportError) as error:
        raise SpeedError(f'speed.attention {backend!r}: {error}') from error
    Registry.set_active_backend(before)  # diffusers makes it the one of all other models, too


def compile_blocks(transformer: Any, mode: str, *, whole: bool = True) -> None:
    """Compile the repeated blocks, for static shapes: one compilation serves all blocks.

    Args:
        transformer: of diffusers.
        mode: of torch.compile.
        whole: each block is one graph; with the hooks of a cache it cannot be.
    """
    import torch._dynamo

    config = torch._dynamo.config
    config.recompile_limit = max(config.recompile_limit, RECOMPILES)
    transformer.compile_repeated_blocks(fullgraph=whole, dynamic=False, mode=mode)


def quantise(transformer: Any, kind: str) -> None:
    """Store the linear layers of the blocks in 8 bits, by torchao.

    Raises:
        SpeedError: torchao is not there, or the device cannot compute in this type.
    """
    if importlib.util.find_spec('torchao') is None:
        raise SpeedError(f'speed.quantise {kind!r} needs torchao: pip install torchao')
    quantization = importlib.import_module('torchao.quantization')
    names = {
        'fp8': 'Float8DynamicActivationFloat8WeightConfig',
        'fp8_weights': 'Float8WeightOnlyConfig',
        'int8': 'Int8WeightOnlyConfig',
    }
    device = next(transformer.parameters()).device
    if kind == 'fp8' and (
        device.type != 'cuda' or torch.cuda.get_device_capability(device) < (8, 9)
    ):
        raise SpeedError(
            f"speed.quantise 'fp8' computes in float8, which {device} cannot; use 'fp8_weights' "
            "or 'int8'"
        )

    def of_a_block(module: torch.nn.Module, name: str) -> bool:
        return isinstance(module, torch.nn.Linear) and name.startswith('blocks.')

    quantization.quantize_(transformer, getattr(quantization, names[kind])(), of_a_block)


def merge_lora(transformer: Any, ref: str, scale: float = 1.0) -> None:
    """Add an adapter to the weights for good, so that it costs nothing at each step.

    Keys of diffusers, and those of the published few-step adapters of Wan, are understood.

    Raises:
        SpeedError: no such file, or its keys or shapes are not of this model.
    """
    from diffusers.loaders.lora_pipeline import WanLoraLoaderMixin
    from safetensors.torch import load_file

    path = _lora_file(ref)
    try:
        state = load_file(str(path))
    except Exception as error:
        raise SpeedError(f'speed.lora {ref}: cannot be read: {error}') from error
    try:
        state = WanLoraLoaderMixin.lora_state_dict(state)
        if isinstance(state, tuple):
            state = state[0]
        state = {key.removeprefix('transformer.'): value for key, value in state.items()}
        known = {name for name, _ in transformer.named_modules()}
        changed = {key.split('.lora_')[0] for key in state if '.lora_' in key}
        foreign = sorted(changed - known)
        if foreign or not changed:  # of which diffusers would only warn
            raise ValueError(f'it changes {foreign[0] if foreign else "nothing"}')
        transformer.load_lora_adapter(state, prefix=None, adapter_name='merged')
    except (ValueError, RuntimeError, LookupError) as error:
        raise SpeedError(f'speed.lora {ref} does not fit this model: {error}') from error
    transformer.fuse_lora(lora_scale=scale, adapter_names=['merged'])
    transformer.unload_lora()


def _lora_file(ref: str) -> Path:
    path = Path(ref).expanduser()
    if path.is_file():
        return path
    found = re.fullmatch(r'([\w.-]+/[\w.-]+):(.+\.safetensors)@([0-9a-f]{40})', ref)
    if not found:
        raise SpeedError(
            f'speed.lora {ref}: no such file; on the hub it is called '
            'owner/name:file.safetensors@commit, with all 40 digits of the commit'
        )
    import huggingface_hub

    repo, name, revision = found.groups()
    try:
        return Path(huggingface_hub.hf_hub_download(repo, name, revision=revision))
    except Exception as error:
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise SpeedError(f'speed.lora {ref}: cannot be had from the hub: {first}') from error


__all__ = ['SpeedError', 'SpeedOptions', 'accelerate', 'compile_blocks', 'merge_lora', 'quantise']
