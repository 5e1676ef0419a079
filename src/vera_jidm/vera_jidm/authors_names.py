"""Names of the authors' parameters, one for one, under our names.

Theirs are those of a Lightning checkpoint, `model.` in front (their idm/jacobian/models/). A few
never enter the output and have no place here: `unread` says which and why.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from vera_jidm.models.dinov2 import NAMES as BACKBONE

_BACKBONE = 'encoder.backbone.'
_NECK = (
    (r'^encoder\.neck\.', 'neck.'),
    (r'^neck\.reassemble_stage\.readout_projects\.(\d)\.0\.', r'neck.reassemble.\1.readout.'),
    (r'^neck\.reassemble_stage\.layers\.(\d)\.', r'neck.reassemble.\1.'),
    (r'^neck\.fusion_stage\.layers\.(\d)\.', r'neck.fuse.\1.'),
    (r'^(neck\.fuse\.\d\.)residual_layer1\.convolution', r'\1skip.conv'),
    (r'^(neck\.fuse\.\d\.)residual_layer2\.convolution', r'\1refine.conv'),
)
_HEADS: dict[str, tuple[tuple[str, str], ...]] = {
    'dpt': (
        (r'^decoder\.net\.0\.', 'head.conv1.'),
        (r'^decoder\.net\.2\.', 'head.conv2.'),
        (r'^decoder\.net\.4\.', 'head.predict.'),
    ),
    'dpt_v2': (
        (r'^decoder\.proj_layers\.', 'head.project.'),
        (r'^decoder\.fuse_block\.0\.', 'head.conv1.'),
        (r'^decoder\.fuse_block\.2\.', 'head.conv2.'),
        (r'^decoder\.out_conv\.0\.', 'head.hidden.'),
        (r'^decoder\.out_conv\.2\.', 'head.predict.'),
    ),
    'dpt_vggt_fusion': (
        (r'^decoder\.proj_layers\.', 'head.project.'),
        (r'^decoder\.fusion_blocks\.(\d)\.skip_unit\.', r'head.fuse.\1.skip.'),
        (r'^decoder\.fusion_blocks\.(\d)\.output_unit\.', r'head.fuse.\1.refine.'),
        (r'^decoder\.fusion_blocks\.(\d)\.out_conv\.', r'head.fuse.\1.out.'),
        (r'^decoder\.output_conv1\.', 'head.smooth.'),
        (r'^decoder\.output_conv2\.0\.', 'head.hidden.'),
        (r'^decoder\.output_conv2\.2\.', 'head.predict.'),
    ),
    'vggt_jacobian': (
        (r'^vggt\.aggregator\.', 'backbone.aggregator.'),
        (r'^decoder\.(norm|projects\.\d)\.', r'head.\1.'),
        (r'^decoder\.resize_layers\.', 'head.resize.'),
        *((rf'^decoder\.scratch\.layer{k}_rn\.', f'head.convs.{k - 1}.') for k in (1, 2, 3, 4)),
        *((rf'^decoder\.scratch\.refinenet{k}\.', f'head.fuse.{4 - k}.') for k in (1, 2, 3, 4)),
        (r'^(head\.fuse\.\d\.)resConfUnit1\.', r'\1skip.'),
        (r'^(head\.fuse\.\d\.)resConfUnit2\.', r'\1refine.'),
        (r'^(head\.fuse\.\d\.)out_conv\.', r'\1out.'),
        (r'^decoder\.scratch\.output_conv1\.', 'head.smooth.'),
        (r'^decoder\.output_conv2\.0\.', 'head.hidden.'),
        (r'^decoder\.output_conv2\.2\.', 'head.predict.'),
        (r'^decoder\.uncertainty_conv\.0\.', 'head.confidence_hidden.'),
        (r'^decoder\.uncertainty_conv\.2\.', 'head.confidence.'),
    ),
}
MODELS = tuple(_HEADS)


def ours(name: str, model: str) -> str:
    """Our name of a parameter of theirs; the name itself if there is no such parameter.

    Args:
        name: with or without `model.` and torch.compile's `_orig_mod.` in front.
        model: one of `MODELS`.
    """
    name = re.sub(r'^model\.(_orig_mod\.)?', '', name)
    if model != 'vggt_jacobian':
        if name.startswith(_BACKBONE):
            return 'backbone.' + _replace(name.removeprefix(_BACKBONE), BACKBONE)
        name = _replace(name, _NECK)
    return _replace(name, _HEADS[model])


def _replace(name: str, patterns: Iterable[tuple[str, str]]) -> str:
    for pattern, replacement in patterns:
        name = re.sub(pattern, replacement, name)
    return name


def unread(name: str, model: str, blocks: int) -> bool:
    """Whether a parameter, by our name, never enters the output.

    The mask token serves DINOv2's own training; blocks after the last one that is read are computed
    for nothing; the first fusion of the neck has no finer map to add.
    """
    if model == 'vggt_jacobian':
        return False
    block = re.match(r'backbone\.blocks\.(\d+)\.', name)
    return (
        name == 'backbone.embeddings.mask_token'
        or name.startswith('neck.fuse.0.skip.')
        or (block is not None and int(block[1]) >= blocks)
    )
