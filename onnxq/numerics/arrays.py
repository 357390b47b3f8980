"""Quantize and dequantize arrays, with the rounding of the ONNX operators.

    quantize:    code = saturate(round_half_even(x / scale) + zero_point)
    dequantize:  x'   = (code - zero_point) * scale

Division and product are in float32, as onnxruntime does them, so codes and values equal its own bit for bit.
Source: https://onnx.ai/onnx/operators/onnx__QuantizeLinear.html and onnx__DequantizeLinear.html (opset 13 to 21).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from onnxq.errors import ConfigError, DataError
from onnxq.numerics.qparams import QuantParams
from onnxq.numerics.qtypes import INT8, QType, qtype_from_name
from onnxq.numerics.specs import QuantSpec


def qparams_from_scale(
    scale: ArrayLike,
    zero_point: ArrayLike = 0,
    *,
    qtype: QType | str = INT8,
    axis: int | None = None,
    narrow_range: bool = False,
) -> QuantParams:
    """Parameters with a given scale.

    Args:
        scale: Real size of one code step, > 0. A number, or shape (C,) with `axis`.
        zero_point: The code of 0.0. A number (for all channels), or shape (C,).
        qtype: Storage type, or its name.
        axis: The axis that has one scale for each slice; None for per-tensor.
        narrow_range: Leave out the smallest code.

    Returns:
        The parameters; symmetric if every zero-point is the middle code.

    Raises:
        ConfigError: a scale is not positive and finite, a zero-point is no code, or the shapes do not fit `axis`.

    >>> quantize([0.26, -2.0], qparams_from_scale(0.01)).tolist()
    [26, -128]
    """
    qtype = qtype_from_name(qtype) if isinstance(qtype, str) else qtype
    scales = np.asarray(scale, np.float64)
    if scales.ndim != (0 if axis is None else 1):
        wanted = "a number" if axis is None else "an array of shape (C,)"
        raise ConfigError(
            f"scale has shape {scales.shape}, but axis={axis} needs {wanted}",
            hint="pass axis= with a vector of scales, and no axis with a single one",
        )
    with np.errstate(over="ignore"):
        scales32 = scales.astype(np.float32)
    if not (np.isfinite(scales32).all() and (scales32 > 0).all()):
        raise ConfigError(f"scale must be positive and finite in float32, got {scales.tolist()}")
    zero_points = _zero_points(zero_point, scales.shape, qtype, narrow_range)
    middle = 0 if qtype.signed else (qtype.qmax + 1) // 2
    symmetric = bool((zero_points == middle).all())
    spec = QuantSpec(qtype=qtype, symmetric=symmetric, axis=axis, narrow_range=narrow_range)
    return QuantParams(scale=scales32, zero_point=zero_points.astype(qtype.dtype), spec=spec)


def _zero_points(
    zero_point: ArrayLike, shape: tuple[int, ...], qtype: QType, narrow_range: bool
) -> NDArray[np.float64]:
    values = np.asarray(zero_point, np.float64)
    if values.shape not in ((), shape):
        raise ConfigError(f"zero_point has shape {values.shape}, scale {shape}; expected equal, or one number")
    qmin = qtype.qmin + int(narrow_range)
    if not ((values == np.rint(values)) & (values >= qmin) & (values <= qtype.qmax)).all():
        raise ConfigError(
            f"zero_point must be an integer in [{qmin}, {qtype.qmax}] for {qtype.name}, got {values.tolist()}"
        )
    return np.broadcast_to(values, shape)


def quantize(x: ArrayLike, params: QuantParams) -> NDArray[np.generic]:
    """Codes of real values.

    Ties round to the even neighbour; values outside the range, infinities included, saturate. NaN has no code and is
    refused: engines disagree on what they make of it.

    Args:
        x: Real values, any shape; taken as float32.
        params: Per-tensor, or per-channel with one scale for each slice of `x` along the axis.

    Returns:
        Codes in the dtype of the quantized type, same shape as `x`.

    Raises:
        ConfigError: the axis or the number of scales does not fit `x`.
        DataError: `x` holds NaN.
    """
    values = np.asarray(x).astype(np.float32, copy=False)
    missing = int(np.count_nonzero(np.isnan(values)))
    if missing:
        raise DataError(
            f"{missing} of {values.size} values are NaN, which has no integer code",
            hint="find out where the NaN comes from, or replace it (numpy.nan_to_num) before quantizing",
        )
    spec = params.spec
    scale, zero_point = _along_axis(params, values)
    # Codes of more than 16 bits (biases) exceed float32's 24-bit mantissa, so they alone are computed in float64.
    real = np.float32 if spec.qtype.bits <= 16 else np.float64
    steps: NDArray[np.floating] = np.empty(values.shape, real)
    with np.errstate(over="ignore"):
        np.divide(values, scale, out=steps, dtype=real)
    np.rint(steps, out=steps)
    shift = np.asarray(zero_point, real)
    np.clip(steps, spec.qmin - shift, spec.qmax - shift, out=steps)
    steps += shift
    return steps.astype(spec.qtype.dtype)


def dequantize(codes: ArrayLike, params: QuantParams) -> NDArray[np.float32]:
    """Real values of codes.

    Args:
        codes: Integers, any shape.
        params: The parameters the codes were made with.

    Returns:
        float32, same shape as `codes`.

    Raises:
        ConfigError: the axis or the number of scales does not fit `codes`.
    """
    values = np.asarray(codes)
    scale, zero_point = _along_axis(params, values)
    # int32 codes minus their zero-point can leave int32; all other types cannot.
    wide = np.int64 if params.spec.qtype.bits > 16 else np.int32
    steps = values.astype(wide) - zero_point.astype(wide)
    return np.asarray(np.multiply(steps.astype(np.float32), scale), np.float32)


def fake_quantize(x: ArrayLike, params: QuantParams) -> NDArray[np.float32]:
    """`x` as it is after a Q/DQ pair: the nearest values that codes can express.

    Args:
        x: Real values, any shape.
        params: As for `quantize`.

    Returns:
        float32, same shape as `x`.

    Raises:
        ConfigError: the axis or the number of scales does not fit `x`.
        DataError: `x` holds NaN.
    """
    return dequantize(quantize(x, params), params)


def _along_axis(params: QuantParams, values: NDArray[np.generic]) -> tuple[NDArray[np.float32], NDArray[np.generic]]:
    """Scale and zero-point, shaped to broadcast against `values`."""
    axis = params.spec.axis
    if axis is None:
        return params.scale, params.zero_point
    channels = params.scale.size
    if not -values.ndim <= axis < values.ndim or values.shape[axis] != channels:
        raise ConfigError(
            f"{channels} scales along axis {axis} do not fit an array of shape {values.shape}",
            hint="pass axis= so that array.shape[axis] is the number of scales",
        )
    shape = [1] * values.ndim
    shape[axis] = channels
    return params.scale.reshape(shape), params.zero_point.reshape(shape)
