"""One test for each numbered case of PartFusedSums, and what onnxruntime then makes of whole models."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import ModelProto

import onnxq
from onnxq.graph.shapes import infer_shapes
from onnxq.graph.view import Graph
from onnxq.passes.adapt.part_fused_sums import PartFusedSums
from tests.graphs import apply, graph_of, model_of, normal, ops

NORM = {"g": normal(64), "h": normal(64, seed=1)}
ERF = "u = Div(b, q) e = Erf(u) f = Add(e, one) v = Mul(b, f) y = Mul(v, half)"
NUMBERS = {"q": np.float32(2**0.5), "one": np.float32(1), "half": np.float32(0.5)}


def parted(text: str, opset: int = 17, **constants: object) -> Graph:
    """The graph of `text` after the pass; `apply` compares the outputs, here to the bit."""
    graph = graph_of(text, opset=opset, **constants)
    infer_shapes(graph)
    apply(graph, PartFusedSums(), rtol=0.0)
    return graph


def test_case_1() -> None:
    graph = parted(
        """(float[1,4,64] x, float[1,4,64] s) => (float[1,4,64] y)
        { [add] a = Add(x, s) y = LayerNormalization(a, g, h) }""",
        **NORM,
    )
    assert ops(graph) == {"Sum": 1, "LayerNormalization": 1}
    assert graph.nodes[0].name == "add"


def test_case_1_with_positions(tmp_path: Path) -> None:
    text = """(float[1,4,64] x) => (float[1,4,64] y) { n = Neg(x) a = Add(n, s) y = LayerNormalization(a, g, h) }"""
    constants = {**NORM, "s": normal(1, 4, 64, seed=2)}
    assert optimised(model_of(text, **constants), tmp_path)["SkipLayerNormalization"] == 1  # the reason
    graph = parted(text, **constants)
    assert ops(graph) == {"Neg": 1, "Sum": 1, "LayerNormalization": 1}
    assert optimised(graph.to_model(), tmp_path)["SkipLayerNormalization"] == 0


def test_case_1_in_single_operators() -> None:
    text = """(float[1,4,64] x, float[1,4,64] s) => (float[1,4,64] y) {
        a = Add(x, s) m = ReduceMean<axes = [-1]>(a) d = Sub(a, m) p = Mul(d, d) n = ReduceMean<axes = [-1]>(p)
        o = Add(n, one) r = Sqrt(o) y = Div(d, r) }"""
    assert ops(parted(text, one=np.float32(1e-5)))["Sum"] == 1


@pytest.mark.parametrize(("gelu", "opset"), [(ERF, 17), ("y = Gelu(b)", 20)])
def test_case_2(gelu: str, opset: int) -> None:
    text = f"(float[1,4,64] x) => (float[1,4,64] y) {{ a = MatMul(x, w) b = Add(a, h) {gelu} }}"
    constants = {"w": normal(64, 64), "h": normal(64), **(NUMBERS if gelu is ERF else {})}
    assert ops(parted(text, opset, **constants))["Sum"] == 1


PAIR = "q = QuantizeLinear(x, scale) p = DequantizeLinear(q, scale)"
WEIGHT = "w = DequantizeLinear(codes, scale)"
CODES = {"codes": normal(64, 64).astype(np.int8), "scale": np.float32(0.5)}


@pytest.mark.parametrize("batch", ["1", "N"])
def test_case_3(batch: str) -> None:
    shape = f"float[{batch},4,64]"
    text = f"({shape} x) => ({shape} y) {{ {PAIR} {WEIGHT} a = MatMul(p, w) y = Add(h, a) }}"
    assert ops(parted(text, h=normal(64), **CODES))["Sum"] == 1


@pytest.mark.parametrize(
    "text",
    [
        f"(float[4,64] x) => (float[4,64] y) {{ {PAIR} {WEIGHT} a = MatMul(p, w) y = Add(h, a) }}",
        f"(float[1,4,64] x) => (float[1,4,64] y, float[1,4,64] a) {{ {PAIR} {WEIGHT} a = MatMul(p, w) y = Add(h, a) }}",
        f"(float[1,4,64] x) => (float[1,4,64] y) {{ {WEIGHT} a = MatMul(x, w) y = Add(h, a) }}",
    ],
)
def test_case_4_of_codes(text: str) -> None:
    assert "Sum" not in ops(parted(text, h=normal(64), **CODES))


@pytest.mark.parametrize(
    "text",
    [
        "(float[1,4,64] x, float[1,4,64] s) => (float[1,4,64] y) { y = Add(x, s) }",
        "(float[1,4,64] x) => (float[1,4,64] y) { a = MatMul(x, w) y = Add(a, h) }",
        "(float[1,4,64] x) => (float[1,4,64] y) { a = Add(x, g) y = LayerNormalization(a, g, h) }",
        "(float[4,64] x) => (float[4,64] y) { a = MatMul(x, w) b = Add(a, h) y = Gelu(b) }",
        '(float[1,4,64] x) => (float[1,4,64] y) { a = MatMul(x, w) b = Add(a, h) y = Gelu<approximate = "tanh">(b) }',
        "(float[1,4,64] x) => (float[1,4,64] y, float[1,4,64] b) { a = MatMul(x, w) b = Add(a, h) y = Gelu(b) }",
        "(float[1,4,64] x, float[1,4,64] s) => (float[1,4,64] y) { b = Add(x, s) y = Gelu(b) }",
    ],
)
def test_case_4(text: str) -> None:
    known = {**NORM, "w": normal(64, 64)}
    used = {name: value for name, value in known.items() if f"{name})" in text or f"{name}," in text}
    assert "Sum" not in ops(parted(text, 20, **used))


def test_case_4_of_another_type() -> None:
    text = "(double[1,4,64] x, double[1,4,64] s) => (double[1,4,64] y) { a = Add(x, s) y = LayerNormalization(a, g) }"
    graph = graph_of(text, g=np.ones(64))
    infer_shapes(graph)
    assert not PartFusedSums().run(graph).modified


def post_norm_block(batch: str = "N") -> ModelProto:
    """Two products with biases and GELU, a residual and a normalisation behind it, as in BERT."""
    return model_of(
        f"""(float[{batch},48,128] x) => (float[{batch},48,128] z) {{
        a = MatMul(x, w) b = Add(a, bias) {ERF} c = MatMul(y, k) d = Add(c, h) e2 = Add(d, x)
        z = LayerNormalization(e2, g, h) }}""",
        w=normal(128, 512) / 11,
        k=normal(512, 128, seed=2) / 23,
        bias=normal(512, seed=3),
        g=normal(128, seed=4),
        h=normal(128, seed=5),
        **NUMBERS,
    )


def optimised(model: ModelProto, folder: Path) -> Counter[str]:
    """Operators of the graph that onnxruntime makes of `model`."""
    options = ort.SessionOptions()
    options.optimized_model_filepath = str(folder / "optimised.onnx")
    options.log_severity_level = 3
    ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return Counter(node.op_type for node in onnx.load(folder / "optimised.onnx").graph.node)


FUSED = ("SkipLayerNormalization", "BiasGelu")


@pytest.mark.parametrize("mode", ["static", "dynamic", "weight-only"])
@pytest.mark.parametrize("batch", ["N", "1"])
def test_onnxruntime_fuses_no_sum(mode: str, batch: str, tmp_path: Path) -> None:
    model = post_norm_block(batch)
    lost = optimised(model, tmp_path)
    assert lost["SkipLayerNormalization"] == 1  # else the pass has lost its reason
    assert lost["BiasGelu"] == 1 if batch == "N" else lost["Gemm"] == 2
    data = {"x": normal(8, 48, 128, seed=9)}
    result = onnxq.quantize(model, data, target="ort-x64-avx2", mode=mode)
    assert result.report
    found = optimised(result.model, tmp_path)
    assert not any(found[op] for op in FUSED)
    # The GELU stays one kernel, and so does the normalisation.
    assert found["Gelu"] == found["LayerNormalization"] == 1
    # Nor does it dequantize weights in every run.
    assert found["Gemm"] == 0
    if mode == "static":
        assert found["MatMulIntegerToFloat"] == 2


def test_other_engines_keep_the_add() -> None:
    result = onnxq.quantize(post_norm_block(), {"x": normal(8, 48, 128, seed=9)}, target="openvino", recover="none")
    assert "Sum" not in {node.op_type for node in result.model.graph.node}
