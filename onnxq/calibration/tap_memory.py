"""One block of memory for all tapped tensors of a run, and statistics read from it in a few calls.

A model has tens or hundreds of taps and runs in milliseconds: a few calls of numpy for each tap would take as long as
the model. Tensors therefore lie one behind the other in one block, and one call reads the extremes of many of them
(`ufunc.reduceat`) or takes the elements of all that go into histograms (`take`).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxq.calibration.blocked_layout import Blocked
from onnxq.calibration.sampling import stride_for

SPAN = 1 << 20
"""Elements that one call reads: in shorter calls threads wait for the interpreter, in longer ones for each other."""

_CACHE_LINE = 64
_LINE = _CACHE_LINE // 4
_WIDEST = 128
_SIGN = np.uint32(1 << 31)


@dataclass(frozen=True)
class Place:
    """Where one tap's tensor lies in a run's block.

    Attributes:
        start: Its first element.
        shape: Its shape in memory.
        rows: Samples along its first axis, None where they cannot be told apart.
        blocked: Its layout, where that is not the model's.
    """

    start: int
    shape: tuple[int, ...]
    rows: int | None
    blocked: Blocked | None

    @property
    def stop(self) -> int:
        return self.start + math.prod(self.shape)

    @property
    def count(self) -> int:
        """Elements, without padding."""
        if self.blocked is None:
            return math.prod(self.shape)
        return self.shape[0] * self.blocked.channels * math.prod(self.shape[2:])

    @property
    def weight(self) -> int:
        """How many elements each one stands for that is taken."""
        return 1 if self.rows is None else stride_for(self.count // self.rows)

    def taken(self) -> NDArray[np.int64]:
        """Where the elements lie that go into the histogram: int64, ascending."""
        if self.blocked is None:
            rows, size = self.rows or 1, self.count // (self.rows or 1)
            first = np.arange(self.weight // 2, size, self.weight)
        else:
            rows, size = self.shape[0], math.prod(self.shape[1:])
            logical = np.arange(self.weight // 2, self.count // rows, self.weight)
            first = np.sort(self.blocked.places(logical, math.prod(self.shape[2:])))
        return np.asarray(self.start + (np.arange(rows)[:, None] * size + first).ravel(), np.int64)

    def full(self) -> list[tuple[int, int]]:
        """Stretches of memory without padding."""
        if self.blocked is None or self.shape[1] == self.blocked.channels:
            return [(self.start, self.stop)]
        sample = math.prod(self.shape[1:])
        size = self.blocked.full_channels * math.prod(self.shape[2:])
        starts = range(self.start, self.stop, sample)
        return [(start, start + size) for start in starts] if size else []

    def padded(self) -> list[tuple[int, int]]:
        """Stretches of memory in which some lanes of each block are padding."""
        if self.blocked is None or self.shape[1] == self.blocked.channels:
            return []
        sample, size = math.prod(self.shape[1:]), self.blocked.block * math.prod(self.shape[2:])
        return [(start + sample - size, start + sample) for start in range(self.start, self.stop, sample)]


class Geometry:
    """Where all taps of a run lie.

    Args:
        shapes: Shape in memory of each tap.
        rows: Samples of each, None where they cannot be told apart.
        layouts: Layout of each, None for the model's own.
    """

    def __init__(
        self, shapes: Sequence[tuple[int, ...]], rows: Sequence[int | None], layouts: Sequence[Blocked | None]
    ) -> None:
        self.places: list[Place] = []
        self.elements = 0
        for shape, count, blocked in zip(shapes, rows, layouts, strict=True):
            self.places.append(Place(self.elements, shape, count, blocked))
            self.elements += -(-math.prod(shape) // _LINE) * _LINE
        self.counts = [place.count for place in self.places]
        self.weights = [place.weight for place in self.places]

    @functools.cached_property
    def taken(self) -> NDArray[np.int64]:
        """Where the elements of all taps lie that go into histograms, one tap behind the other."""
        return np.concatenate([place.taken() for place in self.places])

    @functools.cached_property
    def cuts(self) -> list[slice]:
        """Which of `taken` belong to each tap."""
        ends = np.cumsum([place.taken().size for place in self.places]).tolist()
        return [slice(start, end) for start, end in zip([0, *ends], ends, strict=False)]

    @functools.cached_property
    def spans(self) -> list[Span]:
        """All stretches without padding, in spans of about SPAN elements."""
        pieces = [
            (tap, at, min(at + SPAN, stop))
            for tap, place in enumerate(self.places)
            for start, stop in place.full()
            for at in range(start, stop, SPAN)
        ]
        groups: list[list[tuple[int, int, int]]] = []
        for piece in pieces:
            if not groups or piece[2] - groups[-1][0][1] > SPAN:
                groups.append([])
            groups[-1].append(piece)
        return [Span.of(group) for group in groups]

    @functools.cached_property
    def padded(self) -> list[tuple[int, int, int, Blocked]]:
        """Stretches with padding: tap, start, stop and layout."""
        return [
            (tap, start, stop, place.blocked)
            for tap, place in enumerate(self.places)
            if place.blocked is not None
            for start, stop in place.padded()
        ]


@dataclass(frozen=True, eq=False)
class Span:
    """Neighbouring stretches of memory.

    Attributes:
        start: Where the first begins.
        stop: Where the last ends.
        bounds: Start and end of each in turn, counted from `start`; the last end is left out.
        taps: Tap of each.
    """

    start: int
    stop: int
    bounds: NDArray[np.intp]
    taps: NDArray[np.intp]

    @classmethod
    def of(cls, pieces: Sequence[tuple[int, int, int]]) -> Span:
        """From tap, start and stop of each stretch."""
        start, stop = pieces[0][1], pieces[-1][2]
        bounds = np.array([edge - start for _, *edges in pieces for edge in edges][:-1], np.intp)
        return cls(start, stop, bounds, np.array([tap for tap, _, _ in pieces], np.intp))


class Extremes:
    """Smallest and largest element of each tap, or 0 where none is below or above; NaN and infinities show in them.

    Elements are compared by their bits, faster than as floats. Bits of non-negative floats are ordered as the floats
    are, with infinity and NaN above all; as signed integers negative ones come below them. Bits of negative floats are
    ordered the other way round, and above those of all others. A tensor without negative elements is read once.
    """

    def __init__(self, taps: int) -> None:
        self.low = np.zeros(taps, np.float32)
        self.high = np.zeros(taps, np.float32)

    def see(self, block: NDArray[np.float32], span: Span) -> None:
        """Read one span of a run's block."""
        piece = block[span.start : span.stop]
        top = np.maximum.reduceat(piece.view(np.uint32), span.bounds)[::2]
        negative = top >= _SIGN
        signed = top.view(np.int32)
        if negative.any():
            signed = np.maximum.reduceat(piece.view(np.int32), span.bounds)[::2]
        low = np.where(negative, top, np.uint32(0))
        high = np.maximum(signed, np.int32(0))
        self._add(span.taps, low.view(np.float32), high.view(np.float32))

    def see_padded(self, block: NDArray[np.float32], tap: int, start: int, stop: int, blocked: Blocked) -> None:
        """Read a stretch of blocks whose last lanes are padding."""
        # Lanes are compared with themselves, many blocks at a time: rows of 16 elements would be too short for numpy.
        blocks = (stop - start) // blocked.block
        wide = next(n for n in range(min(_WIDEST, blocks), 0, -1) if blocks % n == 0)
        table = block[start:stop].reshape(-1, wide * blocked.block)
        used = blocked.channels - blocked.full_channels
        ends = [
            reduce(reduce(table, axis=0).reshape(wide, blocked.block)[:, :used], axis=None)
            for reduce in (np.minimum.reduce, np.maximum.reduce)
        ]
        self._add(np.array([tap]), np.array(ends[:1], np.float32), np.array(ends[1:], np.float32))

    def merged(self, other: Extremes) -> Extremes:
        """What both have seen."""
        both = Extremes(len(self.low))
        with np.errstate(invalid="ignore"):
            np.minimum(self.low, other.low, out=both.low)
            np.maximum(self.high, other.high, out=both.high)
        return both

    def finite(self) -> bool:
        return bool(np.isfinite(self.low).all() and np.isfinite(self.high).all())

    def _add(self, taps: NDArray[np.intp], low: NDArray[np.float32], high: NDArray[np.float32]) -> None:
        with np.errstate(invalid="ignore"):
            np.minimum.at(self.low, taps, low)
            np.maximum.at(self.high, taps, high)


def aligned(elements: int) -> NDArray[np.float32]:
    """Memory that begins where a cache line does, as onnxruntime's own does: float32, shape (elements,)."""
    block = np.empty(elements * 4 + _CACHE_LINE, np.uint8)
    start = -block.ctypes.data % _CACHE_LINE
    found: NDArray[Any] = block[start : start + elements * 4].view(np.float32)
    return found
