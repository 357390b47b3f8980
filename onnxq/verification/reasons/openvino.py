"""Why OpenVINO's CPU plugin leaves a node in float: rules V1 to V4 of docs/targets.md, read from the Q/DQ graph."""

from __future__ import annotations

import numpy as np
from onnx import NodeProto, TensorProto

from onnxq.graph.view import Graph, attribute
from onnxq.verification.reasons.reason import Reason, because, has_pair, is_weight, origin, past_pairs
from onnxq.verification.structure import MATRIX_OPS, code_type, dequantizer, placement

INT8_OPS = frozenset({
    *MATRIX_OPS, "Add", "Mul", "Relu", "Clip", "Concat", "AveragePool", "GlobalAveragePool", "MaxPool", "ReduceMean",
    "Gather", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose", "Slice", "Split", "Resize", "DepthToSpace",
    "SpaceToDepth", "Pad", "Tile",
})  # fmt: skip
"""Operators seen to run on codes, or to hand them on."""
_CODE_TYPES = (TensorProto.INT8, TensorProto.UINT8)


def why_float(graph: Graph, node: NodeProto, kernel: str, precision: str) -> Reason:
    """What kept OpenVINO from running `node` in int8, as far as the graph shows it.

    Args:
        graph: The quantized graph.
        node: A node of it that runs in float.
        kernel: The kind of kernel that runs it ("Convolution").
        precision: The precision it runs in ("f32").

    Returns:
        The first rule that the graph breaks there.
    """
    if node.op_type not in INT8_OPS:
        return because("V3", f"OpenVINO computes {node.op_type} in float, with or without Q/DQ pairs around it")
    around = placement(graph, node)
    slots = (0, 1) if node.op_type in MATRIX_OPS else range(len(node.input))
    plain = [node.input[s] for s in around.plain if s in slots]
    if plain:
        return _plain(graph, node, plain[0])
    reason = (
        _groups(node)
        or _codes(graph, node)
        or _zero_points(graph, node)
        or _weight_axis(graph, node)
        or _merged(graph, node)
    )
    return reason or Reason(text=f"Q/DQ surrounds it, yet OpenVINO runs it in {precision} ({kernel})")


def _plain(graph: Graph, node: NodeProto, tensor: str) -> Reason:
    if graph.is_constant(tensor):
        what = "weight" if node.op_type in MATRIX_OPS else "constant"
        return because("V1", f"its {what} {tensor!r} is float, only its data has a Q/DQ pair")
    if node.op_type in MATRIX_OPS and has_pair(graph, node.input[1]) and is_weight(graph, node.input[1]):
        return because("V1", f"only its weight is quantized: its input {origin(graph, tensor)} has no Q/DQ pair")
    return because("V1", f"its input {origin(graph, tensor)} has no Q/DQ pair")


def _codes(graph: Graph, node: NodeProto) -> Reason | None:
    for tensor in node.input:
        dq = dequantizer(graph, tensor) if tensor else None
        if dq is not None and code_type(graph, dq) not in (*_CODE_TYPES, TensorProto.INT32):
            kind = TensorProto.DataType.Name(code_type(graph, dq)).lower()
            return because(
                "V1", f"its input {past_pairs(graph, tensor)!r} has codes of {kind}; OpenVINO runs 8-bit ones only"
            )
    return None


def _groups(node: NodeProto) -> Reason | None:
    if node.op_type != "ConvTranspose" or attribute(node, "group", 1) == 1:
        return None
    return because("V7", "OpenVINO computes a ConvTranspose with groups in float")


def _zero_points(graph: Graph, node: NodeProto) -> Reason | None:
    """V2: ConvTranspose, and MatMul of two activations, take codes whose zero-point is 0."""
    both = node.op_type == "MatMul" and not is_weight(graph, node.input[1])
    if node.op_type != "ConvTranspose" and not both:
        return None
    for tensor in node.input[:2]:
        dq = dequantizer(graph, tensor)
        zero_point = graph.constant(dq.input[2]) if dq is not None and len(dq.input) > 2 else None
        if zero_point is not None and np.any(zero_point):
            value = int(zero_point.reshape(-1)[0])
            what = "MatMul of two activations" if both else "ConvTranspose"
            return because(
                "V2",
                f"its input {past_pairs(graph, tensor)!r} has zero-point {value}; OpenVINO's int8 {what} takes 0 only",
            )
    return None


def _weight_axis(graph: Graph, node: NodeProto) -> Reason | None:
    dq = dequantizer(graph, node.input[1]) if node.op_type in MATRIX_OPS else None
    scale = graph.constant(dq.input[1]) if dq is not None else None
    if dq is None or scale is None or scale.size <= 1:
        return None
    axis = next((int(a.i) for a in dq.attribute if a.name == "axis"), 1)
    wanted = 0 if node.op_type == "Conv" else None
    if wanted is not None and axis != wanted:
        return because("V4", f"the scales of its weight lie on axis {axis}; OpenVINO's int8 Conv takes axis 0")
    return None


def _merged(graph: Graph, node: NodeProto) -> Reason | None:
    if node.op_type in ("Add", "Mul") and any(is_weight(graph, t) for t in node.input if t):
        text = f"{node.op_type} of a constant becomes part of the dequantization before it"
        return because("V3", f"{text}, which OpenVINO computes in float")
    return None
