"""Counts what runs of the model left behind, on as many threads as there are cores.

The model waits meanwhile: while it runs it has use for every core, and what it wrote last is still in the cache.
Statistics are values, so the order in which threads come to them does not show in the result.

    extremes    are read of every run, for all taps together
    taken       elements are copied out of every run and counted when many have come together
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxq.calibration.batches import Batch
from onnxq.calibration.sampling import Extract, extract
from onnxq.calibration.statistics import EMPTY_FINGERPRINT, StatsBuilder, TensorStats, combine_fingerprints
from onnxq.calibration.tap_memory import Extremes, Geometry, Span
from onnxq.calibration.tap_reader import Tapped, Window
from onnxq.calibration.taps import Function

_ALONE_ELEMENTS = 1 << 18
"""So few elements are read by the calling thread before another has woken up."""

_TAKEN_RUNS = 16
"""Runs whose elements wait to be counted together, if one window does not have more: enough for long calls."""

_TAKEN_ELEMENTS = 1 << 22
"""Elements that may wait, if one window does not have more (16 MiB)."""

_TAKEN_AT_ONCE = 1 << 17
"""Elements that one call takes."""

Job = Callable[[], None]


@dataclass(frozen=True, kw_only=True)
class CountOptions:
    """What the statistics keep.

    Attributes:
        stop_at_nonfinite: Whether NaN and Inf are an error.
        full_histogram: Whether every element enters the histogram.
        range_only: Whether there is no histogram at all.
        fingerprint: Whether the samples are hashed.
        threads: Threads that count; None takes one for each core.
    """

    stop_at_nonfinite: bool = True
    full_histogram: bool = False
    range_only: bool = False
    fingerprint: bool = True
    threads: int | None = None


class NonFiniteError(Exception):
    """A tapped tensor of a batch holds NaN or Inf."""

    def __init__(self, tensor: str, array: NDArray[Any], batch: Batch) -> None:
        super().__init__(tensor)
        self.tensor = tensor
        self.array = array
        self.batch = batch


class Counter:
    """Statistics of some taps; a context manager, which ends its threads.

    Args:
        taps: Names of the tensors that every window holds, as the model computes them.
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
        self._samples = 0
        self._fingerprint = EMPTY_FINGERPRINT
        self._threads = options.threads or _cores()
        self._pool = ThreadPoolExecutor(max(1, self._threads - 1), thread_name_prefix="onnxq-statistics")
        self._collected: _Collected | None = None

    def __enter__(self) -> Counter:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None:
                self._count_collected()
        finally:
            self._pool.shutdown()

    @property
    def samples(self) -> int:
        """Samples counted so far."""
        return self._samples

    @property
    def fingerprint(self) -> str:
        """Their fingerprint."""
        return self._fingerprint

    def count(self, window: Window) -> None:
        """Count all of a window.

        Raises:
            NonFiniteError: a tensor holds NaN or Inf, and that is to be an error.
        """
        if window.block is None or window.geometry is None or self._options.full_histogram:
            self._each(self._taps, window)
            self._hash(window)
        elif self._block(window, window.geometry, window.block):
            self._each([name for name in self._taps if name in window.tapped], window)
        else:
            self._each(self._taps, window)
        self._samples += window.samples

    def statistics(self) -> dict[str, TensorStats]:
        """What was counted; complete after `with`."""
        return {name: builder.freeze() for name, builder in self._builders.items()}

    # ---- arrays ------------------------------------------------------------------------------------------------------

    def _each(self, taps: Sequence[str], window: Window) -> None:
        """Count tensors one by one."""
        found: dict[str, list[Extract]] = {}

        def job(name: str) -> Job:
            def count() -> None:
                found[name] = [self._extract(run) for run in window.runs(name)]
                for part in found[name]:
                    self._add(name, part)

            return count

        self._work([job(name) for name in taps])
        if self._options.stop_at_nonfinite:
            wrong = [(i, n) for n, tap in enumerate(taps) for i, part in enumerate(found[tap]) if part.nonfinite]
            if wrong:
                run, number = min(wrong)
                raise NonFiniteError(taps[number], window.runs(taps[number])[run].array, window.batches[run])

    def _extract(self, run: Tapped) -> Extract:
        rows = None if self._options.full_histogram else run.rows
        return extract(run.array, rows=rows, histogram=not self._options.range_only)

    def _add(self, name: str, part: Extract) -> None:
        self._builders[name].add(part)
        for follower, function in self._followers[name]:
            self._builders[follower].add(part.mapped(function))

    # ---- blocks ------------------------------------------------------------------------------------------------------

    def _block(self, window: Window, geometry: Geometry, block: NDArray[np.float32]) -> bool:
        """Take in a block; False if there is something in it that is not finite, and then nothing of it."""
        if self._collected is not None and not self._collected.fits(geometry, len(block)):
            self._count_collected()
        if self._collected is None:
            self._collected = _Collected(geometry, window.names, len(block), histogram=not self._options.range_only)
        seen: list[Extremes] = []

        def read(rows: NDArray[np.float32], spans: Sequence[Span]) -> Job:
            def job() -> None:
                mine = Extremes(len(geometry.places))
                for row in rows:
                    for span in spans:
                        mine.see(row, span)
                seen.append(mine)

            return job

        def padded() -> None:
            mine = Extremes(len(geometry.places))
            for row in block:
                for stretch in geometry.padded:
                    mine.see_padded(row, *stretch)
            seen.append(mine)

        jobs = [lambda: self._hash(window), *self._collected.jobs(block)]
        jobs += [read(block, [span]) for span in geometry.spans]
        jobs += [padded] if geometry.padded else []
        self._work(jobs, elements=block.size)
        extremes = functools.reduce(Extremes.merged, seen)
        if not extremes.finite():
            return False
        self._be_exact(extremes, window, geometry)
        self._collected.add(len(block), extremes)
        return True

    def _be_exact(self, extremes: Extremes, window: Window, geometry: Geometry) -> None:
        """Put true extremes in the place of 0, for taps that others follow from: sigmoid(0) is none of sigmoid's."""
        for tap, name in enumerate(window.names):
            if self._followers[name] and (extremes.low[tap] == 0.0 or extremes.high[tap] == 0.0):
                arrays = [run.array for run in window.runs(name)]
                extremes.low[tap] = min(array.min() for array in arrays)
                extremes.high[tap] = max(array.max() for array in arrays)

    def _count_collected(self) -> None:
        """Count what was taken so far."""
        if self._collected is None or not self._collected.runs:
            return
        collected, self._collected = self._collected, None

        # In this thread alone: the calls are short, and threads would spend their time handing over the interpreter.
        for tap, name in enumerate(collected.names):
            self._add(name, collected.extract(tap))

    # ---- threads -----------------------------------------------------------------------------------------------------

    def _work(self, jobs: Sequence[Job], *, elements: int | None = None) -> None:
        """Do all jobs; each thread takes the next when it is free."""
        queue = iter(jobs)
        few = elements is not None and elements <= _ALONE_ELEMENTS
        others = [] if few else [self._pool.submit(_all, queue) for _ in range(min(self._threads, len(jobs)) - 1)]
        try:
            _all(queue)
        finally:
            # What they read is written again by the next run.
            for other in others:
                other.result()

    def _hash(self, window: Window) -> None:
        if self._options.fingerprint:
            hashes = [batch.fingerprint() for batch in window.batches]
            self._fingerprint = combine_fingerprints(self._fingerprint, *hashes)


class _Collected:
    """Extremes of some runs, and the elements taken of each, that wait to be counted.

    Args:
        geometry: Of all the runs.
        names: The taps.
        runs: How many come at once.
        histogram: Whether any elements are taken.
    """

    def __init__(self, geometry: Geometry, names: Sequence[str], runs: int, *, histogram: bool) -> None:
        self.names = tuple(names)
        self._geometry = geometry
        self._extremes = Extremes(len(names))
        self.runs = 0
        self._places = geometry.taken if histogram else geometry.taken[:0]
        most = max(runs, min(_TAKEN_RUNS, _TAKEN_ELEMENTS // max(1, self._places.size))) if histogram else 0
        # Filled, so that memory is the same from the first run on.
        self._taken = np.full((most, self._places.size), 0.0, np.float32)

    def fits(self, geometry: Geometry, runs: int) -> bool:
        """Whether more runs of this geometry can be added."""
        return geometry is self._geometry and (not self._places.size or self.runs + runs <= len(self._taken))

    def jobs(self, block: NDArray[np.float32]) -> list[Job]:
        """What copies the elements of some runs that fit, before `add`."""

        def take(row: NDArray[np.float32], to: NDArray[np.float32], start: int) -> Job:
            part = slice(start, start + _TAKEN_AT_ONCE)

            def job() -> None:
                # Places are inside by construction; in the mode that checks them take would copy once more.
                np.take(row, self._places[part], out=to[part], mode="clip")

            return job

        return [
            take(row, self._taken[self.runs + i], start)
            for i, row in enumerate(block)
            for start in range(0, self._places.size, _TAKEN_AT_ONCE)
        ]

    def add(self, runs: int, extremes: Extremes) -> None:
        """Keep what `jobs` copied, and these extremes."""
        self._extremes = extremes if self.runs == 0 else self._extremes.merged(extremes)
        self.runs += runs

    def extract(self, tap: int) -> Extract:
        """All that was taken of one tap."""
        taken = self._taken[: self.runs, self._geometry.cuts[tap]] if self._places.size else self._taken
        return Extract(
            count=self._geometry.counts[tap] * self.runs,
            nonfinite=0,
            rmin=float(self._extremes.low[tap]) + 0.0,
            rmax=float(self._extremes.high[tap]) + 0.0,
            taken=taken.ravel(),
            weight=self._geometry.weights[tap],
        )


def _all(jobs: Iterator[Job]) -> None:
    # Taking from a list's iterator is one step of the interpreter: no two threads get the same job.
    for job in jobs:
        job()


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
