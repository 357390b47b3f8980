"""Runs a model over batches and hands out what statistics need of its tapped tensors (`readings`).

Rows are written again and again; they are to be read before the next ones are made. Where every tap keeps samples
apart, a batch is run in parts whose tensors fit the processor's cache.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from numpy.typing import NDArray

from onnxq.calibration.statistics.blocked_layout import Blocked
from onnxq.calibration.taps.array_sessions import ArraySessions
from onnxq.calibration.taps.readings import Arrays, Rows, Tapped
from onnxq.calibration.taps.row_memory import MOST_TARGETS, Row, Summarised, Target, WaitingRows
from onnxq.calibration.taps.run_queue import RunQueue
from onnxq.calibration.taps.selection import SampleAxis
from onnxq.calibration.taps.shapes import Shapes, TapShapes
from onnxq.data.batches import Batch
from onnxq.errors import DataError
from onnxq.inference.session import Session


class TapReader:
    """Reads some tensors of a model; a context manager, which ends its threads.

    Args:
        taps: Inner tensors of the model, in order.
        inputs: Inputs of the model that are tapped as they are.
        axis: Where samples lie.
        summarised: Summarises some of the taps; None where every run gives arrays.
        arrays: Give the taps as they are.
    """

    def __init__(
        self,
        taps: Sequence[str],
        inputs: Sequence[str],
        *,
        axis: SampleAxis,
        summarised: Summarised | None,
        arrays: ArraySessions,
    ) -> None:
        self._taps = tuple(taps)
        self._inputs = tuple(inputs)
        self._axis = axis
        self._summarised = summarised
        self._names = () if summarised is None else tuple(s.tap.name for s in summarised.summaries)
        self._blocked: dict[str, Blocked | None] = dict(arrays.layouts)
        if summarised is not None:
            self._blocked |= {s.tap.name: s.tap.blocked for s in summarised.summaries}
        apart = summarised is not None and bool(taps) and axis.keeps_apart(taps)
        self._shapes = TapShapes(self._names, axis, apart=apart)
        self._arrays = arrays
        # By what is fed and the number of samples, in front of `Summarised.targets`.
        self._targets: dict[tuple[Shapes, int], Target] = {}
        self._waiting = WaitingRows(0 if summarised is None else summarised.most_elements)
        self._queue: RunQueue[_Run] = RunQueue(1 if summarised is None else summarised.at_once)

    def read(self, batch: Batch) -> Iterator[Arrays | Rows]:
        """Run a batch; what is complete with it.

        Raises:
            DataError: onnxruntime refuses the batch, or a node fails on it.
        """
        self._shapes.begin(batch)
        for part in self._shapes.parts(batch):
            yield from self._run(part)

    def rest(self) -> Iterator[Arrays | Rows]:
        """What has not been handed out yet."""
        for run in self._queue.rest():
            yield from self._land(run)
        yield from self._counted(self._waiting.rest())

    def __enter__(self) -> TapReader:
        self._queue.__enter__()
        return self

    def __exit__(self, *details: object) -> None:
        self._queue.__exit__(*details)

    def _run(self, batch: Batch) -> Iterator[Arrays | Rows]:
        """Begin a run; what is complete with those before it."""
        target = self._target_for(batch)
        if self._summarised is None or target is None:
            for run in self._queue.rest():
                yield from self._land(run)
            yield from self._as_arrays(batch)
            return
        row = self._summarised.row(target)
        size = row.values.nbytes + sum(array.nbytes for array in batch.arrays.values())
        begun = partial(_run, self._summarised.session, batch, target, row)
        for run in self._queue.begin(begun, size):
            yield from self._land(run)

    def _land(self, run: _Run) -> Iterator[Arrays | Rows]:
        if run.others is None:
            # Either its taps have other shapes this time, or the model fails on it, which will show.
            self._targets.clear()
            self._shapes.refuse(run.batch, run.target.shapes)
            yield from self._as_arrays(run.batch)
            return
        if not run.finite:
            run.target.free.append(run.row)
            yield from self._as_arrays(run.batch)
            return
        if run.others or self._inputs:
            names = () if self._summarised is None else self._summarised.others
            tapped = self._fed(run.batch) | self._with_rows(names, run.others, run.batch)
            yield Arrays(batch=run.batch, tapped=tapped)
        self._waiting.add(run.target, run.row)
        yield from self._counted(self._waiting.enough())

    def _counted(self, waiting: Iterator[tuple[Target, list[Row]]]) -> Iterator[Rows]:
        """Rows that have waited, free again when they have been read."""
        for target, rows in waiting:
            yield Rows(layout=target.layout, values=[row.values for row in rows])
            target.free.extend(rows)

    def _target_for(self, batch: Batch) -> Target | None:
        """What a run of `batch` writes into; None where the shapes of its taps are not known."""
        key = (self._shapes.key(batch), batch.samples)
        if key in self._targets:
            return self._targets[key]
        shapes = self._shapes.of(batch)
        if self._summarised is None or shapes is None:
            return None
        rows = [self._axis.rows(name, shape, batch) or 1 for name, shape in zip(self._names, shapes, strict=True)]
        target = self._summarised.target(shapes, rows, batch.samples)
        if len(self._targets) == MOST_TARGETS:
            self._targets.clear()
        self._targets[key] = target
        return target

    def _as_arrays(self, batch: Batch) -> Iterator[Arrays]:
        if self._inputs:
            yield Arrays(batch=batch, tapped=self._fed(batch))
        shapes: dict[str, tuple[int, ...]] = {}
        for names, arrays in self._arrays.read(batch) if self._taps else ():
            shapes |= {name: array.shape for name, array in zip(names, arrays, strict=True)}
            yield Arrays(batch=batch, tapped=self._with_rows(names, arrays, batch))
        self._shapes.learn(batch, tuple(shapes[name] for name in self._names))

    def _with_rows(self, names: Sequence[str], arrays: Sequence[NDArray[Any]], batch: Batch) -> dict[str, Tapped]:
        return {
            name: Tapped(array=array, rows=self._axis.rows(name, array.shape, batch), blocked=self._blocked.get(name))
            for name, array in zip(names, arrays, strict=True)
        }

    def _fed(self, batch: Batch) -> dict[str, Tapped]:
        """Tapped inputs."""
        return self._with_rows(self._inputs, [batch.arrays[name] for name in self._inputs], batch)


@dataclass(frozen=True, kw_only=True, eq=False)
class _Run:
    """A run that has ended.

    Attributes:
        batch: What was fed.
        target: What it wrote into.
        row: Of the target.
        others: The other outputs; None where it failed.
        finite: Whether all that it summarised was finite.
    """

    batch: Batch
    target: Target
    row: Row
    others: list[NDArray[Any]] | None
    finite: bool


def _run(session: Session, batch: Batch, target: Target, row: Row) -> _Run:
    try:
        others = session.run_into(batch.arrays, row.binding, where=batch.label)
    except DataError:
        return _Run(batch=batch, target=target, row=row, others=None, finite=False)
    # Looked at here, while it is in the cache of the processor's core.
    return _Run(batch=batch, target=target, row=row, others=others, finite=target.layout.finite(row.values))
