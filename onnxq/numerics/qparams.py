"""From a range of real values to quantization parameters.

    real = (code - zero_point) * scale

symmetric:   scale = max(-rmin, rmax) / ((qmax - qmin) // 2)     zero_point = middle code
asymmetric:  scale = (rmax - rmin) / (qmax - qmin)               zero_point = round(qmin - rmin / scale)

with qmin/qmax of the spec, so a narrow int8 range divides by 127 either way, and an 8-bit float by 448. The range
always includes 0, so that zero (padding, ReLU's floor) is exact. A scale that has to be a power of two is the next
larger one, so that nothing clips. Source: ONNX DynamicQuantizeLinear, and arXiv 1712.05877 section 2.1; for E4M3,
NVIDIA's TensorRT developer guide, "Working with Quantized Types" (amax / 448).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from onnxq.errors import InternalError
from onnxq.numerics.specs import QuantSpec

# A dead tensor or channel still needs a positive scale (engines refuse 0); below this float32 turns denormal, which
# kernels may flush to zero.
SMALLEST_SCALE = float(np.finfo(np.float32).tiny)


def _frozen(array: NDArray[np.generic]) -> NDArray[np.generic]:
    array = np.ascontiguousarray(array).reshape(np.shape(array))
    array.flags.writeable = False
    return array


@dataclass(frozen=True, kw_only=True, eq=False)
class Range:
    """Closed interval of real values, always including zero.

    Attributes:
        rmin: float64, shape () or (C,) or, in blocks, that of the scales; <= 0.
        rmax: float64, the same shape; >= 0.
    """

    rmin: NDArray[np.float64]
    rmax: NDArray[np.float64]

    def __post_init__(self) -> None:
        rmin = np.minimum(np.asarray(self.rmin, np.float64), 0.0)
        rmax = np.maximum(np.asarray(self.rmax, np.float64), 0.0)
        if rmin.shape != rmax.shape:
            raise InternalError(f"range ends have shapes {rmin.shape} and {rmax.shape}; expected equal ones")
        if not (np.isfinite(rmin).all() and np.isfinite(rmax).all()):
            raise InternalError(f"range [{rmin}, {rmax}] is not finite")
        object.__setattr__(self, "rmin", _frozen(rmin))
        object.__setattr__(self, "rmax", _frozen(rmax))

    @classmethod
    def of(cls, rmin: float, rmax: float) -> Range:
        return cls(rmin=np.asarray(rmin, np.float64), rmax=np.asarray(rmax, np.float64))


@dataclass(frozen=True, kw_only=True, eq=False)
class QuantParams:
    """Scale and zero-point of one tensor.

    Attributes:
        scale: float32, > 0 and finite. Shape () for per-tensor, (C,) for per-channel; in blocks, that of the array with
            the number of blocks along the axis.
        zero_point: dtype of the spec's type, same shape as `scale`.
        spec: The form these parameters belong to.
    """

    scale: NDArray[np.float32]
    zero_point: NDArray[np.generic]
    spec: QuantSpec

    def __post_init__(self) -> None:
        scale = np.asarray(self.scale, np.float32)
        zero_point = np.asarray(self.zero_point, self.spec.qtype.dtype)
        if scale.shape != zero_point.shape:
            raise InternalError(f"scale has shape {scale.shape}, zero_point {zero_point.shape}")
        axis, block_size = self.spec.axis, self.spec.block_size
        fits = scale.ndim >= 1 if block_size is not None else scale.ndim == (0 if axis is None else 1)
        if not fits:
            blocks = "" if block_size is None else f" in blocks of {block_size}"
            raise InternalError(f"scale of shape {scale.shape} does not fit axis {axis}{blocks}")
        if not (np.isfinite(scale).all() and (scale > 0).all()):
            raise InternalError(f"scale must be positive and finite, got {scale}")
        object.__setattr__(self, "scale", _frozen(scale))
        object.__setattr__(self, "zero_point", _frozen(zero_point))


def qparams_from_range(range_: Range, spec: QuantSpec) -> QuantParams:
    """Parameters that cover `range_`.

    Args:
        range_: Shape () for a per-tensor spec, (C,) for a per-channel one, that of the scales for blocks.
        spec: The form wanted.

    Returns:
        Parameters with a positive scale even where the range is a single point.

    >>> from onnxq.numerics.qtypes import INT8, UINT8
    >>> p = qparams_from_range(Range.of(-1.0, 3.0), QuantSpec(qtype=UINT8, symmetric=False))
    >>> float(p.scale), int(p.zero_point)
    (0.01568627543747425, 64)
    """
    rmin, rmax = range_.rmin, range_.rmax
    qmin, qmax = spec.qmin, spec.qmax
    if spec.symmetric:
        amax = np.maximum(-rmin, rmax)
        scale = _positive_float32(amax / ((qmax - qmin) // 2), (qmax - qmin) // 2)
        scale = next_power_of_two(scale) if spec.power_of_two else scale
        zero_point = np.full(scale.shape, spec.middle)
    else:
        scale = _positive_float32((rmax - rmin) / (qmax - qmin), qmax - qmin)
        scale = next_power_of_two(scale) if spec.power_of_two else scale
        zero_point = np.clip(np.rint(qmin - rmin / scale.astype(np.float64)), qmin, qmax)
    return QuantParams(scale=scale, zero_point=zero_point.astype(spec.qtype.dtype), spec=spec)


def _positive_float32(scale: NDArray[np.float64], codes: int) -> NDArray[np.float32]:
    # A dead channel quantizes to all zeros under any scale; 1.0 keeps products of scales away from denormals.
    scale = np.where(scale == 0.0, 1.0, scale)
    # Rounded up, the scale of a range that ends at the largest float would give its last code Inf.
    return np.minimum(np.maximum(scale, SMALLEST_SCALE).astype(np.float32), _largest_scale(codes))


def _largest_scale(codes: int) -> np.float32:
    """The largest scale that times so many codes is finite in float32."""
    largest = float(np.finfo(np.float32).max)
    scale: np.float32 = np.float32(largest / codes)
    if float(scale) * codes > largest:
        scale = np.nextafter(scale, np.float32(0.0))
    return scale


def next_power_of_two(scale: NDArray[np.float32]) -> NDArray[np.float32]:
    """The smallest powers of two that are not below `scale`, which is positive.

    >>> next_power_of_two(np.float32([0.3, 0.25])).tolist()
    [0.5, 0.25]
    """
    fraction, exponent = np.frexp(scale)
    # frexp gives fractions in [0.5, 1); 2^127 is the largest power of two in float32.
    exponent = np.minimum(np.where(fraction == 0.5, exponent - 1, exponent), 127)
    return np.asarray(np.ldexp(np.float32(1.0), exponent), np.float32)
