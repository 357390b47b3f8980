"""What calibration keeps of the tensors it saw: values with an exactly commutative and associative merge.

    of(a ++ b) == of(a).merge(of(b))      merge(a, b) == merge(b, a)      empty().merge(a) == a

All hold bit for bit, for any batching, order or split: counts are integers, extremes are min and max, and the histogram
is exact (see `histogram`). One set of statistics serves every method.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

import numpy as np
from numpy.typing import ArrayLike, NDArray

from onnxq.calibration.histogram import BINS, MIN_EXPONENT, Binner, coarsen, exponent_for
from onnxq.errors import ArtifactError, DataError, InternalError

FINGERPRINT_BITS = 128
EMPTY_FINGERPRINT = "0" * (FINGERPRINT_BITS // 4)


@dataclass(frozen=True, kw_only=True, eq=False)
class TensorStats:
    """Everything the range methods need to know about one tensor.

    Attributes:
        count: Elements seen, of every kind.
        zeros: Elements equal to 0.
        nonfinite: NaN and infinite elements; they are in no other field but `count`.
        rmin: Smallest finite element, exact; +inf if none was seen.
        rmax: Largest finite element, exact; -inf if none was seen.
        counts: int64, shape (2 * BINS,), read-only: finite non-zero elements by bin; bin BINS starts at 0.
    """

    count: int
    zeros: int
    nonfinite: int
    rmin: float
    rmax: float
    counts: NDArray[np.int64]

    def __post_init__(self) -> None:
        counts = np.asarray(self.counts)
        if counts.dtype != np.int64 or counts.shape != (2 * BINS,):
            raise InternalError(f"counts is {counts.dtype} of shape {counts.shape}, expected int64 of ({2 * BINS},)")
        if min(self.zeros, self.nonfinite, int(counts.min())) < 0:
            raise InternalError("a count is negative")
        binned = int(counts.sum())
        if self.count != self.zeros + self.nonfinite + binned:
            raise InternalError(
                f"count is {self.count}, but {self.zeros} zeros, {self.nonfinite} non-finite and {binned} binned"
            )
        _check_extremes(self, binned)
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
    def exponent(self) -> int:
        """Bins are 2^exponent wide."""
        return exponent_for(self.rmin, self.rmax) if self.finite else MIN_EXPONENT

    def merge(self, other: TensorStats) -> TensorStats:
        """The statistics of both sets of elements together."""
        rmin, rmax = min(self.rmin, other.rmin), max(self.rmax, other.rmax)
        exponent = max(self.exponent, other.exponent)
        counts = coarsen(self.counts, exponent - self.exponent)
        counts += coarsen(other.counts, exponent - other.exponent)
        return TensorStats(
            count=self.count + other.count,
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

    def _scalars(self) -> tuple[int, int, int, float, float]:
        return (self.count, self.zeros, self.nonfinite, self.rmin, self.rmax)


def _check_extremes(stats: TensorStats, binned: int) -> None:
    ends = (stats.rmin, stats.rmax)
    if stats.finite == 0:
        if ends != (math.inf, -math.inf):
            raise InternalError(f"extremes are {ends}, but no finite element was seen")
        return
    limit = float(np.finfo(np.float32).max)
    if not -limit <= stats.rmin <= stats.rmax <= limit:
        raise InternalError(f"extremes {ends} are not an interval of finite float32 numbers")
    if binned == 0:
        if ends != (0.0, 0.0):
            raise InternalError(f"extremes are {ends}, but every finite element is zero")
        return
    used = np.flatnonzero(stats.counts) - BINS
    width = math.ldexp(1.0, stats.exponent)
    low, high = math.floor(stats.rmin / width), math.floor(stats.rmax / width)
    first, last = int(used[0]), int(used[-1])
    # An extreme of exactly 0 may be a zero, which is in no bin.
    if (first != low and stats.rmin != 0.0) or (last != high and stats.rmax != 0.0) or first < low or last > high:
        raise InternalError(f"used bins [{first}, {last}] do not fit extremes {ends}")


class StatsBuilder:
    """Statistics under construction: grows in place while batches stream by. Not safe to share between threads."""

    def __init__(self) -> None:
        self._count = 0
        self._zeros = 0
        self._nonfinite = 0
        self._rmin = math.inf
        self._rmax = -math.inf
        self._exponent = MIN_EXPONENT
        self._counts: NDArray[np.int64] = np.zeros(2 * BINS, np.int64)

    def update(self, values: ArrayLike) -> None:
        """Add every element of an array.

        Args:
            values: Any shape and layout; any real dtype, taken as float32 (a finite double beyond float32 counts as
                non-finite).

        Raises:
            DataError: the array is not numeric.
        """
        array = np.asarray(values)
        # ml_dtypes' bfloat16 and float8 are of kind "V", yet cast like any float.
        if array.dtype.kind not in "biufV" or array.dtype.names is not None:
            raise DataError(f"statistics need numbers, got an array of dtype {array.dtype}")
        flat = array.ravel(order="K")
        binner = Binner(flat.size)
        with np.errstate(over="ignore", invalid="ignore"):
            for start in range(0, flat.size, Binner.CHUNK):
                self._add(flat[start : start + Binner.CHUNK].astype(np.float32, copy=False), binner)

    def _add(self, chunk: NDArray[np.float32], binner: Binner) -> None:
        self._count += chunk.size
        low, high = float(chunk.min()), float(chunk.max())
        # min and max pass NaN on and show infinities, so finite data pays nothing for this check.
        if not (math.isfinite(low) and math.isfinite(high)):
            finite = chunk[np.isfinite(chunk)]
            self._nonfinite += chunk.size - finite.size
            if finite.size == 0:
                return
            chunk, low, high = finite, float(finite.min()), float(finite.max())
        # + 0.0 turns -0.0 into 0.0: which of the two comes first must not show.
        self._rmin = min(self._rmin, low + 0.0)
        self._rmax = max(self._rmax, high + 0.0)
        exponent = exponent_for(self._rmin, self._rmax)
        if exponent > self._exponent:
            self._counts = coarsen(self._counts, exponent - self._exponent)
            self._exponent = exponent
        self._zeros += binner.add(self._counts, chunk, exponent, low)

    @property
    def nonfinite(self) -> int:
        """NaN and infinite elements so far; the caller that wants to stop at the first looks after each batch."""
        return self._nonfinite

    def freeze(self) -> TensorStats:
        """The statistics so far; the builder may go on."""
        return TensorStats(
            count=self._count,
            zeros=self._zeros,
            nonfinite=self._nonfinite,
            rmin=self._rmin,
            rmax=self._rmax,
            counts=self._counts,
        )


def combine_fingerprints(*fingerprints: str) -> str:
    """Fingerprint of several data sets together, whatever their order: the sum modulo 2^128.

    Args:
        fingerprints: 32 hexadecimal digits each, of one sample or of a set.

    Returns:
        32 hexadecimal digits; of nothing, EMPTY_FINGERPRINT.

    Raises:
        ArtifactError: an argument is not 32 lower-case hexadecimal digits.
    """
    total = 0
    for text in fingerprints:
        if len(text) != len(EMPTY_FINGERPRINT) or not set(text) <= set("0123456789abcdef"):
            raise ArtifactError(f"data fingerprint {text!r} is not {len(EMPTY_FINGERPRINT)} hexadecimal digits")
        total += int(text, 16)
    return f"{total % 2**FINGERPRINT_BITS:0{len(EMPTY_FINGERPRINT)}x}"


@dataclass(frozen=True, kw_only=True)
class StatsTable(Mapping[str, TensorStats]):
    """Statistics of a model's tensors over a data set: an immutable mapping from tensor name.

    Attributes:
        tensors: By tensor name.
        digest: Digest of the float model the tensors belong to.
        samples: How many samples were run.
        data_fingerprint: `combine_fingerprints` over all samples.
    """

    tensors: Mapping[str, TensorStats]
    digest: str
    samples: int
    data_fingerprint: str = field(default=EMPTY_FINGERPRINT)

    def __post_init__(self) -> None:
        if self.samples < 0:
            raise InternalError(f"samples is {self.samples}")
        object.__setattr__(self, "data_fingerprint", combine_fingerprints(self.data_fingerprint))
        object.__setattr__(self, "tensors", MappingProxyType(dict(self.tensors)))

    def __reduce__(self) -> tuple[object, ...]:
        # Tables travel between processes; a mapping proxy cannot be pickled, its content can.
        return (_table, (dict(self.tensors), self.digest, self.samples, self.data_fingerprint))

    def __getitem__(self, name: str) -> TensorStats:
        return self.tensors[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.tensors)

    def __len__(self) -> int:
        return len(self.tensors)

    def merge(self, other: StatsTable) -> StatsTable:
        """The statistics over both data sets.

        Raises:
            ArtifactError: the tables belong to different models or hold different tensors.
        """
        if self.digest != other.digest:
            raise ArtifactError(
                f"statistics of different models cannot be merged: digests {self.digest} and {other.digest}",
                hint="calibrate the shards on the same float model",
            )
        if self.keys() != other.keys():
            names = sorted(self.keys() ^ other.keys())
            raise ArtifactError(
                f"statistics hold different tensors: {len(names)} are in one table only, first {names[0]!r}",
                hint="calibrate the shards with the same target= (--target) and configuration",
            )
        return StatsTable(
            tensors={name: stats.merge(other[name]) for name, stats in self.items()},
            digest=self.digest,
            samples=self.samples + other.samples,
            data_fingerprint=combine_fingerprints(self.data_fingerprint, other.data_fingerprint),
        )

    def save(self, path: str | Path) -> None:
        """Write the table to a file that appears whole or not at all; see `stats_file.save_stats`.

        Raises:
            ArtifactError: the file cannot be written.
        """
        from onnxq.calibration.stats_file import save_stats  # noqa: PLC0415 - the file format knows the table

        save_stats(self, path)


def _table(tensors: dict[str, TensorStats], digest: str, samples: int, data_fingerprint: str) -> StatsTable:
    return StatsTable(tensors=tensors, digest=digest, samples=samples, data_fingerprint=data_fingerprint)
