"""How single nodes and tensors are to be quantized differently from the rest.

    [[override]]                       [[override]]
    nodes = "/head/*"                  tensors = "images"
    method = "percentile"              range = [0.0, 1.0]
    percentile = 99.9

An override of nodes is one of the activations and weights that they read. Tensors that have to share parameters (the
inputs and the output of a Concat, what a MaxPool only moves, a weight of several nodes) share an override too: it holds
for all of them, and the plan notes it. Overrides are applied in their order, so later ones win.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from numbers import Real
from typing import Any

from onnxq.calibration.methods import Method, method_from_name
from onnxq.errors import ConfigError
from onnxq.graph.view import Graph
from onnxq.numerics.qtypes import qtype_from_name
from onnxq.planning.names import selected, several, unmatched
from onnxq.planning.plan import Fixed, Observed, Role, TensorPlan, family_of
from onnxq.plural import counted
from onnxq.targets.forms import in_type
from onnxq.targets.schema import Target

_OPTION = "overrides=[...] (--override, [[override]])"


@dataclass(frozen=True, kw_only=True)
class Override:
    """One [[override]]: which tensors it is about, and what is different there.

    Attributes:
        nodes: Names or patterns of nodes: the activations and weights that these read.
        tensors: Names or patterns of tensors.
        activation: Type of the activations' codes, one that the target takes ("uint8").
        weight: Type of the weights' codes.
        per_channel: Whether weights have a scale for each channel, where the target takes that.
        method: How the ranges of the activations are chosen: max, percentile, entropy, mse or auto.
        percentile: For the method "percentile", percent of the values inside the range.
        range: [lo, hi] of the activations in place of a solved range, widened to hold 0. What the graph cannot produce
            (below 0 behind a Relu) is cut off all the same.

    Raises:
        ConfigError: it is about nothing, changes nothing, or has an impossible value.
    """

    nodes: str | Sequence[str] = ()
    tensors: str | Sequence[str] = ()
    activation: str | None = None
    weight: str | None = None
    per_channel: bool | None = None
    method: str | None = None
    percentile: float | None = None
    range: Sequence[float] | None = None

    def __post_init__(self) -> None:
        for key in ("nodes", "tensors"):
            object.__setattr__(self, key, several(getattr(self, key)))
        if not self.nodes and not self.tensors:
            raise ConfigError("it says neither nodes nor tensors", where="override", hint='add nodes = "/head/*"')
        if not any(getattr(self, key) is not None for key in _CHANGES):
            raise ConfigError("it changes nothing", where=self.title, hint=f"add one of {', '.join(_CHANGES)}")
        for key in ("activation", "weight"):
            if (name := getattr(self, key)) is not None and not isinstance(name, str):
                raise ConfigError(f"{key} is {name!r}, expected a type such as 'int8'", where=self.title)
        if self.per_channel is not None and not isinstance(self.per_channel, bool):
            raise ConfigError(f"per_channel is {self.per_channel!r}, expected true or false", where=self.title)
        if self.range is not None:
            object.__setattr__(self, "range", _checked_range(self.range, self.title))
            if self.method is not None or self.percentile is not None:
                raise ConfigError("range leaves nothing for a method to choose", where=self.title, hint="drop one")
        self.solver()

    @property
    def title(self) -> str:
        """What it is called in messages."""
        key = "nodes" if self.nodes else "tensors"
        return f"override of {key} {', '.join(map(repr, getattr(self, key)))}"

    def solver(self) -> Method | None:
        """The method, checked.

        Raises:
            ConfigError: there is no such method, or not for a single tensor.
        """
        if self.method is None and self.percentile is None:
            return None
        try:
            method = method_from_name(self.method or "percentile", percentile=self.percentile)
        except ConfigError as error:
            raise ConfigError(error.message, where=self.title, hint=error.hint) from error
        if method.name == "moving-average":
            raise ConfigError(
                "a moving average is the method of a whole run, not of one tensor",
                where=self.title,
                hint="choose max, percentile, entropy, mse or auto",
            )
        return method


_CHANGES = tuple(f.name for f in fields(Override) if f.name not in ("nodes", "tensors"))


def override_of(given: Override | Mapping[str, Any], number: int) -> Override:
    """An override from a table of a configuration file.

    Args:
        given: The table, or an override already.
        number: Its place in the list, counted from 1, for messages.

    Raises:
        ConfigError: it has an unknown key or an impossible value.
    """
    if isinstance(given, Override):
        return given
    where = f"override {number}"
    if not isinstance(given, Mapping):
        raise ConfigError(
            f"it is {given!r}, expected a table",
            where=where,
            hint=f"pass onnxq.Override(...) or a dict in {_OPTION}",
        )
    known = [f.name for f in fields(Override)]
    table = {str(key).replace("-", "_"): value for key, value in given.items()}
    for key in table:
        if key not in known:
            close = difflib.get_close_matches(key, known, n=1)
            hint = f"did you mean {close[0]!r}?" if close else f"known keys: {', '.join(known)}"
            raise ConfigError(f"unknown key {key!r}", where=where, hint=hint)
    for key in ("nodes", "tensors"):
        value = table.get(key, ())
        if not isinstance(value, str) and not (
            isinstance(value, Sequence) and all(isinstance(one, str) for one in value)
        ):
            raise ConfigError(f"{key} is {value!r}, expected a pattern or a list of them", where=where)
    try:
        return Override(**table)
    except ConfigError as error:
        of = error.where if error.where not in (None, "override") else ""
        raise ConfigError(error.message, where=where + (f" ({of})" if of else ""), hint=error.hint) from error


def _checked_range(given: Sequence[float], where: str) -> tuple[float, float]:
    ends = tuple(given) if isinstance(given, Sequence) and not isinstance(given, str) else ()
    numbers = [e for e in ends if isinstance(e, Real) and not isinstance(e, bool) and math.isfinite(e)]
    if len(ends) != 2 or len(numbers) != 2 or not ends[0] < ends[1]:
        raise ConfigError(
            f"range is {given!r}, expected two finite numbers, the smaller first",
            where=where,
            hint="write range = [-1.0, 1.0]",
        )
    return float(ends[0]), float(ends[1])


# ---- applied to a plan -------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Overridden:
    """The tensors of a plan with overrides applied, and what a user should know about it."""

    tensors: Mapping[str, TensorPlan]
    notes: tuple[str, ...] = ()


def apply_overrides(
    graph: Graph, tensors: Mapping[str, TensorPlan], overrides: Iterable[Override], target: Target
) -> Overridden:
    """`tensors` as the overrides want them.

    Args:
        graph: The normalised graph of the plan.
        tensors: The tensors of the plan, by key.
        overrides: In the order in which they are applied.
        target: The table that says which types its engine takes.

    Raises:
        ConfigError: an override names nothing, or nothing of the kind that it changes, or a type that the target does
            not take.
    """
    planned, notes = dict(tensors), list[str]()
    for one in overrides:
        _check_types(one, target)
        nodes = _named_nodes(graph, one)
        named = _named(graph, planned, one, nodes)
        for role, keys in _KEYS.items():
            given = [key for key in keys if getattr(one, key) is not None]
            own = [key for key in named if planned[key].role is role]
            if given and not own:
                raise ConfigError(
                    f"what it names holds no {role.value} that {target.name} quantizes, so {given[0]} changes nothing",
                    where=one.title,
                    hint="`onnxq plan MODEL --tensors` lists what is quantized",
                )
            if given:
                notes += _apply(one, own, planned, tensors)
            if given and role is Role.WEIGHT:
                notes += _shared_weights(one, [planned[key] for key in own], nodes)
    return Overridden(tensors=_biases_like_weights(planned), notes=tuple(notes))


_KEYS = {Role.ACTIVATION: ("activation", "method", "percentile", "range"), Role.WEIGHT: ("weight", "per_channel")}


def _apply(
    one: Override, own: Sequence[str], planned: dict[str, TensorPlan], before: Mapping[str, TensorPlan]
) -> list[str]:
    """Change the tensors `own`, and those that must share parameters with them; return what is to be noted."""
    families = {family_of(planned, key) for key in own}
    family = [key for key in planned if family_of(planned, key) in families]
    for key in family:
        planned[key] = _changed(planned[key], one, before[key])
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
            raise unmatched("node", pattern, names, one.title)
        found.update(nodes)
    return found


def _named(graph: Graph, planned: Mapping[str, TensorPlan], one: Override, nodes: Collection[str]) -> list[str]:
    """Keys of the planned tensors that an override names, itself or by their readers, in the plan's order."""
    found = {key for key, t in planned.items() if any(use.node in nodes for use in t.uses)}
    known = [key for key, t in planned.items() if t.role in (Role.ACTIVATION, Role.WEIGHT)]
    for pattern in one.tensors:
        tensors = selected(pattern, known, where=one.title)
        if not tensors:
            raise _not_quantized(graph, pattern, known, one.title)
        found |= set(tensors)
    return [key for key in planned if key in found]


def _not_quantized(graph: Graph, pattern: str, known: Collection[str], where: str) -> ConfigError:
    if not graph.exists(pattern):
        return unmatched("quantized tensor", pattern, known, where)
    return ConfigError(
        f"tensor {pattern!r} is not quantized",
        where=where,
        hint="`onnxq plan MODEL --tensors` lists what is; a tensor gets a pair where an int8 node wants one",
    )


def _changed(tensor: TensorPlan, one: Override, before: TensorPlan) -> TensorPlan:
    spec = tensor.spec
    if tensor.role is Role.WEIGHT:
        if one.weight is not None:
            spec = in_type(spec, qtype_from_name(one.weight))
        if one.per_channel is not None:
            spec = replace(spec, axis=before.spec.axis if one.per_channel else None)
        if one.per_channel and spec.axis is None:
            raise ConfigError(
                f"weight {tensor.name!r} cannot have a scale for each channel here",
                where=one.title,
                hint="the target or the nodes that share the weight allow one scale only: drop per_channel",
            )
        return replace(tensor, spec=spec)
    if one.activation is not None:
        spec = in_type(spec, qtype_from_name(one.activation))
    source, method = tensor.source, tensor.method
    if isinstance(source, (Observed, Fixed)):
        if one.range is not None:
            source, method = Fixed(one.range[0], one.range[1], source.lower, source.upper), None
        elif (solver := one.solver()) is not None:
            source, method = Observed(source.lower, source.upper), solver
    return replace(tensor, spec=spec, source=source, method=method)


def _biases_like_weights(planned: Mapping[str, TensorPlan]) -> dict[str, TensorPlan]:
    """`planned`, where a bias has channels only if its weight has."""
    done = dict(planned)
    for key, tensor in planned.items():
        weight = getattr(tensor.source, "weight", None)
        if weight is not None and planned[weight].spec.axis is None and tensor.spec.axis is not None:
            done[key] = replace(tensor, spec=replace(tensor.spec, axis=None))
    return done
