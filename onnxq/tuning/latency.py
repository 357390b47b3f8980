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


def measure_latency(float_graph: Graph, quantized: Graph, feed: Feed, *, seconds: float = SECONDS) -> Race | None:
    """Medians of both models on one feed, with onnxruntime's own number of threads.

    Args:
        float_graph: The float model, the champion of the race.
        quantized: The quantized one, its challenger.
        feed: An array for each input.
        seconds: About how long it may take.

    Returns:
        None where onnxruntime cannot run one of them.
    """
    try:
        models = [OrtModel(graph.to_model(), base_dir=graph.base_dir) for graph in (float_graph, quantized)]
        once = sum(_second_run(model, feed) for model in models)
        rounds = min(_MOST_ROUNDS, max(_LEAST_ROUNDS, int(seconds / max(once, 1e-6))))
        return race(models[0], models[1], feed, one_thread=False, rounds=rounds)
    except OnnxqError:
        return None


def _second_run(model: OrtModel, feed: Feed) -> float:
    model(feed)
    started = time.perf_counter()
    model(feed)
    return time.perf_counter() - started
