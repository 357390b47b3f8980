"""An activation behind what only moves values goes in front of it, to the node with weights.

    Conv -> Slice -> Relu        ->  Conv -> Relu -> Slice
    Conv -> MaxPool -> Relu      ->  Conv -> Relu -> MaxPool

Both compute the same: moving does not change values, and the largest of some values is the largest of what a function
that never falls makes of them. There the activation costs nothing, because engines compute it with the Conv, and the
tensor that is rounded has no negative values. Causal convolutions cut what they padded (S. Bai et al., "An Empirical
Evaluation of Generic Convolutional and Recurrent Networks for Sequence Modeling", 2018), and many networks pool first.
"""

from __future__ import annotations

from onnx import NodeProto

from onnxq.graph.match import Miss, sole_consumer
from onnxq.graph.view import STANDARD_DOMAINS, Graph
from onnxq.passes.base import Pass, PassLog, PassResult

_ACTIVATIONS = frozenset({"Clip", "Relu"})
_WRITERS = frozenset({"Conv", "Gemm"})
_CARRIERS = frozenset({
    "Flatten", "GlobalMaxPool", "MaxPool", "Reshape", "Slice", "Squeeze", "Transpose", "Unsqueeze",
})  # fmt: skip


class LiftActivations(Pass):
    """See the module's docstring. All nodes keep their names.

    1. Relu and Clip behind one or several operators that move values or pool the largest, behind a Conv or Gemm.
    2. Left alone: where something else reads a tensor on the way, or it is an output of the model.
    3. Left alone: a Clip whose limits are computed; a MaxPool that tells indices.
    """

    def run(self, graph: Graph) -> PassResult:
        log = PassLog()
        for node in graph.nodes:
            if not (_is_of(node, _ACTIVATIONS) and all(graph.is_constant(t) for t in node.input[1:] if t)):  # case 3
                continue
            carriers = _carriers(graph, node)
            if carriers:
                _lift(graph, node, carriers)
                log.edit(f"{node.op_type} in front of {carriers[-1].op_type}", node.name)
        if log.edits:
            graph.prune()
            graph.sort()
        return log.result(graph)


def _carriers(graph: Graph, activation: NodeProto) -> list[NodeProto]:
    """The nodes between `activation` and the node with weights before it, the nearest first; empty where it stays."""
    found: list[NodeProto] = []
    node = graph.producer(activation.input[0])
    while node is not None and not isinstance(sole_consumer(graph, node), Miss):  # case 2
        if _is_of(node, _WRITERS):
            return found
        if not _is_of(node, _CARRIERS) or len([t for t in node.output if t]) > 1:  # case 3
            break
        found.append(node)
        node = graph.producer(node.input[0])
    return []


def _lift(graph: Graph, activation: NodeProto, carriers: list[NodeProto]) -> None:
    written, last = carriers[-1].input[0], activation.output[0]
    lifted = graph.unique_name(f"{written}_{activation.op_type}")
    graph.set_output(activation, 0, lifted)
    graph.set_input(activation, 0, written)
    graph.copy_value_info(written, lifted)
    graph.set_input(carriers[-1], 0, lifted)
    graph.set_output(carriers[0], 0, last)


def _is_of(node: NodeProto, types: frozenset[str]) -> bool:
    return node.op_type in types and node.domain in STANDARD_DOMAINS
