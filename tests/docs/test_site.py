"""The site builds without a warning, and what the pages quote is what the code says."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.docs.pages import DOCS

ROOT = DOCS.parent
LEAST = 5
"""Letters of a message that must be found as they stand."""


@pytest.mark.slow
def test_the_site_builds_without_warnings(tmp_path: Path) -> None:
    pytest.importorskip("mkdocs")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path / "site")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    page = (tmp_path / "site" / "quickstart.html").read_text(encoding="utf-8")
    assert "fonts.googleapis" not in page
    assert not re.search(r'(?:src|href)="https?://(?!squidfunk)', page)


def test_no_page_links_out_of_the_site() -> None:
    for page in DOCS.rglob("*.md"):
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).resolve().is_relative_to(DOCS), f"{page.name} links to {target}"


def test_every_page_is_in_the_navigation() -> None:
    listed = set(re.findall(r"[\w/-]+\.md", (ROOT / "mkdocs.yml").read_text(encoding="utf-8")))
    assert listed == {str(page.relative_to(DOCS)) for page in DOCS.rglob("*.md")}


def test_messages_of_the_troubleshooting_page_are_real() -> None:
    page = (DOCS / "troubleshooting.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (`.*?) \|", page, re.MULTILINE)
    messages = [message for row in rows for message in re.findall(r"`([^`]+)`", row)]
    assert len(messages) >= 20
    code = "".join(p.read_text(encoding="utf-8") for p in sorted((ROOT / "onnxq").rglob("*.py")))
    code = re.sub(r'"\s*\n\s*f?"', "", code)  # strings that go on in the next line
    for message in messages:
        if message.startswith("--"):
            continue
        fixed = re.split(r"'[^']*'|\d+|\([^)]*\)|\.\.\.", message)
        longest = max(fixed, key=len).strip()
        assert len(longest) >= min(LEAST, len(message) - 4), message
        assert longest in code, message
