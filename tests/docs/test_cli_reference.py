"""docs/cli.md is what the commands say."""

from __future__ import annotations

from onnxq.cli.main import cli
from scripts.cli_reference import REFERENCE, reference


def test_reference_has_not_drifted() -> None:
    assert REFERENCE.read_text(encoding="utf-8") == reference(), "run: python scripts/cli_reference.py (make docs)"


def test_reference_has_every_command() -> None:
    text = reference()
    assert all(f"## onnxq {name}\n" in text for name in cli.commands)


def test_reference_tells_what_has_to_be_given_and_no_words_of_click() -> None:
    text = reference()
    for name in ("calibrate", "merge", "cache", "strip"):
        section = text.split(f"## onnxq {name}\n")[1].split("\n## ")[0]
        assert "Required. |" in section, name
    assert not any(word in text for word in ("Default: None", "......", " RANGE |", "see below"))
