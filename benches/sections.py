"""RESULTS.md has a section for each bench, between markers, so that each can be written anew on its own."""

from __future__ import annotations

from pathlib import Path

RESULTS = Path(__file__).resolve().with_name("RESULTS.md")
TITLE = "# Measurements"


def read_section(path: Path, name: str) -> str:
    """The text between the markers of `name`; nothing where there are none."""
    text = path.read_text(encoding="utf-8") if path.is_file() else ""
    return text.partition(f"<!-- {name} -->")[2].partition(f"<!-- /{name} -->")[0].strip()


def write_section(path: Path, name: str, text: str) -> None:
    """Put `text` between the markers of `name`; at the end of a file that has none."""
    start, end = f"<!-- {name} -->", f"<!-- /{name} -->"
    old = path.read_text(encoding="utf-8") if path.is_file() else TITLE
    before, marker, rest = old.partition(start)
    after = rest.partition(end)[2] if marker else ""
    parts = [before.rstrip(), f"{start}\n{text.strip()}\n{end}", after.strip()]
    path.write_text("\n\n".join(part for part in parts if part) + "\n", encoding="utf-8")
