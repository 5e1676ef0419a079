"""Pictures for a browser: small, JPEG, with a head that says what they show."""

from __future__ import annotations

import json
import struct
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

WIDEST = 480  # px; the page shows no camera larger
QUALITY = 80
SMALL = 128  # px: what is not higher is sent without colour subsampling

# One thread: the robot's own processes need the others.
cv2.setNumThreads(1)


def shrink(image: NDArray[np.uint8], widest: int = WIDEST) -> NDArray[np.uint8]:
    """The image, uint8 [H, W, 3], with a width of `widest` at most."""
    height, width = image.shape[:2]
    if width <= widest:
        return image
    size = widest, max(1, round(height * widest / width))
    return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8)


def jpeg(image: NDArray[np.uint8], quality: int = QUALITY) -> bytes:
    """JPEG of uint8 [H, W, 3] RGB."""
    options = [cv2.IMWRITE_JPEG_QUALITY, quality]
    if image.shape[1] <= SMALL:
        # Pixels of a small canvas are shown large; half the colours would be seen.
        options += [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444]
    good, data = cv2.imencode('.jpg', cv2.cvtColor(image, cv2.COLOR_RGB2BGR), options)
    if not good:
        raise ValueError(f'an image of shape {list(image.shape)} cannot be encoded')
    return bytes(data)


def picture(image: NDArray[np.uint8], quality: int = QUALITY, **head: Any) -> bytes:
    """A binary message: length of the head (uint32, little-endian), head as JSON, JPEG."""
    text = json.dumps(head).encode()
    return struct.pack('<I', len(text)) + text + jpeg(image, quality)


def read_picture(message: bytes) -> tuple[dict[str, Any], bytes]:
    """Head and JPEG of a message."""
    (length,) = struct.unpack_from('<I', message)
    return json.loads(message[4 : 4 + length]), message[4 + length :]


__all__ = ['jpeg', 'picture', 'read_picture', 'shrink']
