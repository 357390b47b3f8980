"""Shapes of summarised taps, as far as they are known before a run.

A run writes its summaries into memory that was taken for them, so their shapes have to be known. Shape inference tells
them; where it cannot, or was wrong, a run that gives the arrays as they are does.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from onnxq.calibration.taps.selection import SampleAxis
from onnxq.data.batches import Batch

PART_ELEMENTS = 1 << 22
"""A batch is run in parts until their tapped tensors have no more elements (16 MiB)."""

Shapes = tuple[tuple[int, ...], ...]


class TapShapes:
    """By what a batch feeds, the shapes of the taps.

    Args:
        taps: The summarised taps.
        axis: Where samples lie.
        apart: Whether every tap of the model keeps samples apart: then a batch may be run in parts.
    """

    def __init__(self, taps: Sequence[str], axis: SampleAxis, *, apart: bool) -> None:
        self._taps, self._axis, self._apart = tuple(taps), axis, apart
        self._leading = axis.keeps_apart(taps)
        # None where they are not always the same.
        self._known: dict[Shapes, Shapes | None] = {}
        # Those that inference told: it may be wrong, which shows in a run that fails.
        self._inferred: set[Shapes] = set()
        self._infers = bool(taps)

    def begin(self, batch: Batch) -> None:
        """A batch is about to be read."""
        key = self.key(batch)
        if self._infers and key not in self._known and (found := self._axis.shapes(self._taps, batch)) is not None:
            self._known[key] = found
            self._inferred.add(key)

    def of(self, batch: Batch) -> Shapes | None:
        """Shapes of the taps, if they are known."""
        known = self._known.get(self.key(batch))
        return tuple((batch.samples, *shape[1:]) for shape in known) if known and self._leading else known

    def key(self, batch: Batch) -> Shapes:
        """What the shapes of taps depend on."""
        return tuple(
            array.shape[1:] if self._leading and name in batch.per_sample else array.shape
            for name, array in batch.arrays.items()
        )

    def learn(self, batch: Batch, shapes: Shapes) -> None:
        """Shapes that a run of this batch had; what is known already stays."""
        # Memory of no size cannot be written into.
        self._known.setdefault(self.key(batch), shapes if all(map(all, shapes)) else None)

    def refuse(self, batch: Batch, shapes: Shapes) -> None:
        """A run of this batch failed: its taps had other shapes than these, unless the model fails on it anyway."""
        if self.of(batch) != shapes:
            return  # it began before more was known
        key = self.key(batch)
        if key in self._inferred:
            self._inferred.discard(key)
            self._infers = False
            del self._known[key]
        else:
            self._known[key] = None

    def parts(self, batch: Batch) -> Iterator[Batch]:
        """The batch, or parts of about the same size that follow each other."""
        if not self._apart or batch.samples == 1:
            yield batch
            return
        start = 0
        if self.key(batch) not in self._known:
            # One sample shows how much memory the others take.
            yield batch.part(0, 1)
            start = 1
        sample = sum(map(math.prod, self.of(batch.part(0, 1)) or ()))
        left = batch.samples - start
        count = min(-(-left * sample // PART_ELEMENTS) or 1, left)
        for i in range(count):
            yield batch.part(start + left * i // count, start + left * (i + 1) // count)
