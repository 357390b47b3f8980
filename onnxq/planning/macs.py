"""How much arithmetic a node does, counted in multiply-accumulates."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

from onnx import NodeProto

from onnxq.graph.messages import MICROSOFT
from onnxq.graph.shapes import infer_shapes
from onnxq.graph.view import STANDARD_DOMAINS, Dim, Graph, attribute
from onnxq.planning.plan import NodeDecision, QuantPlan

_RECURRENT = frozenset({"GRU", "LSTM", "RNN", "DynamicQuantizeLSTM"})
_CONVS = frozenset({"Conv", "ConvTranspose", "ConvInteger", "QLinearConv"})
_ATTENTIONS = frozenset({"Attention", "QAttention"})
_STANDARD = _CONVS | {"MatMul", "Gemm", "MatMulInteger", "QLinearMatMul", "GRU", "LSTM", "RNN"}
_OF_MICROSOFT = _ATTENTIONS | {
    "MatMulNBits", "DynamicQuantizeMatMul", "MatMulIntegerToFloat", "FusedMatMul", "DynamicQuantizeLSTM",
}  # fmt: skip
_OPERATORS = {**dict.fromkeys(STANDARD_DOMAINS, _STANDARD), MICROSOFT: _OF_MICROSOFT}
"""Operators that are counted, by domain; those of onnxruntime's own are in its docs/ContribOperators.md."""
_WEIGHT_SLOT = {"QLinearConv": 3, "QLinearMatMul": 3}
"""Where operators read their weight that do not read it second."""


def macs(graph: Graph, node: NodeProto) -> int | None:
    """Multiply-accumulates of a matrix or recurrent operator for one sample; 0 for other operators.

    The first dimension of the model's first input is taken as the batch. Of a fused attention, the products with
    weights are counted.

    Returns:
        None where open dimensions leave the number open.
    """
    if node.op_type not in _OPERATORS.get(node.domain, ()):
        return 0
    if node.op_type in _RECURRENT:
        return _recurrent_macs(graph, node)
    # A transposed convolution does its work once for each input position, the others once for each output.
    positions = _of_one_sample(graph, node.input[0] if node.op_type == "ConvTranspose" else node.output[0])
    factor = _factor(graph, node)
    return None if positions is None or factor is None else positions * factor


def _recurrent_macs(graph: Graph, node: NodeProto) -> int | None:
    """Each step multiplies its input and the state before it with the weights of all gates, in each direction."""
    data = graph.shape(node.input[0])
    weights = [_count(graph.shape(name), start=0) for name in node.input[1:3]]
    steps = data[1 if attribute(node, "layout", 0) else 0] if data else None
    return steps * sum(w or 0 for w in weights) if isinstance(steps, int) and None not in weights else None


def _factor(graph: Graph, node: NodeProto) -> int | None:
    """Multiply-accumulates for one position."""
    if node.op_type == "MatMulNBits":
        return int(attribute(node, "K", 0))
    weight = graph.shape(node.input[_WEIGHT_SLOT.get(node.op_type, 1)])
    if node.op_type in _CONVS:
        return _count(weight, start=1)
    if node.op_type in _ATTENTIONS:
        return 3 * weight[0] if weight and isinstance(weight[0], int) else None
    data = graph.shape(node.input[0])
    if weight and len(weight) > 1:
        reduced = weight[-1] if node.op_type == "Gemm" and attribute(node, "transB", 0) else weight[-2]
    else:
        reduced = data[-1] if data else None
    return reduced if isinstance(reduced, int) else None


def _of_one_sample(graph: Graph, tensor: str) -> int | None:
    """Elements of an activation for one sample; None where open dimensions leave the number open.

    Windows, patches and tokens may stand in front of or be merged with the batch: elements are divided by the batch of
    the model, not by the first dimension.
    """
    shape = graph.shape(tensor)
    if not shape:
        return None if shape is None else 1
    batch = next((known[0] for name in graph.inputs if (known := graph.shape(name))), None)
    if isinstance(batch, int):
        whole = _count(shape, start=0) if isinstance(shape[0], int) else None
        # An open first dimension where the batch is known is a batch whose size was lost in between.
        return _count(shape, start=1) if whole is None else max(whole // max(batch, 1), 1)
    if batch is not None and not isinstance(shape[0], int) and shape[0] != batch:
        return None
    if batch is None:
        return _count(shape, start=1)
    return _count(tuple(1 if d == batch else d for d in shape), start=0)


def _count(shape: tuple[Dim, ...] | None, *, start: int) -> int | None:
    if shape is None:
        return None
    sizes = [d for d in shape[start:] if isinstance(d, int)]
    return math.prod(sizes) if len(sizes) == len(shape) - start else None


def plan_with_macs(plan: QuantPlan, graph: Graph, input_shapes: Mapping[str, tuple[int, ...]]) -> QuantPlan:
    """`plan`, its arithmetic counted for inputs of the given shapes."""
    fixed = with_input_shapes(graph, input_shapes)
    return replace(plan, nodes=tuple(_counted(fixed, d) for d in plan.nodes))


def _counted(graph: Graph, decision: NodeDecision) -> NodeDecision:
    # What stands inside the body of another node keeps the count that it was planned with.
    return replace(decision, macs=macs(graph, graph.node(decision.node))) if graph.has_node(decision.node) else decision


def with_input_shapes(graph: Graph, input_shapes: Mapping[str, tuple[int, ...]]) -> Graph:
    """A copy of `graph` with inputs of the given shapes, and all shapes that follow from them."""
    fixed = graph.copy()
    for name, shape in input_shapes.items():
        dims = fixed.inputs[name].type.tensor_type.shape.dim
        for dim, size in zip(dims, shape, strict=False):
            dim.dim_value = size
    fixed.set_value_info(())
    infer_shapes(fixed)
    return fixed
