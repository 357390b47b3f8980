"""From a float graph to a plan for dynamic quantization. Pure: the graph is not changed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

from onnx import NodeProto

from onnxq.dynamic.sites import DynamicSite, dynamic_site
from onnxq.graph.float_types import computes_no_float
from onnxq.graph.match import Miss, biased_matmul
from onnxq.graph.view import STANDARD_DOMAINS, Graph, Use
from onnxq.numerics.qtypes import INT8, UINT8
from onnxq.numerics.specs import QuantSpec
from onnxq.planning.compute import Refusal
from onnxq.planning.decisions import CONTROL_FLOW, NO_FLOAT, foreign_reason
from onnxq.planning.logarithms import LOGARITHM_RULE, logged_nodes, logged_reason
from onnxq.planning.macs import macs
from onnxq.planning.options import PlanOptions, Selection
from onnxq.planning.overridden import apply_overrides
from onnxq.planning.plan import Action, FromValues, NodeDecision, QuantPlan, Role, TensorPlan
from onnxq.targets.schema import Target
from onnxq.wording.plural import counted

DYNAMIC_OPSET = 13
"""DynamicQuantizeLinear came with 11, DequantizeLinear along an axis with 13."""

WEIGHT_SPEC = QuantSpec(qtype=INT8, symmetric=True, narrow_range=True)

_WEIGHT_TYPES = frozenset((INT8.name, UINT8.name))
"""What operators take weights in beside an activation whose range they find themselves."""


def plan_dynamic(  # noqa: PLR0913 - the graph, the table, and what a user says
    graph: Graph,
    target: Target,
    *,
    options: PlanOptions,
    digest: str,
    notes: Iterable[str] = (),
    source: Graph | None = None,
) -> QuantPlan:
    """Decide which nodes are quantized dynamically.

    Args:
        graph: The float graph, normalised, with shapes inferred.
        target: The table of the engine, one of ONNX Runtime.
        options: What the user wants different from the default.
        digest: Digest of the float model as the user gave it.
        notes: Facts to hand on to the user.
        source: The model as it was given, for better messages about names.

    Raises:
        ConfigError: an option names what the graph does not have, or asks for what the target does not take.
    """
    selection = options.select(graph, source)
    logged = logged_nodes(graph)
    verdicts = {n.name: _verdict(graph, n, options, selection, logged) for n in graph.nodes}
    sites = [v for v in verdicts.values() if isinstance(v, DynamicSite)]
    takes = replace(target, weight_types=target.weight_types & _WEIGHT_TYPES)
    overridden = apply_overrides(graph, _weights(graph, sites), options.overrides, takes, path=options.path)
    tensors, signed = _signed_tables(graph, overridden.tensors)
    biases = _biases(graph, sites)
    return QuantPlan(
        target=target.name,
        opset=DYNAMIC_OPSET,
        tensors=tensors,
        nodes=tuple(_decision(graph, n, verdicts[n.name], biases) for n in graph.nodes),
        digest=digest,
        notes=(*notes, *overridden.notes, *signed),
    )


def sites_of_plan(graph: Graph, plan: QuantPlan) -> dict[str, dict[int, str]]:
    """For each node with weights of `plan`, the plan's key of the weight in each slot."""
    found: dict[str, dict[int, str]] = {}
    for key, tensor in plan.tensors.items():
        for use in tensor.uses:
            if graph.has_node(use.node):
                found.setdefault(use.node, {})[use.slot] = key
    return found


def _verdict(
    graph: Graph, node: NodeProto, options: PlanOptions, selection: Selection, logged: Mapping[str, str]
) -> DynamicSite | Refusal | None:
    if selection.forbids(node):
        return Refusal("excluded by the user", "user")
    found = dynamic_site(graph, node, options.placement)
    if isinstance(found, DynamicSite) and selection.excludes(node):
        return Refusal("not among the nodes that the user includes", "user")
    if isinstance(found, DynamicSite) and node.name in logged and not selection.names(node):
        return Refusal(logged_reason(logged[node.name]), LOGARITHM_RULE)
    return found


def _weights(graph: Graph, sites: Iterable[DynamicSite]) -> dict[str, TensorPlan]:
    """An entry for each weight and axis; a second axis of the same tensor stands under "<tensor>@<node>"."""
    plans: dict[str, TensorPlan] = {}
    for site in sites:
        node = graph.node(site.node)
        for slot, axis in site.axes.items():
            name, use = str(node.input[slot]), Use(site.node, slot)
            known = plans.get(name)
            if known is not None and known.spec.axis == axis:
                plans[name] = replace(known, uses=(*known.uses, use))
                continue
            key = name if known is None else f"{name}@{site.node}"
            spec = replace(WEIGHT_SPEC, axis=axis)
            plans[key] = TensorPlan(name=name, role=Role.WEIGHT, spec=spec, source=FromValues(), uses=(use,))
    return plans


def _signed_tables(graph: Graph, tensors: Mapping[str, TensorPlan]) -> tuple[Mapping[str, TensorPlan], tuple[str, ...]]:
    """Tables of Gather in int8, whatever was asked for: nothing computes on their codes but a Mul."""
    other = [key for key, t in tensors.items() if not t.spec.qtype.signed and _is_table(graph, t)]
    if not other:
        return tensors, ()
    changed = {key: replace(tensors[key], spec=replace(tensors[key].spec, qtype=INT8)) for key in other}
    note = (
        f"{counted(len(other), 'table')} in int8, not in {tensors[other[0]].spec.qtype.name}, first {other[0]!r}: no "
        "kernel computes on codes that are looked up"
    )
    return {**tensors, **changed}, (note,)


def _is_table(graph: Graph, tensor: TensorPlan) -> bool:
    return any(graph.node(use.node).op_type == "Gather" for use in tensor.uses)


def _biases(graph: Graph, sites: Iterable[DynamicSite]) -> dict[str, str]:
    """Add nodes that become the bias of a product, with the product."""
    found = {}
    for site in sites:
        match = biased_matmul(graph, graph.node(site.node))
        if not isinstance(match, Miss):
            found[match.nodes[-1]] = site.node
    return found


def _decision(
    graph: Graph, node: NodeProto, verdict: DynamicSite | Refusal | None, biases: dict[str, str]
) -> NodeDecision:
    if isinstance(verdict, DynamicSite):
        action = Action.INT8 if verdict.rule.integer else Action.WEIGHTS
        reason, rule = verdict.rule.does, verdict.rule.rule
    elif computes_no_float(graph, node) and node.op_type not in CONTROL_FLOW:
        action, reason, rule = Action.OTHER, NO_FLOAT, ""
    elif isinstance(verdict, Refusal):
        action, reason, rule = Action.FLOAT, verdict.reason, verdict.rule
    elif node.name in biases:
        action, reason, rule = Action.FUSED, f"is the bias of {biases[node.name]!r}", "D1"
    elif node.domain not in STANDARD_DOMAINS:
        action, reason, rule = Action.FLOAT, foreign_reason(node), ""
    elif node.op_type in CONTROL_FLOW:
        action, rule = Action.FLOAT, ""
        reason = "control flow; what is inside is planned on its own, and listed by its path"
    else:
        action, reason, rule = Action.FLOAT, "only operators with weights are quantized dynamically", ""
    return NodeDecision(
        node=node.name, op=node.op_type, action=action, reason=reason, rule=rule, macs=macs(graph, node)
    )
