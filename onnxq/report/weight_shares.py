"""How many of a model's weights are stored in which type.

A weight is a value of a constant with two dimensions or more, or of one that is stored in codes; scales and zero-points
belong to the codes, and biases (32 bits behind a DequantizeLinear, vectors in float) are not counted.
"""

from __future__ import annotations

import math
from collections import Counter

from onnx import NodeProto

from onnxq.graph.messages import type_name
from onnxq.graph.subgraphs import own_graph, subgraphs
from onnxq.graph.view import Graph, attribute
from onnxq.report.without_pairs import CODES, packs_codes, parameters_of, stored_weights
from onnxq.verification.structure import is_float_type, is_qdq


def weight_shares(graph: Graph) -> dict[str, float]:
    """The share of each type among the weights of a model and of all graphs in it, the largest first.

    Args:
        graph: A quantized model.
    """
    found: dict[str, tuple[str, int]] = {}
    _collect(graph, found)
    counts = Counter[str]()
    for name, values in found.values():
        counts[name] += values
    total = sum(counts.values())
    return {name: values / total for name, values in counts.most_common()} if total else {}


def is_code(type_of_weight: str) -> bool:
    """Whether a type of `weight_shares` is one of codes."""
    return not type_of_weight.startswith(("float", "bfloat", "double")) or type_of_weight.startswith("float8")


def _collect(graph: Graph, found: dict[str, tuple[str, int]]) -> None:
    """Add the weights of `graph`, by name: type and number of values."""
    scales = {name for node in graph.nodes for name in _parameters(graph, node)}
    stored = {row.tensor: row.dtype for row in stored_weights(graph)}
    for node in graph.nodes:
        for name in node.input:
            if not graph.is_constant(name) or name in found or name in scales:
                continue
            proto = graph.initializers[name]
            dtype, shape = proto.data_type, tuple(int(size) for size in proto.dims)
            if name in stored or (dtype in CODES and is_qdq(node)):
                found[name] = stored.get(name, type_name(dtype)), _values(graph, node, shape)
            elif is_float_type(dtype) and len(shape) > 1:
                found[name] = type_name(dtype), math.prod(shape)
    for subgraph in subgraphs(graph):
        _collect(own_graph(graph, subgraph), found)


def _values(graph: Graph, node: NodeProto, shape: tuple[int, ...]) -> int:
    if node.op_type == "MatMulNBits":
        return int(attribute(node, "K", 0)) * int(attribute(node, "N", 0))
    return math.prod(shape) * (8 // int(attribute(node, "bits", 4)) if packs_codes(graph, node) else 1)


def _parameters(graph: Graph, node: NodeProto) -> tuple[str, ...]:
    """Names of the scales and zero-points that a node reads."""
    return tuple(node.input[1:3]) if is_qdq(node) else tuple(parameters_of(graph, node))
