"""Explains quantized models without Q/DQ pairs: weights in codes, activations float or quantized as they come."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from onnx import NodeProto, TensorProto

from onnxq.graph.float_types import computes_no_float
from onnxq.graph.view import Graph, attribute
from onnxq.planning.decisions import NO_FLOAT
from onnxq.planning.plan import Action
from onnxq.report.explanation import TensorRow, scales, zero_points
from onnxq.verification.structure import INTEGER_OPS, WEIGHT_OPS, dequantizer

CODES = frozenset({
    TensorProto.INT8, TensorProto.UINT8, TensorProto.INT4, TensorProto.UINT4, TensorProto.FLOAT8E4M3FN
})  # fmt: skip

_BYTE = 8
"""Bits."""
_SLOTS: dict[str, tuple[tuple[int, int | None, int | None], ...]] = {
    "MatMulInteger": ((1, None, 3),),
    "ConvInteger": ((1, None, 3),),
    "DynamicQuantizeMatMul": ((1, 2, 3),),
    "MatMulIntegerToFloat": ((1, 3, 5),),
    "DynamicQuantizeLSTM": ((1, 8, 9), (2, 10, 11)),
    "QAttention": ((1, 4, 7),),
    "MatMulNBits": ((1, 2, 3),),
    "GatherBlockQuantized": ((0, 2, 3),),
    "Gather": ((0, None, None),),
}
"""Where an operator reads codes of a weight, their scales and zero-points (onnxruntime's ContribOperators.md)."""


def decision_without_pairs(graph: Graph, node: NodeProto) -> tuple[Action, str]:
    """How `node` of a model without Q/DQ pairs runs, and why."""
    if node.op_type in INTEGER_OPS:
        return Action.INT8, "computes on codes; its input is quantized as it comes"
    if node.op_type in WEIGHT_OPS:
        return Action.WEIGHTS, f"computes in float with a weight in {attribute(node, 'bits', 4)} bits"
    if _is_table(graph, node):
        return Action.INT8, "takes rows of a table of codes"
    if (owner := _serves(graph, node)) is not None:
        return Action.FUSED, f"serves {owner!r}"
    if any(_is_stored(graph, tensor) for tensor in node.input):
        return Action.WEIGHTS, "computes in float with a weight that is stored in codes"
    if computes_no_float(graph, node):
        return Action.OTHER, NO_FLOAT
    return Action.FLOAT, "reads no weight in codes"


def stored_weights(graph: Graph) -> Iterator[TensorRow]:
    """Weights that operators read as codes themselves, not through a DequantizeLinear, in graph order."""
    seen: set[str] = set()
    for node in graph.nodes:
        for codes, scale, zero_point in _SLOTS.get(node.op_type, ()):
            name = _input(node, codes)
            if name in seen or not graph.is_constant(name) or graph.dtype(name) not in CODES:
                continue
            seen.add(name)
            readers = tuple(dict.fromkeys(n.name for n in graph.consumers(name)))
            known = _input(node, scale) if scale is not None else _scale_behind(graph, node)
            yield _row(graph, node, name, (known, _input(node, zero_point)), readers)


def parameters_of(graph: Graph, node: NodeProto) -> Iterator[str]:
    """Names of the scales and zero-points that belong to the weights which `node` reads as codes."""
    for _, scale, zero_point in _SLOTS.get(node.op_type, ()):
        yield _input(node, scale) if scale is not None else _scale_behind(graph, node)
        yield _input(node, zero_point)


def _row(graph: Graph, node: NodeProto, name: str, params: tuple[str, str], readers: tuple[str, ...]) -> TensorRow:
    in_bytes = node.op_type == "MatMulNBits" or _reads_bytes(graph, node)
    bits = int(attribute(node, "bits", 4)) if in_bytes else 0
    named = TensorProto.DataType.Name(int(graph.dtype(name) or 0)).lower()
    block = attribute(node, "block_size", None) if node.op_type in WEIGHT_OPS else None
    scale, zero_point = (graph.constant(param) if param else None for param in params)
    axis = None if scale is None or np.size(scale) == 1 else _axis(graph, node, name, np.size(scale))
    return TensorRow(
        tensor=name,
        role="weight",
        # Bytes say nothing of a sign: without zero-points the codes in them stand around half their range.
        dtype=f"{'int' if zero_point is None else 'uint'}{bits}" if in_bytes else named,
        axis=axis if block is None else 1,
        block_size=None if block is None else int(block),
        scale=() if scale is None else scales(np.asarray(scale)),
        # Zero-points of fewer than 8 bits are packed.
        zero_point=() if zero_point is None or 0 < bits < _BYTE else zero_points(np.asarray(zero_point)),
        readers=readers,
    )


def packs_codes(graph: Graph, node: NodeProto) -> bool:
    """Whether `node` takes rows of a table whose bytes hold several codes each."""
    return _reads_bytes(graph, node) and int(attribute(node, "bits", 4)) < _BYTE


def _reads_bytes(graph: Graph, node: NodeProto) -> bool:
    """Whether `node` takes rows of a table of codes in bytes, of 4-bit types or not."""
    return node.op_type == "GatherBlockQuantized" and graph.dtype(node.input[0]) == TensorProto.UINT8


def _axis(graph: Graph, node: NodeProto, name: str, count: int) -> int | None:
    """The axis of codes that has `count` scales, the one that the operator's scales run along first."""
    shape = graph.shape(name) or ()
    rows_first = node.op_type in ("Gather", "ConvInteger")
    order = range(len(shape)) if rows_first else range(len(shape) - 1, -1, -1)
    return next((axis for axis in order if shape[axis] == count), None)


def _input(node: NodeProto, slot: int | None) -> str:
    return "" if slot is None or slot >= len(node.input) else str(node.input[slot])


def _scale_behind(graph: Graph, node: NodeProto) -> str:
    """The constant that what is computed from codes is multiplied with, behind a Cast; "" if there is none."""
    for cast in graph.consumers(node.output[0]):
        for product in graph.consumers(cast.output[0]) if cast.op_type == "Cast" else ():
            for factor in product.input if product.op_type == "Mul" else ():
                if graph.is_constant(factor):
                    return str(factor)
                writer = graph.producer(factor)
                if writer is None or writer.op_type not in ("Mul", "Gather"):
                    continue
                found = next((str(t) for t in writer.input if graph.is_constant(t) and _is_scale(graph, t)), "")
                if found:
                    return found
    return ""


def _is_scale(graph: Graph, tensor: str) -> bool:
    return graph.dtype(tensor) in (TensorProto.FLOAT, TensorProto.FLOAT16)


def _is_table(graph: Graph, node: NodeProto) -> bool:
    return node.op_type == "Gather" and graph.is_constant(node.input[0]) and graph.dtype(node.input[0]) in CODES


def _is_stored(graph: Graph, tensor: str) -> bool:
    found = dequantizer(graph, tensor) if tensor else None
    while found is None and tensor and (writer := graph.producer(tensor)) is not None:
        if writer.op_type not in ("Transpose", "Reshape"):
            return False
        tensor = writer.input[0]
        found = dequantizer(graph, tensor)
    return found is not None and graph.is_constant(found.input[0])


def _serves(graph: Graph, node: NodeProto) -> str | None:
    """The node on codes whose input `node` quantizes, or whose result it scales; None for any other node."""
    if node.op_type == "DynamicQuantizeLinear":
        return next((n.name for n in graph.consumers(node.output[0]) if n.op_type in INTEGER_OPS), None)
    before = [n for tensor in node.input if tensor and (n := graph.producer(tensor)) is not None]
    if node.op_type == "Cast":
        return next((n.name for n in before if n.op_type in INTEGER_OPS or _is_table(graph, n)), None)
    if node.op_type == "Mul" and (cast := next((n for n in before if n.op_type == "Cast"), None)) is not None:
        return _serves(graph, cast)
    if node.op_type == "Mul" and any(n.op_type == "DynamicQuantizeLinear" for n in before):
        return next((owner for n in graph.consumers(node.output[0]) if (owner := _serves(graph, n))), None)
    if node.op_type == "Gather" and graph.is_constant(node.input[0]):
        behind = graph.consumers(node.output[0])
        return next((owner for n in behind if n.op_type == "Mul" and (owner := _serves(graph, n))), None)
    if node.op_type == "Add" and any(graph.is_constant(t) for t in node.input if t):
        scaled = next((n for n in before if n.op_type == "Mul"), None)
        return _serves(graph, scaled) if scaled is not None and len(graph.uses(scaled.output[0])) == 1 else None
    return None
