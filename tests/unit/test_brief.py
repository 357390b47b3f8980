"""What a prompt shows of results: one line, and equality stays that of all fields."""

from __future__ import annotations

from pathlib import Path

import pytest

import onnxq
from tests.graphs import model_of, normal

MODEL = model_of(
    "(float[N,16] x) => (float[N,8] y) { [fc] a = MatMul(x, w) [act] b = Relu(a) [head] y = MatMul(b, v) }",
    w=normal(16, 32), v=normal(32, 8, seed=1),
)  # fmt: skip
DATA = {"x": normal(20, 16)}
VNNI = "ort-x64-vnni"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> onnxq.QuantizeResult:
    return onnxq.quantize(MODEL, DATA, target=VNNI, placement="full", output=tmp_path_factory.mktemp("q") / "q.onnx")


def test_a_quantized_model_in_a_line(made: onnxq.QuantizeResult) -> None:
    counts = made.report.proven or made.report.planned
    assert counts is not None
    quantized = f"{counts.int8 + counts.fused} of {counts.total} nodes quantized, worst SQNR"
    assert repr(made.report).startswith(
        f"<onnxq.Report: {VNNI}, passed, {quantized} {made.report.worst_sqnr_db:.1f} dB"
    )
    assert repr(made).startswith(f"<onnxq.QuantizeResult: {VNNI}, passed, {quantized}")
    assert repr(made).endswith(f"written to {made.output}>")


def test_what_failed_is_named() -> None:
    report = onnxq.quantize(MODEL, DATA, target=VNNI, min_sqnr=200.0, search=False).report
    assert "failed (SQNR at least 200 dB)" in repr(report)


def test_every_result_is_a_line(made: onnxq.QuantizeResult, tmp_path: Path) -> None:
    ranking = onnxq.sensitivity(MODEL, DATA, target=VNNI)
    scores = onnxq.evaluate(MODEL, made.model, DATA)
    searched = onnxq.quantize(MODEL, DATA, target=VNNI, min_cosine=0.5).search
    shown = {
        repr(made.plan): f"<onnxq.QuantPlan: {VNNI}, 3 nodes (",
        repr(made.stats): "StatsTable(digest='",
        repr(onnxq.preview(MODEL, DATA)): "<onnxq.Preview: dict, 20 samples, 1 input",
        repr(scores): "<onnxq.Evaluation: sqnr of 20 samples, float equal, quantized 1 ",
        repr(ranking): f"<onnxq.Sensitivity: {VNNI}, 2 layers, '",
        repr(searched): "<onnxq.SearchResult: met, 0 layers left in float, 1 model judged on 20 samples>",
        repr(onnxq.strip(made.model)): "<onnxq.StripResult: ",
    }
    for text, start in shown.items():
        assert text.startswith(start)
        assert len(text) < 200
        assert "\n" not in text


def test_equality_is_that_of_all_fields() -> None:
    plan = onnxq.plan(MODEL, target=VNNI)
    assert plan == onnxq.plan(MODEL, target=VNNI)
    assert plan != onnxq.plan(MODEL, target=VNNI, exclude=["fc"])


def test_a_preview_as_text() -> None:
    text = onnxq.preview(MODEL, DATA).to_text()
    assert text.startswith("20 samples in 20 feeds from ")
    assert "\n\nInputs\ninput  type" in text
    assert "\n\nOutputs of the float model\noutput  shape" in text
