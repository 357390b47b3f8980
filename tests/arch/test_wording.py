"""Words that do not belong into the project."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SUFFIXES = {".py", ".md", ".toml", ".txt", ".sh", ".cfg", ""}
HERE = Path(__file__)

# One term for one thing: scale, zero_point, axis, range, Q, DQ.
SYNONYMS = re.compile(r"\b(calibrater|per_tensor_affine|dequant_scale)\b", re.IGNORECASE)
UNFINISHED = re.compile(r"\b(TODO|FIXME|XXX|HACK)\b")
MACHINE_PATHS = re.compile(r"(?<![\w.])/(?:work|home|root|Users)/")


def sources() -> list[Path]:
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    ).stdout.split("\n")  # fmt: skip
    paths = [ROOT / name for name in listed if name] or list(ROOT.rglob("*.py"))
    return [p for p in paths if p.suffix in SUFFIXES and p.is_file() and p != HERE and p.name != "words.txt"]


@pytest.mark.parametrize("pattern", [SYNONYMS, UNFINISHED, MACHINE_PATHS], ids=["synonym", "unfinished", "path"])
def test_forbidden_words(pattern: re.Pattern[str]) -> None:
    found = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()}"
        for path in sources()
        for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), start=1)
        if pattern.search(line)
    ]
    assert found == []
