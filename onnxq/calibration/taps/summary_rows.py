"""Where the summaries of a run lie in memory, and how statistics are read from them.

A run writes all of them into one row, kind by kind, so that a few calls of numpy read the extremes of all taps, however
many there are:

    | high of every tap | low of every tap | mean of every tap | taken of every tap |

Rows of runs of the same shapes lie one below the other.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from onnxq.calibration.statistics.sampling import Choice, Extract, sample_shape
from onnxq.calibration.taps.summaries import KINDS, Summary


@dataclass(frozen=True, kw_only=True, eq=False)
class Place:
    """Where one output of the session lies in a row."""

    output: str
    start: int
    stop: int
    shape: tuple[int, ...]


class RowLayout:
    """Where everything lies, for runs in which the taps have certain shapes.

    Args:
        summaries: What leaves the model.
        shapes: Shape of each tap, in the model's layout, without a size of 0.
        rows: Samples along the first axis of each.
    """

    def __init__(self, summaries: Sequence[Summary], shapes: Sequence[tuple[int, ...]], rows: Sequence[int]) -> None:
        self.taps = [summary.tap for summary in summaries]
        self.counts = [math.prod(shape) for shape in shapes]
        self.choices = [
            Choice.of(sample_shape(shape, samples), tap.blocked)
            for tap, shape, samples in zip(self.taps, shapes, rows, strict=True)
        ]
        self.fed: dict[str, NDArray[np.int64]] = {}
        for summary, shape, choice in zip(summaries, shapes, self.choices, strict=True):
            self.fed |= summary.fed(shape, choice)
        self._places: dict[str, dict[int, Place]] = {kind: {} for kind in KINDS}
        self.elements = 0
        written = [s.shapes(shape, choice) for s, shape, choice in zip(summaries, shapes, self.choices, strict=True)]
        for kind in KINDS:
            for tap, summary in enumerate(summaries):
                if kind in summary.outputs:
                    start, shape = self.elements, written[tap][kind]
                    self.elements += math.prod(shape)
                    place = Place(output=summary.outputs[kind], start=start, stop=self.elements, shape=shape)
                    self._places[kind][tap] = place
        self._checked = min((place.start for place in self._places["taken"].values()), default=self.elements)

    def arrays(self, row: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
        """What the session's outputs are written to: parts of one row, by output."""
        places = [place for kind in KINDS for place in self._places[kind].values()]
        return {place.output: row[place.start : place.stop].reshape(place.shape) for place in places}

    def finite(self, row: NDArray[np.float32]) -> bool:
        """Whether all that a run read was finite; False also where a sum of finite elements was not."""
        return bool(np.isfinite(row[: self._checked]).all())

    def extracts(self, rows: Sequence[NDArray[np.float32]]) -> Iterator[Extract]:
        """What the runs say of each tap, one after the other: what was taken is copied into memory that is free again.

        Args:
            rows: Of finite runs, each of shape (elements,).
        """
        high, low = self._extremes(rows, "high", np.maximum), self._extremes(rows, "low", np.minimum)
        for tap, found in enumerate(self.taps):
            yield Extract(
                count=self.counts[tap] * len(rows),
                nonfinite=0,
                # + 0.0 turns -0.0 into 0.0. Where `low` was left out, nothing is below 0.
                rmin=low.get(tap, 0.0) + 0.0,
                rmax=high[tap] + 0.0,
                taken=self._taken(rows, tap),
                weight=self.choices[tap].stride if found.counted else 1,
            )

    def _extremes(self, rows: Sequence[NDArray[np.float32]], kind: str, reduce: np.ufunc) -> dict[int, float]:
        places = self._places[kind]
        if not places:
            return {}
        # They lie in the order in which they were placed.
        first, last = places[next(iter(places))].start, places[next(reversed(places))].stop
        ends = rows[0][first:last].copy()
        for row in rows[1:]:
            reduce(ends, row[first:last], out=ends)
        # Padding is left out by copying the rest: these are few numbers.
        columns = self._columns[kind]
        if columns is not None:
            ends = ends[columns - first]
        return dict(zip(places, reduce.reduceat(ends, self._starts[kind]).tolist(), strict=True))

    def _taken(self, rows: Sequence[NDArray[np.float32]], tap: int) -> NDArray[np.float32]:
        place = self._places["taken"].get(tap)
        if place is None:
            return np.empty(0, np.float32)
        parts = [row[place.start : place.stop] for row in rows]
        # One copy that stays in the cache, so that all that follows is done in a few calls.
        taken = parts[0] if len(parts) == 1 else np.concatenate(parts)
        blocked = self.taps[tap].blocked
        if blocked is None or blocked.blocks == 1 or not blocked.padded:
            return taken
        # Only a sample's last block has padding.
        places, lanes = taken.reshape(-1, *place.shape[1:]), blocked.channels % blocked.block
        whole = self.choices[tap].in_whole_blocks(blocked)
        samples, rest = len(places), place.shape[1] - whole
        taken = np.empty((samples, whole * blocked.block + rest * lanes), np.float32)
        taken[:, : whole * blocked.block].reshape(samples, whole, blocked.block)[:] = places[:, :whole]
        taken[:, whole * blocked.block :].reshape(samples, rest, lanes)[:] = places[:, whole:, :lanes]
        return taken

    @functools.cached_property
    def _starts(self) -> Mapping[str, NDArray[np.intp]]:
        """By kind, where each tap's numbers begin among those without padding."""
        return {
            kind: np.cumsum([0, *(len(self._used(kind, tap)) for tap in places)], dtype=np.intp)[:-1]
            for kind, places in self._places.items()
            if kind != "taken"
        }

    @functools.cached_property
    def _columns(self) -> Mapping[str, NDArray[np.intp] | None]:
        """By kind, the columns without padding; None where there is no padding."""
        return {
            kind: np.concatenate([self._used(kind, tap) for tap in places])
            if any((blocked := self.taps[tap].blocked) is not None and blocked.padded for tap in places)
            else None
            for kind, places in self._places.items()
            if kind != "taken"
        }

    def _used(self, kind: str, tap: int) -> NDArray[np.intp]:
        """Where the numbers of a kind stand, for one tap, without those of padding."""
        place, found = self._places[kind][tap], self.taps[tap]
        columns = np.arange(place.start, place.stop).reshape(place.shape)
        if found.blocked is None or (kind == "low" and not found.lows_are_of_channels):
            return columns.ravel()
        return columns[:, : found.blocked.channels].ravel()
