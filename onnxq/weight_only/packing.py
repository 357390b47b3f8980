"""Codes as bytes: two 4-bit codes in one, the earlier one in the lower half.

ONNX packs a tensor of INT4 or UINT4 in row-major order (https://onnx.ai/onnx/technical/int4.html). onnxruntime's
MatMulNBits wants the codes of a weight as (N, blocks, bytes of a block), unsigned, with zero-points of each row packed
on their own (https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md#com.microsoft.MatMulNBits).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto, numpy_helper

from onnxq.numerics.qtypes import QType
from onnxq.weight_only.blocks import Grid, Rounded

_SIZES = (16, 32, 64, 128, 256)
_SCALE_BYTES = 4


def tensor_of_codes(name: str, codes: NDArray[Any], qtype: QType) -> TensorProto:
    """An initializer with `codes` in the type `qtype`."""
    tensor = TensorProto(name=name, data_type=qtype.onnx_type, dims=codes.shape)
    if qtype.bits == 4:
        tensor.raw_data = nibbles(codes.reshape(1, -1)).tobytes()
    else:
        tensor.raw_data = np.ascontiguousarray(codes, qtype.dtype).tobytes()
    return tensor


def nibbles(codes: NDArray[Any]) -> NDArray[np.uint8]:
    """4-bit codes of each row, two in a byte; a row of odd length ends with half a byte of zeros."""
    bits = codes.astype(np.uint8) & 15
    if bits.shape[-1] % 2:
        bits = np.concatenate([bits, np.zeros((*bits.shape[:-1], 1), np.uint8)], axis=-1)
    return np.asarray(bits[..., 0::2] | (bits[..., 1::2] << 4), np.uint8)


def in_blocks(rounded: Rounded, bits: int) -> Rounded:
    """Rows of one scale each, cut into blocks that have it again: of the length that takes the fewest bytes."""
    columns = rounded.codes.shape[1]
    size = min(_SIZES, key=lambda size: -(-columns // size) * (size * bits // 8 + _SCALE_BYTES))
    blocks = -(-columns // size)
    grid = Grid(
        scale=np.repeat(rounded.grid.scale, blocks, axis=1),
        zero_point=np.repeat(rounded.grid.zero_point, blocks, axis=1),
    )
    return Rounded(codes=rounded.codes, grid=grid, size=size)


def nbits_weight(rounded: Rounded, qtype: QType) -> NDArray[np.uint8]:
    """Codes for MatMulNBits, uint8 (N, blocks, size * bits / 8)."""
    count, columns = rounded.codes.shape
    blocks = rounded.grid.scale.shape[1]
    codes = np.zeros((count, blocks * rounded.size), np.uint8)
    codes[:, :columns] = rounded.codes.astype(np.int16) - qtype.qmin
    if blocks * rounded.size > columns:
        # What fills the last block up stands for zero.
        codes[:, columns:] = (rounded.grid.zero_point[:, -1:] - qtype.qmin).astype(np.uint8)
    split = codes.reshape(count, blocks, rounded.size)
    return nibbles(split) if qtype.bits == 4 else split


def nbits_zero_points(rounded: Rounded, qtype: QType) -> NDArray[np.uint8]:
    """Zero-points for MatMulNBits, uint8 (N, ceil(blocks * bits / 8))."""
    zero_points = (rounded.grid.zero_point - qtype.qmin).astype(np.uint8)
    return nibbles(zero_points) if qtype.bits == 4 else zero_points


def scales_of(name: str, values: NDArray[np.float32], *, half: bool) -> TensorProto:
    """An initializer with scales."""
    return numpy_helper.from_array(np.ascontiguousarray(values, np.float16 if half else np.float32), name)
