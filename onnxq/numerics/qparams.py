"""From a range of real values to quantization parameters.

    real = (code - zero_point) * scale

symmetric:   scale = max(-rmin, rmax) / ((qmax - qmin) // 2)     zero_point = middle code
asymmetric:  scale = (rmax - rmin) / (qmax - qmin)               zero_point = round(qmin - rmin / scale)

with qmin/qmax of the spec, so a narrow int8 range divides by 127 either way. The range always includes 0, so that zero
(padding, ReLU's floor) is exact. Source: ONNX DynamicQuantizeLinear, and arXiv 1712.05877 section 2.1.
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
        rmin: float64, shape () or (C,), <= 0.
        rmax: float64, shape () or (C,), >= 0.
    """

    rmin: NDArray[np.float64]
    rmax: NDArray[np.float64]

    def __post_init__(self) -> None:
        rmin = np.minimum(np.asarray(self.rmin, np.float64), 0.0)
        rmax = np.maximum(np.asarray(self.rmax, np.float64), 0.0)
        if rmin.shape != rmax.shape or rmin.ndim > 1:
            raise InternalError(f"range ends have shapes {rmin.shape} and {rmax.shape}; expected equal, () or (C,)")
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
        scale: float32, shape () or (C,), > 0 and finite.
        zero_point: dtype of the spec's type, same shape as `scale`.
        spec: The form these parameters belong to.
    """

    scale: NDArray[np.float32]
    zero_point: NDArray[np.generic]
    spec: QuantSpec

    def __post_init__(self) -> None:
        scale = np.asarray(self.scale, np.float32)
        zero_point = np.asarray(self.zero_point, self.spec.qtype.dtype)
        if scale.shape != zero_point.shape or scale.ndim > 1:
            raise InternalError(f"scale has shape {scale.shape}, zero_point {zero_point.shape}")
        if (scale.ndim == 1) != (self.spec.axis is not None):
            raise InternalError(f"scale of shape {scale.shape} does not fit axis {self.spec.axis}")
        if not (np.isfinite(scale).all() and (scale > 0).all()):
            raise InternalError(f"scale must be positive and finite, got {scale}")
        object.__setattr__(self, "scale", _frozen(scale))
        object.__setattr__(self, "zero_point", _frozen(zero_point))


def qparams_from_range(range_: Range, spec: QuantSpec) -> QuantParams:
    """Parameters that cover `range_`.

    Args:
        range_: Shape () for a per-tensor spec, (C,) for a per-channel one.
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
        scale = _positive_float32(amax / ((qmax - qmin) // 2))
        middle = 0 if spec.qtype.signed else (spec.qtype.qmax + 1) // 2
        zero_point = np.full(scale.shape, middle)
    else:
        scale = _positive_float32((rmax - rmin) / (qmax - qmin))
        zero_point = np.clip(np.rint(qmin - rmin / scale.astype(np.float64)), qmin, qmax)
    return QuantParams(scale=scale, zero_point=zero_point.astype(spec.qtype.dtype), spec=spec)


def _positive_float32(scale: NDArray[np.float64]) -> NDArray[np.float32]:
    # A dead channel quantizes to all zeros under any scale; 1.0 keeps products of scales away from denormals.
    scale = np.where(scale == 0.0, 1.0, scale)
    return np.maximum(scale, SMALLEST_SCALE).astype(np.float32)
