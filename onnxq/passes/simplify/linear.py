"""Operators that are linear in constant weights, and an affine map of their output folded into those weights.

Where y = W * x + b has C output channels, s * y + t for vectors s and t of length C is

    W' = s * W    (s along the axis of W that holds the output channels)
    b' = s * b + t

Axes of the output channels: Conv W (C, C_in/g, k...) axis 0; ConvTranspose W (C_in, C/g, k...) axis 1 within each of
the g groups of axis 0; Gemm B (K, C), or (C, K) with transB; MatMul B (..., K, C) the last. Gemm computes alpha * A B +
beta * b, so b' = s * beta * b + t with beta = 1 after it, and alpha stays. BatchNormalization counts as linear with W =
gamma, b = beta.

The products are formed in float64 and rounded once, to the type of the weights.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import NodeProto

from onnxq.graph.constants import operand
from onnxq.graph.view import STANDARD_DOMAINS, Graph, attribute

BIASED_OPS = ("Conv", "ConvTranspose", "Gemm")
LINEAR_OPS = (*BIASED_OPS, "MatMul", "BatchNormalization")


def sole_linear_producer(graph: Graph, tensor: str, ops: tuple[str, ...] = LINEAR_OPS) -> NodeProto | str:
    """The node of `ops` that computes `tensor` for one reader alone, or the reason why there is none."""
    producer = graph.producer(tensor)
    if producer is None or producer.domain not in STANDARD_DOMAINS or producer.op_type not in ops:
        return (
            f"its input comes from {producer.op_type if producer else 'outside the graph'}, not from {' or '.join(ops)}"
        )
    if graph.is_output(tensor):
        return f"the output of {producer.op_type} {producer.name!r} is an output of the graph"
    if len(graph.uses(tensor)) != 1:
        return f"the output of {producer.op_type} {producer.name!r} has other readers"
    if not graph.is_constant(operand(producer, 1)):
        return f"the weight of {producer.op_type} {producer.name!r} is not a constant"
    if (bias := operand(producer, 2)) and not graph.is_constant(bias):
        return f"the bias of {producer.op_type} {producer.name!r} is not a constant"
    if graph.initializers[producer.input[1]].data_type not in _FLOAT_TYPES:
        return f"the weight of {producer.op_type} {producer.name!r} is not a float tensor"
    return producer


_FLOAT_TYPES = {1, 10, 11}  # FLOAT, FLOAT16, DOUBLE: types that numpy can compute with


def output_channels(graph: Graph, node: NodeProto) -> int | None:
    """C of a linear node with constant weights; None where the weight has no axis for it."""
    dims = graph.initializers[node.input[1]].dims
    if node.op_type == "BatchNormalization":
        return int(dims[0])
    if len(dims) < 2:
        return None
    match node.op_type:
        case "Conv":
            return int(dims[0])
        case "ConvTranspose":
            return int(dims[1]) * int(attribute(node, "group", 1))
        case "Gemm":
            return int(dims[0 if attribute(node, "transB", 0) else 1])
    return int(dims[-1])


def channel_axis(node: NodeProto) -> int:
    """Axis of the output that holds the channels: the last for matrix products, else 1."""
    return -1 if node.op_type in {"Gemm", "MatMul"} else 1


def fold_affine_map(graph: Graph, node: NodeProto, scale: NDArray[Any], shift: NDArray[Any]) -> str | None:
    """Let `node` compute scale * y + shift in place of y, in place.

    Args:
        node: A node for which `sole_linear_producer` holds.
        scale: float64, shape (C,).
        shift: float64, shape (C,).

    Returns:
        None, or the reason why the weights cannot take the map.
    """
    made = mapped_constants(graph, node, scale, shift)
    if isinstance(made, str):
        return made
    take_constants(graph, node, *made)
    return None


def mapped_constants(
    graph: Graph, node: NodeProto, scale: NDArray[Any], shift: NDArray[Any]
) -> tuple[NDArray[Any], NDArray[Any] | None] | str:
    """Weight and bias with which `node` computes scale * y + shift (no bias: it needs none), or why there are none.

    Arguments as for `fold_affine_map`.
    """
    old_weight = graph.constant(node.input[1])
    if old_weight is None:
        return "the weight is not a constant"
    weight = _scaled_weight(node, old_weight, scale)
    bias = _mapped_bias(graph, node, scale, shift)
    if bias is not None and node.op_type == "MatMul":
        return "MatMul has no bias to take the shift"
    with np.errstate(over="ignore"):
        weight = weight.astype(old_weight.dtype)
        bias = None if bias is None else bias.astype(old_weight.dtype)
    if not np.isfinite(weight).all() or (bias is not None and not np.isfinite(bias).all()):
        return "the folded weights would not be finite"
    return weight, bias


def take_constants(graph: Graph, node: NodeProto, weight: NDArray[Any], bias: NDArray[Any] | None) -> None:
    """Give `node` what `mapped_constants` found."""
    old = graph.constant(node.input[1])
    if old is None or not np.array_equal(weight, old):
        replace_weight(graph, node, 1, weight)
    if bias is not None:
        replace_weight(graph, node, 2, bias)
        if node.op_type == "Gemm" and attribute(node, "beta", 1.0) != 1.0:
            graph.set_attributes(node, beta=None)


def replace_weight(graph: Graph, node: NodeProto, slot: int, value: NDArray[Any]) -> None:
    """Give `node` a new constant in `slot`, under the old name where nobody else reads that."""
    old = operand(node, slot)
    if old and len(graph.uses(old)) == 1 and not graph.is_output(old):
        graph.add_initializer(old, value)
        return
    stem = f"{old}_{node.name}" if old else f"{node.output[0]}_bias"
    name = graph.add_initializer(graph.unique_name(stem), value)
    if slot < len(node.input):
        graph.set_input(node, slot, name)
    else:
        graph.set_inputs(node, [*node.input, name])


def take_over_output(graph: Graph, node: NodeProto, follower: NodeProto) -> None:
    """Remove `follower`, the only reader of `node`, and let `node` compute the tensor that it computed."""
    old, new = node.output[0], follower.output[0]
    graph.remove_node(follower)
    graph.set_output(node, 0, new)
    graph.forget_shape(old)


def _scaled_weight(node: NodeProto, weight: NDArray[Any], scale: NDArray[Any]) -> NDArray[Any]:
    wide = weight.astype(np.float64)
    match node.op_type:
        case "Conv":
            scaled = wide * scale.reshape(-1, *[1] * (wide.ndim - 1))
        case "ConvTranspose":
            groups = int(attribute(node, "group", 1))
            # (C_in, C/g, k...) -> (g, C_in/g, C/g, k...): channel j of group i is output channel i * C/g + j.
            split = wide.reshape(groups, wide.shape[0] // groups, *wide.shape[1:])
            factor = scale.reshape(groups, 1, wide.shape[1], *[1] * (wide.ndim - 2))
            scaled = (split * factor).reshape(wide.shape)
        case "Gemm" if attribute(node, "transB", 0):
            scaled = wide * scale[:, None]
        case _:
            scaled = wide * scale
    return np.asarray(scaled)


def _mapped_bias(graph: Graph, node: NodeProto, scale: NDArray[Any], shift: NDArray[Any]) -> NDArray[Any] | None:
    """The new bias, or None where there is none and none is needed."""
    old = graph.constant(operand(node, 2))
    if old is None:
        return shift if shift.any() else None
    beta = float(attribute(node, "beta", 1.0)) if node.op_type == "Gemm" else 1.0
    return np.asarray(old.astype(np.float64) * beta * scale + shift)
