"""A Wan model as a VideoPlanner: canvases in, imagined canvases out.

One plan: the newest frames that fill whole latents are encoded view by view, M future latents are
sampled behind them, and the context with the committed latents is decoded.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from vera_core.checkpoint import CheckpointInfo, check_contract
from vera_core.contract import Contract, ContractError
from vera_core.contract_reader import build, read_document
from vera_core.seams import Image, Plan
from vera_planner.compact import PlannerError, check_frames, default_threads
from vera_planner.wan.latents import Codec, LatentCodec, usable_frames, view_boxes
from vera_planner.wan.sampler import (
    NEGATIVE_PROMPT,
    Denoiser,
    SamplingError,
    SamplingHooks,
    first_step,
    last_level,
    sample_future,
)
from vera_planner.wan.speed import SpeedOptions, accelerate

DECODED = ('committed', 'all')
DTYPES = ('', 'float32', 'bfloat16', 'float16')
SUFFIXES = ('.yaml', '.yml')


@dataclass(frozen=True)
class SamplingOptions:
    """How a plan is sampled.

    Attributes:
        steps: of the solver.
        shift: of its grid.
        text_guidance: g_l; history_guidance: g_h. A guidance of 0 saves its forward pass.
        negative: words of the text guidance; the published ones if None and the text encoder is
            UMT5, no words otherwise.
        context: N, most context latents.
        look_ahead: M, future latents; as many as the contract's look-ahead needs if 0.
        strength: share of the steps after a warm start from the last plan; 1 starts from noise.
        context_level: flow time that a clean context is said to have; that of the last step if
            None, which few steps put too high.
        pending_level: flow time to which frames still to be executed are noised.
        decode: 'committed' decodes what the contract commits, 'all' the whole future.
    """

    steps: int = 40
    shift: float = 3.0
    text_guidance: float = 3.0
    history_guidance: float = 2.0
    negative: str | None = None
    context: int = 6
    look_ahead: int = 0
    strength: float = 1.0
    context_level: float | None = None
    pending_level: float = 0.2
    decode: str = 'committed'

    def __post_init__(self) -> None:
        """Refuse values out of range, by name."""
        last_level(self.steps, self.shift)  # checks both
        first_step(self.steps, self.strength)
        if self.text_guidance < 0 or self.history_guidance < 0:
            raise SamplingError('guidance below 0')
        if self.context < 1 or self.look_ahead < 0:
            raise SamplingError(f'context {self.context} and look-ahead {self.look_ahead} latents')
        for name in ('context_level', 'pending_level'):
            level = getattr(self, name)
            if level is not None and not 0 <= level < 1:
                raise SamplingError(f'{name} {level}; it lies in 0..1')
        if self.decode not in DECODED:
            raise SamplingError(f'decode {self.decode!r}; known: {", ".join(DECODED)}')


@dataclass(frozen=True)
class WanOptions:
    """A planner of the Wan family as its YAML file describes it; see config/planners/wan.yaml.

    Attributes:
        checkpoint: folder, name, or hub id OWNER/NAME@COMMIT.
        device: where it computes; the GPU if there is one.
        dtype: of the transformer; bfloat16 on a GPU, float32 on the CPU.
        offload: 'auto' or a level of vera_planner.wan.memory.
        sampling: what differs from the checkpoint's own defaults.
        speed: speed options.
    """

    checkpoint: str
    device: str = ''
    dtype: str = ''
    offload: str = 'auto'
    sampling: dict[str, Any] = field(default_factory=dict)
    speed: SpeedOptions = field(default_factory=SpeedOptions)

    def __post_init__(self) -> None:
        """Refuse an unknown dtype."""
        if self.dtype not in DTYPES:
            raise SamplingError(f'dtype {self.dtype!r}; known: {", ".join(DTYPES[1:])}')


def read_options(ref: str) -> WanOptions:
    """The options of a planner: of a YAML file, or all defaults for a checkpoint.

    Args:
        ref: path that ends in .yaml or .yml; else folder, name or hub id of a checkpoint. In a
            file, a path that begins with a dot starts at the file's folder.

    Raises:
        ValueError: the file cannot be read, or says something that cannot be; with its line.
    """
    if not ref.endswith(SUFFIXES):
        return WanOptions(ref)
    path = Path(ref).expanduser()
    document = read_document(path)
    try:
        options = build(WanOptions, document.data)
        sampling_options(options.sampling)
    except ContractError as error:
        raise ContractError(error.message, error.key, document.where(error.key)) from None
    except ValueError as error:
        raise type(error)(f'{path}: {error}') from None
    if options.checkpoint.startswith('.'):
        options = replace(options, checkpoint=str((path.parent / options.checkpoint).resolve()))
    return options


def sampling_options(*layers: Mapping[str, Any]) -> SamplingOptions:
    """Sampling options from plain data; what comes later counts more.

    Raises:
        ValueError: unknown names, wrong types or values out of range.
    """
    merged: dict[str, Any] = {}
    for layer in layers:
        merged.update(layer)
    try:
        return build(SamplingOptions, merged)
    except ContractError as error:
        raise ContractError(error.message, f'sampling.{error.key}') from None


@dataclass(frozen=True)
class WarmStart:
    """The future of a plan, for the next one.

    Attributes:
        latents: float32 [C, M, h, w].
        executed: frames that will have been executed when the next plan starts: the committed
            ones unless pending frames tell.
        frames: uint8 [., H, W, 3], of the plan.
    """

    latents: Tensor
    executed: int
    frames: Image = field(repr=False)

    def behind(self, pending: Image | None) -> WarmStart:
        """With `executed` up to the last of the pending frames, if that is a frame of this plan."""
        if pending is not None:
            for i, frame in enumerate(self.frames):
                if np.array_equal(frame, pending[-1]):
                    return replace(self, executed=i + 1)
        return self

    def shifted(self, time_stride: int) -> Tensor | None:
        """The rest of the future, float32 [C, M, h, w], its last latent held; None if none is left.

        As a guess to start sampling from, this may be wrong at its end: noise goes over it.
        """
        count = self.latents.shape[1]
        past = round(self.executed / time_stride)
        if past >= count:
            return None
        return self.latents[:, [min(i + past, count - 1) for i in range(count)]]


class TextEncoder(Protocol):
    """See vera_planner.wan.text."""

    def __call__(self, prompt: str) -> Tensor:
        """Words to float32 [L, D]."""


class WanPlanner:
    """VideoPlanner over a diffusion-forcing model of the Wan family.

    Args:
        denoiser: predicts velocities.
        codec: frames to latents.
        text: words to tokens.
        contract: canvas and grid of time.
        sampling: how plans are sampled.
        negative: words of the text guidance.
        image: frame to CLIP tokens [257, D], for I2V models.
        hooks: step cache; its batch of branches is that of `batched`.
        batched: all branches in one forward pass.
        device: where latents are sampled.
        run: calls the work of a plan, maybe again with less memory.
        checkpoint_hash: first 16 hex digits.

    Attributes:
        timings: seconds of the last plan: text, encode, denoise, decode; and each step's.

    Raises:
        PlannerError: the canvas does not divide into latents of the model.
    """

    planner_id = 'wan'

    def __init__(
        self,
        denoiser: Denoiser,
        codec: Codec,
        text: TextEncoder,
        contract: Contract,
        sampling: SamplingOptions,
        *,
        negative: str = '',
        image: Any = None,
        hooks: SamplingHooks | None = None,
        batched: bool = True,
        device: torch.device | str = 'cpu',
        run: Any = None,
        checkpoint_hash: str = '',
    ) -> None:
        self.sampling = sampling
        self.codec = codec
        self.denoiser = denoiser
        self.hooks = hooks
        self.batched = batched
        self.checkpoint_hash = checkpoint_hash
        self.timings: dict[str, Any] = {}
        self._text, self._image, self._negative = text, image, negative
        self._device = torch.device(device)
        self._run = run or (lambda work: work())
        self._shape = (contract.canvas.height, contract.canvas.width, 3)
        self._period = contract.video.frame_period
        video, stride = contract.video, codec.time_stride
        self._committed = -(-video.committed // stride)
        self.look_ahead = sampling.look_ahead or -(-video.look_ahead // stride)
        if self.look_ahead < self._committed:
            raise PlannerError(
                f'a look-ahead of {self.look_ahead} latents is {self.look_ahead * stride} frames; '
                f'the contract commits {video.committed}'
            )
        self._close: Any = None

    @classmethod
    def load(
        cls,
        options: WanOptions,
        contract: Contract,
        *,
        steps: int | None = None,
        threads: int | None = None,
    ) -> WanPlanner:
        """Open the checkpoint, apply the speed options, compile if asked to.

        Args:
            options: see there.
            contract: what the embodiment sees.
            steps: sampling steps instead of the options'.
            threads: CPU threads, if it computes there.

        Raises:
            CheckpointError: the checkpoint cannot be found or opened, or is of another contract.
            MemoryNeedError: it does not fit this machine.
            SpeedError, CacheError: a speed option cannot be had.
        """
        from vera_planner.wan.checkpoints import locate, open_planner

        info = locate(options.checkpoint)
        if info.contract is not None:
            described = CheckpointInfo(
                info.folder, 'planner', info.short_hash, {}, info.contract, info.training
            )
            check_contract(described, contract.visual_fields())
        more = {} if steps is None else {'steps': steps}
        sampling = sampling_options(info.sampling, options.sampling, more)
        speed = options.speed
        branches = 1 + bool(sampling.text_guidance) + bool(sampling.history_guidance)
        opened = partial(
            open_planner,
            options.checkpoint,
            dtype=getattr(torch, options.dtype) if options.dtype else None,
            offload=options.offload,
            canvas=(contract.canvas.height, contract.canvas.width),
            latents=sampling.context + (sampling.look_ahead or 4),
            branches=branches if speed.batched else 1,
        )
        device = options.device or ('cuda' if torch.cuda.is_available() else 'cpu')
        if torch.device(device).type == 'cpu':
            torch.set_num_threads(threads or default_threads())
        return cls.assemble(opened, contract, sampling, speed, device)

    @classmethod
    def assemble(
        cls,
        opened: Callable[..., Any],
        contract: Contract,
        sampling: SamplingOptions,
        speed: SpeedOptions,
        device: str,
    ) -> WanPlanner:
        """Put a planner together and apply the speed options.

        Args:
            opened: gives the `WanParts` on a `device=`; picklable if several processes call it.
            contract: what the embodiment sees.
            sampling: how plans are sampled.
            speed: how they are made faster.
            device: 'cpu' or 'cuda'.

        Raises:
            SpeedError, CacheError: a speed option cannot be had.
        """
        workers = None
        if speed.processes > 1:
            from vera_planner.wan.parallel import Workers

            workers = Workers(partial(_denoiser, opened), speed, device)
            device = str(workers.device(0))
        try:
            return cls._assembled(opened(device=device), contract, sampling, speed, workers)
        except BaseException:
            if workers is not None:
                workers.close()
            raise

    @classmethod
    def _assembled(
        cls,
        parts: Any,
        contract: Contract,
        sampling: SamplingOptions,
        speed: SpeedOptions,
        workers: Any,
    ) -> WanPlanner:
        hooks: Any = accelerate(parts.denoiser.transformer, speed)
        denoiser: Denoiser = parts.denoiser
        if workers is not None:
            denoiser, hooks = workers.join(parts.denoiser, hooks), workers
        if parts.vae is not None:
            codec: Codec = LatentCodec(parts.vae, view_boxes(contract), parts.denoiser.device)
        else:
            from vera_planner.wan.pixels import PixelCodec

            codec = PixelCodec()
        negative = sampling.negative
        if negative is None:
            negative = NEGATIVE_PROMPT if parts.info.layout.text == 'umt5' else ''
        planner = cls(
            denoiser,
            codec,
            parts.text,
            contract,
            sampling,
            negative=negative,
            image=parts.image,
            hooks=hooks,
            batched=speed.batched,
            device=parts.denoiser.device,
            run=parts.placement.run,
            checkpoint_hash=parts.info.short_hash,
        )
        planner._close = workers.close if workers is not None else None
        if speed.compile:
            planner.compile_all()
        return planner

    def close(self) -> None:
        """End the processes that share the work, if there are any."""
        if self._close is not None:
            self._close()

    def compile_all(self) -> None:
        """Sample one step with each length of context, so that no plan waits for a compiler."""
        for latents in range(1, self.sampling.context + 1):
            frames = np.zeros((1 + self.codec.time_stride * (latents - 1), *self._shape), np.uint8)
            self._imagine(frames, 0, 'warm up', 0, None, replace(self.sampling, steps=1))

    def plan(
        self,
        context: Image,
        prompt: str,
        *,
        seed: int = 0,
        warm_start: Any = None,
        pending: Image | None = None,
    ) -> Plan:
        """Imagine what follows `context` [T, H, W, 3], or `pending` [P, H, W, 3] behind it.

        The newest 1 + 4k frames count; pending ones enter slightly noised. A cold start is one
        frame, and no context is ever filled up with copies.

        Raises:
            PlannerError: no frame, or frames of another size than the contract's canvas.
            MemoryNeedError: memory is full, and nothing is left that could be offloaded.
        """
        for name, frames in (('context', context), ('pending', pending)):
            if frames is not None:
                check_frames(frames, self._shape[:2], name)
        s = self.sampling
        known = context if pending is None else np.concatenate([context, pending])
        used = known[-usable_frames(len(known), self.codec.time_stride, s.context) :]
        waiting = 0 if pending is None else min(len(pending), len(used))
        guess = self._guess(warm_start, pending) if s.strength < 1 else None
        frames, future = self._run(lambda: self._imagine(used, waiting, prompt, seed, guess, s))
        return Plan(
            frames=frames,
            frame_period=self._period,
            warm_start=WarmStart(future, self._committed * self.codec.time_stride, frames),
        )

    def _guess(self, warm_start: Any, pending: Image | None) -> Tensor | None:
        if not isinstance(warm_start, WarmStart) or warm_start.latents.shape[1] != self.look_ahead:
            return None
        return warm_start.behind(pending).shifted(self.codec.time_stride)

    def _imagine(
        self,
        frames: Image,
        waiting: int,
        prompt: str,
        seed: int,
        guess: Tensor | None,
        s: SamplingOptions,
    ) -> tuple[Image, Tensor]:
        """Frames and future latents [C, M, h, w] behind `frames`, the last `waiting` pending."""
        clock = _Clock(self._device)
        generator = torch.Generator().manual_seed(seed)
        words = self._text(prompt)[None].to(self._device)
        negative = self._text(self._negative)[None].to(self._device) if s.text_guidance else None
        image = None if self._image is None else self._image(frames[0])[None].to(self._device)
        clock.lap('text')
        clean = self.codec.encode(frames).to(self._device)
        clock.lap('encode')
        context, level = self._noised(clean, waiting, s, generator)
        steps: list[float] = []
        future = sample_future(
            self.denoiser,
            context[None],
            self.look_ahead,
            words,
            negative,
            steps=s.steps,
            shift=s.shift,
            text_guidance=s.text_guidance,
            history_guidance=s.history_guidance,
            context_level=level,
            warm_start=None if guess is None else guess[None].to(self._device),
            strength=s.strength,
            image=image,
            generator=generator,
            batched=self.batched,
            hooks=self.hooks,
            on_step=lambda _: steps.append(clock.now()),
        )[0]
        clock.lap('denoise')
        keep = self._committed if s.decode == 'committed' else self.look_ahead
        decoded = self.codec.decode(torch.cat([clean, future[:, :keep]], dim=1), keep)
        clock.lap('decode')
        began = clock.times['text'] + clock.times['encode']
        edges = np.diff([began, *steps]).tolist()
        self.timings = {**clock.times, 'steps': edges}
        return decoded, future

    def _noised(
        self, clean: Tensor, waiting: int, s: SamplingOptions, generator: torch.Generator
    ) -> tuple[Tensor, Tensor | float | None]:
        """Latents with a pending frame in them noised to their level, and the levels [Nc]."""
        if not waiting:
            return clean, s.context_level
        level = last_level(s.steps, s.shift) if s.context_level is None else s.context_level
        count = min(clean.shape[1], -(-waiting // self.codec.time_stride))
        levels = torch.full((clean.shape[1],), level)
        levels[-count:] = levels[-count:].clamp_min(s.pending_level)
        noise = torch.randn(clean.shape, generator=generator).to(clean)
        share = torch.zeros(clean.shape[1])
        share[-count:] = s.pending_level
        share = share.to(clean)[None, :, None, None]
        return (1 - share) * clean + share * noise, levels.to(clean)


def _denoiser(opened: Callable[..., Any], device: torch.device) -> Any:
    return opened(device=device).denoiser


class _Clock:
    """Seconds of the stages of a plan, with the GPU's work in them."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self.times: dict[str, float] = {}
        self._began = self._last = self._read()

    def _read(self) -> float:
        if self._device.type == 'cuda':
            torch.cuda.synchronize(self._device)
        return time.perf_counter()

    def now(self) -> float:
        return self._read() - self._began

    def lap(self, name: str) -> None:
        read = self._read()
        self.times[name] = read - self._last
        self._last = read


__all__ = [
    'SamplingOptions',
    'WanOptions',
    'WanPlanner',
    'WarmStart',
    'read_options',
    'sampling_options',
]
