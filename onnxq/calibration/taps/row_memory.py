"""Memory that runs of a summarising session write into."""

from __future__ import annotations

from collections.abc import Sequence
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
            self.targets[key] = Target(self, shapes, rows)
        return self.targets[key]


class Target:
    """What runs of the same shapes write into.

    Args:
        summarised: The session.
        shapes: Of its summarised taps.
        rows: Samples along the first axis of each.

    Attributes:
        shapes: Of the summarised taps.
        layout: Where everything lies.
        most: How many rows are counted together.
        free: Rows that no run writes to.
    """

    def __init__(self, summarised: Summarised, shapes: Shapes, rows: Sequence[int]) -> None:
        self.shapes = shapes
        self.layout = RowLayout(summarised.summaries, shapes, rows)
        elements = max(TAP_ELEMENTS * len(summarised.summaries), LEAST_ELEMENTS)
        together = elements // max(1, self.layout.elements)
        self.most = max(1, min(together, _MOST_ROWS))
        self.free: list[Row] = []
        self._session = summarised.session

    def row(self) -> Row:
        """A row that no run writes to."""
        return self.free.pop() if self.free else Row(self._session, self.layout)


class Row:
    """Memory for one run.

    Attributes:
        values: float32, shape (layout.elements,).
        binding: Makes a run write into it.
    """

    def __init__(self, session: Session, layout: RowLayout) -> None:
        self.values = np.empty(layout.elements, np.float32)
        arrays = layout.arrays(self.values)
        others = [name for name in session.output_names if name not in arrays]
        self.binding = session.bind(arrays, layout.fed, others=others)


class WaitingRows:
    """Rows of finished runs that wait to be counted together, all of one target."""

    def __init__(self) -> None:
        self._target: Target | None = None
        self._memory = np.empty(0, np.float32)
        self._filled = 0

    def takes(self, target: Target) -> bool:
        """Whether a row of this target can be added to those that wait."""
        return not self._filled or target is self._target

    def add(self, target: Target, row: Row) -> bool:
        """Copy a row; whether so many wait now that they should be counted."""
        self._target = target
        self._rows(target)[self._filled] = row.values
        self._filled += 1
        return self._filled == target.most

    def take(self) -> tuple[RowLayout, NDArray[np.float32]] | None:
        """What waits, to be read before the next row is added; None if nothing does."""
        if not self._filled or self._target is None:
            return None
        values = self._rows(self._target)[: self._filled]
        self._filled = 0
        return self._target.layout, values

    def _rows(self, target: Target) -> NDArray[np.float32]:
        size = target.layout.elements * target.most
        if size > self._memory.size:
            self._memory = np.empty(0, np.float32)
            self._memory = np.empty(size, np.float32)
        return self._memory[:size].reshape(target.most, -1)
