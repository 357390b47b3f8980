"""Which nodes have weights that can be stored in few bits, and how these lie in memory."""

from __future__ import annotations

import math
from dataclasses import dataclass

from onnx import NodeProto, TensorProto

from onnxq.graph.view import STANDARD_DOMAINS, Graph, attribute
from onnxq.planning.compute import Refusal
from onnxq.planning.options import FULL

PRODUCT, TABLE, STORED = "product", "table", "stored"

SMALLEST_WEIGHT = 1024
"""Elements from which on a weight is worth it (W5)."""

_TYPES = (TensorProto.FLOAT, TensorProto.FLOAT16)
_STORED = {"Conv": (1,), "ConvTranspose": (1,), "LSTM": (1, 2), "GRU": (1, 2), "RNN": (1, 2)}
"""Operators whose weights can be dequantized in front of them, in full, in every run."""
_STORED_AXIS = {"Conv": 0, "ConvTranspose": 1, "LSTM": 1, "GRU": 1, "RNN": 1}


@dataclass(frozen=True, kw_only=True)
class WeightSite:
    """A weight that a node reads.

    Attributes:
        node: Node name.
        slot: Input slot.
        tensor: Name of the initializer.
        kind: "product" (MatMul, Gemm), "table" (Gather), or "stored" (dequantized in front of its node).
        axis: Of a product or table, the axis of the initializer along which blocks run; else the axis of channels.
        transpose: The Transpose between initializer and node; "" for none.
    """

    node: str
    slot: int
    tensor: str
    kind: str
    axis: int
    transpose: str = ""


def weight_sites(graph: Graph, node: NodeProto, placement: str) -> tuple[WeightSite, ...] | Refusal | None:
    """The weights of `node`: sites, why there are none, or None for an operator without weights."""
    if node.domain not in STANDARD_DOMAINS:
        return None
    if node.op_type in ("MatMul", "Gemm"):
        return _product(graph, node)
    if node.op_type == "Gather":
        return _table(graph, node)
    if node.op_type in _STORED:
        return _stored(graph, node, placement)
    return None


def _product(graph: Graph, node: NodeProto) -> tuple[WeightSite, ...] | Refusal:
    name, transpose = str(node.input[1]), ""
    producer = graph.producer(name)
    if producer is not None and producer.op_type == "Transpose" and graph.is_constant(producer.input[0]):
        name, transpose = str(producer.input[0]), str(producer.name)
    problem = _weight_problem(graph, name)
    if problem:
        if node.op_type == "MatMul" and graph.is_constant(node.input[0]):
            problem = "its weight is the first operand, and kernels take it as the second only"
        return Refusal(problem, "W1")
    if node.op_type == "Gemm":
        bias = node.input[2] if len(node.input) > 2 else ""
        if attribute(node, "transA", 0):
            return Refusal("transA is set", "W2")
        if bias and attribute(node, "beta", 1.0) != 1.0 and not graph.is_constant(bias):
            return Refusal(f"beta is not 1 and {bias!r} is computed", "W2")
    turned = bool(transpose) != bool(attribute(node, "transB", 0) if node.op_type == "Gemm" else 0)
    axis = 1 if turned else 0
    return (WeightSite(node=node.name, slot=1, tensor=name, kind=PRODUCT, axis=axis, transpose=transpose),)


def _table(graph: Graph, node: NodeProto) -> tuple[WeightSite, ...] | Refusal:
    name = str(node.input[0])
    problem = _weight_problem(graph, name)
    if not problem and attribute(node, "axis", 0) != 0:
        problem = "it takes slices along another axis than the first"
    if problem:
        return Refusal(problem, "W3")
    return (WeightSite(node=node.name, slot=0, tensor=name, kind=TABLE, axis=1),)


def _stored(graph: Graph, node: NodeProto, placement: str) -> tuple[WeightSite, ...] | Refusal:
    sites = []
    for slot in _STORED[node.op_type]:
        name = str(node.input[slot])
        if not graph.is_constant(name) or graph.initializers[name].data_type not in _TYPES:
            return Refusal(f"its input {name!r} is not a float constant", "W4")
        sites.append(WeightSite(node=node.name, slot=slot, tensor=name, kind=STORED, axis=_STORED_AXIS[node.op_type]))
    if placement != FULL:
        reason = (
            "its weights would be dequantized in every run; placement='full' (--placement full) stores them in int8 "
            "all the same"
        )
        return Refusal(reason, "W4")
    return tuple(sites)


def _weight_problem(graph: Graph, name: str) -> str:
    if not graph.is_constant(name):
        return f"its input {name!r} is not a constant"
    proto = graph.initializers[name]
    if proto.data_type not in _TYPES:
        return f"its input {name!r} is neither float32 nor float16"
    if len(proto.dims) != 2:
        return f"its weight has rank {len(proto.dims)}; kernels take matrices"
    if math.prod(proto.dims) < SMALLEST_WEIGHT:
        return f"its weight has fewer than {SMALLEST_WEIGHT} values, too few to matter"
    return ""
