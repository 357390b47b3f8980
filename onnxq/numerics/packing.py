"""Codes of less than 8 bits, as a model stores them: several in a byte, the first in the lowest bits.

The elements of the whole tensor, in row-major order, follow each other without regard to rows; what is left of the last
byte is zero. Signed codes are two's complement. Source: https://onnx.ai/onnx/technical/int4.html
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import numpy as np
from numpy.typing import ArrayLike, NDArray

from onnxq.errors import DataError
from onnxq.numerics.qtypes import QType
from onnxq.wording.plural import counted


def pack_codes(codes: ArrayLike, qtype: QType) -> bytes:
    """The bytes that hold `codes` in a model (little endian for wider types).

    Args:
        codes: Integers that `qtype` can hold, any shape.
        qtype: Their type.

    Raises:
        DataError: a code is outside the type.

    >>> from onnxq.numerics.qtypes import INT4
    >>> pack_codes([1, -2, 7], INT4).hex()
    'e107'
    """
    given = np.asarray(codes)
    if not qtype.is_float and given.size and not (given.min() >= qtype.qmin and given.max() <= qtype.qmax):
        raise DataError(
            f"codes run from {given.min()} to {given.max()}; {qtype.name} holds [{qtype.qmin}, {qtype.qmax}]"
        )
    flat = np.ascontiguousarray(given, qtype.dtype.newbyteorder("<")).reshape(-1)
    if qtype.bits >= 8:
        return bytes(flat.tobytes())
    each = 8 // qtype.bits
    low = flat.view(np.uint8) & np.uint8(2**qtype.bits - 1)
    padded = np.zeros(-(-low.size // each) * each, np.uint8)
    padded[: low.size] = low
    shifts = (np.arange(each) * qtype.bits).astype(np.uint8)
    return bytes(np.bitwise_or.reduce(padded.reshape(-1, each) << shifts, axis=1).astype(np.uint8).tobytes())


def unpack_codes(data: bytes, shape: Sequence[int], qtype: QType) -> NDArray[np.generic]:
    """The codes in the bytes of a model.

    Args:
        data: As `pack_codes` makes them.
        shape: The tensor's shape.
        qtype: Type of the codes.

    Returns:
        The dtype of the type, in `shape`.

    Raises:
        DataError: there are more or fewer bytes than the shape needs.
    """
    count = prod(shape)
    needed = -(-count * qtype.bits // 8)
    if len(data) != needed:
        raise DataError(f"{counted(len(data), 'byte')} of {qtype.name} for shape {tuple(shape)}, which needs {needed}")
    if qtype.bits >= 8:
        return np.frombuffer(data, qtype.dtype.newbyteorder("<")).astype(qtype.dtype).reshape(shape)
    each = 8 // qtype.bits
    shifts = (np.arange(each) * qtype.bits).astype(np.uint8)
    mask = np.uint8(2**qtype.bits - 1)
    codes = ((np.frombuffer(data, np.uint8)[:, None] >> shifts) & mask).reshape(-1)[:count].astype(np.int16)
    if qtype.signed:
        codes = np.where(codes > qtype.qmax, codes - 2**qtype.bits, codes)
    return np.asarray(codes.astype(qtype.dtype).reshape(shape))
