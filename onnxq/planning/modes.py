"""What a model can be turned into: the modes of `onnxq.quantize`, and which arguments have a meaning in each.

static       weights and activations are int8, ranges come from calibration data
dynamic      weights are int8, activations are quantized while the model runs; needs no data
weight-only  weights are stored in 4 or 8 bits, arithmetic stays float; needs no data, or a few samples
"""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Mapping
from typing import Any

from onnxq.errors import ConfigError

STATIC, DYNAMIC, WEIGHT_ONLY = "static", "dynamic", "weight-only"
MODES = (STATIC, DYNAMIC, WEIGHT_ONLY)

_DEMANDS = frozenset({
    "min_sqnr", "max_drop", "min_cosine", "metric", "labels", "output_name", "eval_data", "search_seconds", "search",
    "ranking", "require_engine",
})  # fmt: skip

_EVERYWHERE = frozenset({
    "model", "data", "target", "mode", "output", "force", "batch_size", "limit", "layout", "images", "exclude",
    "exclude_ops", "exclude_between", "include", "include_ops", "include_between", "overrides", "threads", "providers",
    "progress", "tune_progress", "details", "samples", "quantize", "by", "seconds",
}) | _DEMANDS  # fmt: skip

_MEANINGFUL: Mapping[str, frozenset[str]] = {
    DYNAMIC: _EVERYWHERE | {"weights", "placement", "min_int8"},
    WEIGHT_ONLY: _EVERYWHERE
    | {"weights", "placement", "block_size", "symmetric", "rounding", "weight_format", "accuracy_level"},
}
"""Arguments that a mode looks at; "static" looks at its own."""

_ONLY_ELSEWHERE: Mapping[str, frozenset[str]] = {
    STATIC: frozenset({"block_size", "symmetric", "rounding", "weight_format", "accuracy_level"}),
}

WEIGHT_TYPES: Mapping[str, tuple[str, ...]] = {
    DYNAMIC: ("int8",),
    WEIGHT_ONLY: ("int4", "uint4", "int8"),
}
"""Types of weights that a mode can write, the default first."""


def check_mode(mode: str, function: Callable[..., Any], given: Mapping[str, Any]) -> None:
    """See that there is such a mode and that nothing was asked for that it has no use for.

    Args:
        mode: Its name.
        function: Whose arguments are given.
        given: The arguments, by name.

    Raises:
        ConfigError: there is no such mode, or an argument means nothing in it.
    """
    if mode not in MODES:
        close = difflib.get_close_matches(str(mode), MODES, n=1)
        raise ConfigError(
            f"unknown mode {mode!r}; known: {', '.join(MODES)}",
            hint=f"did you mean mode={close[0]!r} (--mode {close[0]})?" if close else "pass mode= (--mode)",
        )
    for name, parameter in inspect.signature(function).parameters.items():
        unused = name not in _MEANINGFUL[mode] if mode in _MEANINGFUL else name in _ONLY_ELSEWHERE[mode]
        if unused and given[name] != parameter.default:
            raise ConfigError(
                f"{name}={given[name]!r} has no meaning in mode {mode!r}",
                hint=f"leave it out, or choose another mode= (--mode {'|'.join(MODES)})",
            )
    weights = given.get("weights")
    known = WEIGHT_TYPES.get(mode)
    if known is not None and weights is not None and weights not in known:
        raise ConfigError(
            f"mode {mode!r} writes weights as {' or '.join(known)}, not as {weights!r}",
            hint="pass another weights= (--weights) or mode= (--mode)",
        )
