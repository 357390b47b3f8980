"""A plan as short text, so that tests can spell out all of it.

One line for each tensor: name, type (`@axis` for per-channel), where its parameters come from, who reads the
dequantized tensor as `node.slot`.

    x u8 observed -> conv.0
    w s8@0 values -> conv.1
    b s32@0 x*w -> conv.2
    pooled u8 =relu -> conv2.0 +output
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from onnxq.calibration.runner import CollectOptions
from onnxq.calibration.solve import QParamsTable
from onnxq.data.batches import Batch
from onnxq.graph.view import CAPTURED, Graph, Use
from onnxq.passes.simplify.infer_shapes import InferShapes
from onnxq.planning.options import FULL, PlanOptions
from onnxq.planning.overridden import check_named
from onnxq.planning.plan import Derived, Fixed, FromValues, QuantPlan, SharedWith, Source, TensorPlan
from onnxq.planning.planner import make_plan
from onnxq.recovery.solved import Solved
from onnxq.targets import TARGETS
from onnxq.targets.schema import Target
from tests.graphs import graph_of

ORT = "ort-x64-vnni"


def planned(text: str | Graph, *, target: str = ORT, options: PlanOptions | None = None, **constants: Any) -> QuantPlan:
    """The plan of a graph given as text; what its nodes would cost is left out unless the options say otherwise."""
    graph = graph_of(text, **constants) if isinstance(text, str) else text
    InferShapes().run(graph)
    options = options or PlanOptions(placement=FULL)
    plan = make_plan(graph, TARGETS[target], options=options, digest="test")
    check_named(graph, plan, options.overrides)
    return plan


def known(graph: Graph, plan: QuantPlan, params: QParamsTable, samples: Sequence[Batch], target: Target) -> Solved:
    """What recovery works on, run on one thread."""
    options = CollectOptions(threads=1)
    return Solved(graph=graph, plan=plan, qparams=params, samples=samples, options=options, target=target)


def actions(plan: QuantPlan) -> dict[str, str]:
    """What becomes of each node."""
    return {d.node: d.action.value for d in plan.nodes}


def reason(plan: QuantPlan, node: str) -> str:
    """Why, with the rule in brackets."""
    decision = next(d for d in plan.nodes if d.node == node)
    return f"{decision.reason} [{decision.rule}]"


def tensors(plan: QuantPlan) -> list[str]:
    """One line for each tensor of the plan, in its order."""
    return [_line(key, tensor) for key, tensor in plan.tensors.items()]


def activations(plan: QuantPlan) -> list[str]:
    """`tensors` without weights and biases."""
    return [_line(key, tensor) for key, tensor in plan.tensors.items() if tensor.role.value == "activation"]


def _line(key: str, tensor: TensorPlan) -> str:
    spec = tensor.spec
    kind = f"{'s' if spec.qtype.signed else 'u'}{spec.qtype.bits}" + ("" if spec.axis is None else f"@{spec.axis}")
    readers = " ".join(_read(use) for use in tensor.uses)
    group = "" if tensor.group is None else f" group={tensor.group}"
    return f"{key} {kind} {_source(tensor.source)}{group} -> {readers}{' +output' if tensor.covers_output else ''}"


def _read(use: Use) -> str:
    return f"{use.node}.{'body' if use.slot == CAPTURED else use.slot}"


def _source(source: Source) -> str:
    if isinstance(source, Derived):
        return f"{source.data}*{source.weight}"
    if isinstance(source, SharedWith):
        return f"={source.tensor}"
    if isinstance(source, FromValues):
        return "values"
    if isinstance(source, Fixed):
        return f"fixed[{source.rmin:g},{source.rmax:g}]"
    if source.lower is None and source.upper is None:
        return "observed"
    ends = ["" if end is None else f"{end:g}" for end in (source.lower, source.upper)]
    return f"observed[{ends[0]},{ends[1]}]"
