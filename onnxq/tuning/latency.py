"""How long a float model and its quantized form take on this machine, measured in turns under the target's engine."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import NamedTuple

from onnxq.errors import OnnxqError
from onnxq.graph.view import Graph
from onnxq.tuning.race import Feed, Race, race
from onnxq.tuning.timers import Model, Timer, loaded

SECONDS = 3.0
"""Time for all rounds together."""
_LEAST_ROUNDS, _MOST_ROUNDS = 5, 15

_SLOWER = 1.1
"""Ratio from which on a model is called slower."""
_FEWEST_ROUNDS, _FEW_ROUNDS = 3, 7
_FEW_SECONDS = 2.0
"""Time that these rounds may take together."""
_LEAST_MS = 0.1
"""Below so much it is the engine's own work that is timed."""


class Timed(NamedTuple):
    """A race of the float model, the champion, and the quantized one, and who timed it."""

    race: Race
    engine: str


def measure_latency(
    timers: Sequence[Timer], float_graph: Graph, quantized: Graph, feed: Feed, *, seconds: float = SECONDS
) -> Timed | None:
    """Medians of both models on one feed, on one thread and in CPU time.

    Other work on the machine adds little to that. With onnxruntime's own number of threads, on two busy cores, the same
    two models came out between 0.06 and 0.60 of each other, on one thread between 0.55 and 0.67.

    Args:
        timers: Who times, see `timers_of`.
        float_graph: The float model, the champion of the race.
        quantized: The quantized one, its challenger.
        feed: An array for each input.
        seconds: About how long it may take.

    Returns:
        None where the engine cannot run one of them.
    """
    try:
        timer, models = loaded(timers, (float_graph, quantized), threads=1)
        once = sum(_second_run(model, feed) for model in models)
        rounds = min(_MOST_ROUNDS, max(_LEAST_ROUNDS, int(seconds / max(once, 1e-6))))
        return Timed(race(models[0], models[1], feed, one_thread=True, rounds=rounds), timer.title)
    except OnnxqError:
        return None


def clearly_slower(timers: Sequence[Timer], float_graph: Graph, quantized: Graph, feed: Feed) -> Timed | None:
    """The race of both models where the quantized one is clearly slower; a look that costs two seconds at most.

    Both run on one thread and in CPU time, to which other work on the machine adds little; where rounds differ all the
    same, nothing is said.

    Args:
        timers: Who times, see `timers_of`.
        float_graph: The float model.
        quantized: The quantized one.
        feed: An array for each input.

    Returns:
        None where it is not slower by 10 % in at least three of four rounds, and where that cannot be told: a run is
        too short to be timed, or too long to be repeated, or the engine cannot run one of them.
    """
    try:
        timer, models = loaded(timers, (float_graph, quantized), threads=1)
        once = [_second_run(model, feed) for model in models]
        rounds = min(_FEW_ROUNDS, int(_FEW_SECONDS / max(sum(once), 1e-6)))
        if once[0] * 1e3 < _LEAST_MS or rounds < _FEWEST_ROUNDS:
            return None
        found = race(models[0], models[1], feed, one_thread=True, rounds=rounds)
    except OnnxqError:
        return None
    return Timed(found, timer.title) if found.low_ratio > _SLOWER else None


def _second_run(model: Model, feed: Feed) -> float:
    model(feed)
    started = time.perf_counter()
    model(feed)
    return time.perf_counter() - started
