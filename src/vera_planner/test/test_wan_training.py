"""Diffusion forcing of Wan planners: noise, loss, exact resume, adapters, what is written."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState

from vera_planner.clips import ClipWriter
from vera_planner.video_data.sources import VideoDataError
from vera_planner.wan import training
from vera_planner.wan.checkpoints import load_transformer, read_planner, verify
from vera_planner.wan.layouts import LAYOUTS, WanLayout
from vera_planner.wan.model import WanDenoiser, build_transformer
from vera_planner.wan.pixels import PixelCodec
from vera_planner.wan.recipe import Noise, Recipe, RecipeError, build_recipe, load_recipe
from vera_planner.wan.training import Trainer, forcing_loss, train, training_levels
from vera_planner.wan.training_data import Batch, LatentBatches, draw_context, precompute

SMALL = WanLayout(
    'test-pixels', 48, 96, 2, 2, in_channels=48, out_channels=48, text_dim=384, text_length=24,
    freq_dim=32, vae='pixels', text='minilm', predicts='clean',
)  # fmt: skip
CONFIG = Path(__file__).parents[3] / 'config' / 'planners'


class Words:
    """Stands for the text encoder: a fixed token for each word."""

    dim, length = 384, 24

    def __call__(self, prompt: str) -> torch.Tensor:
        tokens = torch.zeros(self.length, self.dim)
        for row, word in zip(tokens, prompt.split(), strict=False):
            row[:] = torch.from_numpy(np.random.default_rng(list(word.encode())).normal(size=384))
        return tokens


@pytest.fixture(autouse=True)
def fresh(monkeypatch):
    """One torch thread, no state of the training before, words without their encoder."""
    monkeypatch.setitem(LAYOUTS, SMALL.name, SMALL)
    torch.set_num_threads(1)
    AcceleratorState._reset_state(reset_partial_state=True)
    monkeypatch.setattr(training, 'MiniLmText', lambda length: Words())
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.fixture(scope='module')
def clips(tmp_path_factory):
    """A bright square that goes left or right, as its caption says."""
    folder = tmp_path_factory.mktemp('videos') / 'clips'
    contract = {
        'canvas': {'height': 32, 'width': 32},
        'cameras': [{'name': 'top', 'crop': None, 'canvas_width': 32}],
        'frame_period': 0.2,
    }
    writer = ClipWriter(folder, contract, {'seed': 0})
    frames = np.full((16, 14, 32, 32, 3), 40, np.uint8)
    index = np.zeros((16, 3), np.int32)
    for i in range(16):
        right, y = i % 2, 2 + i
        for k in range(14):
            x = 12 + (2 * right - 1) * (k * 3 // 4)
            frames[i, k, y : y + 8, x : x + 8] = 230
        index[i] = 14, 0, writer.group(['go right'] if right else ['go left'])
    writer.write(frames, index)
    return folder


def recipe(clips: Path, **changes) -> Recipe:
    """Eight frames of pixels on a tiny transformer."""
    return build_recipe({
        'name': 'small', 'layout': 'test-pixels', 'steps': 6, 'frame_period': 0.2,
        'canvas': {'height': 32, 'width': 32}, 'context': 2, 'look_ahead': 2, 'committed': 2,
        'data': [{'kind': 'clips', 'path': str(clips)}],
        'optimiser': {'rate': 0.003, 'warm_up': 3, 'batch': 2, 'accumulate': 2},
        'precision': 'fp32', 'gradient_checkpointing': 0.5, 'save_every': 100, **changes,
    })  # fmt: skip


def weights(trainer: Trainer) -> dict[str, torch.Tensor]:
    return {k: v.detach().clone() for k, v in trainer.frozen.denoiser.state_dict().items()}


def assert_same(a: dict, b: dict, **tolerance) -> None:
    assert a.keys() == b.keys()
    for key, value in a.items():
        torch.testing.assert_close(value, b[key], **tolerance, msg=lambda m, k=key: f'{k}: {m}')


def test_levels_are_one_for_the_context_and_one_for_the_future():
    noise = Noise(clean_first=0.3)
    levels = training_levels(noise, tuple(range(4000)), seed=1, context=3, look_ahead=4)
    assert levels.shape == (4000, 7)
    assert (levels[:, 1] == levels[:, 2]).all() and (levels[:, 3:] == levels[:, 3:4]).all()
    clean = levels[:, 0] == 0
    assert float(clean.float().mean()) == pytest.approx(0.3, abs=0.03)
    assert (levels[~clean, 0] == levels[~clean, 1]).all()
    # t' = 3 t / (1 + 2 t) of a uniform t has the distribution function t' / (3 - 2 t').
    for t in (0.2, 0.5, 0.9):
        share = float((levels[:, 4] < t).float().mean())
        assert share == pytest.approx(t / (3 - 2 * t), abs=0.03)
    correlation = np.corrcoef(levels[:, 1].numpy(), levels[:, 4].numpy())[0, 1]
    assert abs(correlation) < 0.05


def test_loss_is_the_error_of_the_velocity_on_the_future_alone():
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(2, 16, 5, 4, 4, generator=generator)
    eps = torch.randn(2, 16, 5, 4, 4, generator=generator)
    levels = torch.rand(2, 5, generator=generator)
    seen = {}

    def model(latents, levels, text, image):
        seen['latents'] = latents
        guess = eps - z + 0.5
        guess[:, :, :2] += 100  # whatever it says of the context
        return guess

    batch = Batch(z, 2, torch.zeros(2, 3, 8), None, (0, 1))
    assert float(forcing_loss(model, batch, levels, eps)) == pytest.approx(0.25, rel=1e-4)
    for b in range(2):
        for f in range(5):
            t = float(levels[b, f])
            expected = (1 - t) * z[b, :, f] + t * eps[b, :, f]
            torch.testing.assert_close(seen['latents'][b, :, f], expected)
    assert float(forcing_loss(model, batch, levels, eps, 8.0)) == pytest.approx(0.25, rel=1e-4)


def test_emphasis_weighs_what_changes():
    z = torch.zeros(1, 4, 2, 4, 4)
    z[:, :, 1, 0] = 1
    levels, eps = torch.full((1, 2), 0.5), torch.zeros(1, 4, 2, 4, 4)
    batch = Batch(z, 1, torch.zeros(1, 1, 8), None, (0,))

    def wrong_at(row):
        off = torch.zeros_like(z)
        off[:, :, 1, row] = 1
        return float(forcing_loss(lambda *a: eps - z + off, batch, levels, eps, 8.0))

    assert wrong_at(0) == pytest.approx(9 * wrong_at(3))


def test_history_is_whole_half_of_the_time_and_else_shorter(clips):
    some = recipe(clips, context=4, noise={'full_context': 0.5})
    drawn = [draw_context(some, i, 4) for i in range(600)]
    assert drawn == [draw_context(some, i, 4) for i in range(600)]
    counts = np.bincount(drawn, minlength=5)[1:] / 600
    np.testing.assert_allclose(counts, [1 / 6, 1 / 6, 1 / 6, 1 / 2], atol=0.06)


def test_fifty_steps_lower_the_loss_and_leave_a_planner(clips, tmp_path):
    some = recipe(
        clips, steps=50, ema=0.9, emphasis=4.0,
        sampling={'steps': 2, 'text_guidance': 0.0, 'history_guidance': 0.0},
        validation={
            'data': [{'kind': 'clips', 'path': str(clips)}], 'windows': 4, 'every': 25,
            'sample_steps': 2,
        },
    )  # fmt: skip
    before = Trainer(some, tmp_path / 'x')
    untrained = before.validate()['held_out_loss']
    result = train(some, tmp_path / 'run', command='vera train video', tensorboard=True)
    assert result['step'] == 50
    assert result['held_out_loss'] < 0.7 * untrained
    rows = json.loads((tmp_path / 'run' / 'curve.json').read_text())
    assert [row['step'] for row in rows] == [25, 50] and rows[1]['loss'] < rows[0]['loss']
    assert {'psnr_first_right', 'psnr_last_right', 'psnr_first_wrong'} <= rows[1].keys()
    assert len(list((tmp_path / 'run' / 'samples').glob('*.png'))) >= 1
    assert list((tmp_path / 'run').glob('events.out.tfevents.*'))

    info = read_planner(Path(result['planner']))
    assert info.layout == SMALL and not verify(info)
    assert info.sampling == {
        'context': 2, 'look_ahead': 2, 'shift': 3.0, 'steps': 2, 'text_guidance': 0.0,
        'history_guidance': 0.0,
    }  # fmt: skip
    assert info.contract is not None and info.contract['frame_period'] == 0.2
    assert info.training['command'] == 'vera train video' and info.training['steps'] == 50
    assert build_recipe(info.training['recipe']) == some
    loaded = load_transformer(info, torch.float32)
    assert sum(p.numel() for p in loaded.parameters()) > 5e4


def test_a_run_cut_in_two_equals_a_run_in_one(clips, tmp_path):
    some = recipe(clips, ema=0.9, optimiser={
        'rate': 0.003, 'warm_up': 3, 'batch': 2, 'accumulate': 2, 'schedule': 'cosine', 'clip': 1.0,
    })  # fmt: skip
    whole = Trainer(some, tmp_path / 'whole')
    whole.run()
    first = Trainer(some, tmp_path / 'cut')
    source = first.batches.iterate(0, 0, 1)
    for _ in range(3):
        first.train_step([next(source), next(source)])
    first.save()
    second = Trainer(some, tmp_path / 'cut')
    second.resume()
    assert second.step == 3
    second.run()
    assert_same(weights(whole), weights(second), rtol=0, atol=0)
    assert_same(whole.average.means, second.average.means, rtol=0, atol=0)
    one, two = (read_planner(tmp_path / name / 'small') for name in ('whole', 'cut'))
    assert one.sha256 == two.sha256


def test_a_resume_of_another_recipe_is_refused_by_the_key(clips, tmp_path):
    some = recipe(clips, steps=1)
    train(some, tmp_path)
    with pytest.raises(RecipeError, match='go on with --resume'):
        train(some, tmp_path)
    with pytest.raises(RecipeError, match='trained with look_ahead = 2, not 3'):
        train(replace(some, look_ahead=3), tmp_path, resume=True)
    with pytest.raises(RecipeError, match=r"trained with optimiser.*'accumulate': 2"):
        other = replace(some.optimiser, accumulate=3)
        train(replace(some, optimiser=other), tmp_path, resume=True)
    with pytest.raises(RecipeError, match='nothing to resume'):
        train(some, tmp_path / 'elsewhere', resume=True)
    train(replace(some, steps=2), tmp_path, resume=True)  # a constant rate may go on for longer
    assert read_planner(tmp_path / 'small').training['steps'] == 2


def test_adapters_alone_are_trained_and_then_merged(clips, tmp_path):
    some = recipe(clips, steps=3, lora={'rank': 4, 'alpha': 8})
    trainer = Trainer(some, tmp_path)
    trained = [n for n, p in trainer.frozen.denoiser.named_parameters() if p.requires_grad]
    assert trained and all('lora_' in name for name in trained)
    blocks = len(trainer.frozen.denoiser.transformer.blocks)
    assert len(trained) == 2 * blocks * (2 * 4 + 2)
    before = weights(trainer)
    trainer.run()
    after = weights(trainer)
    for name, value in after.items():
        changed = not torch.equal(value, before[name])
        assert changed == ('lora_B' in name or 'lora_A' in name), name
    # What is written gives what the adapted model gives.
    info = read_planner(tmp_path / 'small')
    plain = WanDenoiser(load_transformer(info, torch.float32), some.size)
    batch = next(trainer.batches.iterate(0, 0, 1))
    levels = torch.full((2, batch.latents.shape[2]), 0.5)
    with torch.no_grad():
        ours = trainer.frozen.denoiser(batch.latents, levels, batch.text)
        theirs = plain(batch.latents, levels, batch.text)
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
    again = Trainer(some, tmp_path)
    again.resume()
    assert_same(weights(again), after, rtol=0, atol=0)


def test_under_adapters_what_is_frozen_takes_half_the_memory(clips, tmp_path):
    some = recipe(clips, steps=2, lora={'rank': 4, 'alpha': 4}, precision='bf16')
    trainer = Trainer(some, tmp_path)
    kinds = {n: p.dtype for n, p in trainer.frozen.denoiser.named_parameters()}
    assert all(kinds[n] == torch.float32 for n in kinds if 'lora_' in n)
    assert kinds['transformer.blocks.0.attn1.to_q.base_layer.weight'] == torch.bfloat16
    trainer.run()
    written = load_transformer(read_planner(tmp_path / 'small'), torch.float32)
    assert all(torch.isfinite(p).all() for p in written.parameters())


def test_processes_that_read_ahead_change_nothing(clips, tmp_path):
    some = recipe(clips)
    encoders = training.open_frozen(some, torch.device('cpu'), encoders=True).encoders
    alone = training.VideoBatches(some, encoders).iterate(2, 0, 1)
    ahead = training.VideoBatches(replace(some, workers=1), encoders).iterate(2, 0, 1)
    for _ in range(3):
        a, b = next(alone), next(ahead)
        assert a.indices == b.indices and a.context == b.context
        assert torch.equal(a.latents, b.latents) and torch.equal(a.text, b.text)


def test_an_adapter_without_a_place_is_refused(clips, tmp_path):
    with pytest.raises(RecipeError, match="no module 'to_z'"):
        Trainer(recipe(clips, lora={'rank': 4, 'targets': ['to_z']}), tmp_path)


def test_precomputed_latents_train_without_videos_or_encoders(clips, tmp_path, monkeypatch):
    some = recipe(clips, windows=70, steps=2, noise={'drop_caption': 0.3})
    frozen = training.open_frozen(some, torch.device('cpu'), encoders=True)
    assert precompute(some, frozen.encoders, tmp_path / 'latents', 0, 2) == 64
    with pytest.raises(VideoDataError, match='1 of 2 shards'):
        LatentBatches(some, tmp_path / 'latents')
    assert precompute(some, frozen.encoders, tmp_path / 'latents', 1, 2) == 6
    assert precompute(some, frozen.encoders, tmp_path / 'latents') == 0
    batches = LatentBatches(some, tmp_path / 'latents')
    assert batches.contract is not None
    mixture = training.VideoBatches(some, frozen.encoders).mixture
    source, empty = batches.iterate(0, 0, 1), 0
    for _ in range(8):
        batch = next(source)
        known = [
            frozen.encoders.latents(mixture.window(i, batch.context)).half().float()
            for i in range(70)
        ]
        for latents, text in zip(batch.latents, batch.text, strict=True):
            assert any(torch.equal(latents, k) for k in known if k.shape == latents.shape)
            empty += not text.any()
            if text.any():
                assert any(
                    torch.allclose(text, Words()(s), atol=1e-2) for s in ('go left', 'go right')
                )
    assert 0 < empty < 16
    monkeypatch.setattr(training, 'MiniLmText', None)  # must not be asked for
    gone = replace(some, precomputed=str(tmp_path / 'latents'))
    assert train(gone, tmp_path / 'run')['step'] == 2
    with pytest.raises(VideoDataError, match='precomputed with look_ahead = 2'):
        LatentBatches(replace(some, look_ahead=1, committed=1), tmp_path / 'latents')


def test_the_tiny_recipe_trains_through_a_video_autoencoder(clips, tmp_path):
    some = load_recipe(CONFIG / 'train_tiny.yaml', {
        'data': [{'kind': 'clips', 'path': str(clips)}], 'canvas': {'height': 32, 'width': 32},
        'steps': 2, 'optimiser.batch': 2,
    })  # fmt: skip
    result = train(some, tmp_path)
    info = read_planner(tmp_path / 'wan_tiny')
    assert result['step'] == 2 and info.layout.name == 'tiny' and not verify(info)
    assert (info.folder / 'vae' / 'config.json').is_file()


@pytest.mark.parametrize('layout', ['t2v-14b', 'i2v-14b', 't2v-1.3b', 'ti2v-5b'])
def test_the_tiny_recipe_with_another_size_is_the_recipe_of_that_size(layout):
    some = load_recipe(CONFIG / 'train_tiny.yaml', {'layout': layout})
    transformer = build_transformer(some.size, device='meta')
    least = {'t2v-14b': 14e9, 'i2v-14b': 16e9, 't2v-1.3b': 1.4e9, 'ti2v-5b': 4.9e9}[layout]
    assert sum(p.numel() for p in transformer.parameters()) > least
    assert training.checkpoint_blocks(transformer, 0.5) == some.size.layers // 2
    training.add_adapters(transformer, 8, 8, some.lora.targets if some.lora else ('to_q',))


@pytest.mark.parametrize('file', sorted(CONFIG.glob('train_*.yaml')), ids=lambda f: f.stem)
def test_shipped_recipes_are_sound_and_differ_only_in_values(file):
    some = load_recipe(file)
    assert build_recipe(some.to_dict()) == some


def test_what_is_wrong_in_a_recipe_is_named(clips, tmp_path):
    with pytest.raises(RecipeError, match="layout: unknown size 'huge'; known: tiny"):
        recipe(clips, layout='huge')
    with pytest.raises(RecipeError, match=r'canvas\.width: is 40 px; .* a multiple of 16'):
        recipe(clips, layout='tiny', canvas={'height': 32, 'width': 40})
    file = tmp_path / 'bad.yaml'
    file.write_text((CONFIG / 'train_tiny.yaml').read_text().replace('rate:', 'rte:'))
    with pytest.raises(RecipeError, match=r'bad\.yaml:\d+: optimiser\.rte: unknown key; did you'):
        load_recipe(file)
    with pytest.raises(RecipeError, match='fsdp spreads weights over GPUs'):
        Trainer(recipe(clips, fsdp={}), tmp_path, device='cpu')
    big = recipe(clips, layout='t2v-1.3b')
    with pytest.raises(RecipeError, match='needs an autoencoder: set `init`'):
        training.open_frozen(big, torch.device('cpu'), encoders=True, weights=False)
    some = recipe(clips, steps=1)
    train(some, tmp_path / 'a')
    wider = recipe(clips, layout='compact-pixels', init=str(tmp_path / 'a' / 'small'))
    with pytest.raises(RecipeError, match='is a test-pixels; the recipe says layout: compact'):
        Trainer(wider, tmp_path / 'b')


def test_weights_are_spread_block_by_block_with_levels_in_full_precision(clips):
    some = recipe(clips, fsdp={'sharding': 'grad'}, precision='bf16')
    plugin = training.fsdp_plugin(some, some.fsdp)
    assert plugin.fsdp_version == 2 and not plugin.reshard_after_forward
    assert plugin.transformer_cls_names_to_wrap == ['WanTransformerBlock']
    assert plugin.mixed_precision_policy == training.mixed_precision()


def test_training_goes_on_from_a_planner_with_its_licence(clips, tmp_path):
    train(recipe(clips, steps=1, licence='CC-BY-4.0'), tmp_path / 'a')
    some = recipe(clips, init=str(tmp_path / 'a' / 'small'), seed=5)
    trainer = Trainer(some, tmp_path / 'b')
    old = load_transformer(read_planner(tmp_path / 'a' / 'small'), torch.float32).state_dict()
    assert_same(old, trainer.frozen.denoiser.transformer.state_dict(), rtol=0, atol=0)
    trainer.export()
    info = read_planner(tmp_path / 'b' / 'small')
    assert info.licence == 'CC-BY-4.0' and info.source.endswith('a/small')


def test_a_loss_that_is_no_number_ends_the_training(clips, tmp_path):
    trainer = Trainer(recipe(clips), tmp_path)
    with torch.no_grad():
        trainer.frozen.denoiser.transformer.proj_out.weight.fill_(float('nan'))
    source = trainer.batches.iterate(0, 0, 1)
    with pytest.raises(RecipeError, match=r'step 1: the loss is nan; lower optimiser\.rate'):
        trainer.train_step([next(source)])


def test_what_a_transformer_puts_out_becomes_a_velocity():
    """The way to the noise, given clean latents or what they changed since the first one."""
    generator = torch.Generator().manual_seed(2)
    latents = torch.randn(1, 48, 3, 8, 8, generator=generator)
    levels = torch.tensor([[0.0, 0.6, 0.6]])
    text = torch.zeros(1, 2, 384)
    put_out = torch.randn(1, 48, 3, 8, 8, generator=generator)
    clean = {'velocity': None, 'clean': put_out, 'change': put_out + latents[:, :, :1]}
    for predicts, goal in clean.items():
        layout = replace(SMALL, predicts=predicts)
        denoiser = WanDenoiser(build_transformer(layout, seed=0), layout)
        denoiser.transformer.forward = lambda *_, **__: (put_out,)
        found = denoiser(latents, levels, text)
        expected = put_out if goal is None else (latents - goal) / 0.6
        torch.testing.assert_close(found[:, :, 1:], expected[:, :, 1:])


def test_pixels_as_latents_and_back():
    frames = np.random.default_rng(0).integers(0, 256, (3, 16, 24, 3)).astype(np.uint8)
    latents = PixelCodec().encode(frames)
    assert latents.shape == (48, 3, 4, 6) and float(latents.abs().max()) <= 1
    np.testing.assert_array_equal(PixelCodec().decode(latents, 3), frames)
    np.testing.assert_array_equal(PixelCodec().decode(latents, 1), frames[2:])
    with pytest.raises(ValueError, match='multiples of 4'):
        PixelCodec().encode(frames[:, :15])


WORKER = """
import sys
from pathlib import Path
sys.path.insert(0, {tests!r})
import torch
torch.set_num_threads(1)
import test_wan_training as t
t.training.MiniLmText = lambda length: t.Words()
t.LAYOUTS[t.SMALL.name] = t.SMALL
out, batch = Path(sys.argv[1]), int(sys.argv[2])
some = t.recipe(Path({clips!r}), steps=3, optimiser={{
    'rate': 0.003, 'warm_up': 0, 'batch': batch, 'accumulate': 2, 'clip': 1.0}},
    validation={{'data': [{{'kind': 'clips', 'path': {clips!r}}}], 'windows': 3, 'every': 2,
    'sample_steps': 1}})
t.train(some, out, device='cpu')
"""


@pytest.mark.slow
def test_two_processes_do_what_one_does_with_the_double_batch(clips, tmp_path):
    script = tmp_path / 'worker.py'
    script.write_text(WORKER.format(tests=str(Path(__file__).parent), clips=str(clips)))
    environment = {**os.environ, 'OMP_NUM_THREADS': '1', 'CUDA_VISIBLE_DEVICES': ''}
    launch = [sys.executable, '-m', 'torch.distributed.run', '--standalone']
    launch += ['--nproc_per_node', '2']
    for start, out, batch in ((launch, 'two', '1'), ([sys.executable], 'one', '2')):
        command = [*start, str(script), str(tmp_path / out), batch]
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=280, check=False
        )
        assert done.returncode == 0, done.stderr[-3000:]
    one, two = (
        load_transformer(read_planner(tmp_path / name / 'small'), torch.float32).state_dict()
        for name in ('one', 'two')
    )
    assert_same(one, two, rtol=1e-3, atol=1e-4)
    rows = [json.loads((tmp_path / name / 'curve.json').read_text())[-1] for name in ('one', 'two')]
    for key in ('loss',):
        assert rows[0][key] == pytest.approx(rows[1][key], rel=1e-3)


SHARDS = """
import sys
from pathlib import Path
sys.path.insert(0, {tests!r})
import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
import test_wan_training as t
from vera_planner.wan.training import mixed_precision
from vera_planner.wan.training_state import Average, gathered, load_state, save_state

torch.set_num_threads(1)
dist.init_process_group('gloo')
rank, mesh, out = dist.get_rank(), init_device_mesh('cpu', (2,)), Path(sys.argv[1])
t.LAYOUTS[t.SMALL.name] = t.SMALL
recipe = t.recipe(Path('unused'), ema=0.9)

class Accelerator:
    is_fsdp2, is_main_process = True, rank == 0
    wait_for_everyone = staticmethod(dist.barrier)

def make(policy):
    model = t.WanDenoiser(t.build_transformer(t.SMALL, seed=0), t.SMALL).train()
    for block in model.transformer.blocks:
        fully_shard(block, mesh=mesh, **policy)
    fully_shard(model, mesh=mesh, **policy)
    optimiser = torch.optim.AdamW(model.parameters(), lr=0.01)
    return model, optimiser, Average(model, 0.9)

def train(model, optimiser, average, steps, half):
    for step in steps:
        seed = torch.Generator().manual_seed(10 * step + rank)
        z, levels = (torch.randn(1, 48, 3, 8, 8, generator=seed),
                     torch.rand(1, 3, generator=seed))
        with torch.autocast('cpu', torch.bfloat16, enabled=half):
            v = model(z, levels, torch.randn(1, 24, 384, generator=seed))
        loss = v.pow(2).mean()
        loss.backward()
        optimiser.step()
        optimiser.zero_grad()
        average.update(step + 1)
    return float(loss.detach())

for name, policy in (('float', {{}}), ('half', {{'mp_policy': mixed_precision()}})):
    one, two, half = make(policy), make(policy), name == 'half'
    train(*one, range(2), half)
    progress = {{'step': 2, 'windows': 2, 'recipe': recipe.to_dict()}}
    save_state(out / name, *one, progress, Accelerator())
    first = gathered(one[0], Accelerator())
    if rank == 0:
        torch.save({{k: v.clone() for k, v in first.items()}}, out / f'{{name}}.pt')
    train(*one, range(2, 4), half)
    assert load_state(out / name, *two, recipe, 2)['step'] == 2
    loss = train(*two, range(2, 4), half)
    whole = []
    for model, _, average in (one, two):
        whole.append(gathered(model, Accelerator()))
        with average.applied():
            whole.append({{k: v.clone() for k, v in gathered(model, Accelerator()).items()}})
    if rank == 0:
        t.assert_same(whole[0], whole[2], rtol=0, atol=0)
        t.assert_same(whole[1], whole[3], rtol=0, atol=0)
        assert not torch.equal(whole[0]['proj_out.weight'], whole[1]['proj_out.weight'])
        print(name, loss)
    else:
        assert not whole[0]
dist.destroy_process_group()
"""


@pytest.mark.slow
def test_spread_weights_resume_exactly_and_on_another_number_of_processes(clips, tmp_path):
    script = tmp_path / 'worker.py'
    script.write_text(SHARDS.format(tests=str(Path(__file__).parent)))
    command = [sys.executable, '-m', 'torch.distributed.run', '--standalone']
    command += ['--nproc_per_node', '2', str(script), str(tmp_path)]
    environment = {**os.environ, 'OMP_NUM_THREADS': '1', 'CUDA_VISIBLE_DEVICES': ''}
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=280, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    losses = dict(line.split() for line in done.stdout.splitlines() if ' ' in line)
    assert float(losses['half']) == pytest.approx(float(losses['float']), rel=0.1)
    # Alone, what two processes saved.
    some = recipe(Path('unused'), ema=0.9)
    model = WanDenoiser(build_transformer(SMALL, seed=1), SMALL).train()
    optimiser = torch.optim.AdamW(model.parameters(), lr=0.01)
    progress = training.load_state(
        tmp_path / 'float', model, optimiser, training.Average(model, 0.9), some, 2
    )
    assert progress['step'] == 2
    saved = torch.load(tmp_path / 'float.pt', weights_only=True)
    assert_same(model.transformer.state_dict(), saved, rtol=0, atol=0)
    assert all(state['step'] == 2 for state in optimiser.state.values())
