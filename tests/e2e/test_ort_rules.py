"""The rules of onnxruntime's CPU provider that the `ort-*` targets rest on, each run on the real thing.

What a rule says never fuses is tested too: if a newer onnxruntime learns it, the test fails and the table can follow.
"""

from __future__ import annotations

import platform
from typing import Any

import numpy as np
import pytest
from onnx import ModelProto, helper

import onnxq
from onnxq.errors import ModelError
from onnxq.targets import TARGETS, cpu_has_vnni
from onnxq.verification.engines.onnxruntime import executed_precision
from tests.e2e.probes import ROUNDING, U8, U8_POSITIVE, Probe, error, kernels, values, weight_scale
from tests.graphs import model_of, normal
from tests.versions import since

SAME = {"pads": [1, 1, 1, 1]}


def conv_chain(tail: Any = None) -> ModelProto:
    """x -> pair -> Conv -> pair -> y, or what `tail(probe, conv)` makes of the Conv's output."""
    p = Probe(1, 8, 6, 6)
    conv = p.weighted("Conv", p.pair_of(p.x), 8, 8, 3, 3, **SAME)
    return p.finished(*(tail(p, conv) if tail else (p.pair_of(conv, (1 / 8, np.uint8(128))),)))


# ---- C1, C2: what surrounds a node ---------------------------------------------------------------------------------


def test_c1_inputs_from_dq_and_output_to_one_q() -> None:
    model = conv_chain()
    assert kernels(model) == {"QLinearConv": 1}
    assert error(model) <= ROUNDING


def test_c1_never_with_a_float_input() -> None:
    p = Probe(1, 8, 6, 6)
    conv = p.weighted("Conv", p.x, 8, 8, 3, 3)
    assert kernels(p.finished(p.pair_of(conv))) == {"Conv": 1}


def test_c1_never_with_a_second_reader_in_float() -> None:
    assert kernels(conv_chain(lambda p, conv: (p.pair_of(conv), p.op("Tanh", conv)))) == {"Conv": 1, "Tanh": 1}


def test_c1_never_as_a_float_output_of_the_model() -> None:
    assert kernels(conv_chain(lambda p, conv: (conv, p.pair_of(conv)))) == {"Conv": 1}


def test_c1_never_with_two_q() -> None:
    def two(p: Probe, conv: str) -> tuple[str, ...]:
        second = p.op("Identity", conv)
        return p.pair(conv, 1 / 8, np.uint8(128), "y"), p.pair(second, 1 / 8, np.uint8(128), "z")

    assert "QLinearConv" not in kernels(conv_chain(two))


def test_c1_dequantized_tensor_may_be_an_output_and_be_read_on() -> None:
    def read_on(p: Probe, conv: str) -> tuple[str, ...]:
        out = p.pair_of(conv, (1 / 8, np.uint8(128)))
        return out, p.pair_of(p.weighted("Conv", out, 8, 8, 1, 1, name="v"), (1 / 2, np.uint8(128)))

    model = conv_chain(read_on)
    assert kernels(model) == {"QLinearConv": 2}
    assert error(model) <= ROUNDING


def test_c2_one_dq_serves_int8_and_float_readers() -> None:
    p = Probe(1, 8, 6, 6)
    x = p.pair_of(p.x)
    first = p.pair_of(p.weighted("Conv", x, 8, 8, 1, 1), (1 / 8, np.uint8(128)))
    added = p.pair_of(p.op("Add", first, x), (1 / 8, np.uint8(128)))
    model = p.finished(added, p.op("Tanh", x))
    assert kernels(model) == {"QLinearAdd": 1, "QLinearConv": 1, "Tanh": 1}
    assert error(model) <= ROUNDING


@pytest.mark.skipif(platform.machine().lower() not in ("x86_64", "amd64"), reason="C3 is about x64")
def test_c3_never_a_residual_of_int8_activations() -> None:
    """A straight chain of int8 activations fuses on x64, a residual does not: hence uint8."""
    s8 = (1 / 8, np.int8(0))
    p = Probe(1, 8, 6, 6)
    x = p.pair_of(p.x, s8)
    first = p.pair_of(p.weighted("Conv", x, 8, 8, 1, 1), s8)
    assert "QLinearAdd" not in kernels(p.finished(p.pair_of(p.op("Add", first, x), s8)))


# ---- C4, C5: Conv and what follows ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("x_shape", "w_shape", "attributes"),
    [
        ((1, 8, 9), (8, 8, 3), {}),
        ((1, 8, 6, 6), (16, 8, 3, 3), {"strides": [2, 2]}),
        ((1, 8, 6, 6), (8, 8, 3, 3), {"dilations": [2, 2]}),
        ((1, 8, 6, 6), (8, 8, 3, 3), {"auto_pad": "SAME_UPPER"}),
        ((1, 8, 6, 6), (8, 8, 3, 3), {"pads": [0, 1, 2, 0]}),
        ((1, 8, 6, 6), (8, 4, 3, 3), {"group": 2}),
        ((1, 8, 6, 6), (8, 1, 3, 3), {"group": 8}),
        ((1, 4, 4, 5, 5), (6, 4, 3, 3, 3), {}),
        ((3, 8, 6, 6), (8, 8, 1, 1), {}),
    ],
)
def test_c4_conv_of_every_form(x_shape: tuple[int, ...], w_shape: tuple[int, ...], attributes: dict[str, Any]) -> None:
    p = Probe(*x_shape)
    conv = p.weighted("Conv", p.pair(p.x, 1 / 32, np.uint8(100)), *w_shape, **attributes)
    model = p.finished(p.pair_of(conv, (1 / 8, np.uint8(128))))
    assert kernels(model) == {"QLinearConv": 1}
    assert error(model) <= ROUNDING


def test_c4_never_without_q_behind() -> None:
    assert "QLinearConv" not in kernels(conv_chain(lambda _, conv: (conv,)))


@since(1, 32, "fuses a bias of any scale")
@pytest.mark.parametrize(("factor", "fused"), [(1.0, True), (1.1, False), (2.0, False)])
def test_c4_int32_bias_has_the_product_of_the_scales(factor: float, fused: bool) -> None:
    p = Probe(1, 8, 6, 6)
    weight = values(8, 8, 3, 3)
    bias = p.int32_bias("b", U8[0], weight_scale(weight, 0), factor)
    conv = p.op("Conv", p.pair_of(p.x), p.weight("w", weight, 0), bias)
    model = p.finished(p.pair_of(conv, (1 / 8, np.uint8(128))))
    assert ("QLinearConv" in kernels(model)) is fused
    assert error(model) <= ROUNDING


def test_c4_wrong_axis_is_silently_wrong() -> None:
    """Why the axis is tested at all: the kernel takes any vector of scales for that of axis 0."""
    p = Probe(1, 8, 6, 6)
    conv = p.weighted("Conv", p.pair_of(p.x), 8, 8, 3, 3, axis=1)
    model = p.finished(p.pair_of(conv, (1 / 8, np.uint8(128))))
    assert kernels(model) == {"QLinearConv": 1}
    assert error(model) > 0.1


def test_c4_never_conv_transpose() -> None:
    p = Probe(1, 8, 6, 6)
    conv = p.weighted("ConvTranspose", p.pair_of(p.x), 8, 8, 2, 2, axis=1, strides=[2, 2])
    assert kernels(p.finished(p.pair_of(conv))) == {"ConvTranspose": 1}


@pytest.mark.parametrize(("zero_point", "fused"), [(0, True), (1, False), (128, False)])
def test_c5_relu_disappears_into_a_zero_point_of_0(zero_point: int, fused: bool) -> None:
    model = conv_chain(lambda p, conv: (p.pair_of(p.op("Relu", conv), (1 / 8, np.uint8(zero_point))),))
    assert ("QLinearConv" in kernels(model)) is fused
    if fused:
        assert kernels(model) == {"QLinearConv": 1}
        assert error(model) <= ROUNDING


@pytest.mark.parametrize(
    ("scale", "zero_point", "fused"),
    [(np.float32(6) / np.float32(255), 0, True), (5 / 255, 0, True), (6.1 / 255, 0, False), (6 / 255, 128, False)],
)
def test_c5_clip_disappears_into_codes_that_end_at_6(scale: float, zero_point: int, fused: bool) -> None:
    def relu6(p: Probe, conv: str) -> tuple[str, ...]:
        low, high = p.constant("low", np.float32(0)), p.constant("high", np.float32(6))
        return (p.pair_of(p.op("Clip", conv, low, high), (scale, np.uint8(zero_point))),)

    model = conv_chain(relu6)
    assert (kernels(model) == {"QLinearConv": 1}) is fused
    assert error(model) <= ROUNDING


# ---- C6, C7, C8: matrices ------------------------------------------------------------------------------------------


def test_c6_matmul_without_q_gives_float() -> None:
    for shape in ((3, 8), (2, 3, 8), (2, 2, 3, 8)):
        p = Probe(*shape)
        model = p.finished(p.weighted("MatMul", p.pair_of(p.x), 8, 8, axis=1))
        assert kernels(model) == {"MatMulIntegerToFloat": 1}
        assert error(model) <= 1e-5  # sums in int32 are exact; float32 sums of 8 products differ in the last bits


def test_c6_rank_3_weight_per_tensor() -> None:
    p = Probe(2, 3, 8)
    model = p.finished(p.weighted("MatMul", p.pair_of(p.x), 2, 8, 5, axis=None))
    assert kernels(model) == {"MatMulIntegerToFloat": 1}
    assert error(model) <= 1e-5


def test_c6_never_a_rank_3_weight_per_channel() -> None:
    """The session is made and then fails to run (onnxruntime 1.31); whichever way it fails, per-tensor is the way."""
    p = Probe(2, 3, 8)
    model = p.finished(p.weighted("MatMul", p.pair_of(p.x), 2, 8, 5, axis=2))
    with pytest.raises(ModelError):
        error(model)


def gemm(*, bias: str, quantized: bool = False, trans: int = 1, factor: float = 1.0, **attributes: Any) -> ModelProto:
    p = Probe(3, 8)
    weight = values(5, 8) if trans else values(8, 5)
    inputs = [p.pair_of(p.x), p.weight("w", weight, 1 - trans)]
    if bias == "int32":
        inputs.append(p.int32_bias("b", U8[0], weight_scale(weight, 1 - trans), factor))
    elif bias == "float":
        inputs.append(p.constant("b", np.linspace(-2, 2, 5, dtype=np.float32)))
    out = p.op("Gemm", *inputs, transB=trans, **attributes)
    return p.finished(p.pair_of(out, (1 / 8, np.uint8(128))) if quantized else out)


@pytest.mark.parametrize("trans", [0, 1])
@pytest.mark.parametrize("bias", ["none", "int32"])
def test_c7_gemm_without_q_and_with_int32_bias(bias: str, trans: int) -> None:
    model = gemm(bias=bias, trans=trans)
    assert kernels(model) == {"QGemm": 1}
    assert error(model) <= 1e-5


def test_c7_never_with_float_bias_and_without_q() -> None:
    assert "QGemm" not in kernels(gemm(bias="float"))
    assert kernels(gemm(bias="float", quantized=True)) == {"QGemm": 1}


@since(1, 32, "fuses them all the same")
def test_c7_never_with_alpha_or_beta_and_a_bias() -> None:
    assert "QGemm" not in kernels(gemm(bias="int32", alpha=0.5))
    assert "QGemm" not in kernels(gemm(bias="int32", beta=0.5))


def test_c7_bias_scale_is_not_checked() -> None:
    """Conv stays float with a wrong bias scale, Gemm computes with it: verification has to catch it."""
    model = gemm(bias="int32", factor=2.0)
    assert kernels(model) == {"QGemm": 1}
    assert error(model) > 0.1


@pytest.mark.parametrize(
    ("shape", "kernel"),
    [((3, 8), {"QGemm": 1}), ((2, 3, 8), {"QGemm": 1}), ((2, "T", 8), {"Add": 1, "MatMulIntegerToFloat": 1})],
)
def test_c8_matmul_and_bias(shape: tuple[Any, ...], kernel: dict[str, int]) -> None:
    p = Probe(*shape)
    weight = values(8, 8)
    bias = p.int32_bias("b", U8[0], weight_scale(weight, 1))
    product = p.op("MatMul", p.pair_of(p.x), p.weight("w", weight, 1))
    model = p.finished(p.op("Add", bias, product))
    assert kernels(model) == kernel
    assert error(model) <= 1e-5


def test_c8_never_with_a_float_bias_and_without_q() -> None:
    p = Probe(3, 8)
    product = p.weighted("MatMul", p.pair_of(p.x), 8, 8, axis=1)
    bias = p.constant("b", np.linspace(-2, 2, 8, dtype=np.float32))
    found = kernels(p.finished(p.op("Add", product, bias)))
    assert not {"QGemm", "MatMulIntegerToFloat"} & set(found)


# ---- C9 to C12: operators without weights --------------------------------------------------------------------------


@pytest.mark.parametrize("op", ["Add", "Mul"])
@pytest.mark.parametrize("constant", [(), (1,), (8, 1, 1), (1, 8, 1, 1)])
def test_c9_add_and_mul_with_a_constant_of_codes(op: str, constant: tuple[int, ...]) -> None:
    p = Probe(1, 8, 6, 6)
    codes = np.random.default_rng(2).integers(0, 256, constant, np.uint8)
    k = p.dq(p.constant("k_codes", codes), 1 / 100, np.uint8(50), "k")
    model = p.finished(p.pair_of(p.op(op, p.pair_of(p.x), k), (1 / 16, np.uint8(120))))
    assert kernels(model) == {f"QLinear{op}": 1}
    assert error(model) <= ROUNDING


@pytest.mark.parametrize("op", ["Add", "Mul"])
def test_c9_inputs_of_different_scales_and_shapes(op: str) -> None:
    p = Probe(1, 8, 6, 6)
    gate = p.pair(p.input("gate", [1, 8, 1, 1]), 1 / 50, np.uint8(30))
    model = p.finished(p.pair_of(p.op(op, p.pair_of(p.x), gate), (1 / 16, np.uint8(120))))
    assert kernels(model) == {f"QLinear{op}": 1}
    assert error(model) <= ROUNDING


def test_c9_never_with_a_float_constant() -> None:
    p = Probe(1, 8, 6, 6)
    k = p.constant("k", np.float32(3))
    assert kernels(p.finished(p.pair_of(p.op("Add", p.pair_of(p.x), k)))) == {"Add": 1}


@pytest.mark.parametrize("op", ["Sub", "Div", "Max", "Min", "Pow", "Sum", "PRelu"])
def test_c9_never(op: str) -> None:
    p = Probe(1, 8, 6, 6)
    other = p.pair(p.input("z", [1, 8, 6, 6]), *U8_POSITIVE)
    assert not _integer(kernels(p.finished(p.pair_of(p.op(op, p.pair_of(p.x), other)))))


@pytest.mark.parametrize("op", ["GlobalAveragePool", "LeakyRelu", "Sigmoid"])
def test_c10_kernels(op: str) -> None:
    p = Probe(1, 8, 6, 6)
    model = p.finished(p.pair_of(p.op(op, p.pair_of(p.x)), (1 / 64, np.uint8(128))))
    assert kernels(model) == {f"QLinear{op}": 1}
    assert error(model) <= ROUNDING


NEVER_UNARY = (
    "HardSigmoid", "HardSwish", "Tanh", "Erf", "Elu", "Exp", "Softplus", "GlobalMaxPool", "ReduceMean", "Mish",
)  # fmt: skip


@pytest.mark.parametrize("op", NEVER_UNARY)
def test_c10_never(op: str) -> None:
    """The table of the target gives each of these a reason."""
    assert op in TARGETS["ort-x64-vnni"].float_reasons
    p = Probe(1, 8, 6, 6, opset=18)
    assert not _integer(kernels(p.finished(p.pair_of(p.op(op, p.pair_of(p.x))))))


def test_c11_concat_of_different_scales() -> None:
    p = Probe(1, 8, 6, 6)
    other = p.pair(p.input("z", [1, 4, 6, 6]), 1 / 50, np.uint8(30))
    model = p.finished(p.pair_of(p.op("Concat", p.pair_of(p.x), other, axis=1), (1 / 16, np.uint8(120))))
    assert kernels(model) == {"QLinearConcat": 1}
    assert error(model) <= ROUNDING


def test_c11_never_with_a_float_input() -> None:
    p = Probe(1, 8, 6, 6)
    other = p.input("z", [1, 4, 6, 6])
    model = p.finished(p.pair_of(p.op("Concat", p.pair_of(p.x), other, axis=1), (1 / 16, np.uint8(120))))
    assert kernels(model) == {"Concat": 1}


def _mover(p: Probe, op: str, x: str) -> str:
    constant = {
        "Reshape": np.array([1, 8, 36]),
        "Squeeze": np.array([0]),
        "Unsqueeze": np.array([0]),
        "Gather": np.array([0, 0]),
        "Expand": np.array([2, 8, 6, 6]),
        "Tile": np.array([1, 2, 1, 1]),
    }
    attributes: dict[str, Any] = {
        "Transpose": {"perm": [0, 2, 3, 1]},
        "MaxPool": {"kernel_shape": [2, 2]},
        "DepthToSpace": {"blocksize": 2},
        "Resize": {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"},
    }.get(op, {})
    if op == "Resize":
        return p.op(op, x, "", p.constant("k", np.float32([1, 1, 2, 2])), **attributes)
    if op == "Slice":
        ends = [p.constant(name, np.array([value])) for name, value in (("start", 1), ("end", 4), ("axis", 2))]
        return p.op(op, x, *ends)
    extra = [p.constant("k", constant[op])] if op in constant else []
    return p.op(op, x, *extra, **attributes)


MOVERS = sorted(set(TARGETS["ort-x64-vnni"].pass_through) - {"Split"})


@pytest.mark.parametrize("op", MOVERS)
def test_c12_moves_codes_between_equal_parameters(op: str) -> None:
    """A Conv on both sides: it is their neighbourhood that matters, and both have to stay int8."""
    p = Probe(1, 8, 6, 6)
    first = p.pair_of(p.weighted("Conv", p.pair_of(p.x), 8, 8, 3, 3, **SAME), (1 / 8, np.uint8(128)))
    model = p.finished(p.pair_of(_mover(p, op, first), (1 / 8, np.uint8(128))))
    ran = {n.op: n.precision.value for n in executed_precision(model).nodes}
    assert ran["Conv"] == "int8"
    assert ran[op] in ("int8", "fused")  # a Transpose may become the layout of its neighbours
    assert error(model) <= ROUNDING


def test_c12_split_needs_every_output_quantized() -> None:
    def split(quantized: int) -> ModelProto:
        p = Probe(1, 8, 6, 6)
        x = p.pair_of(p.x)
        p.nodes.append(_split_node(x))
        outs = [p.pair_of(t) if i < quantized else t for i, t in enumerate(("s", "t"))]
        return p.finished(*outs)

    assert _runs_on_codes(split(2), "Split")
    assert not _runs_on_codes(split(1), "Split")


def test_c12_never_between_different_parameters() -> None:
    p = Probe(1, 8, 6, 6)
    pooled = p.op("MaxPool", p.pair_of(p.x), kernel_shape=[2, 2])
    assert not _runs_on_codes(p.finished(p.pair_of(pooled, (1 / 30, np.uint8(128)))), "MaxPool")


def test_c12_flatten_does_not_hand_on_by_itself() -> None:
    """C13 lets Q and DQ slide through Reshape, but not through Flatten: a pair on both sides is needed."""

    def head(pairs: int) -> dict[str, int]:
        p = Probe(1, 8, 2, 2)
        flat = p.op("Flatten", p.pair_of(p.x))
        gemm_in = p.pair_of(flat) if pairs == 2 else flat
        return kernels(p.finished(p.weighted("Gemm", gemm_in, 5, 32, transB=1)))

    assert "QGemm" in head(2)
    assert "QGemm" not in head(1)


@since(1, 32, "runs it on codes")
def test_c12_linear_resize_never() -> None:
    p = Probe(1, 8, 6, 6)
    scales = p.constant("k", np.float32([1, 1, 2, 2]))
    resized = p.op("Resize", p.pair_of(p.x), "", scales, mode="linear")
    assert not _runs_on_codes(p.finished(p.pair_of(resized)), "Resize")


# ---- C14: kernels that add pairs in int16 --------------------------------------------------------------------------


@pytest.mark.skipif(platform.machine().lower() not in ("x86_64", "amd64"), reason="C14 is about x64")
def test_c14_two_large_neighbours_saturate_exactly_without_vnni() -> None:
    """64 + 64 is safe everywhere; 127 + 127 is wrong on CPUs without VNNI, the reason for ort-x64-avx2."""
    for code, wrong in ((64, False), (127, not cpu_has_vnni())):
        p = Probe(1, 8)
        x = p.pair(p.x, 1 / 255, np.uint8(0))
        w = p.dq(p.constant("codes", np.full((8, 4), code, np.int8)), np.float32(0.01), np.int8(0), "w")
        model = p.finished(p.op("MatMul", x, w))
        assert (error(model, unsaturated=False, x=np.ones((1, 8), np.float32)) > 0.01) is wrong


# ---- -----------------------------------------------------------------------------------------------------------------


def _integer(found: dict[str, int]) -> bool:
    return any(op.startswith(("QLinear", "QGemm", "MatMulInteger")) for op in found)


def _split_node(x: str) -> Any:
    return helper.make_node("Split", [x], ["s", "t"], name="split", axis=1)


def _runs_on_codes(model: ModelProto, op: str) -> bool:
    return any(n.op == op and n.precision.value in ("int8", "fused") for n in executed_precision(model).nodes)


# ---- C17: what does not pay stays float ----------------------------------------------------------------------------


def test_c17_a_node_that_does_not_pay_runs_in_float_between_int8_ones() -> None:
    """Left alone, onnxruntime would take the float depthwise Conv between a DQ and a Q into int8 (C16)."""
    text = """(float[N,16,56,56] x) => (float[N,32,56,56] y) {
    [c1] a = Conv<pads=[1,1,1,1]>(x, w1)
    [r1] ar = Relu(a)
    [dw] b = Conv<pads=[2,2,2,2], group=16>(ar, w2)
    [r2] br = Relu(b)
    [c2] c = Conv<pads=[1,1,1,1]>(br, w3)
    [c3] y = Conv<pads=[1,1,1,1]>(c, w4)
    }"""
    weights = {"w1": normal(16, 16, 3, 3), "w2": normal(16, 1, 5, 5), "w3": normal(32, 16, 3, 3)}
    model = model_of(text, **weights, w4=normal(32, 32, 3, 3))
    data = [{"x": normal(1, 16, 56, 56, seed=seed)} for seed in range(5)]
    made = onnxq.quantize(model, data, target="ort-x64-avx2")
    assert made.report
    ran = {n.node: n.precision.value for n in executed_precision(made.model).nodes}
    assert {name: ran[name] for name in ("c2", "c3", "dw")} == {"c2": "int8", "c3": "int8", "dw": "float"}


def test_an_output_in_front_of_a_transpose_stays_float() -> None:
    """onnxruntime would move the Q of the Conv's input up past the Transpose, and output `a` would be codes (C16)."""
    text = """(float[N,16,8,8] x) => (float[N,16,8,8] a, float[N,16,8,8] y) {
        [r] a = Relu(x)
        [t] b = Transpose<perm=[0,1,3,2]>(a)
        [c] y = Conv(b, w)
        }"""
    result = onnxq.quantize(model_of(text, w=normal(16, 16, 1, 1)), {"x": normal(16, 16, 8, 8)}, target="ort-x64-vnni")
    assert result.plan.holds == ("b",)
    assert result.report, result.report.to_text()
    assert {o.name: o.mismatch_share for o in result.report.outputs}["a"] == 0.0
