"""A Mul of their own for tensors whose channels nothing that writes them can divide.

    x -> MatMul(W)        x -> Mul(1 / s) -> MatMul(s W)

An input of the model is one (features in units of their own, the coefficients of a spectrum), what a LayerNormalization
also hands to a residual sum, what a GELU gives. The Mul costs a pass over the tensor, which is little beside the
products that read it, and only stands where levelling finds much to gain.

Cases:
  1. A quantized float tensor that the plan computes in float, or an input of the model; all that reads its codes are
     Convs, Gemms and MatMuls with a constant weight: its readers read a Mul by ones instead, which levelling can scale.
  2. Left alone: what int8 nodes write (a Mul would break them apart), tensors whose parameters others share or bound,
     outputs of the model, tensors of one channel.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace

import numpy as np
from onnx import TensorProto, helper

from onnxq.graph.view import Graph
from onnxq.planning.plan import Action, Derived, NodeDecision, Observed, QuantPlan, SharedWith, TensorPlan
from onnxq.recovery.channel_rules import summed_axis

RULE = "level"
"""What plans give as the rule of a node that divides channels."""


@dataclass(frozen=True, kw_only=True)
class Divided:
    """A graph with a Mul by ones in front of readers of some tensors.

    Attributes:
        graph: The graph.
        plan: Its plan, in which the divided tensors have the place of the others.
        origins: By divided tensor, the tensor that it is made of.
    """

    graph: Graph
    plan: QuantPlan
    origins: Mapping[str, str]

    def only(self, tensors: Collection[str], plan: QuantPlan, graph: Graph) -> Divided:
        """`graph`, made of this one by changing constants, without Muls but those that write `tensors`.

        Args:
            tensors: Divided tensors.
            plan: The plan as it was before.
            graph: The graph; it is not changed.
        """
        graph = graph.copy()
        for tensor, origin in self.origins.items():
            node = graph.producer(tensor)
            if tensor not in tensors and node is not None:
                graph.replace_uses(tensor, origin)
                graph.remove_node(node)
        graph.prune()
        graph.sort()
        kept = {tensor: origin for tensor, origin in self.origins.items() if tensor in tensors}
        return Divided(graph=graph, plan=_divided_plan(plan, graph, kept), origins=kept)


def with_dividers(graph: Graph, plan: QuantPlan, free: Collection[str]) -> Divided:
    """`graph` with a Mul by ones wherever one may stand (1).

    Args:
        graph: The float graph of the plan; it is not changed.
        plan: The plan.
        free: Tensors whose channels can be divided without.
    """
    places = {t.name: channels for t in plan.tensors.values() if (channels := _channels(graph, plan, t))}
    places = {name: channels for name, channels in places.items() if name not in free}
    if not places:
        return Divided(graph=graph, plan=plan, origins={})
    graph, origins = graph.copy(), dict[str, str]()
    for name, (axis, size) in places.items():
        divided, rank = graph.unique_name(f"{name}_divided"), graph.rank(name) or 0
        ones = np.ones([size, *[1] * (rank - 1 - axis)], np.float32)
        factor = graph.add_initializer(graph.unique_name(f"{name}_divisors"), ones)
        graph.add_node("Mul", [name, factor], [divided], name=divided)
        graph.replace_uses(name, divided, plan.tensors[name].uses)
        graph.set_value_info(
            [
                *graph.value_infos.values(),
                helper.make_tensor_value_info(divided, TensorProto.FLOAT, graph.shape(name)),
            ]
        )
        origins[divided] = name
    graph.sort()
    return Divided(graph=graph, plan=_divided_plan(plan, graph, origins), origins=origins)


def _channels(graph: Graph, plan: QuantPlan, tensor: TensorPlan) -> tuple[int, int] | None:
    """The axis of `tensor` that its readers sum over, and its size; None where no Mul may stand."""
    source, name = tensor.source, tensor.name
    if not isinstance(source, Observed) or source.reach is not None or tensor.group is not None:
        return None
    if tensor.covers_output or plan.tensors.get(name) is not tensor or graph.dtype(name) != TensorProto.FLOAT:
        return None
    if any(isinstance(t.source, SharedWith) and t.source.tensor == name for t in plan.tensors.values()):
        return None
    producer = graph.producer(name)
    if producer is None and not graph.is_input(name):
        return None
    if producer is not None and _actions(plan).get(producer.name) is not Action.FLOAT:
        return None
    found = {summed_axis(graph, graph.node(use.node)) if use.slot == 0 else None for use in tensor.uses}
    axis, size = next(iter(found), None) or (0, 1)
    return (axis, size) if len(found) == 1 and size > 1 else None


def _actions(plan: QuantPlan) -> dict[str, Action]:
    return {decision.node: decision.action for decision in plan.nodes}


def _divided_plan(plan: QuantPlan, graph: Graph, origins: Mapping[str, str]) -> QuantPlan:
    """`plan` for divided tensors in place of those that they are made of."""
    names = {origin: divided for divided, origin in origins.items()}
    tensors = {}
    for key, tensor in plan.tensors.items():
        source = tensor.source
        if isinstance(source, Derived) and source.data in names:
            source = replace(source, data=names[source.data])
        if key not in names:
            tensors[key] = replace(tensor, source=source)
            continue
        lower = source.lower if isinstance(source, Observed) and source.lower == 0.0 else None
        tensors[names[key]] = replace(tensor, name=names[key], source=Observed(lower=lower))
    decisions = {decision.node: decision for decision in plan.nodes}
    decisions |= {
        node.name: NodeDecision(
            node=node.name,
            op=node.op_type,
            action=Action.FLOAT,
            reason=f"divides the channels of {origins[node.output[0]]!r}, so that one scale serves all of them",
            rule=RULE,
        )
        for node in graph.nodes
        if node.output[0] in origins
    }
    nodes = tuple(decisions[node.name] for node in graph.nodes if node.name in decisions)
    return replace(plan, tensors=tensors, nodes=nodes)
