"""The tensors of a plan as overrides want them."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

from onnxq.errors import ConfigError
from onnxq.graph.subgraphs import subgraphs
from onnxq.graph.view import Graph
from onnxq.numerics.qtypes import qtype_from_name
from onnxq.numerics.specs import QuantSpec
from onnxq.planning.bounds import needs_clip
from onnxq.planning.compute import DATA, WEIGHT, reduced_axis
from onnxq.planning.names import selected, unmatched
from onnxq.planning.overrides import Override
from onnxq.planning.plan import Fixed, FromValues, Observed, Role, TensorPlan, family_of
from onnxq.planning.weight_form import with_form
from onnxq.targets.forms import in_type
from onnxq.targets.schema import Engine, Target
from onnxq.wording.plural import counted


@dataclass(frozen=True, kw_only=True)
class Overridden:
    """The tensors of a plan with overrides applied, and what a user should know about it."""

    tensors: Mapping[str, TensorPlan]
    notes: tuple[str, ...] = ()


def apply_overrides(
    graph: Graph,
    tensors: Mapping[str, TensorPlan],
    overrides: Iterable[Override],
    target: Target,
    *,
    weights_alone: bool = False,
) -> Overridden:
    """`tensors` as the overrides want them.

    Args:
        graph: The normalised graph of the plan.
        tensors: The tensors of the plan, by key.
        overrides: In the order in which they are applied.
        target: The table that says which types its engine takes.
        weights_alone: Whether `tensors` are weights that are stored in few bits and multiplied with float activations.

    Raises:
        ConfigError: an override names nothing, or nothing of the kind that it changes, or a type that the target does
            not take.
    """
    planned, notes = dict(tensors), list[str]()
    for one in overrides:
        _check_types(one, target)
        keys_of = _KEYS_OF_WEIGHTS_ALONE if weights_alone else _KEYS
        _check_meaning(one) if weights_alone else _check_forms(one, target)
        nodes = _named_nodes(graph, one)
        named = _named(graph, planned, one, nodes)
        for role, keys in keys_of.items():
            given = [key for key in keys if getattr(one, key) is not None]
            own = [key for key in named if planned[key].role is role]
            if given and not own:
                raise ConfigError(
                    f"what it names holds no {role.value} that {target.name} quantizes, so {given[0]} changes nothing",
                    where=one.title,
                    hint="`onnxq plan MODEL --tensors` lists what is quantized",
                )
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
    for key, default, others in (
        ("activation", target.activation.qtype.name, target.activation_types),
        ("weight", target.weight.qtype.name, target.weight_types),
    ):
        name, known = getattr(one, key), [default, *sorted(set(others) - {default})]
        if name is not None and qtype_from_name(name).name not in known:
            raise ConfigError(
                f"{target.name} takes no {key}s of type {name!r}",
                where=one.title,
                hint=f"it takes {' or '.join(known)}",
            )


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


def _named_nodes(graph: Graph, one: Override) -> set[str]:
    """Names of the nodes that an override names."""
    names = [n.name for n in graph.nodes]
    found: set[str] = set()
    for pattern in one.nodes:
        nodes = selected(pattern, names, where=one.title)
        if not nodes:
            raise _unmatched(graph, "node", pattern, names, one)
        found.update(nodes)
    return found


def _named(graph: Graph, planned: Mapping[str, TensorPlan], one: Override, nodes: Collection[str]) -> list[str]:
    """Keys of the planned tensors that an override names, itself or by their readers, in the plan's order."""
    found = {key for key, t in planned.items() if any(use.node in nodes for use in t.uses)}
    known = [key for key, t in planned.items() if t.role in (Role.ACTIVATION, Role.WEIGHT)]
    for pattern in one.tensors:
        tensors = selected(pattern, known, where=one.title)
        if not tensors:
            raise _not_quantized(graph, pattern, known, one)
        found |= set(tensors)
    return [key for key in planned if key in found]


def _unmatched(graph: Graph, kind: str, pattern: str, known: Collection[str], one: Override) -> ConfigError:
    error = unmatched(kind, pattern, known, one.title)
    if not any(True for _ in subgraphs(graph)):
        return error
    hint = f"{error.hint}; overrides do not reach what is inside If, Loop and Scan"
    return ConfigError(error.message, where=one.title, hint=hint)


def _not_quantized(graph: Graph, pattern: str, known: Collection[str], one: Override) -> ConfigError:
    if not graph.exists(pattern):
        return _unmatched(graph, "quantized tensor", pattern, known, one)
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


def check_like_types(graph: Graph, tensors: Mapping[str, TensorPlan], target: Target) -> None:
    """See that no node multiplies codes that are integers by codes that are floats.

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
        if qtype_from_name(data).is_float or qtype_from_name(weight).is_float:
            node = graph.node(name)
            raise ConfigError(
                f"its first input would be {data} and its second {weight}; {target.name} multiplies like types only",
                where=f"{node.op_type} {name!r}",
                hint="give both in the override of the node: activation and weight (--override, [[override]]), and to "
                "all nodes that read the same tensor",
            )
