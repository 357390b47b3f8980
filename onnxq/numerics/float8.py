"""The 8-bit float type E4M3FN, exact, on bit patterns.

    bits s eeee mmm        value = (-1)^s * 2^(e - 7) * (1 + m / 8),    e > 0
                                   (-1)^s * 2^-6 * (m / 8),             e = 0

There are no infinities; 0x7F and 0xFF are NaN, so the largest value is 2^8 * 1.75 = 448. Values round to the nearest,
ties to even, and saturate. Source: arXiv 2209.05433 table 1; https://onnx.ai/onnx/technical/float8.html
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

_MANTISSA_BITS, _BIAS = 3, 7
_LARGEST = 0x7E
"""The pattern of 448."""


def _table() -> NDArray[np.float32]:
    patterns = np.arange(256)
    exponent, mantissa = (patterns >> _MANTISSA_BITS) & 0xF, patterns & 0x7
    normal = np.ldexp(1.0 + mantissa / 8.0, exponent - _BIAS)
    values = np.where(exponent > 0, normal, np.ldexp(mantissa / 8.0, 1 - _BIAS))
    values = np.where(patterns & 0x80, -values, values)
    values[[0x7F, 0xFF]] = np.nan
    return values.astype(np.float32)


VALUES: NDArray[np.float32] = _table()
"""The value of each bit pattern, shape (256,); NaN at 0x7F and 0xFF."""
VALUES.flags.writeable = False


def round_to_float8(values: ArrayLike) -> NDArray[np.float64]:
    """The nearest values of E4M3FN, saturated.

    Args:
        values: Real values, any shape; infinities give 448.

    Returns:
        float64, same shape.
    """
    given = np.asarray(values, np.float64)
    magnitude = np.minimum(np.abs(given), 448.0)
    # Steps are 2^-9 below 2^-6 and 2^-3 of the power of two above: rint ties to even in units of the step.
    _, exponent = np.frexp(magnitude)
    step = np.ldexp(1.0, np.maximum(exponent - 1, 1 - _BIAS) - _MANTISSA_BITS)
    return np.asarray(np.copysign(np.rint(magnitude / step) * step, given), np.float64)


def encode_float8(values: ArrayLike) -> NDArray[np.uint8]:
    """Bit patterns of real values.

    Args:
        values: Real values, any shape, no NaN.

    Returns:
        uint8, same shape.
    """
    rounded = round_to_float8(values)
    # The patterns of positive values ascend with the values.
    pattern = np.searchsorted(VALUES[: _LARGEST + 1], np.abs(rounded)).astype(np.uint8)
    return np.asarray(np.where(np.signbit(rounded), pattern | np.uint8(0x80), pattern), np.uint8)


def decode_float8(patterns: ArrayLike) -> NDArray[np.float32]:
    """Values of bit patterns.

    Args:
        patterns: uint8, any shape.

    Returns:
        float32, same shape; NaN for 0x7F and 0xFF.
    """
    return np.asarray(VALUES[np.asarray(patterns, np.uint8)], np.float32)
