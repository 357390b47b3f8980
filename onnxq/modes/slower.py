"""Tells a user whose quantized model is clearly slower than the float one, and what helps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from numpy.typing import NDArray

from onnxq.graph.external_data import weights_are_large
from onnxq.graph.view import Graph
from onnxq.passes.adapt.settle_types import runnable
from onnxq.planning.modes import DYNAMIC, STATIC, WEIGHT_ONLY
from onnxq.planning.options import FULL
from onnxq.targets import ORT_CPU, resolve_target
from onnxq.targets.forms import type_rule
from onnxq.targets.schema import Engine, Target
from onnxq.tuning.latency import clearly_slower

Feed = Mapping[str, NDArray[Any]]

_WAYS_OUT = {
    STATIC: "tune='latency' (--tune latency) races placements and keeps the fastest; mode='dynamic' (--mode dynamic) "
    "may suit transformers better",
    DYNAMIC: "exclude= (--exclude) leaves nodes in float; mode='static' (--mode static), with samples, computes more "
    "in int8",
    WEIGHT_ONLY: "weights in few bits save memory, and time only where reading them takes it; mode='dynamic' "
    "(--mode dynamic) computes in int8",
}
_FAST_PLACEMENT = (
    "placement='fast' (--placement fast), the default, keeps in float what is expected to be faster there; "
)


def ways_out(mode: str, placement: str) -> str:
    """What helps a model that was quantized in this mode with this placement."""
    return (_FAST_PLACEMENT if placement == FULL else "") + _WAYS_OUT[mode]


def can_be_timed(float_graph: Graph, quantized: Graph, target: Target) -> bool:
    """Whether the target is onnxruntime on a machine like this one, with room for both models."""
    here = resolve_target(ORT_CPU)[0].name
    if target.engine is not Engine.ONNXRUNTIME or target.name.split("-")[:2] != here.split("-")[:2]:
        return False
    return not any(weights_are_large(graph.initializers.values()) for graph in (float_graph, quantized))


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
    if not feeds or not can_be_timed(float_graph, quantized, target):
        return ()
    if type_rule(target, target.activation).simulated:
        return ()  # it is known to gain no speed, and the plan says so
    found = clearly_slower(runnable(float_graph), runnable(quantized), feeds[0])
    if found is None:
        return ()
    return (
        f"the quantized model takes {found.ratio:.1f} times as long as the float one on this machine, on one thread "
        f"({found.challenger_ms:.3g} ms against {found.champion_ms:.3g} ms): {ways_out}",
    )
