"""The range methods once more, written plainly and slowly from their definitions, to judge the fast ones by."""

from __future__ import annotations

import math

import numpy as np

from onnxq.numerics import QuantSpec, Range, qparams_from_range


def percentile_of_magnitude(x: np.ndarray, percentile: float) -> float:
    """The smallest of the sorted |x| with at least `percentile` percent of the elements at or below it."""
    magnitudes = sorted(abs(v) for v in x.tolist())
    rank = math.ceil(len(magnitudes) * percentile / 100.0 - 1e-9)
    return magnitudes[max(rank, 1) - 1]


def divergence(counts: list[float], stop: int, levels: int) -> float:
    """KL(P || Q) of the window [0, stop), bin by bin."""
    reference = list(counts[:stop])
    reference[-1] += sum(counts[stop:])
    pooled = [0.0] * stop
    for level in range(levels):
        bins = [j for j in range(stop) if j * levels // stop == level and counts[j] > 0]
        for j in bins:
            pooled[j] = sum(counts[i] for i in bins) / len(bins)
    p_total, q_total = sum(reference), sum(pooled)
    result = 0.0
    for p, q in zip(reference, pooled, strict=True):
        if p > 0:
            if q == 0:
                return math.inf
            result += p / p_total * math.log((p / p_total) / (q / q_total))
    return result


def best_stop(counts: list[float], levels: int, narrowest: int) -> tuple[int, float]:
    """The window with the smallest divergence, of equals the widest, and that divergence."""
    stops = range(narrowest, len(counts) + 1)
    divergences = [divergence(counts, stop, levels) for stop in stops]
    best = min(divergences)
    if math.isinf(best):
        return len(counts), best
    return max(s for s, d in zip(stops, divergences, strict=True) if d <= best + 1e-12), best


def squared_error(points: np.ndarray, counts: np.ndarray, range_: Range, spec: QuantSpec) -> float:
    """Squared error of points that go through the quantizer one by one, in double precision."""
    params = qparams_from_range(range_, spec)
    scale, zero_point = float(params.scale), int(params.zero_point)
    codes = np.clip(np.rint(points / scale) + zero_point, spec.qmin, spec.qmax)
    return float(np.sum(counts * (points - (codes - zero_point) * scale) ** 2))
