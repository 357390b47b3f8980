"""Scales for tensors in half precision, where the scale has the type of the tensor.

A scale is rounded up to the next value of the type, so that the range still fits; the parameters hold what will be
written, and codes are computed with that.

    float16    10 bits of fraction, at most 65504; below 6.1e-5 the steps stay 6.0e-8 apart, and that is the smallest
    bfloat16   7 bits of fraction, the range of float32

Where the largest code times the scale would pass 65504, the scale is rounded down instead: the range of a float16
tensor ends there.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto

from onnxq.numerics.qparams import QuantParams

_LARGEST_FLOAT16 = float(np.finfo(np.float16).max)


def with_scale_in(params: QuantParams, elem_type: int | None) -> QuantParams:
    """`params` with a scale that float type `elem_type` (TensorProto.DataType) holds exactly."""
    if elem_type == TensorProto.FLOAT16:
        return with_scale_in_float16(params)
    return with_scale_in_bfloat16(params) if elem_type == TensorProto.BFLOAT16 else params


def with_scale_in_float16_if_it_fits(params: QuantParams) -> QuantParams:
    """`params` with a scale that float16 holds exactly; itself where the range ends beyond 65504."""
    steps = float(params.spec.qmax - int(np.min(params.zero_point)))
    fits = float(np.max(params.scale, initial=0.0)) * steps <= _LARGEST_FLOAT16
    return with_scale_in_float16(params) if fits else params


def with_scale_in_float16(params: QuantParams) -> QuantParams:
    """`params` with a scale that float16 holds exactly."""
    scale = params.scale
    steps = float(params.spec.qmax - int(np.min(params.zero_point)))
    capped = np.minimum(scale, np.float32(_LARGEST_FLOAT16))
    nearest = capped.astype(np.float16)
    up = np.where(nearest.astype(np.float32) < capped, np.nextafter(nearest, np.float16(np.inf)), nearest)
    down = np.where(nearest.astype(np.float32) > capped, np.nextafter(nearest, np.float16(0)), nearest)
    fits = up.astype(np.float64) * steps <= _LARGEST_FLOAT16
    return replace(params, scale=np.where(fits, up, down).astype(np.float32))


def with_scale_in_bfloat16(params: QuantParams) -> QuantParams:
    """`params` with a scale that bfloat16 holds exactly."""
    bits = np.ascontiguousarray(params.scale).view(np.uint32)
    # The upper half of a float32 is a bfloat16; adding all of the lower half first rounds up.
    up = ((bits.astype(np.uint64) + 0xFFFF) & 0xFFFF0000).astype(np.uint32).view(np.float32)
    largest = np.array(0x7F7F0000, np.uint32).view(np.float32)
    scale: NDArray[np.float32] = np.minimum(up, largest).reshape(params.scale.shape)
    return replace(params, scale=scale)
