"""One test for each rule of TensorRT: the smallest graph that breaks it, and only it."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto, helper

from onnxq.graph.view import Graph
from onnxq.verification.lint_tensorrt import lint_tensorrt
from tests.verify_models import ModelBuilder, int8_conv, tensorrt_conv, weights


def _rules(builder: ModelBuilder) -> list[str]:
    return [v.rule for v in lint_tensorrt(Graph(builder.model()))]


def _activation(scale: object = 0.1, zero_point: object = np.int8(0), shape: tuple[int, ...] = (1, 4)) -> ModelBuilder:
    b = ModelBuilder()
    b.pair(b.input("x", list(shape)), scale, zero_point, "y")
    b.output("y", list(shape))
    return b


def _weight(value: np.ndarray, axis: int | None, op: str, **attributes: object) -> ModelBuilder:
    b = ModelBuilder()
    x = b.pair(b.input("x", [2, 8] if value.ndim == 2 else [1, 8, 6, 6]), 0.1, np.int8(0))
    b.node(op, [x, b.weight("w", value, axis)], "y", **attributes)
    b.output("y")
    return b


def test_a_graph_made_for_tensorrt_is_clean():
    assert lint_tensorrt(Graph(tensorrt_conv())) == []


def test_r1_non_zero_zero_point():
    found = lint_tensorrt(Graph(_activation(zero_point=np.int8(3)).model()))
    assert {v.rule for v in found} == {"R1"}
    assert found[0].message == "its zero-point is 3; TensorRT is symmetric, the zero-point must be 0"
    assert str(found[0]).endswith("Hint: quantize with target='tensorrt' (--target tensorrt)")


def test_r2_uint8_codes():
    found = lint_tensorrt(Graph(_activation(zero_point=np.uint8(0)).model()))
    assert [v.rule for v in found] == ["R2", "R2"]
    assert found[0].message == "its codes are uint8; TensorRT takes int8 and fp8 only"


def test_r3_zero_point_left_out():
    b = ModelBuilder()
    x, s = b.input("x", [1, 4]), b.constant("s", np.float32(0.1))
    b.node("DequantizeLinear", [b.node("QuantizeLinear", [x, s], "q"), s], "y")
    b.output("y", [1, 4])
    assert sorted(set(_rules(b))) == ["R2", "R3"]  # without one the codes are uint8 by ONNX's own rule


@pytest.mark.parametrize("scale", [0.0, -1.0, np.inf, np.nan])
def test_r4_scale_not_positive_or_not_finite(scale):
    assert set(_rules(_activation(scale=scale))) == {"R4"}


def test_r5_scale_computed_while_running():
    b = ModelBuilder()
    x, s = b.input("x", [1, 4]), b.input("s", [])
    z = b.constant("z", np.int8(0))
    b.node("DequantizeLinear", [b.node("QuantizeLinear", [x, s, z], "q"), s, z], "y")
    b.output("y", [1, 4])
    assert _rules(b) == ["R5", "R5"]


def test_r5_zero_point_computed_while_running():
    b = ModelBuilder()
    x, s = b.input("x", [1, 4]), b.constant("s", np.float32(0.1))
    z = b.input("z", [], TensorProto.INT8)
    b.node("DequantizeLinear", [b.node("QuantizeLinear", [x, s, z], "q"), s, z], "y")
    b.output("y", [1, 4])
    assert _rules(b) == ["R5", "R5"]


def test_r5_unequal_volumes():
    b = ModelBuilder()
    codes = b.constant("codes", np.ones((4, 4), np.int8))
    b.dq(codes, np.full(4, 0.1, np.float32), np.zeros(3, np.int8), "y", axis=0)
    b.output("y", [4, 4])
    assert _rules(b) == ["R5"]


def test_r6_per_channel_activation():
    b = ModelBuilder()
    b.pair(b.input("x", [1, 4]), np.full(4, 0.1), np.zeros(4, np.int8), "y", axis=1)
    b.output("y", [1, 4])
    assert _rules(b) == ["R6", "R6"]


def test_r6_number_of_scales_is_not_the_dimension():
    b = ModelBuilder()
    codes = b.constant("codes", np.ones((4, 5), np.int8))
    b.dq(codes, np.full(4, 0.1, np.float32), np.zeros(4, np.int8), "y", axis=1)
    b.output("y", [4, 5])
    assert _rules(b) == ["R6"]


def test_r7_axis_left_out():
    b = ModelBuilder()
    codes = b.constant("codes", np.ones((4, 4), np.int8))
    b.dq(codes, np.full(4, 0.1, np.float32), np.zeros(4, np.int8), "y")
    b.output("y", [4, 4])
    assert _rules(b) == ["R7"]


@pytest.mark.parametrize(
    ("op", "attributes", "shape", "right", "wrong"),
    [
        ("Conv", {}, (8, 8, 3, 3), 0, 1),
        ("ConvTranspose", {}, (8, 8, 3, 3), 1, 0),
        ("MatMul", {}, (8, 8), 1, 0),
        ("Gemm", {"transB": 0}, (8, 8), 1, 0),
        ("Gemm", {"transB": 1}, (8, 8), 0, 1),
    ],
)
def test_r7_axis_of_the_output_channels(op, attributes, shape, right, wrong):
    assert _rules(_weight(weights(*shape), right, op, **attributes)) == []
    assert _rules(_weight(weights(*shape), right - len(shape), op, **attributes)) == []
    assert _rules(_weight(weights(*shape), wrong, op, **attributes)) == ["R7"]


def test_r8_int32_bias():
    b = _weight(weights(8, 8, 3, 3), 0, "Conv")
    bias = b.dq(b.constant("bias_codes", np.ones(8, np.int32)), np.full(8, 0.01), np.zeros(8, np.int32), "bias", axis=0)
    b.nodes.insert(0, b.nodes.pop())
    next(n for n in b.nodes if n.op_type == "Conv").input.append(bias)
    found = lint_tensorrt(Graph(b.model()))
    assert [v.rule for v in found] == ["R8"]
    assert found[0].hint.startswith("keep the bias in float")


def test_r10_scalar_constant():
    b = ModelBuilder()
    half = b.dq(b.constant("codes", np.int8(50)), 0.01, np.int8(0), "half")
    b.node("Mul", [b.input("x", [1, 4]), half], "y")
    b.output("y", [1, 4])
    assert _rules(b) == ["R10"]


def test_r10_int4_with_an_odd_last_dimension():
    b = ModelBuilder(opset=21)
    codes = helper.make_tensor("codes", TensorProto.INT4, [2, 3], [1, 2, 3, 4, 5, 6])
    zero = helper.make_tensor("zero", TensorProto.INT4, [], [0])
    b.initializers += [codes, zero]
    b.node("DequantizeLinear", ["codes", b.constant("s", np.float32(0.1)), "zero"], "y")
    b.output("y", [2, 3])
    assert _rules(b) == ["R10"]


def test_r11_per_channel_before_opset_13():
    b = ModelBuilder(opset=11)
    b.dq(b.constant("codes", np.ones((4, 4), np.int8)), np.full(4, 0.1), np.zeros(4, np.int8), "y", axis=0)
    b.output("y", [4, 4])
    found = lint_tensorrt(Graph(b.model()))
    assert [v.rule for v in found] == ["R11"]
    assert found[0].message == "per-channel scales need opset 13, the model has 11"


def test_r11_half_precision_scales_before_opset_19():
    b = ModelBuilder(opset=17)
    s, z = b.constant("s", np.float16(0.1)), b.constant("z", np.int8(0))
    b.node("DequantizeLinear", [b.constant("codes", np.ones((4, 4), np.int8)), s, z], "y")
    b.output("y", [4, 4], TensorProto.FLOAT16)
    assert _rules(b) == ["R11"]


def test_r11_int4_before_opset_21():
    b = ModelBuilder(opset=19)
    b.initializers += [
        helper.make_tensor("codes", TensorProto.INT4, [2, 2], [1, 2, 3, 4]),
        helper.make_tensor("zero", TensorProto.INT4, [], [0]),
    ]
    b.node("DequantizeLinear", ["codes", b.constant("s", np.float32(0.1)), "zero"], "y")
    b.output("y", [2, 2])
    assert _rules(b) == ["R11"]


def test_r11_qoperator_node():
    b = ModelBuilder()
    x = b.input("x", [1, 4], TensorProto.UINT8)
    b.node("MatMulInteger", [x, b.constant("w", np.ones((4, 4), np.int8))], "y")
    b.output("y", [1, 4], TensorProto.INT32)
    found = lint_tensorrt(Graph(b.model()))
    assert [v.rule for v in found] == ["R11"]
    assert found[0].message == "MatMulInteger is a QOperator node; TensorRT reads Q/DQ only"


def test_r11b_placeholder_name_on_two_dimensions():
    b = ModelBuilder()
    b.node("Relu", [b.input("x", ["N", 3, "?", "?"])], "y")
    b.output("y")
    found = lint_tensorrt(Graph(b.model()))
    assert [v.rule for v in found] == ["R11b"]
    assert "dimension 3 and dimension 2 of 'x' are both called '?'" in found[0].message


def test_r12_something_between_the_weight_and_its_conv():
    b = ModelBuilder()
    x = b.pair(b.input("x", [1, 8, 6, 6]), 0.1, np.int8(0))
    w = b.node("Mul", [b.weight("w", weights(8, 8, 3, 3), 0), b.constant("half", np.float32(0.5))], "scaled")
    b.node("Conv", [x, w], "y")
    b.output("y")
    found = lint_tensorrt(Graph(b.model()))
    assert [v.rule for v in found] == ["R12"]
    assert found[0].message == "Mul 'Mul_scaled' stands between it and Conv 'Conv_y'"


def test_a_graph_made_for_onnxruntime_breaks_r1_and_r2():
    assert {v.rule for v in lint_tensorrt(Graph(int8_conv()))} == {"R1", "R2"}
