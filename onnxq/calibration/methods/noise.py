"""The squared error a quantizer will make on a tensor, from its histogram alone.

With real step s and codes n in [qmin - zp, qmax - zp], the error of x is e(x) = x - n(x) s, n(x) = clip(round(x / s)).
Its square has a closed antiderivative, rounding inside the range and clipping outside in one formula:

    E(x) = integral from 0 to x of e^2 = n s^3 / 12 + (x - n s)^3 / 3

so counts c_j spread evenly over the bins [a_j, a_j + w_j) have the error sum_j c_j (E(a_j + w_j) - E(a_j)) / w_j.
An 8-bit float has no one step: e is then the distance to the nearest of its values times s, and E is added up from
value to value. Zeros cost nothing: 0 is always a code. (An elementary integral; arXiv 2004.09602 section 3 names the
two parts.)
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np
from numpy.typing import NDArray

from onnxq.calibration.methods.density import Density
from onnxq.calibration.statistics.table import TensorStats
from onnxq.errors import InternalError
from onnxq.numerics.float8 import VALUES
from onnxq.numerics.qparams import QuantParams, Range, qparams_from_range
from onnxq.numerics.specs import QuantSpec


def expected_sqnr_db(
    stats: TensorStats, params: QuantParams, lower: float | None = None, upper: float | None = None
) -> float:
    """Signal to quantization noise ratio that a tensor will have under `params`.

    Args:
        stats: What was seen of the tensor.
        params: Per-tensor parameters.
        lower: Bound that the graph puts on the values, if any.
        upper: As `lower`.

    Returns:
        dB; +inf where nothing is lost (a tensor of zeros).

    Raises:
        DataError: `stats` holds no finite element.
        InternalError: `params` is per-channel.
    """
    if params.spec.axis is not None:
        raise InternalError("statistics of a whole tensor cannot judge per-channel parameters")
    density = Density.of(stats, lower, upper)
    noise = float(_errors(density, params.scale.reshape(1), params.zero_point.reshape(1), params.spec)[0])
    if noise <= 0.0:
        return math.inf
    return 10.0 * (math.log10(density.power()) - math.log10(noise))


def expected_errors(density: Density, ranges: Range, spec: QuantSpec, clip_weight: float = 1.0) -> NDArray[np.float64]:
    """Squared error, summed over all elements, that each candidate range leads to.

    Args:
        density: The tensor's values.
        ranges: K candidates: ends of shape (K,).
        spec: The quantizer; parameters come from each range as in the final model, rounding of the zero-point included.
        clip_weight: How often the errors of elements beyond the last code count, at least 1.

    Returns:
        float64, shape (K,).
    """
    # K ranges of one tensor go through the very formula that K channels would.
    params = qparams_from_range(ranges, dataclasses.replace(spec, axis=0))
    errors = _errors(density, params.scale, params.zero_point, spec)
    if clip_weight > 1.0 and density.counts.size:
        errors += (clip_weight - 1.0) * _clipping(density, params.scale, params.zero_point, spec)
    return errors


def _clipping(
    density: Density, scales: NDArray[np.float32], zero_points: NDArray[np.generic], spec: QuantSpec
) -> NDArray[np.float64]:
    """Squared distance, summed, of the elements that are rounded to the last code to the end of what is rounded to it.

    Its antiderivative is (x - high)^3 / 3 above `high`, (x - low)^3 / 3 below `low`, 0 in between.
    """
    weights = -np.diff(density.counts / np.diff(density.edges), prepend=0.0, append=0.0)
    edges, errors = density.edges, np.zeros(scales.size)
    for k, (scale, zero_point) in enumerate(zip(scales.tolist(), zero_points.tolist(), strict=True)):
        low, high = (spec.qmin - zero_point - 0.5) * scale, (spec.qmax - zero_point + 0.5) * scale
        first, last = np.searchsorted(edges, (low, high))
        below, above = edges[:first] - low, edges[last:] - high
        # numpy's power takes forty times as long as two products.
        cubes = np.dot(weights[:first], below * below * below) + np.dot(weights[last:], above * above * above)
        errors[k] = float(cubes) / 3.0
    return np.maximum(errors, 0.0)


def _errors(
    density: Density, scales: NDArray[np.float32], zero_points: NDArray[np.generic], spec: QuantSpec
) -> NDArray[np.float64]:
    errors = np.zeros(scales.size)
    if density.counts.size == 0:
        return errors
    edges = density.edges
    if spec.qtype.is_float:
        weights = -np.diff(density.counts / np.diff(edges), prepend=0.0, append=0.0)
        return np.maximum([float(np.dot(weights, _float8_error(edges, scale))) for scale in scales.tolist()], 0.0)
    # Summation by parts: sum_j d_j (E_{j+1} - E_j) = sum_j E_j (d_{j-1} - d_j), one product per candidate.
    weights = -np.diff(density.counts / np.diff(edges), prepend=0.0, append=0.0)
    steps, rest = np.empty_like(edges), np.empty_like(edges)
    for k, (scale, zero_point) in enumerate(zip(scales.tolist(), zero_points.tolist(), strict=True)):
        np.multiply(edges, 1.0 / scale, out=steps)
        np.rint(steps, out=steps)
        np.clip(steps, spec.qmin - zero_point, spec.qmax - zero_point, out=steps)
        np.multiply(steps, -scale, out=rest)
        rest += edges
        inside = float(np.dot(weights, steps)) * scale**3 / 12.0
        np.multiply(rest, rest, out=steps)
        steps *= rest
        errors[k] = inside + float(np.dot(weights, steps)) / 3.0
    # Cancellation can leave a few ulp below zero where nothing is lost.
    return np.maximum(errors, 0.0)


def _float8_error(x: NDArray[np.float64], scale: float) -> NDArray[np.float64]:
    """E(x), the integral from 0 to x of the squared distance to the nearest value of E4M3 times `scale`."""
    values = VALUES[: VALUES.size // 2 - 1].astype(np.float64) * scale
    ends = (values[1:] + values[:-1]) / 2.0
    # Between two values the error rises and falls: two thirds of the cube of half their distance.
    whole = np.concatenate(([0.0], np.cumsum(2.0 / 3.0 * (np.diff(values) / 2.0) ** 3)))
    magnitude = np.abs(x)
    nearest = np.searchsorted(ends, magnitude)
    return np.asarray(np.copysign(whole[nearest] + (magnitude - values[nearest]) ** 3 / 3.0, x))
