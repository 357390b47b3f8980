"""A reason, and how a neighbour of a node is named in one."""

from __future__ import annotations

from dataclasses import dataclass

from onnx import NodeProto

from onnxq.graph.view import Graph
from onnxq.verification.structure import dequantizer, is_qdq


@dataclass(frozen=True, kw_only=True)
class Reason:
    """Why a node runs as it does.

    Attributes:
        text: One sentence without full stop; it names the neighbour that is in the way, and the rule in brackets.
        rule: The rule, as listed in docs/targets.md; "" where none speaks.
    """

    text: str
    rule: str = ""


def because(rule: str, text: str) -> Reason:
    """`text`, with its rule in brackets."""
    return Reason(text=f"{text} ({rule})", rule=rule)


def named(node: NodeProto) -> str:
    """A node as sentences call it: `Conv 'c1'`."""
    return f"{node.op_type} {node.name!r}"


def origin(graph: Graph, tensor: str) -> str:
    """A tensor and where it comes from: `'y' of Relu 'r'`."""
    if graph.is_constant(tensor):
        return f"constant {tensor!r}"
    producer = graph.producer(tensor)
    return f"{tensor!r} of {named(producer)}" if producer is not None else f"{tensor!r}, an input of the model,"


def past_pairs(graph: Graph, tensor: str) -> str:
    """`tensor` followed upwards through Q and DQ."""
    node = graph.producer(tensor)
    while node is not None and is_qdq(node):
        tensor = node.input[0]
        node = graph.producer(tensor)
    return tensor


def has_pair(graph: Graph, tensor: str) -> bool:
    """Whether a DequantizeLinear computes `tensor`."""
    return dequantizer(graph, tensor) is not None


def is_weight(graph: Graph, tensor: str) -> bool:
    """Whether `tensor` is a constant, dequantized or not."""
    return graph.is_constant(past_pairs(graph, tensor))
