"""A toy embodiment without a simulator: a textured patch that two channels shift in x and y."""

from types import SimpleNamespace

import cv2
import numpy as np

from vera_jidm.dataset import Transitions, write_shard

SIZE = 32
FIELDS = {
    'canvas': {'height': SIZE, 'width': SIZE},
    'cameras': [{'name': 'top', 'crop': None, 'canvas_width': SIZE}],
    'channels': [
        {'name': 'x', 'kind': 'joint_delta', 'unit': 'rad'},
        {'name': 'y', 'kind': 'joint_delta', 'unit': 'rad'},
    ],
}
# All that a training asks of a contract.
CONTRACT = SimpleNamespace(
    embodiment='toy',
    channels=(SimpleNamespace(kind='joint_delta'), SimpleNamespace(kind='joint_delta')),
    channel_names=('x', 'y'),
    joints=(),
    joint_names=(),
    position_limits=(np.zeros(0), np.zeros(0)),
    cameras=(SimpleNamespace(name='top'),),
    camera_names=('top',),
    slot_width=lambda camera: SIZE,
    canvas=SimpleNamespace(height=SIZE, width=SIZE),
    action_fields=lambda: FIELDS,
)
# Pixels that one unit of a channel moves the patch.
GAIN = 20.0


def texture(seed, size=SIZE, smooth=1.2):
    rng = np.random.default_rng(seed)
    noise = cv2.GaussianBlur(rng.uniform(0, 1, (size, size, 3)), (0, 0), smooth)
    noise = (noise - noise.min()) / (noise.max() - noise.min())
    return (255 * noise).astype(np.uint8)


def shifted(image, dx, dy):
    matrix = np.array([[1, 0, dx], [0, 1, dy]], np.float64)
    return cv2.warpAffine(
        image, matrix, image.shape[1::-1], flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT
    )


def patch(x, y):
    """White table, a textured 16 x 16 patch with its corner at (x, y); image and mask."""
    tile = texture(5, 16)
    matrix = np.array([[1, 0, x], [0, 1, y]], np.float64)
    mask = cv2.warpAffine(np.ones((16, 16), np.float32), matrix, (SIZE, SIZE))
    image = cv2.warpAffine(tile, matrix, (SIZE, SIZE)).astype(np.float32)
    return np.clip(image + 255 * (1 - mask[..., None]), 0, 255).astype(np.uint8), mask > 0.5


def transitions(count, seed=0):
    rng = np.random.default_rng(seed)
    before, after, flow, back = [], [], [], []
    actions = rng.uniform(-0.1, 0.1, (count, 2)).astype(np.float32)
    for a in actions:
        x, y = rng.uniform(4, 12, 2)
        image0, mask0 = patch(x, y)
        image1, mask1 = patch(x + GAIN * a[0], y + GAIN * a[1])
        before.append(image0)
        after.append(image1)
        flow.append(mask0[..., None] * (GAIN * a))
        back.append(mask1[..., None] * (-GAIN * a))
    return Transitions(
        np.stack(before), np.stack(after), actions,
        np.stack(flow).astype(np.float16), np.stack(back).astype(np.float16),
    )


def write_folder(folder, shards=2, count=40, seed=0, fields=FIELDS):
    for i in range(shards):
        write_shard(
            folder / f'shard_{i:05d}.mcap', transitions(count, seed * 100 + i),
            {'contract': fields, 'source': 'toy', 'seed': seed},
        )
    return folder
