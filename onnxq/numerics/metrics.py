"""How far a tensor is from its reference.

    SQNR   = 10 log10( sum ref^2 / sum (ref - test)^2 )   in dB
    cosine = sum ref * test / sqrt(sum ref^2 * sum test^2)

Sums are in float64. Conventions, the same in all three: elements that are equal count as no error even where they are
infinite or NaN in both (masked logits); any other NaN or infinity is an infinite error; comparing nothing is refused.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

from onnxq.errors import DataError


def sqnr_db(reference: ArrayLike, test: ArrayLike) -> float:
    """Signal to quantization noise ratio.

    Args:
        reference: Float values, any shape.
        test: Values to judge, same shape.

    Returns:
        dB; +inf for equal arrays, -inf where the reference is all zeros and the test is not, or the test is not finite.

    Raises:
        DataError: the arrays are empty or of different shapes.
    """
    ref, out = _pair(reference, test)
    noise = _power(ref - out)
    if noise == 0.0:
        return math.inf
    signal = _power(ref)
    if signal == 0.0 or not math.isfinite(noise):
        return -math.inf
    return 10.0 * (math.log10(signal) - math.log10(noise))


def cosine(reference: ArrayLike, test: ArrayLike) -> float:
    """Cosine of the angle between two arrays taken as vectors.

    Args:
        reference: Float values, any shape.
        test: Values to judge, same shape.

    Returns:
        In [-1, 1]; 1 if both are all zeros; 0 if only one is, or if the test is not finite.

    Raises:
        DataError: the arrays are empty or of different shapes.
    """
    ref, out = _pair(reference, test)
    if not (np.isfinite(ref).all() and np.isfinite(out).all()):
        return 0.0
    ref, out = _unit_peak(ref), _unit_peak(out)
    norms = math.sqrt(_power(ref)) * math.sqrt(_power(out))
    if norms == 0.0:
        return 1.0 if not (ref.any() or out.any()) else 0.0
    return max(-1.0, min(1.0, float(np.dot(ref, out)) / norms))


def max_abs_error(reference: ArrayLike, test: ArrayLike) -> float:
    """The largest |reference - test|.

    Args:
        reference: Float values, any shape.
        test: Values to judge, same shape.

    Returns:
        In the unit of the tensor; +inf if an element of either is not finite and they differ there.

    Raises:
        DataError: the arrays are empty or of different shapes.
    """
    ref, out = _pair(reference, test)
    worst = float(np.max(np.abs(ref - out), initial=0.0))
    return math.inf if math.isnan(worst) else worst


def _pair(reference: ArrayLike, test: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    ref, out = np.asarray(reference), np.asarray(test)
    if ref.shape != out.shape:
        raise DataError(f"cannot compare shape {ref.shape} (reference) with shape {out.shape} (test)")
    if ref.size == 0:
        raise DataError(f"cannot compare empty arrays (shape {ref.shape}): nothing would be checked")
    ref, out = ref.astype(np.float64).ravel(), out.astype(np.float64).ravel()
    odd = ~(np.isfinite(ref) & np.isfinite(out))
    if odd.any():
        alike = odd & ((ref == out) | (np.isnan(ref) & np.isnan(out)))
        ref, out = ref[~alike], out[~alike]
        bad = odd[~alike]
        # An infinite reference against a finite test, or the other way round: make the difference infinite, never NaN.
        ref, out = np.where(bad, 0.0, ref), np.where(bad, math.inf, out)
    return ref, out


def _power(values: NDArray[np.float64]) -> float:
    return float(np.dot(values, values))


def _unit_peak(values: NDArray[np.float64]) -> NDArray[np.float64]:
    peak = float(np.max(np.abs(values), initial=0.0))
    return values / peak if peak > 0.0 else values
