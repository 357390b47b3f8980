"""What becomes of each node, and why, in words."""

from __future__ import annotations

from collections.abc import Mapping

from onnx import NodeProto

from onnxq.graph.float_types import computes_no_float, is_quantizable, type_name
from onnxq.graph.messages import MICROSOFT
from onnxq.graph.view import STANDARD_DOMAINS, Graph
from onnxq.planning.compute import DATA, WEIGHT, ComputeSite, ProductSite, Refusal
from onnxq.planning.macs import macs
from onnxq.planning.plan import Action, NodeDecision, TensorPlan
from onnxq.planning.tables import Decided
from onnxq.targets.schema import Placement, Target

CONTROL_FLOW = ("If", "Loop", "Scan")
_FUSED = frozenset({
    "Attention", "BiasGelu", "EmbedLayerNormalization", "FastGelu", "FusedConv", "FusedGemm", "FusedMatMul", "Gelu",
    "MultiHeadAttention", "NhwcFusedConv", "QuickGelu", "SkipLayerNormalization", "SkipSimplifiedLayerNormalization",
})  # fmt: skip
_BLOCKED_DOMAIN = "com.microsoft.nchwc"
"""Where onnxruntime's optimizer puts Convs that take channels in blocks."""
NO_FLOAT = "computes shapes, indices or other values that are not float: there is nothing to quantize"


def foreign_reason(node: NodeProto) -> str:
    """Why a node of another domain than ONNX's own stays float."""
    unknown = f"operator of domain {node.domain!r} is not known to onnxq"
    if node.domain == _BLOCKED_DOMAIN or (node.domain == MICROSOFT and node.op_type in _FUSED):
        return f"{unknown}; onnxruntime's optimizer made it of others: give the model as it was before that"
    return unknown


Verdict = ComputeSite | ProductSite | Refusal | None
"""What the table makes of a node on its own; None for a node that it does not know."""


def decisions_of(
    graph: Graph, target: Target, verdicts: Mapping[str, Verdict | Decided], tensors: Mapping[str, TensorPlan]
) -> tuple[NodeDecision, ...]:
    """The decision on each node, in graph order.

    Args:
        graph: The float graph.
        target: The table.
        verdicts: What becomes of each node, by name.
        tensors: The plan's tensors as they will be, overrides included: reasons name their types.
    """
    read: dict[str, dict[int, str]] = {}
    for tensor in tensors.values():
        for use in tensor.uses:
            read.setdefault(use.node, {})[use.slot] = tensor.spec.codes
    return tuple(_decision(graph, n, target, verdicts[n.name], read.get(n.name, {})) for n in graph.nodes)


def _decision(
    graph: Graph, node: NodeProto, target: Target, verdict: Verdict | Decided, read: Mapping[int, str]
) -> NodeDecision:
    if isinstance(verdict, tuple):
        action, reason, rule = verdict
    elif isinstance(verdict, ComputeSite):
        action, reason, rule = Action.INT8, _reason_of_weights(read, target), verdict.rule.rules
    elif isinstance(verdict, ProductSite):
        action, reason, rule = Action.INT8, _reason_of_product(read, target), verdict.rule.rules
    elif isinstance(verdict, Refusal):
        action, reason, rule = Action.FLOAT, verdict.reason, verdict.rule
    elif computes_no_float(graph, node) and node.op_type not in CONTROL_FLOW:
        action, reason, rule = Action.OTHER, NO_FLOAT, ""
    else:
        action, reason, rule = Action.FLOAT, _float_reason(graph, node, target), ""
    return NodeDecision(
        node=node.name, op=node.op_type, action=action, reason=reason, rule=rule, macs=macs(graph, node)
    )


def _reason_of_weights(read: Mapping[int, str], target: Target) -> str:
    data, weight = read.get(DATA, target.codes), read.get(WEIGHT, target.weight.codes)
    return f"inputs and weights are {data}" if data == weight else f"inputs are {data} and weights {weight}"


def _reason_of_product(read: Mapping[int, str], target: Target) -> str:
    left, right = read.get(DATA, target.codes), read.get(WEIGHT, target.codes)
    return f"both inputs are {left}" if left == right else f"its inputs are {left} and {right}"


def _types_of(graph: Graph, node: NodeProto) -> str:
    """What the outputs of a node are, where no pair can stand behind them."""
    types = {graph.dtype(name) for name in node.output if name}
    known = sorted({type_name(found) for found in types if found is not None})
    return "not known to be float32" if None in types or not known else f"{' and '.join(known)}, not float32"


def _float_reason(graph: Graph, node: NodeProto, target: Target) -> str:
    if node.domain not in STANDARD_DOMAINS:
        return foreign_reason(node)
    if node.op_type in CONTROL_FLOW:
        if target.placement is Placement.REGIONS:
            return "control flow; what is inside is planned on its own, and listed by its path"
        return f"control flow; what is inside stays float for {target.title}"
    if node.op_type in target.float_reasons:
        return target.float_reasons[node.op_type]
    if not any(is_quantizable(graph, t, half_types=target.half_types) for t in node.output):
        return f"its values are {_types_of(graph, node)}"
    if target.placement is Placement.INPUTS:
        return f"only operators with weights are quantized for {target.title}; the engine fuses or keeps this one"
    if node.op_type in target.elementwise or node.op_type in target.pass_through:
        return f"no {target.codes} neighbours on both sides: quantizing for it alone would cost more than it saves"
    if node.op_type in target.fused_activations:
        return f"runs on codes only as part of a node in front of it that writes {target.codes}"
    return f"{target.title} has no {target.codes} kernel for {node.op_type}"
