"""RESULTS.md: each bench writes its own section and leaves the others alone."""

from __future__ import annotations

from pathlib import Path

from benches.large import rows_of, section
from benches.sections import TITLE, read_section, write_section
from benches.without_calibration import tables_of


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


def test_tables_of_models_keep_what_they_were_measured_with(tmp_path: Path) -> None:
    """Also those of sections that said it once for all of their tables."""
    old = (
        "## Modes\n\nWritten by a bench.\n\n- Processor: one, 2 cores\n- onnxq: commit abc\n\n"
        "**first** (here)\n\n| variant |\n| --- |\n| float |\n\n"
        "**second_one** (there)\n\n| variant |\n| --- |\n| int8 |"
    )
    path = tmp_path / "RESULTS.md"
    write_section(path, "modes", old)
    assert read_section(path, "modes") == old
    assert read_section(path, "others") == read_section(tmp_path / "absent.md", "modes") == ""
    found = tables_of(old)
    measured = "Measured with Processor: one, 2 cores; onnxq: commit abc"
    assert found == {
        "first": f"**first** (here)\n\n{measured}\n\n| variant |\n| --- |\n| float |",
        "second_one": f"**second_one** (there)\n\n{measured}\n\n| variant |\n| --- |\n| int8 |",
    }
    assert tables_of("## Modes\n\nOther words.\n\n" + "\n\n".join(found.values())) == found
    assert tables_of("") == {}
