"""How long a plan takes, stage by stage, and what each way to make it faster does to the plan.

Every variant plans the same scenes of the finger with the same seeds, and is compared with the plan
of 40 steps that is guided as the checkpoint says (vera_bringup.plan_fidelity).
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from vera_bringup.plan_fidelity import Comparison, Scene
from vera_core import canvas
from vera_core.contract import Contract, load_contract
from vera_core.seams import Image, Plan, VideoPlanner
from vera_core.seeds import mix
from vera_planner.wan.layouts import LAYOUTS, find_layout
from vera_planner.wan.planner import WanOptions, WanPlanner, sampling_options
from vera_planner.wan.speed import SpeedOptions

UNET = 'compact-unet'
ALIASES = {'1.3b': 't2v-1.3b', '5b': 'ti2v-5b', '14b': 'i2v-14b'}
SIZES = (UNET, *LAYOUTS, *ALIASES)
ON_A_CPU = ('tiny', 'compact', 'compact-pixels')  # sizes that make sense without a GPU
FULL = 'full'  # the variant that all are compared with
FULL_STEPS = 40
LOOK_AHEAD, COMMITTED = 16, 4  # frames


class BenchError(ValueError):
    """A measurement that cannot be made; the message names what is missing."""


@dataclass(frozen=True)
class Variant:
    """What differs from the plan of 40 steps: of the sampling, of the speed options, of loading."""

    sampling: dict[str, Any] = field(default_factory=dict)
    speed: dict[str, Any] = field(default_factory=dict)
    offload: str = ''
    dtype: str = ''


VARIANTS: dict[str, Variant] = {
    FULL: Variant(),
    'steps-20': Variant({'steps': 20}),
    'steps-10': Variant({'steps': 10}),
    'steps-4': Variant({'steps': 4}),
    'steps-2': Variant({'steps': 2}),
    'steps-1': Variant({'steps': 1}),
    'no-history': Variant({'history_guidance': 0.0}),
    'no-guidance': Variant({'history_guidance': 0.0, 'text_guidance': 0.0}),
    'unbatched': Variant(speed={'batched': False}),
    'warm-start': Variant({'strength': 0.6}),
    'first-block': Variant(speed={'cache': {'kind': 'first_block', 'threshold': 0.1}}),
    'mag': Variant(speed={'cache': {'kind': 'mag'}}),
    'taylor': Variant(speed={'cache': {'kind': 'taylor'}}),
    'compile': Variant(speed={'compile': 'default'}),
    'cudnn': Variant(speed={'attention': '_native_cudnn'}),
    'flash': Variant(speed={'attention': 'flash'}),
    'sage': Variant(speed={'attention': 'sage'}),
    'bfloat16': Variant(dtype='bfloat16'),
    'cast': Variant(speed={'cast': 'float8_e4m3fn'}),
    'int8': Variant(speed={'quantise': 'int8'}),
    'fp8': Variant(speed={'quantise': 'fp8'}),
    'fp8-weights': Variant(speed={'quantise': 'fp8_weights'}),
    'offload': Variant(offload='group'),
    'branch-parallel': Variant(speed={'processes': 3}),
    'context-parallel': Variant(speed={'processes': 2, 'parallel': 'context'}),
}


def variant(name: str) -> Variant:
    """A variant by name; 'lora=FILE' takes a few-step adapter and 4 steps without guidance.

    Raises:
        BenchError: unknown.
    """
    if name.startswith('lora='):
        few = {'steps': 4, 'text_guidance': 0.0, 'history_guidance': 0.0}
        return Variant(few, {'lora': name.removeprefix('lora=')})
    if name not in VARIANTS:
        raise BenchError(f'unknown option {name!r}; known: {", ".join(VARIANTS)}, lora=FILE')
    return VARIANTS[name]


def scenes(contract: Contract, count: int, frames: int, seed: int) -> list[Scene]:
    """Beginnings of the finger's scripted motion, `frames` on a canvas of the contract."""
    from vera_sim import language, make_environment

    assert contract.sim is not None
    camera = contract.cameras[0]
    env = make_environment(contract.sim.environment, contract.sim.options, camera.height)
    found = []
    for index in range(count):
        env.reset(mix(seed, index, 91))
        rng = np.random.default_rng(mix(seed, index))
        asked = str(rng.choice(list(env.objects)))
        images = [env.render(), *(env.expert_rollout(asked, frames - 1) if frames > 1 else ())]
        seen = [canvas.tile({camera.name: image}, contract) for image in images]
        found.append(Scene(np.stack(seen), str(rng.choice(language.HELD_OUT)).format(c=asked)))
    return found


def bench_contract(on_gpu: bool, look_ahead: int = LOOK_AHEAD) -> Contract:
    """The finger, as it is; with a GPU on the authors' canvas of 128 x 576 px and 21 frames.

    A part of the look-ahead [frames] is left for a warm start, whatever it is.
    """
    committed = min(COMMITTED, max(1, look_ahead // 2))
    video = {
        'look_ahead': look_ahead, 'context': 21 if on_gpu else 9, 'committed': committed,
    }  # fmt: skip
    more = {'canvas': {'height': 128, 'width': 576}} if on_gpu else {}
    return load_contract('finger', {'video': video, **more})


def random_parts(layout_name: str, dtype: torch.dtype, offload: str, device: str) -> Any:
    """`WanParts` of a size with random weights; of the same speed as trained ones.

    Raises:
        MemoryNeedError: it does not fit this machine.
    """
    from vera_planner.wan.checkpoints import PlannerInfo, WanParts
    from vera_planner.wan.memory import Placement, choose_level, estimate
    from vera_planner.wan.model import WanDenoiser, build_transformer, build_vae
    from vera_planner.wan.text import MiniLmText

    layout, where = find_layout(layout_name), torch.device(device)
    need = estimate(layout, dtype, text=where.type == 'cuda')
    level = choose_level(need, where, offload, layout, dtype)
    first = torch.device('cpu') if level == 'group' else where
    parts = WanParts(
        denoiser=WanDenoiser(build_transformer(layout, first, dtype, seed=0), layout),
        vae=None if layout.vae == 'pixels' else build_vae(layout, where, seed=1),
        text=MiniLmText(layout.text_length) if layout.text == 'minilm' else _random_umt5(dtype),
        image=None,  # an image branch gets zeros, which take it as long
        info=PlannerInfo(Path(layout_name), layout, source='random weights'),
    )
    parts.placement = Placement(parts, where, level)
    return parts


def _random_umt5(dtype: torch.dtype) -> Any:
    """The text encoder of Wan with random weights, made at the first prompt."""
    from vera_planner.wan.text import Umt5Text

    def load() -> tuple[Any, Callable[..., Any]]:
        from transformers import UMT5Config, UMT5EncoderModel

        config = UMT5Config(
            vocab_size=256384, d_model=4096, d_kv=64, d_ff=10240, num_layers=24, num_heads=64,
            feed_forward_proj='gated-gelu',
        )  # fmt: skip
        default = torch.get_default_dtype()
        torch.set_default_dtype(dtype)
        try:
            model = UMT5EncoderModel(config)
        finally:
            torch.set_default_dtype(default)

        def tokenizer(prompt: str, **_: Any) -> dict[str, torch.Tensor]:
            ids = torch.tensor([[ord(c) % 256384 for c in prompt[:512]] or [1]])
            return {'input_ids': ids, 'attention_mask': torch.ones_like(ids)}

        return model, tokenizer

    return Umt5Text(load)


def make_planner(
    size: str, checkpoint: str, chosen: Variant, contract: Contract, steps: int, threads: int
) -> WanPlanner:
    """A Wan planner as a variant says; of random weights unless there is a checkpoint."""
    on_gpu = torch.cuda.is_available()
    if chosen.offload and not on_gpu:
        raise BenchError('without a GPU there is nothing to offload from')
    speed = SpeedOptions()
    if chosen.speed:
        from vera_core.contract_reader import build

        speed = build(SpeedOptions, chosen.speed)
    if not on_gpu and speed.processes > 1:
        speed = replace(speed, processes=2)
    sampling = {'steps': steps, **chosen.sampling}
    if checkpoint:
        options = WanOptions(
            checkpoint, dtype=chosen.dtype, offload=chosen.offload or 'auto', sampling=sampling,
            speed=speed,
        )  # fmt: skip
        return WanPlanner.load(options, contract, threads=threads)
    torch.set_num_threads(threads)
    name = chosen.dtype or ('bfloat16' if on_gpu else 'float32')
    device = 'cuda' if on_gpu else 'cpu'
    opened = partial(_opened, size, getattr(torch, name), chosen.offload or 'auto')
    latents = {'context': 6 if on_gpu else 3}
    return WanPlanner.assemble(
        opened, contract, sampling_options(latents, sampling), speed, device
    )


def _opened(size: str, dtype: torch.dtype, offload: str, device: Any) -> Any:
    return random_parts(size, dtype, offload, str(device))


def _translated(contract: Contract) -> Callable[[Image, Image], NDArray[np.float64]]:
    from vera_jidm.registry import make_translator

    translator = make_translator(contract.defaults.translator, contract)
    state = contract.home_positions if translator.needs_state else None

    def actions(anchor: Image, frames: Image) -> NDArray[np.float64]:
        values: NDArray[np.float64] = translator.translate(anchor, frames, state).values
        return values / contract.channel_scales

    return actions


def _percentile(values: Sequence[float], part: float) -> float:
    return round(1e3 * float(np.percentile(values, part)), 2)


def _memory() -> int:
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    import psutil

    return int(psutil.Process().memory_info().rss)


def _plans(
    planner: VideoPlanner, given: Sequence[Scene], repeats: int, warm: int, bar: Any
) -> tuple[list[Plan], list[dict[str, Any]]]:
    """Plans of the scenes; and of each plan its seconds, CPU seconds, and stages where told.

    With `warm` each starts from the plan that was made so many frames ago.
    """
    plans, times = [], []
    for index in range(max(repeats, len(given))):
        scene = given[index % len(given)]
        start = None
        if warm:
            earlier = replace(scene, context=scene.context[:-warm])
            start = planner.plan(earlier.context, scene.prompt, seed=mix(index, 1)).warm_start
        began, worked = time.perf_counter(), time.process_time()
        seed = index % len(given)
        plan = planner.plan(scene.context, scene.prompt, seed=seed, warm_start=start)
        all_of_it = {'all': time.perf_counter() - began, 'cpu': time.process_time() - worked}
        times.append({**getattr(planner, 'timings', {}), **all_of_it})
        if index < len(given):
            plans.append(plan)
        bar.update()
    return plans, times


def _row(name: str, steps: int, times: list[dict[str, Any]]) -> dict[str, Any]:
    row: dict[str, Any] = {'option': name, 'steps': steps}
    for part in (50, 95):
        row[f'p{part}_ms'] = _percentile([t['all'] for t in times], part)
    if not torch.cuda.is_available():
        row['cpu_p50_ms'] = _percentile([t['cpu'] for t in times], 50)
    for stage in ('text', 'encode', 'denoise', 'decode'):
        if stage in times[0]:
            row[f'{stage}_p50_ms'] = _percentile([t[stage] for t in times], 50)
    every = [second for t in times for second in t.get('steps', ())]
    if every:
        row['step_p50_ms'] = _percentile(every, 50)
        row['step_p95_ms'] = _percentile(every, 95)
    row['memory_mb'] = round(_memory() / 2**20)
    return row


def measure(
    size: str,
    options: Sequence[str] = (),
    *,
    checkpoint: str = '',
    repeats: int = 10,
    scene_count: int = 4,
    steps: int = FULL_STEPS,
    threads: int = 1,
    seed: int = 0,
    progress: bool = False,
    on_row: Callable[[dict[str, Any]], None] = lambda row: None,
) -> dict[str, Any]:
    """Latency of a size, and what each option does to it and to the plans.

    Args:
        size: one of SIZES.
        options: names of variants; the full one is always measured first.
        checkpoint: trained weights; random ones if empty (the U-Net has those that are shipped).
        repeats: timed plans of each variant, after one that is not.
        scene_count: different scenes that plans are compared on.
        steps: of the full variant.
        threads: of torch, on the CPU.
        seed: of scenes and plans.
        progress: show a bar.
        on_row: called with each row.

    Returns:
        size, weights, device, threads, context and look-ahead, rows; an option that cannot be had
        here is a row with `skipped`, its reason.

    Raises:
        BenchError: an unknown size or option.
        CheckpointError, MemoryNeedError: of the full variant.
    """
    if size not in SIZES:
        raise BenchError(f'unknown size {size!r}; known: {", ".join(SIZES)}')
    names = [FULL, *(name for name in dict.fromkeys(options) if name != FULL)]
    on_gpu = torch.cuda.is_available()
    size = ALIASES.get(size, size)
    if size == UNET:
        return _measure_unet(names, repeats, scene_count, steps, threads, seed, progress, on_row)
    chosen = {name: variant(name) for name in names}
    asked = size
    if not on_gpu and not checkpoint and size not in ON_A_CPU:
        size = 'tiny'
    look_ahead = _look_ahead(checkpoint) if checkpoint else LOOK_AHEAD
    contract = bench_contract(on_gpu and not checkpoint, look_ahead)
    committed = contract.video.committed
    given = scenes(contract, scene_count, contract.video.context, seed)
    actions = _translated(contract) if checkpoint else None
    comparison = Comparison(given, actions, committed)
    rows: list[dict[str, Any]] = []
    row: dict[str, Any]
    count = max(repeats, scene_count) + 1
    for name in names:
        planner = None
        bar = tqdm(total=count, desc=name, disable=not progress, leave=False)
        if on_gpu:
            torch.cuda.reset_peak_memory_stats()
        try:
            planner = make_planner(size, checkpoint, chosen[name], contract, steps, threads)
            # Measures, compiles and calibrates what is measured once.
            planner.plan(given[0].context, given[0].prompt)
            bar.update()
            plans, times = _plans(
                planner, given, repeats, committed if name == 'warm-start' else 0, bar
            )
        except (ValueError, RuntimeError, ImportError) as error:
            if name == FULL:
                raise
            row = {'option': name, 'skipped': str(error).splitlines()[0]}
        else:
            if name == FULL:
                comparison.take_reference(plans)
            row = _row(name, len(times[-1]['steps']), times)
            if name != FULL:
                row |= comparison.row(plans)
            saved = getattr(planner.hooks, 'saved', None)
            if saved is not None:
                row['cache_saved'] = round(saved, 3)
        finally:
            bar.close()
            if planner is not None:
                planner.close()
            del planner
            gc.collect()
            if on_gpu:
                torch.cuda.empty_cache()
        rows.append(row)
        on_row(row)
    return {
        'size': size,
        'asked': asked,
        'weights': checkpoint or 'random',
        'device': torch.cuda.get_device_name() if on_gpu else 'cpu',
        'threads': threads,
        'canvas': [contract.canvas.height, contract.canvas.width],
        'context_frames': contract.video.context,
        'look_ahead_frames': contract.video.look_ahead,
        'committed_frames': committed,
        'rows': rows,
    }


def _look_ahead(checkpoint: str) -> int:
    """Frames that a checkpoint was trained to imagine, as far as it says."""
    from vera_planner.wan.checkpoints import locate

    info = locate(checkpoint)
    return int(info.sampling.get('look_ahead', 0)) * info.layout.stride[0] or LOOK_AHEAD


def _measure_unet(
    names: Sequence[str],
    repeats: int,
    scene_count: int,
    steps: int,
    threads: int,
    seed: int,
    progress: bool,
    on_row: Callable[[dict[str, Any]], None],
) -> dict[str, Any]:
    """The shipped compact planner: its own steps, and others, against those of the full variant."""
    from vera_planner.compact import STEPS, CompactPlanner
    from vera_planner.registry import make_planner as shipped

    taken = {FULL: steps, 'shipped': STEPS}
    for name in names[1:]:
        if not name.startswith('steps-') or not name[6:].isdigit() or int(name[6:]) < 1:
            raise BenchError(f'option {name!r}: the compact U-Net knows steps-N only')
        taken[name] = int(name[6:])
    contract = load_contract('finger')
    given = scenes(contract, scene_count, contract.video.context, seed)
    comparison = Comparison(given, _translated(contract), contract.video.committed)
    rows = []
    for name, count in taken.items():
        planner = shipped(
            'compact', contract, checkpoint='compact_finger', steps=count, threads=threads
        )
        planner.plan(given[0].context, given[0].prompt)
        bar = tqdm(
            total=max(repeats, scene_count), desc=name, disable=not progress, leave=False
        )
        plans, times = _plans(planner, given, repeats, 0, bar)
        bar.close()
        row = _row(name, count, times)
        if name == FULL:
            comparison.take_reference(plans)
        else:
            row |= comparison.row(plans)
        rows.append(row)
        on_row(row)
    assert isinstance(planner, CompactPlanner)
    return {
        'size': UNET,
        'asked': UNET,
        'weights': planner.checkpoint_hash,
        'device': 'cpu',
        'threads': threads,
        'canvas': [contract.canvas.height, contract.canvas.width],
        'context_frames': contract.video.context,
        'look_ahead_frames': contract.video.look_ahead,
        'committed_frames': contract.video.committed,
        'rows': rows,
    }


def text_of(row: dict[str, Any]) -> str:
    """One line of the table."""
    if 'skipped' in row:
        return f'{row["option"]:<17} not here: {row["skipped"]}'
    stages = '  '.join(
        f'{name} {row[key]:.1f}'
        for name, key in (
            ('text', 'text_p50_ms'), ('encode', 'encode_p50_ms'), ('step', 'step_p50_ms'),
            ('decode', 'decode_p50_ms'),
        )
        if key in row
    )  # fmt: skip
    line = f'{row["option"]:<17} p50 {row["p50_ms"]:8.1f} ms  p95 {row["p95_ms"]:8.1f} ms  {stages}'
    for name, key, form in (
        ('CPU', 'cpu_p50_ms', '{:.1f} ms'),
        ('PSNR', 'psnr_db', '{:.1f} dB'),
        ('SSIM', 'ssim', '{:.4f}'),
        ('latents off by', 'latent_error', '{:.1%}'),
        ('action MSE', 'action_mse', '{:.2g}'),
        ('LPIPS', 'lpips', '{:.3f}'),
        ('skipped', 'cache_saved', '{:.0%}'),
    ):
        if key in row:
            line += f'  {name} {form.format(row[key])}'
    return f'{line}  {row["memory_mb"]} MB'


__all__ = ['SIZES', 'UNET', 'VARIANTS', 'BenchError', 'Variant', 'measure', 'text_of']
