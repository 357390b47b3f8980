"""Memory that runs of a summarising session write into."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from onnxq.calibration.taps.shapes import Shapes
from onnxq.calibration.taps.summaries import Summary
from onnxq.calibration.taps.summary_rows import RowLayout
from onnxq.inference.session import Session

TAP_ELEMENTS = 1 << 15
"""Runs are counted together until each tap has about so many elements: shorter calls of numpy cost twice as much.

These rows take twice the memory of the histograms.
"""

LEAST_ELEMENTS = 1 << 19
"""But not before their rows have so many elements together (2 MiB)."""

_MOST_ROWS = 64

MOST_TARGETS = 16

_HUGE_ELEMENTS = 1 << 20
"""Of an array for which numpy asks the system for huge pages (4 MiB): long rows are then found faster."""

_MOST_OF_HUGE = 4
"""Rows in one such array; shorter ones are few pages anyway."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Summarised:
    """A session that summarises tensors.

    Attributes:
        session: Its outputs are those of the summaries, then `others`.
        summaries: By tap.
        others: Taps that it gives as they are.
        at_once: Runs at the same time: while one does what only one thread can do, others have use for the rest.
        targets: What runs write into, by their shapes and samples; kept as long as the session is.
    """

    session: Session
    summaries: Sequence[Summary]
    others: Sequence[str]
    at_once: int
    targets: dict[tuple[Shapes, int], Target] = field(default_factory=dict, repr=False)

    def target(self, shapes: Shapes, rows: Sequence[int], samples: int) -> Target:
        """What a run writes into.

        Args:
            shapes: Of the summarised taps.
            rows: Samples along the first axis of each.
            samples: Of the run.
        """
        key = (shapes, samples)
        if key not in self.targets:
            if len(self.targets) == MOST_TARGETS:
                del self.targets[next(iter(self.targets))]
            self.targets[key] = Target(layout=RowLayout(self.summaries, shapes, rows), shapes=shapes)
        return self.targets[key]

    def row(self, target: Target) -> Row:
        """A row that no run writes to and that does not wait."""
        if target.free:
            return target.free.pop()
        if sum(other.free_elements for other in self.targets.values()) > self.most_elements:
            for other in self.targets.values():
                other.free.clear()
        together = -(-_HUGE_ELEMENTS // target.layout.elements)
        memory = np.empty((together if together <= _MOST_OF_HUGE else 1, target.layout.elements), np.float32)
        target.free.extend(Row(self.session, target.layout, values) for values in memory)
        return target.free.pop()

    @property
    def most_elements(self) -> int:
        """Elements that make waiting rows be counted, and most elements of rows that are free."""
        counted = sum(summary.tap.counted for summary in self.summaries)
        return max(TAP_ELEMENTS * counted, LEAST_ELEMENTS)


@dataclass(frozen=True, kw_only=True, eq=False)
class Target:
    """What runs of the same shapes write into.

    Attributes:
        layout: Where everything lies.
        shapes: Of the summarised taps.
        free: Rows that no run writes to and that do not wait.
    """

    layout: RowLayout
    shapes: Shapes
    free: list[Row] = field(default_factory=list)

    @property
    def free_elements(self) -> int:
        """Elements of `free`."""
        return len(self.free) * self.layout.elements


class Row:
    """Memory for one run.

    Attributes:
        values: float32, shape (layout.elements,).
        binding: Makes a run write into it.
    """

    def __init__(self, session: Session, layout: RowLayout, values: NDArray[np.float32]) -> None:
        self.values = values
        arrays = layout.arrays(self.values)
        others = [name for name in session.output_names if name not in arrays]
        self.binding = session.bind(arrays, layout.fed, others=others)


class WaitingRows:
    """Rows of finished runs that wait to be counted together, by target; nothing is copied.

    Args:
        most_elements: Of rows that wait; those with which there are as many are read together.
    """

    def __init__(self, most_elements: int) -> None:
        self._most_elements = most_elements
        self._rows: dict[Target, list[Row]] = {}
        self._elements = 0

    def add(self, target: Target, row: Row) -> None:
        """Let a row wait."""
        self._rows.setdefault(target, []).append(row)
        self._elements += target.layout.elements

    def enough(self) -> Iterator[tuple[Target, list[Row]]]:
        """Rows of one target that should be counted before another one is added, if there are such.

        The row with which there are enough is among them: two of half the size are worth reading together.
        """
        for target, rows in self._rows.items():
            if len(rows) == _MOST_ROWS:
                yield self._taken(target)
                return
        if self._rows:
            longest = max(self._rows, key=lambda target: len(self._rows[target]) * target.layout.elements)
            if self._elements >= self._most_elements:
                yield self._taken(longest)

    def rest(self) -> Iterator[tuple[Target, list[Row]]]:
        """All that waits."""
        for target in list(self._rows):
            yield self._taken(target)

    def _taken(self, target: Target) -> tuple[Target, list[Row]]:
        rows = self._rows.pop(target)
        self._elements -= len(rows) * target.layout.elements
        return target, rows
