"""A target's table for the types of codes that a user asks for."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import replace

from onnxq.errors import ConfigError
from onnxq.numerics.qtypes import QType, qtype_from_name
from onnxq.numerics.specs import QuantSpec
from onnxq.targets.schema import Target, TypeRule

BLOCK_OPSET = 21
"""The first opset whose DequantizeLinear takes a scale for each block."""

_NO_RULE = TypeRule(rules="")


def type_rule(target: Target, spec: QuantSpec) -> TypeRule:
    """What the table says of activations in the form `spec`."""
    return target.types.get(spec.qtype.name, _NO_RULE)


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
    weight = _wanted(target, weights, own, {*target.weight_types, target.weight.qtype.name}, "weights")
    if weights is not None and activations is None and target.like_types and weight.is_float != data.is_float:
        # Weights of a type that only goes with activations of that type.
        return with_types(target, weights, weights, others, blocks=blocks)
    if target.like_types and weight.is_float != data.is_float:
        raise ConfigError(
            f"{target.name} multiplies codes of like types only, not {data.name} activations by {weight.name} weights",
            hint="leave weights= (--weights) out, or give activations= (--activations) the same type",
        )
    needed = max([target.min_opset, data.min_opset, weight.min_opset, *(qtype_from_name(n).min_opset for n in others)])
    if blocks or target.weight.block_size is not None:
        needed = max(needed, BLOCK_OPSET)
    made = replace(
        target,
        activation=in_type(target.activation, data),
        weight=in_type(target.weight, weight),
        activation_types=target.activation_types | {target.activation.qtype.name},
        weight_types=target.weight_types | {target.weight.qtype.name},
        min_opset=needed,
    )
    return made, _notes(made, activations, weights)


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
    qtype = qtype_from_name(name)
    if qtype != own and qtype.name not in known:
        taken = " or ".join([own.name, *sorted(set(known) - {own.name})])
        raise ConfigError(
            f"{target.name} takes no {what} of type {qtype.name!r}",
            hint=f"it takes {taken}; pass {what}= (--{what}) with one of them, or another target= (--target)",
        )
    return qtype


def _notes(target: Target, activations: str | None, weights: str | None) -> tuple[str, ...]:
    if activations is None and weights is None:
        return ()
    data, weight = target.activation.qtype.name, target.weight.qtype.name
    notes = [f"activations are {data}, weights {weight}"]
    if note := type_rule(target, target.activation).note:
        notes.append(note)
    if type_rule(target, target.activation).simulated:
        notes.append(
            f"{target.title} computes in float between pairs of {data}: this model shows the accuracy that an engine "
            "with such kernels would have, and is slower than the float model here"
        )
    return tuple(notes)
