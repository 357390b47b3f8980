"""Which nodes can be quantized dynamically, and where their weights are."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from onnx import NodeProto, TensorProto

from onnxq.dynamic.rules import DYNAMIC_RULES, SMALLEST_TABLE, DynamicRule
from onnxq.graph.view import STANDARD_DOMAINS, Graph, attribute
from onnxq.planning.compute import Refusal
from onnxq.planning.options import FULL
from onnxq.wording.plural import counted

_ATTENTION_INPUTS = {0: "input", 1: "weights", 2: "bias", 3: "mask_index", 4: "past"}
_ATTENTION_ATTRIBUTES = frozenset({"num_heads", "unidirectional", "mask_filter_value", "scale"})


@dataclass(frozen=True, kw_only=True)
class DynamicSite:
    """A node to quantize dynamically.

    Attributes:
        node: Node name.
        rule: The rule for it.
        axes: For each weight, by input slot, the axis that has a scale for each slice.
    """

    node: str
    rule: DynamicRule
    axes: dict[int, int]


def dynamic_site(graph: Graph, node: NodeProto, placement: str) -> DynamicSite | Refusal | None:
    """What dynamic quantization makes of `node`: a site, a refusal, or None for an operator without a rule."""
    domain = "" if node.domain in STANDARD_DOMAINS else node.domain
    rule = DYNAMIC_RULES.get((domain, node.op_type))
    if rule is None:
        return None
    for slot in rule.slots:
        reason = _weight_problem(graph, node, slot)
        if reason:
            return Refusal(reason, rule.rule)
    reason = _CHECKS[node.op_type](graph, node)
    if reason:
        return Refusal(reason, rule.rule)
    if rule.slower and placement != FULL:
        return Refusal(f"{rule.slower}; placement='full' (--placement full) quantizes it all the same", rule.rule)
    return DynamicSite(node=node.name, rule=rule, axes={slot: _axis(graph, node, slot) for slot in rule.slots})


def _weight_problem(graph: Graph, node: NodeProto, slot: int) -> str:
    weight = node.input[slot] if slot < len(node.input) else ""
    if not graph.is_constant(weight):
        if node.op_type == "MatMul" and graph.is_constant(node.input[0]):
            return "its weight is the first operand, and kernels take it as the second only"
        if node.op_type in ("MatMul", "Gemm"):
            return "both inputs are activations"
        return f"its input {weight!r} is not a constant"
    proto = graph.initializers[weight]
    if proto.data_type != TensorProto.FLOAT:
        return f"its input {weight!r} is not float32"
    if 0 in proto.dims or not proto.dims:
        return "its weight is empty or a single number"
    return ""


def _matmul(graph: Graph, node: NodeProto) -> str:
    return "its weight is a vector" if len(graph.initializers[node.input[1]].dims) < 2 else ""


def _gemm(graph: Graph, node: NodeProto) -> str:
    if attribute(node, "transA", 0):
        return "transA is set"
    bias = node.input[2] if len(node.input) > 2 else ""
    if bias and attribute(node, "beta", 1.0) != 1.0 and not graph.is_constant(bias):
        return f"beta is not 1 and {bias!r} is computed"
    return ""


def _lstm(graph: Graph, node: NodeProto) -> str:
    if attribute(node, "layout", 0):
        return "layout=1 has no int8 kernel"
    for slot in (3, 7):
        tensor = node.input[slot] if len(node.input) > slot else ""
        if tensor and not graph.is_constant(tensor):
            return f"its input {tensor!r} is computed"
    return ""


def _attention(graph: Graph, node: NodeProto) -> str:
    del graph
    extra = [a.name for a in node.attribute if a.name not in _ATTENTION_ATTRIBUTES]
    if extra:
        return f"the int8 kernel has no attribute {extra[0]!r}"
    if any(tensor for tensor in node.input[len(_ATTENTION_INPUTS) :]):
        return "the int8 kernel takes no attention bias and no shared past"
    return "" if len(node.input) > 2 and node.input[2] else "the int8 kernel wants a bias"


def _gather(graph: Graph, node: NodeProto) -> str:
    table = graph.initializers[node.input[0]]
    if attribute(node, "axis", 0) != 0:
        return "it takes slices along another axis than the first"
    if len(table.dims) < 2:
        return "its table has one value in a row"
    elements = 1
    for size in table.dims:
        elements *= int(size)
    return f"its table has {counted(elements, 'value')} only" if elements < SMALLEST_TABLE else ""


def _gru(graph: Graph, node: NodeProto) -> str:
    del graph, node
    return ""


def _conv(graph: Graph, node: NodeProto) -> str:
    bias = node.input[2] if len(node.input) > 2 else ""
    return f"its bias {bias!r} is computed" if bias and not graph.is_constant(bias) else ""


_CHECKS: dict[str, Callable[[Graph, NodeProto], str]] = {
    "MatMul": _matmul,
    "Gemm": _gemm,
    "LSTM": _lstm,
    "Attention": _attention,
    "Gather": _gather,
    "GRU": _gru,
    "Conv": _conv,
}
"""What keeps a node with constant weights in float, by operator; "" for nothing."""


def _axis(graph: Graph, node: NodeProto, slot: int) -> int:
    """The axis of a weight whose slices have a scale each: output channels, gates, rows of a table."""
    if node.op_type in ("LSTM", "GRU"):
        return 1
    if node.op_type in ("Conv", "Gather"):
        return 0
    if node.op_type == "Gemm":
        return 0 if attribute(node, "transB", 0) else 1
    return len(graph.initializers[node.input[slot]].dims) - 1
