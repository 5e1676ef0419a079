"""What the authors' run configuration says about a checkpoint: network, units, actions.

The configuration lies beside the weights as config.yaml, a dump of the whole run with `algorithm`
and `dataset` (their policy/motion_policy.py). Nothing is assumed that it does not say; an option
that would change the network or its units and is not known here is refused by name.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from vera_core.checkpoint import CheckpointError
from vera_jidm.models.vggt import FACEBOOK

FILES = ('config.yaml', 'config.yml', 'run_config.yaml')
# Added to every scale by the authors (their datasets/normalization.py).
EPSILON = 1e-8
# Width, heads of DINOv2, by the authors' name of its size.
BACKBONES = {'small': (384, 6), 'base': (768, 12), 'large': (1024, 16)}
# Channels of DPT's fused maps, which no option of theirs changes.
FUSED = 256
NECKS = {'M': (96, 96, 128, 128), 'L': (128, 192, 192, 256), 'XL': (256, 256, 384, 384)}
# Options that change neither the network's output nor its units.
HARMLESS = {
    'name', 'command_dim', 'spatial_dim', 'image_size', 'freeze_backbone', 'freeze_aggregator',
    'decoder_init_std', 'aggregator_lr_multiplier', 'checkpoint_path', 'pretrained_model_id',
    'strict_checkpoint_load', 'output_scale',
}  # fmt: skip
_DPT = {'backbone_preset', 'out_indices', 'neck_preset', 'neck_hidden_sizes'}
OPTIONS = {
    'dpt': HARMLESS | _DPT,
    'dpt_v2': HARMLESS | _DPT,
    'dpt_vggt_fusion': HARMLESS | _DPT | {
        'fusion_channels', 'prediction_hidden_channels', 'use_uv_coords', 'uv_fourier_frequencies',
        'use_view_embedding', 'num_view_embeddings', 'view_embedding_dim',
    },
    'vggt_jacobian': HARMLESS | {
        'patch_size', 'embed_dim', 'decoder_features', 'decoder_out_channels',
        'decoder_intermediate_layer_idx', 'decoder_pos_embed', 'predict_uncertainty',
    },
}  # fmt: skip
# Their data sets and what each calls an action, unless `action_mode` says so.
ACTIONS_OF = {
    'robomimic': 'se3_quat', 'mimicgen': 'se3_quat', 'droid': 'droid_se3',
    'allegro': 'qpos_delta', 'pusht': 'pusht_pos_cmd',
}  # fmt: skip
SAME_ACTION = {'se3_delta': 'droid_se3', 'joint': 'joint_delta'}


class AuthorsError(CheckpointError):
    """A published checkpoint that may not be used; says what differs and what to do."""


@dataclass(frozen=True)
class ActionUnit:
    """One number of a published action.

    Attributes:
        kinds: contract kinds that it can be.
        unit: of the motion itself; None where the configuration cannot know it.
        scale: numbers of the action per unit of the motion (their datasets/core/actions.py).
    """

    kinds: tuple[str, ...]
    unit: str | None
    scale: float


@dataclass(frozen=True)
class Published:
    """A configuration, read.

    Attributes:
        model: which network, one of `OPTIONS`.
        network: options of ours, without canvas and views.
        actions: layout, in order.
        action_scale: normalised action 1 is so much of each number of the action.
        flow_scale: flow 1 is so many pixels of the input, in x and in y.
        views: names of the views that it was trained on; empty if not told.
        ridge: relative ridge of the training's solve.
        about: plain data for the checkpoint's JSON.
    """

    model: str
    network: dict[str, Any]
    actions: tuple[ActionUnit, ...]
    action_scale: tuple[float, ...]
    flow_scale: tuple[float, float]
    views: tuple[str, ...]
    ridge: float
    about: dict[str, Any] = field(repr=False)


def read_run(path: Path) -> dict[str, Any]:
    """The run configuration beside a weights file, interpolations resolved.

    Raises:
        AuthorsError: there is none, or it is not of such a run.
    """
    found = next((path.parent / n for n in FILES if (path.parent / n).is_file()), None)
    if found is None:
        raise AuthorsError(
            f'{path}: beside it there is none of {", ".join(FILES)}; units and input size are in '
            'that file, fetch it from where the weights are'
        )
    try:
        run = yaml.safe_load(found.read_text(encoding='utf-8'))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise AuthorsError(f'{found}: cannot be read: {error}') from error
    if isinstance(run, Mapping):
        # wandb writes each entry as {desc, value}.
        run = {
            k: v['value']
            if isinstance(v, Mapping) and set(v) <= {'desc', 'value'} and 'value' in v
            else v
            for k, v in run.items()
        }
    for section in ('algorithm', 'dataset'):
        if not isinstance(run, Mapping) or not isinstance(run.get(section), Mapping):
            raise AuthorsError(f'{found}: has no section {section!r}; it is not of a VERA run')
    return dict(_resolve(run, run, found))


def _resolve(value: Any, run: Mapping[str, Any], path: Path, depth: int = 0) -> Any:
    if isinstance(value, Mapping):
        return {k: _resolve(v, run, path, depth) for k, v in value.items()}
    if isinstance(value, list):
        return [_resolve(v, run, path, depth) for v in value]
    match = re.fullmatch(r'\$\{([\w.]+)\}', value) if isinstance(value, str) else None
    if match is None:
        return value
    found: Any = run
    for key in match[1].split('.'):
        found = found.get(key) if isinstance(found, Mapping) else None
    if found is None or depth > 8:
        raise AuthorsError(f'{path}: {value} leads nowhere')
    return _resolve(found, run, path, depth + 1)


def read_config(run: Mapping[str, Any], where: str) -> Published:
    """Make sense of a run configuration.

    Args:
        run: as `read_run` gives it.
        where: file name for messages.

    Raises:
        AuthorsError: names what is missing, unknown or cannot be represented.
    """
    algorithm, dataset = run['algorithm'], run['dataset']
    if algorithm.get('name') != 'image_jacobian':
        raise AuthorsError(
            f'{where}: algorithm.name is {algorithm.get("name")!r}; only image_jacobian is a J-IDM'
        )
    options = algorithm.get('model')
    if not isinstance(options, Mapping) or options.get('name') not in OPTIONS:
        name = options.get('name') if isinstance(options, Mapping) else None
        raise AuthorsError(
            f'{where}: algorithm.model.name is {name!r}; there are {", ".join(OPTIONS)}'
        )
    model = str(options['name'])
    unknown = sorted(k for k in set(options) - OPTIONS[model] if options[k] not in (None, False))
    if unknown:
        raise AuthorsError(f'{where}: {model} with {", ".join(unknown)} is not known')
    n = _whole(options, 'command_dim', where)
    if _whole(options, 'spatial_dim', where) != 2:
        raise AuthorsError(f'{where}: spatial_dim is {options["spatial_dim"]}; a J-IDM has 2')
    flow = _flow_scale(dataset, where)
    output_scale = float(options.get('output_scale') or 1.0)
    network = {
        'channels': n,
        'input': _size(algorithm.get('image_size') or options.get('image_size')
                       or dataset.get('resolution'), where),
        'pixels': (flow[0] * output_scale, flow[1] * output_scale),
        'full': True, 'learned_weights': False, 'gradient_rows': False,
        **(_vggt(options, algorithm, where) if model == 'vggt_jacobian'
           else _dpt(model, options, where)),
    }  # fmt: skip
    mode, actions = _actions(dataset, n, where)
    views = dataset.get('camera', {}).get('views') or dataset.get('views') or ()
    scale = _action_scale(dataset, n, where)
    return Published(
        model, network, actions, scale, flow, tuple(str(v) for v in views),
        float(algorithm.get('inverse_action_damping') or 0.01),
        {
            'model': model, 'action_mode': mode, 'action_scale': list(scale),
            'flow_scale': list(flow), 'output_scale': output_scale,
            'views': [str(v) for v in views],
        },
    )  # fmt: skip


def _dpt(model: str, options: Mapping[str, Any], where: str) -> dict[str, Any]:
    preset = str(options.get('backbone_preset') or 'small')
    if preset not in BACKBONES:
        raise AuthorsError(
            f'{where}: backbone_preset is {preset!r}; there are {", ".join(BACKBONES)}'
        )
    if options.get('use_view_embedding'):
        raise AuthorsError(f'{where}: use_view_embedding is not known: which view is which?')
    neck = options.get('neck_hidden_sizes') or NECKS.get(str(options.get('neck_preset') or 'M'))
    if neck is None:
        raise AuthorsError(
            f'{where}: neck_preset is {options["neck_preset"]!r}; there are {", ".join(NECKS)}'
        )
    dim, heads = BACKBONES[preset]
    config: dict[str, Any] = {
        'family': 'dinov2', 'backbone': f'facebook/dinov2-{preset}', 'imagenet': False,
        'dim': dim, 'heads': heads, 'neck': tuple(neck), 'neck_width': FUSED,
        'stages': tuple(options.get('out_indices') or (1, 2, 3, 4)),
        'freeze': bool(options.get('freeze_backbone', True)),
    }  # fmt: skip
    if model == 'dpt':
        return {**config, 'head': 'plain'}
    if model == 'dpt_v2':
        return {**config, 'head': 'pyramid', 'fusion': 64}
    bands = int(options.get('uv_fourier_frequencies', 10)) if options.get('use_uv_coords') else None
    return {
        **config, 'head': 'fusion', 'bands': bands,
        'fusion': int(options.get('fusion_channels', 128)),
        'hidden': int(options.get('prediction_hidden_channels', 64)),
    }  # fmt: skip


def _vggt(options: Mapping[str, Any], algorithm: Mapping[str, Any], where: str) -> dict[str, Any]:
    layers = list(options.get('decoder_intermediate_layer_idx') or (4, 11, 17, 23))
    if layers != [4, 11, 17, 23]:
        raise AuthorsError(
            f'{where}: decoder_intermediate_layer_idx is {layers}; only 4, 11, 17, 23 are known'
        )
    clamp = float(algorithm.get('pmap_confidence_clamp') or 0)
    config = {
        'family': 'vggt', 'backbone': FACEBOOK,
        'patch': int(options.get('patch_size', 14)),
        'dim': 2 * int(options.get('embed_dim', 1024)),
        'features': int(options.get('decoder_features', 256)),
        'sizes': tuple(options.get('decoder_out_channels') or (256, 512, 1024, 1024)),
        'positions': bool(options.get('decoder_pos_embed', True)),
        'confidence': bool(options.get('predict_uncertainty', False)),
        'freeze': bool(options.get('freeze_aggregator', False)),
    }  # fmt: skip
    return {**config, 'confidence_range': (1e-4, clamp)} if clamp > 0 else config


def _flow_scale(dataset: Mapping[str, Any], where: str) -> tuple[float, float]:
    """Pixels of the network's input per unit of flow.

    Flow is resized, with its lengths, to the input before it is divided by the scale, wherever that
    was measured (their core/view_loader.py).
    """
    space = dataset.get('flow_normalization_space', 'raw_fullres')
    if space != 'raw_fullres':
        raise AuthorsError(f'{where}: flow_normalization_space {space!r} is not known')
    scale = dataset.get('oflow_abs_scale')
    mode = dataset.get('flow_normalization_mode') or ('symmetric_percentile' if scale else 'scale')
    if mode == 'symmetric_percentile':
        x, y = (v + EPSILON for v in _numbers(scale, 2, 'oflow_abs_scale', where))
        return x, y
    if mode == 'scale':
        deviation = dataset.get('oflow_std')
        factor = dataset.get('oflow_scale')
        if factor is None and deviation:
            factor = 1.0 / (sum(deviation) / len(deviation) + EPSILON)
        one = (1.0 if factor is None else float(factor)) * float(
            dataset.get('flow_scale_factor') or 1.0
        )
        return 1.0 / one, 1.0 / one
    raise AuthorsError(
        f'{where}: flow_normalization_mode is {mode!r}, which moves zero flow away from zero; '
        'only symmetric_percentile and scale'
    )


def _action_scale(dataset: Mapping[str, Any], n: int, where: str) -> tuple[float, ...]:
    before = float(dataset.get('du_scale') or dataset.get('action_pre_scale') or 1.0)
    scale = dataset.get('action_abs_scale')
    mode = dataset.get('action_normalization_mode') or ('symmetric_percentile' if scale else 'none')
    if mode == 'symmetric_percentile':
        numbers = _numbers(scale, n, 'action_abs_scale', where)
        return tuple((v + EPSILON) / before for v in numbers)
    if mode == 'none':
        return (1.0 / before,) * n
    raise AuthorsError(
        f'{where}: action_normalization_mode is {mode!r}, which moves a zero action away from '
        'zero; only symmetric_percentile and none'
    )


def _actions(dataset: Mapping[str, Any], n: int, where: str) -> tuple[str, tuple[ActionUnit, ...]]:
    mode = dataset.get('action_mode') or ACTIONS_OF.get(str(dataset.get('name')))
    mode = SAME_ACTION.get(str(mode), str(mode))
    se3 = float(dataset.get('se3_scale') or 50.0)
    gripper = float(dataset.get('gripper_scale') or 80.0)
    plain = float(dataset.get('action_scale') or 1.0)
    finger = ('gripper', 'joint_delta')
    motion = [
        *[ActionUnit(('cartesian_delta',), 'm', se3)] * 3,
        *[ActionUnit(('cartesian_delta',), 'rad', se3)] * 3,
    ]
    layouts = {
        'se3_quat': [*motion, ActionUnit(finger, 'm', gripper)],
        'droid_se3': [*motion, ActionUnit(finger, 'ratio', gripper)],
        'qpos_delta': [ActionUnit(('joint_delta',), 'rad', plain)] * n,
        'joint_delta': [
            *[ActionUnit(('joint_delta',), 'rad', plain)] * 7,
            ActionUnit(finger, 'ratio', plain),
        ],
        # A share of the data's largest step, which is not in the configuration.
        'pusht_pos_cmd': [ActionUnit(('joint_delta', 'cartesian_delta'), None, plain)] * n,
    }
    if mode not in layouts:
        raise AuthorsError(
            f'{where}: neither dataset.action_mode {dataset.get("action_mode")!r} nor dataset.name '
            f'{dataset.get("name")!r} says what the actions are; there are {", ".join(layouts)}'
        )
    if len(layouts[mode]) != n:
        raise AuthorsError(
            f'{where}: command_dim is {n}, but actions {mode!r} have {len(layouts[mode])} numbers'
        )
    return mode, tuple(layouts[mode])


def _whole(options: Mapping[str, Any], key: str, where: str) -> int:
    value = options.get(key)
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise AuthorsError(f'{where}: algorithm.model.{key} is {value!r}; it must be a number >= 1')
    return value


def _size(value: Any, where: str) -> tuple[int, int]:
    sizes = [value, value] if isinstance(value, int) else value
    if (
        not isinstance(sizes, list)
        or len(sizes) != 2
        or not all(isinstance(v, int) and v > 0 for v in sizes)
    ):
        raise AuthorsError(
            f'{where}: algorithm.image_size is {value!r}; it must be height and width'
        )
    return sizes[0], sizes[1]


def _numbers(values: Any, count: int, key: str, where: str) -> list[float]:
    if (
        not isinstance(values, Sequence)
        or len(values) != count
        or not all(isinstance(v, (int, float)) and v > 0 for v in values)
    ):
        raise AuthorsError(
            f'{where}: dataset.{key} is {values!r}; it must be {count} positive numbers'
        )
    return [float(v) for v in values]
