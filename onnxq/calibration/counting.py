"""Counts arrays in a thread of its own, while the model runs on.

Arrays of several runs are counted together until they are large enough to be worth the calls (small models), or one
run at a time (large ones). Statistics are values, so neither shows in the result.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxq.calibration.batches import Batch
from onnxq.calibration.sampling import Extract, extract, stride_for
from onnxq.calibration.statistics import EMPTY_FINGERPRINT, StatsBuilder, TensorStats, combine_fingerprints
from onnxq.calibration.taps import Function, SampleAxis

# One window may wait while another is counted: more would cost memory, none would stall on uneven batches.
WAITING = 1

ALIVE = WAITING + 2
"""Batches whose tensors exist at the same time: run, waiting, being counted."""

WINDOW_ELEMENTS = 1 << 19
"""Runs are counted together until their tensors have so many elements (2 MiB)."""

_WINDOW_RUNS = 64

ALONE_ELEMENTS = 1 << 24
"""A run whose tensors have more elements (64 MiB) is counted before the next: memory counts more than overlap."""

Runs = list[tuple[Batch, Mapping[str, NDArray[Any]]]]


@dataclass(frozen=True, kw_only=True)
class CountOptions:
    """What the statistics keep.

    Attributes:
        stop_at_nonfinite: Whether NaN and Inf are an error.
        full_histogram: Whether every element enters the histogram.
        range_only: Whether there is no histogram at all.
        fingerprint: Whether the samples are hashed.
    """

    stop_at_nonfinite: bool = True
    full_histogram: bool = False
    range_only: bool = False
    fingerprint: bool = True


class NonFiniteError(Exception):
    """A tapped tensor of a batch holds NaN or Inf."""

    def __init__(self, tensor: str, array: NDArray[Any], batch: Batch) -> None:
        super().__init__(tensor)
        self.tensor = tensor
        self.array = array
        self.batch = batch


class Counter:
    """Statistics of some taps; an error in its thread comes out of the next `put` or at the end of `with`.

    Args:
        taps: Names of the tensors that `put` is given, as the model computes them.
        derived: Tensors that follow from one of those.
        options: What to keep.
    """

    def __init__(self, taps: Sequence[str], derived: Mapping[str, tuple[str, Function]], options: CountOptions) -> None:
        self._builders = {name: StatsBuilder() for name in (*taps, *derived)}
        self._taps = tuple(taps)
        self._followers = {
            tap: [(name, function) for name, (source, function) in derived.items() if source == tap] for tap in taps
        }
        self._options = options
        self.samples = 0
        self.fingerprint = EMPTY_FINGERPRINT
        self._window: Runs = []
        self._window_elements = 0
        self._axis: SampleAxis | None = None
        self._work: queue.Queue[Runs | None] = queue.Queue(WAITING)
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._loop, name="onnxq-statistics", daemon=True)

    def __enter__(self) -> Counter:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None and self._window:
            self._work.put(self._window)
        self._work.put(None)
        self._thread.join()
        if kind is None:
            self._check()

    def put(self, batch: Batch, arrays: Mapping[str, NDArray[Any]], axis: SampleAxis) -> None:
        """Count the arrays of one run, sooner or later."""
        self._check()
        self._axis = axis
        self._window.append((batch, arrays))
        self._window_elements += sum(array.size for array in arrays.values())
        self._window_elements += sum(array.size for array in batch.arrays.values())
        if self._window_elements >= WINDOW_ELEMENTS or len(self._window) == _WINDOW_RUNS:
            window, elements = self._window, self._window_elements
            self._window, self._window_elements = [], 0
            self._work.put(window)
            del window
            if elements > ALONE_ELEMENTS:
                self._work.join()

    def statistics(self) -> dict[str, TensorStats]:
        """What was counted; complete after `with`."""
        return {name: builder.freeze() for name, builder in self._builders.items()}

    def _check(self) -> None:
        if self._error is not None:
            raise self._error

    def _loop(self) -> None:
        # After an error the queue is still emptied, so that `put` never waits for a thread that is gone.
        while (window := self._work.get()) is not None:
            if self._error is None:
                try:
                    self._count(window)
                except BaseException as error:  # raised again in the calling thread
                    self._error = error
            del window
            self._work.task_done()

    def _count(self, window: Runs) -> None:
        for name in self._taps:
            for array, rows in self._gathered(name, window):
                part = extract(array, rows=rows, histogram=not self._options.range_only)
                if part.nonfinite and self._options.stop_at_nonfinite:
                    raise _first_nonfinite(self._taps, window)
                self._builders[name].add(part)
                self._add_followers(name, part)
        for batch, _ in window:
            self.samples += batch.samples
            if self._options.fingerprint:
                self.fingerprint = combine_fingerprints(self.fingerprint, batch.fingerprint())

    def _add_followers(self, name: str, part: Extract) -> None:
        for follower, function in self._followers[name]:
            self._builders[follower].add(part.mapped(function))

    def _gathered(self, name: str, window: Runs) -> list[tuple[NDArray[Any], int | None]]:
        """A tensor's arrays of all runs, those to be counted whole as one."""
        large: list[tuple[NDArray[Any], int | None]] = []
        small: list[NDArray[Any]] = []
        for batch, arrays in window:
            array = arrays[name]
            rows = (
                None
                if self._options.full_histogram or self._axis is None
                else self._axis.rows(name, array.shape, batch)
            )
            if rows and stride_for(array.size // rows) > 1:
                large.append((array, rows))
            else:
                small.append(array)
        if len(small) == 1:
            return [*large, (small[0], None)]
        return [*large, (np.concatenate([array.ravel() for array in small]), None)] if small else large


def _first_nonfinite(taps: Sequence[str], window: Runs) -> NonFiniteError:
    """The error for the first batch, and in it the first tensor, that is not finite."""
    return next(
        NonFiniteError(name, arrays[name], batch)
        for batch, arrays in window
        for name in taps
        if extract(arrays[name], histogram=False).nonfinite
    )
