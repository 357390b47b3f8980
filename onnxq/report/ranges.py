"""What calibration saw of a tensor, and what each method would make of it.

The histogram of the statistics (thousands of bins) is brought to the few that a chart can show; the ranges, the share
of elements outside of them and the noise to expect are computed from all of it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxq.calibration.methods import METHODS, expected_sqnr_db, method_from_name
from onnxq.calibration.methods.density import Density
from onnxq.calibration.solve import group_stats, sound_range
from onnxq.calibration.statistics.histogram import BINS
from onnxq.calibration.statistics.table import StatsTable, TensorStats
from onnxq.graph.view import Graph
from onnxq.numerics.arrays import fake_quantize
from onnxq.numerics.blocks import spread
from onnxq.numerics.metrics import sqnr_db
from onnxq.numerics.qparams import QuantParams, qparams_from_range
from onnxq.planning.plan import Derived, Observed, QuantPlan, TensorPlan

SHOWN_BINS = 96
"""Bars of a histogram: as many as can be told apart on a telephone."""

USED = "used"
"""Stands in place of a method's name for the range that the model has."""

_LARGEST_WEIGHT = 2**22
"""Elements of a constant that are looked at; of a larger one every n-th."""


@dataclass(frozen=True, kw_only=True)
class Histogram:
    """Values of a tensor in bins of equal width.

    Attributes:
        low: Left edge of the first bin.
        width: Width of a bin.
        counts: Elements in each bin; zeros are not among them.
        zeros: Elements that are exactly zero.
    """

    low: float
    width: float
    counts: tuple[int, ...]
    zeros: int


@dataclass(frozen=True, kw_only=True)
class RangeChoice:
    """One way to choose the range of a tensor.

    Attributes:
        method: The method's name, or "used" for the range that the model has.
        rmin: Smallest real value that a code stands for.
        rmax: Largest real value that a code stands for.
        clipped_share: Share of the elements that lie more than half a step outside, 0 to 1.
        sqnr_db: Signal to noise ratio to expect of the tensor alone, in dB; None where nothing is lost.
    """

    method: str
    rmin: float
    rmax: float
    clipped_share: float
    sqnr_db: float | None


@dataclass(frozen=True, kw_only=True)
class TensorRanges:
    """What is known of the values of one tensor.

    Attributes:
        histogram: Its values; None where statistics hold extremes alone.
        choices: What each method makes of them, the range that is used first.
        lower: Below it no reader tells values apart, so that cutting there costs nothing; None where there is no bound.
        upper: Likewise above.
    """

    histogram: Histogram | None
    choices: tuple[RangeChoice, ...]
    lower: float | None = None
    upper: float | None = None


def ranges_of(
    graph: Graph, plan: QuantPlan, stats: StatsTable, qparams: Mapping[str, QuantParams]
) -> dict[str, TensorRanges]:
    """For each tensor of `plan` whose values are known: histogram and ranges.

    Args:
        graph: The float graph of the plan.
        plan: What is quantized.
        stats: Statistics of activations, as many as there are.
        qparams: Parameters by key of the plan.
    """
    known = {name: s for name, s in stats.tensors.items() if s.finite}
    observed = {n: t for n, t in plan.tensors.items() if isinstance(t.source, Observed) and t.name in known}
    merged: dict[str, TensorStats] = {}
    if all(name in known for name in plan.observed()):
        merged = group_stats(plan, stats)
    found: dict[str, TensorRanges] = {}
    for key, tensor in plan.tensors.items():
        params = qparams.get(key)
        if params is None or isinstance(tensor.source, Derived):
            continue
        if key in observed:
            found[key] = _of_activation(known[tensor.name], merged.get(key), tensor, params)
        elif tensor.name in known and params.spec.axis is None:
            found[key] = _of_activation(known[tensor.name], None, tensor, params)
        elif (values := graph.constant(tensor.name) if graph.is_constant(tensor.name) else None) is not None:
            found[key] = of_values(values, params)
    return found


def _of_activation(
    stats: TensorStats, group: TensorStats | None, tensor: TensorPlan, params: QuantParams
) -> TensorRanges:
    bounds = tensor.source if isinstance(tensor.source, Observed) else Observed()
    histogram = None if stats.range_only else _histogram(stats)
    if params.spec.axis is not None:
        return TensorRanges(histogram=histogram, choices=())
    choices = [_choice(USED, stats, params, bounds)]
    # Only of what is solved from statistics would another method make another range.
    for name in METHODS if group is not None and not group.range_only else ():
        solved, _ = sound_range(group or stats, tensor.spec, method_from_name(name), bounds)
        choices.append(_choice(name, stats, qparams_from_range(solved, tensor.spec), bounds))
    return TensorRanges(histogram=histogram, choices=tuple(choices), lower=bounds.lower, upper=bounds.upper)


def _choice(method: str, stats: TensorStats, params: QuantParams, bounds: Observed) -> RangeChoice:
    rmin, rmax = ends(params)
    density = Density.of(stats, bounds.lower, bounds.upper)
    return RangeChoice(
        method=method,
        rmin=rmin,
        rmax=rmax,
        clipped_share=_share_outside(density, rmin, rmax, float(params.scale)),
        sqnr_db=None if stats.range_only else _finite(expected_sqnr_db(stats, params, bounds.lower, bounds.upper)),
    )


def _share_outside(density: Density, rmin: float, rmax: float, scale: float) -> float:
    """Share of the elements more than half a step outside: what is nearer is rounded, not clipped."""
    total = density.nonzero + density.zeros
    if not density.counts.size or not total:
        return 0.0
    below = np.concatenate(([0.0], np.cumsum(density.counts)))
    low, high = np.interp([rmin - scale / 2, rmax + scale / 2], density.edges, below)
    slack = 1e-9 * float(below[-1])
    outside = float(low + below[-1] - high)
    return 0.0 if outside <= slack else outside / total


def ends(params: QuantParams) -> tuple[float, float]:
    """Smallest and largest real value that a code stands for, over all channels."""
    scale = params.scale.astype(np.float64).reshape(-1)
    zero_point = params.zero_point.astype(np.int64).reshape(-1)
    return (
        float(((params.spec.qmin - zero_point) * scale).min()),
        float(((params.spec.qmax - zero_point) * scale).max()),
    )


def _histogram(stats: TensorStats) -> Histogram:
    width = math.ldexp(1.0, stats.exponent)
    used = np.flatnonzero(stats.counts)
    if not used.size:
        return Histogram(low=0.0, width=1.0, counts=(), zeros=stats.zeros)
    # From the first used bin to the last, 0 among them.
    first, stop = min(int(used[0]), BINS), max(int(used[-1]) + 1, BINS)
    run = -(-(stop - first) // SHOWN_BINS)
    # Whole runs on both sides of zero, so that no bar holds values of either sign.
    first = BINS - -(-(BINS - first) // run) * run
    counts = np.add.reduceat(stats.counts[max(first, 0) : stop], _starts(first, stop, run))
    return Histogram(
        low=(first - BINS) * width, width=run * width, counts=tuple(int(c) for c in counts), zeros=stats.zeros
    )


def _starts(first: int, stop: int, run: int) -> NDArray[np.intp]:
    """Where runs begin; one that would begin before the first bin of all is short."""
    at = np.arange(first, stop, run) - max(first, 0)
    return np.maximum(at, 0).astype(np.intp)


def of_values(values: NDArray[Any], params: QuantParams) -> TensorRanges:
    """Histogram and error of a constant.

    Args:
        values: Its values, any shape.
        params: Per-tensor or per-channel.
    """
    exact = np.asarray(values, np.float32)
    if not exact.size or not np.isfinite(exact).all():
        return TensorRanges(histogram=None, choices=())
    coded = fake_quantize(exact, params)
    rmin, rmax = ends(params)
    flat = exact.reshape(-1)[:: -(-exact.size // _LARGEST_WEIGHT)]
    low, high = min(float(flat.min()), 0.0), max(float(flat.max()), 0.0)
    zeros = int(np.count_nonzero(flat == 0.0))
    if low == high:
        return TensorRanges(histogram=Histogram(low=0.0, width=1.0, counts=(), zeros=zeros), choices=())
    counts, edges = np.histogram(flat[flat != 0.0], bins=SHOWN_BINS, range=(low, high))
    choice = RangeChoice(
        method=USED,
        rmin=rmin,
        rmax=rmax,
        clipped_share=_clipped_share(exact, coded, params),
        sqnr_db=_finite(sqnr_db(exact, coded)),
    )  # fmt: skip
    histogram = Histogram(low=low, width=float(edges[1] - edges[0]), counts=tuple(counts.tolist()), zeros=zeros)
    return TensorRanges(histogram=histogram, choices=(choice,))


def _clipped_share(values: NDArray[np.float32], coded: NDArray[np.float32], params: QuantParams) -> float:
    """Share of the values whose code is nearer to zero by more than half a step, and a little for rounding."""
    if params.spec.qtype.is_float:
        return 0.0  # steps grow with the value, and ranges cover all of it
    step = spread(params.scale, values.shape, params.spec) * np.float32(0.501)
    low, high = (values < 0) & (coded > values + step), (values > 0) & (coded < values - step)
    return float(np.mean(low | high))


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
