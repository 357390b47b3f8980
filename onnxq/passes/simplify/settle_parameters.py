"""Scales and zero-points of Q and DQ that are constant in all but form become initializers.

Exporters write them as Constant nodes, hand one to several nodes by an Identity, and cast them to the type of the
codes; engines fold all of that before they look at a pair.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import NodeProto, helper, numpy_helper

from onnxq.graph.constants import operand
from onnxq.graph.view import STANDARD_DOMAINS, Graph, attribute
from onnxq.passes.base import Pass, PassLog, PassManager, PassResult
from onnxq.passes.simplify.lift_constants import LiftConstants, constant_tensor

_PAIRS = frozenset({"QuantizeLinear", "DequantizeLinear"})
_TO_NUMBERS = frozenset("fiu")
"""Kinds of numpy types between which a cast means here what it means in ONNX."""


class SettleParameters(Pass):
    """Replace parameters of pairs that Constant, Identity and Cast make of constants by initializers of the same name.

    1. Left alone: what other operators compute, types that numpy does not know, and outputs of the graph.
    """

    def run(self, graph: Graph) -> PassResult:
        log = PassLog()
        for node in graph.nodes:
            if node.op_type not in _PAIRS:
                continue
            for tensor in filter(None, (operand(node, slot) for slot in (1, 2))):
                producer = graph.producer(tensor)
                value = None if producer is None or graph.is_output(tensor) else _value(graph, producer)
                if producer is not None and value is not None:
                    graph.remove_node(producer)
                    graph.add_initializer(tensor, value)
                    log.edit("became an initializer", producer.name)
        if log.edits:
            graph.prune()
        return log.result(graph)


def settle_constants(graph: Graph) -> Graph:
    """`graph`, edited in place: Constant nodes and settled parameters are initializers."""
    PassManager([LiftConstants(), SettleParameters()], name="settle constants").run(graph)
    return graph


def _value(graph: Graph, node: NodeProto) -> NDArray[Any] | None:
    """What `node` gives, if that is known."""
    if node.domain not in STANDARD_DOMAINS:
        return None
    if node.op_type == "Constant":
        tensor = constant_tensor(node)
        return None if tensor is None else np.asarray(numpy_helper.to_array(tensor, str(graph.base_dir or "")))
    if node.op_type not in ("Identity", "Cast"):
        return None
    producer = graph.producer(node.input[0])
    value = graph.constant(node.input[0]) if producer is None else _value(graph, producer)
    if value is None or node.op_type == "Identity":
        return value
    wanted = np.dtype(helper.tensor_dtype_to_np_dtype(int(attribute(node, "to", 0))))
    return value.astype(wanted) if {value.dtype.kind, wanted.kind} <= _TO_NUMBERS else None
