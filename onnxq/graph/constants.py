"""What constant operands say: scalars and lists of integers, wherever an opset keeps them (attribute or input)."""

from __future__ import annotations

import math

import numpy as np
from onnx import NodeProto

from onnxq.graph.view import Graph, attribute

# No operand of this kind (axes, pads, sizes) is longer; anything larger is data and not worth reading.
_MAX_OPERAND_ELEMENTS = 4096


def scalar(graph: Graph, tensor: str) -> float | None:
    """The value of a constant of one element (any rank), else None."""
    proto = graph.initializers.get(tensor)
    if proto is None or math.prod(proto.dims) != 1:
        return None
    value = graph.constant(tensor)
    if value is None or value.dtype.kind not in "fiub":
        return None
    return float(np.asarray(value).reshape(()))


def integers(graph: Graph, tensor: str) -> tuple[int, ...] | None:
    """The elements of a constant integer tensor, else None."""
    proto = graph.initializers.get(tensor)
    if proto is None or math.prod(proto.dims) > _MAX_OPERAND_ELEMENTS:
        return None
    value = graph.constant(tensor)
    if value is None or value.dtype.kind not in "iu":
        return None
    return tuple(int(v) for v in value.reshape(-1))


def operand(node: NodeProto, slot: int) -> str:
    """The tensor in input `slot` of `node`, or "" where it is left out."""
    return node.input[slot] if slot < len(node.input) else ""


def integers_operand(
    graph: Graph, node: NodeProto, slot: int, name: str, default: tuple[int, ...] | None = None
) -> tuple[int, ...] | None:
    """A list that is attribute `name` in old opsets and input `slot` in new ones; None where it is not constant.

    Args:
        default: What stands for a list that is given in neither way.
    """
    if tensor := operand(node, slot):
        return integers(graph, tensor)
    listed = attribute(node, name)
    return default if listed is None else tuple(int(v) for v in listed)
