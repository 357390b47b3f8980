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
  4. Where the plan's `own_dequantizers` says so, the two operators of a GELU that read one DQ read it through one Sum.
     onnxruntime gives every reader of a DQ one of its own before it looks for GELUs, does not find one then, and
     computes its five operators one by one.
  5. Likewise three and more float nodes that read one DQ, as the Concats of a DenseNet do: one DQ and a copy cost less
     than a DQ for each. Int8 nodes go on reading the DQ itself.
  6. Any other reader of such a DQ (an int8 node, an Add), or a GELU that reads no DQ: nothing happens.
"""

from __future__ import annotations

from onnx import NodeProto

from onnxq.graph.match import gelu_readers
from onnxq.graph.view import CAPTURED, Graph, Use
from onnxq.passes.base import Pass, PassLog, PassResult
from onnxq.planning.plan import Action, QuantPlan
from onnxq.planning.regions import MOST_DEQUANTIZERS

_MOVERS = frozenset({"Flatten", "Identity", "MaxPool", "Reshape", "Slice", "Squeeze", "Transpose", "Unsqueeze"})


class HoldFloat(Pass):
    """See the module's docstring. Runs after the pairs are inserted, so that a Q counts as a reader.

    Args:
        plan: Which tensors to hold.
    """

    def __init__(self, plan: QuantPlan) -> None:
        self._plan = plan
        self._in_float = {decision.node for decision in plan.nodes if decision.action is Action.FLOAT}

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
        for node in graph.nodes if self._plan.own_dequantizers else ():
            if node.op_type == "DequantizeLinear" and not graph.is_constant(node.input[0]):
                self._hold_readers(graph, node.output[0], log)
        return log.result(graph)

    def _hold_readers(self, graph: Graph, tensor: str, log: PassLog) -> None:
        """Hand what a DQ gives to float readers through one Sum, where a DQ for each is worse."""
        if _is_alone_in_gelu(graph, tensor):
            _hold(graph, tensor, graph.uses(tensor), log)
            return
        uses = [use for use in graph.uses(tensor) if use.slot != CAPTURED and use.node in self._in_float]
        if len({use.node for use in uses}) > MOST_DEQUANTIZERS:
            _hold(graph, tensor, uses, log)


def _is_alone_in_gelu(graph: Graph, tensor: str) -> bool:
    """Whether a GELU is all that reads `tensor`, and reads no other DQ."""
    others = [graph.producer(t) for node in gelu_readers(graph, tensor) for t in node.input if t != tensor]
    return bool(others) and not any(node is not None and node.op_type == "DequantizeLinear" for node in others)


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
