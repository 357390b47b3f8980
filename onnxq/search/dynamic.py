"""Mixed precision in mode "dynamic": which nodes get int8 weights, and which stay float.

A layer is a node with weights, in the model's own graph or in a body of If, Loop or Scan. Those in bodies are not
measured alone by a search: they are judged in whole models.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxq.calibration.runner import CollectOptions
from onnxq.calibration.solve import QParamsTable, constant_values
from onnxq.data.batches import Batch
from onnxq.dynamic.planning import sites_of_plan
from onnxq.dynamic.weights import solve_dynamic, stored_values
from onnxq.graph.match import Miss, biased_matmul
from onnxq.graph.view import Graph, Use
from onnxq.pipeline.nested_plans import Nested
from onnxq.pipeline.uncalibrated_plans import DynamicPlan
from onnxq.planning.modes import DYNAMIC
from onnxq.planning.plan import Action, NodeDecision, QuantPlan
from onnxq.search.effects import AS_IT_RUNS, Bench
from onnxq.search.fewest import Excluded
from onnxq.search.layers import Layer, at_path, below
from onnxq.search.space import Space
from onnxq.targets.schema import Target

_REASON = "left in float for the accuracy budget"
_ACTIVATIONS_INSIDE = frozenset({"LSTM", "GRU"})
"""Operators that round what no tensor of the graph shows: they are not measured alone."""


@dataclass(frozen=True, kw_only=True)
class _Part:
    """The model's own graph, or one in it.

    Attributes:
        path: Where it is; ends in a slash or is empty.
        graph: The graph.
        plan: Its plan.
        layers: Its layers in graph order, named without the path.
    """

    path: str
    graph: Graph
    plan: QuantPlan
    layers: tuple[Layer, ...]

    def values(self, layer: Layer, qparams: QParamsTable) -> dict[str, NDArray[np.float32]]:
        """What the codes of a layer's weights stand for, by tensor."""
        return {
            tensor: stored_values(constant_values(self.graph, tensor), qparams[key])
            for tensor, key in layer.constants.items()
        }


def _parts(graph: Graph, plan: QuantPlan, nested: Sequence[Nested], path: str = "") -> Iterator[_Part]:
    """The graph, and behind it those inside."""
    decisions, sites = {d.node: d for d in plan.nodes}, sites_of_plan(graph, plan)
    layers = tuple(_layer(graph, plan, decisions[n.name], sites[n.name]) for n in graph.nodes if n.name in sites)
    yield _Part(path=path, graph=graph, plan=plan, layers=layers)
    for one in nested:
        yield from _parts(one.graph, one.plan, one.inner, f"{path}{one.subgraph.path}/")


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
    """`planned` without the weights that nodes of these names, or paths, read."""
    plan = _without(planned.graph, planned.plan, names)
    return replace(planned, plan=plan, nested=_nested_without(planned.nested, names))


def _nested_without(nested: Sequence[Nested], names: Excluded) -> tuple[Nested, ...]:
    found = []
    for one in nested:
        inner = below(names, f"{one.subgraph.path}/")
        plan = _without(one.graph, one.plan, inner)
        found.append(replace(one, plan=plan, inner=_nested_without(one.inner, inner)))
    return tuple(found)


def _without(graph: Graph, plan: QuantPlan, names: Excluded) -> QuantPlan:
    tensors = {}
    for key, tensor in plan.tensors.items():
        uses = tuple(use for use in tensor.uses if use.node not in names)
        if uses:
            tensors[key] = replace(tensor, uses=uses)
    matches = [biased_matmul(graph, graph.node(name)) for name in names if graph.has_node(name)]
    biases = {match.nodes[-1] for match in matches if not isinstance(match, Miss)}

    def decided(decision: NodeDecision) -> NodeDecision:
        if decision.node in names or (decision.node in biases and decision.action is Action.FUSED):
            return replace(decision, action=Action.FLOAT, reason=_REASON, rule="budget")
        return decision

    return replace(plan, tensors=tensors, nodes=tuple(decided(d) for d in plan.nodes))


def dynamic_space(planned: DynamicPlan, target: Target, make: Callable[[DynamicPlan], Graph]) -> Space:
    """What a search over nodes left in float chooses among.

    Args:
        planned: The whole plan.
        target: Its table.
        make: Makes the model of a plan.
    """
    parts = list(_parts(planned.graph, planned.plan, planned.nested))
    own, layers = parts[0], [at_path(layer, part.path) for part in parts for layer in part.layers]

    @cache
    def solved(path: str) -> QParamsTable:
        part = next(part for part in parts if part.path == path)
        return solve_dynamic(part.graph, part.plan, target)

    def own_noise() -> dict[str, float]:
        return {
            f"{part.path}{layer.node}": _share(part.graph, part.values(layer, solved(part.path)))
            for part in parts
            for layer in part.layers
        }

    def bench(samples: Sequence[Batch], options: CollectOptions) -> Bench:
        qparams = solved(own.path)
        return Bench(
            graph=own.graph,
            qparams=qparams,
            samples=samples,
            options=options,
            constants=lambda layer: own.values(layer, qparams),
        )

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
        measurable=frozenset(layer.node for layer in own.layers if layer.op not in _ACTIVATIONS_INSIDE),
    )


def _share(graph: Graph, values: Mapping[str, NDArray[Any]]) -> float:
    """Noise of the weights, as a share of their power. What rounding makes of inputs is not known beforehand."""
    total = 0.0
    for tensor, rounded in values.items():
        true = constant_values(graph, tensor).astype(np.float32)
        signal = float(np.vdot(true, true))
        total += float(np.vdot(rounded - true, rounded - true)) / signal if signal else 0.0
    return total
