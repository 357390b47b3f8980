"""The floating-point types of ONNX: which node computes in which, and float arrays in a type that numpy lacks."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto, numpy_helper

from onnxq.graph.view import STANDARD_DOMAINS, Graph, attribute

HALF_TYPES = frozenset({TensorProto.FLOAT16, TensorProto.BFLOAT16})
FLOAT_TYPES = frozenset({TensorProto.FLOAT, TensorProto.DOUBLE, *HALF_TYPES})
"""What models compute in; 8-bit floats are codes."""
HALF_SCALE_OPSET = 19
"""The first opset whose QuantizeLinear and DequantizeLinear take scales in float16 and bfloat16."""

TYPE_ATTRIBUTES = ("to", "dtype", "output_datatype", "output_dtype")
"""Attributes by which operators name the type of their output."""

_WEIGHTED_OPS = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})
_TEXT: dict[int, str] = {
    TensorProto.BFLOAT16: "bfloat16",
    TensorProto.FLOAT16: "float16",
    TensorProto.DOUBLE: "float64",
    TensorProto.FLOAT: "float32",
}


def weighted_types(graph: Graph) -> frozenset[int]:
    """Float types, as far as they are known, in which Conv, ConvTranspose, Gemm and MatMul compute."""
    read = (name for node in weighted_nodes(graph) for name in node.input if name)
    return frozenset(t for name in read if (t := graph.dtype(name)) in FLOAT_TYPES)


def weighted_nodes(graph: Graph) -> list[NodeProto]:
    """Conv, ConvTranspose, Gemm and MatMul."""
    return [n for n in graph.nodes if n.op_type in _WEIGHTED_OPS and n.domain in STANDARD_DOMAINS]


def mentions(graph: Graph, types: Collection[int]) -> bool:
    """Whether one of `types` comes into the main graph anywhere, by a constant, an input or a conversion."""
    if any(graph.dtype(name) in types for name in (*graph.inputs, *graph.initializers)):
        return True
    for node in graph.nodes:
        value = attribute(node, "value")
        if isinstance(value, TensorProto) and value.data_type in types:
            return True
        if any(attribute(node, name) in types for name in TYPE_ATTRIBUTES if attribute(node, name) is not None):
            return True
    return any(graph.dtype(name) in types for name in graph.outputs)


def is_quantizable(graph: Graph, tensor: str, *, half_types: bool) -> bool:
    """Whether `tensor` has a type that a Q/DQ pair can stand in: float32, or half where a target allows it.

    Args:
        graph: The graph.
        tensor: A tensor of it.
        half_types: As in the target's table.
    """
    found = graph.dtype(tensor)
    return found == TensorProto.FLOAT or (half_types and found in HALF_TYPES)


def computes_no_float(graph: Graph, node: NodeProto) -> bool:
    """Whether `node` computes shapes, indices, masks or the like: all outputs are known not to be float."""
    types = [graph.dtype(name) for name in node.output if name]
    if types == [None] and node.op_type == "Cast":  # it says so itself, where inference came not as far
        types = [attribute(node, "to")]
    return bool(types) and all(found is not None and found not in FLOAT_TYPES for found in types)


def type_name(elem_type: int) -> str:
    """A float type as numpy calls it."""
    return _TEXT[elem_type] if elem_type in _TEXT else str(TensorProto.DataType.Name(elem_type)).lower()


def float_tensor(values: NDArray[Any], elem_type: int, name: str) -> TensorProto:
    """An initializer of a float type, each value rounded to the nearest."""
    if elem_type != TensorProto.BFLOAT16:
        dtype = np.dtype(type_name(elem_type))
        return numpy_helper.from_array(np.asarray(values, dtype, order="C"), name)
    return TensorProto(
        name=name,
        data_type=elem_type,
        dims=np.shape(values),
        raw_data=_bfloat16_bits(np.asarray(values).astype(np.float32)).astype("<u2").tobytes(),
    )


def _bfloat16_bits(values: NDArray[np.float32]) -> NDArray[np.uint16]:
    """The upper halves of float32, ties to even; finite values only."""
    bits = np.ascontiguousarray(values).reshape(-1).view(np.uint32).astype(np.uint64)
    rounded: NDArray[np.uint64] = (bits + 0x7FFF + ((bits >> np.uint64(16)) & np.uint64(1))) >> np.uint64(16)
    return rounded.astype(np.uint16)
