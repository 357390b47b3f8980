"""Statistics of a tensor that is a function of another one, element by element: y = curve(x).

    extremes      of y itself, exact, as everybody's
    histogram     of x, with each bin moved to where the curve takes it; made when it is asked for

It is a function of the merged statistics of both, so that merging stays exact: it is not made before. A bin of x is cut
into pieces of equal width, each with its share of the elements. A piece goes to the bins of y between the values of
the curve at its ends, evenly, in whole elements: k of n bins hold round(elements * k / n).
"""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxq.calibration.statistics.curves import Curve
from onnxq.calibration.statistics.histogram import BINS
from onnxq.calibration.statistics.table import TensorStats

_PIECES = 1 << 15
"""Of all bins of x together, about."""

_MOST_PIECES = 64
"""Of one bin."""


class FollowingStats(TensorStats):
    """Statistics of `curve` of a tensor.

    Args:
        own: Its own extremes and numbers of elements; no histogram.
        source: Statistics of the tensor that it is a function of.
        curve: The function.
    """

    own: TensorStats
    source: TensorStats
    curve: Curve

    def __init__(self, own: TensorStats, source: TensorStats, curve: Curve) -> None:
        # Where elements of x are finite whose curve is not, not all of them can have been counted.
        counted = source.counted if own.finite >= source.finite else min(source.counted, max(own.finite - 1, 0))
        values = {"own": own, "source": source, "curve": curve, "count": own.count, "nonfinite": own.nonfinite}
        for name, value in (values | {"rmin": own.rmin, "rmax": own.rmax, "counted": counted}).items():
            object.__setattr__(self, name, value)

    @property
    def follows(self) -> bool:
        """True."""
        return True

    @functools.cached_property
    def counts(self) -> NDArray[np.int64]:
        return self._moved[0]

    @functools.cached_property
    def zeros(self) -> int:
        return self._moved[1]

    def itself(self) -> TensorStats:
        """The same with a histogram of its own, as it is now."""
        return TensorStats(
            count=self.count,
            counted=self.counted,
            zeros=self.zeros,
            nonfinite=self.nonfinite,
            rmin=self.rmin,
            rmax=self.rmax,
            counts=self.counts,
        )

    def merge(self, other: TensorStats) -> TensorStats:
        """The statistics of both sets of elements together; they follow if both follow along one curve."""
        if isinstance(other, FollowingStats) and other.curve == self.curve:
            return FollowingStats(self.own.merge(other.own), self.source.merge(other.source), self.curve)
        return super().merge(other)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, FollowingStats):
            return False if isinstance(other, TensorStats) else NotImplemented
        return (self.curve, self.own, self.source) == (other.curve, other.own, other.source)

    def __hash__(self) -> int:
        return hash((self.own, self.source, self.curve))

    def __reduce__(self) -> tuple[Any, ...]:
        return FollowingStats, (self.own, self.source, self.curve)

    @functools.cached_property
    def _moved(self) -> tuple[NDArray[np.int64], int]:
        """The histogram and the zeros."""
        counts, zeros = np.zeros(2 * BINS, np.int64), 0
        if self.finite and self.source.finite:
            counts, zeros = _spread(*_pieces(self.source, self.curve), self.own)
            if self.complete:
                zeros = _reach_extremes(counts, zeros, self.own)
        counts.flags.writeable = False
        return counts, zeros


def _pieces(source: TensorStats, curve: Curve) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.int64]]:
    """The curve at both ends of each piece, in order, and how many elements are in it; zeros are a piece, too."""
    used = np.flatnonzero(source.counts)
    counts = source.counts[used][:, None]
    width = math.ldexp(1.0, source.exponent)
    low = np.maximum((used - BINS) * width, source.rmin)[:, None]
    high = np.minimum((used - BINS + 1) * width, source.rmax)[:, None]
    pieces = min(max(_PIECES // max(used.size, 1), 1), _MOST_PIECES)
    steps = np.arange(pieces + 1)
    values = curve(low + (high - low) * (steps / pieces))
    # Rounded to the nearest, halves up.
    elements = np.diff((2 * counts * steps + pieces) // (2 * pieces), axis=1)
    at_zero = curve(np.zeros(1))
    return (
        np.append(np.minimum(values[:, :-1], values[:, 1:]).ravel(), at_zero),
        np.append(np.maximum(values[:, :-1], values[:, 1:]).ravel(), at_zero),
        np.append(elements.ravel(), source.zeros),
    )


def _spread(
    low: NDArray[np.float64], high: NDArray[np.float64], elements: NDArray[np.int64], own: TensorStats
) -> tuple[NDArray[np.int64], int]:
    """The histogram of elements that lie evenly in intervals, and how many are 0."""
    low, high = np.clip(low, own.rmin, own.rmax), np.clip(high, own.rmin, own.rmax)
    at_zero = (low == 0.0) & (high == 0.0)
    zeros = int(elements[at_zero].sum())
    kept = ~at_zero & (elements > 0)
    low, high, elements = low[kept], high[kept], elements[kept]
    width = math.ldexp(1.0, own.exponent)
    first = np.floor(low / width).astype(np.int64)
    bins = np.maximum(np.ceil(high / width).astype(np.int64) - first, 1)
    # One row for each bin of each interval.
    ends = np.cumsum(bins)
    interval = np.repeat(np.arange(bins.size), bins)
    place = np.arange(interval.size) - np.repeat(ends - bins, bins)
    spans = np.where(high > low, high - low, 1.0)
    share = ((first[interval] + place + 1) * width - low[interval]) / spans[interval]
    share[ends - 1] = 1.0
    reached = np.floor(elements[interval] * np.minimum(share, 1.0) + 0.5)
    before = np.where(place > 0, np.concatenate([[0.0], reached[:-1]]), 0.0)
    found = np.bincount(first[interval] + place + BINS, reached - before, 2 * BINS)
    return found.astype(np.int64), zeros


def _reach_extremes(counts: NDArray[np.int64], zeros: int, own: TensorStats) -> int:
    """Move an element into the bin of an extreme that is empty, in place: one of all elements was there.

    Returns:
        How many are 0 after that.
    """
    width = math.ldexp(1.0, own.exponent)
    low, high = math.floor(own.rmin / width) + BINS, math.floor(own.rmax / width) + BINS
    for extreme, bin_, other in ((own.rmin, low, -1), (own.rmax, high, low if own.rmin < 0.0 else -1)):
        if extreme == 0.0 or counts[bin_]:
            continue
        used = np.flatnonzero(counts)
        used = used[(used != other) | (counts[used] > 1)]
        if used.size:
            counts[used[0] if extreme < 0.0 else used[-1]] -= 1
        elif zeros:
            zeros -= 1
        else:
            continue
        counts[bin_] += 1
    return zeros
