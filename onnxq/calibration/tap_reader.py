"""Runs a model over batches and hands out what its tapped tensors held, in windows.

A window is one run of a large model or several of a small one. Runs write into the same memory again and again: memory
asked for anew costs more than a small model. A window is therefore to be read before the next is made.

Where every tap keeps samples apart, a batch is run in parts whose tensors fit the processor's last cache: written out
to memory and read back, they would cost more than the model.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxq.calibration.batches import Batch
from onnxq.calibration.blocked_layout import Blocked
from onnxq.calibration.session import Binding, Session
from onnxq.calibration.tap_memory import Geometry, aligned
from onnxq.calibration.taps import SampleAxis
from onnxq.errors import DataError

WINDOW_ELEMENTS = 1 << 19
"""Runs are put into one window until their tensors have so many elements (2 MiB)."""

_WINDOW_RUNS = 64

PART_ELEMENTS = 1 << 23
"""A batch is run in parts until their tensors have no more elements (32 MiB)."""

ALIVE = 2
"""Batches whose tensors exist at the same time: those of the first run, and the memory for those that follow."""

_MOST_GEOMETRIES = 16

Shapes = tuple[tuple[int, ...], ...]


@dataclass(frozen=True, kw_only=True, eq=False)
class Tapped:
    """What one run left of one tensor.

    Attributes:
        array: The tensor.
        rows: Samples along its first axis, None where they cannot be told apart.
    """

    array: NDArray[Any]
    rows: int | None


@dataclass(frozen=True, kw_only=True, eq=False)
class Window:
    """Some runs.

    Attributes:
        batches: What the model was fed, run by run.
        tapped: Tensors of each run that have an array of their own, by name.
        names: Tensors that lie in `block`.
        geometry: Where they lie; None where there is no block.
        block: float32, shape (runs, geometry.elements).
    """

    batches: tuple[Batch, ...]
    tapped: Mapping[str, Sequence[Tapped]]
    names: tuple[str, ...] = ()
    geometry: Geometry | None = None
    block: NDArray[np.float32] | None = None

    @property
    def samples(self) -> int:
        return sum(batch.samples for batch in self.batches)

    def runs(self, name: str) -> Sequence[Tapped]:
        """One tensor, run by run, in the model's layout."""
        if name in self.tapped or self.geometry is None or self.block is None:
            return self.tapped[name]
        place = self.geometry.places[self.names.index(name)]
        arrays = [row[place.start : place.stop].reshape(place.shape) for row in self.block]
        if place.blocked is not None:
            arrays = [place.blocked.plain(array) for array in arrays]
        return [Tapped(array=array, rows=place.rows) for array in arrays]


class TapReader:
    """Windows of runs.

    Args:
        session: A model whose outputs are tapped tensors; None where only inputs are tapped.
        taps: Names of its outputs.
        layouts: Layout of each output.
        inputs: Names of inputs that are tapped.
        axis: Where samples lie.
        in_parts: Whether batches may be run in parts at all.
    """

    def __init__(  # noqa: PLR0913 - the parts of one run
        self,
        session: Session | None,
        taps: Sequence[str],
        layouts: Sequence[Blocked | None],
        *,
        inputs: Sequence[str],
        axis: SampleAxis,
        in_parts: bool,
    ) -> None:
        self._session = session
        self._taps = tuple(taps)
        self._layouts = tuple(layouts)
        self._inputs = tuple(inputs)
        self._axis = axis
        self._apart = session is not None and axis.keeps_apart(taps)
        self._in_parts = in_parts and self._apart
        self._memory = None if session is None else _Memory(session)
        # Shapes of what a run writes, by what it is fed (see `_key`); None where that is not always the same.
        self._known: dict[Shapes, Shapes | None] = {}
        # What inference says of the first batch: nothing is run to find out, but it may be wrong.
        self._expected = _in_memory(axis.shapes(taps), layouts)
        self._pending: list[Batch] = []
        self._geometry: Geometry | None = None
        # What onnxruntime wrote the last run's outputs to, it would keep for outputs that now go elsewhere.
        self._shrink = False

    def windows(self, batch: Batch) -> Iterator[Window]:
        """Run a batch; the windows that are complete with it.

        Raises:
            DataError: onnxruntime refuses the batch, or a node fails on it.
        """
        if self._expected is not None:
            self._known[self._key(batch)] = self._expected
        for part in self._parts(batch):
            yield from self._run(part)
        self._expected = None

    def rest(self) -> Iterator[Window]:
        """The window of the last runs, if there are any."""
        if self._pending and self._geometry is not None and self._memory is not None:
            batches, self._pending = tuple(self._pending), []
            yield Window(
                batches=batches,
                tapped=self._fed(batches),
                names=self._taps,
                geometry=self._geometry,
                block=self._memory.block(self._geometry, len(batches)),
            )

    # ---- batches in parts --------------------------------------------------------------------------------------------

    def _parts(self, batch: Batch) -> Iterator[Batch]:
        """The batch, or parts of about the same size that follow each other."""
        if not self._in_parts or batch.samples == 1:
            yield batch
            return
        start = 0
        if self._key(batch) not in self._known:
            # One sample shows how much memory the others take.
            yield batch.part(0, 1)
            start = 1
        sample = sum(map(math.prod, self._shapes(batch.part(0, 1)) or ()))
        left = batch.samples - start
        count = min(-(-left * sample // PART_ELEMENTS) or 1, left)
        for i in range(count):
            yield batch.part(start + left * i // count, start + left * (i + 1) // count)

    def _key(self, batch: Batch) -> Shapes:
        """What the shapes of a run's outputs depend on."""
        return tuple(
            array.shape[1:] if self._apart and name in batch.per_sample else array.shape
            for name, array in batch.arrays.items()
        )

    def _shapes(self, batch: Batch) -> Shapes | None:
        """Shapes of what a run of `batch` writes, as far as they are known."""
        known = self._known.get(self._key(batch))
        return tuple((batch.samples, *shape[1:]) for shape in known) if known and self._apart else known

    # ---- runs --------------------------------------------------------------------------------------------------------

    def _run(self, batch: Batch) -> Iterator[Window]:
        if self._session is None or self._memory is None:
            yield Window(batches=(batch,), tapped=self._fed((batch,)))
            return
        shapes = self._shapes(batch)
        geometry = None if shapes is None else self._memory.geometry(shapes, self._rows(shapes, batch), self._layouts)
        if geometry is not self._geometry:
            yield from self.rest()
            self._geometry = geometry
        if geometry is None:
            yield from self._run_alone(batch, self._session)
            return
        runs = max(1, min(WINDOW_ELEMENTS // max(1, geometry.elements), _WINDOW_RUNS))
        try:
            binding = self._memory.binding(geometry, runs, len(self._pending))
            self._session.run_into(batch.arrays, binding, where=batch.label, shrink=self._shrink)
            self._shrink = False
        except DataError:
            # Either its outputs have other shapes this time, or the model fails on it, which will show.
            yield from self.rest()
            if self._expected is None:
                self._known[self._key(batch)] = None
            else:
                del self._known[self._key(batch)]
            yield from self._run_alone(batch, self._session)
            return
        self._pending.append(batch)
        if len(self._pending) == runs:
            yield from self.rest()

    def _run_alone(self, batch: Batch, session: Session) -> Iterator[Window]:
        arrays = session.run(batch.arrays, where=batch.label)
        self._shrink = True
        key = self._key(batch)
        if key not in self._known:
            fit = all(array.size and array.dtype == np.float32 for array in arrays)
            self._known[key] = tuple(array.shape for array in arrays) if fit else None
        tapped = dict(self._fed((batch,)))
        for name, array, blocked in zip(self._taps, arrays, self._layouts, strict=True):
            rows = self._axis.rows(name, array.shape, batch)
            tapped[name] = [Tapped(array=array if blocked is None else blocked.plain(array), rows=rows)]
        yield Window(batches=(batch,), tapped=tapped)

    def _rows(self, shapes: Shapes, batch: Batch) -> tuple[int | None, ...]:
        return tuple(self._axis.rows(name, shape, batch) for name, shape in zip(self._taps, shapes, strict=True))

    def _fed(self, batches: tuple[Batch, ...]) -> dict[str, Sequence[Tapped]]:
        """Tapped inputs."""
        return {
            name: [Tapped(array=b.arrays[name], rows=self._axis.rows(name, b.arrays[name].shape, b)) for b in batches]
            for name in self._inputs
        }


def _in_memory(shapes: Shapes | None, layouts: Sequence[Blocked | None]) -> Shapes | None:
    """Shapes as onnxruntime gives them, with padded channels."""
    if shapes is None:
        return None
    return tuple(
        shape if blocked is None else (shape[0], -(-shape[1] // blocked.block) * blocked.block, *shape[2:])
        for shape, blocked in zip(shapes, layouts, strict=True)
    )


class _Memory:
    """What runs write into: the same memory for runs of any shapes."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._memory = aligned(0)
        self._geometries: dict[tuple[Shapes, tuple[int | None, ...]], Geometry] = {}
        self._bindings: dict[tuple[int, int], Binding] = {}

    def geometry(self, shapes: Shapes, rows: tuple[int | None, ...], layouts: Sequence[Blocked | None]) -> Geometry:
        """Where tensors of these shapes lie: the same object for the same arguments."""
        key = (shapes, rows)
        if key not in self._geometries:
            if len(self._geometries) == _MOST_GEOMETRIES:
                self._forget(next(iter(self._geometries)))
            self._geometries[key] = Geometry(shapes, rows, layouts)
        return self._geometries[key]

    def block(self, geometry: Geometry, runs: int) -> NDArray[np.float32]:
        """Memory of so many runs: shape (runs, geometry.elements)."""
        size = geometry.elements * runs
        if size > self._memory.size:
            self._bindings.clear()
            self._memory = aligned(0)
            self._memory = aligned(size)
        return self._memory[:size].reshape(runs, -1)

    def binding(self, geometry: Geometry, runs: int, number: int) -> Binding:
        """What makes one of these runs write into its row of the block."""
        block = self.block(geometry, runs)
        key = (id(geometry), number)
        if key not in self._bindings:
            row = block[number]
            arrays = [row[place.start : place.stop].reshape(place.shape) for place in geometry.places]
            self._bindings[key] = self._session.bind(arrays)
        return self._bindings[key]

    def _forget(self, key: tuple[Shapes, tuple[int | None, ...]]) -> None:
        # Bindings go by the identity of their geometry, which another one may get.
        del self._geometries[key]
        self._bindings.clear()
