"""Weights of integer operators as unsigned codes, which no x64 CPU's kernels saturate on.

    sum (x - x0) * (w - w0) = sum (x - x0) * ((w + 128) - (w0 + 128))        w in int8, w + 128 in uint8

Without VNNI onnxruntime adds two products of an unsigned and a signed code in 16 bits, those of two unsigned ones in
32. So models of mode "dynamic" that are for other CPUs give here what they give there, to the last bit of each sum.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from onnx import GraphProto, ModelProto, TensorProto, numpy_helper

from onnxq.graph.external_data import weights_are_large
from onnxq.graph.messages import bodies, free_name, nodes_within, tensor_value
from onnxq.graph.view import Graph
from onnxq.verification.engines.ort_products import saturates

_SLOTS: Mapping[str, tuple[tuple[int, int], ...]] = {
    "MatMulInteger": ((1, 3),),
    "ConvInteger": ((1, 3),),
    "DynamicQuantizeMatMul": ((1, 3),),
    "DynamicQuantizeLSTM": ((1, 9), (2, 11)),
    "QAttention": ((1, 7),),
}
"""Where an operator reads codes of a weight and their zero-points (onnxruntime's ContribOperators.md)."""
_HALF = 128

Constants = Mapping[str, tuple[GraphProto, TensorProto]]


def takes_unsigned_codes(graph: Graph) -> bool:
    """Whether a model has operators that are integer by definition, at any depth, and weights that fit into memory."""
    found = any(node.op_type in _SLOTS for node in nodes_within(graph.nodes))
    return found and not weights_are_large(graph.initializers.values())


def unsaturated(graph: Graph) -> Graph:
    """`graph`, or where this CPU would saturate on it one that computes the same on unsigned codes."""
    if not takes_unsigned_codes(graph) or not saturates():
        return graph
    return Graph(with_unsigned_codes(graph.to_model(), graph.base_dir), graph.base_dir)


def with_unsigned_codes(model: ModelProto, base_dir: Path | None = None) -> ModelProto:
    """`model`, in place, with uint8 in place of the int8 weights of its integer operators.

    Args:
        model: A quantized model.
        base_dir: Folder of its external data.
    """
    _convert(model.graph, {}, base_dir)
    return model


def _convert(graph: GraphProto, around: Constants, base_dir: Path | None) -> None:
    known = {**around, **{tensor.name: (graph, tensor) for tensor in graph.initializer}}
    for node in graph.node:
        for body in bodies(node):
            _convert(body, known, base_dir)
        for codes, zero_point in _SLOTS.get(node.op_type, ()):
            name = node.input[codes] if codes < len(node.input) else ""
            if name not in known or known[name][1].data_type != TensorProto.INT8:
                continue
            given = node.input[zero_point] if zero_point < len(node.input) else ""
            if given and given not in known:
                continue  # computed while the model runs: not what onnxq writes
            while len(node.input) <= zero_point:
                node.input.append("")
            node.input[codes] = _unsigned(name, known, base_dir)
            node.input[zero_point] = _unsigned(given, known, base_dir) if given else _half(graph)


def _unsigned(name: str, known: Constants, base_dir: Path | None) -> str:
    """The name of a constant as unsigned codes, beside the signed one."""
    owner, tensor = known[name]
    own = f"{name}@unsigned"
    if all(one.name != own for one in owner.initializer):
        values = tensor_value(tensor, base_dir).astype(np.int16) + _HALF
        owner.initializer.append(numpy_helper.from_array(values.astype(np.uint8), own))
    return own


def _half(graph: GraphProto) -> str:
    """A constant 128, the zero-point of codes that had none."""
    value = np.array(_HALF, np.uint8)
    name = free_name("zero_point@unsigned", {tensor.name for tensor in graph.initializer})
    graph.initializer.append(numpy_helper.from_array(value, name))
    return name
