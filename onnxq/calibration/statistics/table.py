"""What calibration keeps of the tensors it saw: values with an exactly commutative and associative merge.

    of(a ++ b) == of(a).merge(of(b))      merge(a, b) == merge(b, a)      empty().merge(a) == a

All hold bit for bit, for any batching, order or split: counts are integers, extremes are min and max, and the histogram
is exact (see `histogram`) for the elements that enter it. Extremes and the number of non-finite elements are of all
elements; of a large tensor a fixed choice of elements enters the histogram (see `sampling`), each with the weight of
those it stands for. One set of statistics serves every method.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from onnxq.calibration.statistics.histogram import BINS, MIN_EXPONENT, Binner, coarsen, exponent_for
from onnxq.calibration.statistics.sampling import Extract, extract
from onnxq.calibration.statistics.seen_samples import EMPTY_FINGERPRINT, SeenSamples, combine_fingerprints
from onnxq.data.sharding import ShardSet, merge_shards
from onnxq.errors import ArtifactError, InternalError

_AT_ONCE = 1 << 12
"""Fewer elements wait for more of them to be counted together: that is what a call of numpy costs."""

_NO_COUNTS: NDArray[np.int64] = np.zeros(2 * BINS, np.int64)
_NO_COUNTS.flags.writeable = False


@dataclass(frozen=True, kw_only=True, eq=False)
class TensorStats:
    """Everything the range methods need to know about one tensor.

    Attributes:
        count: Elements seen, of every kind.
        counted: Finite elements that entered the histogram (zeros included), without weights. All of them where
            everything was counted; 0 where only the range was kept.
        zeros: Weight of the elements counted that equal 0.
        nonfinite: NaN and infinite elements, exact; they are in no other field but `count`.
        rmin: Smallest finite element, exact, or 0 where none is below: a range has to hold 0. +inf if none was seen.
        rmax: Largest finite element, exact, or 0 where none is above. -inf if none was seen.
        counts: int64, shape (2 * BINS,), read-only: weight of the finite non-zero elements counted, by bin; bin BINS
            starts at 0.

    Where every finite element was counted, all weights are 1: zeros + sum(counts) == counted.
    """

    count: int
    counted: int
    zeros: int
    nonfinite: int
    rmin: float
    rmax: float
    counts: NDArray[np.int64]

    def __post_init__(self) -> None:
        counts = np.asarray(self.counts)
        if counts.dtype != np.int64 or counts.shape != (2 * BINS,):
            raise InternalError(f"counts is {counts.dtype} of shape {counts.shape}, expected int64 of ({2 * BINS},)")
        if min(self.zeros, self.nonfinite, self.counted, int(counts.min())) < 0:
            raise InternalError("a count is negative")
        binned = int(counts.sum())
        weight = self.zeros + binned
        if self.counted > min(self.finite, weight) or (self.complete and weight != self.counted):
            raise InternalError(
                f"count is {self.count} and {self.counted} were counted, "
                f"but {self.zeros} zeros, {self.nonfinite} non-finite and {binned} binned"
            )
        _check_extremes(self, binned)
        if counts.flags.writeable or counts.base is not None:
            counts = counts.copy()
            counts.flags.writeable = False
        object.__setattr__(self, "counts", counts)

    @classmethod
    def empty(cls) -> TensorStats:
        """The statistics of nothing: `empty().merge(s) == s`."""
        return StatsBuilder().freeze()

    @classmethod
    def of(cls, values: ArrayLike) -> TensorStats:
        """The statistics of one array.

        Raises:
            DataError: the array is not numeric.
        """
        builder = StatsBuilder()
        builder.update(values)
        return builder.freeze()

    @property
    def finite(self) -> int:
        return self.count - self.nonfinite

    @property
    def complete(self) -> bool:
        """Whether every finite element is in the histogram."""
        return self.counted == self.finite

    @property
    def range_only(self) -> bool:
        """Whether there is a range but no histogram."""
        return self.counted == 0 < self.finite

    @property
    def follows(self) -> bool:
        """Whether the histogram is that of another tensor, moved along a curve (see `following`)."""
        return False

    def itself(self) -> TensorStats:
        """The same with a histogram of its own."""
        return self

    @property
    def exponent(self) -> int:
        """Bins are 2^exponent wide."""
        return exponent_for(self.rmin, self.rmax) if self.finite else MIN_EXPONENT

    def merge(self, other: TensorStats) -> TensorStats:
        """The statistics of both sets of elements together."""
        if not (other.count or other.follows):
            return self
        if not (self.count or self.follows):
            return other
        rmin, rmax = min(self.rmin, other.rmin), max(self.rmax, other.rmax)
        exponent = max(self.exponent, other.exponent)
        counts = coarsen(self.counts, exponent - self.exponent)
        counts += coarsen(other.counts, exponent - other.exponent)
        return TensorStats(
            count=self.count + other.count,
            counted=self.counted + other.counted,
            zeros=self.zeros + other.zeros,
            nonfinite=self.nonfinite + other.nonfinite,
            rmin=rmin,
            rmax=rmax,
            counts=counts,
        )

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, TensorStats):
            return NotImplemented
        return self._scalars() == other._scalars() and bool(np.array_equal(self.counts, other.counts))

    def __hash__(self) -> int:
        return hash(self._scalars())

    def _scalars(self) -> tuple[int, int, int, int, float, float]:
        return (self.count, self.counted, self.zeros, self.nonfinite, self.rmin, self.rmax)


def _check_extremes(stats: TensorStats, binned: int) -> None:
    ends = (stats.rmin, stats.rmax)
    if stats.finite == 0:
        if ends != (math.inf, -math.inf):
            raise InternalError(f"extremes are {ends}, but no finite element was seen")
        return
    limit = float(np.finfo(np.float32).max)
    if not -limit <= stats.rmin <= 0.0 <= stats.rmax <= limit:
        raise InternalError(f"extremes {ends} are not an interval around 0 of finite float32 numbers")
    if binned == 0:
        if stats.complete and ends != (0.0, 0.0):
            raise InternalError(f"extremes are {ends}, but every finite element is zero")
        return
    used = np.not_equal(stats.counts, 0)
    width = math.ldexp(1.0, stats.exponent)
    low, high = math.floor(stats.rmin / width), math.floor(stats.rmax / width)
    first, last = int(used.argmax()) - BINS, BINS - 1 - int(used[::-1].argmax())
    # An extreme need not have been counted; and one of exactly 0 may be a zero, which is in no bin.
    reached = (first == low or stats.rmin == 0.0) and (last == high or stats.rmax == 0.0)
    if first < low or last > high or (stats.complete and not reached):
        raise InternalError(f"used bins [{first}, {last}] do not fit extremes {ends}")


def _chunks(taken: NDArray[np.float32]) -> Iterator[NDArray[np.float32]]:
    """An array of one or two axes in parts of at most CHUNK elements, none of them copied."""
    width = math.prod(taken.shape[1:])
    if width > Binner.CHUNK:
        for row in taken:
            yield from _chunks(row)
        return
    step = Binner.CHUNK // width
    for start in range(0, len(taken), step):
        yield taken[start : start + step]


class StatsBuilder:
    """Statistics under construction: grows in place while batches stream by. Not safe to share between threads.

    Args:
        binner: Scratch memory that builders of one thread share; None takes some where it is needed.
        counts: Zeros for the histogram, int64 of shape (2 * BINS,); None takes some where they are needed.
    """

    def __init__(self, binner: Binner | None = None, counts: NDArray[np.int64] | None = None) -> None:
        self._binner = binner
        self._count = 0
        self._counted = 0
        self._zeros = 0
        self._nonfinite = 0
        self._rmin = math.inf
        self._rmax = -math.inf
        self._exponent = MIN_EXPONENT
        self._counts = _NO_COUNTS if counts is None else counts
        # Elements that wait to be counted: many small batches then cost one walk through the bins.
        self._waiting: list[NDArray[np.float32]] = []
        self._waiting_size = 0
        self._weight = 1

    def update(self, values: ArrayLike, *, rows: int | None = None) -> None:
        """Add every element of an array. Arguments and errors as for `sampling.extract`."""
        self.add(extract(values, rows=rows))

    def add(self, part: Extract) -> None:
        """Add what was taken of an array."""
        self._count += part.count
        self._nonfinite += part.nonfinite
        if part.count > part.nonfinite:
            self._rmin = min(self._rmin, part.rmin, 0.0)
            self._rmax = max(self._rmax, part.rmax, 0.0)
        size = part.taken.size
        if not size:
            return
        if part.weight != self._weight or self._waiting_size + size > Binner.CHUNK:
            self._count_waiting()
            self._weight = part.weight
        if size >= _AT_ONCE:
            self._count_elements(part.taken)
        else:
            # A copy: the array belongs to onnxruntime, which wants its memory back.
            self._waiting.append(part.taken.flatten())
            self._waiting_size += size

    def _count_waiting(self) -> None:
        if self._waiting:
            waiting, self._waiting, self._waiting_size = self._waiting, [], 0
            self._count_elements(waiting[0] if len(waiting) == 1 else np.concatenate(waiting))

    def _count_elements(self, taken: NDArray[np.float32]) -> None:
        exponent = exponent_for(self._rmin, self._rmax)
        if self._counts is _NO_COUNTS:
            self._counts = np.zeros_like(_NO_COUNTS)
        elif exponent > self._exponent and self._counted:
            self._counts[:] = coarsen(self._counts, exponent - self._exponent)
        self._exponent = max(exponent, self._exponent)
        binner = self._binner or Binner(taken.size)
        for chunk in _chunks(taken):
            self._zeros += self._weight * binner.add(self._counts, chunk, exponent, self._rmin, self._weight)
        self._counted += taken.size

    @property
    def nonfinite(self) -> int:
        """NaN and infinite elements so far; the caller that wants to stop at the first looks after each batch."""
        return self._nonfinite

    def freeze(self) -> TensorStats:
        """The statistics so far; the builder may go on."""
        self._count_waiting()
        exponent = exponent_for(self._rmin, self._rmax) if self._count > self._nonfinite else MIN_EXPONENT
        counts = self._counts
        if counts is not _NO_COUNTS:
            counts = coarsen(counts, exponent - self._exponent)
            counts.flags.writeable = False
        return TensorStats(
            count=self._count,
            counted=self._counted,
            zeros=self._zeros,
            nonfinite=self._nonfinite,
            rmin=self._rmin,
            rmax=self._rmax,
            counts=counts,
        )


@dataclass(frozen=True, kw_only=True)
class StatsTable(Mapping[str, TensorStats]):
    """Statistics of a model's tensors over a data set: an immutable mapping from tensor name.

    Attributes:
        tensors: By tensor name.
        digest: Digest of the float model the tensors belong to.
        samples: How many samples were run.
        data_fingerprint: `combine_fingerprints` over all samples.
        shards: Which shards of a split of the data they are of; None for whole data.
        seen: Tells samples that were run from others; None where that was not kept.
    """

    tensors: Mapping[str, TensorStats] = field(repr=False)
    digest: str
    samples: int
    data_fingerprint: str = field(default=EMPTY_FINGERPRINT)
    shards: ShardSet | None = None
    seen: SeenSamples | None = None

    def __post_init__(self) -> None:
        if self.samples < 0:
            raise InternalError(f"samples is {self.samples}")
        object.__setattr__(self, "data_fingerprint", combine_fingerprints(self.data_fingerprint))
        object.__setattr__(self, "tensors", MappingProxyType(dict(self.tensors)))

    @property
    def range_only(self) -> bool:
        """Whether a tensor has a range but no histogram: such statistics serve the method `max` alone."""
        return any(stats.range_only for stats in self.tensors.values())

    def __reduce__(self) -> tuple[object, ...]:
        # Tables travel between processes; a mapping proxy cannot be pickled, its content can.
        return (_table, (dict(self.tensors), self.digest, self.samples, self.data_fingerprint, self.shards, self.seen))

    def __getitem__(self, name: str) -> TensorStats:
        return self.tensors[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.tensors)

    def __len__(self) -> int:
        return len(self.tensors)

    def merge(self, other: StatsTable) -> StatsTable:
        """The statistics over both data sets.

        Raises:
            ArtifactError: the tables belong to different models, hold different tensors, or share a shard of the data.
        """
        if self.digest != other.digest:
            raise ArtifactError(
                f"statistics of different models cannot be merged: digests {self.digest} and {other.digest}",
                hint="calibrate the shards on the same float model",
            )
        if any(
            s.range_only != other[n].range_only for n, s in self.items() if n in other and s.finite and other[n].finite
        ):
            raise ArtifactError(
                "statistics that hold ranges only cannot be merged with statistics that hold histograms",
                hint="calibrate all shards alike: with or without range_only= (--range-only)",
            )
        if self.keys() != other.keys():
            names = sorted(self.keys() ^ other.keys())
            raise ArtifactError(
                f"statistics hold different tensors: {len(names)} are in one table only, first {names[0]!r}",
                hint="calibrate the shards with the same target= (--target) and configuration",
            )
        unlike = [n for n, s in self.items() if s.follows != other[n].follows and s.count and other[n].count]
        if unlike:
            raise ArtifactError(
                f"statistics in which tensor {unlike[0]!r} was counted cannot be merged with statistics in which its "
                "histogram follows from another tensor's",
                hint="calibrate all shards by one onnxq, with or without full_histogram= (--full-histogram)",
            )
        shards = merge_shards(self.shards, other.shards)
        return StatsTable(
            tensors={name: stats.merge(other[name]) for name, stats in self.items()},
            digest=self.digest,
            samples=self.samples + other.samples,
            data_fingerprint=combine_fingerprints(self.data_fingerprint, other.data_fingerprint),
            shards=shards,
            seen=None if self.seen is None or other.seen is None else self.seen.merge(other.seen),
        )

    def save(self, path: str | Path) -> None:
        """Write the table to a file that appears whole or not at all, in place of one that is there.

        Raises:
            ConfigError: the file cannot be written.
        """
        from onnxq.calibration.statistics.file import save_stats  # noqa: PLC0415 - the file format knows the table

        save_stats(self, path)


def _table(tensors: dict[str, TensorStats], *others: Any) -> StatsTable:
    digest, samples, data_fingerprint, shards, seen = others
    return StatsTable(
        tensors=tensors,
        digest=digest,
        samples=samples,
        data_fingerprint=data_fingerprint,
        shards=shards,
        seen=seen,
    )
