"""The `entropy` method: the clip whose quantized distribution loses least information about the original one.

For a histogram of BINS bins and a window of its bins around zero (all of it down to a sixteenth), P is the window with
everything outside added to its end bins, Q the window after it has been pooled into as many levels as there are codes,
each level's count spread evenly over its non-empty bins. The window with the smallest

    KL(P || Q) = sum_j P_j log(P_j / Q_j)         P, Q normalised

wins; of equals the widest. Source: S. Migacz, "8-bit inference with TensorRT", GTC 2017; as in NVIDIA's
pytorch-quantization: 2048 bins, windows from 128 bins up, 128 levels for symmetric int8, 256 for uint8.

Zero: exact zeros are left out, since every window keeps them exact, and a bin next to zero takes its outer neighbour's
count (pytorch-quantization's rule), else the heap of near-zeros that a GELU leaves would decide alone.
Symmetric: the histogram is of |x| over [0, amax]. Asymmetric: of x over [rmin, rmax]; the longer side is searched first
with the other whole, then the other side with the first fixed.
With 2048 levels or more (16-bit types) pooling is finer than the bins and sees nothing: the result is that of `max`. So
it is for 8-bit floats, whose levels are not even.

Evaluated with cumulated sums, one log per window and level. With b the counts, S_k and n_k a level's count and
non-empty bins, T the total and o the part outside:
    T KL = sum_j p_j log p_j - sum_k S_k log(S_k / n_k) - o log(S_end / n_end) + T log(sum_k S_k / T)
"""

from __future__ import annotations

import functools
import math

import numpy as np
from numpy.typing import NDArray

from onnxq.calibration.methods.density import Density
from onnxq.calibration.methods.max import solve_max
from onnxq.numerics.qparams import Range
from onnxq.numerics.specs import QuantSpec

BINS = 2048
NARROWEST = 128
_BLOCK = 64


def solve_entropy(density: Density, spec: QuantSpec) -> Range:
    """The range whose window has the smallest divergence.

    Args:
        density: The tensor's values.
        spec: Decides the number of levels and the symmetry.

    Returns:
        A scalar range.
    """
    steps = spec.qmax - spec.qmin
    levels = steps // 2 + 1 if spec.symmetric else steps + 1
    if levels >= BINS or spec.qtype.is_float or density.nonzero == 0.0:
        return solve_max(density, spec)
    if spec.symmetric:
        amax = _one_sided(density.magnitude(), levels)
        return Range.of(-amax, amax)
    if density.rmin == 0.0 or density.rmax == 0.0:
        end = _one_sided(density.magnitude(), levels)
        return Range.of(-end if density.rmax == 0.0 else 0.0, end if density.rmin == 0.0 else 0.0)
    return _two_sided(density, levels)


def _one_sided(density: Density, levels: int) -> float:
    edges = np.asarray(np.linspace(0.0, density.rmax, BINS + 1), np.float64)
    counts = density.between(edges)
    counts[0] = counts[1]
    stop = best_stop(counts, levels, NARROWEST)
    return float(edges[stop])


def _two_sided(density: Density, levels: int) -> Range:
    # One bin less than there is room for, so that 0 can be an edge.
    width = (density.rmax - density.rmin) / (BINS - 1)
    zero = min(max(math.ceil(-density.rmin / width), 1), BINS - 1)
    edges = np.asarray((np.arange(BINS + 1) - zero) * width, np.float64)
    counts = density.between(edges)
    counts[zero] = counts[zero + 1] if zero + 1 < BINS else 0.0
    counts[zero - 1] = counts[zero - 2] if zero > 1 else 0.0
    start, stop = 0, BINS
    for side in ("upper", "lower") if density.rmax >= -density.rmin else ("lower", "upper"):
        # What one end cuts off is already in its end bin when the other end is searched.
        if side == "upper":
            inner = _cut_below(counts, start)
            stop = start + best_stop(inner, levels, max(NARROWEST, zero + 1 - start))
        else:
            inner = _cut_below(counts[::-1], BINS - stop)
            start = stop - best_stop(inner, levels, max(NARROWEST, stop - zero + 1))
    return Range.of(max(float(edges[start]), density.rmin), min(float(edges[stop]), density.rmax))


def _cut_below(counts: NDArray[np.float64], start: int) -> NDArray[np.float64]:
    inner = counts[start:].copy()
    inner[0] += counts[:start].sum()
    return np.asarray(inner, np.float64)


def best_stop(counts: NDArray[np.float64], levels: int, narrowest: int) -> int:
    """The end of the window [0, stop) with the smallest divergence; of equals the widest.

    Args:
        counts: float64, shape (n,), n <= BINS.
        levels: How many levels a window is pooled into.
        narrowest: Smallest stop to consider.

    Returns:
        In [narrowest, n]; n where no window has a finite divergence.
    """
    size = counts.size
    if narrowest >= size:
        return size
    stops = np.arange(narrowest, size + 1)
    bounds = _level_bounds(levels)[narrowest : size + 1]
    below, used = _cumulated(counts), _cumulated(counts > 0.0)
    known = _cumulated(_xlogx(counts))
    # A block of windows at a time, so that the tables stay in the processor's cache.
    blocks = range(0, stops.size, _BLOCK)
    divergence = np.concatenate(
        [_divergences(stops[k : k + _BLOCK], bounds[k : k + _BLOCK], counts, (below, used, known)) for k in blocks]
    )
    best = divergence.min()
    if not np.isfinite(best):
        return size
    # What differs by rounding alone counts as equal.
    return int(stops[np.flatnonzero(divergence <= best + 1e-12 * below[-1])[-1]])


def _divergences(
    stops: NDArray[np.intp],
    bounds: NDArray[np.intp],
    counts: NDArray[np.float64],
    cumulated: tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]],
) -> NDArray[np.float64]:
    """T KL of the windows [0, stop)."""
    below, used, known = cumulated
    total = below[-1]
    pooled, bins = np.diff(below[bounds], axis=1), np.diff(used[bounds], axis=1)
    outside = total - below[stops]
    end = counts[stops - 1]
    with np.errstate(divide="ignore", invalid="ignore"):
        log_mean = np.log(pooled / bins)
        # Empty levels (no count, or narrower than a bin) explain nothing; their log is -inf or NaN.
        log_mean[pooled == 0.0] = 0.0
        explained = np.einsum("ij,ij->i", pooled, log_mean)
        last = (stops - 1) * log_mean.shape[1] // stops
        lost = outside * log_mean[np.arange(stops.size), last]
        information = known[stops] - _xlogx(end) + _xlogx(end + outside)
        divergence = information - explained - lost + total * np.log(below[stops] / total)
    # Counts outside against an empty end bin: Q is 0 where P is not.
    divergence[((outside > 0.0) & (end == 0.0)) | (below[stops] == 0.0)] = np.inf
    return np.asarray(divergence, np.float64)


@functools.lru_cache(maxsize=4)
def _level_bounds(levels: int) -> NDArray[np.intp]:
    """Row `stop`: the first bin of each level and one past the last. Bin j is in level floor(j * levels / stop)."""
    stops = np.arange(BINS + 1, dtype=np.intp)[:, None]
    bounds = -(-np.arange(levels + 1, dtype=np.intp) * stops // levels)
    bounds.flags.writeable = False
    return bounds


def _cumulated(values: NDArray[np.float64] | NDArray[np.bool_]) -> NDArray[np.float64]:
    return np.concatenate(([0.0], np.cumsum(values, dtype=np.float64)))


def _xlogx(values: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(values * np.log(np.where(values > 0.0, values, 1.0)), np.float64)
