"""Mixed precision in mode "dynamic": which nodes get int8 weights, and which stay float.

A layer is a node with weights. What is in subgraphs is quantized in all of these models.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxq.calibration.runner import CollectOptions
from onnxq.calibration.solve import QParamsTable, constant_values
from onnxq.data.batches import Batch
from onnxq.dynamic.planning import sites_of_plan
from onnxq.dynamic.weights import stored_values
from onnxq.graph.match import Miss, biased_matmul
from onnxq.graph.view import Graph, Use
from onnxq.pipeline.uncalibrated_plans import DynamicPlan
from onnxq.planning.modes import DYNAMIC
from onnxq.planning.plan import Action, NodeDecision, QuantPlan
from onnxq.search.effects import AS_IT_RUNS, Bench
from onnxq.search.fewest import Excluded
from onnxq.search.layers import Layer
from onnxq.search.space import Space

_REASON = "left in float for the accuracy budget"
_ACTIVATIONS_INSIDE = frozenset({"LSTM", "GRU"})
"""Operators that round what no tensor of the graph shows: they are not measured alone."""


def dynamic_layers(planned: DynamicPlan) -> list[Layer]:
    """The layers of a plan, in graph order."""
    graph, decisions = planned.graph, {d.node: d for d in planned.plan.nodes}
    sites = sites_of_plan(graph, planned.plan)
    return [_layer(graph, planned.plan, decisions[n.name], sites[n.name]) for n in graph.nodes if n.name in sites]


def _layer(graph: Graph, plan: QuantPlan, decision: NodeDecision, keys: Mapping[int, str]) -> Layer:
    node = graph.node(decision.node)
    tensors = {plan.tensors[key].name: key for key in keys.values()}
    rounds_input = decision.action is Action.INT8 and node.op_type != "Gather"
    return Layer(
        node=node.name,
        op=node.op_type,
        macs=decision.macs,
        weights=sum(int(np.prod(graph.initializers[name].dims, dtype=np.int64)) for name in tensors),
        nodes=(node.name,),
        rounded={Use(node.name, 0): AS_IT_RUNS} if rounds_input else {},
        constants=tensors,
        end=node.output[0],
        end_key=None,
    )


def with_nodes_in_float(planned: DynamicPlan, names: Excluded) -> DynamicPlan:
    """`planned` without the weights that nodes of these names read."""
    graph, plan = planned.graph, planned.plan
    tensors = {}
    for key, tensor in plan.tensors.items():
        uses = tuple(use for use in tensor.uses if use.node not in names)
        if uses:
            tensors[key] = replace(tensor, uses=uses)
    matches = [biased_matmul(graph, graph.node(name)) for name in names]
    biases = {match.nodes[-1] for match in matches if not isinstance(match, Miss)}

    def decided(decision: NodeDecision) -> NodeDecision:
        if decision.node in names or (decision.node in biases and decision.action is Action.FUSED):
            return replace(decision, action=Action.FLOAT, reason=_REASON, rule="budget")
        return decision

    return replace(planned, plan=replace(plan, tensors=tensors, nodes=tuple(decided(d) for d in plan.nodes)))


def dynamic_space(planned: DynamicPlan, qparams: QParamsTable, make: Callable[[DynamicPlan], Graph]) -> Space:
    """What a search over nodes left in float chooses among.

    Args:
        planned: The whole plan.
        qparams: Parameters of the weights of its own graph.
        make: Makes the model of a plan.
    """
    layers = dynamic_layers(planned)
    graph = planned.graph

    def values(layer: Layer) -> dict[str, NDArray[np.float32]]:
        return {
            tensor: stored_values(constant_values(graph, tensor), qparams[key])
            for tensor, key in layer.constants.items()
        }

    def own_noise() -> dict[str, float]:
        return {layer.node: _share(graph, values(layer)) for layer in layers}

    def bench(samples: Sequence[Batch], options: CollectOptions) -> Bench:
        return Bench(graph=graph, qparams=qparams, samples=samples, options=options, constants=values)

    def made(floats: Excluded, _: Excluded) -> Graph:
        return make(with_nodes_in_float(planned, floats))

    return Space(
        mode=DYNAMIC,
        source=planned.source,
        digest=planned.plan.digest,
        target=planned.plan.target,
        fused=True,
        layers=layers,
        cost={layer.node: layer.cost for layer in layers},
        counted="arithmetic",
        own_noise=cache(own_noise),
        step=None,
        make=made,
        bench=bench,
        measurable=frozenset(layer.node for layer in layers if layer.op not in _ACTIVATIONS_INSIDE),
    )


def _share(graph: Graph, values: Mapping[str, NDArray[Any]]) -> float:
    """Noise of the weights, as a share of their power. What rounding makes of inputs is not known beforehand."""
    total = 0.0
    for tensor, rounded in values.items():
        true = constant_values(graph, tensor).astype(np.float32)
        signal = float(np.vdot(true, true))
        total += float(np.vdot(rounded - true, rounded - true)) / signal if signal else 0.0
    return total
