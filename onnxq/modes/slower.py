"""Tells a user whose quantized model is clearly slower than the float one, and what helps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from numpy.typing import NDArray

from onnxq.graph.external_data import weights_are_large
from onnxq.graph.view import Graph
from onnxq.planning.modes import DYNAMIC, STATIC, WEIGHT_ONLY
from onnxq.planning.options import FULL
from onnxq.targets.forms import type_rule
from onnxq.targets.schema import Engine, Target
from onnxq.tuning.latency import clearly_slower
from onnxq.tuning.timers import Timer, timers_of

Feed = Mapping[str, NDArray[Any]]

_TUNE = "tune='latency' (--tune latency) races placements and keeps the fastest"
_FEW_BITS = "weights in few bits save memory, and time only where reading them takes it; "
_WAYS_OUT = {
    STATIC: f"{_TUNE}; mode='dynamic' (--mode dynamic) may suit transformers better",
    DYNAMIC: "exclude= (--exclude) leaves nodes in float; mode='static' (--mode static), with samples, computes more "
    "in int8",
    WEIGHT_ONLY: f"{_FEW_BITS}mode='dynamic' (--mode dynamic) computes in int8",
}
_WITHOUT_DYNAMIC = {
    STATIC: _TUNE,
    WEIGHT_ONLY: f"{_FEW_BITS}mode='static' (--mode static), with samples, computes in int8",
}
"""Likewise for engines that take no models of mode "dynamic"."""
_FAST_PLACEMENT = (
    "placement='fast' (--placement fast), the default, keeps in float what is expected to be faster there; "
)


def ways_out(mode: str, placement: str, target: Target) -> str:
    """What helps a model that was quantized in this mode with this placement."""
    ways = _WAYS_OUT if target.engine is Engine.ONNXRUNTIME else _WITHOUT_DYNAMIC
    return (_FAST_PLACEMENT if placement == FULL and target.costs is not None else "") + ways[mode]


def timers_for(float_graph: Graph, quantized: Graph, target: Target) -> tuple[Timer, ...]:
    """What times both models where the target's engine runs on this machine; nothing where it has no room for both."""
    if any(weights_are_large(graph.initializers.values()) for graph in (float_graph, quantized)):
        return ()
    return timers_of(target)


def slower_notes(
    float_graph: Graph, quantized: Graph, feeds: Sequence[Feed], target: Target, ways_out: str
) -> tuple[str, ...]:
    """What to say where the quantized model is clearly slower on this machine; nothing where that cannot be told.

    Args:
        float_graph: The float model.
        quantized: The quantized one.
        feeds: Batches; the first one is run.
        target: What it was made for.
        ways_out: What helps (see `ways_out`).
    """
    if type_rule(target, target.activation).simulated:
        return ()  # it is known to gain no speed, and the plan says so
    timers = timers_for(float_graph, quantized, target) if feeds else ()
    found = clearly_slower(timers, float_graph, quantized, feeds[0]) if timers else None
    if found is None:
        return ()
    times = found.race
    return (
        f"the quantized model takes {times.ratio:.1f} times as long as the float one on this machine, under "
        f"{found.engine} on one thread: {ways_out}",
    )
