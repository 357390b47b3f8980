"""Which of two models is faster, measured in turns.

Each round runs both, so that a busy moment of the machine hits both, and gives one ratio; the median over the rounds is
the answer. On one thread the clock is the CPU time of that thread, which other processes do not add to; on several it
is wall time.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

Feed = Mapping[str, NDArray[Any]]
Run = Callable[[Feed], object]

ROUNDS = 15
_MIN_ROUNDS = 5
_ROUND_SECONDS = 0.004
_CLEAR = 0.02
"""A race is over once its quartiles lie this close to its median."""


@dataclass(frozen=True, kw_only=True)
class Race:
    """The outcome for a challenger against a champion.

    Attributes:
        ratio: Median over rounds of the challenger's time divided by the champion's.
        low_ratio: What three quarters of the rounds lie above.
        champion_ms: Median latency of the champion, in ms.
        challenger_ms: Median latency of the challenger, in ms.
    """

    ratio: float
    low_ratio: float
    champion_ms: float
    challenger_ms: float


def race(champion: Run, challenger: Run, feed: Feed, *, one_thread: bool, rounds: int = ROUNDS) -> Race:
    """Let two models take turns on `feed`.

    Args:
        champion: Runs one model.
        challenger: Runs the other.
        feed: The inputs.
        one_thread: Whether both run on the calling thread alone.
        rounds: Rounds; where it is not given, a clear lead ends the race early.
    """
    clock = time.thread_time if one_thread else time.perf_counter
    repeats = max(1, round(_ROUND_SECONDS / max(_warm(champion, feed), _warm(challenger, feed))))
    times: tuple[list[float], list[float]] = ([], [])
    for turn in range(rounds):
        for index in (0, 1) if turn % 2 else (1, 0):
            run = (champion, challenger)[index]
            started = clock()
            for _ in range(repeats):
                run(feed)
            times[index].append(max(clock() - started, 1e-9) / repeats * 1e3)
        if rounds == ROUNDS and turn + 1 >= _MIN_ROUNDS and _is_clear(_ratios(times)):
            break
    return Race(
        ratio=statistics.median(_ratios(times)),
        low_ratio=statistics.quantiles(_ratios(times), n=4)[0],
        champion_ms=statistics.median(times[0]),
        challenger_ms=statistics.median(times[1]),
    )


def _ratios(times: tuple[list[float], list[float]]) -> list[float]:
    return [second / first for first, second in zip(*times, strict=True)]


def _is_clear(ratios: Sequence[float]) -> bool:
    lower, middle, upper = statistics.quantiles(ratios, n=4)
    return max(upper - middle, middle - lower) <= _CLEAR * middle


def _warm(run: Run, feed: Feed) -> float:
    """Seconds of a second run; the first one allocates."""
    run(feed)
    started = time.perf_counter()
    run(feed)
    return max(time.perf_counter() - started, 1e-6)
