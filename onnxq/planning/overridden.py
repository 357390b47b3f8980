"""The tensors of a plan as overrides want them."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

from onnxq.errors import ConfigError
from onnxq.graph.subgraphs import graphs_inside, nodes_inside
from onnxq.graph.view import Graph
from onnxq.numerics.qtypes import qtype_from_name
from onnxq.numerics.specs import QuantSpec
from onnxq.planning.bounds import needs_clip
from onnxq.planning.compute import DATA, WEIGHT, reduced_axis
from onnxq.planning.names import selected, unmatched
from onnxq.planning.overrides import Override
from onnxq.planning.plan import Fixed, FromValues, Observed, QuantPlan, Role, TensorPlan, family_of
from onnxq.planning.weight_form import with_form
from onnxq.targets.forms import in_type, takes_weights
from onnxq.targets.schema import Engine, Target
from onnxq.wording.plural import counted


@dataclass(frozen=True, kw_only=True)
class Overridden:
    """The tensors of a plan with overrides applied, and what a user should know about it."""

    tensors: Mapping[str, TensorPlan]
    notes: tuple[str, ...] = ()


def apply_overrides(  # noqa: PLR0913 - a graph, its tensors, and what is said of them
    graph: Graph,
    tensors: Mapping[str, TensorPlan],
    overrides: Iterable[Override],
    target: Target,
    *,
    path: str = "",
    weights_alone: bool = False,
) -> Overridden:
    """`tensors` as the overrides want them, as far as these are about them: see `check_named`.

    Args:
        graph: The normalised graph of the plan.
        tensors: The tensors of the plan, by key.
        overrides: In the order in which they are applied.
        target: The table that says which types its engine takes.
        path: Where the graph stands inside the model, as in "If_0/then_branch": names begin with it.
        weights_alone: Whether `tensors` are weights that are stored in few bits and multiplied with float activations.

    Raises:
        ConfigError: an override asks for a type or form that the target or a tensor does not take.
    """
    try:
        return _applied(graph, tensors, overrides, target, f"{path}/" if path else "", weights_alone)
    except ConfigError as error:
        if not path:
            raise
        raise ConfigError(error.message, where=f"{error.where}, in {path}", hint=error.hint) from error


def _applied(  # noqa: PLR0913, PLR0917 - as `apply_overrides`
    graph: Graph,
    tensors: Mapping[str, TensorPlan],
    overrides: Iterable[Override],
    target: Target,
    prefix: str,
    weights_alone: bool,
) -> Overridden:
    planned, notes = dict(tensors), list[str]()
    for one in overrides:
        _check_types(one, target)
        _check_meaning(one) if weights_alone else _check_forms(one, target)
        names = {f"{prefix}{node.name}": node.name for node in graph.nodes}
        nodes = {names[name] for pattern in one.nodes for name in selected(pattern, names, where=one.title)}
        named = _named(planned, one, nodes, prefix)
        for role, given in _given(one, weights_alone=weights_alone).items():
            own = [key for key in named if planned[key].role is role]
            if given or (own and any(getattr(one, key) is not None for key in _KEYS_OF_BOTH)):
                notes += _apply(graph, one, own, planned, tensors)
            if given and role is Role.WEIGHT:
                notes += _shared_weights(one, [planned[key] for key in own], nodes)
    return Overridden(
        tensors=_biases_like_weights(planned),
        notes=(*notes, *_clips(graph, planned, target), *_symmetric(graph, planned, target)),
    )


_KEYS = {
    Role.ACTIVATION: ("activation", "method", "percentile", "range", "amax", "activation_bits", "symmetric"),
    Role.WEIGHT: ("weight", "per_channel", "weight_bits", "weight_amax", "block_size"),
}
_KEYS_OF_WEIGHTS_ALONE = {Role.WEIGHT: ("weight", "block_size", "symmetric", "rounding")}
_KEYS_OF_BOTH = ("narrow_range", "power_of_two")


def check_named(graph: Graph, plan: QuantPlan, overrides: Sequence[Override], *, weights_alone: bool = False) -> None:
    """See that each override names something in the model, and something of the kind that it changes.

    Args:
        graph: The model's own graph, which holds the bodies of If, Loop and Scan.
        plan: The plan, with what is inside them by path.
        overrides: What was applied.
        weights_alone: As for `apply_overrides`.

    Raises:
        ConfigError: one does not; the message suggests names.
    """
    if not overrides:
        return
    names = dict.fromkeys([*(d.node for d in plan.nodes), *nodes_inside(graph)])
    for one in overrides:
        nodes = set[str]()
        for pattern in one.nodes:
            if not (found := selected(pattern, names, where=one.title)):
                raise unmatched("node", pattern, names, one.title)
            nodes.update(found)
        known = _quantized(plan.tensors)
        for pattern in one.tensors:
            if not selected(pattern, known, where=one.title):
                raise _not_quantized(graph, pattern, known, one)
        roles = {plan.tensors[key].role for key in _named(plan.tensors, one, nodes)}
        for role, given in _given(one, weights_alone=weights_alone).items():
            if given and role not in roles:
                raise ConfigError(
                    f"what it names holds no {role.value} that {plan.target} quantizes, so {given[0]} changes nothing",
                    where=one.title,
                    hint="`onnxq plan MODEL --tensors` lists what is quantized",
                )


def _given(one: Override, *, weights_alone: bool) -> dict[Role, list[str]]:
    """The keys that an override gives, by the kind of tensor that they are about."""
    keys_of = _KEYS_OF_WEIGHTS_ALONE if weights_alone else _KEYS
    return {role: [key for key in keys if getattr(one, key) is not None] for role, keys in keys_of.items()}


def _clips(graph: Graph, planned: Mapping[str, TensorPlan], target: Target) -> list[str]:
    """What to say of activations that do not use all codes of their type, where kernels want a pair alone."""
    own = [key for key, t in planned.items() if t.role is Role.ACTIVATION and needs_clip(graph, t.name, t.spec)]
    if not own or target.engine is not Engine.ONNXRUNTIME:
        return []
    return [
        f"{counted(len(own), 'activation')} with fewer codes than the type has, first {own[0]!r}: a Clip stands in "
        f"front of its QuantizeLinear, and {target.title}'s kernels do not fuse with it: the node before it runs in "
        "float"
    ]


def _symmetric(graph: Graph, planned: Mapping[str, TensorPlan], target: Target) -> list[str]:
    """What to say of symmetric activations whose Relu or Clip onnxruntime cannot take into the rounding (C5)."""
    own = [
        key
        for key, t in planned.items()
        if t.role is Role.ACTIVATION
        and t.spec.symmetric
        and (node := graph.producer(t.name)) is not None
        and node.op_type in target.fused_activations
    ]
    if not own or target.engine is not Engine.ONNXRUNTIME:
        return []
    return [
        f"{counted(len(own), 'activation')} symmetric behind a Relu or Clip, first {own[0]!r}: it disappears in the "
        "rounding only where the lowest code is its lower limit, so the node before it runs in float (C5)"
    ]


def _apply(
    graph: Graph, one: Override, own: Sequence[str], planned: dict[str, TensorPlan], before: Mapping[str, TensorPlan]
) -> list[str]:
    """Change the tensors `own`, and those that must share parameters with them; return what is to be noted."""
    families = {family_of(planned, key) for key in own}
    family = [key for key in planned if family_of(planned, key) in families]
    for key in family:
        planned[key] = _changed(graph, planned[key], one, before[key])
    others = [key for key in family if key not in own]
    if not others:
        return []
    members = counted(len(others), "tensor")
    return [f"the {one.title} also holds for {members} that must share parameters, first {others[0]!r}"]


def _check_types(one: Override, target: Target) -> None:
    activations = target.activation.qtype.name if one.activation is None else qtype_from_name(one.activation).name
    beside = target.types[activations].weight_types if activations in target.types else frozenset[str]()
    for key, default, others in (
        ("activation", target.activation.qtype.name, target.activation_types),
        ("weight", target.weight.qtype.name, target.weight_types | beside),
    ):
        name, known = getattr(one, key), [default, *sorted(set(others) - {default})]
        if name is not None and qtype_from_name(name).name not in known:
            raise ConfigError(
                f"{target.name} takes no {key}s of type {name!r}",
                where=one.title,
                hint=f"it takes {' or '.join(known)}{_beside(target, name) if key == 'weight' else ''}",
            )


def _beside(target: Target, weight: str) -> str:
    """With which activations an engine takes a type of weights that it takes with no others."""
    types = [repr(name) for name, rule in target.types.items() if weight in rule.weight_types]
    return f"; {weight} with activation = {' or '.join(types)} in the same override" if types else ""


def _check_forms(one: Override, target: Target) -> None:
    if one.symmetric is False and target.activation.symmetric:
        raise ConfigError(
            f"{target.name} takes symmetric activations alone", where=one.title, hint="drop symmetric = false"
        )
    if one.block_size is not None and not target.blocks:
        raise ConfigError(
            f"{target.name} takes no scales for blocks of weights beside quantized activations",
            where=one.title,
            hint="drop block_size, or quantize weights alone: mode='weight-only' (--mode weight-only)",
        )

    if one.rounding is not None:
        raise ConfigError(
            "rounding is a choice of mode 'weight-only'",
            where=one.title,
            hint="drop it, or pass mode='weight-only' (--mode weight-only)",
        )


def _check_meaning(one: Override) -> None:
    """See that an override is about what mode "weight-only" has."""
    known = ("nodes", "tensors", *_KEYS_OF_WEIGHTS_ALONE[Role.WEIGHT])
    for field in fields(one):
        if field.name not in known and getattr(one, field.name) is not None:
            raise ConfigError(
                f"{field.name} has no meaning in mode 'weight-only'",
                where=one.title,
                hint=f"it has {', '.join(known[2:])}",
            )


def _shared_weights(one: Override, weights: Iterable[TensorPlan], nodes: Collection[str]) -> list[str]:
    """Notes on weights that nodes read which the override does not name."""
    notes = []
    for weight in weights:
        others = [use.node for use in weight.uses if use.node not in nodes]
        if one.nodes and others and len(others) < len(weight.uses):
            notes.append(f"the {one.title} also holds for node {others[0]!r}, which reads weight {weight.name!r} too")
    return notes


def _named(planned: Mapping[str, TensorPlan], one: Override, nodes: Collection[str], prefix: str = "") -> list[str]:
    """Keys of the planned tensors that an override names, itself or by their readers, in the plan's order.

    Args:
        planned: The tensors.
        one: The override.
        nodes: Names of the nodes that it names, as the tensors' uses have them.
        prefix: What the names of the tensors begin with in the model.
    """
    found = {key for key, t in planned.items() if any(use.node in nodes for use in t.uses)}
    known = {f"{prefix}{key}": key for key in _quantized(planned)}
    found |= {known[name] for pattern in one.tensors for name in selected(pattern, known, where=one.title)}
    return [key for key in planned if key in found]


def _quantized(planned: Mapping[str, TensorPlan]) -> list[str]:
    """Keys of the tensors that an override may name."""
    return [key for key, t in planned.items() if t.role in (Role.ACTIVATION, Role.WEIGHT)]


def _not_quantized(graph: Graph, pattern: str, known: Collection[str], one: Override) -> ConfigError:
    inside = ((pattern.removeprefix(path), graph) for path, graph in graphs_inside(graph) if pattern.startswith(path))
    if not any(graph.exists(name) for name, graph in ((pattern, graph), *inside)):
        return unmatched("quantized tensor", pattern, known, one.title)
    return ConfigError(
        f"tensor {pattern!r} is not quantized",
        where=one.title,
        hint="`onnxq plan MODEL --tensors` lists what is; a tensor is quantized where a quantized node touches it",
    )


def _changed(graph: Graph, tensor: TensorPlan, one: Override, before: TensorPlan) -> TensorPlan:
    try:
        if tensor.rounding is not None:
            return with_form(tensor, one.weight, one.block_size, one.symmetric, one.rounding)
        if tensor.role is Role.WEIGHT:
            return _changed_weight(graph, tensor, one, before)
        return _changed_activation(tensor, one)
    except ConfigError as error:
        if error.where is not None:
            raise
        raise ConfigError(f"{tensor.name!r}: {error.message}", where=one.title, hint=error.hint) from error


def _changed_weight(graph: Graph, tensor: TensorPlan, one: Override, before: TensorPlan) -> TensorPlan:
    spec, source = tensor.spec, tensor.source
    if one.weight is not None:
        spec = in_type(spec, qtype_from_name(one.weight))
    if one.per_channel is not None:
        spec = replace(spec, axis=before.spec.axis if one.per_channel else None, block_size=None)
    if one.per_channel and spec.axis is None:
        raise ConfigError(
            f"weight {tensor.name!r} cannot have a scale for each channel here",
            where=one.title,
            hint="the target or the nodes that share the weight allow one scale only: drop per_channel",
        )
    if one.block_size is not None:
        spec = replace(spec, axis=_block_axis(graph, tensor, one), block_size=one.block_size)
    if one.weight_amax is not None:
        source = FromValues(one.weight_amax)
    return replace(tensor, spec=_in_form(spec, one, one.weight_bits), source=source)


def _changed_activation(tensor: TensorPlan, one: Override) -> TensorPlan:
    spec = tensor.spec
    if one.activation is not None:
        spec = in_type(spec, qtype_from_name(one.activation))
    if one.symmetric is not None:
        spec = replace(spec, symmetric=one.symmetric)
    spec = _in_form(spec, one, one.activation_bits)
    source, method = tensor.source, tensor.method
    if isinstance(source, (Observed, Fixed)):
        if one.ends is not None:
            source, method = Fixed(*one.ends, source.lower, source.upper), None
        elif (solver := one.solver()) is not None:
            source = source if isinstance(source, Observed) else Observed(source.lower, source.upper)
            method = solver
    return replace(tensor, spec=spec, source=source, method=method)


def _block_axis(graph: Graph, tensor: TensorPlan, one: Override) -> int:
    axes = {reduced_axis(graph, graph.node(use.node)) for use in tensor.uses}
    if len(axes) > 1:
        raise ConfigError(
            f"weight {tensor.name!r} is summed along different axes by the nodes that share it",
            where=one.title,
            hint="drop block_size for it",
        )
    return axes.pop()


def _in_form(spec: QuantSpec, one: Override, bits: int | None) -> QuantSpec:
    """`spec` with what the override says of codes and scales of either kind."""
    changes: dict[str, Any] = {key: value for key in _KEYS_OF_BOTH if (value := getattr(one, key)) is not None}
    return replace(spec, **(changes if bits is None else {**changes, "bits": bits}))


def _biases_like_weights(planned: Mapping[str, TensorPlan]) -> dict[str, TensorPlan]:
    """`planned`, where a bias has channels only if its weight has."""
    done = dict(planned)
    for key, tensor in planned.items():
        weight = getattr(tensor.source, "weight", None)
        if weight is not None and planned[weight].spec.axis is None and tensor.spec.axis is not None:
            done[key] = replace(tensor, spec=replace(tensor.spec, axis=None))
    return done


def check_pairs_of_types(graph: Graph, tensors: Mapping[str, TensorPlan], target: Target) -> None:
    """See that no node multiplies codes of types that the engine does not multiply.

    Raises:
        ConfigError: one does.
    """
    types: dict[str, dict[int, str]] = {}
    for tensor in tensors.values():
        for use in tensor.uses:
            types.setdefault(use.node, {})[use.slot] = tensor.spec.qtype.name
    for name, by_slot in types.items():
        data, weight = by_slot.get(DATA), by_slot.get(WEIGHT)
        if data is None or weight is None or data == weight:
            continue
        node = graph.node(name)
        rule = target.compute.get(node.op_type)
        kept = rule.weight.qtype.name if rule is not None and rule.weight is not None and rule.keeps_weight else weight
        way = (
            "give both in the override of the node: activation and weight (--override, [[override]]), and to all nodes "
            "that read the same tensor"
        )
        if target.like_types and (qtype_from_name(data).is_float or qtype_from_name(weight).is_float):
            only = "multiplies like types only"
        elif not takes_weights(target, data, weight):
            only = f"takes {weight} weights with wider activations only"
        elif weight != kept:
            only, way = (
                f"takes {kept} weights alone in a {node.op_type}",
                "leave the node out of the override of weight",
            )
        else:
            continue
        raise ConfigError(
            f"its first input would be {data} and its second {weight}; {target.name} {only}",
            where=f"{node.op_type} {name!r}",
            hint=way,
        )
