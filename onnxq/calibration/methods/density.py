"""A tensor's values as the range methods see them: counts per bin, spread evenly inside each bin, zeros apart.

The values are first bounded as the graph bounds them: what a fused Relu or Clip will turn into its bound counts as that
bound, so no method spends range on values that never reach the quantizer.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from onnxq.calibration.statistics.histogram import BINS, bin_edges
from onnxq.calibration.statistics.table import TensorStats
from onnxq.errors import DataError, InternalError


@dataclass(frozen=True, kw_only=True, eq=False)
class Density:
    """Bounded values of one tensor.

    Attributes:
        edges: float64, shape (n + 1,), strictly ascending: from the first used bin to the last, the outermost cut to
            the extremes, which are known exactly.
        counts: float64, shape (n,), elements in each bin. n = 0 where every element is zero.
        width: Width of the inner bins, a power of two (of the statistics' own bins after `coarser`).
        zeros: Elements equal to zero; they are in no bin.
        rmin: Smallest value or 0, whichever is less; exact.
        rmax: Largest value or 0, whichever is more; exact.
    """

    edges: NDArray[np.float64]
    counts: NDArray[np.float64]
    width: float
    zeros: float
    rmin: float
    rmax: float

    @classmethod
    def of(cls, stats: TensorStats, lower: float | None = None, upper: float | None = None) -> Density:
        """The values of `stats`, cut to [lower, upper].

        Raises:
            DataError: no finite element was seen.
            InternalError: lower > upper.
        """
        seen(stats)
        low = -math.inf if lower is None else lower
        high = math.inf if upper is None else upper
        if not low <= high:
            raise InternalError(f"bounds [{low}, {high}] are not an interval")
        if low > stats.rmax or high < stats.rmin:
            # All values become one that lies beyond the bins of what was seen.
            one, size = (
                TensorStats.of(np.float32(low if low > stats.rmax else high)),
                stats.zeros + int(stats.counts.sum()),
            )
            stats = replace(one, count=stats.finite, counted=stats.counted, counts=one.counts * size)
        counts, zeros = _bounded(stats, low, high)
        used = np.flatnonzero(counts)
        first, stop = (int(used[0]), int(used[-1]) + 1) if used.size else (BINS, BINS)
        width = math.ldexp(1.0, stats.exponent)
        smallest, largest = min(max(stats.rmin, low), high), max(min(stats.rmax, high), low)
        return cls(
            edges=_cut_to(bin_edges(stats.exponent)[first : stop + 1], width, smallest, largest),
            counts=counts[first:stop].astype(np.float64),
            width=width,
            zeros=float(zeros),
            rmin=min(smallest, 0.0),
            rmax=max(largest, 0.0),
        )

    @property
    def amax(self) -> float:
        return max(-self.rmin, self.rmax)

    @property
    def nonzero(self) -> float:
        return float(self.counts.sum())

    def power(self) -> float:
        """Sum of squares: the integral of x^2 over each bin, exact for even spread."""
        low, high = self.edges[:-1], self.edges[1:]
        return float(np.dot(self.counts, low * low + low * high + high * high) / 3.0)

    def coarser(self, bins: int) -> Density:
        """About the same density in at most `bins` bins."""
        run = -(-self.counts.size // bins)
        if run <= 1:
            return self
        starts = np.arange(0, self.counts.size, run)
        return Density(
            edges=np.append(self.edges[starts], self.edges[-1]),
            counts=np.add.reduceat(self.counts, starts),
            width=self.width,
            zeros=self.zeros,
            rmin=self.rmin,
            rmax=self.rmax,
        )

    def between(self, edges: NDArray[np.float64]) -> NDArray[np.float64]:
        """Counts in other bins, by linear interpolation of the cumulated counts.

        Args:
            edges: Ascending; everything outside belongs to the end bins.

        Returns:
            float64, shape (len(edges) - 1,), with the sum of `counts`.
        """
        below = np.concatenate(([0.0], np.cumsum(self.counts)))
        at = np.interp(edges, self.edges, below)
        at[0], at[-1] = 0.0, below[-1]
        return np.diff(at)

    def magnitude(self) -> Density:
        """The density of |x|."""
        if self.rmin >= 0.0 or self.counts.size == 0:
            return self
        # Bin i of the negative side mirrors bin -1 - i of the other.
        start, stop = math.floor(self.edges[0] / self.width), math.ceil(self.edges[-1] / self.width)
        size = max(-start, stop)
        both = np.zeros(2 * size)
        both[size + start : size + stop] = self.counts
        edges = np.arange(size + 1) * self.width
        return Density(
            edges=_cut_to(edges, self.width, 0.0, self.amax),
            counts=both[size:] + both[:size][::-1],
            width=self.width,
            zeros=self.zeros,
            rmin=0.0,
            rmax=self.amax,
        )


def _cut_to(edges: NDArray[np.float64], width: float, smallest: float, largest: float) -> NDArray[np.float64]:
    """The outermost edges moved inward to the extremes, leaving each end bin at least a thousandth of its width."""
    if edges.size < 2:
        return edges
    edges = edges.copy()
    sliver = width / 1024.0
    edges[-1] = min(edges[-1], max(largest, edges[-2] + sliver))
    edges[0] = max(edges[0], min(smallest, edges[1] - sliver))
    return edges


def _bounded(stats: TensorStats, low: float, high: float) -> tuple[NDArray[np.int64], int]:
    """Counts and zeros after every value outside [low, high] has moved to the bound."""
    counts, zeros = _with_extremes(stats), stats.zeros
    width = math.ldexp(1.0, stats.exponent)
    if stats.rmin < low:
        bin_ = min(math.floor(low / width) + BINS, 2 * BINS)
        moved = int(counts[:bin_].sum())
        counts[:bin_] = 0
        if low > 0.0:
            moved, zeros = moved + zeros, 0
        zeros += _place(counts, low, min(bin_, 2 * BINS - 1), moved)
    if stats.rmax > high:
        bin_ = max(math.floor(high / width) + BINS, -1)
        moved = int(counts[bin_ + 1 :].sum())
        counts[bin_ + 1 :] = 0
        if high < 0.0:
            moved, zeros = moved + zeros, 0
        elif high == 0.0:
            # Bin BINS starts at 0: its values are above the bound too.
            moved += int(counts[BINS])
            counts[BINS] = 0
        zeros += _place(counts, high, max(bin_, 0), moved)
    return counts, zeros


def _with_extremes(stats: TensorStats) -> NDArray[np.int64]:
    """Counts in which each extreme is there, as one of the elements that were taken.

    Where a part of the elements is counted, the largest ones may be missed altogether, in every sample at the same
    place: a transformer's few huge activations. They would then cost nothing to clip.
    """
    counts: NDArray[np.int64] = stats.counts.copy()
    if not stats.complete and not stats.range_only:
        width = math.ldexp(1.0, stats.exponent)
        weight = max(1, round(stats.finite / stats.counted))
        for extreme in (stats.rmin, stats.rmax):
            bin_ = min(math.floor(extreme / width) + BINS, 2 * BINS - 1)
            if extreme != 0.0 and not counts[bin_]:
                counts[bin_] = weight
    return counts


def _place(counts: NDArray[np.int64], bound: float, bin_: int, moved: int) -> int:
    """Put `moved` elements at `bound`; returns how many of them are zeros."""
    if bound == 0.0:
        return moved
    counts[bin_] += moved
    return 0


def seen(stats: TensorStats, name: str = "") -> TensorStats:
    """`stats` of a tensor, which may have a name, if there is anything in it.

    Raises:
        DataError: the data held no finite value of it, as of a cache that is empty in every sample.
    """
    if stats.finite:
        return stats
    raise DataError(
        f"no finite value was observed ({stats.count} elements seen), so no range can be solved",
        where=f"tensor {name!r}" if name else None,
        hint="give calibration data that reaches this tensor: data= (--data); or its range: overrides= (--override "
        f"""'tensors = "{name or "NAME"}", range = [-1, 1]')""",
    )
