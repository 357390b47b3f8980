"""Every block of docs/tensorrt.md that can run without a GPU and NVIDIA's own programs is run, in the page's order."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from onnxq.cli.main import cli
from onnxq.verification.engines import tensorrt
from tests.cli.conftest import RUNNER

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "tensorrt.md"
TOOLS = {"trtexec", "tensorrt_rtx"}
# Of NVIDIA's command line programs; the page may name no others.
TOOL_OPTIONS = {"--onnx", "--saveEngine", "--stronglyTyped", "--minShapes", "--optShapes", "--maxShapes"}

BLOCKS = re.findall(r"```(sh|python)\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)


def commands(block: str) -> list[list[str]]:
    return [shlex.split(line, comments=True) for line in block.replace("\\\n", " ").splitlines() if line.strip()]


def test_blocks_were_found() -> None:
    assert [language for language, _ in BLOCKS].count("python") == 2
    assert sum(words[0] == "onnxq" for language, text in BLOCKS if language == "sh" for words in commands(text)) == 5


@pytest.mark.slow
@pytest.mark.skipif(tensorrt.installed_package() != "tensorrt_rtx", reason="TensorRT-RTX is not installed")
def test_the_page_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, source in (("model.onnx", "digits_resnet.onnx"), ("samples.npz", "digits_resnet.calib.npz")):
        (tmp_path / name).write_bytes((ROOT / "models" / source).read_bytes())
    monkeypatch.chdir(tmp_path)
    for language, text in BLOCKS:
        if language == "python":
            exec(compile(text, PAGE.name, "exec"), {})
            continue
        for words in commands(text):
            if words[0] in TOOLS:
                continue
            result = RUNNER.invoke(cli, words[1:])
            assert result.exit_code == 0, f"{shlex.join(words)}\n{result.output}"
    sizes = {p.name: p.stat().st_size for p in tmp_path.glob("*.engine")}
    assert set(sizes) == {"model.engine", "made.engine", "by_hand.engine", "batch8.engine"}
    assert sizes["model.engine"] == pytest.approx(sizes["by_hand.engine"], rel=0.01)  # the same build, by two hands


def test_options_of_other_programs_are_real() -> None:
    for language, text in BLOCKS:
        for words in commands(text) if language == "sh" else []:
            if words[0] in TOOLS:
                assert {w.partition("=")[0] for w in words[1:]} <= TOOL_OPTIONS
