"""Keeps an engine from seeing through a node that is to stay float.

onnxruntime rewrites patterns, whoever wrote them: a float Conv, AveragePool or Add between a DQ and a Q is turned to
int8, its weights quantized on the way, and a Gemm is fused with the Relu behind it before its own int8 form is found
(C16). A Sum of one operand, which computes nothing and which no pattern looks through, between the two ends that.

Cases:
  1. Every reader of a tensor in the plan's `holds` gets the tensor through a Sum.
  2. The Sum is there already: nothing happens.
"""

from __future__ import annotations

from onnxq.graph.view import Graph
from onnxq.passes.base import Pass, PassLog, PassResult
from onnxq.planning.plan import QuantPlan


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
            if [graph.node(use.node).op_type for use in uses] == ["Sum"]:
                continue
            held = graph.unique_name(f"{tensor}_held")
            graph.replace_uses(tensor, held, uses)
            graph.add_node("Sum", [tensor], [held], name=f"{tensor}_hold")
            graph.copy_value_info(tensor, held)
            log.edit(f"{tensor!r} held in float", *(use.node for use in uses))
        return log.result(graph)
