"""Where ranges come from on the command line: TensorRT's calibration cache, and a moving average."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from tests.cli.conftest import Run
from tests.graphs import model_of, normal

TEXT = """(float[N,16,8,8] x) => (float[N,16,8,8] y) {
    a = Conv<pads=[1,1,1,1]>(x, w)
    y = Conv<pads=[1,1,1,1]>(a, v)
    }"""

QUANTIZE = ("quantize", "model.onnx", "--data", "data.npz", "--target", "tensorrt")


@pytest.fixture(autouse=True)
def wide_model(folder: Path) -> None:
    """Sixteen channels: TensorRT's int8 kernels want as many."""
    onnx.save(model_of(TEXT, w=normal(16, 16, 3, 3), v=normal(16, 16, 3, 3, seed=1)), folder / "model.onnx")
    np.savez(folder / "data.npz", x=normal(16, 16, 8, 8))


def test_calibration_cache_there_and_back(folder: Path, run: Run) -> None:
    run("calibrate", "model.onnx", "--data", "data.npz", "--target", "tensorrt", "-o", "m.stats")
    made = run("cache", "m.stats", "-o", "m.cache", "--tensorrt-version", "10.3.0")
    assert (made.exit_code, made.stdout) == (0, "")
    assert made.stderr == "scales of 2 tensors (entropy) written to m.cache\n"
    assert (folder / "m.cache").read_text().startswith("TRT-100300-EntropyCalibration2\na: ")
    by_cache = run(*QUANTIZE, "--calibration-cache", "m.cache", "-o", "a.onnx", "--recover", "none")
    by_stats = run(*QUANTIZE, "--stats", "m.stats", "--method", "entropy", "-o", "b.onnx", "--recover", "none")
    assert (by_cache.exit_code, by_stats.exit_code) == (0, 0), by_cache.stderr + by_stats.stderr
    assert onnx.load(folder / "a.onnx").graph == onnx.load(folder / "b.onnx").graph
    assert "TensorRT calibration cache" in " ".join(by_cache.stdout.split())


def test_damaged_cache(folder: Path, run: Run) -> None:
    (folder / "m.cache").write_text("x: 3c008912\n")
    done = run(*QUANTIZE, "--calibration-cache", "m.cache")
    assert done.exit_code == 3
    assert done.stderr.startswith("error: m.cache: this is no TensorRT calibration cache, or a damaged one: ")
    assert not (folder / "model.int8.onnx").exists()


def test_cache_alone_needs_no_data(run: Run, folder: Path) -> None:
    (folder / "m.cache").write_text("TRT-8601-EntropyCalibration2\nx: 3c008912\na: 3c008912\n")
    done = run("quantize", "model.onnx", "--target", "tensorrt", "--calibration-cache", "m.cache")
    assert done.exit_code == 0
    assert "data: NONE" not in done.stderr


def test_moving_average(run: Run) -> None:
    done = run(*QUANTIZE, "--method", "moving-average", "--momentum", "0.1")
    assert done.exit_code == 0
    assert "moving-average 0.1" in done.stdout


def test_statistics_that_do_not_exist_are_not_saved(folder: Path, run: Run) -> None:
    done = run(*QUANTIZE, "--method", "moving-average", "--save-stats", "m.stats")
    assert done.exit_code == 2
    assert done.stderr == (
        "error: --save-stats 'm.stats': --method moving-average makes no statistics that could be saved\n"
        "hint: leave out --save-stats or --method moving-average\n"
    )
    other = run(*QUANTIZE, "--calibration-cache", "m.cache", "--save-stats", "m.stats")
    assert "hint: leave out --save-stats or --calibration-cache" in other.stderr
    assert not (folder / "m.stats").exists()
