"""Mixed precision of weights alone: which are stored in 4 bits, which in 8, and which stay float.

A layer is a weight of the plan and the nodes that read it; weights that a node reads together (W and R of an LSTM) are
one layer. Codes of a weight depend on its form alone, so that they are found once for each form that is tried.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import helper

from onnxq.calibration.runner import CollectOptions
from onnxq.data.batches import Batch
from onnxq.graph.view import Graph
from onnxq.numerics.qtypes import INT8
from onnxq.pipeline.uncalibrated_plans import WeightTree
from onnxq.planning.modes import WEIGHT_ONLY
from onnxq.planning.plan import Action, NodeDecision, TensorPlan
from onnxq.planning.weight_form import QDQ, with_form
from onnxq.search.effects import Bench
from onnxq.search.fewest import Excluded
from onnxq.search.layers import Layer
from onnxq.search.space import Space, Step
from onnxq.targets.schema import Engine, Target
from onnxq.weight_only.engine_forms import taken_by
from onnxq.weight_only.kept import KeptWeights
from onnxq.weight_only.planning import WeightPlan
from onnxq.weight_only.rewriting import from_rows
from onnxq.weight_only.sites import STORED, WeightSite

REASON = "its weight stays float for the accuracy budget"
_WIDER = "its weight is int8 for the accuracy budget"


@dataclass(frozen=True, kw_only=True)
class WeightLayer:
    """What is decided on together.

    Attributes:
        layer: As the search knows it; its name is that of its first node, with its path.
        path: Path of the graph that it is in, which ends in a slash or is empty.
        keys: Its weights, by key of that graph's plan.
        nodes: The nodes that read them.
    """

    layer: Layer
    path: str
    keys: frozenset[str]
    nodes: frozenset[str]

    def narrow_keys(self, tree: WeightTree) -> list[str]:
        """Its weights of fewer than 8 bits in the plan of its graph."""
        tensors = tree.planned.plan.tensors
        return [key for key in tensors if key in self.keys and tensors[key].spec.qtype.bits < INT8.bits]


def weight_layers(tree: WeightTree) -> list[WeightLayer]:
    """The layers of a plan for weights, in graph order, those of subgraphs behind the graph around."""
    return [layer for path, one in tree.walk() for layer in _layers_of(one, path)]


def _layers_of(tree: WeightTree, path: str) -> list[WeightLayer]:
    groups: list[tuple[set[str], set[str]]] = []
    for key, sites in tree.planned.sites.items():
        keys, nodes = {key}, {site.node for site in sites}
        for other in [group for group in groups if group[1] & nodes]:
            groups.remove(other)
            keys, nodes = keys | other[0], nodes | other[1]
        groups.append((keys, nodes))
    places = {node.name: place for place, node in enumerate(tree.graph.nodes)}
    groups.sort(key=lambda group: min(places[node] for node in group[1]))
    return [_layer(tree, path, frozenset(keys), sorted(nodes, key=places.__getitem__)) for keys, nodes in groups]


def _layer(tree: WeightTree, path: str, keys: frozenset[str], nodes: Sequence[str]) -> WeightLayer:
    graph, planned = tree.graph, tree.planned
    decisions = {d.node: d for d in planned.plan.nodes}
    macs = [decisions[node].macs for node in nodes]
    tensors = [planned.plan.tensors[key].name for key in planned.plan.tensors if key in keys]
    transposes = {site.transpose for key in keys for site in planned.sites[key]} - {""}
    layer = Layer(
        node=f"{path}{nodes[0]}",
        op=decisions[nodes[0]].op,
        macs=None if None in macs else sum(count for count in macs if count is not None),
        weights=sum(int(np.prod(graph.initializers[name].dims, dtype=np.int64)) for name in dict.fromkeys(tensors)),
        nodes=(*sorted(transposes), *nodes),
        rounded={},
        constants={planned.plan.tensors[key].name: key for key in sorted(keys)},
        end=graph.node(nodes[0]).output[0],
        end_key=None,
    )
    return WeightLayer(layer=layer, path=path, keys=keys, nodes=frozenset(nodes))


def with_weights(  # noqa: PLR0913, PLR0917 - a plan, and how another one differs
    tree: WeightTree, layers: Sequence[WeightLayer], floats: Excluded, wide: Excluded, target: Target, path: str = ""
) -> WeightTree:
    """`tree` with layers in float and others in int8 with a scale for each channel; a layer in both is in float.

    Args:
        tree: The whole plan.
        layers: Its layers.
        floats: Names of layers.
        wide: Names of layers.
        target: Its table: some engines take a weight in another form than asked for.
        path: Where the tree lies.
    """
    own = [layer for layer in layers if layer.path == path]
    left = [layer for layer in own if layer.layer.node in floats]
    raised = [layer for layer in own if layer.layer.node in wide and layer not in left]
    nested = tuple(
        (one, with_weights(inner, layers, floats, wide, target, f"{path}{one.subgraph.path}/"))
        for one, inner in tree.nested
    )
    return replace(tree, planned=_planned(tree, left, raised, target), nested=nested)


def _planned(
    tree: WeightTree, left: Sequence[WeightLayer], raised: Sequence[WeightLayer], target: Target
) -> WeightPlan:
    planned = tree.planned
    gone = {key for layer in left for key in layer.keys}
    wider = {key for layer in raised for key in layer.narrow_keys(tree)}
    tensors = {
        key: _wider(tree, key, target) if key in wider else tensor
        for key, tensor in planned.plan.tensors.items()
        if key not in gone
    }
    float_nodes = {node for layer in left for node in layer.nodes}
    wider_nodes = {node for layer in raised for node in layer.nodes}

    def decided(decision: NodeDecision) -> NodeDecision:
        if decision.node in float_nodes:
            return replace(decision, action=Action.FLOAT, reason=REASON, rule="budget")
        return replace(decision, reason=_WIDER) if decision.node in wider_nodes else decision

    plan = replace(planned.plan, tensors=tensors, nodes=tuple(decided(d) for d in planned.plan.nodes))
    return replace(planned, plan=plan, sites={key: sites for key, sites in planned.sites.items() if key in tensors})


def _wider(tree: WeightTree, key: str, target: Target) -> TensorPlan:
    tensor = with_form(tree.planned.plan.tensors[key], weight=INT8.name, block_size=0)
    if tree.planned.storage == QDQ and target.engine is not Engine.ONNXRUNTIME:
        return taken_by(target.engine, tree.graph, tensor, tree.planned.sites[key][0])
    return tensor


def weight_space(
    tree: WeightTree, target: Target, source: Graph, kept: KeptWeights, make: Callable[[WeightTree], Graph]
) -> Space:
    """What a search over forms of weights chooses among.

    Args:
        tree: The whole plan.
        target: Its table.
        source: The float model as given.
        kept: Where `make` leaves the codes of each weight. Only after a first model are noises known.
        make: Makes the model of a plan.
    """
    layers = weight_layers(tree)
    trees = dict(tree.walk())
    narrow = frozenset(layer.layer.node for layer in layers if layer.narrow_keys(trees[layer.path]))

    def made(floats: Excluded, wide: Excluded) -> Graph:
        return make(with_weights(tree, layers, floats, wide, target))

    def bench(samples: Sequence[Batch], options: CollectOptions) -> Bench:
        return Bench(graph=tree.graph, qparams={}, samples=samples, options=options, constants=_values_of(tree, kept))

    return Space(
        mode=WEIGHT_ONLY,
        source=source,
        digest=tree.planned.plan.digest,
        target=target.name,
        fused=target.engine is Engine.ONNXRUNTIME,
        layers=[layer.layer for layer in layers],
        cost={layer.layer.node: layer.layer.weights for layer in layers},
        counted="weights",
        own_noise=cache(lambda: _own_noise(tree, layers, kept)),
        step=Step(type=INT8.name, role="weights", layers=narrow) if narrow else None,
        make=made,
        bench=bench,
        measurable=frozenset(layer.layer.node for layer in layers if _is_measurable(tree, layer)),
    )


def _is_measurable(tree: WeightTree, layer: WeightLayer) -> bool:
    """Whether the graph can be cut behind a layer: a single node outside of subgraphs with a single output."""
    if layer.path or len(layer.nodes) > 1:
        return False
    (node,) = layer.nodes
    return sum(bool(output) for output in tree.graph.node(node).output) == 1


def _own_noise(tree: WeightTree, layers: Sequence[WeightLayer], kept: KeptWeights) -> dict[str, float]:
    plans = {path: one.planned.plan for path, one in tree.walk()}
    return {
        layer.layer.node: sum(
            10.0 ** (-kept.of(f"{layer.path}{key}", plans[layer.path].tensors[key].spec).quality.sqnr_db / 10.0)
            for key in sorted(layer.keys)
        )
        for layer in layers
    }


def _values_of(tree: WeightTree, kept: KeptWeights) -> Callable[[Layer], Mapping[str, NDArray[Any]]]:
    """What the codes of a layer outside of subgraphs stand for, by initializer."""
    planned, graph = tree.planned, tree.graph

    def values(layer: Layer) -> dict[str, NDArray[Any]]:
        found = {}
        for tensor, key in layer.constants.items():
            one = kept.of(key, planned.plan.tensors[key].spec)
            rows = one.rounded.values() if one.scale is None else one.rounded.values() / one.scale
            proto = graph.initializers[tensor]
            shaped = _as_initializer(rows, planned.sites[key][0], tuple(proto.dims))
            found[tensor] = shaped.astype(helper.tensor_dtype_to_np_dtype(proto.data_type))
        return found

    return values


def _as_initializer(rows: NDArray[Any], site: WeightSite, shape: tuple[int, ...]) -> NDArray[Any]:
    if site.kind == STORED:
        return from_rows(rows, shape, site.axis)
    return rows if site.axis == 1 else rows.T
