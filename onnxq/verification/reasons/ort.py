"""Why onnxruntime's CPU provider leaves a node in float: rules C1 to C19 of docs/targets.md, read from the Q/DQ graph.

The first rule that is broken is told, in the order in which a person would mend the graph: no kernel at all, no pairs,
one operand without a pair, types, what reads the output, parameters.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from onnx import NodeProto, TensorProto

from onnxq.graph.view import Graph, attribute
from onnxq.targets.ort_cpu import ORT_X64_VNNI
from onnxq.verification.reasons.reason import Reason, because, has_pair, is_weight, named, origin, past_pairs
from onnxq.verification.structure import MATRIX_OPS, code_type, dequantizer, output_problem, placement, quantizer
from onnxq.verification.tables import table_rows

INT8_KERNEL_OPS = frozenset({
    "Conv", "MatMul", "Gemm", "Add", "Mul", "Concat", "AveragePool", "GlobalAveragePool", "LeakyRelu", "Sigmoid",
    "Softmax", "Where", "ArgMax", "DepthToSpace", "Expand", "Flatten", "Gather", "MaxPool", "ReduceMax", "ReduceMin",
    "Reshape", "Resize", "Slice", "Split", "Squeeze", "Tile", "Transpose", "Unsqueeze",
})  # fmt: skip
"""Operators that onnxruntime's CPU provider can run on codes."""

_MOVERS = INT8_KERNEL_OPS & {*ORT_X64_VNNI.pass_through, "ArgMax", "ReduceMax", "ReduceMin"}
_CODE_TYPES = (TensorProto.INT8, TensorProto.UINT8)
_ACTIVATIONS = ("Relu", "Clip")
_BIAS_TOLERANCE = 1e-3
"""How far, as a share, the scale of an int32 bias may be from the product of the scales: float32 rounding, no more."""


def why_float(graph: Graph, node: NodeProto) -> Reason:
    """What kept onnxruntime from running `node` in int8, as far as the graph shows it.

    Args:
        graph: The quantized graph.
        node: A node of it that runs in float.

    Returns:
        The first rule that the graph breaks there.
    """
    checks: tuple[Callable[[Graph, NodeProto], Reason | None], ...] = (
        _table, _no_kernel, _no_pairs, _plain_operand, _wide_codes, _unquantized_output, _shared_int8, _bias, _gemm,
        _parameters,
    )  # fmt: skip
    found = next((reason for check in checks if (reason := check(graph, node)) is not None), None)
    return found or Reason(text="Q/DQ surrounds it as required, yet onnxruntime did not fuse it")


def _table(graph: Graph, node: NodeProto) -> Reason | None:
    rows = table_rows(graph, node)
    if rows is None:
        return None
    return because("C19", f"it dequantizes the rows that {named(rows.gather)} takes from an int8 table")


def _no_kernel(graph: Graph, node: NodeProto) -> Reason | None:
    if node.op_type == "ConvTranspose":
        return because("C4", "onnxruntime has no int8 kernel for ConvTranspose")
    if node.op_type in _ACTIVATIONS:
        return _lone_activation(graph, node)
    if node.op_type == "Resize" and attribute(node, "mode", "nearest") != "nearest":
        return because("C12", "onnxruntime resizes codes by nearest neighbour only")
    if node.op_type in INT8_KERNEL_OPS:
        return None
    rule = "C9" if "(C9)" in ORT_X64_VNNI.float_reasons.get(node.op_type, "") else "C10"
    text = f"onnxruntime has no int8 kernel for {node.op_type}"
    before = graph.producer(past_pairs(graph, node.input[0])) if node.input else None
    if node.op_type == "BatchNormalization" and before is not None and before.op_type in ("Conv", "ConvTranspose"):
        text += f"; fold it into {named(before)} before quantizing, as onnxq does"
    return because(rule, text)


def _lone_activation(graph: Graph, node: NodeProto) -> Reason:
    """A Relu or Clip runs in int8 only by disappearing between the node before it and the Q behind it."""
    source = past_pairs(graph, node.input[0])
    before = graph.producer(source)
    text = f"onnxruntime has no int8 kernel for {node.op_type}"
    if before is None or before.op_type not in MATRIX_OPS:
        return because("C10", text)
    if source != node.input[0]:
        return because("C5", f"{text}, and a Q/DQ pair stands between it and {named(before)}, where it would disappear")
    if problem := output_problem(graph, node.output[0]):
        return because("C5", f"{text}, and it does not disappear into {named(before)}: {problem}")
    return because("C5", _wider_range(graph, node) or f"it belongs to {named(before)}, which runs in float")


def _no_pairs(graph: Graph, node: NodeProto) -> Reason | None:
    around = placement(graph, node)
    if around.touched:
        return None
    floats = sorted((node.input[s] for s in around.plain), key=lambda t: is_weight(graph, t))
    if not floats:
        return because("C1", "there is no Q/DQ pair around it")
    text = f"its input {origin(graph, floats[0])} has no Q/DQ pair"
    return because("C1", text if around.quantized_output else f"{text}, nor has its output {node.output[0]!r}")


def _plain_operand(graph: Graph, node: NodeProto) -> Reason | None:
    """An operand that does not come out of a DQ. A float bias is allowed for Conv, and for Gemm with a Q behind it."""
    around = placement(graph, node)
    plain = [s for s in around.plain if not (node.op_type in ("Conv", "Gemm") and s == 2)]
    if node.op_type == "Resize":
        plain = [s for s in plain if s == 0]  # the rest are scales and sizes
    if not plain:
        return None
    tensor = node.input[plain[0]]
    if node.op_type in MATRIX_OPS and plain[0] == 0 and is_weight(graph, node.input[1]):
        return because("C15", f"only its weight is quantized: its input {origin(graph, tensor)} has no Q/DQ pair")
    if node.op_type in MATRIX_OPS and graph.is_constant(tensor):
        return because("C1", f"its weight {tensor!r} is float, only its data has a Q/DQ pair")
    if graph.is_constant(tensor):
        return because("C9", f"its constant {tensor!r} is float; it needs codes and a DequantizeLinear like a weight")
    return because("C1", f"its input {origin(graph, tensor)} does not come out of a DequantizeLinear")


def _wide_codes(graph: Graph, node: NodeProto) -> Reason | None:
    found = {code_type(graph, dq): t for t, dq in _activation_pairs(graph, node)}
    wide = [kind for kind in found if kind not in _CODE_TYPES and kind != TensorProto.INT32]
    if wide:
        name = TensorProto.DataType.Name(wide[0]).lower()
        return because(
            "C4",
            f"its input {past_pairs(graph, found[wide[0]])!r} has codes of {name}; onnxruntime fuses 8-bit ones only",
        )
    if len(found) > 1:
        return because("C3", "its inputs have codes of different types, int8 and uint8; onnxruntime wants one")
    after = _quantizer_behind(graph, node)
    if found and after is not None and code_type(graph, after) not in found:
        return because("C3", "its input and its output have codes of different types; onnxruntime wants one")
    return None


def _unquantized_output(graph: Graph, node: NodeProto) -> Reason | None:
    problem = placement(graph, node).output_problem
    if not problem:
        return None
    if node.op_type == "Gemm":
        if len(node.input) > 2 and node.input[2] and not has_pair(graph, node.input[2]):
            return because(
                "C7", f"its bias {node.input[2]!r} is float and {problem}; it takes one of both: int32, or Q"
            )
        return _gemm(graph, node)
    if node.op_type == "MatMul":
        return _float_bias_behind(graph, node)
    readers = graph.consumers(node.output[0])
    if len(readers) == 1 and readers[0].op_type in _ACTIVATIONS and not output_problem(graph, readers[0].output[0]):
        if text := _wider_range(graph, readers[0]):
            return because("C5", text)
        return _shared_int8(graph, node)
    return because("C1", problem)


def _float_bias_behind(graph: Graph, node: NodeProto) -> Reason | None:
    """MatMul needs no Q behind it, unless an Add of a float bias makes a float Gemm of both."""
    readers = graph.consumers(node.output[0])
    if len(readers) == 1 and readers[0].op_type == "Add":
        biases = [t for t in readers[0].input if graph.is_constant(t)]
        if biases and output_problem(graph, readers[0].output[0]):
            text = f"{named(readers[0])} adds the float bias {biases[0]!r} without QuantizeLinear behind it"
            return because("C8", f"{text}: onnxruntime makes a float Gemm of both")
    return None


def _wider_range(graph: Graph, activation: NodeProto) -> str:
    """Why a Relu or Clip that one Q reads is not dropped: the Q does not do the same clipping."""
    quantize = graph.consumers(activation.output[0])[0]
    zero_point = graph.constant(quantize.input[2]) if len(quantize.input) > 2 else np.zeros((), np.uint8)
    if zero_point is None or zero_point.size != 1:
        return ""
    found = int(zero_point.reshape(-1)[0])
    lowest = 0 if zero_point.dtype.kind == "u" else int(np.iinfo(zero_point.dtype).min)
    kept = f"{named(activation)} stays behind it"
    if found != lowest:
        return f"{kept}, because the zero-point after that is {found} and not {lowest}"
    if activation.op_type == "Clip":
        return f"{kept}: the quantized range after it is wider than its own"
    return ""


def _shared_int8(graph: Graph, node: NodeProto) -> Reason | None:
    """C3: on x64 an int8 activation with several readers keeps all of them, and the node before it, in float."""
    for tensor, dq in (*_activation_pairs(graph, node), *_pairs_behind(graph, node)):
        readers = graph.consumers(tensor)
        if code_type(graph, dq) != TensorProto.INT8 or (len(readers) < 2 and not graph.is_output(tensor)):
            continue
        others = [named(r) for r in readers if r.name != node.name][:2]
        also = " and ".join([*others, *(["an output of the model"] if graph.is_output(tensor) else [])])
        text = f"{past_pairs(graph, tensor)!r} has int8 codes and goes to {also} too"
        return because("C3", f"{text}; on x64 onnxruntime fuses that with uint8 codes only")
    first = dequantizer(graph, node.input[0])
    if first is not None and code_type(graph, first) == TensorProto.INT8:
        return because("C3", "its activations have int8 codes; on x64 onnxruntime fuses every operator with uint8 only")
    return None


def _activation_pairs(graph: Graph, node: NodeProto) -> Iterator[tuple[str, NodeProto]]:
    """The dequantized inputs that are no constants, and their DQ."""
    for tensor in node.input:
        dq = dequantizer(graph, tensor) if tensor else None
        if dq is not None and quantizer(graph, dq.input[0]) is not None and not is_weight(graph, tensor):
            yield tensor, dq


def _pairs_behind(graph: Graph, node: NodeProto) -> Iterator[tuple[str, NodeProto]]:
    after = _quantizer_behind(graph, node)
    for dq in graph.consumers(after.output[0]) if after is not None else ():
        if dq.op_type == "DequantizeLinear":
            yield dq.output[0], dq


def _quantizer_behind(graph: Graph, node: NodeProto) -> NodeProto | None:
    """The Q that reads the output of `node`, perhaps behind a Relu or Clip."""
    readers = graph.consumers(node.output[0])
    if len(readers) == 1 and readers[0].op_type in _ACTIVATIONS:
        readers = graph.consumers(readers[0].output[0])
    return readers[0] if len(readers) == 1 and readers[0].op_type == "QuantizeLinear" else None


def _bias(graph: Graph, node: NodeProto) -> Reason | None:
    """C4: the scale of an int32 bias is the product of the scales of data and weight."""
    if node.op_type != "Conv" or len(node.input) < 3:
        return None
    pairs = [dequantizer(graph, t) for t in node.input[:3]]
    scales = [graph.constant(dq.input[1]) if dq is not None else None for dq in pairs]
    if pairs[2] is None or any(s is None for s in scales):
        return None
    if code_type(graph, pairs[2]) != TensorProto.INT32:
        return because("C4", f"its bias {node.input[2]!r} has 8-bit codes; it must be int32 or float")
    data, weight, bias = (np.asarray(s, np.float64).reshape(-1) for s in scales)
    if not np.allclose(bias, data * weight, rtol=_BIAS_TOLERANCE):
        return because("C4", f"the scale of its bias {node.input[2]!r} is not data scale times weight scale")
    return None


def _gemm(graph: Graph, node: NodeProto) -> Reason | None:
    if node.op_type != "Gemm":
        return None
    alpha, beta = attribute(node, "alpha", 1.0), attribute(node, "beta", 1.0)
    if alpha != 1.0 or (beta != 1.0 and len(node.input) > 2):
        return because("C7", f"it has alpha = {alpha:g} and beta = {beta:g}; onnxruntime's int8 kernel takes 1 and 1")
    if len(node.input) > 2 and (dq := dequantizer(graph, node.input[2])) is not None:
        kind = TensorProto.DataType.Name(code_type(graph, dq)).lower()
        if code_type(graph, dq) != TensorProto.INT32:
            return because("C7", f"its bias {node.input[2]!r} has codes of {kind}; it must be int32 or float")
    return None


def _parameters(graph: Graph, node: NodeProto) -> Reason | None:
    """C12: what moves codes must not change their meaning."""
    if node.op_type not in _MOVERS:
        return None
    before, after = dequantizer(graph, node.input[0]), _quantizer_behind(graph, node)
    if before is None or after is None:
        return None
    sides = [[graph.constant(t) for t in n.input[1:3]] for n in (before, after)]
    if all(a is not None and b is not None and np.array_equal(a, b) for a, b in zip(*sides, strict=False)):
        return None
    return because("C12", f"{before.name!r} before it and {after.name!r} behind it differ in scale or zero-point")
