"""RESULTS.md: each bench writes its own section and leaves the others alone."""

from __future__ import annotations

from pathlib import Path

from benches.large import rows_of, section
from benches.sections import TITLE, write_section


def test_sections_are_added_and_replaced_on_their_own(tmp_path: Path) -> None:
    path = tmp_path / "RESULTS.md"
    write_section(path, "one", "first")
    write_section(path, "two", "second\n")
    write_section(path, "one", "first, anew")
    assert path.read_text(encoding="utf-8") == (
        f"{TITLE}\n\n<!-- one -->\nfirst, anew\n<!-- /one -->\n\n<!-- two -->\nsecond\n<!-- /two -->\n"
    )


def test_writing_the_same_again_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "RESULTS.md"
    for name in ("one", "two", "one", "two"):
        write_section(path, name, name)
        before = path.read_bytes()
    write_section(path, "one", "one")
    assert path.read_bytes() == before


def test_text_around_the_sections_stays(tmp_path: Path) -> None:
    path = tmp_path / "RESULTS.md"
    path.write_text("# Mine\n\n<!-- one -->\nold\n<!-- /one -->\n\nThe end.\n", encoding="utf-8")
    write_section(path, "one", "new")
    assert path.read_text(encoding="utf-8") == "# Mine\n\n<!-- one -->\nnew\n<!-- /one -->\n\nThe end.\n"


def test_rows_of_large_models_that_are_not_measured_again_stay(tmp_path: Path) -> None:
    path = tmp_path / "RESULTS.md"
    rows = {
        ("8.3 GB float32", "onnxruntime alone"): ("7.64", "8.16", "59", "21", "", "", "abc"),
        ("2.5 GB float32", "onnxq, static"): ("1.63", "3.29", "185", "74", "0.6", "32.6", "abc"),
        ("2.5 GB float32", "onnxruntime alone"): ("2.26", "2.54", "15", "7", "", "", "abc"),
    }
    write_section(path, "large", section(rows))
    text = path.read_text(encoding="utf-8")
    assert rows_of(text) == rows
    assert text.index("| 2.5 GB float32 | onnxruntime alone |") < text.index("|  | onnxq, static |")
    assert text.index("|  | onnxq, static |") < text.index("| 8.3 GB float32 | onnxruntime alone |")
    assert rows_of("another page") == {}
