"""A model whose outputs are mostly noise does not pass."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import onnxq
from onnxq.verification.compare import OutputError
from onnxq.verification.likeness import likeness_check
from tests.graphs import graph_of

LINEAR = "(float[N,8] x) => (float[N,8] y) { y = Mul(x, two) }"
SCORES = "(float[N,8] x) => (float[N,8] y) { s = Sigmoid(x) y = Reshape(s, same) }"
INITIALIZERS = {LINEAR: {"two": np.float32(2)}, SCORES: {"same": np.int64([0, 8])}}


def error(sqnr_db: float | None, **changes: float) -> OutputError:
    values = {"cosine": 0.5, "max_abs": 1.0, "peak": 2.0, "mismatch_share": 1.0, "elements": 8, **changes}
    return OutputError(name="y", sqnr_db=sqnr_db, **values)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "found", "passed"),
    [
        (LINEAR, error(2.9), False),
        (LINEAR, error(3.1), True),
        (LINEAR, error(-2.0, max_abs=0.05), False),
        (SCORES, error(-2.0, max_abs=0.05, peak=0.04), True),
        (SCORES, error(-2.0, max_abs=0.2, peak=0.9), False),
    ],
    ids=["noise", "signal", "small numbers count", "near-zero scores do not", "scores that are lost do"],
)
def test_what_passes(text: str, found: OutputError, *, passed: bool) -> None:
    (check,) = likeness_check(graph_of(text, **INITIALIZERS[text]), [found])
    assert check.passed is passed
    assert ("'y' has" in check.detail) is not passed


@pytest.mark.parametrize(
    "found",
    [error(None), error(float("-inf"), peak=0.0), error(0.0, nonfinite=1)],
    ids=["integers", "all zero", "unsound, which another check says"],
)
def test_what_nothing_can_be_said_of(found: OutputError) -> None:
    assert likeness_check(graph_of(LINEAR, **INITIALIZERS[LINEAR]), [found]) == ()


@pytest.mark.parametrize(("peak", "passed"), [(0.9, False), (90.0, False), (0.05, True)])
def test_faint_parts_within_one_are_scores(peak: float, *, passed: bool) -> None:
    part = replace(error(0.0, peak=peak, max_abs=peak), name="y[:, 4:8]")
    (check,) = likeness_check(graph_of(LINEAR, **INITIALIZERS[LINEAR]), [error(40.0), part])
    assert check.passed is passed


def test_ranges_of_other_inputs_fail_quantize_and_verify() -> None:
    """Calibrated on inputs of a hundredth, all others are cut off: about 0 dB."""
    rng = np.random.default_rng(0)
    model = graph_of(
        "(float[N,64] x) => (float[N,64] y) { y = MatMul(x, w) }", w=rng.standard_normal((64, 64)).astype(np.float32)
    ).to_model()
    small = {"x": rng.standard_normal((32, 64)).astype(np.float32) * 0.01}
    large = {"x": small["x"] * 100}
    made = onnxq.quantize(model, data=small, target="ort-x64-vnni", placement="full")
    assert made.report.passed
    found = onnxq.verify(model, made.model, data=large, target="ort-x64-vnni")
    assert [c.name for c in found.failed_checks] == ["outputs follow the float model's"]
    assert not found.passed
    made_up = onnxq.verify(model, made.model, target="ort-x64-vnni")
    assert "outputs follow the float model's" not in [c.name for c in made_up.checks]


@pytest.mark.parametrize(("samples", "warned"), [(3, True), (16, False)])
def test_ranges_of_few_samples_are_told(samples: int, *, warned: bool) -> None:
    rng = np.random.default_rng(0)
    model = graph_of(
        "(float[N,64] x) => (float[N,64] y) { y = MatMul(x, w) }", w=rng.standard_normal((64, 64)).astype(np.float32)
    ).to_model()
    x = {"x": rng.standard_normal((samples, 64)).astype(np.float32)}
    report = onnxq.quantize(model, data=x, target="ort-x64-vnni", placement="full").report
    assert any("The ranges come from" in text and "--data" in text for text in report.warnings) is warned
