"""Gives all activations of a node one width, on engines that compute on codes alone (Q7).

Cases:
  1. A node reads codes of 16 and of 8 bits: what has 8 gets a pair of 16 bits behind its own, for this node.
  2. A node reads codes of 16 bits and its output goes to a Q of 8 bits: a pair of 16 bits comes between.
  3. A node writes codes of 16 bits and reads some of 8: as case 1.
  4. All activations of a node have one width: nothing happens. Weights and biases do not count.

The wider codes hold what the narrow ones hold, up to the rounding of a scale: with b = 257 a and zero-point * 257,

    (b - 257 z) * s / 257 = (a - z) * s        and 255 becomes 65535
"""

from __future__ import annotations

import numpy as np
from onnx import NodeProto

from onnxq.errors import InternalError
from onnxq.graph.code_tensors import code_tensor, qtype_of
from onnxq.graph.view import STANDARD_DOMAINS, Graph, Use
from onnxq.numerics.qtypes import UINT8, UINT16, QType
from onnxq.passes.base import Pass, PassLog, PassResult

_STEPS = 257
"""65535 / 255."""

_WITH_WEIGHTS = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})
_QDQ = frozenset({"QuantizeLinear", "DequantizeLinear"})


class ConvertWidths(Pass):
    """See the module's docstring. For asymmetric unsigned codes."""

    def run(self, graph: Graph) -> PassResult:
        log = PassLog()
        wide: dict[str, str] = {}
        for node in list(graph.nodes):
            if node.op_type in _QDQ or node.domain not in STANDARD_DOMAINS:
                continue
            read = {slot: _type_of(graph, tensor) for slot, tensor in _activations(node)}
            writers = {use.node for output in node.output if output for use in graph.uses(output)}
            written = [n for n in map(graph.node, sorted(writers)) if n.op_type == "QuantizeLinear"]
            types = {*read.values(), *(_code_type(graph, q) for q in written)}
            if not {UINT8, UINT16} <= types:
                continue
            for slot, qtype in read.items():
                if qtype == UINT8:
                    _read_wide(graph, node, slot, wide)
            for quantizer in written:
                if _code_type(graph, quantizer) == UINT8:
                    _write_wide(graph, quantizer)
            log.edit("codes of 16 bits for all activations", node.name)
        return log.result(graph)


def _activations(node: NodeProto) -> list[tuple[int, str]]:
    slots = list(enumerate(node.input))
    if node.op_type in _WITH_WEIGHTS:
        slots = slots[:1]
    return [(slot, tensor) for slot, tensor in slots if tensor]


def _type_of(graph: Graph, tensor: str) -> QType | None:
    """Type of the codes that `tensor` was dequantized from; None for what is float."""
    node = graph.producer(tensor)
    return None if node is None or node.op_type != "DequantizeLinear" else _code_type(graph, node)


def _code_type(graph: Graph, node: NodeProto) -> QType | None:
    return qtype_of(graph.dtype(node.input[2]) or 0) if len(node.input) > 2 else None


def _read_wide(graph: Graph, node: NodeProto, slot: int, wide: dict[str, str]) -> None:
    tensor = str(node.input[slot])
    if tensor not in wide:
        narrow = graph.producer(tensor)
        if narrow is None:
            raise InternalError(f"{tensor!r} is dequantized by nothing")
        wide[tensor] = _pair(graph, tensor, narrow)
    graph.replace_uses(tensor, wide[tensor], [Use(node.name, slot)])


def _write_wide(graph: Graph, quantizer: NodeProto) -> None:
    tensor = str(quantizer.input[0])
    uses = [use for use in graph.uses(tensor) if use.node == quantizer.name]
    graph.replace_uses(tensor, _pair(graph, tensor, quantizer), uses)


def _pair(graph: Graph, source: str, narrow: NodeProto) -> str:
    """Add a pair of 16 bits behind `source`, with the range of `narrow`, and return the tensor behind it."""
    scale, zero_point = graph.constant(narrow.input[1]), graph.constant(narrow.input[2])
    if scale is None or zero_point is None:
        raise InternalError(f"the parameters of {narrow.name!r} are no constants")
    name = graph.unique_name(f"{source}_wide_scale")
    finer = graph.add_initializer(name, np.asarray(scale / np.float32(_STEPS), np.float32))
    name = graph.unique_name(f"{source}_wide_zero_point")
    middle = graph.add_initializer(name, code_tensor(zero_point.astype(np.uint16) * np.uint16(_STEPS), UINT16, name))
    codes, result = graph.unique_name(f"{source}_wide_codes"), graph.unique_name(f"{source}_wide")
    graph.add_node("QuantizeLinear", [source, finer, middle], [codes], name=f"{result}_QuantizeLinear")
    graph.add_node("DequantizeLinear", [codes, finer, middle], [result], name=f"{result}_DequantizeLinear")
    graph.copy_value_info(source, result)
    return result
