"""What a Loop hands from step to step without changing it is read from outside instead.

    Loop(.., W) { body(i, c, .., w) => (c2, .., w)   y = MatMul(x, w) }        ->   Loop(..) { y = MatMul(x, W) }

Converters of Keras give the weights of a recurrent layer so. Read from outside they are constants of the body, which
can be quantized. Operator: https://onnx.ai/onnx/operators/onnx__Loop.html
"""

from __future__ import annotations

from collections.abc import Iterator

from onnx import GraphProto, NodeProto

from onnxq.graph.messages import attribute, rename_captured
from onnxq.graph.view import STANDARD_DOMAINS, Graph
from onnxq.passes.base import Pass, PassLog, PassResult

_FIRST_STATE = 2
"""Slot of the first state among the inputs of a Loop and of its body, behind trip count and condition."""


class CaptureInvariants(Pass):
    """Take states that never change out of Loops.

    1. The state begins as a constant and the body gives back what it was given, itself or through Identities: the
       body reads the constant.
    2. What the Loop gives out for it is that constant: readers read it; an output of the graph gets it by an Identity.
    3. Left alone: the state begins as something computed, or changes, or the body gives it out elsewhere as well.
    """

    def run(self, graph: Graph) -> PassResult:
        log = PassLog()
        for node in graph.nodes:
            if node.op_type == "Loop" and node.domain in STANDARD_DOMAINS:
                slots = list(_invariants(graph, node))
                if slots:
                    _capture(graph, node, slots)
                    log.edit(f"{len(slots)} of its states never change and are read from outside", node.name)
        return log.result(graph)


def _invariants(graph: Graph, node: NodeProto) -> Iterator[int]:
    """Slots of the states that never change (1, 3)."""
    body: GraphProto = attribute(node, "body")
    handed_on = {n.output[0]: n.input[0] for n in body.node if n.op_type == "Identity" and n.domain in STANDARD_DOMAINS}
    given = [_origin(value.name, handed_on) for value in body.output]
    for slot in range(_FIRST_STATE, len(body.input)):
        inner, initial = body.input[slot].name, node.input[slot]
        if graph.is_constant(initial) and given[slot - 1] == inner and given.count(inner) == 1:
            yield slot


def _origin(tensor: str, handed_on: dict[str, str]) -> str:
    while tensor in handed_on:
        tensor = handed_on[tensor]
    return tensor


def _capture(graph: Graph, node: NodeProto, slots: list[int]) -> None:
    """Take the states of these slots out of a Loop (1, 2)."""
    body = GraphProto()
    body.CopyFrom(attribute(node, "body"))
    inputs, outputs = list(node.input), list(node.output)
    given = {outputs[slot - _FIRST_STATE]: inputs[slot] for slot in slots if slot - _FIRST_STATE < len(outputs)}
    for slot in reversed(slots):
        inner = body.input[slot].name
        del body.output[slot - 1], body.input[slot]
        rename_captured(body, inner, inputs[slot])
        del inputs[slot]
        del outputs[slot - _FIRST_STATE : slot - _FIRST_STATE + 1]
    for output, initial in given.items():
        graph.replace_uses(output, initial)
    others = [a for a in node.attribute if a.name != "body"]
    graph.remove_node(node)
    made = graph.add_node("Loop", inputs, outputs, name=node.name, domain=node.domain, attributes={"body": body})
    made.attribute.extend(others)
    for output, initial in given.items():
        if output and graph.is_output(output):
            graph.add_node("Identity", [initial], [output], name=f"{output}_Identity")
