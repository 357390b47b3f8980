"""A target's table for the types of codes that a user asks for."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace

from onnxq.errors import ConfigError
from onnxq.numerics.qtypes import QTYPES, QType, qtype_from_name
from onnxq.numerics.specs import QuantSpec
from onnxq.targets.schema import ComputeRule, Engine, Target, TypeRule, WeightGuard

NO_ACTIVATIONS = "none"
"""In place of a type of activations: they stay float, as mode "weight-only" has them."""

BLOCK_OPSET = 21
"""The first opset whose DequantizeLinear takes a scale for each block."""

_NO_RULE = TypeRule(rules="")


def type_rule(target: Target, spec: QuantSpec) -> TypeRule:
    """What the table says of activations in the form `spec`."""
    return target.types.get(spec.qtype.name, _NO_RULE)


def with_products(target: Target) -> Target:
    """The table in which products of two activations are quantized."""
    name = target.activation.qtype.name
    rule = target.types.get(name, TypeRule(rules="R28"))
    return replace(target, types={**target.types, name: replace(rule, products=True)})


def with_types(
    target: Target,
    activations: str | None,
    weights: str | None,
    others: Iterable[str] = (),
    *,
    blocks: bool = False,
) -> tuple[Target, tuple[str, ...]]:
    """The table in which activations and weights have the types that a user asks for, and what the user should know.

    Args:
        target: The table.
        activations: Name of a type for all activations; None for the table's own.
        weights: Likewise for weights; None for what belongs to the activations.
        others: Types that single tensors will have, which the opset of the model has to know too.
        blocks: Whether single weights will have a scale for each block, likewise.

    Raises:
        ConfigError: there is no such type, or the engine does not take it.
    """
    data = _wanted(target, activations, target.activation.qtype, target.activation_types, "activations")
    rule = target.types.get(data.name, _NO_RULE)
    own = target.weight.qtype if activations is None or not rule.weights else qtype_from_name(rule.weights)
    taken = {*target.weight_types, *rule.weight_types, target.weight.qtype.name}
    weight = _wanted(target, weights, own, taken, "weights")
    if weights is not None and activations is None and target.like_types and weight.is_float != data.is_float:
        # Weights of a type that only goes with activations of that type.
        return with_types(target, weights, weights, others, blocks=blocks)
    if target.like_types and weight.is_float != data.is_float:
        raise ConfigError(
            f"{target.name} multiplies codes of like types only, not {data.name} activations by {weight.name} weights",
            hint="leave weights= (--weights) out, or give activations= (--activations) the same type",
        )
    named = [qtype_from_name(name).name for name in others]
    needed = max([target.min_opset, data.min_opset, weight.min_opset, *(QTYPES[name].min_opset for name in named)])
    simulated = sorted(
        {name for name in (data.name, weight.name, *named) if target.types.get(name, _NO_RULE).simulated}
    )
    if blocks or target.weight.block_size is not None:
        needed = max(needed, BLOCK_OPSET)
    made = replace(
        target,
        activation=in_type(target.activation, data),
        weight=in_type(target.weight, weight),
        compute=_with_weights(target, weight) if weight.name in rule.weight_types else target.compute,
        activation_types=target.activation_types | {target.activation.qtype.name},
        weight_types=target.weight_types | {target.weight.qtype.name},
        min_opset=needed,
    )
    if simulated:
        # The engine would only say that it computes in float, and what it is quick at does not matter.
        made = replace(made, engine=Engine.NONE, guard=WeightGuard.NONE, costs=None)
    return made, _notes(made, activations, weights, simulated)


def step_type(target: Target) -> str | None:
    """The type between 8 bits and float that the target's kernels take for activations; None where there is none."""
    for name in ("uint16", "int16"):
        if name in target.activation_types and not target.types.get(name, _NO_RULE).simulated:
            return name if target.activation.qtype.bits < 16 else None
    return None


def takes_weights(target: Target, activations: str, weights: str) -> bool:
    """Whether weights of a type may meet activations of another: some types are for certain activations alone."""
    special = {name for rule in target.types.values() for name in rule.weight_types} - target.weight_types
    return weights not in special or weights in target.types.get(activations, _NO_RULE).weight_types


def _with_weights(target: Target, weight: QType) -> dict[str, ComputeRule]:
    """The operators with weights, all of that type but those that keep their own."""
    return {
        op: rule if rule.weight is None or rule.keeps_weight else replace(rule, weight=in_type(rule.weight, weight))
        for op, rule in target.compute.items()
    }


def in_type(spec: QuantSpec, qtype: QType) -> QuantSpec:
    """The same form with codes of another type."""
    if spec.qtype == qtype:
        return spec
    return replace(
        spec,
        qtype=qtype,
        symmetric=spec.symmetric or qtype.is_float,
        narrow_range=spec.narrow_range and not qtype.is_float,
        bits=None,
    )


def _wanted(target: Target, name: str | None, own: QType, known: Collection[str], what: str) -> QType:
    if name is None:
        return own
    if what == "activations" and name == NO_ACTIVATIONS:
        raise ConfigError(
            "activations='none' (--activations none) leaves activations in float: that is mode 'weight-only'",
            hint="pass mode='weight-only' (--mode weight-only), or leave activations= (--activations) out",
        )
    qtype = qtype_from_name(name)
    if qtype != own and qtype.name not in known:
        taken = " or ".join([own.name, *sorted(set(known) - {own.name})])
        narrow = what == "weights" and qtype.bits < own.bits
        beside = [one for one, rule in target.types.items() if what == "weights" and name in rule.weight_types]
        if beside:
            types = " or ".join(map(repr, beside))
            raise ConfigError(
                f"{target.name} takes weights of type {name!r} with activations of type {types} alone",
                hint=f"pass activations={beside[0]!r} (--activations {beside[0]}) as well, "
                "or leave weights= (--weights) out",
            )
        elsewhere = "mode='weight-only' (--mode weight-only)" if narrow else "another target= (--target)"
        raise ConfigError(
            f"{target.name} takes no {what} of type {qtype.name!r}",
            hint=f"it takes {taken}; pass {what}= (--{what}) with one of them, or {elsewhere}",
        )
    return qtype


def _notes(target: Target, activations: str | None, weights: str | None, simulated: Sequence[str]) -> tuple[str, ...]:
    notes = []
    if activations is not None or weights is not None:
        notes.append(f"activations are {_known_as(target.activation)}, weights {_known_as(target.weight)}")
    rule = type_rule(target, target.activation)
    if rule.note and target.weight.qtype.name not in rule.weight_types:
        notes.append(rule.note)
    if simulated:
        notes.append(
            f"{target.title} computes in float between Q/DQ pairs of {' and '.join(simulated)}: this model shows the "
            "accuracy that an engine with such kernels would have, and is slower than the float model here"
        )
    return tuple(notes)


def _known_as(spec: QuantSpec) -> str:
    """The name that users give a type by."""
    return "fp8" if spec.qtype.is_float else spec.qtype.name
