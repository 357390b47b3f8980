"""Keeps an engine from seeing through a node that is to stay float.

onnxruntime rewrites patterns, whoever wrote them: a float Conv, AveragePool or Add between a DQ and a Q is turned to
int8, its weights quantized on the way, and a Gemm is fused with the Relu behind it before its own int8 form is found
(C16). A Sum of one operand, which computes nothing and which no pattern looks through, between the two ends that.

Cases:
  1. Every reader of a tensor in the plan's `holds` gets the tensor through a Sum.
  2. The Sum is there already: nothing happens.
  3. What a body of If, Loop or Scan reads from outside, where only operators that move codes stand between it and a DQ:
     onnxruntime (1.20 to 1.32) would hand a Q/DQ pair down to that reader, for which a node has no input of its own,
     and end the process. The body gets the tensor through a Sum.
"""

from __future__ import annotations

from onnx import NodeProto

from onnxq.graph.view import CAPTURED, Graph, Use
from onnxq.passes.base import Pass, PassLog, PassResult
from onnxq.planning.plan import QuantPlan

_MOVERS = frozenset({"Flatten", "Identity", "MaxPool", "Reshape", "Slice", "Squeeze", "Transpose", "Unsqueeze"})


class HoldFloat(Pass):
    """See the module's docstring. Runs after the pairs are inserted, so that a Q counts as a reader.

    Args:
        plan: Which tensors to hold.
    """

    def __init__(self, plan: QuantPlan) -> None:
        self._plan = plan

    def run(self, graph: Graph) -> PassResult:
        log = PassLog()
        for tensor in self._plan.holds:
            uses = graph.uses(tensor)
            if [graph.node(use.node).op_type for use in uses] != ["Sum"]:
                _hold(graph, tensor, uses, log)
        for node in graph.nodes:
            for tensor in node.output if node.op_type in _MOVERS else ():
                captured = [use for use in graph.uses(tensor) if use.slot == CAPTURED]
                if captured and _moves_from_pair(graph, node):
                    _hold(graph, tensor, captured, log)
        return log.result(graph)


def _hold(graph: Graph, tensor: str, uses: list[Use], log: PassLog) -> None:
    held = graph.unique_name(f"{tensor}_held")
    graph.replace_uses(tensor, held, uses)
    graph.add_node("Sum", [tensor], [held], name=f"{tensor}_hold")
    graph.copy_value_info(tensor, held)
    log.edit(f"{tensor!r} held in float", *(use.node for use in uses))


def _moves_from_pair(graph: Graph, node: NodeProto) -> bool:
    """Whether what `node` moves comes from a DQ."""
    above = graph.producer(node.input[0])
    while above is not None and above.op_type in _MOVERS:
        above = graph.producer(above.input[0])
    return above is not None and above.op_type == "DequantizeLinear"
