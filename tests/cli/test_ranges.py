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


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ("--calibration-cache", "m.cache", "--method", "entropy"),
            "so --method entropy (method=",
        ),
        (("--calibration-cache", "m.cache", "--full-histogram"), "the ranges come from --calibration-cache"),
        (("--stats", "m.stats", "--full-histogram"), "--full-histogram (full_histogram=) serves a calibration"),
        (("--stats", "m.stats", "--memory-limit", "1GB"), "--memory-limit (memory_limit=) serves a calibration"),
        (("--stats", "m.stats", "--nonfinite", "ignore"), "the ranges come from --stats (stats=)"),
        (("--tune-seconds", "5"), "--tune-seconds (tune_seconds=) limits --tune (tune=), which is not given"),
        (("--mode", "dynamic", "--save-stats", "s.stats"), "--mode dynamic makes no statistics that could be saved"),
        (("--mode", "weight-only", "--save-stats", "s.stats"), "--mode weight-only makes no statistics"),
        (("--data", "data.npz", "--max-length", "5"), "--max-length (max_length=) serves a tokenizer"),
        (("--data", "data.npz", "--text-column", "q"), "--text-column (text_column=) serves a tokenizer"),
        (("--data", "data.npz", "--crop-share", "0.5"), "--crop-share (crop_share=) serves --resize crop"),
    ],
)
def test_options_that_nothing_would_read_are_refused(
    folder: Path, run: Run, arguments: tuple[str, ...], message: str
) -> None:
    run("calibrate", "model.onnx", "--data", "data.npz", "--target", "tensorrt", "-o", "m.stats")
    (folder / "m.cache").write_text("TRT-8601-EntropyCalibration2\nx: 3c008912\na: 3c008912\n")
    target = () if "dynamic" in arguments else ("--target", "tensorrt")
    done = run("quantize", "model.onnx", *target, *arguments)
    assert done.exit_code == 2
    assert message in done.stderr
    assert "hint: leave" in done.stderr
    assert not (folder / "model.int8.onnx").exists()
    assert not (folder / "s.stats").exists()


def test_recovery_on_data_collects_beside_statistics(run: Run) -> None:
    """Channels that are made even get their ranges from the samples, by what is said of collecting."""
    run("calibrate", "model.onnx", "--data", "data.npz", "--target", "tensorrt", "-o", "m.stats")
    done = run(*QUANTIZE, "--stats", "m.stats", "--nonfinite", "ignore", "--memory-limit", "1GB", "--full-histogram")
    assert done.exit_code == 0
    plain = run(*QUANTIZE, "--stats", "m.stats", "--nonfinite", "ignore", "--recover", "none", "-o", "b.onnx")
    assert plain.exit_code == 2


def test_a_plan_takes_a_method_with_statistics_alone(run: Run) -> None:
    told = run("plan", "model.onnx", "--target", "tensorrt", "--method", "entropy")
    assert told.exit_code == 2
    assert "choose ranges from --stats (stats=), which is not given" in told.stderr
    run("calibrate", "model.onnx", "--data", "data.npz", "--target", "tensorrt", "-o", "m.stats")
    assert run("plan", "model.onnx", "-t", "tensorrt", "--method", "entropy", "--stats", "m.stats").exit_code == 0


def test_a_file_for_all_commands_may_say_what_one_has_no_use_for(folder: Path, run: Run) -> None:
    (folder / "m.cache").write_text("TRT-8601-EntropyCalibration2\nx: 3c008912\na: 3c008912\n")
    (folder / "c.toml").write_text(
        'target = "tensorrt"\nmethod = "percentile"\npercentile = 99.9\nfull-histogram = true\nnonfinite = "ignore"\n'
        'memory-limit = "1GB"\ntune-seconds = 5\n'
    )
    config = ("model.onnx", "--config", "c.toml")
    assert run("calibrate", *config, "--data", "data.npz", "-o", "m.stats").exit_code == 0
    for more in (
        ("--stats", "m.stats"),
        ("--stats", "m.stats", "--data", "data.npz"),
        ("--calibration-cache", "m.cache"),
    ):
        done = run("quantize", *config, *more, "--recover", "none", "--force")
        assert done.exit_code == 0, done.stderr
    assert run("plan", *config).exit_code == 0
    assert run("plan", *config, "--method", "mse").exit_code == 2
    assert run("quantize", *config, "--stats", "m.stats", "--full-histogram", "--force").exit_code == 2
