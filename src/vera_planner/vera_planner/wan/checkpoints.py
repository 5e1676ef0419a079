"""Planners of the Wan family on disk and on the hub: one call opens any of them.

A planner is a folder: `planner.json`, `transformer/` and `vae/` as diffusers saves them, and the
encoders of words and pictures, or where to find them. Hub models in diffusers' layout, which have
no `planner.json`, open just as well.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from vera_core.checkpoint import HASH_SHOWN, CheckpointError, sha256_of
from vera_core.contract_files import checkpoint_folders
from vera_planner.wan.hub import (
    COMMIT,
    HubError,
    fetch,
    is_repository,
    licence_line,
    licence_of,
)
from vera_planner.wan.image_encoder import ImageEncoder
from vera_planner.wan.layouts import LAYOUTS, LayoutError, WanLayout
from vera_planner.wan.memory import LEVELS, MemoryNeedError, Placement, choose_level, estimate
from vera_planner.wan.model import WanDenoiser, cast, transformer_class, transformer_config
from vera_planner.wan.text import MiniLmText, TextEncoder, Umt5Text

FILE = 'planner.json'
WEIGHTS = 'diffusion_pytorch_model'
HASHED_AT_ONCE = 4e9  # bytes; larger planners are hashed when asked to, smaller ones always
# Part: the files that it needs.
PARTS = {
    'vae': ('vae/*.json', 'vae/*.safetensors'),
    'text_encoder': ('text_encoder/*.json', 'text_encoder/*.safetensors'),
    'tokenizer': ('tokenizer/*',),
    'image_encoder': ('image_encoder/*.json', 'image_encoder/*.safetensors'),
}


@dataclass(frozen=True)
class PlannerInfo:
    """What `planner.json` says.

    Attributes:
        folder: where the planner lies.
        layout: its size.
        contract: `visual_fields()` it was trained for; None where it takes any canvas.
        sampling: defaults of the sampler, by its argument names; `context` and `look_ahead` are
            counted in latents.
        licence: of the weights.
        source: where they come from; revision: the commit there, '' where there is none.
        sha256: file name, relative to the folder, -> 64 hex digits; empty for a hub model, which
            its commit pins.
        parts: 'vae', 'text_encoder', 'tokenizer', 'image_encoder' -> a folder, relative to this
            one or absolute, or {'hub_id', 'revision'}.
        training: command, seed, steps, data; plain data.
    """

    folder: Path
    layout: WanLayout
    contract: dict[str, Any] | None = None
    sampling: dict[str, Any] = field(default_factory=dict)
    licence: str = ''
    source: str = ''
    revision: str = ''
    sha256: dict[str, str] = field(default_factory=dict, repr=False)
    parts: dict[str, Any] = field(default_factory=dict, repr=False)
    training: dict[str, Any] = field(default_factory=dict, repr=False)

    @property
    def name(self) -> str:
        """Of the planner; a hub model's id."""
        of_hub = not self.sha256 or COMMIT.fullmatch(self.folder.name)
        return self.source if of_hub and self.source else self.folder.name

    @property
    def short_hash(self) -> str:
        """First 16 hex digits of the hash of all hashes; of the commit for a hub model."""
        if not self.sha256:
            return self.revision[:HASH_SHOWN]
        text = json.dumps(self.sha256, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:HASH_SHOWN]

    @property
    def bytes(self) -> int:
        """Size of the weights on disk, encoders elsewhere not counted."""
        return sum(p.stat().st_size for p in self.folder.glob('*/*.safetensors'))

    def as_dict(self) -> dict[str, Any]:
        """What is written to `planner.json`."""
        return {
            'kind': 'planner',
            'family': 'wan',
            'layout': self.layout.as_dict(),
            'contract': self.contract,
            'sampling': self.sampling,
            'licence': self.licence,
            'source': self.source,
            'revision': self.revision,
            'sha256': self.sha256,
            'parts': self.parts,
            'training': self.training,
        }


@dataclass
class WanParts:
    """An opened planner.

    Attributes:
        denoiser: the transformer behind its one call.
        vae: AutoencoderKLWan in float32; None for layouts of pixels.
        text: words to tokens.
        image: frame to CLIP tokens; None where the layout has no image branch.
        info: what it is.
        placement: where the parts are; its `run` survives a full GPU.
    """

    denoiser: WanDenoiser
    vae: Any
    text: TextEncoder
    image: ImageEncoder | None
    info: PlannerInfo
    placement: Placement = field(init=False, repr=False)


def read_planner(folder: Path) -> PlannerInfo:
    """What a planner's folder says of itself; no weight is read.

    Raises:
        CheckpointError: no such planner, or a `planner.json` that cannot be used.
    """
    path = folder / FILE
    try:
        data = json.loads(path.read_text(encoding='utf-8'))
    except FileNotFoundError:
        raise CheckpointError(f'{folder}: no planner of the Wan family: it has no {FILE}') from None
    except (OSError, ValueError) as error:
        raise CheckpointError(f'{path}: cannot be read: {error}') from error
    if not isinstance(data, dict) or data.get('kind') != 'planner' or data.get('family') != 'wan':
        raise CheckpointError(f'{path}: does not describe a planner of the Wan family')
    missing = [key for key in ('layout', 'sha256') if not isinstance(data.get(key), dict)]
    if missing:
        raise CheckpointError(f'{path}: lacks {", ".join(missing)}')
    try:
        layout = WanLayout.from_dict(data['layout'])
    except (LayoutError, TypeError) as error:
        raise CheckpointError(f'{path}: {error}') from error
    return PlannerInfo(
        folder=folder,
        layout=layout,
        contract=data.get('contract'),
        sampling=dict(data.get('sampling') or {}),
        licence=str(data.get('licence') or ''),
        source=str(data.get('source') or ''),
        revision=str(data.get('revision') or ''),
        sha256=dict(data['sha256']),
        parts=dict(data.get('parts') or {}),
        training=dict(data.get('training') or {}),
    )


def find_planner(name: str) -> Path | None:
    """Folder of a planner, by path or by name in the folders of checkpoints; None if not found."""
    path = Path(name).expanduser()
    if (path / FILE).is_file() or (path / 'transformer' / 'config.json').is_file():
        return path
    if path.name != name:
        return None
    found = (folder / name for folder in checkpoint_folders())
    return next((folder for folder in found if (folder / FILE).is_file()), None)


def planner_folders() -> Iterator[Path]:
    """Every planner in the folders of checkpoints."""
    for folder in checkpoint_folders():
        yield from sorted(path.parent for path in folder.glob(f'*/{FILE}'))


def verify(info: PlannerInfo) -> list[str]:
    """The files that are missing or not what `planner.json` says; each is read to its end."""
    return [
        name
        for name, expected in info.sha256.items()
        if not (info.folder / name).is_file() or sha256_of(info.folder / name) != expected
    ]


def locate(ref: str, revision: str | None = None, *, moving: bool = False) -> PlannerInfo:
    """What a reference means; downloads the transformer and the autoencoder of a hub model.

    Args:
        ref: a folder, a name in the folders of checkpoints, or a hub id, with @COMMIT or without.
        revision: the commit of a hub id, if it is not in `ref`.
        moving: a branch or tag is fine, too; its commit is stored.

    Raises:
        CheckpointError: nothing there, or nothing that can be used; the message says where it
            looked and what to do.
    """
    folder = find_planner(ref)
    if folder is not None:
        return read_planner(folder) if (folder / FILE).is_file() else _diffusers(folder)
    repo, _, commit = ref.partition('@')
    if not is_repository(repo):
        looked = ', '.join(str(f) for f in checkpoint_folders()) or 'nowhere'
        raise CheckpointError(
            f'planner {ref!r} not found: no folder with {FILE}, none of that name in {looked}, and '
            'no hub id OWNER/NAME@COMMIT. Make one with `vera train video` or `vera models import`'
        )
    try:
        found = fetch(
            repo,
            commit or revision,
            ('transformer/*.json', 'transformer/*.safetensors'),
            optional=(FILE, *PARTS['vae']),
            moving=moving,
        )
    except HubError as error:
        here = '' if '@' in ref else f'{ref}: no planner in such a folder; as a model of the hub: '
        raise CheckpointError(f'{here}{error}') from error
    ours = (found.folder / FILE).is_file()
    info = read_planner(found.folder) if ours else _diffusers(found.folder)
    elsewhere = {k: v for k, v in info.parts.items() if not isinstance(v, str)}
    return replace(
        info,
        source=repo,
        revision=found.revision,
        licence=found.licence or info.licence,
        parts={**_hub_parts(info.layout, repo, found.revision), **elsewhere},
    )


def _hub_parts(layout: WanLayout, repo: str, revision: str) -> dict[str, Any]:
    """What a layout needs beside its transformer, and where a published model has it."""
    names = ['vae'] if layout.vae != 'pixels' else []
    names += ['text_encoder', 'tokenizer'] if layout.text == 'umt5' else []
    names += ['image_encoder'] if layout.image_dim is not None else []
    return {name: {'hub_id': repo, 'revision': revision} for name in names}


def _diffusers(folder: Path) -> PlannerInfo:
    """A folder in the layout of diffusers, as `hf download` leaves it."""
    layout = layout_of_config(folder / 'transformer' / 'config.json')
    parts = {name: name for name in PARTS if (folder / name).is_dir()}
    return PlannerInfo(
        folder=folder, layout=layout, licence=licence_of(folder), source=str(folder), parts=parts
    )


def layout_of_config(path: Path) -> WanLayout:
    """The layout that a transformer's `config.json` of diffusers describes.

    Raises:
        CheckpointError: no Wan or SkyReels-V2 transformer, or one with options unknown here.
    """
    try:
        config = json.loads(path.read_text(encoding='utf-8'))
    except (OSError, ValueError) as error:
        raise CheckpointError(f'{path}: cannot be read: {error}') from error
    families = {'WanTransformer3DModel': 'wan', 'SkyReelsV2Transformer3DModel': 'skyreels'}
    family = families.get(config.get('_class_name', ''))
    if family is None:
        raise CheckpointError(
            f'{path}: a {config.get("_class_name", "model without a class")}; known: '
            f'{", ".join(families)}'
        )
    vaes = {16: 'wan2.1', 48: 'wan2.2'}
    try:
        heads, channels = config['num_attention_heads'], config['out_channels']
        layout = WanLayout(
            name='custom',
            dim=heads * config['attention_head_dim'],
            ffn=config['ffn_dim'],
            heads=heads,
            layers=config['num_layers'],
            in_channels=config['in_channels'],
            out_channels=channels,
            text_dim=config['text_dim'],
            freq_dim=config['freq_dim'],
            image_dim=config.get('image_dim'),
            patch=tuple(config['patch_size']),
            vae=vaes.get(channels, f'with {channels} channels'),
            family=family,
            sample_info=bool(config.get('inject_sample_info')),
        )
    except (LayoutError, KeyError, TypeError) as error:
        raise CheckpointError(f'{path}: {error!r}') from error
    layout = named(layout)
    expected = transformer_config(layout)
    other = [
        f'{key} {value!r} (here {expected[key]!r})'
        for key, value in config.items()
        if key in expected
        and json.loads(json.dumps(expected[key])) != value
        # None, and the number that diffusers takes for it.
        and not (key == 'added_kv_proj_dim' and value == layout.dim)
    ]
    if other or config.get('num_frame_per_block', 1) != 1:
        raise CheckpointError(
            f'{path}: options that are not supported: {", ".join(other) or "num_frame_per_block"}'
        )
    return layout


def named(layout: WanLayout) -> WanLayout:
    """The published layout of the same numbers, or this one."""
    ours = layout.as_dict()
    for known in LAYOUTS.values():
        theirs = known.as_dict()
        if all(theirs[k] == v for k, v in ours.items() if k not in ('name', 'licence', 'hub_id')):
            return known
    return layout


def _tell(line: str) -> None:
    sys.stderr.write(f'{line}\n')


def open_planner(
    ref: str,
    revision: str | None = None,
    device: str | torch.device | None = None,
    dtype: torch.dtype | None = None,
    offload: str = 'auto',
    *,
    moving: bool = False,
    canvas: tuple[int, int] = (128, 576),
    latents: int = 10,
    branches: int = 3,
    text: TextEncoder | None = None,
    check_hashes: bool | None = None,
    tell: Callable[[str], None] = _tell,
) -> WanParts:
    """Open a planner for making plans: from a folder, by name, or from the hub.

    Tells its licence, and looks at what it needs before it loads anything.

    Args:
        ref: see `locate`; revision and moving, too.
        revision: of a hub model.
        device: where it computes; the GPU if there is one.
        dtype: of transformer and encoders; bfloat16 on a GPU, float32 on the CPU.
        offload: 'auto' or one of memory.LEVELS.
        moving: see `locate`.
        canvas: height and width [px] of the frames to come; for the estimate of memory.
        latents: context and look-ahead, N + M; for the estimate.
        branches: passes in one batch; for the estimate.
        text: an encoder to use instead of the planner's own.
        check_hashes: read all weights before loading; unless told, up to 4 GB of them.
        tell: gets two lines, licence and sizes; they go to stderr unless told otherwise.

    Raises:
        CheckpointError: it cannot be found, is damaged, or does not fit its layout.
        MemoryNeedError: it does not fit this machine; the message says what would.
        ValueError: an unknown level of offloading.
    """
    info = locate(ref, revision, moving=moving)
    layout = info.layout
    tell(licence_line(info.name, info.licence))
    where = torch.device(device or ('cuda' if torch.cuda.is_available() else 'cpu'))
    if where.type == 'cuda' and not torch.cuda.is_available():
        raise MemoryNeedError(
            f'{info.name} was to compute on {where}, but torch sees no GPU. Install the build with '
            'CUDA (`GPU=1 make setup`), or compute on the cpu'
        )
    kind = dtype or (torch.bfloat16 if where.type == 'cuda' else torch.float32)
    need = estimate(
        layout,
        kind,
        height=canvas[0],
        width=canvas[1],
        latents=latents,
        branches=branches,
        text=text is None,
    )
    level = choose_level(need, where, offload, layout, kind)
    tell(
        f'{info.name}: {info.bytes / 1e9:.2f} GB on disk; about '
        f'{need.on_device(level) / 1e9:.1f} GB on {where} with offload={level}'
    )
    if info.bytes <= HASHED_AT_ONCE if check_hashes is None else check_hashes:
        damaged = verify(info)
        if damaged:
            raise CheckpointError(
                f'{info.folder}: {", ".join(damaged)}: missing, damaged or of another training; '
                f'{FILE} names other hashes'
            )
    needed = _hub_parts(layout, '', '')
    for part in needed if text is None else needed.keys() - {'text_encoder', 'tokenizer'}:
        part_folder(info, part)  # fetched now, or missing now: not at the first prompt
    # A transformer that stays in main memory is loaded there; the others go straight to the GPU.
    first = torch.device('cpu') if level == LEVELS[-1] else where
    denoiser = WanDenoiser(load_transformer(info, kind, first), layout)
    parts = WanParts(
        denoiser=denoiser,
        vae=None if layout.vae == 'pixels' else load_vae(info, where),
        text=text or load_text(info, kind),
        image=None if layout.image_dim is None else load_image(info, kind),
        info=info,
    )
    parts.placement = Placement(parts, where, level)
    return parts


def load_transformer(
    info: PlannerInfo, dtype: torch.dtype, device: str | torch.device = 'cpu'
) -> Any:
    """The transformer of a planner, tensor by tensor onto its device: never two copies.

    Raises:
        CheckpointError: tensors are missing, unexpected or of another shape.
    """
    layout = info.layout
    with torch.device('meta'):
        model = transformer_class(layout)(**transformer_config(layout))
    # Its tables are computed, not stored.
    rope = model.rope
    model.rope = type(rope)(rope.attention_head_dim, rope.patch_size, rope.max_seq_len)
    model.rope.to(device)
    ignored = tuple(model._keys_to_ignore_on_load_unexpected or ())
    fill(model, info.folder / 'transformer', dtype, device, ignored)
    return model.eval()


def load_vae(info: PlannerInfo, device: str | torch.device = 'cpu') -> Any:
    """The autoencoder of a planner, in float32.

    Raises:
        CheckpointError: it is not there, or its latents are not those of the layout.
    """
    import diffusers

    folder = part_folder(info, 'vae')
    config = diffusers.AutoencoderKLWan.load_config(str(folder))
    with torch.device('meta'):
        model = diffusers.AutoencoderKLWan.from_config(config)
    strides = (model.config.scale_factor_temporal, model.config.scale_factor_spatial)
    if model.config.z_dim != info.layout.latent_channels or strides != info.layout.stride[:2]:
        raise CheckpointError(
            f'{folder}: an autoencoder of {model.config.z_dim} channels and strides {strides}; '
            f'{info.layout.name} wants {info.layout.latent_channels} and {info.layout.stride[:2]}'
        )
    fill(model, folder, torch.float32, device, ())
    return model.eval()


def weight_files(folder: Path, stem: str = WEIGHTS) -> dict[str, Path]:
    """Tensor name -> the file it is in, of one file or of shards with an index.

    Raises:
        CheckpointError: no weights, or an index that names files that are not there.
    """
    from safetensors import safe_open

    index, single = folder / f'{stem}.safetensors.index.json', folder / f'{stem}.safetensors'
    if index.is_file():
        try:
            names = json.loads(index.read_text(encoding='utf-8'))['weight_map']
        except (ValueError, KeyError, TypeError) as error:
            raise CheckpointError(f'{index}: cannot be read: {error!r}') from error
        absent = sorted({shard for shard in names.values() if not (folder / shard).is_file()})
        if absent:
            raise CheckpointError(f'{folder}: shards are missing: {", ".join(absent)}')
        return {name: folder / shard for name, shard in names.items()}
    if not single.is_file():
        raise CheckpointError(f'{folder}: no weights: neither {single.name} nor {index.name}')
    try:
        with safe_open(str(single), framework='pt') as file:
            return dict.fromkeys(file.keys(), single)
    except Exception as error:
        raise CheckpointError(f'{single}: no safetensors file: {error}') from error


def fill(
    model: Any,
    folder: Path,
    dtype: torch.dtype,
    device: str | torch.device,
    ignored: tuple[str, ...],
) -> None:
    """Give a model on 'meta' its weights, one at a time.

    Args:
        model: of diffusers; its modules that are kept in float32 stay so.
        folder: with the weights.
        dtype: of the others.
        device: where they go.
        ignored: parts of names that may be there in addition.

    Raises:
        CheckpointError: tensors are missing, unexpected or of another shape, each named.
    """
    from safetensors import safe_open

    files = weight_files(folder)
    wanted = {name: tuple(p.shape) for name, p in model.named_parameters()}
    found = {name for name in files if not any(part in name for part in ignored)}
    check_names(str(folder), wanted, found)
    by_file: dict[Path, list[str]] = {}
    for name in wanted:
        by_file.setdefault(files[name], []).append(name)
    keep = tuple(model._keep_in_fp32_modules or ())
    for path, names in by_file.items():
        with safe_open(str(path), framework='pt') as file:
            for name in names:
                value = file.get_tensor(name)
                if tuple(value.shape) != wanted[name]:
                    raise CheckpointError(
                        f'{path}: {name} has shape {list(value.shape)}; the layout wants '
                        f'{list(wanted[name])}'
                    )
                exempt = any(part in keep for part in name.split('.'))
                value = value.to(device, torch.float32 if exempt else dtype)
                owner, _, leaf = name.rpartition('.')
                model.get_submodule(owner)._parameters[leaf] = torch.nn.Parameter(value)


def check_names(where: str, wanted: Mapping[str, Any], found: set[str]) -> None:
    """Refuse weights with other names than wanted.

    Raises:
        CheckpointError: counts and the first few of those that are missing or too many.
    """
    said = [
        f'{len(names)} {what} ({", ".join(sorted(names)[:4])}{", ..." if len(names) > 4 else ""})'
        for what, names in (('missing', set(wanted) - found), ('unexpected', found - set(wanted)))
        if names
    ]
    if said:
        raise CheckpointError(f'{where}: weights do not fit the layout: {"; ".join(said)}')


def part_folder(info: PlannerInfo, part: str) -> Path:
    """Folder of the autoencoder or an encoder; fetched from the hub where it lies there.

    Raises:
        CheckpointError: the planner has no such part, or it cannot be had.
    """
    entry = info.parts.get(part) or (part if (info.folder / part).is_dir() else None)
    if entry is None:
        hint = f' --base {info.layout.hub_id}@COMMIT' if info.layout.hub_id else ' --base FOLDER'
        raise CheckpointError(
            f'{info.folder}: the planner names no {part}; import it again with{hint}'
        )
    if isinstance(entry, str):
        folder = info.folder / entry  # an absolute entry stays as it is
        if not folder.is_dir():
            raise CheckpointError(f'{info.folder}: its {part} is not at {folder}')
        return folder
    try:
        found = fetch(entry['hub_id'], entry['revision'], PARTS[part])
    except HubError as error:
        raise CheckpointError(f'{info.name}: {part}: {error}') from error
    return found.folder / part


def load_text(info: PlannerInfo, dtype: torch.dtype) -> TextEncoder:
    """The text encoder of a planner; UMT5 is loaded at the first unknown prompt."""
    layout = info.layout
    if layout.text == 'minilm':
        return MiniLmText(layout.text_length)

    def load() -> tuple[Any, Any]:
        from transformers import AutoTokenizer, UMT5EncoderModel

        tokenizer = AutoTokenizer.from_pretrained(str(part_folder(info, 'tokenizer')))
        folder = str(part_folder(info, 'text_encoder'))
        return UMT5EncoderModel.from_pretrained(folder, dtype=dtype), tokenizer

    return Umt5Text(load, layout.text_dim, layout.text_length)


def load_image(info: PlannerInfo, dtype: torch.dtype) -> ImageEncoder:
    """The image encoder of a planner with an image branch.

    Raises:
        CheckpointError: the planner has none.
    """
    from transformers import CLIPVisionModel

    folder = str(part_folder(info, 'image_encoder'))
    model = CLIPVisionModel.from_pretrained(folder, dtype=dtype)
    return ImageEncoder(model, info.layout.image_dim or 0)


def write_planner(
    folder: Path,
    denoiser: WanDenoiser,
    vae: Any = None,
    *,
    contract: Mapping[str, Any] | None = None,
    sampling: Mapping[str, Any] | None = None,
    licence: str = '',
    source: str = '',
    revision: str = '',
    parts: Mapping[str, Any] | None = None,
    training: Mapping[str, Any] | None = None,
    dtype: torch.dtype | None = None,
    shard_size: str = '5GB',
) -> PlannerInfo:
    """Write a planner's folder; it appears whole or not at all, and replaces the one before.

    Args:
        folder: of the planner.
        denoiser: over a plain transformer: no adapters, no wrapper of several processes.
        vae: written, too, unless None.
        contract: `visual_fields()`, or None for a planner of any canvas.
        sampling: see PlannerInfo; licence, source, revision, parts and training, too.
        licence: of the weights.
        source: where they come from.
        revision: the commit there.
        parts: where the parts that are not written here are.
        training: plain data.
        dtype: of the written weights; as they are if None.
        shard_size: of the largest file.

    Raises:
        CheckpointError: data that is not plain.
        OSError: the disk is full, or the folder cannot be written.
    """
    folder = folder.absolute()
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f'.{folder.name}.') as scratch:
        new = Path(scratch) / 'new'
        transformer = denoiser.transformer
        if dtype is not None and dtype != denoiser.dtype:
            import copy

            transformer = cast(copy.deepcopy(transformer), dtype)
        transformer.save_pretrained(str(new / 'transformer'), max_shard_size=shard_size)
        if vae is not None:
            vae.save_pretrained(str(new / 'vae'))
        known = {'vae': 'vae'} if vae is not None else {}
        info = PlannerInfo(
            folder=new,
            layout=denoiser.layout,
            contract=None if contract is None else dict(contract),
            sampling=dict(sampling or {}),
            licence=licence,
            source=source,
            revision=revision,
            sha256={
                path.relative_to(new).as_posix(): sha256_of(path)
                for path in sorted(new.glob('*/*.safetensors'))
            },
            parts={**known, **(parts or {})},
            training=dict(training or {}),
        )
        finish(info, folder)
    return read_planner(folder)


def finish(info: PlannerInfo, folder: Path) -> None:
    """Write `planner.json` into the folder made so far, and move it to its place.

    Raises:
        CheckpointError: data that is not plain.
    """
    try:
        text = json.dumps(info.as_dict(), indent=2, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise CheckpointError(f'{folder}: {FILE} holds plain data only: {error}') from error
    (info.folder / FILE).write_text(text + '\n', encoding='utf-8')
    old = info.folder.with_name('old')
    if folder.exists():
        folder.rename(old)
    try:
        info.folder.rename(folder)
    except OSError:
        if old.exists():
            old.rename(folder)
        raise
    shutil.rmtree(old, ignore_errors=True)
