"""Several processes, on a GPU each, that share every forward pass of a plan.

Either the guidance branches are shared out ('branch': each process computes its part of the
batch), or the tokens of all branches are ('context': diffusers' Ulysses attention). The first
process, where the planner is, sends each forward pass to the others; latents are small, and words
are sent once a plan.
"""

from __future__ import annotations

import datetime
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from vera_planner.wan.speed import SpeedError, SpeedOptions, accelerate

TIMEOUT = datetime.timedelta(seconds=120)  # of one exchange; waiting for a plan has none
ENDING_S = 5.0
TOKEN_DEVICES = ('cuda',)  # where diffusers can share tokens


class Workers:
    """Processes that compute a part of each forward pass; `SamplingHooks` for their step caches.

    Args:
        make: makes a process's own `WanDenoiser` on a device; must be picklable.
        speed: options; `processes` and `parallel` say how the work is shared.
        device: 'cpu', or 'cuda' for the first GPUs.

    Raises:
        SpeedError: fewer GPUs than processes, or a process that cannot start.
    """

    def __init__(
        self, make: Callable[[torch.device], Any], speed: SpeedOptions, device: str
    ) -> None:
        kind = torch.device(device).type
        count = speed.processes
        if kind == 'cuda' and torch.cuda.device_count() < count:
            raise SpeedError(
                f'speed.processes {count}; this machine has {torch.cuda.device_count()} GPUs'
            )
        if speed.parallel == 'context' and kind not in TOKEN_DEVICES:
            raise SpeedError("speed.parallel 'context' shares tokens between GPUs; there are none")
        if dist.is_initialized():
            raise SpeedError('speed.processes: this process is part of another group already')
        self._speed, self._kind, self._count = speed, kind, count
        self._folder = tempfile.TemporaryDirectory(prefix='vera_planner_')
        self._store = f'file://{Path(self._folder.name) / "store"}'
        self._hooks: Any = None
        self._denoiser: Any = None
        self._sent: tuple[Tensor, Tensor | None] | None = None
        self._branch = ''
        context = torch.multiprocessing.get_context('spawn')
        self._pipes, self._processes = [], []
        for rank in range(1, count):
            ours, theirs = context.Pipe()
            process = context.Process(
                target=_work,
                args=(rank, make, speed, self.device(rank), self._store, theirs),
                name=f'planner {rank}',
                daemon=True,
            )
            process.start()
            theirs.close()
            self._pipes.append(ours)
            self._processes.append(process)

    def device(self, rank: int) -> torch.device:
        """Where the process of this number computes."""
        return torch.device('cuda', rank) if self._kind == 'cuda' else torch.device('cpu')

    def join(self, denoiser: Any, hooks: Any = None) -> Callable[..., Tensor]:
        """Wait for the others, and share the forward passes of this denoiser with them.

        Args:
            denoiser: this process's own, as `make` makes it.
            hooks: this process's step cache.

        Raises:
            SpeedError: a process could not load its model.
        """
        for rank, pipe in enumerate(self._pipes, start=1):
            try:
                said = pipe.recv()
            except EOFError:
                said = 'it ended'
            if said != 'loaded':
                self.close()
                raise SpeedError(f'speed.processes: process {rank} cannot start: {said}')
        _join(0, self._count, self._store, self._speed, self.device(0), denoiser)
        self._denoiser, self._hooks = denoiser, hooks
        return self

    def __call__(
        self, latents: Tensor, levels: Tensor, text: Tensor, image: Tensor | None = None
    ) -> Tensor:
        """Velocity, as `WanDenoiser` gives it; computed by all processes.

        Raises:
            SpeedError: one of them failed or is gone.
        """
        known = self._sent is not None and self._sent[0] is text and self._sent[1] is image
        said = None if known else (text.shape, None if image is None else image.shape)
        self._tell('forward', self._branch, latents.shape, said)
        try:
            given, at = _sent(latents), _sent(levels)
            words = text, image
            if not known:
                for tensor in words:
                    if tensor is not None:
                        _sent(tensor)
                self._sent = words
            failure = None
            try:
                mine = _part(self._denoiser, self._speed, 0, self._count, given, at, *words)
            except Exception as error:
                failure, mine = error, _nothing(latents.shape, self._count, latents.device)
            velocity = _gathered(mine, self._speed, self._count, latents.shape)
            if failure is not None:
                raise failure
        except RuntimeError as error:
            self._raise_theirs()
            if any(not process.is_alive() for process in self._processes):
                raise SpeedError(f'speed.processes: a process is gone: {error}') from error
            raise
        self._raise_theirs()
        return velocity

    def begin(self, first: int, steps: int) -> None:
        """A plan starts."""
        self._sent = None
        self._tell('begin', first, steps)
        if self._hooks is not None:
            self._hooks.begin(first, steps)

    @contextmanager
    def branch(self, name: str) -> Iterator[None]:
        """Around one forward pass."""
        self._branch = name
        with ExitStack() as stack:
            if self._hooks is not None:
                stack.enter_context(self._hooks.branch(name))
            yield

    def end(self) -> None:
        """The plan is done; the first process's cache is checked."""
        self._tell('end')
        if self._hooks is not None:
            self._hooks.end()

    def close(self) -> None:
        """End the processes."""
        for pipe in self._pipes:
            try:
                pipe.send(('stop',))
            except OSError:
                pass
        for process in self._processes:
            process.join(ENDING_S)
            if process.is_alive():
                process.kill()
        if self._denoiser is not None and dist.is_initialized():
            dist.destroy_process_group()
            self._denoiser = None
        self._folder.cleanup()

    def _tell(self, *command: Any) -> None:
        for rank, pipe in enumerate(self._pipes, start=1):
            try:
                pipe.send(command)
            except OSError:
                raise SpeedError(f'speed.processes: process {rank} is gone') from None

    def _raise_theirs(self) -> None:
        for rank, pipe in enumerate(self._pipes, start=1):
            try:
                said = pipe.recv() if pipe.poll() else None
            except (EOFError, OSError):
                said = 'it is gone'
            if said:
                raise SpeedError(f'speed.processes: process {rank}: {said}')


def _join(
    rank: int, count: int, store: str, speed: SpeedOptions, device: torch.device, denoiser: Any
) -> None:
    if device.type == 'cuda':
        torch.cuda.set_device(device)
    dist.init_process_group(
        'nccl' if device.type == 'cuda' else 'gloo',
        init_method=store,
        rank=rank,
        world_size=count,
        timeout=TIMEOUT,
    )
    if speed.parallel == 'context':
        from diffusers import ContextParallelConfig

        # Of any number of tokens: the context grows from plan to plan.
        config = ContextParallelConfig(ulysses_degree=count, ulysses_anything=True)
        denoiser.transformer.enable_parallelism(config=config)


def _work(
    rank: int,
    make: Callable[[torch.device], Any],
    speed: SpeedOptions,
    device: torch.device,
    store: str,
    pipe: Any,
) -> None:
    """A process's life: load, then do as the first one says until it stops or is gone."""
    if device.type == 'cpu':
        torch.set_num_threads(1)
    try:
        denoiser = make(device)
        cache = accelerate(denoiser.transformer, speed)
        pipe.send('loaded')
        _join(rank, speed.processes, store, speed, device, denoiser)
    except Exception as error:  # whatever it is, the first process tells it
        pipe.send(f'{type(error).__name__}: {error}')
        return
    words: tuple[Tensor, Tensor | None] | None = None
    while True:
        try:
            command, *rest = pipe.recv()
        except (EOFError, OSError):
            return
        if command == 'stop':
            return
        if command == 'begin' and cache is not None:
            cache.begin(*rest)
        if command != 'forward':
            if command == 'end' and cache is not None:
                cache.finish()
            continue
        branch, shape, said = rest

        def received(size: Any) -> Tensor:
            return _sent(torch.empty(size, device=device))

        latents, levels = received(shape), received((shape[0], shape[2]))
        if said is not None:
            words = received(said[0]), None if said[1] is None else received(said[1])
        assert words is not None
        try:
            with ExitStack() as stack:
                if cache is not None:
                    stack.enter_context(cache.branch(branch))
                mine = _part(denoiser, speed, rank, speed.processes, latents, levels, *words)
        except Exception as error:
            pipe.send(f'{type(error).__name__}: {error}')
            mine = _nothing(shape, speed.processes, device)
        _gathered(mine, speed, speed.processes, shape)


def _sent(tensor: Tensor) -> Tensor:
    """A tensor of the first process, in all processes, float32."""
    tensor = tensor.float().contiguous()
    dist.broadcast(tensor, 0)
    return tensor


@torch.inference_mode()
def _part(
    denoiser: Any,
    speed: SpeedOptions,
    rank: int,
    count: int,
    latents: Tensor,
    levels: Tensor,
    text: Tensor,
    image: Tensor | None,
) -> Tensor:
    """This process's rows of the velocity, zeros behind them; all rows if tokens are shared."""
    if speed.parallel == 'context':
        velocity: Tensor = denoiser(latents, levels, text, image)
        return velocity
    size = -(-len(latents) // count)
    rows = slice(rank * size, (rank + 1) * size)
    mine = latents.new_zeros(size, *latents.shape[1:])
    have = len(latents[rows])
    if have:
        seen = None if image is None else image[rows]
        mine[:have] = denoiser(latents[rows], levels[rows], text[rows], seen)
    return mine


def _nothing(shape: Any, count: int, device: torch.device) -> Tensor:
    """What a process that failed brings to the exchange: the others wait for it."""
    return torch.full((-(-shape[0] // count), *shape[1:]), torch.nan, device=device)


def _gathered(mine: Tensor, speed: SpeedOptions, count: int, shape: Any) -> Tensor:
    if speed.parallel == 'context':
        return mine
    parts = [torch.empty_like(mine) for _ in range(count)]
    dist.all_gather(parts, mine.contiguous())
    return torch.cat(parts)[: shape[0]]


__all__ = ['Workers']
