"""Original Wan checkpoints become planners that compute the same.

`published` is a second implementation of the original network, with plain torch calls on the
published names and shapes, in float32, with one timestep for each latent frame.
"""

from __future__ import annotations

import json
import math
import os
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.nn import functional

from vera_core.checkpoint import CheckpointError
from vera_planner.wan import importer
from vera_planner.wan.checkpoints import load_transformer, read_planner, verify
from vera_planner.wan.importer import diffusers_name, import_planner
from vera_planner.wan.layouts import WanLayout
from vera_planner.wan.model import WanDenoiser, build_transformer

HEADS = 4
T2V = WanLayout('custom', 48, 96, HEADS, 2, text_dim=24, freq_dim=32)
I2V = WanLayout('custom', 48, 96, HEADS, 2, in_channels=36, text_dim=24, freq_dim=32, image_dim=20)
TI2V = WanLayout(
    'custom', 48, 96, HEADS, 2, in_channels=48, out_channels=48, text_dim=24, freq_dim=32,
    vae='wan2.2',
)  # fmt: skip


def original(layout: WanLayout, seed: int = 0) -> dict[str, torch.Tensor]:
    """Random weights by the original names and shapes."""
    generator = torch.Generator().manual_seed(seed)
    d, found = layout.dim, {}

    def linear(name: str, wide: int, deep: int) -> None:
        # Embeddings begin smaller in Wan, by about this factor.
        gain = 0.3 if 'embedding.' in name else 1
        weight = torch.randn(wide, deep, generator=generator) * gain / math.sqrt(deep)
        found[f'{name}.weight'] = weight
        found[f'{name}.bias'] = torch.randn(wide, generator=generator) * 0.1

    def norm(name: str, wide: int, bias: bool = True) -> None:
        found[f'{name}.weight'] = 1 + 0.2 * torch.randn(wide, generator=generator)
        if bias:
            found[f'{name}.bias'] = 0.1 * torch.randn(wide, generator=generator)

    linear('patch_embedding', d, layout.in_channels * 4)
    found['patch_embedding.weight'] = found['patch_embedding.weight'].reshape(
        d, layout.in_channels, 1, 2, 2
    )
    linear('text_embedding.0', d, layout.text_dim)
    linear('text_embedding.2', d, d)
    linear('time_embedding.0', d, layout.freq_dim)
    linear('time_embedding.2', d, d)
    linear('time_projection.1', 6 * d, d)
    for i in range(layout.layers):
        for kind in ('self_attn', 'cross_attn'):
            for name in 'qkvo':
                linear(f'blocks.{i}.{kind}.{name}', d, d)
            norm(f'blocks.{i}.{kind}.norm_q', d, bias=False)
            norm(f'blocks.{i}.{kind}.norm_k', d, bias=False)
        if layout.image_dim:
            linear(f'blocks.{i}.cross_attn.k_img', d, d)
            linear(f'blocks.{i}.cross_attn.v_img', d, d)
            norm(f'blocks.{i}.cross_attn.norm_k_img', d, bias=False)
        norm(f'blocks.{i}.norm3', d)
        linear(f'blocks.{i}.ffn.0', layout.ffn, d)
        linear(f'blocks.{i}.ffn.2', d, layout.ffn)
        found[f'blocks.{i}.modulation'] = torch.randn(1, 6, d, generator=generator) / math.sqrt(d)
    linear('head.head', layout.out_channels * 4, d)
    found['head.modulation'] = torch.randn(1, 2, d, generator=generator) / math.sqrt(d)
    if layout.image_dim:
        norm('img_emb.proj.0', layout.image_dim)
        linear('img_emb.proj.1', layout.image_dim, layout.image_dim)
        linear('img_emb.proj.3', d, layout.image_dim)
        norm('img_emb.proj.4', d)
    return found


def published(w, layout, x, timesteps, text, image=None):
    """The original network: x [B, C, F, h, w], timesteps [B, F], text [B, L, D] -> velocity."""
    d, heads = layout.dim, layout.heads
    width = d // heads
    batch, _, frames, height, wide = x.shape
    rows, columns = height // 2, wide // 2

    def linear(name, value):
        return functional.linear(value, w[f'{name}.weight'], w[f'{name}.bias'])

    def layer_norm(value, name=None, eps=1e-6):
        scale, shift = (w[f'{name}.weight'], w[f'{name}.bias']) if name else (None, None)
        return functional.layer_norm(value, value.shape[-1:], scale, shift, eps)

    def rms(value, name):
        size = value.pow(2).mean(-1, keepdim=True)
        return value * torch.rsqrt(size + 1e-6) * w[f'{name}.weight']

    def attend(q, k, v):
        q, k, v = (t.view(batch, -1, heads, width).transpose(1, 2) for t in (q, k, v))
        share = torch.softmax(q @ k.transpose(-1, -2) / math.sqrt(width), dim=-1)
        return (share @ v).transpose(1, 2).flatten(2)

    # Rotary positions: time, row and column each turn their share of a head's channel pairs.
    parts = (width - 4 * (width // 6), 2 * (width // 6), 2 * (width // 6))
    place = torch.cartesian_prod(*(torch.arange(n) for n in (frames, rows, columns))).double()
    angles = [
        place[:, axis : axis + 1] * 10000 ** (-torch.arange(0, part, 2).double() / part)
        for axis, part in enumerate(parts)
    ]
    turn = torch.polar(torch.ones(()).double(), torch.cat(angles, dim=1))[:, None]

    def rotate(value):
        pairs = torch.view_as_complex(value.double().view(batch, -1, heads, width // 2, 2))
        return torch.view_as_real(pairs * turn).flatten(2).float()

    tokens = functional.conv3d(x, w['patch_embedding.weight'], w['patch_embedding.bias'], (1, 2, 2))
    tokens = tokens.flatten(2).transpose(1, 2)
    half = layout.freq_dim // 2
    waves = timesteps.double()[..., None] * 10000 ** (-torch.arange(half).double() / half)
    waves = torch.cat([waves.cos(), waves.sin()], dim=-1).float()
    level = linear('time_embedding.2', functional.silu(linear('time_embedding.0', waves)))
    six = linear('time_projection.1', functional.silu(level)).view(batch, frames, 6, d)
    words = functional.pad(text, (0, 0, 0, layout.text_length - text.shape[1]))
    words = functional.gelu(linear('text_embedding.0', words), approximate='tanh')
    words = linear('text_embedding.2', words)
    if layout.image_dim:
        seen = functional.gelu(linear('img_emb.proj.1', layer_norm(image, 'img_emb.proj.0', 1e-5)))
        seen = layer_norm(linear('img_emb.proj.3', seen), 'img_emb.proj.4', 1e-5)

    def spread(value):
        return value.repeat_interleave(rows * columns, dim=1)

    for i in range(layout.layers):
        block = f'blocks.{i}'
        mod = spread(w[f'{block}.modulation'][:, None] + six).unbind(2)
        y = layer_norm(tokens) * (1 + mod[1]) + mod[0]
        name = f'{block}.self_attn'
        q, k = (rotate(rms(linear(f'{name}.{c}', y), f'{name}.norm_{c}')) for c in 'qk')
        y = linear(f'{name}.o', attend(q, k, linear(f'{name}.v', y)))
        tokens = tokens + y * mod[2]
        name = f'{block}.cross_attn'
        q = rms(linear(f'{name}.q', layer_norm(tokens, f'{block}.norm3')), f'{name}.norm_q')
        k = rms(linear(f'{name}.k', words), f'{name}.norm_k')
        y = attend(q, k, linear(f'{name}.v', words))
        if layout.image_dim:
            k = rms(linear(f'{name}.k_img', seen), f'{name}.norm_k_img')
            y = y + attend(q, k, linear(f'{name}.v_img', seen))
        tokens = tokens + linear(f'{name}.o', y)
        y = layer_norm(tokens) * (1 + mod[4]) + mod[3]
        y = functional.gelu(linear(f'{block}.ffn.0', y), approximate='tanh')
        tokens = tokens + linear(f'{block}.ffn.2', y) * mod[5]
    mod = spread(w['head.modulation'][:, None] + level[:, :, None]).unbind(2)
    out = linear('head.head', layer_norm(tokens) * (1 + mod[1]) + mod[0])
    out = out.view(batch, frames, rows, columns, 2, 2, layout.out_channels)
    return out.permute(0, 6, 1, 2, 4, 3, 5).reshape(batch, -1, frames, height, wide)


@pytest.fixture(scope='module')
def base(tmp_path_factory) -> str:
    """A base in diffusers' layout; the importer only looks whether the folders are there."""
    folder = tmp_path_factory.mktemp('base')
    for name in ('vae', 'text_encoder', 'tokenizer', 'image_encoder'):
        (folder / name).mkdir()
    return str(folder)


def inputs(layout, seed=5):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(2, layout.latent_channels, 3, 4, 6, generator=generator)
    levels = torch.rand(2, 3, generator=generator)
    text = torch.randn(2, 7, layout.text_dim, generator=generator)
    image = None
    if layout.image_dim:
        image = torch.randn(2, 257, layout.image_dim, generator=generator)
    return x, levels, text, image


@pytest.mark.parametrize('layout', [T2V, I2V, TI2V], ids=['t2v', 'i2v', 'ti2v'])
def test_an_imported_checkpoint_computes_what_the_original_does(tmp_path, base, layout):
    weights = original(layout)
    save_file(weights, tmp_path / 'm.safetensors')
    info = import_planner(tmp_path / 'm.safetensors', tmp_path / 'p', heads=HEADS, base=base)
    assert info.layout == layout
    denoiser = WanDenoiser(load_transformer(info, torch.float32), layout)
    x, levels, text, image = inputs(layout)
    full = functional.pad(x, (0, 0) * 3 + (0, layout.in_channels - x.shape[1]))
    with torch.no_grad():
        expected = published(weights, layout, full, 1000 * levels, text, image)
        found = denoiser(x, levels, text, image)
    assert expected.abs().mean() > 0.1
    assert (found - expected).abs().max() < 1e-5
    import diffusers

    theirs = diffusers.WanTransformer3DModel.from_pretrained(tmp_path / 'p' / 'transformer')
    with torch.no_grad():
        assert torch.equal(WanDenoiser(theirs.eval(), layout)(x, levels, text, image), found)


def test_names_agree_with_the_conversion_in_diffusers():
    from diffusers.loaders.single_file_utils import convert_wan_transformer_to_diffusers

    weights = original(I2V)
    theirs = convert_wan_transformer_to_diffusers(dict(weights))
    for name, value in weights.items():
        assert torch.equal(theirs[diffusers_name(name)], value)
    for name in ('blocks.0.norm1.weight', 'vae.conv1.weight', 'freqs', 'blocks.0.ffn.1.weight'):
        assert diffusers_name(name) is None


def test_a_round_trip_is_exact(tmp_path, base):
    weights = {k: v.bfloat16() if 'attn' in k else v for k, v in original(I2V).items()}
    save_file(weights, tmp_path / 'm.safetensors')
    import_planner(tmp_path / 'm.safetensors', tmp_path / 'p', heads=HEADS, base=base, shard=60_000)
    files = sorted((tmp_path / 'p' / 'transformer').glob('*.safetensors'))
    assert len(files) > 3
    assert all(file.stat().st_size < 70_000 for file in files)
    back = {name: value for file in files for name, value in load_file(file).items()}
    assert len(back) == len(weights)
    for name, value in weights.items():
        assert back[diffusers_name(name)].dtype == value.dtype
        assert torch.equal(back[diffusers_name(name)], value)
    assert not verify(read_planner(tmp_path / 'p'))


def test_skyreels_in_the_layout_of_diffusers(tmp_path, base):
    layout = WanLayout(
        'custom', 48, 96, HEADS, 2, text_dim=24, freq_dim=32, family='skyreels', sample_info=True
    )
    model = build_transformer(layout, seed=3)
    model.save_pretrained(tmp_path / 'm' / 'transformer', max_shard_size='60KB')
    info = import_planner(tmp_path / 'm', tmp_path / 'p', base=base)
    assert info.layout == layout
    x, levels, text, _ = inputs(layout)
    ours = load_transformer(info, torch.float32)
    with torch.no_grad():
        expected = model(
            x, 1000 * levels, functional.pad(text, (0, 0, 0, 505)),
            enable_diffusion_forcing=True, fps=[0],
        ).sample  # fmt: skip
        found = WanDenoiser(ours, layout)(x, levels, text)
    assert (found - expected).abs().max() < 1e-5


class Hyper:
    """Stands for what a Lightning checkpoint holds beside tensors: an object of a foreign class."""

    def __init__(self) -> None:
        self.lr = 1e-5


def lightning(weights, prefix, **others):
    named = {f'{prefix}{name}': value for name, value in weights.items()}
    return {
        'state_dict': {**named, **others},
        'epoch': 3,
        'hyper_parameters': Hyper(),
        'optimizer_states': [{'state': {0: {'exp_avg': torch.zeros(4)}}}],
    }


@pytest.mark.parametrize(
    'prefix', ['model.', 'model._orig_mod.', 'model.model.', 'model.model._orig_mod.']
)
def test_prefixes_of_trainings_are_found(tmp_path, base, prefix):
    """As in the authors' exports, compiled or not, and in LVP's file."""
    others = {
        'text_encoder.blocks.0.norm1.weight': torch.ones(4),
        'vae_mean': torch.zeros(16),
        'model.vae.conv1.weight' if prefix == 'model.model.' else 'vae.conv1.weight': torch.ones(4),
    }
    torch.save(lightning(original(T2V), prefix, **others), tmp_path / 'video_model.ckpt')
    info = import_planner(tmp_path, tmp_path / 'p', heads=HEADS, base=base)
    about = info.training['imported']
    assert about['prefix'] == f'state_dict.{prefix}'
    # Of the foreign tensors, one lies below 'model.' only where the network is deeper.
    assert about['tensors'] == len(original(T2V))
    weights = original(T2V)
    assert torch.equal(
        load_transformer(info, torch.float32).proj_out.weight, weights['head.head.weight']
    )


def test_the_published_configuration_gives_heads_and_sampling(tmp_path, base):
    torch.save({'state_dict': original(T2V)}, tmp_path / 'video_model.ckpt')
    (tmp_path / 'algo_config.yaml').write_text(
        'algorithm:\n  sample_steps: 40\n  sample_shift: 3.0\n  lang_guidance: 2.5\n'
        '  hist_guidance: 1.5\n  neg_prompt: "blurry"\n  height: 128\n'
        '  width: ${dataset.width}\n  vae_num_views: 3\n'
        f'  diffusion_forcing: {{N: 6, M: 4}}\n  model: {{num_heads: {HEADS}}}\n'
    )
    info = import_planner(
        tmp_path / 'video_model.ckpt', tmp_path / 'p', base=base, licence='Apache-2.0'
    )
    assert info.layout.heads == HEADS
    assert info.sampling == {
        'steps': 40, 'shift': 3.0, 'text_guidance': 2.5, 'history_guidance': 1.5,
        'negative': 'blurry', 'context': 6, 'look_ahead': 4,
    }  # fmt: skip
    assert info.training['imported']['views'] == 3
    assert info.training['imported']['canvas'] == [128, None]
    assert info.licence == 'Apache-2.0'
    assert info.parts['vae'] == f'{base}/vae'


def test_half_the_bytes_but_not_of_what_stays_in_float32(tmp_path, base):
    save_file(original(T2V), tmp_path / 'm.safetensors')
    info = import_planner(
        tmp_path / 'm.safetensors', tmp_path / 'p', heads=HEADS, base=base, dtype=torch.bfloat16
    )
    kinds = {
        n: v.dtype for n, v in load_file(next((tmp_path / 'p').rglob('*.safetensors'))).items()
    }
    model = load_transformer(info, torch.bfloat16)
    assert kinds == {name: p.dtype for name, p in model.named_parameters()}
    assert set(kinds.values()) == {torch.float32, torch.bfloat16}


def _drop(weights):
    del weights['blocks.1.ffn.2.bias']


def _add(weights):
    weights['blocks.0.adapter.weight'] = torch.ones(3)


def _reshape(weights):
    weights['blocks.0.ffn.2.weight'] = torch.ones(48, 95)


def _poison(weights):
    weights['blocks.0.ffn.2.bias'][3] = float('nan')


def _no_transformer(weights):
    del weights['patch_embedding.weight']


def _two(weights):
    weights.update({f'ema.{name}': value.clone() for name, value in list(weights.items())})


def _channels(weights):
    weights['head.head.weight'] = torch.ones(4 * 7, 48)


@pytest.mark.parametrize(
    ('change', 'said'),
    [
        (_drop, r'1 missing \(blocks\.1\.ffn\.net\.2\.bias\)'),
        (_add, r'1 unexpected \(blocks\.0\.adapter\.weight\)'),
        (_reshape, r'blocks\.0\.ffn\.net\.2\.weight is \[48, 95\], not \[48, 96\]'),
        (_poison, r'blocks\.0\.ffn\.net\.2\.bias: values that are not finite'),
        (_no_transformer, 'no Wan transformer'),
        (_two, "several transformers; name one prefix: '', 'ema.'"),
        (_channels, 'with 7 channels'),
    ],
)
def test_what_does_not_fit_is_refused_by_name(tmp_path, base, change, said):
    weights = original(T2V)
    change(weights)
    save_file(weights, tmp_path / 'm.safetensors')
    with pytest.raises(CheckpointError, match=said):
        import_planner(tmp_path / 'm.safetensors', tmp_path / 'p', heads=HEADS, base=base)
    assert [path.name for path in tmp_path.iterdir()] == ['m.safetensors'], 'nothing is left behind'


def test_a_prefix_chooses_among_several(tmp_path, base):
    weights = original(T2V)
    both = {**weights, **{f'ema.{k}': v + 1 for k, v in weights.items()}}
    save_file(both, tmp_path / 'm.safetensors')
    info = import_planner(
        tmp_path / 'm.safetensors', tmp_path / 'p', heads=HEADS, base=base, prefix='ema.'
    )
    bias = load_transformer(info, torch.float32).proj_out.bias
    assert torch.equal(bias, weights['head.head.bias'] + 1)


def test_another_size_than_asked_for_is_refused(tmp_path, base):
    save_file(original(T2V), tmp_path / 'm.safetensors')
    with pytest.raises(CheckpointError, match=r'as t2v-1\.3b \(dim 1536.*missing'):
        import_planner(tmp_path / 'm.safetensors', tmp_path / 'p', layout='t2v-1.3b', base=base)
    with pytest.raises(CheckpointError, match='unknown size'):
        import_planner(tmp_path / 'm.safetensors', tmp_path / 'p', layout='3b', base=base)
    with pytest.raises(CheckpointError, match='how many attention heads'):
        import_planner(tmp_path / 'm.safetensors', tmp_path / 'p', base=base)


def test_files_that_are_no_checkpoints(tmp_path, base):
    with pytest.raises(CheckpointError, match='no such file'):
        import_planner(tmp_path / 'none.ckpt', tmp_path / 'p', base=base)
    (tmp_path / 'a.ckpt').write_bytes(b'not a checkpoint')
    with pytest.raises(CheckpointError, match='without running code'):
        import_planner(tmp_path / 'a.ckpt', tmp_path / 'p', base=base)
    (tmp_path / 'b.safetensors').write_bytes(b'\xff' * 100)
    with pytest.raises(CheckpointError, match='cannot be read'):
        import_planner(tmp_path / 'b.safetensors', tmp_path / 'p', base=base)
    with pytest.raises(CheckpointError, match=r'name one of its files.*a\.ckpt, b\.safetensors'):
        import_planner(tmp_path, tmp_path / 'p', base=base)


def test_what_cannot_be_written_or_read_in_one_piece(tmp_path, base, monkeypatch):
    save_file(original(T2V), tmp_path / 'm.safetensors')
    monkeypatch.setattr(importer.shutil, 'disk_usage', lambda path: SimpleNamespace(free=1000))
    with pytest.raises(CheckpointError, match=r'GB are free\. Make room'):
        import_planner(tmp_path / 'm.safetensors', tmp_path / 'p', heads=HEADS, base=base)
    assert not (tmp_path / 'p').exists()
    (tmp_path / 'sharded').mkdir()
    (tmp_path / 'sharded' / '.metadata').write_bytes(b'')
    with pytest.raises(CheckpointError, match='consolidate it'):
        import_planner(tmp_path / 'sharded', tmp_path / 'p', base=base)


class Harmful:
    """Would write a file when unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return os.system, (f'touch {self.path}',)


def test_code_in_a_checkpoint_does_not_run(tmp_path, base):
    state = {'state_dict': original(T2V), 'callback': Harmful(tmp_path / 'harm')}
    torch.save(state, tmp_path / 'model.ckpt')
    try:
        import_planner(tmp_path / 'model.ckpt', tmp_path / 'p', heads=HEADS, base=base)
    except CheckpointError as error:
        assert 'without running code' in str(error)
    assert not (tmp_path / 'harm').exists()


def test_a_base_is_a_folder_or_a_pinned_hub_model(tmp_path, monkeypatch):
    save_file(original(T2V), tmp_path / 'm.safetensors')
    source, target = tmp_path / 'm.safetensors', tmp_path / 'p'
    with pytest.raises(CheckpointError, match='say where autoencoder and encoders are'):
        import_planner(source, target, heads=HEADS)
    (tmp_path / 'base').mkdir()
    with pytest.raises(CheckpointError, match='has no vae, text_encoder, tokenizer'):
        import_planner(source, target, heads=HEADS, base=str(tmp_path / 'base'))
    commit = 'c' * 40
    info = import_planner(source, target, heads=HEADS, base=f'Some/Base@{commit}')
    assert info.parts['vae'] == {'hub_id': 'Some/Base', 'revision': commit}
    monkeypatch.setattr(importer, 'resolve', lambda repo, revision, moving: 'd' * 40)
    info = import_planner(source, target, heads=HEADS, base='Some/Base')
    assert info.parts['tokenizer'] == {'hub_id': 'Some/Base', 'revision': 'd' * 40}


def _anonymous() -> int:
    """Bytes of this process's memory that are no file's."""
    for line in Path('/proc/self/status').read_text().splitlines():
        if line.startswith('RssAnon'):
            return int(line.split()[1]) * 1024
    raise AssertionError('no RssAnon')


@pytest.mark.skipif(sys.platform != 'linux', reason='reads /proc')
@pytest.mark.parametrize('kind', ['ckpt', 'safetensors'])
def test_memory_stays_far_below_the_size_of_the_checkpoint(tmp_path, base, kind):
    """A checkpoint of 80 MB in float32 to bfloat16: one tensor (2.4 MB) at a time."""
    layout = WanLayout('custom', 384, 1536, 3, 8, text_dim=384)
    weights = original(layout)
    size = sum(v.numel() * 4 for v in weights.values())
    assert size > 80e6
    source = tmp_path / f'video_model.{kind}'
    if kind == 'ckpt':
        torch.save({'state_dict': {f'model.{k}': v for k, v in weights.items()}}, source)
    else:
        save_file(weights, source)
    del weights
    import gc

    gc.collect()
    peak, done, seen = [_anonymous()], threading.Event(), []
    before = peak[0]

    def watch() -> None:
        while not done.wait(0.002):
            peak[0] = max(peak[0], _anonymous())

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        info = import_planner(
            source, tmp_path / 'p', base=base, dtype=torch.bfloat16, shard=10_000_000,
            progress=lambda written, whole: seen.append((written, whole)) or time.sleep(0.001),
        )  # fmt: skip
    finally:
        done.set()
        thread.join()
    assert peak[0] - before < 0.25 * size
    assert len(list((tmp_path / 'p' / 'transformer').glob('*.safetensors'))) > 3
    assert seen[-1][0] == seen[-1][1] == info.bytes - _headers(info.folder)


def _headers(folder: Path) -> int:
    files = folder.glob('transformer/*.safetensors')
    return sum(8 + int.from_bytes(f.read_bytes()[:8], 'little') for f in files)


def test_the_files_are_what_safetensors_and_diffusers_write(tmp_path, base):
    weights = original(T2V)
    save_file(weights, tmp_path / 'm.safetensors')
    import_planner(tmp_path / 'm.safetensors', tmp_path / 'p', heads=HEADS, base=base, shard=50_000)
    index = json.loads(
        (tmp_path / 'p/transformer/diffusion_pytorch_model.safetensors.index.json').read_text()
    )
    assert index['metadata']['total_size'] == sum(4 * v.numel() for v in weights.values())
    assert len(index['weight_map']) == len(weights)
    config = json.loads((tmp_path / 'p/transformer/config.json').read_text())
    assert config['_class_name'] == 'WanTransformer3DModel'
    assert config['num_attention_heads'] == HEADS
