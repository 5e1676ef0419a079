"""The authors' checkpoints as their repository lays them out: names, shapes, and plain forwards.

Written down by hand from their modules (and transformers 4's DINOv2 and DPT), not from ours: the
tables are what an import is held to, the forwards call torch's functions on the raw names.
"""

import math
from dataclasses import dataclass

import torch
import yaml
from torch.nn import functional as F


@dataclass(frozen=True)
class Size:
    """Widths of DINOv2 and of the DPT neck; those published unless told."""

    dim: int = 384
    heads: int = 6
    layers: int = 12
    neck: tuple = (96, 96, 128, 128)
    fused: int = 256


PUBLISHED = Size()
SMALL = Size(24, 2, 5, (8, 8, 12, 12), 16)


def conv(name, out, inside, k, bias=True):
    shapes = {f'{name}.weight': (out, inside, k, k)}
    return {**shapes, f'{name}.bias': (out,)} if bias else shapes


def linear(name, out, inside):
    return {f'{name}.weight': (out, inside), f'{name}.bias': (out,)}


def norm(name, width):
    return {f'{name}.weight': (width,), f'{name}.bias': (width,)}


def encoder_shapes(size=PUBLISHED):
    """DptWrapper: Dinov2Backbone (small) and DPTNeck."""
    D, FUSED = size.dim, size.fused
    b, n = 'encoder.backbone', 'encoder.neck'
    shapes = {
        f'{b}.embeddings.cls_token': (1, 1, D),
        f'{b}.embeddings.mask_token': (1, D),
        f'{b}.embeddings.position_embeddings': (1, 37 * 37 + 1, D),
        **conv(f'{b}.embeddings.patch_embeddings.projection', D, 3, 14),
        **norm(f'{b}.layernorm', D),
    }
    for i in range(size.layers):
        layer = f'{b}.encoder.layer.{i}'
        shapes |= {
            **norm(f'{layer}.norm1', D), **norm(f'{layer}.norm2', D),
            **linear(f'{layer}.attention.attention.query', D, D),
            **linear(f'{layer}.attention.attention.key', D, D),
            **linear(f'{layer}.attention.attention.value', D, D),
            **linear(f'{layer}.attention.output.dense', D, D),
            f'{layer}.layer_scale1.lambda1': (D,), f'{layer}.layer_scale2.lambda1': (D,),
            **linear(f'{layer}.mlp.fc1', 4 * D, D), **linear(f'{layer}.mlp.fc2', D, 4 * D),
        }  # fmt: skip
    for i, width in enumerate(size.neck):
        shapes |= linear(f'{n}.reassemble_stage.readout_projects.{i}.0', D, 2 * D)
        shapes |= conv(f'{n}.reassemble_stage.layers.{i}.projection', width, D, 1)
        if i != 2:
            shapes |= conv(f'{n}.reassemble_stage.layers.{i}.resize', width, width, (4, 2, 0, 3)[i])
        shapes |= conv(f'{n}.convs.{i}', FUSED, width, 3, bias=False)
        shapes |= conv(f'{n}.fusion_stage.layers.{i}.projection', FUSED, FUSED, 1)
        for k in (1, 2):
            for j in (1, 2):
                unit = f'{n}.fusion_stage.layers.{i}.residual_layer{k}.convolution{j}'
                shapes |= conv(unit, FUSED, FUSED, 3)
    return shapes


def decoder_shapes(model, n, size=PUBLISHED):
    d, FUSED = 'decoder', size.fused
    if model == 'dpt':
        return {
            **conv(f'{d}.net.0', FUSED // 2, FUSED, 3),
            **conv(f'{d}.net.2', FUSED // 4, FUSED // 2, 3),
            **conv(f'{d}.net.4', 2 * n, FUSED // 4, 1),
        }  # fmt: skip
    width = 64 if model == 'dpt_v2' else 128
    shapes = {}
    for i in range(4):
        shapes |= conv(f'{d}.proj_layers.{i}', width, FUSED, 1)
    if model == 'dpt_v2':
        return {
            **shapes,
            **conv(f'{d}.fuse_block.0', 64, 64, 3), **conv(f'{d}.fuse_block.2', 64, 64, 3),
            **conv(f'{d}.out_conv.0', 32, 64, 3), **conv(f'{d}.out_conv.2', 2 * n, 32, 1),
        }  # fmt: skip
    for i in range(4):
        block = f'{d}.fusion_blocks.{i}'
        for unit in ('skip_unit', 'output_unit') if i else ('output_unit',):
            shapes |= conv(f'{block}.{unit}.conv1', 128, 128, 3)
            shapes |= conv(f'{block}.{unit}.conv2', 128, 128, 3)
        shapes |= conv(f'{block}.out_conv', 128, 128, 1)
    return {
        **shapes, **conv(f'{d}.output_conv1', 128, 128, 3),
        **conv(f'{d}.output_conv2.0', 64, 128 + 42, 3), **conv(f'{d}.output_conv2.2', 2 * n, 64, 1),
    }  # fmt: skip


def vggt_shapes(n, dim, features, sizes):
    """JacobianDptHead with an uncertainty channel; the aggregator is the user's."""
    d, half, eighth = 'decoder', features // 2, features // 8
    shapes = norm(f'{d}.norm', dim)
    for i, size in enumerate(sizes):
        shapes |= conv(f'{d}.projects.{i}', size, dim, 1)
        if i != 2:
            shapes |= conv(f'{d}.resize_layers.{i}', size, size, (4, 2, 0, 3)[i])
        shapes |= conv(f'{d}.scratch.layer{i + 1}_rn', features, size, 3, bias=False)
        for unit in ('resConfUnit1', 'resConfUnit2') if i < 3 else ('resConfUnit2',):
            for j in (1, 2):
                name = f'{d}.scratch.refinenet{i + 1}.{unit}.conv{j}'
                shapes |= conv(name, features, features, 3)
        shapes |= conv(f'{d}.scratch.refinenet{i + 1}.out_conv', features, features, 1)
    return {
        **shapes, **conv(f'{d}.scratch.output_conv1', half, features, 3),
        **conv(f'{d}.output_conv2.0', eighth, half, 3),
        **conv(f'{d}.output_conv2.2', 2 * n, eighth, 1),
        **conv(f'{d}.uncertainty_conv.0', eighth, half, 3),
        **conv(f'{d}.uncertainty_conv.2', 1, eighth, 1),
    }  # fmt: skip


def random_weights(shapes, seed=0, gain=1.4):
    """Random and of a size that lets signals through; `model.` in front as Lightning writes it."""
    generator = torch.Generator().manual_seed(seed)
    weights = {}
    for name, shape in shapes.items():
        value = torch.randn(shape, generator=generator)
        if len(shape) > 1:
            value *= gain / math.sqrt(math.prod(shape[1:]))
        else:
            value = 1 + 0.1 * value if name.endswith(('weight', 'lambda1')) else 0.1 * value
        weights[f'model.{name}'] = value
    return weights


class Raw:
    """Plain calls on raw names."""

    def __init__(self, weights, size=PUBLISHED):
        self.size = size
        self.w = {k.removeprefix('model.'): v for k, v in weights.items()}

    def conv(self, name, x, stride=1, padding=None):
        weight = self.w[f'{name}.weight']
        padding = weight.shape[-1] // 2 if padding is None else padding
        return F.conv2d(x, weight, self.w.get(f'{name}.bias'), stride, padding)

    def up(self, name, x, factor):
        return F.conv_transpose2d(x, self.w[f'{name}.weight'], self.w[f'{name}.bias'], factor)

    def linear(self, name, x):
        return F.linear(x, self.w[f'{name}.weight'], self.w[f'{name}.bias'])

    def norm(self, name, x, eps):
        return F.layer_norm(x, x.shape[-1:], self.w[f'{name}.weight'], self.w[f'{name}.bias'], eps)

    def encoder(self, images, stages=(1, 2, 3, 4)):
        b, D, heads = 'encoder.backbone', self.size.dim, self.size.heads
        x = self.conv(f'{b}.embeddings.patch_embeddings.projection', images, 14, 0)
        n, _, h, w = x.shape
        x = x.permute(0, 2, 3, 1).reshape(n, h * w, D)
        x = torch.cat([self.w[f'{b}.embeddings.cls_token'].repeat(n, 1, 1), x], 1)
        place = self.w[f'{b}.embeddings.position_embeddings']
        grid = place[:, 1:].reshape(1, 37, 37, D).permute(0, 3, 1, 2)
        grid = F.interpolate(grid, size=(h, w), mode='bicubic', align_corners=False)
        x = x + torch.cat([place[:, :1], grid.permute(0, 2, 3, 1).reshape(1, h * w, D)], 1)
        states = []
        for i in range(max(stages)):
            layer = f'{b}.encoder.layer.{i}'
            y = self.norm(f'{layer}.norm1', x, 1e-6)
            q, k, v = (
                self.linear(f'{layer}.attention.attention.{part}', y)
                .reshape(n, -1, heads, D // heads).permute(0, 2, 1, 3)
                for part in ('query', 'key', 'value')
            )  # fmt: skip
            y = torch.softmax(q @ k.transpose(-1, -2) / math.sqrt(D // heads), -1) @ v
            y = self.linear(f'{layer}.attention.output.dense', y.permute(0, 2, 1, 3).flatten(2))
            x = x + self.w[f'{layer}.layer_scale1.lambda1'] * y
            y = self.norm(f'{layer}.norm2', x, 1e-6)
            y = self.linear(f'{layer}.mlp.fc2', F.gelu(self.linear(f'{layer}.mlp.fc1', y)))
            x = x + self.w[f'{layer}.layer_scale2.lambda1'] * y
            if i + 1 in stages:
                states.append(self.norm(f'{b}.layernorm', x, 1e-6))
        return self.neck(states, h, w)

    def neck(self, states, h, w):
        n = 'encoder.neck'
        maps = []
        for i, state in enumerate(states):
            tokens = state[:, 1:]
            both = torch.cat([tokens, state[:, :1].repeat(1, tokens.shape[1], 1)], -1)
            x = F.gelu(self.linear(f'{n}.reassemble_stage.readout_projects.{i}.0', both))
            x = x.permute(0, 2, 1).reshape(len(x), self.size.dim, h, w)
            layer = f'{n}.reassemble_stage.layers.{i}'
            x = self.conv(f'{layer}.projection', x)
            if i < 2:
                x = self.up(f'{layer}.resize', x, (4, 2)[i])
            elif i == 3:
                x = self.conv(f'{layer}.resize', x, 2)
            maps.append(self.conv(f'{n}.convs.{i}', x))
        fused = []
        for i, x in enumerate(reversed(maps)):
            layer = f'{n}.fusion_stage.layers.{i}'
            if fused:
                size = fused[-1].shape[-2:]
                if x.shape[-2:] != size:
                    x = F.interpolate(x, size=size, mode='bilinear', align_corners=False)
                x = fused[-1] + self.pre_activated(f'{layer}.residual_layer1', x)
            x = self.pre_activated(f'{layer}.residual_layer2', x)
            x = F.interpolate(x, scale_factor=2, mode='bilinear', align_corners=True)
            fused.append(self.conv(f'{layer}.projection', x))
        return fused

    def pre_activated(self, name, x):
        y = self.conv(f'{name}.convolution1', torch.relu(x))
        return x + self.conv(f'{name}.convolution2', torch.relu(y))

    def in_place(self, name, x):
        """Their ReLU(inplace=True) changes what the shortcut adds."""
        x = x.clone()
        residual = x
        y = self.conv(f'{name}.conv1', torch.relu_(x))
        return self.conv(f'{name}.conv2', torch.relu_(y)) + residual

    def jacobian(self, model, images):
        """[B, n, 2, H, W]."""
        maps = self.encoder(images)
        size = images.shape[-2:]

        def to(x, shape):
            return F.interpolate(x, size=shape, mode='bilinear', align_corners=False)

        d = 'decoder'
        if model == 'dpt':
            x = torch.relu(self.conv(f'{d}.net.0', to(maps[-1], size)))
            x = self.conv(f'{d}.net.4', torch.relu(self.conv(f'{d}.net.2', x)))
            return x.reshape(len(x), -1, 2, *size)
        maps = [self.conv(f'{d}.proj_layers.{i}', m) for i, m in enumerate(maps)]
        if model == 'dpt_v2':
            x = maps[3]
            for m in (maps[2], maps[1], maps[0]):
                x = to(x, m.shape[-2:]) + m
                x = torch.relu(self.conv(f'{d}.fuse_block.0', x))
                x = torch.relu(self.conv(f'{d}.fuse_block.2', x))
            x = torch.relu(self.conv(f'{d}.out_conv.0', to(x, size)))
            return self.conv(f'{d}.out_conv.2', x).reshape(len(x), -1, 2, *size)
        x = None
        for i in range(4):
            block = f'{d}.fusion_blocks.{i}'
            x = maps[0] if x is None else x + self.in_place(f'{block}.skip_unit', maps[i])
            x = to(self.in_place(f'{block}.output_unit', x), maps[min(i + 1, 3)].shape[-2:])
            x = self.conv(f'{block}.out_conv', x)
        x = to(self.conv(f'{d}.output_conv1', x), size)
        ys, xs = torch.meshgrid(
            torch.linspace(-1, 1, size[0]), torch.linspace(-1, 1, size[1]), indexing='ij'
        )
        features = [xs, ys]
        for k in range(10):
            for wave in (xs, ys):
                angle = torch.pi * 2**k * wave
                features += [torch.sin(angle), torch.cos(angle)]
        x = torch.cat([x, torch.stack(features)[None].repeat(len(x), 1, 1, 1)], 1)
        x = self.conv(f'{d}.output_conv2.2', torch.relu(self.conv(f'{d}.output_conv2.0', x)))
        return x.reshape(len(x), -1, 2, *size)

    def vggt(self, tokens, patches):
        """Patch tokens of four layers [B, h w, D] -> J [B, n, 2, 14 h, 14 w], raw confidence."""
        d, (h, w) = 'decoder', patches

        def placed(x):
            c, rows, columns = x.shape[1:]
            aspect = w / h
            reach = (aspect / math.hypot(aspect, 1), 1 / math.hypot(aspect, 1))
            grid = torch.zeros(rows, columns, c)
            for row in range(rows):
                for column in range(columns):
                    u = reach[0] * (2 * column + 1 - columns) / columns
                    v = reach[1] * (2 * row + 1 - rows) / rows
                    waves = [100 ** (-4 * k / c) for k in range(c // 4)]
                    grid[row, column] = torch.tensor(
                        [math.sin(u * f) for f in waves] + [math.cos(u * f) for f in waves]
                        + [math.sin(v * f) for f in waves] + [math.cos(v * f) for f in waves]
                    )  # fmt: skip
            return x + 0.1 * grid.permute(2, 0, 1)[None]

        maps = []
        for i, t in enumerate(tokens):
            x = self.norm(f'{d}.norm', t, 1e-5).permute(0, 2, 1).reshape(len(t), -1, h, w)
            x = placed(self.conv(f'{d}.projects.{i}', x))
            if i < 2:
                x = self.up(f'{d}.resize_layers.{i}', x, (4, 2)[i])
            elif i == 3:
                x = self.conv(f'{d}.resize_layers.{i}', x, 2)
            maps.append(self.conv(f'{d}.scratch.layer{i + 1}_rn', x))
        x = None
        for k in (4, 3, 2, 1):
            net = f'{d}.scratch.refinenet{k}'
            x = maps[3] if x is None else x + self.in_place(f'{net}.resConfUnit1', maps[k - 1])
            x = self.in_place(f'{net}.resConfUnit2', x)
            size = maps[k - 2].shape[-2:] if k > 1 else [2 * s for s in x.shape[-2:]]
            x = F.interpolate(x, size=tuple(size), mode='bilinear', align_corners=True)
            x = self.conv(f'{net}.out_conv', x)
        x = self.conv(f'{d}.scratch.output_conv1', x)
        x = F.interpolate(x, size=(14 * h, 14 * w), mode='bilinear', align_corners=True)
        x = placed(x)
        J = self.conv(f'{d}.output_conv2.2', torch.relu(self.conv(f'{d}.output_conv2.0', x)))
        raw = torch.relu(self.conv(f'{d}.uncertainty_conv.0', x))
        return (
            J.reshape(len(J), -1, 2, *J.shape[-2:]), self.conv(f'{d}.uncertainty_conv.2', raw)
        )  # fmt: skip


def run_config(model, n, image_size, views=('00',), **dataset):
    """A run configuration as it lies beside the weights."""
    options = {
        'name': model, 'command_dim': n, 'spatial_dim': 2, 'image_size': '${dataset.resolution}',
    }  # fmt: skip
    if model == 'vggt_jacobian':
        options |= {'pretrained_model_id': 'facebook/VGGT-1B', 'predict_uncertainty': True}
    else:
        options |= {'backbone_preset': 'small', 'neck_preset': 'M', 'freeze_backbone': True}
    if model == 'dpt_vggt_fusion':
        options |= {
            'fusion_channels': 128, 'prediction_hidden_channels': 64, 'use_uv_coords': True,
            'uv_fourier_frequencies': 10, 'output_scale': 1.0,
        }  # fmt: skip
    return {
        'algorithm': {
            'name': 'image_jacobian', 'image_size': '${dataset.camera.image_size}',
            'supervision': 'flow', 'inverse_action_damping': 0.01, 'model': options,
        },
        'dataset': {
            'name': 'allegro', 'resolution': image_size, 'action_mode': 'qpos_delta',
            'camera': {'views': list(views), 'image_size': [image_size, '${dataset.resolution}']},
            'action_normalization_mode': 'symmetric_percentile', 'action_percentile': 90.0,
            'action_abs_scale': [0.1] * n, 'flow_normalization_space': 'raw_fullres',
            'flow_normalization_mode': 'symmetric_percentile', 'oflow_scale': None,
            'oflow_percentile': 90.0, 'oflow_abs_scale': [2.0, 3.0], **dataset,
        },
    }  # fmt: skip


def write_published(folder, weights, run, extra=None):
    """model.ckpt as Lightning writes it, and config.yaml."""
    folder.mkdir(parents=True, exist_ok=True)
    checkpoint = {
        'epoch': 3, 'global_step': 200000, 'pytorch-lightning_version': '2.5.1',
        'state_dict': weights, 'optimizer_states': [], **(extra or {}),
    }  # fmt: skip
    torch.save(checkpoint, folder / 'model.ckpt')
    (folder / 'config.yaml').write_text(yaml.safe_dump(run))
    return folder
