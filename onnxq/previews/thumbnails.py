"""Samples as small pictures: PNG by the standard library alone.

PNG: signature, IHDR, IDAT (zlib over rows, each behind filter type 0), IEND. Source: https://www.w3.org/TR/png-3/
"""

from __future__ import annotations

import struct
import zlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxq.data.inputs import Layout

_SIDE = 160


def thumbnail(sample: NDArray[Any], layout: Layout) -> bytes:
    """A PNG of one sample, its values spread from black to white over the picture's own range.

    Args:
        sample: Shape (C, H, W) or (H, W, C), C being 1, 3 or 4; of 4 channels the first 3 are shown.
        layout: Where the channels are.
    """
    pixels = sample if layout == "nhwc" else np.moveaxis(sample, 0, 2)
    step = max(1, -(-max(pixels.shape[:2]) // _SIDE))
    small = pixels[::step, ::step, :3].astype(np.float64)
    low, high = float(small.min()), float(small.max())
    codes = np.zeros(small.shape) if high == low else (small - low) / (high - low) * 255
    return _png(np.round(codes).astype(np.uint8))


def _png(pixels: NDArray[np.uint8]) -> bytes:
    height, width, channels = pixels.shape
    rows = np.concatenate([np.zeros((height, 1), np.uint8), pixels.reshape(height, -1)], axis=1)
    header = struct.pack(">IIBBBBB", width, height, 8, 2 if channels == 3 else 0, 0, 0, 0)
    parts = ((b"IHDR", header), (b"IDAT", zlib.compress(rows.tobytes(), 9)), (b"IEND", b""))
    chunks = (struct.pack(">I", len(d)) + t + d + struct.pack(">I", zlib.crc32(t + d)) for t, d in parts)
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)
