"""What a vector of sizes holds: numbers, and sizes of tensors that are open until the model runs.

    Shape(x), x of (N, 3, 8, 8)            N of x, 3, 8, 8
    Gather, Slice of it                    those of its entries
    Concat, Unsqueeze, Squeeze, Cast       the entries of what they read

Exporters write such vectors as targets of a Reshape where the batch is open.
"""

from __future__ import annotations

from dataclasses import dataclass

from onnx import NodeProto, TensorProto

from onnxq.graph.constants import integers, operand
from onnxq.graph.view import STANDARD_DOMAINS, Graph, attribute

_MAX_ENTRIES = 64
_MAX_STEPS = 16
_MATRIX_RANK = 2
_STEPS = 4
"""Input of a Slice that holds its steps; one on the only axis of a vector needs no look at its axes."""


@dataclass(frozen=True)
class OpenSize:
    """The size of `tensor` along `axis`, and the name that the model has for it, if any."""

    tensor: str
    axis: int
    name: str | None


_UNCHANGED = frozenset({
    "Cast", "Clip", "Erf", "Gelu", "HardSigmoid", "HardSwish", "Identity", "LayerNormalization", "LeakyRelu", "Neg",
    "Relu", "Sigmoid", "Softmax", "Sqrt", "Tanh",
})  # fmt: skip
"""Operators whose first output has the sizes of their first input."""
_BINARY = frozenset({"Add", "Div", "Mul", "Sub"})

Entry = int | OpenSize | None
"""A number, a size of a tensor, or something that is not known."""


def entries(graph: Graph, tensor: str, steps: int = _MAX_STEPS) -> tuple[Entry, ...] | None:
    """The elements of a scalar or vector of integers.

    Args:
        graph: The graph, its shapes inferred.
        tensor: The scalar or vector.
        steps: How many nodes to look back.

    Returns:
        One entry for each element; None where not even their number is known.
    """
    shape = graph.shape(tensor)
    if graph.is_constant(tensor):
        return integers(graph, tensor) if shape is not None and len(shape) <= 1 else None
    node = graph.producer(tensor)
    if node is not None and node.domain in STANDARD_DOMAINS and steps > 0:
        found = _entries_of(graph, node, steps - 1)
        if found is not None and len(found) <= _MAX_ENTRIES:
            return found
    if shape == ():
        return (None,)
    if shape is not None and len(shape) == 1 and isinstance(shape[0], int) and shape[0] <= _MAX_ENTRIES:
        return (None,) * shape[0]
    return None


def sizes(graph: Graph, node: NodeProto) -> tuple[Entry, ...] | None:
    """What a Shape or Size looks at."""
    tensor = node.input[0]
    shape = graph.shape(tensor)
    if shape is None:
        return None
    every = [size if isinstance(size, int) else OpenSize(tensor, axis, size or None) for axis, size in enumerate(shape)]
    return tuple(every[attribute(node, "start", 0) : attribute(node, "end", None)])


def is_size_of(graph: Graph, size: OpenSize, tensor: str, axis: int) -> bool:
    """Whether `size` is certain to be that of `tensor` along `axis`: by its name, or by what `tensor` is made from."""
    shape = graph.shape(tensor)
    if shape is None or axis >= len(shape):
        return False
    if size.name and shape[axis] == size.name:
        return True
    return _origin(graph, size.tensor, size.axis) == _origin(graph, tensor, axis)


def _origin(graph: Graph, tensor: str, axis: int) -> tuple[str, int]:
    """The first tensor on the way to `tensor` that has the same size along `axis`."""
    while (before := _with_same_size(graph, tensor, axis)) is not None:
        tensor = before
    return tensor, axis


def _with_same_size(graph: Graph, tensor: str, axis: int) -> str | None:
    """An input of the node behind `tensor` that has its rank and its size along `axis`."""
    node = graph.producer(tensor)
    rank = graph.rank(tensor)
    if node is None or node.domain not in STANDARD_DOMAINS or node.output[0] != tensor or rank is None:
        return None
    is_product = node.op_type == "MatMul" and graph.rank(node.input[1]) == _MATRIX_RANK and axis < rank - 1
    if node.op_type in _UNCHANGED or is_product:
        source = node.input[0]
    elif node.op_type in _BINARY:
        others = [name for name in node.input if not graph.is_constant(name)]
        constants = [graph.shape(name) or () for name in node.input if graph.is_constant(name)]
        if len(others) != 1 or any(len(sizes) >= rank - axis and sizes[axis - rank] != 1 for sizes in constants):
            return None
        source = others[0]
    else:
        return None
    return source if graph.rank(source) == rank else None


def _entries_of(graph: Graph, node: NodeProto, steps: int) -> tuple[Entry, ...] | None:
    kind = node.op_type
    if kind == "Shape":
        return sizes(graph, node)
    if kind == "Concat":
        parts = [entries(graph, name, steps) for name in node.input]
        known = [part for part in parts if part is not None]
        return tuple(entry for part in known for entry in part) if len(known) == len(parts) else None
    if kind in ("Unsqueeze", "Squeeze", "Identity") or (kind == "Cast" and attribute(node, "to") == TensorProto.INT64):
        return entries(graph, node.input[0], steps)
    if kind in ("Gather", "Slice"):
        data = entries(graph, node.input[0], steps)
        return None if data is None or graph.rank(node.input[0]) != 1 else _taken(graph, node, data)
    return None


def _taken(graph: Graph, node: NodeProto, data: tuple[Entry, ...]) -> tuple[Entry, ...] | None:
    """What a Gather or Slice takes of a vector."""
    if node.op_type == "Gather":
        indices = integers(graph, node.input[1])
        within = indices is not None and all(-len(data) <= index < len(data) for index in indices)
        return tuple(data[index] for index in indices) if indices is not None and within else None
    start, end = (integers(graph, operand(node, slot)) for slot in (1, 2))
    step = integers(graph, operand(node, _STEPS)) if operand(node, _STEPS) else (1,)
    return data[start[0] : end[0] : step[0]] if start and end and step else None
