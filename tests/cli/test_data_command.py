"""`onnxq data`: tables, pages and files of inputs."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.cli.conftest import Run


def test_shows_what_would_be_fed(run: Run) -> None:
    result = run("data", "data.npz", "model.onnx")
    assert result.exit_code == 0, result.output
    assert "20 samples in 20 feeds from data.npz" in result.stderr
    assert "(n, 3, 8, 8)" in result.stdout
    assert "channel 2" in result.stdout
    assert "(1, 16, 1, 1)" in result.stdout


def test_json_and_page(run: Run, folder: Path) -> None:
    result = run("data", "data.npz", "model.onnx", "--json", "--limit", "3", "--report", "d.html")
    document = json.loads(result.stdout)
    assert (document["schema"], document["samples"]) == ("onnxq.data/1", 3)
    assert "<img" in (folder / "d.html").read_text()
    again = run("data", "data.npz", "model.onnx", "--report", "d.html")
    assert again.exit_code == 2
    assert "--force" in again.stderr


def test_data_that_does_not_fit(run: Run, folder: Path) -> None:
    np.savez(folder / "bad.npz", x=np.zeros((2, 8, 8, 3), np.float32))
    result = run("data", "bad.npz", "model.onnx")
    assert result.exit_code == 3
    assert "--layout nhwc" in result.stderr


def test_options_for_reading_without_data_are_refused(run: Run) -> None:
    result = run("quantize", "model.onnx", "--shuffle", "1")
    assert result.exit_code == 2
    assert "--shuffle without data" in result.stderr
    result = run("quantize", "model.onnx", "--data", "data.npz", "--state", "y")
    assert result.exit_code == 2
    assert "'y' is not an output and an input such as stateN=state" in result.stderr


def test_hooks_of_a_configuration_file_lie_beside_it(run: Run, folder: Path) -> None:
    sub = folder / "sub"
    sub.mkdir()
    (sub / "hook.py").write_text("import numpy as np\ndef load(p):\n    return np.load(p)['x'][:2]\n")
    (folder / "raw").mkdir()
    (folder / "raw" / "a.bin").write_bytes((folder / "data.npz").read_bytes())
    (sub / "c.toml").write_text('preprocess = "hook.py:load"\nshuffle = 1\ndata = "../raw"\n')
    result = run("data", "raw", "model.onnx", "--config", "sub/c.toml")
    assert result.exit_code == 0, result.output
    assert "2 samples" in result.stderr
    assert run("quantize", "model.onnx", "--config", "sub/c.toml", "-t", "ort-x64-vnni").exit_code == 0


@pytest.mark.slow
def test_polygraphy_runs_both_models_on_the_feeds(run: Run, folder: Path) -> None:
    """What onnxq writes goes into `polygraphy run` as it is: the model, and the inputs."""
    pytest.importorskip("polygraphy")
    assert run("data", "data.npz", "model.onnx", "--limit", "2", "--save-inputs", "inputs.json").exit_code == 0
    assert run("quantize", "model.onnx", "--data", "data.npz", "-t", "ort-x64-vnni").exit_code == 0
    script = str(Path(sys.executable).with_name("polygraphy"))
    for words in (
        "model.onnx --save-outputs float.json",
        "model.int8.onnx --load-outputs float.json --atol 0.05",
    ):
        command = [script, "run", *words.split(), "--onnxrt", "--load-inputs", "inputs.json"]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, timeout=300)
        assert done.returncode == 0, done.stdout + done.stderr
    assert "PASSED" in done.stdout
