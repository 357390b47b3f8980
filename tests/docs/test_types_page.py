"""docs/types.md: its Python runs, and its tables name what there is."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np

from onnxq.cli.parameters import ACTIVATIONS
from onnxq.numerics import QuantSpec
from onnxq.planning.overrides import Override
from onnxq.targets import TARGETS

PAGE = (Path(__file__).parents[2] / "docs" / "types.md").read_text(encoding="utf-8")


def test_python_runs() -> None:
    (code,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    names: dict[str, Any] = {}
    exec(compile(code, "types.md", "exec"), names)
    assert len(names["packed"]) == 64 * 128 // 2
    assert np.abs(names["rounded"] - names["x"]).max() < 0.2


def test_types_of_the_command_line_are_explained() -> None:
    assert all(f"`{name}`" in PAGE for name in ACTIVATIONS)


def test_keys_are_those_of_overrides_and_forms() -> None:
    rows = re.findall(r"^\| [^|]+ \| ([^|]*) \| ([^|]*) \| ([^|]*) \|$", PAGE, re.MULTILINE)
    overrides = {key for row in rows for key in re.findall(r"`(\w+)`", row[0])} - {"targets"}
    known = {f.name for f in fields(Override)}
    assert {key for key in overrides if "_" in key} <= known
    forms = {key for row in rows[1:] for key in re.findall(r"`(\w+)`", row[2])}
    assert {"bits", "signed", "axis", "block_size", "amax", "power_of_two"} <= forms
    assert {f.name for f in fields(QuantSpec)} - {"qtype"} <= forms


def test_targets_are_listed() -> None:
    for target in TARGETS.values():
        name = "ort-*" if target.name.startswith("ort-") else target.name
        row = next(line for line in PAGE.splitlines() if line.startswith("| ") and f"`{name}`" in line.split("|")[1])
        for activation in target.activation_types:
            assert activation.replace("float8e4m3fn", "fp8") in row, (target.name, activation)
