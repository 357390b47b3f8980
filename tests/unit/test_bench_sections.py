"""RESULTS.md: each bench writes its own section and leaves the others alone."""

from __future__ import annotations

from pathlib import Path

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
