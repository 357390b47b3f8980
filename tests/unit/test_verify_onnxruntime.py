"""What onnxruntime says it runs, read back from its own optimised graph."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import ModelProto

from onnxq.errors import ModelError
from onnxq.graph.model import load_graph
from onnxq.graph.view import Graph
from onnxq.verification.agreement import FLOAT_TOLERANCE, fused_agreement
from onnxq.verification.engines.onnxruntime import OrtModel, executed_precision
from onnxq.verification.engines.result import Precision
from tests.graphs import model_of
from tests.verify_models import ModelBuilder, conv_feeds, float_conv, int8_conv, weights
from tests.versions import since


def _why(model: ModelProto, node: str) -> str:
    found = executed_precision(model).node(node)
    assert found is not None
    assert found.precision is Precision.FLOAT
    return found.why


def test_a_fused_conv_is_int8_and_its_relu_disappears_into_it():
    report = executed_precision(int8_conv())
    conv, relu = report.node("Conv_c"), report.node("Relu_r")
    assert conv is not None
    assert relu is not None
    assert (conv.precision, conv.engine_op) == (Precision.INT8, "QLinearConv")
    assert (relu.precision, relu.why) == (Precision.FUSED, "part of Conv 'Conv_c'")
    assert report.count(Precision.INT8) == 1
    assert report.count(Precision.FLOAT, {"Conv"}) == 0
    assert report.node("nobody") is None


def test_a_path_gives_the_same_account(tmp_path):
    onnx.save(int8_conv(), tmp_path / "m.onnx")
    assert executed_precision(tmp_path / "m.onnx").nodes == executed_precision(int8_conv()).nodes


def test_external_data_is_found_through_base_dir(tmp_path):
    path = tmp_path / "m.onnx"
    onnx.save(int8_conv(), path, save_as_external_data=True, location="m.data", size_threshold=64)
    model = onnx.load(path, load_external_data=False)
    assert executed_precision(model, base_dir=tmp_path).count(Precision.INT8) == 1


def test_a_float_model_runs_in_float():
    report = executed_precision(float_conv())
    assert {n.precision for n in report.nodes} == {Precision.FLOAT}
    assert (
        _why(float_conv(), "Conv_c")
        == "its input 'x', an input of the model, has no Q/DQ pair, nor has its output 'c' (C1)"
    )


def test_no_quantization_behind_a_conv_keeps_it_float():
    why = _why(int8_conv(output_pair=False), "Conv_c")
    assert why == "its output 'c' goes to Relu 'Relu_y' without QuantizeLinear (C1)"


def test_a_relu_whose_zero_point_is_not_the_lowest_code_keeps_its_conv_float():
    why = _why(int8_conv(output_zero_point=128), "Conv_c")
    assert why == "Relu 'Relu_r' stays behind it, because the zero-point after that is 128 and not 0 (C5)"


def test_a_clip_narrower_than_the_range_keeps_its_conv_float():
    b = ModelBuilder()
    x = b.pair(b.input("x", [1, 8, 6, 6]), 1 / 127, np.uint8(128))
    b.node("Conv", [x, b.weight("w", weights(8, 8, 3, 3), 0)], "c")
    bounds = [b.constant("low", np.float32(0)), b.constant("high", np.float32(6))]
    b.pair(b.node("Clip", ["c", *bounds], "r"), 7 / 255, np.uint8(0), "y")
    b.output("y")
    assert _why(b.model(), "Conv_c") == (
        "Clip 'Clip_r' stays behind it: the quantized range after it is wider than its own (C5)"
    )


def test_a_float_operand_keeps_an_add_float():
    b = ModelBuilder()
    x = b.pair(b.input("x", [1, 4]), 0.1, np.uint8(0))
    b.pair(b.node("Add", [x, b.input("z", [1, 4])], "a"), 0.1, np.uint8(0), "y")
    b.output("y")
    assert _why(b.model(), "Add_a") == (
        "its input 'z', an input of the model, does not come out of a DequantizeLinear (C1)"
    )


def test_nothing_dequantized_in_front():
    b = ModelBuilder()
    x, w = b.input("x", [1, 4]), b.constant("w", weights(4, 4))
    b.pair(b.node("MatMul", [x, w], "m"), 0.1, np.uint8(0), "y")
    b.output("y")
    assert _why(b.model(), "MatMul_m") == "its input 'x', an input of the model, has no Q/DQ pair (C1)"


@pytest.mark.parametrize("op", ["ConvTranspose", "Tanh"])
def test_ops_without_an_int8_kernel(op):
    b = ModelBuilder()
    x = b.pair(b.input("x", [1, 8, 6, 6]), 0.1, np.uint8(0))
    operands = [x, b.weight("w", weights(8, 8, 3, 3), 1)] if op == "ConvTranspose" else [x]
    b.pair(b.node(op, operands, "t"), 0.1, np.uint8(0), "y")
    b.output("y")
    assert _why(b.model(), f"{op}_t") == (
        f"onnxruntime has no int8 kernel for {op} ({'C4' if op == 'ConvTranspose' else 'C10'})"
    )


def test_int8_activations_of_an_add():
    b = ModelBuilder()
    left = b.pair(b.input("x", [1, 4]), 0.1, np.int8(0))
    right = b.pair(b.input("z", [1, 4]), 0.1, np.uint8(0))
    b.pair(b.node("Add", [left, right], "a"), 0.1, np.int8(0), "y")
    b.output("y")
    report = executed_precision(b.model()).node("Add_a")
    assert report is not None
    if report.precision is Precision.FLOAT:  # newer versions may learn it
        assert report.rule == "C3"


def test_int16_activations():
    b = ModelBuilder(opset=21)
    x = b.pair(b.input("x", [1, 8, 6, 6]), 1e-4, np.uint16(32768))
    b.pair(b.node("Conv", [x, b.weight("w", weights(8, 8, 3, 3), 0)], "c"), 1e-4, np.uint16(32768), "y")
    b.output("y")
    assert _why(b.model(), "Conv_c") == ("its input 'x' has codes of uint16; onnxruntime fuses 8-bit ones only (C4)")


@since(1, 32, "fuses it all the same")
def test_gemm_with_alpha():
    b = ModelBuilder()
    x = b.pair(b.input("x", [2, 8]), 0.1, np.uint8(0))
    operands = [x, b.weight("w", weights(8, 8), 1), b.constant("bias", np.ones(8, np.float32))]
    b.pair(b.node("Gemm", operands, "g", alpha=0.5), 0.1, np.uint8(0), "y")
    b.output("y")
    assert _why(b.model(), "Gemm_g") == (
        "it has alpha = 0.5 and beta = 1; onnxruntime's int8 kernel takes 1 and 1 (C7)"
    )


def test_nodes_merged_into_a_float_kernel_of_another_name_are_float():
    b = ModelBuilder()
    x = b.pair(b.input("x", [1, 8]), 0.1, np.uint8(128))
    sigmoid = b.node("Sigmoid", [x], "s")
    b.node("Mul", [x, sigmoid], "silu")
    b.node("Exp", ["silu"], "y")
    b.output("y")
    report = executed_precision(b.model())
    assert {n.precision for n in report.nodes} == {Precision.FLOAT}


def test_shape_arithmetic_and_constants_are_neither():
    b = ModelBuilder()
    x = b.input("x", ["N", 4])
    b.node("Shape", [x], "shape")
    b.node("Add", [b.constant("one", np.float32(1)), b.constant("two", np.float32(2))], "three")
    b.node("Mul", [b.node("Reshape", [x, "shape"], "r"), "three"], "y")
    b.output("y", ["N", 4])
    report = executed_precision(b.model())
    by_op = {n.op: n.precision for n in report.nodes}
    assert by_op["Shape"] is Precision.OTHER
    assert by_op["Add"] is Precision.OTHER
    assert by_op["Mul"] is Precision.FLOAT


def test_a_pooling_between_equal_scales_runs_on_codes():
    b = ModelBuilder()
    x = b.pair(b.input("x", [1, 8, 6, 6]), 0.1, np.uint8(0))
    b.pair(b.node("MaxPool", [x], "m", kernel_shape=[2, 2]), 0.1, np.uint8(0), "y")
    b.output("y")
    found = executed_precision(b.model()).node("MaxPool_m")
    assert found is not None
    assert found.precision is Precision.INT8


def test_a_model_that_cannot_be_loaded():
    b = ModelBuilder()
    b.node("NoSuchOp", [b.input("x", [1])], "y")
    b.output("y", [1])
    with pytest.raises(ModelError, match=r"onnxruntime cannot load the model: .*NoSuchOp"):
        executed_precision(b.model())


def test_a_feed_that_does_not_fit():
    with pytest.raises(ModelError, match="onnxruntime cannot run the model"):
        OrtModel(float_conv(), threads=1)({"x": np.zeros((1, 3, 6, 6), np.float32)})


def test_a_model_over_the_protobuf_limit_goes_through_a_folder(monkeypatch):
    feed = conv_feeds(1)[0]
    expected = OrtModel(float_conv())(feed)
    monkeypatch.setattr("onnxq.inference.session._MESSAGE_LIMIT", 100)
    for name, value in OrtModel(float_conv())(feed).items():
        np.testing.assert_array_equal(value, expected[name])


def test_fused_and_unfused_agree_to_a_tie():
    """Codes may differ by one where a value lies between two; nothing else may differ."""
    stretches = fused_agreement(Graph(int8_conv(amax=63)), conv_feeds(1)[0])  # no CPU saturates
    assert [s.op for s in stretches] == ["QuantizeLinear", "Relu"]
    assert all(s.agrees for s in stretches)
    assert all(s.largest <= 1 for s in stretches)


def test_a_weight_axis_that_onnxruntime_ignores_is_found_at_its_conv():
    """QLinearConv takes any vector of scales for axis 0; axis 1 on a square weight gives silently wrong numbers."""
    model = int8_conv(weight_axis=1)
    assert executed_precision(model).count(Precision.INT8) == 1
    wrong = [s for s in fused_agreement(Graph(model), conv_feeds(1)[0]) if not s.agrees]
    assert [s.tensor for s in wrong] == ["r"]
    assert wrong[0].largest > 10
    assert str(wrong[0]).startswith("Relu 'Relu_r': ")
    assert str(wrong[0]).endswith(" codes")


def test_a_wrong_float_output_is_found():
    """Per-row scales of a square MatMul weight: MatMulIntegerToFloat reads them as per-column."""
    b = ModelBuilder()
    x = b.pair(b.input("x", [4, 8]), 1 / 127, np.uint8(128))
    b.node("MatMul", [x, b.weight("w", weights(8, 8), 0)], "y")
    b.output("y", [4, 8])
    feed = {"x": np.random.default_rng(0).uniform(-1, 1, (4, 8)).astype(np.float32)}
    last = fused_agreement(Graph(b.model()), feed)[-1]
    assert last.is_float
    assert not last.agrees
    assert last.largest > FLOAT_TOLERANCE
    assert str(last).endswith("of the peak")


@pytest.mark.parametrize("branch", [False, True])
def test_an_answer_next_to_zero_is_no_measure_of_rounding(branch: bool):
    """A Sigmoid far on its left: float sums before it round differently, and its answer is 1e-5 of its range."""
    rng = np.random.default_rng(0)
    x = (0.1 * rng.integers(0, 256, (1, 4096))).astype(np.float32)
    weight = rng.integers(1, 128, (4096, 4)).astype(np.int8)
    # Sums of 40,000 that cancel to logits of -12: their last bit is 0.004.
    bias = (-12.0 - x.astype(np.float64) @ (0.013 * weight)).astype(np.float32)
    last = """If (c) <then_branch = a () => (float[1,4] p) { p = Sigmoid(logits) },
        else_branch = b () => (float[1,4] r) { r = Identity(s) }>"""
    text = f"""(float[1,4096] x, bool c) => (float[1,4] y) {{
        q = QuantizeLinear(x, step, zero) d = DequantizeLinear(q, step, zero)
        e = DequantizeLinear(w, fine, none) m = MatMul(d, e) logits = Sub(m, minus) s = Sigmoid(logits)
        y = {last if branch else "Identity(s)"} }}"""
    given = {"step": np.float32(0.1), "zero": np.uint8(0), "fine": np.float32(0.013), "none": np.int8(0)}
    model = model_of(text, w=weight, minus=-bias, **given)
    found = fused_agreement(load_graph(model), {"x": x, "c": np.array(True)})[-1]
    assert (found.tensor, found.is_float) == ("y", True)
    assert found.differing == 1.0
    assert found.agrees


def test_a_bias_scale_that_onnxruntime_does_not_check_is_found():
    """QGemm adds the int32 bias as if its scale were x_scale * w_scale, whatever its DequantizeLinear says."""
    b = ModelBuilder()
    x = b.pair(b.input("x", [2, 8]), 1 / 127, np.uint8(128))
    weight = b.weight("w", weights(8, 8), None)
    codes = b.constant("bias_codes", np.full(8, 20000, np.int32))
    bias = b.dq(codes, 2 / 127 / 127, np.int32(0), "bias")
    b.pair(b.node("Gemm", [x, weight, bias], "g"), 0.05, np.uint8(0), "y")
    b.output("y")
    feed = {"x": np.random.default_rng(0).uniform(-1, 1, (2, 8)).astype(np.float32)}
    wrong = [s.node for s in fused_agreement(Graph(b.model()), feed) if not s.agrees]
    assert wrong == ["Gemm_g"]


def test_agreement_of_a_float_model_has_nothing_to_say():
    assert fused_agreement(Graph(float_conv()), conv_feeds(1)[0]) == ()
