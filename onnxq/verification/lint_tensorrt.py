"""A linter for the rules of TensorRT's explicit quantization: no TensorRT needed, every message names the way out.

The rules, and where they come from (NvInfer.h of TensorRT 10; onnx-tensorrt's importer; runs of TensorRT-RTX 1.7):

R1  zero-points are 0
R2  codes are int8, fp8 or int4
R3  the zero-point is written out
R4  scales are positive and finite
R5  scale and zero-point are constants of equal volume
R6  per-channel only on constants, one scale for each slice
R7  a vector scale comes with its axis, and it is the axis of the output channels
R8  no int32 (bias) DequantizeLinear
R10 no DQ of a scalar constant; no int4 with an odd last dimension
R11 opset: 13 for per-channel, 19 for fp8 and fp16 scales, 21 for int4 and blocks; no QOperator nodes
R11b dimensions of the inputs that share a name are taken to be equal
R12 the weight's DequantizeLinear feeds its operator directly
R13 a node multiplies codes of like types: not fp8 by int8

`lint_tensorrt` reports every violation, in graph order; for a model it passes, a build may still fail on something that
has nothing to do with quantization.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from onnx import NodeProto, TensorProto

from onnxq.graph.messages import type_name
from onnxq.graph.view import Graph, attribute
from onnxq.verification.structure import MATRIX_OPS, MOVERS, QDQ_OPS, code_type, dequantizer

_CODE_TYPES = {
    TensorProto.INT8,
    getattr(TensorProto, "INT4", -1),
    getattr(TensorProto, "FLOAT8E4M3FN", -1),
    getattr(TensorProto, "FLOAT4E2M1", -1),
}
_QOPERATORS = frozenset({"QLinearConv", "QLinearMatMul", "MatMulInteger", "ConvInteger", "DynamicQuantizeLinear"})
_TARGET_HINT = "quantize with target='tensorrt' (--target tensorrt)"
_FOLDABLE = MOVERS | {"Cast"}
_PLACEHOLDER_DIMS = frozenset({"?", "-1", "None", "none", "unk", ""})


@dataclass(frozen=True, kw_only=True)
class Violation:
    """One broken rule.

    Attributes:
        rule: Name of the rule ("R1").
        node: The node (or "input NAME") that breaks it.
        message: What is wrong, with the value found.
        hint: The way out.
    """

    rule: str
    node: str
    message: str
    hint: str

    def __str__(self) -> str:
        return f"{self.rule} at {self.node!r}: {self.message}. Hint: {self.hint}"


def lint_tensorrt(graph: Graph) -> list[Violation]:
    """Every rule of TensorRT that the Q/DQ nodes of `graph` break.

    Args:
        graph: A quantized model.

    Returns:
        Violations in graph order; empty if TensorRT's importer will take every Q and DQ.
    """
    found: list[Violation] = []
    for node in graph.nodes:
        if node.op_type in QDQ_OPS:
            for rule in (_code_rules, _parameter_rules, _axis_rules, _shape_rules, _opset_rules):
                found.extend(rule(graph, node))
            found.extend(_weight_path_rules(graph, node))
        elif node.op_type in _QOPERATORS or node.op_type.startswith("QLinear"):
            message = f"{node.op_type} is a QOperator node; TensorRT reads Q/DQ only"
            found.append(_at(node, "R11", message, f"export in Q/DQ form; {_TARGET_HINT}"))
        elif node.op_type in MATRIX_OPS:
            found.extend(_like_type_rules(graph, node))
    found.extend(_input_rules(graph))
    return found


def _at(node: NodeProto, rule: str, message: str, hint: str = _TARGET_HINT) -> Violation:
    return Violation(rule=rule, node=node.name, message=message, hint=hint)


def _zero_point(node: NodeProto) -> str:
    return node.input[2] if len(node.input) > 2 else ""


def _code_rules(graph: Graph, node: NodeProto) -> Iterator[Violation]:
    """R1, R2, R3, R8."""
    dtype = code_type(graph, node)
    if dtype == TensorProto.INT32:
        yield _at(node, "R8", "it dequantizes int32 (a bias); TensorRT takes int8, fp8 and int4 only",
                  f"keep the bias in float; {_TARGET_HINT}")  # fmt: skip
        return
    if dtype not in _CODE_TYPES:
        yield _at(node, "R2", f"its codes are {type_name(dtype)}; TensorRT takes int8 and fp8 only")
    name = _zero_point(node)
    if not name:
        yield _at(node, "R3", "it has no zero-point input; TensorRT takes that for int8, ONNX for uint8",
                  f"write an int8 zero-point of 0; {_TARGET_HINT}")  # fmt: skip
        return
    zero_point = graph.constant(name)
    if zero_point is not None and np.any(zero_point.astype(np.float64) != 0):
        worst = zero_point.reshape(-1)[int(np.flatnonzero(zero_point.reshape(-1))[0])]
        yield _at(node, "R1", f"its zero-point is {worst}; TensorRT is symmetric, the zero-point must be 0")


def _parameter_rules(graph: Graph, node: NodeProto) -> Iterator[Violation]:
    """R4, R5."""
    scale, zero_point = graph.constant(node.input[1]), graph.constant(_zero_point(node))
    if scale is None:
        yield _at(node, "R5", f"its scale {node.input[1]!r} is computed while running; it must be a constant",
                  "use static quantization; fold constants first")  # fmt: skip
        return
    if _zero_point(node) and zero_point is None:
        yield _at(node, "R5", f"its zero-point {_zero_point(node)!r} is computed while running; it must be a constant",
                  "use static quantization; fold constants first")  # fmt: skip
    if zero_point is not None and zero_point.size != scale.size:
        yield _at(
            node, "R5", f"it has {scale.size} scales and {zero_point.size} zero-points; the numbers must be equal"
        )
    values = scale.astype(np.float64)
    if not np.isfinite(values).all() or (values <= 0).any():
        bad = values[~(np.isfinite(values) & (values > 0))].reshape(-1)[0]
        yield _at(node, "R4", f"it has a scale of {bad}; every scale must be positive and finite",
                  f"a dead tensor or channel still needs a positive scale; {_TARGET_HINT}")  # fmt: skip


def _axis_rules(graph: Graph, node: NodeProto) -> Iterator[Violation]:
    """R6, R7."""
    scale = graph.constant(node.input[1])
    if scale is None or scale.size <= 1 or attribute(node, "block_size", 0):
        return
    source = node.input[0] if node.op_type == "QuantizeLinear" else _behind_quantizer(graph, node)
    if not graph.is_constant(source):
        yield _at(node, "R6", f"it has {scale.size} scales for an activation; activations are per-tensor in TensorRT")
        return
    axis = attribute(node, "axis")
    if axis is None:
        yield _at(node, "R7", "it has a vector scale and no axis; ONNX then means 1, TensorRT's parser 0",
                  f"write the axis attribute; {_TARGET_HINT}")  # fmt: skip
        return
    dims = graph.shape(source) or ()
    if -len(dims) <= axis < len(dims) and dims[axis] != scale.size:
        yield _at(node, "R6", f"it has {scale.size} scales on axis {axis} of a weight of shape {tuple(dims)}")
    for reader in graph.consumers(node.output[0]) if node.op_type == "DequantizeLinear" else ():
        slot = list(reader.input).index(node.output[0])
        wanted = _channel_axis(reader, len(dims), slot)
        if wanted is not None and axis % max(len(dims), 1) != wanted:
            yield _at(node, "R7", f"its axis is {axis}, but {reader.op_type} {reader.name!r} has its output channels "
                      f"on axis {wanted} of the weight")  # fmt: skip


def _behind_quantizer(graph: Graph, node: NodeProto) -> str:
    before = graph.producer(node.input[0])
    return str((before if before is not None and before.op_type == "QuantizeLinear" else node).input[0])


def _channel_axis(reader: NodeProto, rank: int, slot: int) -> int | None:
    """The axis of the output channels in the weight of `reader`; None where the rule does not speak."""
    if slot != 1 or rank == 0:
        return None
    if reader.op_type == "Conv":
        return 0
    if reader.op_type == "ConvTranspose":
        return 1 if attribute(reader, "group", 1) == 1 else None
    if reader.op_type == "Gemm":
        return 0 if attribute(reader, "transB", 0) else 1
    return rank - 1 if reader.op_type == "MatMul" else None


def _shape_rules(graph: Graph, node: NodeProto) -> Iterator[Violation]:
    """R10."""
    shape = graph.shape(node.input[0])
    if shape == () and node.op_type == "DequantizeLinear" and graph.is_constant(node.input[0]):
        yield _at(node, "R10", f"its input {node.input[0]!r} is a scalar constant; TensorRT refuses to build with it",
                  "leave the scalar in float")  # fmt: skip
    if shape and code_type(graph, node) == getattr(TensorProto, "INT4", -1):
        last = shape[-1]
        if isinstance(last, int) and last % 2:
            yield _at(node, "R10", f"int4 codes with an odd last dimension ({last})", "leave this weight in int8")


def _opset_rules(graph: Graph, node: NodeProto) -> Iterator[Violation]:
    """R11."""
    scale = graph.constant(node.input[1])
    needed, what = 10, "Q/DQ"
    if scale is not None and scale.size > 1:
        needed, what = 13, "per-channel scales"
    if graph.dtype(node.input[1]) in (TensorProto.FLOAT16, TensorProto.BFLOAT16):
        needed, what = 19, "half-precision scales"
    if code_type(graph, node) == getattr(TensorProto, "FLOAT8E4M3FN", -1):
        needed, what = 19, "fp8 codes"
    if attribute(node, "block_size", 0) or code_type(graph, node) == getattr(TensorProto, "INT4", -1):
        needed, what = 21, "int4 or block-wise scales"
    if graph.opset < needed:
        yield _at(node, "R11", f"{what} need opset {needed}, the model has {graph.opset}",
                  f"convert the model to opset {needed} first; {_TARGET_HINT} does so")  # fmt: skip


def _like_type_rules(graph: Graph, node: NodeProto) -> Iterator[Violation]:
    """R13."""
    before = [dequantizer(graph, tensor) for tensor in node.input[:2]]
    types = [code_type(graph, one) for one in before if one is not None]
    float8 = getattr(TensorProto, "FLOAT8E4M3FN", -1)
    if len(types) == 2 and types[0] != types[1] and float8 in types:
        names = " by ".join(type_name(one) for one in types)
        yield _at(node, "R13", f"it multiplies {names}; TensorRT multiplies like types only",
                  "quantize both inputs to fp8, or both to int8")  # fmt: skip


def _weight_path_rules(graph: Graph, node: NodeProto) -> Iterator[Violation]:
    """R12: between a weight's DQ and its operator only what TensorRT folds into the weight."""
    if node.op_type != "DequantizeLinear" or not graph.is_constant(_behind_quantizer(graph, node)):
        return
    if code_type(graph, node) == TensorProto.INT32:
        return
    for reader in graph.consumers(node.output[0]):
        if reader.op_type in _FOLDABLE or reader.op_type in QDQ_OPS:
            continue
        for use in graph.uses(reader.output[0]):
            last, slot = graph.node(use.node), use.slot
            all_constant = all(graph.is_constant(_behind_all(graph, t)) for t in reader.input if t)
            if last.op_type in ("Conv", "ConvTranspose") and slot == 1 and all_constant:
                message = f"{reader.op_type} {reader.name!r} stands between it and {last.op_type} {last.name!r}"
                yield _at(node, "R12", message, f"fold constants before quantizing; {_TARGET_HINT}")


def _behind_all(graph: Graph, tensor: str) -> str:
    node = graph.producer(tensor)
    while node is not None and node.op_type in QDQ_OPS:
        tensor = node.input[0]
        node = graph.producer(tensor)
    return tensor


def _input_rules(graph: Graph) -> Iterator[Violation]:
    """R11b: a placeholder name on several dimensions makes TensorRT take them for equal."""
    seen: dict[str, str] = {}
    for name in graph.inputs:
        for position, dim in enumerate(graph.shape(name) or ()):
            if not isinstance(dim, str) or dim not in _PLACEHOLDER_DIMS:
                continue
            if dim in seen:
                yield Violation(
                    rule="R11b",
                    node=f"input {name}",
                    message=f"dimension {position} and {seen[dim]} are both called {dim!r}; "
                    "TensorRT takes them for equal",
                    hint="give the dimensions names of their own, or none; quantizing with onnxq clears such names",
                )
            seen.setdefault(dim, f"dimension {position} of {name!r}")
