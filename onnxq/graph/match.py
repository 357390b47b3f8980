"""Patterns of a few nodes, recognised without changing the graph.

A look-up gives a `Match`, which names the tensors and nodes of the pattern, or a `Miss`, which says why it is not
there.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from onnx import NodeProto

from onnxq.graph.view import CAPTURED, STANDARD_DOMAINS, Graph
from onnxq.wording.plural import counted

ACTIVATIONS = frozenset(
    {
        "Relu",
        "Clip",
        "LeakyRelu",
        "PRelu",
        "ThresholdedRelu",
        "Sigmoid",
        "HardSigmoid",
        "HardSwish",
        "Tanh",
        "Elu",
        "Selu",
    }
    | {"Celu", "Gelu", "Softplus", "Softsign", "Mish", "Swish"}
)


@dataclass(frozen=True)
class Match:
    """A pattern that was found.

    Attributes:
        bindings: Tensor names by their part in the pattern.
        nodes: Names of the pattern's nodes, in topological order.
    """

    bindings: Mapping[str, str]
    nodes: tuple[str, ...]


@dataclass(frozen=True)
class Miss:
    """A pattern that was not found.

    Attributes:
        reason: Why not.
        nodes: Names of the nodes that were looked at.
    """

    reason: str
    nodes: tuple[str, ...]


def sole_consumer(graph: Graph, node: NodeProto) -> NodeProto | Miss:
    """The only reader of the first output of `node`; that output must not leave the graph or enter a body."""
    tensor = node.output[0]
    uses = graph.uses(tensor)
    if graph.is_output(tensor):
        return Miss(f"{tensor!r} is an output of the graph", (node.name,))
    if len(uses) != 1:
        return Miss(f"{tensor!r} has {len(uses)} readers, not one", (node.name, *(use.node for use in uses)))
    if uses[0].slot == CAPTURED:
        return Miss(f"{tensor!r} is read inside the body of another node", (node.name, uses[0].node))
    return graph.node(uses[0].node)


def biased_matmul(graph: Graph, matmul: NodeProto) -> Match | Miss:
    """MatMul(data, weight) + bias with a constant bias that has one value for each column, or one for all.

    Returns:
        A match with `data`, `weight` (constant or not), `bias`, `product` (between the two nodes) and `output`.
    """
    if matmul.op_type != "MatMul" or matmul.domain not in STANDARD_DOMAINS:
        return Miss(f"{matmul.op_type} is not MatMul", (matmul.name,))
    add = sole_consumer(graph, matmul)
    if isinstance(add, Miss):
        return add
    nodes = (matmul.name, add.name)
    if add.op_type != "Add" or add.domain not in STANDARD_DOMAINS:
        return Miss(f"the product goes to {add.op_type}, not to Add", nodes)
    product = matmul.output[0]
    bias = add.input[1] if add.input[0] == product else add.input[0]
    if not graph.is_constant(bias):
        return Miss(f"{bias!r}, which is added, is not a constant", nodes)
    dims = tuple(graph.initializers[bias].dims)
    if any(size != 1 for size in dims[:-1]):
        return Miss(f"{bias!r}, of shape {dims}, differs along other axes than the columns", nodes)
    if (rank := graph.rank(product)) is not None and len(dims) > rank:
        return Miss(f"{bias!r}, of shape {dims}, has a higher rank than the product", nodes)
    columns = (graph.shape(matmul.input[1]) or (None,))[-1]
    if dims and dims[-1] not in (1, columns):
        return Miss(f"{bias!r} has {counted(dims[-1], 'value')}, not one for each column ({columns})", nodes)
    found = {
        "data": matmul.input[0],
        "weight": matmul.input[1],
        "bias": bias,
        "product": product,
        "output": add.output[0],
    }
    return Match(MappingProxyType(found), nodes)


def activation_after(graph: Graph, node: NodeProto, kinds: Collection[str] = ACTIVATIONS) -> Match | Miss:
    """An activation that is the only reader of the first output of `node`.

    Args:
        kinds: Operator types that count.

    Returns:
        A match with `input` (between the two nodes) and `output`; its second node is the activation.
    """
    reader = sole_consumer(graph, node)
    if isinstance(reader, Miss):
        return reader
    nodes = (node.name, reader.name)
    if reader.op_type not in kinds or reader.domain not in STANDARD_DOMAINS:
        return Miss(f"{reader.op_type} is no such activation", nodes)
    if reader.input[0] != node.output[0]:
        return Miss(f"{node.output[0]!r} is a parameter of {reader.op_type}", nodes)
    return Match(MappingProxyType({"input": node.output[0], "output": reader.output[0]}), nodes)


def gelu_readers(graph: Graph, tensor: str) -> list[NodeProto]:
    """The two readers of `tensor`, where a GELU of single operators is all that reads it; empty where not.

    x * (1 + erf(x / sqrt(2))) / 2, in any order: what is scaled for the Erf, and the factor.
    """
    readers = [graph.node(use.node) for use in graph.uses(tensor)]
    if len(readers) != 2 or graph.is_output(tensor) or any(n.op_type not in ("Div", "Mul") for n in readers):
        return []
    behind = [node for reader in readers for node in graph.consumers(reader.output[0])]
    return readers if any(node.op_type == "Erf" for node in behind) else []
