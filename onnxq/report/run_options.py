"""The options of a run as a command takes them: what a command that makes the model again has to say, too."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from onnxq.wording.flags import flag_of

FROM_A_FILE = "from a file"
"""Stands in the options of a model for what is an input of its own, whose place says nothing to anybody else."""

NAMES = (
    "activations",
    "weights",
    "block_size",
    "rounding",
    "weight_format",
    "accuracy_level",
    "exclude",
    "exclude_ops",
    "exclude_between",
    "include",
    "include_ops",
    "include_between",
    "overrides",
    "placement",
    "batch_size",
    "limit",
    "shuffle",
    "method",
    "percentile",
    "momentum",
    "recover",
    "tensorrt_cache",
    "float_type",
    "tune",
    "tune_seconds",
    "providers",
    "nonfinite",
)
"""Options with a value, by their names in Python, in the order of a command. Target, mode, how samples become inputs
and what is demanded are said elsewhere in a report."""

OF_LABELS = ("metric", "labels", "output_name", "eval_data")
"""What goes with `--max-drop` alone."""

SWITCHES = {
    ("symmetric", True): "--symmetric",
    ("symmetric", False): "--asymmetric",
    ("full_histogram", True): "--full-histogram",
}


_REPEATABLE = frozenset(
    flag_of(name) for name in NAMES if name.startswith(("exclude", "include", "overrides", "providers"))
)


def command_options(options: Mapping[str, Any], *, but: str = "") -> str:
    """Words for the shell, with a space in front; "" for none.

    Args:
        options: Keywords of `onnxq.quantize` with JSON's values, as the metadata of a model has them; under "data" what
            was said of the samples.
        but: Options that the command gives itself, with their values: they stand in place of the run's, repeatable ones
            beside them.
    """
    said = {**options, "shuffle": (options.get("data") or {}).get("shuffle")}
    given = set(shlex.split(but)) - _REPEATABLE
    names = (*NAMES, *OF_LABELS) if "--max-drop" in given else NAMES
    words = [word for flag, *value in _options(said, names) if flag not in given for word in (flag, *value)]
    return f" {shlex.join(words)}" if words else ""


def _options(said: Mapping[str, Any], names: Sequence[str]) -> Iterator[tuple[str, ...]]:
    for name in names:
        value, flag = said.get(name), flag_of(name)
        if name == "recover" and isinstance(value, list):
            yield flag, ",".join(value)
        elif isinstance(value, list):
            yield from ((flag, _word(one)) for one in value)
        elif value is not None:
            # What was no path has no name to give, as SRC stands for data from memory.
            yield flag, flag.strip("-").upper() if value == FROM_A_FILE else str(value)
    yield from ((flag,) for (name, value), flag in SWITCHES.items() if said.get(name) is value)


def _word(value: Any) -> str:
    if isinstance(value, Mapping):  # an override; JSON's values are TOML's, too
        return ", ".join(f"{key} = {json.dumps(one)}" for key, one in value.items() if one not in (None, [], ()))
    return ":".join(map(str, value)) if isinstance(value, list) else str(value)
