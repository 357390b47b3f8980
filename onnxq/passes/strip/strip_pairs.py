"""Takes the Q/DQ pairs of a quantization-aware training out of a graph and remembers their parameters.

What is left is the float graph that was trained; its weights have the values that the pairs let through, so they can be
quantized again to the very same codes. Where pairs belong is then the planner's to say, as for any float graph.

    x -> Q -> DQ -> reader           reader gets x, and x has the pair's parameters
    w (float) -> Q -> DQ -> reader   w becomes the dequantized values
    w (codes) -> DQ -> reader        likewise
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

import numpy as np
from onnx import NodeProto, TensorProto

from onnxq.errors import UnsupportedModelError
from onnxq.graph.constants import operand, scalar
from onnxq.graph.model import get_metadata, quantized_nodes
from onnxq.graph.view import STANDARD_DOMAINS, Graph, attribute
from onnxq.numerics.arrays import dequantize, qparams_from_scale, quantize
from onnxq.numerics.qparams import QuantParams
from onnxq.numerics.qtypes import QTYPES, UINT8
from onnxq.passes.base import Pass, PassLog, PassResult

_TYPES = {qtype.onnx_type: qtype for qtype in QTYPES.values()}
_Limits = tuple[float, float]
_MOVES = frozenset({
    "Flatten", "Gather", "Identity", "MaxPool", "Reshape", "Slice", "Squeeze", "Transpose", "Unsqueeze",
})  # fmt: skip
"""Operators that may stand between a Q and its DQ: they move codes, and move values as well."""


@dataclass
class TrainedPairs:
    """What the pairs of a graph said, by tensor of the graph without them.

    Attributes:
        activations: Parameters of activations.
        weights: Parameters of constants.
        values: The dequantized constants, as they were stored when their pairs were taken out.
        pairs: How many pairs there were.
        conflicts: Tensors that had several pairs with different parameters; the first one's are kept.
        narrowed: Tensors whose codes a Clip kept in a part of their type's range, which no pair can say.
    """

    activations: dict[str, QuantParams] = field(default_factory=dict)
    weights: dict[str, QuantParams] = field(default_factory=dict)
    values: dict[str, TensorProto] = field(default_factory=dict)
    pairs: int = 0
    conflicts: list[str] = field(default_factory=list)
    narrowed: list[str] = field(default_factory=list)


def has_trained_pairs(graph: Graph) -> bool:
    """Whether all that is quantized in `graph` are Q/DQ pairs that somebody else than onnxq put there."""
    quantized = set(quantized_nodes(graph))
    ops = {node.op_type for node in graph.nodes if node.name in quantized}
    return ops <= {"QuantizeLinear", "DequantizeLinear"} and "onnxq.version" not in get_metadata(graph.frame)


class StripPairs(Pass):
    """Remove Q/DQ pairs; what they said goes to `found`.

    1. A pair behind an activation goes; its readers read the activation, which gets the pair's parameters.
    2. A pair behind a float constant goes; the constant gets the values that the pair lets through.
    3. A DQ behind constant codes goes likewise.
    4. A Clip of codes between Q and DQ, with which exporters write a smaller range than that of the type, goes; so do
       nodes that only move codes, which then move values.
    5. A Transpose of a constant behind its pair is computed, so that the parameters stay with the constant.
    6. An output of the graph that a DQ gives keeps its name: what computes the activation takes it over.
    7. Several pairs behind one activation: the first one's parameters count, and the tensor is noted.
    8. Refused: parameters that are computed, a DQ whose codes do not come from a Q of the same parameters or from a
       constant, codes that something else reads, and types of codes that are not known here.

    Args:
        found: Filled while the pass runs.
    """

    def __init__(self, found: TrainedPairs) -> None:
        self._found = found

    def run(self, graph: Graph) -> PassResult:
        """Run the pass.

        Raises:
            UnsupportedModelError: case 8.
        """
        log = PassLog()
        for node in graph.nodes:
            if node.op_type == "DequantizeLinear" and node.domain in STANDARD_DOMAINS:
                self._strip(graph, node)
                self._found.pairs += 1
                log.edit("the pair was taken out", node.name)
        if log.edits:
            graph.prune()
            left = next((n for n in graph.nodes if n.op_type == "QuantizeLinear"), None)
            if left is not None:
                raise _refused(left, "its codes are read by something else than a DequantizeLinear")
        return log.result(graph)

    def _strip(self, graph: Graph, dequantize_node: NodeProto) -> None:
        params = _params(graph, dequantize_node)
        codes = dequantize_node.input[0]
        if graph.is_constant(codes):  # case 3
            self._constant(graph, dequantize_node, codes, params)
            return
        quantize_node, moves, limits = _origin(graph, dequantize_node)
        if not _equal(params, _params(graph, quantize_node)):
            raise _refused(dequantize_node, f"its parameters are not those of {quantize_node.name!r}")
        source = quantize_node.input[0]
        if graph.is_constant(source):  # case 2
            if moves:
                raise _refused(dequantize_node, "the codes of a constant are moved before they are dequantized")
            self._constant(graph, dequantize_node, source, params, limits=limits)
            return
        if limits is not None:
            self._found.narrowed.append(source)
        known = self._found.activations.setdefault(source, params)
        if not _equal(known, params):  # case 7
            self._found.conflicts.append(source)
        last = source
        for move in moves:  # case 4
            graph.set_input(move, 0, last)
            last = move.output[0]
            graph.forget_shape(last)
        name = _bypass(graph, dequantize_node, last)
        if last == source != name:
            self._found.activations[name] = self._found.activations.pop(source)

    def _constant(
        self, graph: Graph, node: NodeProto, source: str, params: QuantParams, limits: _Limits | None = None
    ) -> None:
        """Let the readers of `node` read the dequantized constant."""
        value = graph.constant(source)
        if value is None:
            raise _refused(node, "its constant cannot be read")
        codes = quantize(value, params) if value.dtype.kind == "f" else value
        real = dequantize(codes if limits is None else np.clip(codes, *limits), params)
        result, axis = node.output[0], params.spec.axis
        readers = graph.consumers(result)
        if len(readers) == 1 and readers[0].op_type == "Transpose" and not graph.is_output(result):  # case 5
            order = list(attribute(readers[0], "perm", range(real.ndim - 1, -1, -1)))
            real = np.ascontiguousarray(real.transpose(order))
            if axis is not None:
                params = replace(params, spec=replace(params.spec, axis=order.index(axis % real.ndim)))
            graph.remove_node(node)
            node, result = readers[0], readers[0].output[0]
        graph.remove_node(node)
        graph.add_initializer(result, real)
        self._found.weights[result] = params
        self._found.values[result] = graph.initializers[result]


def _origin(graph: Graph, node: NodeProto) -> tuple[NodeProto, list[NodeProto], _Limits | None]:
    """The Q that made the codes of a DQ, the nodes that move them in between, in order, and the limits of a Clip."""
    moves: list[NodeProto] = []
    limits = None
    producer = graph.producer(node.input[0])
    while producer is not None and producer.domain in STANDARD_DOMAINS and producer.op_type != "QuantizeLinear":
        if producer.op_type == "Clip":
            lower, upper = (scalar(graph, operand(producer, slot)) for slot in (1, 2))
            limits = (-math.inf if lower is None else lower, math.inf if upper is None else upper)
        elif producer.op_type in _MOVES and len(graph.uses(producer.output[0])) == 1:
            moves.insert(0, producer)
        else:
            break
        producer = graph.producer(producer.input[0])
    if producer is None or producer.op_type != "QuantizeLinear" or producer.domain not in STANDARD_DOMAINS:
        made_by = "an input of the model" if producer is None else f"{producer.op_type} {producer.name!r}"
        raise _refused(node, f"its codes come from {made_by}, not from a QuantizeLinear or a constant")
    return producer, moves, limits


def _params(graph: Graph, node: NodeProto) -> QuantParams:
    scale = graph.constant(operand(node, 1))
    zero_point = graph.constant(operand(node, 2))
    if scale is None or (operand(node, 2) and zero_point is None):
        raise _refused(node, "its scale or zero-point is computed")
    if attribute(node, "block_size", 0):
        raise _refused(node, "it has a scale for each block")
    kind = _kind(graph, node)
    if kind not in _TYPES:
        raise _refused(node, f"its codes are of type {TensorProto.DataType.Name(kind)}")
    qtype = _TYPES[kind]
    axis = None
    if scale.size > 1:
        axis = int(attribute(node, "axis", 1))
    zeros = np.zeros(1, np.int64) if zero_point is None else zero_point.astype(np.int64).reshape(-1)
    return qparams_from_scale(
        scale.astype(np.float32).reshape(-1) if axis is not None else float(scale.reshape(())),
        zeros if axis is not None and zeros.size > 1 else int(zeros[0]),
        qtype=qtype,
        axis=axis,
    )


def _kind(graph: Graph, node: NodeProto) -> int:
    """TensorProto.DataType of a node's codes."""
    if operand(node, 2):
        return int(graph.initializers[node.input[2]].data_type)
    if node.op_type == "QuantizeLinear":
        return int(attribute(node, "output_dtype", 0)) or UINT8.onnx_type
    if node.input[0] in graph.initializers:
        return int(graph.initializers[node.input[0]].data_type)
    return graph.dtype(node.input[0]) or UINT8.onnx_type


def _equal(one: QuantParams, other: QuantParams) -> bool:
    return (
        one.spec.qtype == other.spec.qtype
        and np.array_equal(one.scale, other.scale)
        and np.array_equal(one.zero_point, other.zero_point)
    )


def _bypass(graph: Graph, node: NodeProto, source: str) -> str:
    """Let the readers of `node` read `source`, and return the name that `source` has afterwards."""
    result = str(node.output[0])
    producer = graph.producer(source)
    if not graph.is_output(result):
        graph.replace_uses(result, source)
        graph.remove_node(node)
        return source
    graph.remove_node(node)
    if producer is None or graph.is_output(source):
        graph.add_node("Identity", [source], [result], name=f"{result}_copy")
        graph.replace_uses(result, source)
        return source
    graph.set_output(producer, list(producer.output).index(source), result)  # case 6
    graph.replace_uses(source, result)
    graph.forget_shape(source)
    return result


def _refused(node: NodeProto, reason: str) -> UnsupportedModelError:
    return UnsupportedModelError(
        f"the model comes quantized, and this pair cannot be taken over: {reason}",
        where=f"{node.op_type} {node.name!r}",
        hint="export the trained model with plain QuantizeLinear/DequantizeLinear pairs, or give the float one; "
        "onnxq.strip(...) (onnxq strip) makes a float model of this one, without the scales of its training",
    )
