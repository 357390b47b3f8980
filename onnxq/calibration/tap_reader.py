"""Runs a model over batches and hands out what statistics need of its tapped tensors.

    Rows      runs of a session that summarises its tensors itself (`summaries`): the rule
    Arrays    the tensors of one run as they are: where shapes are not known yet, where something is not finite, where
              samples cannot be told apart, where every element is asked for, on other devices than the CPU

Rows are written again and again; they are to be read before the next ones are made. Where every tap keeps samples
apart, a batch is run in parts whose tensors fit the processor's cache.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxq.calibration.batches import Batch
from onnxq.calibration.blocked_layout import Blocked
from onnxq.calibration.session import Session
from onnxq.calibration.summaries import Summary
from onnxq.calibration.summary_rows import RowLayout
from onnxq.calibration.taps import SampleAxis
from onnxq.errors import DataError, InternalError

ROWS_ELEMENTS = 1 << 21
"""Runs are counted together until their rows have so many elements (8 MiB): short calls of numpy cost twice as much."""

_MOST_ROWS = 64

PART_ELEMENTS = 1 << 23
"""A batch is run in parts until their tapped tensors have no more elements (32 MiB)."""

ALIVE = 2
"""Batches that exist at the same time: the one that is run, and the one that the data source makes next."""

_SHORT_SECONDS = 1e-3
"""Shorter runs are over before another thread has taken them up."""

_MOST_TARGETS = 16

Shapes = tuple[tuple[int, ...], ...]


@dataclass(frozen=True, kw_only=True, eq=False)
class Tapped:
    """What one run left of one tensor.

    Attributes:
        array: The tensor.
        rows: Samples along its first axis, None where they cannot be told apart.
        blocked: The layout in which it is computed, where that is not the array's.
    """

    array: NDArray[Any]
    rows: int | None
    blocked: Blocked | None


@dataclass(frozen=True, kw_only=True, eq=False)
class Arrays:
    """Tensors of one run, by name."""

    batch: Batch
    tapped: Mapping[str, Tapped]


@dataclass(frozen=True, kw_only=True, eq=False)
class Rows:
    """Summaries of some runs, all finite.

    Attributes:
        layout: Where they lie.
        values: float32, shape (runs, layout.elements).
    """

    layout: RowLayout
    values: NDArray[np.float32]


@dataclass(frozen=True, kw_only=True, eq=False)
class Summarised:
    """A session that summarises tensors.

    Attributes:
        session: Its outputs are those of the summaries, then `others`.
        summaries: By tap.
        others: Taps that it gives as they are.
        at_once: Runs at the same time: while one does what only one thread can do, others have use for the rest.
    """

    session: Session
    summaries: Sequence[Summary]
    others: Sequence[str]
    at_once: int


class TapReader:
    """Reads some tensors of a model; a context manager, which ends its threads.

    Args:
        taps: Inner tensors of the model, in order.
        inputs: Inputs of the model that are tapped as they are.
        axis: Where samples lie.
        summarised: Summarises some of the taps; None where every run gives arrays.
        tapped: Makes the session that gives all `taps` as they are.
    """

    def __init__(
        self,
        taps: Sequence[str],
        inputs: Sequence[str],
        *,
        axis: SampleAxis,
        summarised: Summarised | None,
        tapped: Callable[[], Session],
    ) -> None:
        self._taps = tuple(taps)
        self._inputs = tuple(inputs)
        self._axis = axis
        self._apart = bool(taps) and axis.keeps_apart(taps)
        self._summarised = summarised
        self._names = () if summarised is None else tuple(s.tap.name for s in summarised.summaries)
        self._blocked = {} if summarised is None else {s.tap.name: s.tap.blocked for s in summarised.summaries}
        self._leading = axis.keeps_apart(self._names)
        self._make_tapped, self._tapped_session = tapped, list[Session]()
        self._targets: dict[tuple[Shapes, int], _Target] = {}
        # Shapes of summarised taps, by what the model is fed (see `_key`); None where that is not always the same.
        self._known: dict[Shapes, Shapes | None] = {}
        # What inference says of the first batch: nothing is run to find out, but it may be wrong.
        self._expected = axis.shapes(self._names) if self._names else None
        # Rows of earlier runs that wait to be counted, all of one target.
        self._target: _Target | None = None
        self._at_once = 1 if summarised is None else summarised.at_once
        self._pool = ThreadPoolExecutor(self._at_once, "onnxq-runs") if self._at_once > 1 else None
        self._flying: deque[_Run] = deque()
        self._seconds = math.inf
        self._memory = np.empty(0, np.float32)
        self._filled = 0

    def read(self, batch: Batch) -> Iterator[Arrays | Rows]:
        """Run a batch; what is complete with it.

        Raises:
            DataError: onnxruntime refuses the batch, or a node fails on it.
        """
        if self._expected is not None:
            self._known[self._key(batch)] = self._expected
        for part in self._parts(batch):
            yield from self._run(part)
        self._expected = None

    def rest(self) -> Iterator[Arrays | Rows]:
        """What has not been handed out yet."""
        yield from self._land(0)
        yield from self._counted()

    def __enter__(self) -> TapReader:
        return self

    def __exit__(self, *_: object) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)

    def _counted(self) -> Iterator[Rows]:
        """The rows that wait to be counted."""
        if self._filled and self._target is not None:
            values = self._rows(self._target)[: self._filled]
            self._filled = 0
            yield Rows(layout=self._target.layout, values=values)

    # ---- batches in parts --------------------------------------------------------------------------------------------

    def _parts(self, batch: Batch) -> Iterator[Batch]:
        """The batch, or parts of about the same size that follow each other."""
        if self._summarised is None or not self._apart or batch.samples == 1:
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
        """What the shapes of taps depend on."""
        return tuple(
            array.shape[1:] if self._leading and name in batch.per_sample else array.shape
            for name, array in batch.arrays.items()
        )

    def _shapes(self, batch: Batch) -> Shapes | None:
        """Shapes of the summarised taps, as far as they are known."""
        known = self._known.get(self._key(batch))
        return tuple((batch.samples, *shape[1:]) for shape in known) if known and self._leading else known

    # ---- runs --------------------------------------------------------------------------------------------------------

    def _run(self, batch: Batch) -> Iterator[Arrays | Rows]:
        """Begin a run; what is complete with those before it."""
        target = self._target_for(self._key(batch), batch)
        if target is None:
            yield from self._land(0)
            yield self._as_arrays(batch)
            return
        self._flying.append(self._begin(batch, target))
        alone = self._pool is None or self._seconds < _SHORT_SECONDS or self._expected is not None
        yield from self._land(0 if alone else self._at_once - 1)

    def _begin(self, batch: Batch, target: _Target) -> _Run:
        row = target.row()

        def run() -> tuple[list[NDArray[Any]], float]:
            if self._summarised is None:
                raise InternalError("a run without a session")
            start = time.perf_counter()
            others = self._summarised.session.run_into(batch.arrays, row.binding, where=batch.label)
            return others, time.perf_counter() - start

        finished = run if self._pool is None or self._seconds < _SHORT_SECONDS else self._pool.submit(run).result
        return _Run(batch=batch, target=target, row=row, finished=finished)

    def _land(self, still: int) -> Iterator[Arrays | Rows]:
        """Wait for the runs that began first, until so many are left."""
        while len(self._flying) > still:
            run = self._flying.popleft()
            try:
                others, seconds = run.finished()
            except DataError:
                # Either its taps have other shapes this time, or the model fails on it, which will show.
                self._forget(run)
                yield self._as_arrays(run.batch)
                continue
            self._seconds = min(self._seconds, seconds)
            run.target.free.append(run.row)
            if run.target.layout.finite(run.row.values):
                yield from self._keep(run, others)
            else:
                yield self._as_arrays(run.batch)

    def _keep(self, run: _Run, others: list[NDArray[Any]]) -> Iterator[Arrays | Rows]:
        if run.target is not self._target:
            yield from self._counted()
            self._target = run.target
        self._rows(run.target)[self._filled] = run.row.values
        self._filled += 1
        if others or self._inputs:
            names = () if self._summarised is None else self._summarised.others
            yield Arrays(batch=run.batch, tapped=self._fed(run.batch) | self._with_rows(names, others, run.batch))
        if self._filled == run.target.most:
            yield from self._counted()

    def _forget(self, run: _Run) -> None:
        key = self._key(run.batch)
        self._targets.pop((key, run.batch.samples), None)
        if self._expected is None:
            self._known[key] = None
        else:
            self._known.pop(key, None)

    def _target_for(self, key: Shapes, batch: Batch) -> _Target | None:
        """What a run of `batch` writes into; None where the shapes of its taps are not known."""
        target = self._targets.get((key, batch.samples))
        if target is None and self._summarised is not None and (shapes := self._shapes(batch)) is not None:
            rows = [self._axis.rows(name, shape, batch) or 1 for name, shape in zip(self._names, shapes, strict=True)]
            if len(self._targets) == _MOST_TARGETS:
                del self._targets[next(iter(self._targets))]
            target = self._targets[key, batch.samples] = _Target(self._summarised, shapes, rows)
        return target

    def _rows(self, target: _Target) -> NDArray[np.float32]:
        """Memory for all rows that are counted together: shape (target.most, elements)."""
        size = target.layout.elements * target.most
        if size > self._memory.size:
            self._memory = np.empty(0, np.float32)
            self._memory = np.empty(size, np.float32)
        return self._memory[:size].reshape(target.most, -1)

    def _as_arrays(self, batch: Batch) -> Arrays:
        if not self._taps:
            return Arrays(batch=batch, tapped=self._fed(batch))
        if not self._tapped_session:
            self._tapped_session.append(self._make_tapped())
        arrays = self._tapped_session[0].run(batch.arrays, where=batch.label)
        tapped = self._with_rows(self._taps, arrays, batch)
        if self._key(batch) not in self._known:
            shapes = [tapped[name].array.shape for name in self._names]
            self._known[self._key(batch)] = tuple(shapes) if all(map(all, shapes)) else None
        return Arrays(batch=batch, tapped=self._fed(batch) | tapped)

    def _with_rows(self, names: Sequence[str], arrays: Sequence[NDArray[Any]], batch: Batch) -> dict[str, Tapped]:
        return {
            name: Tapped(array=array, rows=self._axis.rows(name, array.shape, batch), blocked=self._blocked.get(name))
            for name, array in zip(names, arrays, strict=True)
        }

    def _fed(self, batch: Batch) -> dict[str, Tapped]:
        """Tapped inputs."""
        return self._with_rows(self._inputs, [batch.arrays[name] for name in self._inputs], batch)


class _Target:
    """What runs of the same shapes write into.

    Attributes:
        layout: Where everything lies.
        most: How many rows are counted together.
        free: Rows that no run writes to.
    """

    def __init__(self, summarised: Summarised, shapes: Shapes, rows: Sequence[int]) -> None:
        self.layout = RowLayout(summarised.summaries, shapes, rows)
        self.most = max(1, min(ROWS_ELEMENTS // max(1, self.layout.elements), _MOST_ROWS))
        self.free: list[_Row] = []
        self._session = summarised.session

    def row(self) -> _Row:
        """A row that no run writes to."""
        return self.free.pop() if self.free else _Row(self._session, self.layout)


class _Row:
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


@dataclass(frozen=True, kw_only=True, eq=False)
class _Run:
    """A run that has begun: what is fed, what it writes into, and the call that gives outputs and seconds."""

    batch: Batch
    target: _Target
    row: _Row
    finished: Callable[[], tuple[list[NDArray[Any]], float]]
