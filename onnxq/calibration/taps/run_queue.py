"""Runs of a model on threads of their own, handed back in the order in which they began.

    data source, hashes, counting      the calling thread
    runs                               `at_once` threads, which always have a few more waiting

A run that takes less than it costs to wake a thread goes there together with others, as one task. What waits is bounded
in bytes, so that large inputs do not pile up.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import Generic, TypeVar

Outcome = TypeVar("Outcome")

TASK_SECONDS = 2e-3
"""Shorter runs are put together into tasks of about so much work."""

MOST_RUNS = 16
"""In one task."""

WAITING_TASKS = 4
"""Tasks that wait while all threads are busy: enough work for the time that the calling thread spends counting."""

WAITING_BYTES = 1 << 21
"""Beyond so many bytes (2 MiB) of inputs and results that wait it is a single task that does."""


class RunQueue(Generic[Outcome]):
    """Runs in the order of `begin`; a context manager, which ends its threads.

    Args:
        at_once: Runs at the same time; 1 runs each in the calling thread.
    """

    def __init__(self, at_once: int) -> None:
        self._at_once = at_once
        self._pool = ThreadPoolExecutor(at_once, "onnxq-runs") if at_once > 1 else None
        self._gathered: list[Callable[[], Outcome]] = []
        self._gathered_bytes = 0
        self._tasks: deque[tuple[Future[list[Outcome]], int]] = deque()
        # Of the fastest run so far: others work on the machine, too.
        self._seconds = math.inf

    def __enter__(self) -> RunQueue[Outcome]:
        return self

    def __exit__(self, *_: object) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)

    def begin(self, run: Callable[[], Outcome], size_bytes: int) -> Iterator[Outcome]:
        """Begin a run, and wait for the earliest ones if too much waits.

        Args:
            run: The run.
            size_bytes: What it keeps alive until it is handed back.

        Returns:
            Outcomes of runs that began earlier, in order.
        """
        self._gathered.append(run)
        self._gathered_bytes += size_bytes
        enough = min(TASK_SECONDS / self._seconds, MOST_RUNS)
        if len(self._gathered) >= enough or self._gathered_bytes * WAITING_TASKS > WAITING_BYTES:
            self._submit()
        while self._too_many_wait():
            yield from self._earliest()

    def rest(self) -> Iterator[Outcome]:
        """All that has not been handed back."""
        self._submit()
        while self._tasks:
            yield from self._earliest()

    def _submit(self) -> None:
        if not self._gathered:
            return
        runs, size = self._gathered, self._gathered_bytes
        self._gathered, self._gathered_bytes = [], 0
        if self._pool is None:
            done: Future[list[Outcome]] = Future()
            done.set_result(self._timed(runs))
            self._tasks.append((done, size))
        else:
            self._tasks.append((self._pool.submit(self._timed, runs), size))

    def _timed(self, runs: list[Callable[[], Outcome]]) -> list[Outcome]:
        start = time.perf_counter()
        outcomes = [run() for run in runs]
        self._seconds = min(self._seconds, (time.perf_counter() - start) / len(runs))
        return outcomes

    def _too_many_wait(self) -> bool:
        if self._pool is None:
            return bool(self._tasks)
        waiting = [size for _, size in islice(self._tasks, self._at_once, None)]
        return len(waiting) > WAITING_TASKS or (len(waiting) > 1 and sum(waiting) > WAITING_BYTES)

    def _earliest(self) -> list[Outcome]:
        return self._tasks.popleft()[0].result()
