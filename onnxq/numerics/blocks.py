"""Slices of an array that have a scale each: the whole array, channels along an axis, or blocks along an axis.

    per-tensor     scale of shape ()
    per-channel    scale of shape (C,), C = x.shape[axis]
    per-block      scale of shape x.shape, but ceil(x.shape[axis] / block_size) along the axis

The last block may be shorter. Source: DequantizeLinear, opset 21, https://onnx.ai/onnx/operators/onnx__DequantizeLinear.html
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxq.errors import ConfigError, InternalError
from onnxq.numerics.qparams import Range
from onnxq.numerics.specs import QuantSpec


def scale_shape(shape: tuple[int, ...], spec: QuantSpec) -> tuple[int, ...]:
    """Shape of the scale of an array of `shape`.

    Raises:
        ConfigError: the array has no such axis.

    >>> from onnxq.numerics.qtypes import INT4
    >>> scale_shape((64, 100), QuantSpec(qtype=INT4, symmetric=True, axis=1, block_size=32))
    (64, 4)
    """
    if spec.axis is None:
        return ()
    axis = _axis(shape, spec.axis)
    if spec.block_size is None:
        return (shape[axis],)
    return (*shape[:axis], -(-shape[axis] // spec.block_size), *shape[axis + 1 :])


def range_of_values(values: NDArray[Any], spec: QuantSpec) -> Range:
    """The smallest range that holds the values of each slice.

    Args:
        values: Real values, any shape.
        spec: Says what has a scale of its own.

    Returns:
        Ends in the shape of the scale.

    Raises:
        ConfigError: the array has no such axis.
    """
    shape = scale_shape(values.shape, spec)
    if spec.axis is None:
        return Range.of(float(values.min(initial=0.0)), float(values.max(initial=0.0)))
    if values.size == 0:
        return Range(rmin=np.zeros(shape), rmax=np.zeros(shape))
    axis = _axis(values.shape, spec.axis)
    if spec.block_size is not None:
        starts = np.arange(0, values.shape[axis], spec.block_size)
        return Range(
            rmin=np.minimum.reduceat(values, starts, axis=axis), rmax=np.maximum.reduceat(values, starts, axis=axis)
        )
    others = tuple(a for a in range(values.ndim) if a != axis)
    return Range(rmin=values.min(axis=others, initial=0.0), rmax=values.max(axis=others, initial=0.0))


def sum_of_slices(values: NDArray[Any], spec: QuantSpec) -> NDArray[np.float64]:
    """Sum over each slice, in the shape of the scale, in float64."""
    exact = values.astype(np.float64, copy=False)
    if spec.axis is None:
        return np.asarray(exact.sum())
    axis = _axis(values.shape, spec.axis)
    if spec.block_size is not None:
        if values.size == 0:
            return np.zeros(scale_shape(values.shape, spec))
        return np.asarray(np.add.reduceat(exact, np.arange(0, values.shape[axis], spec.block_size), axis=axis))
    return np.asarray(exact.sum(axis=tuple(a for a in range(values.ndim) if a != axis)))


def spread(per_slice: NDArray[Any], shape: tuple[int, ...], spec: QuantSpec) -> NDArray[Any]:
    """What each slice has, shaped to broadcast against an array.

    Args:
        per_slice: In the shape of the scale.
        shape: Of the array.
        spec: Says what has a scale of its own.

    Raises:
        ConfigError: the shapes do not fit; the message gives both.
    """
    if spec.axis is None:
        return per_slice
    known = -len(shape) <= spec.axis < len(shape)
    wanted = scale_shape(shape, spec) if known else None
    if per_slice.shape != wanted:
        blocks = "" if spec.block_size is None else f" in blocks of {spec.block_size}"
        needs = "" if wanted is None else f", which needs shape {wanted}"
        raise ConfigError(
            f"scales of shape {per_slice.shape} along axis {spec.axis}{blocks} do not fit an array of shape "
            f"{shape}{needs}",
            hint="pass axis= so that array.shape[axis] is the number of scales, or block_size= for several along it",
        )
    axis = spec.axis % len(shape)
    if spec.block_size is None:
        return per_slice.reshape([-1 if a == axis else 1 for a in range(len(shape))])
    if spec.block_size == 1:
        return per_slice
    repeated = np.repeat(per_slice, spec.block_size, axis=axis)
    if repeated.shape[axis] < shape[axis]:
        raise InternalError(f"blocks of {spec.block_size} do not cover axis {axis} of {shape}")
    return repeated[(slice(None),) * axis + (slice(shape[axis]),)]


def _axis(shape: tuple[int, ...], axis: int) -> int:
    if not -len(shape) <= axis < len(shape):
        raise ConfigError(
            f"an array of shape {shape} has no axis {axis}", hint=f"pass axis= from {-len(shape)} to {len(shape) - 1}"
        )
    return axis % len(shape)
