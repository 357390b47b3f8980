"""Models that take turns, so that a busy moment of the machine hits all alike."""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

from tests.zoo import Feed

TURN_SECONDS = 0.004
CLOCK_SECONDS = 1e-5
MIN_ROUNDS = 5

Run = Callable[[Feed], Any]


def in_turns(
    runs: Mapping[str, Run], feed: Feed, *, rounds: int, seconds: float, clock: Callable[[], float] = time.process_time
) -> dict[str, tuple[float, float]]:
    """Median milliseconds of each model, and the median over the rounds of the ratio to "float" in the same round.

    Each round has an order of its own, and a turn begins with a run that is not timed: the model before it leaves the
    caches full of its own weights. In a fixed order what ran behind the float model took up to 1.15 times as long.

    Args:
        runs: By name; one of them is "float".
        feed: What each is given.
        rounds: At most so many.
        seconds: No round begins after so long, but for the first MIN_ROUNDS.
        clock: Of CPU time, which other processes do not add to; `time.thread_time` where runs stay in the thread that
            calls them.
    """
    names, repeats = list(runs), dict[str, int]()
    for name in names:
        runs[name](feed)
        started = clock()
        runs[name](feed)
        repeats[name] = max(1, round(TURN_SECONDS / max(clock() - started, CLOCK_SECONDS)))
    times: dict[str, list[float]] = {name: [] for name in names}
    deadline, order = time.perf_counter() + seconds, random.Random(0)
    for turn in range(rounds):
        if turn >= MIN_ROUNDS and time.perf_counter() > deadline:
            break
        for name in order.sample(names, len(names)):
            runs[name](feed)
            started = clock()
            for _ in range(repeats[name]):
                runs[name](feed)
            times[name].append(max(clock() - started, 1e-9) / repeats[name] * 1e3)
    return {
        name: (
            statistics.median(taken),
            statistics.median(t / f for t, f in zip(taken, times["float"], strict=True)),
        )
        for name, taken in times.items()
    }
