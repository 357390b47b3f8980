"""How long a float model and its quantized form take on this machine, measured in turns under onnxruntime."""

from __future__ import annotations

import time

from onnxq.errors import OnnxqError
from onnxq.graph.view import Graph
from onnxq.tuning.race import Feed, Race, race
from onnxq.verification.engines.onnxruntime import OrtModel

SECONDS = 3.0
"""Time for all rounds together."""
_LEAST_ROUNDS, _MOST_ROUNDS = 5, 15

_SLOWER = 1.1
"""Ratio from which on a model is called slower."""
_FEWEST_ROUNDS, _FEW_ROUNDS = 3, 7
_FEW_SECONDS = 2.0
"""Time that these rounds may take together."""
_LEAST_MS = 0.1
"""Below so much it is onnxruntime's own work that is timed."""


def measure_latency(float_graph: Graph, quantized: Graph, feed: Feed, *, seconds: float = SECONDS) -> Race | None:
    """Medians of both models on one feed, on one thread and in CPU time.

    Other work on the machine adds little to that. With onnxruntime's own number of threads, on two busy cores, the same
    two models came out between 0.06 and 0.60 of each other, on one thread between 0.55 and 0.67.

    Args:
        float_graph: The float model, the champion of the race.
        quantized: The quantized one, its challenger.
        feed: An array for each input.
        seconds: About how long it may take.

    Returns:
        None where onnxruntime cannot run one of them.
    """
    try:
        models = [OrtModel(graph.to_model(), base_dir=graph.base_dir, threads=1) for graph in (float_graph, quantized)]
        once = sum(_second_run(model, feed) for model in models)
        rounds = min(_MOST_ROUNDS, max(_LEAST_ROUNDS, int(seconds / max(once, 1e-6))))
        return race(models[0], models[1], feed, one_thread=True, rounds=rounds)
    except OnnxqError:
        return None


def clearly_slower(float_graph: Graph, quantized: Graph, feed: Feed) -> Race | None:
    """The race of both models where the quantized one is clearly slower; a look that costs two seconds at most.

    Both run on one thread and in CPU time, to which other work on the machine adds little; where rounds differ all the
    same, nothing is said.

    Args:
        float_graph: The float model.
        quantized: The quantized one.
        feed: An array for each input.

    Returns:
        None where it is not slower by 10 % in at least three of four rounds, and where that cannot be told: a run is
        too short to be timed, or too long to be repeated, or onnxruntime cannot run one of them.
    """
    try:
        models = [OrtModel(graph.to_model(), base_dir=graph.base_dir, threads=1) for graph in (float_graph, quantized)]
        once = [_second_run(model, feed) for model in models]
        rounds = min(_FEW_ROUNDS, int(_FEW_SECONDS / max(sum(once), 1e-6)))
        if once[0] * 1e3 < _LEAST_MS or rounds < _FEWEST_ROUNDS:
            return None
        found = race(models[0], models[1], feed, one_thread=True, rounds=rounds)
    except OnnxqError:
        return None
    return found if found.low_ratio > _SLOWER else None


def _second_run(model: OrtModel, feed: Feed) -> float:
    model(feed)
    started = time.perf_counter()
    model(feed)
    return time.perf_counter() - started
