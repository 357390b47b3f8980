"""From a float graph to a plan for its weights. Pure: no values are read, the graph is not changed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from onnx import NodeProto

from onnxq.errors import ConfigError
from onnxq.graph.float_types import computes_no_float
from onnxq.graph.view import STANDARD_DOMAINS, Graph, Use
from onnxq.numerics.qtypes import INT8
from onnxq.numerics.specs import QuantSpec
from onnxq.planning.compute import Refusal
from onnxq.planning.decisions import CONTROL_FLOW, NO_FLOAT, foreign_reason
from onnxq.planning.macs import macs
from onnxq.planning.options import PlanOptions, Selection
from onnxq.planning.overridden import apply_overrides
from onnxq.planning.plan import Action, FromValues, NodeDecision, QuantPlan, Role, TensorPlan
from onnxq.planning.weight_form import AUTO, NBITS, QDQ, TYPES, WeightForm
from onnxq.targets.schema import Engine, Target
from onnxq.weight_only.engine_forms import taken_by
from onnxq.weight_only.sites import PRODUCT, STORED, TABLE, WeightSite, weight_sites
from onnxq.wording.plural import counted

BLOCKED_OPSET = 21
"""First opset whose DequantizeLinear has blocks and 4-bit types."""
CHANNEL_OPSET = 13
"""First opset whose DequantizeLinear has a scale for each channel."""

_Verdict = tuple[WeightSite, ...] | Refusal | None


@dataclass(frozen=True, kw_only=True)
class WeightPlan:
    """A plan, and where its weights are read.

    Attributes:
        plan: Decisions and tensors.
        sites: The sites of each tensor of the plan, by its key.
        storage: "nbits" or "qdq".
    """

    plan: QuantPlan
    sites: Mapping[str, tuple[WeightSite, ...]]
    storage: str


def storage_of(form: WeightForm, target: Target) -> str:
    """In which operators weights are stored for `target`."""
    if form.storage != AUTO:
        return form.storage
    return NBITS if target.engine is Engine.ONNXRUNTIME else QDQ


def plan_weights(  # noqa: PLR0913 - the graph, the table, and what a user says
    graph: Graph,
    target: Target,
    form: WeightForm,
    *,
    options: PlanOptions,
    digest: str,
    notes: Iterable[str] = (),
    source: Graph | None = None,
) -> WeightPlan:
    """Decide which weights are stored in few bits.

    Args:
        graph: The float graph, constants lifted, types inferred.
        target: The table of the engine.
        form: How weights are stored.
        options: What the user wants different from the default.
        digest: Digest of the float model as the user gave it.
        notes: Facts to hand on to the user.
        source: The model as it was given, for better messages about names.

    Raises:
        ConfigError: an option names what the graph does not have, or the target does not take.
    """
    storage = storage_of(form, target)
    if form.accuracy_level is not None and storage == QDQ:
        raise ConfigError(
            "accuracy_level is one of MatMulNBits, and weights are written behind DequantizeLinear",
            hint="leave out accuracy_level= (--accuracy-level), or for onnxruntime pass weight_format='nbits' "
            "(--weight-format nbits)",
        )
    selection = options.select(graph, source)
    verdicts = {n.name: _verdict(graph, n, target, options, selection) for n in graph.nodes}
    sites: dict[str, tuple[WeightSite, ...]] = {}
    for found in verdicts.values():
        for site in found if isinstance(found, tuple) else ():
            key = _key(sites, site)
            sites[key] = (*sites.get(key, ()), site)
    tensors = {key: _tensor(key, own, form) for key, own in sites.items()}
    takes = replace(target, weight=form.spec(0), weight_types=frozenset(TYPES))
    overridden = apply_overrides(graph, tensors, options.overrides, takes, path=options.path, weights_alone=True)
    planned = dict(overridden.tensors)
    if target.engine is Engine.TENSORRT:
        _check_signs(planned)
    if storage == QDQ and target.engine is not Engine.ONNXRUNTIME:
        planned = {key: taken_by(target.engine, graph, tensor, sites[key][0]) for key, tensor in planned.items()}
    blocked = any(t.spec.block_size or t.spec.qtype.bits < INT8.bits for t in planned.values())
    plan = QuantPlan(
        target=target.name,
        opset=BLOCKED_OPSET if storage == QDQ and blocked else CHANNEL_OPSET,
        tensors=planned,
        nodes=tuple(_decision(graph, n, verdicts[n.name], planned, sites) for n in graph.nodes),
        digest=digest,
        notes=(*notes, *overridden.notes, *_other_forms(overridden.tensors, planned)),
    )
    return WeightPlan(plan=plan, sites=sites, storage=storage)


def _check_signs(tensors: Mapping[str, TensorPlan]) -> None:
    """See that no weight for TensorRT has a zero-point or unsigned codes, which it refuses (R1, R2)."""
    other = next((key for key, t in tensors.items() if not (t.spec.symmetric and t.spec.qtype.signed)), None)
    if other is not None:
        form = tensors[other].spec
        raise ConfigError(
            f"TensorRT takes signed codes without zero-points alone (R1, R2), not {form.qtype.name}"
            f"{'' if form.symmetric else ' with zero-points'}",
            where=f"weight {other!r}",
            hint="pass weights='int4' (--weights int4) and symmetric=True (--symmetric), or leave both out",
        )


def _verdict(graph: Graph, node: NodeProto, target: Target, options: PlanOptions, selection: Selection) -> _Verdict:
    if selection.forbids(node):
        return Refusal("excluded by the user", "user")
    found = weight_sites(graph, node, options.placement)
    if isinstance(found, tuple) and selection.excludes(node):
        return Refusal("not among the nodes that the user includes", "user")
    if isinstance(found, tuple) and target.engine is Engine.TENSORRT and found[0].kind == TABLE:
        return Refusal("TensorRT has no gather from a table in few bits", "W3")
    return found


def _key(sites: Mapping[str, tuple[WeightSite, ...]], site: WeightSite) -> str:
    """Key of a weight: its name, with the node where the same weight is read in another way too."""
    known = sites.get(site.tensor)
    if known is None or (known[0].kind, known[0].axis) == (site.kind, site.axis):
        return site.tensor
    return f"{site.tensor}@{site.node}"


def _tensor(key: str, sites: tuple[WeightSite, ...], form: WeightForm) -> TensorPlan:
    first = sites[0]
    spec = form.spec(first.axis)
    if first.kind == STORED:
        spec = QuantSpec(qtype=INT8, symmetric=True, axis=first.axis)
    elif first.kind == TABLE and not form.block_size:
        spec = replace(spec, axis=0)
    return TensorPlan(
        name=key.partition("@")[0] if key != first.tensor else first.tensor,
        role=Role.WEIGHT,
        spec=spec,
        source=FromValues(),
        uses=tuple(Use(site.node, site.slot) for site in sites),
        rounding=form.rounding,
    )


def _other_forms(asked: Mapping[str, TensorPlan], planned: Mapping[str, TensorPlan]) -> tuple[str, ...]:
    """What is to be said of weights that got another form than was asked for."""
    other = [key for key, tensor in planned.items() if tensor.spec != asked[key].spec]
    if not other:
        return ()
    first = planned[other[0]].spec
    form = f"blocks of {first.block_size}" if first.block_size else f"{first.qtype.name} with a scale for each channel"
    return (f"{counted(len(other), 'weight')} in another form than asked for, first {other[0]!r} in {form} (W6)",)


def _decision(
    graph: Graph,
    node: NodeProto,
    verdict: _Verdict,
    tensors: Mapping[str, TensorPlan],
    sites: Mapping[str, tuple[WeightSite, ...]],
) -> NodeDecision:
    if isinstance(verdict, tuple):
        key = next(key for key, own in sites.items() if verdict[0] in own)
        spec = tensors[key].spec
        blocks = f"in blocks of {spec.block_size}" if spec.block_size else "with a scale for each channel"
        action = Action.WEIGHTS
        reason = f"its weight is {spec.qtype.name} {blocks}"
        rule = {PRODUCT: "W2" if node.op_type == "Gemm" else "W1", TABLE: "W3", STORED: "W4"}[verdict[0].kind]
    elif computes_no_float(graph, node) and node.op_type not in CONTROL_FLOW:
        action, reason, rule = Action.OTHER, NO_FLOAT, ""
    elif isinstance(verdict, Refusal):
        action, reason, rule = Action.FLOAT, verdict.reason, verdict.rule
    elif node.domain not in STANDARD_DOMAINS:
        action, reason, rule = Action.FLOAT, foreign_reason(node), ""
    elif node.op_type in CONTROL_FLOW:
        action, rule = Action.FLOAT, ""
        reason = "control flow; what is inside is planned on its own, and listed by its path"
    else:
        action, reason, rule = Action.FLOAT, "it has no weights", ""
    return NodeDecision(
        node=node.name, op=node.op_type, action=action, reason=reason, rule=rule, macs=macs(graph, node)
    )
