"""Quantize and dequantize arrays, with the rounding of the ONNX operators.

    integers:   code = saturate(round_half_even(x / scale) + zero_point)      x' = (code - zero_point) * scale
    E4M3FN:     code = saturate(nearest_even(x / scale))                      x' = code * scale

Division and product are in float32, as onnxruntime does them, so codes and values equal its own bit for bit.
Source: https://onnx.ai/onnx/operators/onnx__QuantizeLinear.html and onnx__DequantizeLinear.html (opset 13 to 25).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from onnxq.errors import ConfigError, DataError
from onnxq.numerics.blocks import range_of_values, scale_shape, spread
from onnxq.numerics.float8 import decode_float8, encode_float8
from onnxq.numerics.qparams import QuantParams, Range, qparams_from_range
from onnxq.numerics.qtypes import INT8, QType, qtype_from_name
from onnxq.numerics.specs import QuantSpec
from onnxq.wording.plural import counted

Form = QuantParams | QuantSpec | None
"""What an array function may be told: parameters, a form whose range is to be found, or nothing but keywords."""


def qparams_from_scale(  # noqa: PLR0913 - one keyword for each choice of the user
    scale: ArrayLike,
    zero_point: ArrayLike = 0,
    *,
    qtype: QType | str = INT8,
    axis: int | None = None,
    narrow_range: bool = False,
    block_size: int | None = None,
) -> QuantParams:
    """Parameters with a given scale.

    Args:
        scale: Real size of one code step, > 0. A number; shape (C,) with `axis`; with `block_size` that of the array,
            with the number of blocks along the axis.
        zero_point: The code of 0.0. A number (for all), or in the shape of the scale; 0 for a float type.
        qtype: Storage type, or its name.
        axis: The axis that has one scale for each slice; None for per-tensor.
        narrow_range: Leave out the smallest code.
        block_size: How many neighbours along the axis share a scale.

    Returns:
        The parameters; symmetric if every zero-point is the middle code.

    Raises:
        ConfigError: a scale is not positive and finite, a zero-point is no code, or the shapes do not fit `axis`.

    >>> quantize([0.26, -2.0], qparams_from_scale(0.01)).tolist()
    [26, -128]
    """
    qtype = qtype_from_name(qtype) if isinstance(qtype, str) else qtype
    scales = np.asarray(scale, np.float64)
    if scales.ndim == 0 if block_size is not None else scales.ndim != (0 if axis is None else 1):
        wanted = "a number" if axis is None else "an array of shape (C,)"
        wanted = wanted if block_size is None else "an array with a scale for each block"
        raise ConfigError(
            f"scale has shape {scales.shape}, but axis={axis} needs {wanted}",
            hint="pass axis= with a vector of scales, block_size= too with one for each block, and neither with one",
        )
    with np.errstate(over="ignore"):
        scales32 = scales.astype(np.float32)
    if not (np.isfinite(scales32).all() and (scales32 > 0).all()):
        raise ConfigError(f"scale must be positive and finite in float32, got {scales.tolist()}")
    zero_points = _zero_points(zero_point, scales.shape, qtype, narrow_range)
    middle = 0 if qtype.signed else (qtype.qmax + 1) // 2
    spec = QuantSpec(
        qtype=qtype,
        symmetric=bool((zero_points == middle).all()),
        axis=axis,
        narrow_range=narrow_range,
        block_size=block_size,
    )
    return QuantParams(scale=scales32, zero_point=zero_points.astype(qtype.dtype), spec=spec)


def _zero_points(
    zero_point: ArrayLike, shape: tuple[int, ...], qtype: QType, narrow_range: bool
) -> NDArray[np.float64]:
    values = np.asarray(zero_point, np.float64)
    if values.shape not in ((), shape):
        raise ConfigError(f"zero_point has shape {values.shape}, scale {shape}; expected equal, or one number")
    if qtype.is_float and values.any():
        raise ConfigError(f"zero_point must be 0 for {qtype.name}, got {values.tolist()}")
    qmin = qtype.qmin + int(narrow_range)
    if not ((values == np.rint(values)) & (values >= qmin) & (values <= qtype.qmax)).all():
        raise ConfigError(
            f"zero_point must be an integer in [{qmin}, {qtype.qmax}] for {qtype.name}, got {values.tolist()}"
        )
    return np.broadcast_to(values, shape)


def qparams_from_values(x: ArrayLike, spec: QuantSpec) -> QuantParams:
    """Parameters that cover all values of an array, for each slice of it that has a scale.

    Args:
        x: Real values, any shape.
        spec: The form wanted.

    Raises:
        ConfigError: the array has no such axis.
        DataError: `x` holds NaN or infinities.
    """
    values = np.asarray(x).astype(np.float32, copy=False)
    if not np.isfinite(values).all():
        odd = int(np.count_nonzero(~np.isfinite(values)))
        raise DataError(
            f"{odd} of {counted(values.size, 'value')} {'is' if odd == 1 else 'are'} NaN or infinite, "
            "so there is no range that holds them all",
            hint="give the range: amax=",
        )
    return qparams_from_range(range_of_values(values, spec), spec)


def qparams_from_amax(amax: ArrayLike, spec: QuantSpec) -> QuantParams:
    """Parameters for a given largest magnitude.

    Args:
        amax: >= 0. A number, or in the shape of the scale: (C,) with an axis, one for each block in blocks.
        spec: The form wanted. An asymmetric unsigned one takes [0, amax], all others [-amax, amax].

    Raises:
        ConfigError: `amax` is negative or not finite, or its shape does not fit `spec`.

    >>> qparams_from_amax(448.0, QuantSpec.of(dtype="fp8")).scale.item()
    1.0
    """
    ends = np.asarray(amax, np.float64)
    if not (np.isfinite(ends).all() and (ends >= 0).all()):
        raise ConfigError(f"amax must be finite and not negative, got {ends.tolist()}")
    wanted = 0 if spec.axis is None else 1
    if ends.ndim == 0 if spec.block_size is not None else ends.ndim != wanted:
        needs = "one for each block" if spec.block_size is not None else ("(C,)" if wanted else "()")
        raise ConfigError(
            f"amax has shape {ends.shape}, but axis={spec.axis} and block_size={spec.block_size} need {needs}",
            hint="give amax= in the shape of the scale",
        )
    only_above = not spec.symmetric and not spec.qtype.signed
    return qparams_from_range(Range(rmin=np.zeros_like(ends) if only_above else -ends, rmax=ends), spec)


def quantize(x: ArrayLike, params: Form = None, *, amax: ArrayLike | None = None, **form: Any) -> NDArray[np.generic]:
    """Codes of real values.

    Ties round to the even neighbour; values outside the range, infinities included, saturate. NaN has no code and is
    refused: engines disagree on what they make of it.

    Args:
        x: Real values, any shape; taken as float32.
        params: Parameters; or a form (`QuantSpec`), whose range is `amax` or that of `x`; or None and the keywords of
            `QuantSpec.of`.
        amax: Largest magnitude, a number or one for each slice with a scale. Only without parameters.
        form: bits, signed, dtype, symmetric, narrow_range, axis, block_size, power_of_two, as in `QuantSpec.of`.

    Returns:
        Codes in the dtype of the quantized type, same shape as `x`; bit patterns for a float type.

    Raises:
        ConfigError: the axis or the number of scales does not fit `x`, or the arguments contradict each other.
        DataError: `x` holds NaN.

    >>> quantize([0.1, -0.5, 1.0], bits=4, amax=0.7).tolist()
    [1, -5, 7]
    """
    values = np.asarray(x).astype(np.float32, copy=False)
    missing = int(np.count_nonzero(np.isnan(values)))
    if missing:
        raise DataError(
            f"{missing} of {counted(values.size, 'value')} {'is' if missing == 1 else 'are'} NaN, "
            "which has no integer code",
            hint="find out where the NaN comes from, or replace it (numpy.nan_to_num) before quantizing",
        )
    settled = _settled(params, amax, form, values)
    spec = settled.spec
    scale = spread(settled.scale, values.shape, spec)
    # Codes of more than 16 bits (biases) exceed float32's 24-bit mantissa, so they alone are computed in float64.
    real = np.float32 if spec.qtype.bits <= 16 else np.float64
    steps: NDArray[np.floating] = np.empty(values.shape, real)
    with np.errstate(over="ignore"):
        np.divide(values, scale, out=steps, dtype=real)
    if spec.qtype.is_float:
        return encode_float8(steps)
    np.rint(steps, out=steps)
    shift = np.asarray(spread(settled.zero_point, values.shape, spec), real)
    np.clip(steps, spec.qmin - shift, spec.qmax - shift, out=steps)
    steps += shift
    return steps.astype(spec.qtype.dtype)


def dequantize(
    codes: ArrayLike, params: Form = None, *, amax: ArrayLike | None = None, **form: Any
) -> NDArray[np.float32]:
    """Real values of codes.

    Args:
        codes: Integers, or bit patterns of a float type, any shape.
        params: The parameters the codes were made with; or a form, or None and keywords, as for `quantize`.
        amax: As for `quantize`; needed where there are no parameters, since codes do not tell the range.
        form: As for `quantize`.

    Returns:
        float32, same shape as `codes`.

    Raises:
        ConfigError: the axis or the number of scales does not fit `codes`, or no range is given.

    >>> dequantize([1, -5, 7], bits=4, amax=0.7).round(3).tolist()
    [0.10000000149011612, -0.5, 0.699999988079071]
    """
    values = np.asarray(codes)
    settled = _settled(params, amax, form, None)
    scale = spread(settled.scale, values.shape, settled.spec)
    if settled.spec.qtype.is_float:
        return np.asarray(np.multiply(decode_float8(values), scale), np.float32)
    zero_point = spread(settled.zero_point, values.shape, settled.spec)
    # int32 codes minus their zero-point can leave int32; all other types cannot.
    wide = np.int64 if settled.spec.qtype.bits > 16 else np.int32
    steps = values.astype(wide) - zero_point.astype(wide)
    return np.asarray(np.multiply(steps.astype(np.float32), scale), np.float32)


def fake_quantize(
    x: ArrayLike, params: Form = None, *, amax: ArrayLike | None = None, **form: Any
) -> NDArray[np.float32]:
    """`x` as it is after a Q/DQ pair: the nearest values that codes can express.

    Args:
        x: Real values, any shape.
        params: As for `quantize`.
        amax: As for `quantize`.
        form: As for `quantize`.

    Returns:
        float32, same shape as `x`.

    Raises:
        ConfigError: the axis or the number of scales does not fit `x`, or the arguments contradict each other.
        DataError: `x` holds NaN.

    >>> fake_quantize([1.0, 3.3, 500.0], dtype="fp8", amax=448.0).tolist()
    [1.0, 3.25, 448.0]
    """
    settled = _settled(params, amax, form, x)
    return dequantize(quantize(x, settled), settled)


def _settled(params: Form, amax: ArrayLike | None, form: dict[str, Any], x: ArrayLike | None) -> QuantParams:
    """The parameters that a user means; the range is that of `x` unless given."""
    if params is not None and form:
        raise ConfigError(
            f"params= and {', '.join(f'{key}=' for key in form)} both say how to quantize",
            hint="pass parameters, or the keywords of QuantSpec.of, not both",
        )
    if isinstance(params, QuantParams):
        if amax is not None:
            raise ConfigError("params= holds a range already, and amax= another", hint="drop one of them")
        return params
    spec = QuantSpec.of(**form) if params is None else params
    if amax is None and x is not None:
        return qparams_from_values(x, spec)
    if amax is None:
        raise ConfigError(
            "codes do not tell the range they stand for", hint="pass params=, or amax= beside the keywords"
        )
    ends = np.asarray(amax, np.float64)
    if ends.ndim == 0 and spec.axis is not None and x is not None:
        # One number for all slices.
        ends = np.broadcast_to(ends, scale_shape(np.shape(x), spec))
    return qparams_from_amax(ends, spec)
