"""The step between 8 bits and float: layers whose activations have 16 bits, where the target's kernels take that.

The whole model is planned and solved once more with activations of the wider type, from the same statistics. A mixed
form takes the tensors of its wider layers from there. A layer's tensors are

    1. the activations that it reads and, where it writes codes, its output
    2. those of operators without weights in front of it, back to other layers: x in  Conv -> Add -> x -> Mul -> Conv
    3. behind the last layers, those of the operators up to the outputs

and what shares parameters with them. So all layers wider is the whole model wider.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from onnx import NodeProto

from onnxq.calibration.methods import Method
from onnxq.calibration.solve import QParamsTable, ranges_from_stats, solve_from_ranges
from onnxq.calibration.statistics.table import StatsTable
from onnxq.graph.view import Graph
from onnxq.pipeline.stages import Prepared
from onnxq.planning.options import PlanOptions
from onnxq.planning.plan import Derived, QuantPlan, Role, TensorPlan, family_of
from onnxq.planning.planner import make_plan
from onnxq.search.budget import Budget
from onnxq.search.layers import Layer, layers_of
from onnxq.targets import TargetSource, resolve_target
from onnxq.targets.forms import step_type, with_types


@dataclass(frozen=True, kw_only=True)
class Wider:
    """The whole model with wider activations.

    Attributes:
        type: Their type.
        plan: The plan.
        qparams: Its parameters.
        tensors: By layer, the keys of the plan that become wider with it.
    """

    type: str
    plan: QuantPlan
    qparams: QParamsTable
    tensors: Mapping[str, frozenset[str]]

    def mixed(self, plan: QuantPlan, qparams: QParamsTable, layers: Collection[str]) -> tuple[QuantPlan, QParamsTable]:
        """`plan` and its parameters with the layers of these names wider."""
        wanted = frozenset[str]().union(*(self.tensors[name] for name in layers if name in self.tensors))
        families = {family_of(plan.tensors, key) for key in wanted if key in plan.tensors}
        chosen = {key for key in plan.tensors if family_of(plan.tensors, key) in families}
        tensors, table = dict(plan.tensors), dict(qparams)
        for key in _with_constants(plan.tensors, chosen):
            if key not in self.plan.tensors:
                continue  # stands alone in this form only: it keeps its width
            tensors[key] = replace(tensors[key], spec=self.plan.tensors[key].spec)
            table[key] = self.qparams[key]
        opset = max(plan.opset, *(tensors[key].spec.qtype.min_opset for key in tensors))
        return replace(plan, tensors=tensors, opset=opset), table


def wider_for(
    prepared: Prepared, options: PlanOptions, stats: StatsTable, method: Method, *, clip_weights: bool
) -> Wider | None:
    """The wider form of a model; None where the target has no such step or the ranges do not come from statistics."""
    step = step_type(prepared.target)
    if step is None or step not in options.steps or any(key not in stats.tensors for key in prepared.plan.observed()):
        return None
    target, _ = with_types(prepared.target, step, prepared.target.weight.qtype.name)
    plan = make_plan(prepared.graph, target, options=options, digest=prepared.plan.digest)
    ranges = ranges_from_stats(plan, stats, method).ranges
    qparams = solve_from_ranges(prepared.graph, plan, ranges, target, clip_weights=clip_weights)
    layers = layers_of(prepared.graph, prepared.plan, prepared.target)
    return Wider(type=step, plan=plan, qparams=qparams, tensors=_tensors(prepared.graph, prepared.plan, layers))


def with_step(options: PlanOptions, target: TargetSource, budget: Budget | None) -> PlanOptions:
    """`options` with the step that a search to `budget` has between 8 bits and float: the model's opset has to know."""
    if budget is None:
        return options
    table, _ = with_types(resolve_target(target)[0], options.activations, options.weights)
    step = step_type(table)
    return options if step is None else replace(options, steps=(step,))


def _with_constants(tensors: Mapping[str, TensorPlan], chosen: Collection[str]) -> Iterable[str]:
    """`chosen`, and the weights and biases whose scales rest on it."""
    yield from chosen
    for key, tensor in tensors.items():
        if tensor.role is Role.BIAS and isinstance(tensor.source, Derived) and tensor.source.data in chosen:
            yield key
            yield tensor.source.weight


def _tensors(graph: Graph, plan: QuantPlan, layers: Sequence[Layer]) -> dict[str, frozenset[str]]:
    """By layer, the keys of its tensors: see the module's docstring."""
    own = {layer.node: {*layer.rounded.values(), *filter(None, [layer.end_key])} for layer in layers}
    known = frozenset[str]().union(*own.values())
    layer_of = {node: layer.node for layer in layers for node in layer.nodes}
    ahead = _met(reversed(graph.nodes), layer_of, lambda n: [r for o in n.output if o for r in graph.consumers(o)])
    behind = _met(graph.nodes, layer_of, lambda n: [w for i in n.input if i and (w := graph.producer(i)) is not None])
    for key, tensor in plan.tensors.items():
        if key in known or tensor.role not in (Role.ACTIVATION, Role.CONSTANT):
            continue
        readers = [node.name for node in graph.consumers(tensor.name)]
        found = frozenset[str]().union(*(ahead.get(name, frozenset()) for name in readers))
        if not found:
            writer = graph.producer(tensor.name)
            names = readers if writer is None else [writer.name]
            found = frozenset[str]().union(*(behind.get(name, frozenset()) for name in names))
        for layer in found:
            own[layer].add(key)
    return {name: frozenset(keys) for name, keys in own.items()}


def _met(
    nodes: Iterable[NodeProto], layer_of: Mapping[str, str], following: Callable[[NodeProto], Iterable[NodeProto]]
) -> dict[str, frozenset[str]]:
    """By node, the first layers that are met from it, itself among them; `nodes` in the reverse of that direction."""
    met: dict[str, frozenset[str]] = {}
    for node in nodes:
        if node.name in layer_of:
            met[node.name] = frozenset([layer_of[node.name]])
        else:
            met[node.name] = frozenset[str]().union(*(met.get(n.name, frozenset()) for n in following(node)))
    return met
