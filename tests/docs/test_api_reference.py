"""docs/api.md is what the docstrings say."""

from __future__ import annotations

import inspect
import re

import onnxq
from scripts.api_reference import REFERENCE, reference


def test_reference_has_not_drifted() -> None:
    assert REFERENCE.read_text(encoding="utf-8") == reference(), "run: python scripts/api_reference.py (make docs)"


def test_every_argument_is_explained() -> None:
    text = reference()
    for name in onnxq.__all__:
        thing = getattr(onnxq, name)
        if inspect.isfunction(thing):
            section = text.split(f"### {name}\n")[1].split("\n### ")[0]
            rows = re.findall(r"^\| `([^`]+)` \|", section, re.MULTILINE)
            explained = {argument for row in rows for argument in row.split(", ")}
            assert set(inspect.signature(thing).parameters) <= explained, name
            assert "options" not in explained, name


def test_calls_can_be_typed_as_they_are_shown() -> None:
    text = reference()
    assert "`to_text(*, width)`" in text
    assert "onnxq.compat.quantize_static(" in text
    assert "onnxq.quantize_static(" not in text
    assert text.index("| property |") < text.index("| method |")
