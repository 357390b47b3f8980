"""fp8 for TensorRT: engines built from what onnxq makes, and the numbers of its Q/DQ pairs under onnxruntime."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import ModelProto, TensorProto, helper

import onnxq
from onnxq.graph.float_types import float_tensor
from onnxq.graph.model import load_graph
from onnxq.graph.view import Graph
from onnxq.numerics import fake_quantize, qparams_from_values
from onnxq.verification.engines.tensorrt import build_engine, installed_package
from onnxq.verification.lint_tensorrt import lint_tensorrt
from tests.e2e.conftest import present
from tests.graphs import computed, model_of, normal
from tests.unit.test_planning_types import ATTENTION, CONSTANTS

pytestmark = pytest.mark.slow

PADS = "pads=[1,1,1,1]"
LAYERS = {
    "Conv": ("(float[1,16,8,8] x) => (float[1,16,8,8] y) { [c] a = Conv<pads=[1,1,1,1]>(x, w, b) [r] y = Relu(a) }",
             {"w": normal(16, 16, 3, 3), "b": normal(16)}),
    "ConvTranspose": ("(float[1,16,8,8] x) => (float[1,16,16,16] y) { [c] y = ConvTranspose<strides=[2,2]>(x, w) }",
                      {"w": normal(16, 16, 2, 2)}),
    "Gemm": ("(float[4,32] x) => (float[4,16] y) { [g] y = Gemm<transB=1>(x, w, b) }",
             {"w": normal(16, 32), "b": normal(16)}),
    "MatMul": ("(float[2,4,32] x) => (float[2,4,16] y) { [m] y = MatMul(x, w) }", {"w": normal(32, 16)}),
    "residual Add": ("(float[1,16,8,8] x) => (float[1,16,8,8] y) "
                     "{ [c] a = Conv<pads=[1,1,1,1]>(x, w) [s] s = Add(a, x) [r] y = Relu(s) }",
                     {"w": normal(16, 16, 3, 3)}),
    "attention": (ATTENTION, CONSTANTS),
}  # fmt: skip


def fp8_of(name: str) -> tuple[ModelProto, onnxq.QuantizeResult, dict[str, np.ndarray]]:
    text, constants = LAYERS[name]
    model = model_of(text, **constants)
    feeds = {
        v.name: normal(*(d.dim_value for d in v.type.tensor_type.shape.dim), seed=i)
        for i, v in enumerate(model.graph.input)
    }
    return model, onnxq.quantize(model, [feeds], target="tensorrt", activations="fp8", recover="none"), feeds


@pytest.mark.skipif(installed_package() is None, reason="TensorRT is not installed")
@pytest.mark.parametrize("name", LAYERS)
def test_r2_an_engine_is_built(name: str) -> None:
    result = fp8_of(name)[1]
    assert {c.name: c.passed for c in result.report.checks} == {
        "outputs are sound": True,
        "outputs follow the float model's": True,
        "rules of TensorRT": True,
        "engine builds": True,
    }


@pytest.mark.parametrize("name", LAYERS)
def test_pairs_compute_what_numpy_says(name: str) -> None:
    """The float model, with every planned tensor and weight rounded by our own arithmetic, gives the same outputs."""
    model, result, feeds = fp8_of(name)
    graph = load_graph(model)
    rounded = graph.copy()
    for key, tensor in result.plan.tensors.items():
        if tensor.role.value == "weight":
            values = fake_quantize(graph.constant(tensor.name), result.qparams[key])
            rounded.add_initializer(tensor.name, values)
    if name in ("Conv", "ConvTranspose", "Gemm", "MatMul"):
        data = {"x": fake_quantize(feeds["x"], result.qparams["x"])}
        # Sums of at most 288 products in another order: a few ulp of the largest.
        np.testing.assert_allclose(
            computed(Graph(result.model), feeds)[0], computed(rounded, data)[0], rtol=1e-4, atol=1e-4
        )
    types = {t.data_type for t in result.model.graph.initializer if t.name.endswith("_quantized")}
    assert types <= {TensorProto.FLOAT8E4M3FN}
    # Random inputs, rounded five times on the way through attention.
    assert result.report.outputs[0].sqnr_db > (20.0 if name == "attention" else 25.0)
    assert lint_tensorrt(Graph(result.model)) == []


def test_weights_are_one_byte_each_with_a_scale_for_each_channel() -> None:
    _, result, _ = fp8_of("Conv")
    codes = next(t for t in result.model.graph.initializer if t.name == "w_quantized")
    assert len(codes.raw_data) == 16 * 16 * 9
    weight = LAYERS["Conv"][1]["w"]
    expected = np.abs(weight).max(axis=(1, 2, 3)) / 448
    np.testing.assert_allclose(result.qparams["w"].scale, expected, rtol=1e-6)


@pytest.mark.skipif(installed_package() is None, reason="TensorRT is not installed")
@pytest.mark.parametrize("name", ["MatMul", "Conv"])
def test_r13_unlike_types_do_not_build(name: str) -> None:
    model = fp8_of(name)[1].model
    weight = LAYERS[name][1]["w"]
    axis = 0 if name == "Conv" else 1
    spec = onnxq.numerics.QuantSpec.of(8, narrow_range=True, axis=axis)
    params = qparams_from_values(weight, spec)
    graph = Graph(model)
    graph.add_initializer("w_quantized", onnxq.numerics.quantize(weight, params))
    graph.add_initializer("w_scale", params.scale)
    graph.add_initializer("w_zero_point", params.zero_point)
    broken = graph.to_model()
    onnx.checker.check_model(broken)
    assert [v.rule for v in lint_tensorrt(Graph(broken))] == ["R13"]
    assert not build_engine(broken, {}).accepted


def test_r11_fp8_needs_opset_19() -> None:
    model = fp8_of("Gemm")[1].model
    model.opset_import[0].version = 18
    assert {v.rule for v in lint_tensorrt(Graph(model))} == {"R11"}


def test_a_relu_before_an_fp8_pair_survives_calibration() -> None:
    """onnxruntime's optimiser drops it; bias correction then measured shifts of everything below zero."""
    text = f"""(float[1,16,8,8] x) => (float[1,16,8,8] y) {{
        [c] a = Conv<{PADS}>(x, w, b) [r] r = Relu(a) [d] y = Conv<{PADS}>(r, v, e)
        }}"""
    constants = {"w": normal(16, 16, 3, 3), "b": normal(16), "v": normal(16, 16, 3, 3, seed=1), "e": normal(16)}
    data = [{"x": normal(1, 16, 8, 8, seed=i)} for i in range(8)]
    arguments = {"target": "tensorrt", "activations": "fp8", "method": "max"}
    fast = onnxq.quantize(model_of(text, **constants), data, **arguments)
    none = onnxq.quantize(model_of(text, **constants), data, recover="none", **arguments)
    assert fast.report.outputs[0].sqnr_db > none.report.outputs[0].sqnr_db - 1.0 > 20.0


def test_onnxruntime_still_drops_the_relu_by_itself() -> None:
    """Why sessions leave two of its rewrites out: where this fails, they need not any more."""
    result = fp8_of("Conv")[1]
    pair = next(n for n in result.model.graph.node if n.op_type == "QuantizeLinear")
    relu = helper.make_node("Relu", ["x"], ["x_positive"])
    model = onnx.ModelProto()
    model.CopyFrom(result.model)
    model.graph.node.insert(0, relu)
    next(n for n in model.graph.node if n.name == pair.name).input[0] = "x_positive"
    feeds = {"x": normal(1, 16, 8, 8)}
    plain = computed(Graph(model), feeds)[0]
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    assert not np.allclose(session.run(None, feeds)[0], plain, atol=0.1)


@pytest.mark.parametrize("name", ["digits_resnet", "wordlang_transformer"])
def test_a_real_model(name: str) -> None:
    model = present(name)
    result = onnxq.quantize(str(model.path()), model.calib(32), target="tensorrt", activations="fp8")
    assert result.report
    assert result.report.outputs[0].sqnr_db > 25.0


def test_codes_chosen_with_care_are_codes_of_fp8() -> None:
    text, constants = LAYERS["MatMul"]
    rng = np.random.default_rng(0)
    mix = rng.normal(size=(32, 32)).astype(np.float32)
    data = [{"x": (rng.normal(size=(2, 4, 32)) @ mix).astype(np.float32)} for _ in range(48)]
    arguments = {"target": "tensorrt", "activations": "fp8", "method": "max"}
    best = onnxq.quantize(model_of(text, **constants), data, recover="rounding", **arguments)
    none = onnxq.quantize(model_of(text, **constants), data, recover="none", **arguments)
    assert best.report.outputs[0].sqnr_db > none.report.outputs[0].sqnr_db + 0.5


@pytest.mark.skipif(installed_package() is None, reason="TensorRT is not installed")
@pytest.mark.parametrize("half", [TensorProto.FLOAT16, TensorProto.BFLOAT16])
def test_half_precision_models(half: int) -> None:
    text = "(T[4,64] x) => (T[4,64] y) { [a] h = MatMul(x, w) [r] r = Relu(h) [b] y = MatMul(r, v) }"
    name = {TensorProto.FLOAT16: "float16", TensorProto.BFLOAT16: "bfloat16"}[half]
    model = model_of(text.replace("T[", f"{name}["), w=normal(64, 64), v=normal(64, 64, seed=1))
    for tensor in model.graph.initializer:
        tensor.CopyFrom(float_tensor(onnx.numpy_helper.to_array(tensor), half, tensor.name))
    dtype = np.float16 if half == TensorProto.FLOAT16 else np.float32
    data = [{"x": normal(4, 64, seed=i).astype(dtype)} for i in range(4)]
    result = onnxq.quantize(model, data, target="tensorrt", activations="fp8", method="max")
    assert result.report, result.report.to_text()
    scales = {t.data_type for t in result.model.graph.initializer if t.name.endswith("_scale")}
    assert scales == {half}
    assert result.report.outputs[0].sqnr_db > 20.0
