"""Weights of integer operators as unsigned codes: the same sums, on kernels that saturate on no CPU."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto

import onnxq
from onnxq.graph.model import load_graph
from onnxq.verification.engines.onnxruntime import OrtModel
from onnxq.verification.engines.unsigned_codes import with_unsigned_codes
from tests.graphs import model_of, normal
from tests.versions import since

PRODUCTS = """(float[N,16] x, bool c) => (float[N,16] y) {
    [first] m = MatMul(x, w) [bent] n = Relu(m) [second] o = Gemm(n, w, k)
    y = If (c) <
      then_branch = a () => (float[N,16] p) { [inner] p = MatMul(o, v) },
      else_branch = b () => (float[N,16] q) { q = Identity(o) } > }"""
CONV = "(float[N,3,8,8] x) => (float[N,4,8,8] y) { [conv] y = Conv<pads=[1,1,1,1]>(x, w, k) }"
LSTM = "(float[5,2,16] x) => (float[5,1,2,8] y) { [lstm] y, h, c = LSTM<hidden_size=8>(x, w, r) }"

MODELS: dict[str, tuple[ModelProto, dict[str, NDArray[Any]]]] = {
    "products": (
        model_of(PRODUCTS, w=normal(16, 16), v=normal(16, 16, seed=1), k=normal(16)),
        {"x": normal(4, 16, seed=2), "c": np.array(True)},
    ),
    "conv": (model_of(CONV, w=normal(4, 3, 3, 3), k=normal(4)), {"x": normal(2, 3, 8, 8, seed=2)}),
    "lstm": (model_of(LSTM, w=normal(1, 32, 16), r=normal(1, 32, 8, seed=1)), {"x": normal(5, 2, 16, seed=2)}),
}


@pytest.mark.parametrize(
    "name", ["products", pytest.param("conv", marks=since(1, 24, "has no ConvInteger for int8 weights")), "lstm"]
)
def test_the_model_computes_the_same(name: str) -> None:
    model, feed = MODELS[name]
    # Guarded weights saturate nowhere, so both forms are exact on every CPU.
    made = onnxq.quantize(model, [feed] * 2, mode="dynamic", target="ort-x64-avx2", placement="full").model
    before = OrtModel(made)(feed)["y"]
    unsigned = with_unsigned_codes(load_graph(made).to_model())
    again = with_unsigned_codes(load_graph(unsigned).to_model())
    # Sums of codes are exact; what the LSTM's fused kernel multiplies them with is rounded in another order (float32).
    np.testing.assert_allclose(OrtModel(unsigned)(feed)["y"], before, rtol=1e-5, atol=1e-5)
    assert again == unsigned
    read = {name for node in unsigned.graph.node for name in node.input}
    signed = {t.name for t in unsigned.graph.initializer if t.data_type == TensorProto.INT8}
    assert not read & signed


def test_weights_that_saturate_are_judged_right(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both codes at their ends: 2 * 255 * 127 does not fit into 16 bits."""
    model = model_of("(float[N,64] x) => (float[N,64] y) { [fc] y = MatMul(x, w) }", w=np.ones((64, 64), np.float32))
    monkeypatch.setattr("onnxq.verification.verify.saturates", lambda: True)
    monkeypatch.setattr("onnxq.verification.engines.unsigned_codes.saturates", lambda: True)
    feeds = [{"x": np.ones((2, 64), np.float32)}] * 2
    report = onnxq.quantize(model, feeds, mode="dynamic", target="ort-x64-vnni").report
    assert report, report.to_text()
    # Ones are exact in both; float32 sums of 64 products round to 2^-20 at most.
    assert report.worst_sqnr_db is None or report.worst_sqnr_db > 90.0
    assert any("Kernels that do not saturate either answered" in w for w in report.warnings)


def test_a_search_judges_by_unsigned_codes(monkeypatch: pytest.MonkeyPatch) -> None:
    judged = []
    monkeypatch.setattr("onnxq.modes.dynamic.has_kernels_of", lambda target: False)
    monkeypatch.setattr("onnxq.modes.dynamic.unsaturated", lambda graph: judged.append(graph) or graph)
    model, feed = MODELS["products"]
    onnxq.quantize(model, [feed] * 2, mode="dynamic", target="ort-x64-vnni", min_sqnr=1.0)
    assert len(judged) == 1
