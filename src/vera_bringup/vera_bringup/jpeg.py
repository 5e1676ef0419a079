"""sensor_msgs/Image to CompressedImage and back, as CDR bytes: JPEG as image_transport names it.

An image topic `T` becomes `T/compressed`, with a `format` such as 'rgb8; jpeg compressed bgr8'.
"""

from __future__ import annotations

import struct

import cv2
import numpy as np
from numpy.typing import NDArray

from vera_core.image_codec import decode
from vera_jidm import episodes_cdr as cdr

IMAGE = 'sensor_msgs/msg/Image'
COMPRESSED = 'sensor_msgs/msg/CompressedImage'
SUFFIX = '/compressed'
COLOUR = ('rgb8', 'bgr8', 'rgba8', 'bgra8')
QUALITY = 90


def compress(image: bytes, quality: int = QUALITY) -> bytes | None:
    """CompressedImage of an Image, both CDR; None of depth and other images that JPEG spoils.

    Raises:
        CdrError, ImageError: no such message, or one whose sizes do not fit.
    """
    fields = cdr.read_image(image)
    if fields.encoding not in (*COLOUR, 'mono8'):
        return None
    pixels = decode(fields)
    if fields.encoding == 'mono8':
        picture, kind = pixels[..., 0], 'mono8'
    else:
        picture, kind = cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR), 'bgr8'
    done, data = cv2.imencode('.jpg', picture, [cv2.IMWRITE_JPEG_QUALITY, quality])
    if not done:
        return None
    form = f'{fields.encoding}; jpeg compressed {kind}'
    return _message(image[: _header_end(image)], form, data.reshape(-1))


def decompress(message: bytes) -> bytes | None:
    """Image (rgb8, or mono8) of a CompressedImage, both CDR; None if it cannot be decoded."""
    end = _header_end(message)
    data = _data(message, end)
    pixels = cv2.imdecode(data, cv2.IMREAD_UNCHANGED)
    if pixels is None or pixels.dtype != np.uint8:
        return None
    if pixels.ndim == 3:
        code = cv2.COLOR_BGRA2RGB if pixels.shape[2] == 4 else cv2.COLOR_BGR2RGB
        pixels = cv2.cvtColor(pixels, code)
    encoding = 'rgb8' if pixels.ndim == 3 else 'mono8'
    height, width = pixels.shape[:2]
    row = width * (3 if pixels.ndim == 3 else 1)
    out = bytearray(message[:end])
    _pad(out, 4)
    out += struct.pack('<II', height, width)
    _text(out, encoding)
    out += b'\0'
    _pad(out, 4)
    out += struct.pack('<II', row, row * height)
    return bytes(out) + np.ascontiguousarray(pixels).tobytes()


def _header_end(message: bytes) -> int:
    """Where std_msgs/Header ends: encapsulation, stamp, length of the frame id, frame id."""
    if message[:2] != cdr.HEADER[:2] or len(message) < 16:
        raise cdr.CdrError('no little-endian CDR message with a header')
    (length,) = struct.unpack_from('<I', message, 12)
    return 16 + int(length)


def _data(message: bytes, at: int) -> NDArray[np.uint8]:
    """What follows the format, which OpenCV finds out by itself."""
    at += -(at - 4) % 4
    at += 4 + int(struct.unpack_from('<I', message, at)[0])
    at += -(at - 4) % 4
    (size,) = struct.unpack_from('<I', message, at)
    return np.frombuffer(message, np.uint8, size, at + 4)


def _message(header: bytes, form: str, data: NDArray[np.uint8]) -> bytes:
    out = bytearray(header)
    _pad(out, 4)
    _text(out, form)
    _pad(out, 4)
    out += struct.pack('<I', data.size)
    return bytes(out) + data.tobytes()


def _pad(out: bytearray, size: int) -> None:
    out += b'\0' * (-(len(out) - 4) % size)


def _text(out: bytearray, text: str) -> None:
    raw = text.encode() + b'\0'
    out += struct.pack('<I', len(raw)) + raw


__all__ = ['COMPRESSED', 'IMAGE', 'QUALITY', 'SUFFIX', 'compress', 'decompress']
