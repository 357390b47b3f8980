"""The quantized model as a picture shows it: its nodes without Q and DQ, and how values go from one to the next.

An edge that passes a Q/DQ pair carries codes where both its ends compute on them. Where one of them does not, values
are converted on the way, which costs time: those edges are the boundaries between int8 and float.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from onnxq.graph.messages import reads_of
from onnxq.graph.view import Graph
from onnxq.verification.structure import is_float_type, is_qdq

INT8, FLOAT, OTHER = "int8", "float", "other"
QUANTIZE, DEQUANTIZE = "quantize", "dequantize"
"""Boundaries: from float to codes, and from codes to float."""

INPUT, OUTPUT = "input", "output"
_ON_CODES = frozenset({"int8", "fused"})


@dataclass(frozen=True, kw_only=True)
class DrawnNode:
    """One node, or an input or output of the model.

    Attributes:
        name: Its name; of an input or output the tensor's.
        op: Operator type; "Input" or "Output".
        runs: "int8", "fused", "float" or "other"; "input" or "output".
    """

    name: str
    op: str
    runs: str


@dataclass(frozen=True, kw_only=True)
class DrawnEdge:
    """A tensor on its way.

    Attributes:
        source: Position of the node that computes it.
        target: Position of a node that reads it.
        tensor: Its name in the float model.
        kind: "int8" (codes), "float", "other" (no float values), or a boundary: "quantize" or "dequantize".
    """

    source: int
    target: int
    tensor: str
    kind: str


@dataclass(frozen=True, kw_only=True)
class Drawing:
    """Nodes in graph order, inputs first and outputs last, and the edges between them."""

    nodes: tuple[DrawnNode, ...]
    edges: tuple[DrawnEdge, ...]


def draw(graph: Graph, runs: Mapping[str, str]) -> Drawing:
    """The picture of a quantized model.

    Args:
        graph: The quantized model.
        runs: How each node runs, by name; "float" where it is not told.
    """
    read = set(_read_tensors(graph))
    nodes = [DrawnNode(name=n, op="Input", runs=INPUT) for n in graph.inputs if n in read and not graph.is_constant(n)]
    inputs = {node.name: i for i, node in enumerate(nodes)}
    position: dict[str, int] = {}
    for node in graph.nodes:
        if not is_qdq(node) and node.op_type != "Constant":
            position[node.name] = len(nodes)
            nodes.append(DrawnNode(name=node.name, op=node.op_type, runs=runs.get(node.name) or FLOAT))
    edges: dict[tuple[int, int, str], DrawnEdge] = {}

    def connect(tensor: str, target: int) -> None:
        origin, passed = _origin(graph, tensor)
        producer = graph.producer(origin)
        source = position.get(producer.name) if producer is not None else inputs.get(origin)
        if source is not None:
            kind = _kind(graph, origin, nodes[source].runs, nodes[target].runs, passed=passed)
            edges.setdefault(
                (source, target, origin), DrawnEdge(source=source, target=target, tensor=origin, kind=kind)
            )

    for node in graph.nodes:
        if node.name in position:
            for tensor, _ in reads_of(node):
                connect(tensor, position[node.name])
    for name in graph.outputs:
        nodes.append(DrawnNode(name=name, op="Output", runs=OUTPUT))
        connect(name, len(nodes) - 1)
    return Drawing(nodes=tuple(nodes), edges=tuple(edges.values()))


def _read_tensors(graph: Graph) -> Iterator[str]:
    for node in graph.nodes:
        yield from (tensor for tensor, _ in reads_of(node))


def _origin(graph: Graph, tensor: str) -> tuple[str, bool]:
    """The tensor in front of all Q and DQ, and whether there were any."""
    passed = False
    while (node := graph.producer(tensor)) is not None and is_qdq(node):
        tensor, passed = node.input[0], True
    return tensor, passed


def _kind(graph: Graph, tensor: str, source: str, target: str, *, passed: bool) -> str:
    dtype = graph.dtype(tensor)
    if dtype is not None and not is_float_type(dtype) and not passed:
        return INT8 if source in _ON_CODES and target in _ON_CODES else OTHER
    if not passed:
        return INT8 if target == "fused" and source in _ON_CODES else FLOAT
    if source in _ON_CODES:
        return INT8 if target in _ON_CODES else DEQUANTIZE
    return QUANTIZE if target in _ON_CODES else FLOAT
