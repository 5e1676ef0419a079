"""Checkpoints in the original Wan layout become planners: streamed, never two copies in memory.

Takes the files of Wan itself, of VERA's authors (`mimicgen-wan-1.3b`, `wan-droid-14b`, `omni-wan`),
of LVP (`lvp_14B.ckpt`) and folders in diffusers' own layout (SkyReels-V2): safetensors, sharded or
not, or what `torch.save` writes, with whatever prefixes a training wrapped around the names.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml

from vera_core.checkpoint import CheckpointError
from vera_planner.wan.checkpoints import (
    PARTS,
    WEIGHTS,
    PlannerInfo,
    check_names,
    finish,
    named,
    read_planner,
    weight_files,
)
from vera_planner.wan.hub import COMMIT, HubError, is_repository, resolve
from vera_planner.wan.layouts import LayoutError, WanLayout, find_layout
from vera_planner.wan.model import build_transformer, transformer_class

SHARD = 4_000_000_000  # bytes of the largest file written
HEAD = 128  # channels of an attention head in every published size
GB = 1e9

# Original name -> name in diffusers, for what is there once.
TOP = {
    'patch_embedding': 'patch_embedding',
    'text_embedding.0': 'condition_embedder.text_embedder.linear_1',
    'text_embedding.2': 'condition_embedder.text_embedder.linear_2',
    'time_embedding.0': 'condition_embedder.time_embedder.linear_1',
    'time_embedding.2': 'condition_embedder.time_embedder.linear_2',
    'time_projection.1': 'condition_embedder.time_proj',
    'img_emb.proj.0': 'condition_embedder.image_embedder.norm1',
    'img_emb.proj.1': 'condition_embedder.image_embedder.ff.net.0.proj',
    'img_emb.proj.3': 'condition_embedder.image_embedder.ff.net.2',
    'img_emb.proj.4': 'condition_embedder.image_embedder.norm2',
    'head.head': 'proj_out',
    'fps_embedding': 'fps_embedding',
    'fps_projection.0': 'fps_projection.net.0.proj',
    'fps_projection.2': 'fps_projection.net.2',
}
# The same for each block.
BLOCK = {
    **{
        f'{theirs}.{a}': f'{ours}.{b}'
        for theirs, ours in (('self_attn', 'attn1'), ('cross_attn', 'attn2'))
        for a, b in (
            ('q', 'to_q'),
            ('k', 'to_k'),
            ('v', 'to_v'),
            ('o', 'to_out.0'),
            ('norm_q', 'norm_q'),
            ('norm_k', 'norm_k'),
        )
    },
    'cross_attn.k_img': 'attn2.add_k_proj',
    'cross_attn.v_img': 'attn2.add_v_proj',
    'cross_attn.norm_k_img': 'attn2.norm_added_k',
    'norm3': 'norm2',
    'ffn.0': 'ffn.net.0.proj',
    'ffn.2': 'ffn.net.2',
}
FIRST = 'patch_embedding.weight'  # by which a transformer is found among other tensors
# Ours: theirs, in the configuration that the authors publish beside a checkpoint.
SAMPLING = {
    'steps': 'sample_steps',
    'shift': 'sample_shift',
    'text_guidance': 'lang_guidance',
    'history_guidance': 'hist_guidance',
    'negative': 'neg_prompt',
    'context': 'diffusion_forcing.N',
    'look_ahead': 'diffusion_forcing.M',
}
# What is read of dtypes, by the names of the safetensors format.
DTYPES = {
    torch.float64: 'F64',
    torch.float32: 'F32',
    torch.float16: 'F16',
    torch.bfloat16: 'BF16',
}


def diffusers_name(name: str) -> str | None:
    """The name of an original Wan parameter in diffusers; None for one that is not known."""
    block = re.fullmatch(r'(blocks\.\d+)\.(.+)', name)
    if block:
        stem, inner = block.groups()
        if inner == 'modulation':
            return f'{stem}.scale_shift_table'
        known, leaf = BLOCK, inner
    elif name == 'head.modulation':
        return 'scale_shift_table'
    else:
        stem, known, leaf = '', TOP, name
    owner, _, kind = leaf.rpartition('.')
    if owner not in known or kind not in ('weight', 'bias'):
        return None
    return f'{stem}.{known[owner]}.{kind}' if stem else f'{known[owner]}.{kind}'


@dataclass(frozen=True)
class Source:
    """Tensors in files, read one at a time.

    Attributes:
        path: the file or folder.
        shapes: name -> shape.
        dtypes: name -> type.
        read: name -> tensor; its memory is the file's as long as nothing changes it.
    """

    path: Path
    shapes: dict[str, tuple[int, ...]]
    dtypes: dict[str, torch.dtype]
    read: Callable[[str], torch.Tensor]


class _Inert:
    """What a checkpoint holds beside plain data; does nothing."""

    def __init__(self, *args: object, **kwargs: object) -> None:
        pass

    def __setstate__(self, state: object) -> None:
        pass


def open_source(path: Path) -> Source:
    """Look at a checkpoint without reading its weights; no code of it is run.

    Args:
        path: a file (.safetensors, .ckpt, .pt, .pth, .bin) or a folder with one or with shards.

    Raises:
        CheckpointError: nothing there, or nothing that can be read in this way.
    """
    path = path.expanduser()
    if path.is_dir():
        return _open_folder(path)
    if not path.is_file():
        raise CheckpointError(f'{path}: there is no such file or folder')
    if path.suffix == '.safetensors':
        return _safetensors(path, {path})
    return _torch(path)


def _open_folder(folder: Path) -> Source:
    inner = folder / 'transformer'
    place = inner if inner.is_dir() else folder
    indices = sorted(place.glob('*.safetensors.index.json'))
    if len(indices) == 1:
        stem = indices[0].name.removesuffix('.safetensors.index.json')
        return _safetensors(place, set(weight_files(place, stem).values()))
    if (folder / '.metadata').is_file() or (folder / 'meta.pt').is_file():
        raise CheckpointError(
            f'{folder}: a sharded checkpoint of a running FSDP training; consolidate it into one '
            'file first (torch.distributed.checkpoint.format_utils.dcp_to_torch_save)'
        )
    kinds = ('.safetensors', '.ckpt', '.pt', '.pth', '.bin')
    files = sorted(p for p in place.iterdir() if p.suffix in kinds)
    planners = [p for p in files if p.stem in ('video_model', 'model', WEIGHTS)]
    chosen = planners if len(planners) == 1 else files
    if len(chosen) != 1:
        found = ', '.join(p.name for p in files) or 'none'
        raise CheckpointError(f'{place}: name one of its files of weights: {found}')
    return open_source(chosen[0])


def _safetensors(path: Path, files: set[Path]) -> Source:
    from safetensors import safe_open

    opened: dict[str, Any] = {}
    shapes: dict[str, tuple[int, ...]] = {}
    dtypes: dict[str, torch.dtype] = {}
    kinds = {code: dtype for dtype, code in DTYPES.items()}
    for file in sorted(files):
        try:
            handle = safe_open(str(file), framework='pt')
            for name in handle.keys():  # noqa: SIM118  no mapping
                part = handle.get_slice(name)
                opened[name] = handle
                shapes[name] = tuple(part.get_shape())
                dtypes[name] = kinds.get(part.get_dtype()) or handle.get_tensor(name).dtype
        except Exception as error:
            raise CheckpointError(f'{file}: cannot be read: {error}') from error
    return Source(path, shapes, dtypes, lambda name: opened[name].get_tensor(name))


def _torch(path: Path) -> Source:
    try:
        foreign = torch.serialization.get_unsafe_globals_in_checkpoint(path)
        with torch.serialization.safe_globals([(_Inert, name) for name in foreign]):
            loaded = torch.load(path, map_location='cpu', weights_only=True, mmap=True)
    except Exception as error:  # torch raises half a dozen kinds
        reason = (str(error).strip() or repr(error)).splitlines()[0]
        raise CheckpointError(
            f'{path}: cannot be read without running code of it ({reason}); where you trust it, '
            'save its state_dict alone with safetensors.torch.save_file, and import that file'
        ) from error
    tensors = dict(_flatten(loaded))
    if not tensors:
        raise CheckpointError(f'{path}: holds no tensors')
    shapes = {name: tuple(value.shape) for name, value in tensors.items()}
    dtypes = {name: value.dtype for name, value in tensors.items()}
    return Source(path, shapes, dtypes, lambda name: tensors[name])


def _flatten(value: Any, name: str = '') -> Iterator[tuple[str, torch.Tensor]]:
    if isinstance(value, torch.Tensor):
        yield name, value
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _flatten(inner, f'{name}.{key}' if name else str(key))


def find_prefix(shapes: Mapping[str, Any]) -> str:
    """What stands before the transformer's names, as 'state_dict.model._orig_mod.'.

    Raises:
        CheckpointError: no Wan transformer in there, or several.
    """
    found = sorted(
        name.removesuffix(FIRST) for name in shapes if name == FIRST or name.endswith('.' + FIRST)
    )
    if not found:
        some = ', '.join(sorted(shapes)[:4])
        raise CheckpointError(f'no Wan transformer: nothing is called {FIRST}; but {some}, ...')
    if len(found) > 1:
        raise CheckpointError(
            f'several transformers; name one prefix: {", ".join(map(repr, found))}'
        )
    return found[0]


def guess_layout(
    shapes: Mapping[str, tuple[int, ...]], heads: int | None, skyreels: bool
) -> WanLayout:
    """The layout of a transformer, from the shapes of its parameters by diffusers' names.

    Args:
        shapes: name -> shape.
        heads: attention heads; None for heads of 128 channels, as in every published size.
        skyreels: of that family although it has no embedding of the frame rate.

    Raises:
        CheckpointError: parameters are missing by which sizes are known, or no such layout exists.
    """
    wanted = {
        'patch': 'patch_embedding.weight',
        'ffn': 'blocks.0.ffn.net.0.proj.weight',
        'text': 'condition_embedder.text_embedder.linear_1.weight',
        'time': 'condition_embedder.time_embedder.linear_1.weight',
        'out': 'proj_out.weight',
    }
    absent = [name for name in wanted.values() if len(shapes.get(name, ())) < 2]
    if absent or len(shapes[FIRST]) != 5:
        raise CheckpointError(f'no Wan transformer: it lacks {", ".join(absent) or "a 3-D patch"}')
    size = {key: shapes[name] for key, name in wanted.items()}
    dim, channels, *patch = size['patch']
    if heads is None and dim % HEAD:
        raise CheckpointError(
            f'{dim} channels are no multiple of {HEAD}: say how many attention heads it has'
        )
    image = shapes.get('condition_embedder.image_embedder.norm1.weight')
    out = size['out'][0] // (patch[0] * patch[1] * patch[2])
    numbers = {int(m.group(1)) for n in shapes if (m := re.match(r'blocks\.(\d+)\.', n))}
    try:
        return named(
            WanLayout(
                name='custom',
                dim=dim,
                ffn=size['ffn'][0],
                heads=heads or dim // HEAD,
                layers=max(numbers) + 1,
                in_channels=channels,
                out_channels=out,
                text_dim=size['text'][1],
                freq_dim=size['time'][1],
                image_dim=image[0] if image else None,
                patch=(patch[0], patch[1], patch[2]),
                vae={16: 'wan2.1', 48: 'wan2.2'}.get(out, f'with {out} channels'),
                family='skyreels' if skyreels or 'fps_embedding.weight' in shapes else 'wan',
                sample_info='fps_embedding.weight' in shapes,
            )
        )
    except LayoutError as error:
        raise CheckpointError(f'sizes that no Wan transformer has: {error}') from error


def read_config(path: Path) -> dict[str, Any]:
    """The configuration that is published beside a checkpoint; empty if there is none.

    Args:
        path: the checkpoint's file or folder.
    """
    folder = path if path.is_dir() else path.parent
    for name in ('algo_config.yaml', 'config.yaml', 'config.json', 'transformer/config.json'):
        file = folder / name
        if file.is_file():
            try:
                found = yaml.safe_load(file.read_text(encoding='utf-8'))
            except (OSError, ValueError, yaml.YAMLError) as error:
                raise CheckpointError(f'{file}: cannot be read: {error}') from error
            found = found if isinstance(found, dict) else {}
            inner = found.get('algorithm')
            return inner if isinstance(inner, dict) else found
    return {}


def _value(config: Mapping[str, Any], dotted: str) -> Any:
    """A value by its path; None if absent, or a reference that only their program resolves."""
    found: Any = config
    for key in dotted.split('.'):
        found = found.get(key) if isinstance(found, Mapping) else None
    return None if isinstance(found, str) and found.startswith('${') else found


def import_planner(
    source: Path,
    folder: Path,
    *,
    layout: str | None = None,
    heads: int | None = None,
    prefix: str | None = None,
    base: str | None = None,
    dtype: torch.dtype | None = None,
    licence: str = '',
    command: str = '',
    shard: int = SHARD,
    progress: Callable[[int, int], None] | None = None,
) -> PlannerInfo:
    """Write a checkpoint as a planner's folder.

    Args:
        source: see `open_source`.
        folder: of the new planner; it appears whole or not at all.
        layout: name of the size; guessed from the weights if None.
        heads: attention heads, where no configuration beside the checkpoint says and a head does
            not have 128 channels.
        prefix: before the transformer's names; found if None.
        base: where autoencoder and encoders are: a folder in diffusers' layout, or a hub id with
            @COMMIT; the published base of the layout, at its commit of today, if None.
        dtype: of the written weights; as they are if None. What diffusers keeps in float32 is not
            made smaller.
        licence: of the weights; that of the published layout is not assumed.
        command: for the record.
        shard: bytes of the largest file.
        progress: told bytes written and bytes in all.

    Raises:
        CheckpointError: it does not fit; what is missing, unexpected or of another shape is named.
        OSError: the disk cannot be written.
    """
    opened = open_source(source)
    config = read_config(source)
    before = find_prefix(opened.shapes) if prefix is None else prefix
    inside = [name for name in opened.shapes if name.startswith(before)]
    original = not any('condition_embedder.' in name for name in inside)
    names: dict[str, str] = {}  # ours -> theirs
    unknown: list[str] = []
    for name in inside:
        bare = name.removeprefix(before)
        ours = diffusers_name(bare) if original else bare
        if ours is None or ours in names:
            unknown.append(bare)
        elif 'norm_added_q' not in ours:  # written by early conversions, never read
            names[ours] = name
    shapes = {ours: opened.shapes[theirs] for ours, theirs in names.items()}
    said = _value(config, 'model.num_heads') or _value(config, 'num_heads')
    said = said or _value(config, 'num_attention_heads')
    skyreels = str(config.get('_class_name', '')).startswith('SkyReels')
    try:
        if layout is not None:
            size = find_layout(layout)
        else:
            size = guess_layout(
                shapes, heads or (said if isinstance(said, int) else None), skyreels
            )
    except LayoutError as error:
        raise CheckpointError(str(error)) from error
    model = build_transformer(size, 'meta')
    _check(source, size, model, shapes, unknown)
    parts = _base_parts(size, base)
    with tempfile.TemporaryDirectory(dir=_parent(folder), prefix=f'.{folder.name}.') as scratch:
        new = Path(scratch) / 'new'
        place = new / 'transformer'
        place.mkdir(parents=True)
        keep = tuple(model._keep_in_fp32_modules or ())

        def kind(name: str, has: torch.dtype) -> torch.dtype:
            exempt = any(part in keep for part in name.split('.'))
            return has if dtype is None or (exempt and has == torch.float32) else dtype

        kinds = {ours: kind(ours, opened.dtypes[theirs]) for ours, theirs in names.items()}
        _check_room(place, {n: (shapes[n], kinds[n]) for n in names})
        sha256 = write_shards(
            place,
            {n: (shapes[n], kinds[n]) for n in names},
            lambda ours: opened.read(names[ours]),
            shard,
            progress,
        )
        _write_config(place, size, model)
        info = PlannerInfo(
            folder=new,
            layout=size,
            sampling={
                mine: value
                for mine, theirs in SAMPLING.items()
                if (value := _value(config, theirs)) is not None
            },
            licence=licence,
            source=source.name,
            sha256={f'transformer/{name}': digest for name, digest in sha256.items()},
            parts=parts,
            training={
                'command': command,
                'imported': {
                    'prefix': before,
                    'layout': 'original' if original else 'diffusers',
                    'tensors': len(names),
                    'left_out': len(opened.shapes) - len(inside),
                    'canvas': [_value(config, 'height'), _value(config, 'width')],
                    'views': _value(config, 'vae_num_views'),
                },
            },
        )
        finish(info, folder.absolute())
    return read_planner(folder.absolute())


def _parent(folder: Path) -> Path:
    parent = folder.absolute().parent
    parent.mkdir(parents=True, exist_ok=True)
    return parent


def _check(
    source: Path,
    layout: WanLayout,
    model: Any,
    shapes: Mapping[str, tuple[int, ...]],
    unknown: list[str],
) -> None:
    where = (
        f'{source} as {layout.name} (dim {layout.dim}, ffn {layout.ffn}, {layout.layers} layers, '
        f'{layout.heads} heads, {layout.in_channels} channels in, {layout.out_channels} out'
        f'{"" if layout.image_dim is None else ", image branch"})'
    )
    wanted = {name: tuple(p.shape) for name, p in model.named_parameters()}
    check_names(where, wanted, {*shapes, *unknown})
    wrong = [
        f'{name} is {list(shapes[name])}, not {list(shape)}'
        for name, shape in wanted.items()
        if shapes[name] != shape
    ]
    if wrong:
        raise CheckpointError(
            f'{where}: {len(wrong)} of other shapes: {"; ".join(wrong[:4])}'
            f'{"; ..." if len(wrong) > 4 else ""}'
        )


def _base_parts(layout: WanLayout, base: str | None) -> dict[str, Any]:
    """Where autoencoder and encoders are; CheckpointError if that cannot be said."""
    wanted = ['vae']
    wanted += ['text_encoder', 'tokenizer'] if layout.text == 'umt5' else []
    wanted += ['image_encoder'] if layout.image_dim is not None else []
    if base is not None and Path(base).expanduser().is_dir():
        folder = Path(base).expanduser().absolute()
        absent = [name for name in wanted if not (folder / name).is_dir()]
        if absent:
            raise CheckpointError(
                f'{folder}: has no {", ".join(absent)}; a base is a folder in the layout of '
                f'diffusers, e.g. from `hf download {layout.hub_id or "OWNER/NAME"}`'
            )
        return {name: str(folder / name) for name in wanted}
    ref = base or layout.hub_id
    repo, _, commit = ref.partition('@')
    if not is_repository(repo):
        raise CheckpointError(
            f'{base or layout.name}: say where autoencoder and encoders are: a folder in the '
            f'layout of diffusers with {", ".join(PARTS)}, or a hub id OWNER/NAME@COMMIT'
        )
    try:
        # The weights do not change with a base that moves: today's commit is kept for good.
        revision = commit if COMMIT.fullmatch(commit) else resolve(repo, commit or None, True)
    except HubError as error:
        raise CheckpointError(
            f'autoencoder and encoders: {error}. Or name a base: a folder, or {repo}@COMMIT'
        ) from error
    return {name: {'hub_id': repo, 'revision': revision} for name in wanted}


def _check_room(folder: Path, tensors: Mapping[str, tuple[tuple[int, ...], torch.dtype]]) -> None:
    size = sum(_size(*tensor) for tensor in tensors.values())
    free = shutil.disk_usage(folder).free
    if size > free:
        raise CheckpointError(
            f'{folder.parents[2]}: the planner takes {size / GB:.1f} GB; {free / GB:.1f} GB are '
            'free. Make room, write it elsewhere, or with half the bytes (dtype bfloat16)'
        )


def _size(shape: tuple[int, ...], dtype: torch.dtype) -> int:
    count = 1
    for length in shape:
        count *= length
    return count * dtype.itemsize


def write_shards(
    folder: Path,
    tensors: Mapping[str, tuple[tuple[int, ...], torch.dtype]],
    read: Callable[[str], torch.Tensor],
    shard: int = SHARD,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, str]:
    """Write safetensors files and their index; one tensor is in memory at a time.

    The format is a length, a JSON header and the tensors' bytes, so that a file can be written in
    the order in which tensors come (https://github.com/huggingface/safetensors).

    Args:
        folder: exists.
        tensors: name -> shape and type to write, in order.
        read: name -> tensor, of that shape and any type of float.
        shard: bytes of the largest file; a larger tensor has a file of its own.
        progress: told bytes written and bytes in all.

    Returns:
        File name -> SHA-256.

    Raises:
        CheckpointError: a tensor of another type, or with values that are not finite.
    """
    groups: list[list[str]] = [[]]
    filled = 0
    for name, (shape, dtype) in tensors.items():
        size = _size(shape, dtype)
        if groups[-1] and filled + size > shard:
            groups.append([])
            filled = 0
        groups[-1].append(name)
        filled += size
    whole = sum(_size(*tensor) for tensor in tensors.values())
    written, hashes, index = 0, {}, {}
    for number, group in enumerate(groups, 1):
        one = len(groups) == 1
        file_name = (
            f'{WEIGHTS}.safetensors'
            if one
            else (f'{WEIGHTS}-{number:05d}-of-{len(groups):05d}.safetensors')
        )
        # The widest types first: each tensor then lies at a multiple of its own width.
        group.sort(key=lambda name: -tensors[name][1].itemsize)
        header: dict[str, Any] = {'__metadata__': {'format': 'pt'}}
        offset = 0
        for name in group:
            shape, dtype = tensors[name]
            if dtype not in DTYPES:
                raise CheckpointError(f'{name} is {dtype}; known: {", ".join(DTYPES.values())}')
            end = offset + _size(shape, dtype)
            header[name] = {
                'dtype': DTYPES[dtype],
                'shape': list(shape),
                'data_offsets': [offset, end],
            }
            index[name] = file_name
            offset = end
        text = json.dumps(header, separators=(',', ':')).encode()
        text += b' ' * (-len(text) % 8)
        digest = hashlib.sha256()
        with (folder / file_name).open('wb') as file:
            for data in (len(text).to_bytes(8, 'little'), text):
                digest.update(data)
                file.write(data)
            for name in group:
                shape, dtype = tensors[name]
                value = read(name).detach()
                if not bool(torch.isfinite(value).all()):
                    raise CheckpointError(
                        f'{name}: values that are not finite; the file is damaged'
                    )
                raw = value.to(dtype).contiguous().reshape(-1).view(torch.uint8).numpy().data
                digest.update(raw)
                file.write(raw)
                written += len(raw)
                if progress is not None:
                    progress(written, whole)
        hashes[file_name] = digest.hexdigest()
    if len(groups) > 1:
        table = {'metadata': {'total_size': whole}, 'weight_map': index}
        path = folder / f'{WEIGHTS}.safetensors.index.json'
        path.write_text(json.dumps(table, indent=2) + '\n', encoding='utf-8')
    return hashes


def _write_config(folder: Path, layout: WanLayout, model: Any) -> None:
    """`config.json` as diffusers reads it."""
    data = {'_class_name': transformer_class(layout).__name__, **dict(model.config)}
    data = {key: value for key, value in data.items() if key != '_name_or_path'}
    text = json.dumps(data, indent=2, default=list)
    (folder / 'config.json').write_text(text + '\n', encoding='utf-8')
