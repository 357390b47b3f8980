"""Where the Q/DQ pairs of a quantized model stand: facts about each node, read from the graph alone.

A node runs in int8 only if its inputs come out of DequantizeLinear and (for most engines and operators) its output goes
into exactly one QuantizeLinear. This module answers those questions; what follows from them is the engines' business.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from onnx import NodeProto, TensorProto

from onnxq.graph.float_types import FLOAT_TYPES
from onnxq.graph.messages import MICROSOFT, nodes_within
from onnxq.graph.view import STANDARD_DOMAINS, Graph

QDQ_OPS = ("QuantizeLinear", "DequantizeLinear")
MATRIX_OPS = frozenset({"Conv", "ConvTranspose", "MatMul", "Gemm"})
"""Operators that hold nearly all of a network's arithmetic."""
INTEGER_OPS = frozenset({"MatMulInteger", "ConvInteger", "DynamicQuantizeLSTM", "DynamicQuantizeMatMul", "QAttention"})
"""Operators that compute on codes by their definition."""
CODE_OPS = frozenset({"QLinearConv", "QLinearMatMul", "QGemm"})
"""Matrix operators of QOperator models, whose inputs and outputs are codes."""
MOVERS = frozenset({"Transpose", "Reshape", "Squeeze", "Unsqueeze", "Flatten", "Identity"})
"""Operators between a pair and its reader that change no value: exports from TensorFlow have Transposes there."""
WEIGHT_OPS = frozenset({"MatMulNBits", "GatherBlockQuantized"})
"""Operators that compute in float with weights in few bits."""
OTHER_FORMS = INTEGER_OPS | WEIGHT_OPS | {"DynamicQuantizeLinear", "DequantizeLinear"}
"""Operators of models without pairs."""


@dataclass(frozen=True, kw_only=True)
class NodePlacement:
    """How Q/DQ surrounds one node.

    Attributes:
        node: Node name.
        op: Operator type.
        dequantized: Input slots that read a DequantizeLinear's output.
        plain: Input slots that read a float tensor which is not dequantized (optional empty slots are in neither).
        quantized_output: Whether its first output is read by one QuantizeLinear and nothing else.
        output_problem: What keeps `quantized_output` from being true; "" if it is.
    """

    node: str
    op: str
    dequantized: tuple[int, ...]
    plain: tuple[int, ...]
    quantized_output: bool
    output_problem: str

    @property
    def touched(self) -> bool:
        """Whether any input is dequantized: somebody meant this node to run in int8."""
        return bool(self.dequantized)


def is_qdq(node: NodeProto) -> bool:
    """Whether `node` is a QuantizeLinear or DequantizeLinear of ONNX or of onnxruntime's contrib domain."""
    return node.op_type in QDQ_OPS and node.domain in (*STANDARD_DOMAINS, MICROSOFT)


def quantizes_by_pairs(graph: Graph) -> bool:
    """Whether a float model was, or was to be, quantized by Q/DQ pairs of its activations.

    False for the two other forms, which have no such pair to look at: activations quantized while the model runs, and
    weights alone in few bits.
    """
    ops = {node.op_type for node in nodes_within(graph.nodes)}
    tables = any(n.op_type == "Gather" and graph.dtype(n.input[0]) == TensorProto.INT8 for n in graph.nodes)
    return "QuantizeLinear" in ops or not (tables or ops & OTHER_FORMS)


def dequantizes_weights_alone(graph: Graph) -> bool:
    """Whether weights in few bits stand behind a DequantizeLinear, and activations have no pairs."""
    dequantizes = any(node.op_type == "DequantizeLinear" for node in nodes_within(graph.nodes))
    return dequantizes and not quantizes_by_pairs(graph)


def dequantizer(graph: Graph, tensor: str) -> NodeProto | None:
    """The DequantizeLinear that computes `tensor`, if one does."""
    node = graph.producer(tensor)
    return node if node is not None and node.op_type == "DequantizeLinear" else None


def moved_dequantizer(graph: Graph, tensor: str, movers: Collection[str] = MOVERS) -> NodeProto | None:
    """The DequantizeLinear that `tensor` comes out of, through operators that only move its values, if there is one.

    Args:
        graph: The quantized graph.
        tensor: What a node reads.
        movers: Operators to look through, by the first of their inputs.
    """
    node = graph.producer(tensor)
    while node is not None and node.op_type in movers:
        node = graph.producer(node.input[0])
    return node if node is not None and node.op_type == "DequantizeLinear" else None


def quantizer(graph: Graph, tensor: str) -> NodeProto | None:
    """The QuantizeLinear that computes `tensor`, if one does."""
    node = graph.producer(tensor)
    return node if node is not None and node.op_type == "QuantizeLinear" else None


def code_type(graph: Graph, qdq: NodeProto) -> int:
    """TensorProto.DataType of the codes that a Q writes or a DQ reads (uint8 where no zero-point says otherwise)."""
    if len(qdq.input) > 2 and qdq.input[2]:
        return graph.dtype(qdq.input[2]) or TensorProto.UINT8
    for attr in qdq.attribute:
        if attr.name == "output_dtype" and attr.i:
            return int(attr.i)
    if qdq.op_type == "DequantizeLinear":
        return graph.dtype(qdq.input[0]) or TensorProto.UINT8
    return TensorProto.UINT8


def is_float_type(dtype: int) -> bool:
    """Whether a TensorProto.DataType is float of any width."""
    return dtype in FLOAT_TYPES


def is_float_tensor(graph: Graph, tensor: str) -> bool:
    """Whether `tensor` is float of any width; a tensor of unknown type counts as float."""
    dtype = graph.dtype(tensor)
    return dtype is None or is_float_type(dtype)


def output_problem(graph: Graph, tensor: str) -> str:
    """What keeps `tensor` from being quantized and nothing else; "" if nothing does.

    Args:
        graph: The quantized graph.
        tensor: The output of a node.

    Returns:
        A sentence without full stop that names the reader in the way.
    """
    if graph.is_output(tensor):
        return f"its output {tensor!r} is an output of the model in float"
    readers = graph.consumers(tensor)
    if not readers:
        return f"its output {tensor!r} is read by nothing"
    others = [n for n in readers if n.op_type != "QuantizeLinear"]
    if others:
        reader = others[0]
        return f"its output {tensor!r} goes to {reader.op_type} {reader.name!r} without QuantizeLinear"
    if len(readers) > 1:
        return f"its output {tensor!r} goes to {len(readers)} QuantizeLinear nodes"
    return ""


def placement(graph: Graph, node: NodeProto) -> NodePlacement:
    """How Q/DQ surrounds `node`."""
    dequantized, plain = [], []
    for slot, tensor in enumerate(node.input):
        if not tensor:
            continue
        if dequantizer(graph, tensor) is not None:
            dequantized.append(slot)
        elif is_float_tensor(graph, tensor):
            plain.append(slot)
    problem = output_problem(graph, node.output[0]) if node.output and node.output[0] else "it has no output"
    return NodePlacement(
        node=node.name,
        op=node.op_type,
        dequantized=tuple(dequantized),
        plain=tuple(plain),
        quantized_output=not problem,
        output_problem=problem,
    )


def placements(graph: Graph) -> tuple[NodePlacement, ...]:
    """`placement` of every node but Q and DQ, in graph order."""
    return tuple(placement(graph, n) for n in graph.nodes if not is_qdq(n))


def meant_for_int8(graph: Graph) -> tuple[str, ...]:
    """Names of the matrix operators whose operands are both dequantized, a weight and its data also if moved since."""
    return tuple(n.name for n in graph.nodes if n.op_type in MATRIX_OPS and _is_meant(graph, n))


def _is_meant(graph: Graph, node: NodeProto) -> bool:
    operands = node.input[:2]
    if all(dequantizer(graph, tensor) is not None for tensor in operands):
        return True
    pairs = [moved_dequantizer(graph, tensor) for tensor in operands]
    # Of two activations that were moved their writers may have been meant, and this product not.
    return None not in pairs and any(dq is not None and _holds_constant(graph, dq) for dq in pairs)


def _holds_constant(graph: Graph, dq: NodeProto) -> bool:
    before = quantizer(graph, dq.input[0])
    return graph.is_constant(dq.input[0] if before is None else before.input[0])


def stranded(graph: Graph) -> tuple[str, ...]:
    """Names of Q and DQ nodes that buy nothing.

    1. A DQ of an activation none of whose readers is a matrix operator or has all its float inputs dequantized,
       and which is not a model output.
    2. A Q whose codes nobody reads and which is not a model output.
    """
    names: list[str] = []
    for node in graph.nodes:
        if not is_qdq(node) or graph.is_output(node.output[0]):
            continue
        readers = graph.consumers(node.output[0])
        if node.op_type == "QuantizeLinear":
            if not readers:
                names.append(node.name)
        elif quantizer(graph, node.input[0]) is not None and not any(_served(graph, r) for r in readers):
            names.append(node.name)
    return tuple(names)


def _served(graph: Graph, reader: NodeProto) -> bool:
    if reader.op_type in MATRIX_OPS or reader.op_type == "QuantizeLinear":
        return True
    return not placement(graph, reader).plain
