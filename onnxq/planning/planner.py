"""From a normalised float graph and a target's table to a plan. Pure: no data, no session, the graph is not changed."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace

from onnx import NodeProto

from onnxq.graph.float_types import HALF_SCALE_OPSET, HALF_TYPES
from onnxq.graph.view import Graph, Use
from onnxq.numerics.qtypes import INT32
from onnxq.numerics.specs import QuantSpec
from onnxq.planning.bounds import cut, known_bounds, reading_bounds, score_reach
from onnxq.planning.compute import WEIGHT, ComputeSite, ProductSite, Refusal, compute_site, reduced_axis
from onnxq.planning.decisions import Verdict, decisions_of
from onnxq.planning.input_payoff import InputPayoff
from onnxq.planning.inputs import InputPairs
from onnxq.planning.logarithms import LOGARITHM_RULE, logged_nodes, logged_reason
from onnxq.planning.masks import MASK_REASON, MASK_RULE, masked_scores
from onnxq.planning.options import FULL, TUNE_RULE, PlanOptions, Selection
from onnxq.planning.overridden import apply_overrides, check_pairs_of_types
from onnxq.planning.payoff import dear_nodes
from onnxq.planning.plan import (
    Action,
    Derived,
    Fixed,
    FromValues,
    NodeDecision,
    Observed,
    QuantPlan,
    Role,
    SharedWith,
    Source,
    TensorPlan,
)
from onnxq.planning.region_payoff import RegionPayoff
from onnxq.planning.regions import Regions, in_graph_order
from onnxq.planning.tables import Decided, place_tables
from onnxq.targets.forms import BLOCK_OPSET, type_rule, with_products
from onnxq.targets.schema import BiasForm, Engine, Placement, Target

_FEW_BITS = 8


def make_plan(  # noqa: PLR0913 - the graph, the table, and what a user says
    graph: Graph,
    target: Target,
    *,
    options: PlanOptions,
    digest: str,
    notes: Iterable[str] = (),
    source: Graph | None = None,
) -> QuantPlan:
    """Decide where Q/DQ pairs go.

    Args:
        graph: The float graph, normalised, with shapes inferred.
        target: The table of the engine.
        options: What the user wants different from the target's defaults.
        digest: Digest of the float model as the user gave it.
        notes: Facts to hand on to the user.
        source: The model as it was given, for better messages about names.

    Raises:
        ConfigError: an option names what the graph does not have, or asks for what the target does not take.
    """
    if options.placement == FULL and target.full_products:
        target = with_products(target)
    selection = options.select(graph, source)
    logged = logged_nodes(graph) if _rounds_evenly(target) else {}
    verdicts = {n.name: _verdict(graph, n, target, options, selection, logged) for n in graph.nodes}
    sites = {name: v for name, v in verdicts.items() if isinstance(v, ComputeSite)}
    dear, remarks = _dear_nodes(graph, target, sites, options, selection)
    sites = {name: site for name, site in sites.items() if name not in dear}
    verdicts |= dear
    if target.placement is Placement.REGIONS:
        activations, decided, holds = _place_regions(graph, target, sites, selection, dear)
    else:
        products = [v for v in verdicts.values() if isinstance(v, ProductSite)]
        activations, decided, holds = _place_inputs(graph, target, sites, selection, products)
    placed = {**activations, **_weights(graph, target, sites), **_biases(graph, sites)}
    # A model of which nothing else is quantized is none for pairs; inside subgraphs tables come from outside.
    if sites and not options.path:
        refused = {name: verdict for name, verdict in verdicts.items() if isinstance(verdict, Refusal)}
        tables, rows = place_tables(graph, target, placed, refused)
        placed, decided = {**placed, **tables}, {**decided, **rows}
    overridden = apply_overrides(graph, placed, options.overrides, target, path=options.path)
    tensors = overridden.tensors
    check_pairs_of_types(graph, tensors, target)
    decisions = _with_masks(graph, tensors, decisions_of(graph, target, {**verdicts, **decided}, tensors))
    return QuantPlan(
        target=target.name,
        opset=_opset(graph, target, tensors, options),
        tensors=tensors,
        nodes=decisions,
        digest=digest,
        holds=holds,
        one_width=target.everywhere,
        slow_prelu=target.slow_prelu,
        own_dequantizers=target.engine is Engine.ONNXRUNTIME,
        slow_sums=target.slow_sums,
        nonzero_biases=target.nonzero_biases,
        float16=options.float16,
        notes=(*notes, *remarks, *overridden.notes),
    )


def _with_masks(
    graph: Graph, tensors: Mapping[str, TensorPlan], decisions: tuple[NodeDecision, ...]
) -> tuple[NodeDecision, ...]:
    """The decisions, those on nodes that hide scores with what becomes of their ranges."""
    masked = {found.node for found in masked_scores(graph) if found.total in tensors and found.scores in tensors}
    return tuple(
        replace(d, reason=f"{d.reason}; {MASK_REASON}", rule=f"{d.rule} {MASK_RULE}".strip()) if d.node in masked else d
        for d in decisions
    )


def _opset(graph: Graph, target: Target, tensors: Mapping[str, TensorPlan], options: PlanOptions) -> int:
    half = options.float16 or any(graph.dtype(t.name) in HALF_TYPES for t in tensors.values())
    blocks = any(t.spec.block_size is not None for t in tensors.values())
    return max(
        [
            target.min_opset,
            BLOCK_OPSET if blocks else 1,
            HALF_SCALE_OPSET if half else 1,
            *(t.spec.qtype.min_opset for t in tensors.values()),
        ]
    )


# ---- nodes -------------------------------------------------------------------------------------------------------


def _verdict(  # noqa: PLR0913, PLR0917 - the graph, the table, what a user says, and what the graph says of the node
    graph: Graph,
    node: NodeProto,
    target: Target,
    options: PlanOptions,
    selection: Selection,
    logged: Mapping[str, str],
) -> Verdict:
    if node.name in options.slower:
        return Refusal("the tuned placement keeps it in float", TUNE_RULE)
    if selection.forbids(node):
        return Refusal("excluded by the user", "user")
    found = compute_site(graph, node, target)
    candidate = isinstance(found, (ComputeSite, ProductSite)) or node.op_type in (
        *target.elementwise,
        *target.pass_through,
    )
    if candidate and selection.excludes(node):
        return Refusal("not among the nodes that the user includes", "user")
    if isinstance(found, (ComputeSite, ProductSite)) and node.name in logged and not selection.names(node):
        return Refusal(logged_reason(logged[node.name]), LOGARITHM_RULE)
    return found


def _rounds_evenly(target: Target) -> bool:
    """Whether activations are rounded to few even steps, which small values do not survive, and floats have a place."""
    return not (target.everywhere or target.activation.qtype.is_float or target.activation.qtype.bits > _FEW_BITS)


def _dear_nodes(
    graph: Graph, target: Target, sites: dict[str, ComputeSite], options: PlanOptions, selection: Selection
) -> tuple[dict[str, Refusal], tuple[str, ...]]:
    """Nodes that could run in int8 and are faster in float, with the reason, and remarks on that (C17, V12)."""
    if target.costs is None or options.placement == FULL or not sites:
        return {}, ()
    if target.placement is Placement.INPUTS:
        return dear_nodes(InputPayoff(graph, target.costs, sites))
    return dear_nodes(RegionPayoff(graph, target.costs, Regions(graph, target, sites, selection), sites))


# ---- activations: regions ----------------------------------------------------------------------------------------


def _place_regions(
    graph: Graph,
    target: Target,
    sites: dict[str, ComputeSite],
    selection: Selection,
    avoided: Collection[str],
) -> tuple[dict[str, TensorPlan], dict[str, Decided], tuple[str, ...]]:
    regions = Regions(graph, target, sites, selection, avoided)
    tensors: dict[str, TensorPlan] = {}
    for name in regions.quantized:
        writer = regions.code_writer(name)
        # C1: what an int8 kernel writes goes to one Q and nowhere else. What a float node writes others read as float.
        uses = tuple(
            use
            for use in graph.uses(name)
            if writer is not None or (use.node in regions.members and name in regions.data_inputs(graph.node(use.node)))
        )
        tensors[name] = TensorPlan(
            name=name,
            role=Role.ACTIVATION,
            spec=_region_spec(graph, target, regions, name),
            source=_region_source(graph, target, regions, name, writer),
            uses=uses,
            covers_output=writer is not None and graph.is_output(name),
        )
    tensors.update(_constants(graph, target, regions))
    decided: dict[str, Decided] = {}
    bias_adds = _bias_adds(sites)
    in_float = {s.bias_use.node for s in sites.values() if s.bias_use is not None and _is_added_in_float(graph, s)}
    for node in graph.nodes:
        if node.name in regions.members and node.name not in sites:
            if node.op_type in target.pass_through:
                decided[node.name] = (
                    Action.INT8,
                    f"moves codes between {target.codes} neighbours",
                    target.pass_through[node.op_type].rules,
                )
            else:
                decided[node.name] = (
                    Action.INT8,
                    f"all inputs and its output are {target.codes}",
                    target.elementwise[node.op_type].rules,
                )
        elif node.name in in_float:
            rank = graph.rank(node.output[0])
            decided[node.name] = (
                Action.FLOAT,
                f"is the bias of a product of rank {rank}, which the engine adds in float",
                "C8",
            )
        elif node.name in bias_adds:
            decided[node.name] = Action.FUSED, f"is the bias of {bias_adds[node.name]!r}", "C8"
        elif node.name in regions.fused:
            decided[node.name] = Action.FUSED, f"becomes part of the rounding of {regions.fused[node.name]!r}", "C5"
    return tensors, decided, tuple(regions.holds)


def _region_spec(graph: Graph, target: Target, regions: Regions, tensor: str) -> QuantSpec:
    """The target's form, but where a Relu or Clip is to disappear in the rounding behind it.

    onnxruntime takes it away only if the lowest code stands for its lower limit (C5), as in no symmetric form.
    """
    node = graph.producer(tensor)
    while node is not None and regions.moves_codes(node):
        node = graph.producer(node.input[0])
    own = target.activation
    if own.symmetric and target.engine is Engine.ONNXRUNTIME and node is not None and node.name in regions.fused:
        return replace(own, symmetric=False)
    return own


def _region_source(graph: Graph, target: Target, regions: Regions, tensor: str, writer: str | None) -> Source:
    """Codes that were only moved keep the parameters they came with; everything else is observed."""
    node = graph.node(writer) if writer is not None else None
    if node is not None and regions.moves_codes(node):
        return SharedWith(node.input[0])
    if node is not None and (ends := type_rule(target, target.activation).outputs.get(node.op_type)) is not None:
        return Fixed(ends[0], ends[1])
    known = known_bounds(graph, tensor)
    bounds = cut(known, reading_bounds(graph, tensor)) if node is not None else known
    return replace(bounds, reach=score_reach(graph, tensor))


def _constants(graph: Graph, target: Target, regions: Regions) -> dict[str, TensorPlan]:
    """Constant operands of int8 Add, Mul and Concat: codes like the other operand's (C9, C11)."""
    uses: dict[str, list[Use]] = {}
    for node in graph.nodes:
        if node.name not in regions.members or node.op_type not in target.elementwise:
            continue
        for slot, tensor in enumerate(node.input):
            if tensor and graph.is_constant(tensor) and graph.is_float(tensor):
                uses.setdefault(tensor, []).append(Use(node.name, slot))
    return {
        name: TensorPlan(name=name, role=Role.CONSTANT, spec=target.activation, source=FromValues(), uses=tuple(where))
        for name, where in uses.items()
    }


# ---- activations: inputs -----------------------------------------------------------------------------------------


def _place_inputs(
    graph: Graph,
    target: Target,
    sites: dict[str, ComputeSite],
    selection: Selection,
    products: Sequence[ProductSite],
) -> tuple[dict[str, TensorPlan], dict[str, Decided], tuple[str, ...]]:
    pairs = InputPairs(graph, target, sites, selection, products)
    bounds = _bounds_by_group(graph, pairs)
    tensors = {
        name: TensorPlan(
            name=name,
            role=Role.ACTIVATION,
            spec=_input_spec(graph, target, pairs.uses[name], bounds[pairs.groups.group_of(name) or name]),
            source=bounds[pairs.groups.group_of(name) or name],
            uses=tuple(pairs.uses[name]),
            group=pairs.groups.group_of(name),
        )
        for name in in_graph_order(graph, pairs.uses)
    }
    decided = dict(pairs.adds)
    for add, matmul in _bias_adds(sites).items():
        decided.setdefault(add, (Action.FUSED, f"is the bias of {matmul!r}", target.fusion_rule))
    ends = {name: site.output for name, site in sites.items()} | {add: graph.node(add).output[0] for add in pairs.adds}
    for name, output in ends.items():
        uses = graph.uses(output)
        follower = graph.node(uses[0].node) if len(uses) == 1 else None
        if follower is None or selection.forbids(follower):
            continue
        if follower.op_type in target.fused_activations and follower.name not in decided:
            decided[follower.name] = Action.FUSED, f"fuses behind {name!r}", target.fusion_rule
    return tensors, decided, ()


def _input_spec(graph: Graph, target: Target, uses: Sequence[Use], source: Source) -> QuantSpec:
    """The target's form, unless a reader wants another one for negative values (V2)."""
    if isinstance(source, Observed) and source.lower is not None and source.lower >= 0:
        return target.activation
    rules = (target.compute.get(graph.node(use.node).op_type) for use in uses)
    return next((rule.signed for rule in rules if rule is not None and rule.signed is not None), target.activation)


def _bounds_by_group(graph: Graph, pairs: InputPairs) -> dict[str, Observed]:
    """Bounds that hold for every tensor of a group, since all of them get one range; by group or lone tensor."""
    bounds: dict[str, Observed] = {}
    for name in pairs.uses:
        own, key = known_bounds(graph, name), pairs.groups.group_of(name) or name
        bounds[key] = _hull(own, bounds.get(key, own))
    return bounds


def _hull(one: Observed, other: Observed) -> Observed:
    return Observed(
        None if one.lower is None or other.lower is None else min(one.lower, other.lower),
        None if one.upper is None or other.upper is None else max(one.upper, other.upper),
    )


def _bias_adds(sites: dict[str, ComputeSite]) -> dict[str, str]:
    """Add nodes that are the bias of a MatMul, with the MatMul."""
    return {s.bias_use.node: name for name, s in sites.items() if s.bias_use is not None and s.bias_use.node != name}


# ---- weights and biases ------------------------------------------------------------------------------------------


def _weights(graph: Graph, target: Target, sites: dict[str, ComputeSite]) -> dict[str, TensorPlan]:
    """One entry for each weight, however many nodes share it; where they disagree on the axis it is per-tensor."""
    by_weight: dict[str, list[ComputeSite]] = {}
    for site in sites.values():
        by_weight.setdefault(site.weight, []).append(site)
    plans: dict[str, TensorPlan] = {}
    for name, users in by_weight.items():
        # Nodes that share a weight but want it in different forms get the target's own.
        forms = {site.rule.weight or target.weight for site in users}
        form = forms.pop() if len(forms) == 1 else target.weight
        blocks = form.block_size
        axes = {site.axis if blocks is None else reduced_axis(graph, graph.node(site.node)) for site in users}
        axis = axes.pop() if len(axes) == 1 else None
        plans[name] = TensorPlan(
            name=name,
            role=Role.WEIGHT,
            spec=replace(form, axis=axis, block_size=None if axis is None else blocks),
            source=FromValues(),
            uses=tuple(Use(site.node, WEIGHT) for site in users),
        )
    return plans


def _biases(graph: Graph, sites: dict[str, ComputeSite]) -> dict[str, TensorPlan]:
    """int32 biases, one for each node: their scale depends on the node's data and weight."""
    plans: dict[str, TensorPlan] = {}
    for site in sites.values():
        if site.bias is None or site.bias_use is None or site.rule.bias is not BiasForm.INT32:
            continue
        if _is_added_in_float(graph, site):
            continue
        key = site.bias if site.bias not in plans else f"{site.bias}@{site.node}"
        plans[key] = TensorPlan(
            name=site.bias,
            role=Role.BIAS,
            spec=QuantSpec(qtype=INT32, symmetric=True, axis=0 if site.axis is not None else None),
            source=Derived(site.data, site.weight),
            uses=(site.bias_use,),
        )
    return plans


def _is_added_in_float(graph: Graph, site: ComputeSite) -> bool:
    """Whether the bias of a product is added by a node that no int8 kernel takes in."""
    ranks = site.rule.added_bias_ranks
    added = site.bias_use is not None and site.bias_use.node != site.node
    return added and bool(ranks) and graph.rank(site.output) not in (*ranks, None)
