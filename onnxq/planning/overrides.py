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
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from numbers import Real
from typing import Any

from onnxq.calibration.methods import Method, method_from_name
from onnxq.errors import ConfigError
from onnxq.keywords import guesses
from onnxq.planning.names import several

_OPTION = "overrides=[...] (--override, [[override]])"


@guesses
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
        amax: The same as range = [-amax, amax].
        weight_amax: Largest magnitude of the weights, of each channel, in place of that of their values.
        activation_bits: Bits of which the activations' codes make use, 2 to those of the type.
        weight_bits: Likewise for weights.
        symmetric: Whether 0 is the middle code of the activations.
        narrow_range: Whether the smallest code is left out.
        power_of_two: Whether scales are powers of two.
        block_size: How many weights share a scale, along the axis that products are summed over.
        rounding: How codes of weights are chosen, in mode "weight-only"; there `symmetric` is about weights.

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
    amax: float | None = None
    weight_amax: float | None = None
    activation_bits: int | None = None
    weight_bits: int | None = None
    symmetric: bool | None = None
    narrow_range: bool | None = None
    power_of_two: bool | None = None
    block_size: int | None = None
    rounding: str | None = None

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
        self._check_form()
        if self.range is not None:
            object.__setattr__(self, "range", _checked_range(self.range, self.title))
        if self.ends is not None and (self.method is not None or self.percentile is not None):
            raise ConfigError("range leaves nothing for a method to choose", where=self.title, hint="drop one")
        self.solver()

    def _check_form(self) -> None:
        for key in ("per_channel", "symmetric", "narrow_range", "power_of_two"):
            if (flag := getattr(self, key)) is not None and not isinstance(flag, bool):
                raise ConfigError(f"{key} is {flag!r}, expected true or false", where=self.title)
        for key in ("amax", "weight_amax"):
            if (largest := getattr(self, key)) is not None:
                object.__setattr__(self, key, _checked_amax(key, largest, self.title))
        if self.amax is not None and self.range is not None:
            raise ConfigError("range and amax say the same", where=self.title, hint="drop one")
        if self.per_channel is not None and self.block_size is not None:
            raise ConfigError("per_channel and block_size contradict each other", where=self.title, hint="drop one")

    @property
    def ends(self) -> tuple[float, float] | None:
        """The range that is given for activations, if one is."""
        if self.amax is not None:
            return -self.amax, self.amax
        return None if self.range is None else (self.range[0], self.range[1])

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


def _checked_amax(key: str, given: object, where: str) -> float:
    number = float(given) if isinstance(given, Real) and not isinstance(given, bool) else math.nan
    if not 0.0 < number < math.inf:
        raise ConfigError(f"{key} is {given!r}, expected a positive number", where=where)
    return number


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
