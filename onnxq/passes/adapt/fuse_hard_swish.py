"""A hard swish written as x * HardSigmoid(x) becomes one operator, for engines that do not see through the two.

    x * max(0, min(1, x / 6 + 1 / 2)) = HardSwish(x)

Operator: https://onnx.ai/onnx/operators/onnx__HardSwish.html (opset 14). OpenVINO computes a HardSigmoid by a reference
kernel, in front of which the layout of images is changed back; a HardSwish is computed by the Conv before it.
"""

from __future__ import annotations

from collections.abc import Iterator

from onnx import NodeProto

from onnxq.errors import UnsupportedModelError
from onnxq.graph.match import Miss, sole_consumer
from onnxq.graph.opset import upgrade_opset
from onnxq.graph.view import STANDARD_DOMAINS, Graph, attribute
from onnxq.passes.base import Pass, PassLog, PassManager, PassResult
from onnxq.passes.simplify.infer_shapes import InferShapes
from onnxq.targets.schema import HARD_SWISH, Target

_OPSET = 14
_ALPHA, _BETA = 1.0 / 6.0, 0.5
_TOLERANCE = 1e-6
"""How far 1 / 6 written as a float32 attribute may be from the quotient."""


class FuseHardSwish(Pass):
    """See the module's docstring.

    1. HardSigmoid with alpha 1 / 6 and beta 1 / 2, and a Mul of its result by its input.
    2. Left alone: other slopes, as in the gates of squeeze-and-excite blocks.
    3. Left alone: a Mul by anything else, or a HardSigmoid that others read or that is an output of the graph.
    4. Left alone: an opset below 14, which has no HardSwish.
    """

    def run(self, graph: Graph) -> PassResult:
        log = PassLog()
        if graph.opset < _OPSET:  # case 4
            return log.result(graph)
        for gate in list(_gates(graph)):
            mul = sole_consumer(graph, gate)
            if isinstance(mul, Miss):
                log.miss(mul.reason, gate.name)  # case 3
            elif mul.op_type != "Mul" or gate.input[0] not in mul.input:
                log.miss("it is not multiplied by its own input", gate.name)  # case 3
            else:
                name, tensor, result = mul.name, gate.input[0], mul.output[0]
                graph.remove_node(mul)
                graph.remove_node(gate)
                graph.add_node(HARD_SWISH, [tensor], [result], name=name)
                log.edit("hard swish of two operators", gate.name, name)
        return log.result(graph)


def with_whole_operators(graph: Graph, target: Target) -> Graph:
    """`graph` with the operators that `target` wants whole; at a newer opset where that takes one.

    A model that cannot be brought to that opset stays as it is: it computes the same, only slower.
    """
    if HARD_SWISH not in target.whole_operators or next(_gates(graph), None) is None:
        return graph
    try:
        graph = upgrade_opset(graph, _OPSET)
    except UnsupportedModelError:
        return graph
    PassManager([FuseHardSwish(), InferShapes()], name="whole operators").run(graph)
    return graph


def _gates(graph: Graph) -> Iterator[NodeProto]:
    """Nodes that are half of a hard swish, if what follows is the other half (case 2)."""
    for node in graph.nodes:
        if node.op_type != "HardSigmoid" or node.domain not in STANDARD_DOMAINS:
            continue
        slope, offset = attribute(node, "alpha", 0.2), attribute(node, "beta", 0.5)
        if abs(slope - _ALPHA) <= _TOLERANCE and abs(offset - _BETA) <= _TOLERANCE:
            yield node
