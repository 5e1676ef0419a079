"""Planner folders: written, opened, damaged, and hub models without a hub."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from vera_core.checkpoint import CheckpointError
from vera_planner.wan import checkpoints, hub, memory
from vera_planner.wan.checkpoints import open_planner, read_planner, write_planner
from vera_planner.wan.layouts import LAYOUTS, LayoutError, WanLayout
from vera_planner.wan.model import (
    DenoiserInputError,
    WanDenoiser,
    build_transformer,
    build_vae,
    transformer_config,
)

TINY = LAYOUTS['tiny']
COMMIT = 'a' * 40


class Words:
    """Stands for a text encoder where the test is about something else."""

    dim, length = TINY.text_dim, TINY.text_length

    def __call__(self, prompt: str) -> torch.Tensor:
        return torch.full((self.length, self.dim), len(prompt) / 100)


def make(folder: Path, layout: WanLayout = TINY, **kwargs) -> WanDenoiser:
    denoiser = WanDenoiser(build_transformer(layout, seed=1), layout)
    vae = None if layout.vae == 'pixels' else build_vae(layout, seed=2)
    write_planner(folder, denoiser, vae, **kwargs)
    return denoiser


def inputs(layout: WanLayout = TINY):
    generator = torch.Generator().manual_seed(0)
    latents = torch.randn(2, layout.latent_channels, 3, 4, 8, generator=generator)
    levels = torch.rand(2, 3, generator=generator)
    text = torch.randn(2, 5, layout.text_dim, generator=generator)
    return latents, levels, text


def test_a_planner_opens_as_it_was_written(tmp_path, capsys):
    folder = tmp_path / 'p'
    denoiser = make(
        folder,
        contract={'frame_period': 0.1},
        sampling={'steps': 7},
        licence='Apache-2.0',
        training={'steps': 3},
        shard_size='200KB',
    )
    assert len(list((folder / 'transformer').glob('*.safetensors'))) > 2, 'it was to be sharded'
    parts = open_planner(str(folder), device='cpu', text=Words())
    said = capsys.readouterr().err
    assert 'p: licence Apache-2.0' in said
    assert 'GB on disk' in said
    with torch.no_grad():
        assert torch.equal(parts.denoiser(*inputs()), denoiser(*inputs()))
        z = torch.randn(1, 16, 2, 2, 2)
        expected = build_vae(TINY, seed=2).decode(z).sample
        assert torch.equal(parts.vae.decode(z).sample, expected)
    assert parts.info.contract == {'frame_period': 0.1}
    assert parts.info.sampling == {'steps': 7}
    assert parts.info.layout == TINY
    assert len(parts.info.short_hash) == 16


def test_bfloat16_keeps_in_float32_what_diffusers_keeps(tmp_path):
    make(tmp_path / 'p')
    parts = open_planner(str(tmp_path / 'p'), device='cpu', dtype=torch.bfloat16, text=Words())
    import diffusers

    reference = diffusers.WanTransformer3DModel.from_pretrained(
        tmp_path / 'p' / 'transformer', dtype=torch.bfloat16
    )
    ours = parts.denoiser.transformer
    kinds = {name: p.dtype for name, p in ours.named_parameters()}
    assert kinds == {name: p.dtype for name, p in reference.named_parameters()}
    assert set(kinds.values()) == {torch.float32, torch.bfloat16}
    with torch.no_grad():
        a, b = (WanDenoiser(m, TINY)(*inputs()) for m in (ours, reference.eval()))
    assert torch.equal(a, b)
    assert a.dtype == torch.float32
    assert next(parts.vae.parameters()).dtype == torch.float32


def test_writing_again_replaces_and_leaves_nothing_behind(tmp_path):
    make(tmp_path / 'p', training={'steps': 1})
    make(tmp_path / 'p', training={'steps': 2})
    assert read_planner(tmp_path / 'p').training == {'steps': 2}
    assert [path.name for path in tmp_path.iterdir()] == ['p']
    with pytest.raises(CheckpointError, match='plain data'):
        make(tmp_path / 'p', training={'loss': float('nan')})
    assert read_planner(tmp_path / 'p').training == {'steps': 2}


def _break_hash(folder: Path) -> None:
    file = next((folder / 'transformer').glob('*.safetensors'))
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)


def _other_layout(folder: Path) -> None:
    path = folder / 'planner.json'
    data = json.loads(path.read_text())
    data['layout']['layers'] = 3
    path.write_text(json.dumps(data))


def _unknown_field(folder: Path) -> None:
    path = folder / 'planner.json'
    data = json.loads(path.read_text())
    data['layout']['width'] = 3
    path.write_text(json.dumps(data))


def _no_vae(folder: Path) -> None:
    for file in (folder / 'vae').iterdir():
        file.unlink()
    (folder / 'vae').rmdir()
    path = folder / 'planner.json'
    data = json.loads(path.read_text())
    data['sha256'] = {k: v for k, v in data['sha256'].items() if not k.startswith('vae')}
    path.write_text(json.dumps(data))


def _garbage(folder: Path) -> None:
    (folder / 'planner.json').write_text('{')


@pytest.mark.parametrize(
    ('damage', 'said'),
    [
        (_break_hash, 'damaged'),
        (_other_layout, r'missing \(blocks\.2\.'),
        (_unknown_field, 'unknown width'),
        (_no_vae, 'its vae is not at'),
        (_garbage, 'cannot be read'),
    ],
)
def test_damage_is_named(tmp_path, damage, said):
    make(tmp_path / 'p')
    damage(tmp_path / 'p')
    with pytest.raises(CheckpointError, match=said):
        open_planner(str(tmp_path / 'p'), device='cpu', text=Words())


def test_a_name_is_looked_for_in_the_folders_of_checkpoints(tmp_path, monkeypatch):
    make(tmp_path / 'here' / 'mine')
    monkeypatch.setenv('VERA_CHECKPOINT_PATH', str(tmp_path / 'here'))
    assert checkpoints.locate('mine').folder == tmp_path / 'here' / 'mine'
    assert [f.name for f in checkpoints.planner_folders()] == ['mine']
    with pytest.raises(CheckpointError, match=r'(?s)not found.*vera models import'):
        checkpoints.locate('yours')


def test_a_folder_of_diffusers_opens_without_planner_json(tmp_path):
    layout = WanLayout('custom', 48, 96, 4, 2, text_dim=384)
    folder = tmp_path / 'm'
    build_transformer(layout, seed=1).save_pretrained(folder / 'transformer')
    build_vae(layout_small_vae(layout), seed=2).save_pretrained(folder / 'vae')
    parts = open_planner(str(folder), device='cpu', text=Words())
    assert parts.info.layout == layout
    assert parts.denoiser(*inputs(layout)).shape == inputs(layout)[0].shape


def layout_small_vae(layout: WanLayout) -> WanLayout:
    return replace(layout, vae_width=8)


@pytest.mark.parametrize('name', [n for n, v in LAYOUTS.items() if v.hub_id])
def test_published_configurations_are_recognised(tmp_path, name):
    layout = LAYOUTS[name]
    config = {
        k: list(v) if isinstance(v, tuple) else v for k, v in transformer_config(layout).items()
    }
    config['_class_name'] = (
        'SkyReelsV2Transformer3DModel' if layout.family == 'skyreels' else 'WanTransformer3DModel'
    )
    path = tmp_path / 'config.json'
    path.write_text(json.dumps(config))
    assert checkpoints.layout_of_config(path) == layout
    path.write_text(json.dumps({**config, 'qk_norm': None}))
    with pytest.raises(CheckpointError, match='qk_norm None'):
        checkpoints.layout_of_config(path)
    path.write_text(json.dumps({'_class_name': config['_class_name']}))
    with pytest.raises(CheckpointError, match='num_attention_heads'):
        checkpoints.layout_of_config(path)
    path.write_text(json.dumps({**config, '_class_name': 'FluxTransformer2DModel'}))
    with pytest.raises(CheckpointError, match='FluxTransformer2DModel'):
        checkpoints.layout_of_config(path)


class FakeHub:
    """A hub with one model, and a connection that can be cut."""

    def __init__(self, model: Path, cache: Path, licence: str) -> None:
        self.model, self.cache, self.licence, self.connected = model, cache, licence, True
        self.asked: list[str] = []

    def model_info(self, repo, revision=None, files_metadata=False):
        if not self.connected:
            raise ConnectionError('Name or service not known')
        self.asked.append(revision)
        files = [
            SimpleNamespace(rfilename=p.relative_to(self.model).as_posix(), size=p.stat().st_size)
            for p in self.model.rglob('*')
            if p.is_file()
        ]
        card = SimpleNamespace(license=self.licence, license_name=None)
        return SimpleNamespace(sha=COMMIT, siblings=files, card_data=card)

    def snapshot_download(self, repo, revision=None, allow_patterns=(), local_files_only=False):
        from fnmatch import fnmatch

        from huggingface_hub.errors import LocalEntryNotFoundError

        assert revision == COMMIT, 'only commits are downloaded'
        folder = self.cache / revision
        if local_files_only:
            if not folder.is_dir():
                raise LocalEntryNotFoundError('not in the cache')
            return str(folder)
        if not self.connected:
            raise ConnectionError('Name or service not known')
        for path in self.model.rglob('*'):
            name = path.relative_to(self.model).as_posix()
            if path.is_file() and any(fnmatch(name, p) for p in allow_patterns):
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                (folder / name).write_bytes(path.read_bytes())
        return str(folder)


@pytest.fixture
def fake_hub(tmp_path, monkeypatch):
    import huggingface_hub

    layout = WanLayout('custom', 48, 96, 4, 2, text_dim=384)
    model = tmp_path / 'model'
    build_transformer(layout, seed=1).save_pretrained(model / 'transformer')
    build_vae(layout_small_vae(layout), seed=2).save_pretrained(model / 'vae')
    (model / 'README.md').write_text('---\nlicense: cc-by-nc-4.0\n---\n')
    fake = FakeHub(model, tmp_path / 'cache', 'cc-by-nc-4.0')
    monkeypatch.setattr(huggingface_hub, 'HfApi', lambda: fake)
    monkeypatch.setattr(huggingface_hub, 'snapshot_download', fake.snapshot_download)
    return fake


def test_a_hub_model_is_pinned_and_its_licence_said(fake_hub):
    said: list[str] = []
    parts = open_planner(f'some/model@{COMMIT}', device='cpu', text=Words(), tell=said.append)
    assert 'NON-COMMERCIAL: some/model is under cc-by-nc-4.0' in said[0]
    assert parts.info.revision == COMMIT
    assert parts.info.short_hash == COMMIT[:16]
    assert parts.info.name == 'some/model'
    # The second time nothing is asked of the hub, and the licence is known all the same.
    fake_hub.connected = False
    again = open_planner('some/model', COMMIT, device='cpu', text=Words(), tell=said.append)
    assert again.info.licence == 'cc-by-nc-4.0'
    assert said[2] == said[0]


def test_a_planner_of_ours_on_the_hub(fake_hub):
    """With its own description, hashes and no autoencoder, as `vera train video` writes it."""
    import shutil

    layout = LAYOUTS['compact-pixels']
    shutil.rmtree(fake_hub.model)
    denoiser = make(fake_hub.model, layout, sampling={'steps': 3}, licence='Apache-2.0')
    parts = open_planner(f'some/model@{COMMIT}', device='cpu', text=Words())
    assert parts.vae is None
    assert parts.info.layout == layout
    assert parts.info.sampling == {'steps': 3}
    assert parts.info.name == 'some/model'
    with torch.no_grad():
        assert torch.equal(parts.denoiser(*inputs(layout)), denoiser(*inputs(layout)))


def test_encoders_that_cannot_be_had_are_missed_when_opening_not_at_the_first_prompt(fake_hub):
    with pytest.raises(CheckpointError, match=r'text_encoder: some/model .* has no text_encoder/'):
        open_planner(f'some/model@{COMMIT}', device='cpu')


def test_the_licence_of_weights_that_only_look_published_is_not_assumed(tmp_path, capsys):
    layout = WanLayout('custom', 48, 96, 4, 2, text_dim=384)
    build_transformer(layout, seed=1).save_pretrained(tmp_path / 'm' / 'transformer')
    assert checkpoints.locate(str(tmp_path / 'm')).licence == ''
    (tmp_path / 'm' / 'README.md').write_text('---\nlicense: mit\n---\n')
    assert checkpoints.locate(str(tmp_path / 'm')).licence == 'mit'
    make(tmp_path / 'p')
    open_planner(str(tmp_path / 'p'), device='cpu', text=Words())
    assert 'licence unknown' in capsys.readouterr().err


@pytest.mark.skipif(torch.cuda.is_available(), reason='there is a GPU')
def test_a_gpu_that_is_not_there(tmp_path):
    make(tmp_path / 'p')
    with pytest.raises(memory.MemoryNeedError, match='torch sees no GPU'):
        open_planner(str(tmp_path / 'p'), device='cuda', text=Words())


def test_a_moving_revision_is_refused_unless_asked_for(fake_hub):
    for revision in (None, 'main', 'v1', 'abc1234'):
        with pytest.raises(CheckpointError, match='pinned to a commit'):
            checkpoints.locate('some/model', revision)
    assert not fake_hub.asked, 'nothing was downloaded'
    assert checkpoints.locate('some/model', 'main', moving=True).revision == COMMIT


def test_without_a_connection_the_message_says_how_to_bring_it(fake_hub):
    fake_hub.connected = False
    with pytest.raises(CheckpointError, match=r'not in the cache.*hf download some/model'):
        open_planner(f'some/model@{COMMIT}', device='cpu', text=Words())


def test_a_model_larger_than_the_disk_is_not_downloaded(fake_hub, monkeypatch):
    monkeypatch.setattr(hub.shutil, 'disk_usage', lambda path: SimpleNamespace(free=1000))
    with pytest.raises(CheckpointError, match='on disk'):
        open_planner(f'some/model@{COMMIT}', device='cpu', text=Words())
    assert not fake_hub.cache.exists()


def test_a_download_that_was_interrupted_is_not_taken_for_whole(fake_hub):
    transformer = fake_hub.model / 'transformer'
    single = transformer / 'diffusion_pytorch_model.safetensors'
    single.unlink()
    layout = WanLayout('custom', 48, 96, 4, 2, text_dim=384)
    build_transformer(layout, seed=1).save_pretrained(transformer, max_shard_size='200KB')
    checkpoints.locate(f'some/model@{COMMIT}')
    shard = next((fake_hub.cache / COMMIT / 'transformer').glob('*-00002-*.safetensors'))
    shard.unlink()
    open_planner(f'some/model@{COMMIT}', device='cpu', text=Words())
    assert shard.is_file()


def test_what_does_not_fit_is_refused_before_loading_with_advice(tmp_path, monkeypatch):
    make(tmp_path / 'p')
    monkeypatch.setattr(memory, 'free_memory', lambda device: 1000)
    loaded = []
    monkeypatch.setattr(checkpoints, 'load_transformer', lambda *a: loaded.append(a))
    with pytest.raises(memory.MemoryNeedError, match=r'bfloat16, half as much.*vera serve planner'):
        open_planner(str(tmp_path / 'p'), device='cpu', text=Words())
    assert not loaded


@pytest.mark.parametrize(
    ('latents', 'levels', 'text', 'said'),
    [
        ((1, 8, 2, 4, 4), (1, 2), (1, 4, 384), r'expected \[B, 16'),
        ((1, 16, 2, 3, 4), (1, 2), (1, 4, 384), 'multiples of 2'),
        ((1, 16, 2, 4, 4), (1, 3), (1, 4, 384), 'one for each frame'),
        ((1, 16, 2, 4, 4), (1, 2), (1, 99, 384), 'at most 24'),
        ((2, 16, 2, 4, 4), (2, 2), (1, 4, 384), r'expected \[2'),
    ],
)
def test_the_denoiser_names_shapes_that_do_not_fit(latents, levels, text, said):
    denoiser = WanDenoiser(build_transformer(TINY, seed=1), TINY)
    with pytest.raises(DenoiserInputError, match=said):
        denoiser(torch.zeros(latents), torch.zeros(levels), torch.zeros(text))


@pytest.mark.parametrize(
    'wrong',
    [
        {'dim': 50},
        {'vae': 'wan3'},
        {'out_channels': 8},
        {'in_channels': 8},
        {'image_dim': 1280},
        {'text': 'bert'},
        {'family': 'cosmos'},
    ],
)
def test_sizes_that_cannot_be_built_are_refused_by_field(wrong):
    with pytest.raises(LayoutError, match=next(iter(wrong))):
        replace(TINY, **wrong)


def test_layouts_survive_json():
    for layout in LAYOUTS.values():
        assert WanLayout.from_dict(json.loads(json.dumps(layout.as_dict()))) == layout


def test_published_sizes_have_their_published_weights():
    counts = {
        name: round(
            sum(p.numel() for p in build_transformer(LAYOUTS[name], 'meta').parameters()) / 1e9, 1
        )
        for name in ('t2v-1.3b', 't2v-14b', 'i2v-14b', 'ti2v-5b', 'skyreels-df-1.3b')
    }
    assert counts == {
        't2v-1.3b': 1.4, 't2v-14b': 14.3, 'i2v-14b': 16.4, 'ti2v-5b': 5.0, 'skyreels-df-1.3b': 1.4,
    }  # fmt: skip
    compact = LAYOUTS['compact']
    both = (build_transformer(compact, 'meta'), build_vae(compact, 'meta'))
    assert sum(p.numel() for m in both for p in m.parameters()) <= 6e6


def test_one_level_per_frame_is_one_level_per_token():
    """Frames of equal levels: the same as one level for the whole video, Wan's own forward pass."""
    denoiser = WanDenoiser(build_transformer(TINY, seed=1), TINY)
    latents, _, text = inputs()
    with torch.no_grad():
        ours = denoiser(latents, torch.full((2, 3), 0.4), text)
        padded = torch.nn.functional.pad(text, (0, 0, 0, TINY.text_length - text.shape[1]))
        theirs = denoiser.transformer(latents, torch.tensor([400.0, 400.0]), padded).sample
        other = denoiser(latents, torch.tensor([[0.4, 0.4, 0.9]] * 2), text)
    assert (ours - theirs).abs().max() < 1e-5
    assert (ours - other).abs().max() > 1e-3
