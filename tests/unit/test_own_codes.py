"""Codes that several nodes read, on a CPU that saturates: onnxruntime takes each pair of nodes and codes for itself."""

from __future__ import annotations

import numpy as np
import pytest

import onnxq
from onnxq.graph.model import load_graph
from onnxq.verification.engines.onnxruntime import OrtModel
from onnxq.verification.engines.own_codes import with_own_codes
from tests.graphs import model_of, normal

SHARED = (
    "(float[N,16] x) => (float[N,16] y) { a = MatMul(x, w) b = Relu(a) c = MatMul(b, w) d = Relu(c) y = MatMul(d, v) }"
)
BODIES = """(float[N,16] x, bool c) => (float[N,16] y) { m = MatMul(x, w) y = If (c) <
    then_branch = a () => (float[N,16] p) { r = Relu(m) p = MatMul(r, w) },
    else_branch = b () => (float[N,16] q) { q = Add(m, k) } > }"""
WITHIN = """(float[N,16] x, bool c) => (float[N,16] y) { m = Relu(x) y = If (c) <
    then_branch = a () => (float[N,16] p) { s = MatMul(m, w) r = Relu(s) p = MatMul(r, w) },
    else_branch = b () => (float[N,16] q) { q = Add(m, k) } > }"""


@pytest.mark.parametrize(
    ("text", "symmetric_weights"),
    [
        (SHARED, "per channel"),
        (SHARED, "per tensor"),
        (BODIES, "per channel"),
        (BODIES, "per tensor"),
        (WITHIN, "per channel"),
    ],
)
def test_shared_weights(monkeypatch: pytest.MonkeyPatch, text: str, symmetric_weights: str) -> None:
    monkeypatch.setattr("onnxq.verification.verify.saturates", lambda: True)
    model = model_of(text, w=normal(16, 16), v=normal(16, 16, seed=1), k=normal(16))
    data = [{"x": normal(4, 16, seed=s), **({"c": np.array(True)} if text != SHARED else {})} for s in range(3)]
    overrides = [onnxq.Override(tensors="[wv]", per_channel=False)] if symmetric_weights == "per tensor" else []
    result = onnxq.quantize(model, data, target="ort-x64-vnni", placement="full", recover="none", overrides=overrides)
    assert not result.report.failed_checks
    assert any(w.startswith("This CPU has no VNNI") for w in result.report.warnings)


def test_the_model_computes_the_same() -> None:
    graph = load_graph(model_of(SHARED, w=normal(16, 16), v=normal(16, 16, seed=1)))
    quantized = onnxq.quantize(
        graph.to_model(), [{"x": normal(4, 16)}] * 2, target="ort-x64-vnni", placement="full", recover="none"
    ).model
    feed = {"x": normal(4, 16, seed=5)}
    before = OrtModel(quantized, optimised=False)(feed)["y"]
    kept = quantized.SerializeToString(deterministic=True)
    own = with_own_codes(load_graph(quantized).to_model())
    np.testing.assert_array_equal(OrtModel(own, optimised=False)(feed)["y"], before)
    assert quantized.SerializeToString(deterministic=True) == kept
    codes = [t.name for t in own.graph.initializer if t.data_type == 3]
    assert sorted(codes) == sorted(n for node in own.graph.node for n in node.input if n in codes)


@pytest.mark.parametrize(
    ("mode", "instead"),
    [("weight-only", None), ("dynamic", "Kernels that do"), ("static", "Kernels that do")],
)
def test_other_modes_are_asked_as_ever(monkeypatch: pytest.MonkeyPatch, mode: str, instead: str | None) -> None:
    """Products of weights alone are of floats, and onnxruntime 1.23 ends the process where the option is set."""
    monkeypatch.setattr("onnxq.verification.verify.saturates", lambda: True)
    model = model_of("(float[N,32] x) => (float[N,32] y) { y = MatMul(x, w) }", w=normal(32, 32))
    data = {"x": normal(4, 32)}
    report = onnxq.quantize(model, data, target="ort-x64-vnni", mode=mode, placement="full").report
    said = [w for w in report.warnings if w.startswith("This CPU has no VNNI")]
    assert [instead in one for one in said if instead] == ([True] if instead else [])
    assert bool(said) is bool(instead)
