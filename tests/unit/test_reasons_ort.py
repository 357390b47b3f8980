"""Why a node stays in float under onnxruntime: for each rule a graph that breaks it, run for real, and the sentence."""

from __future__ import annotations

import platform
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from onnx import ModelProto

from onnxq.verification.engines.onnxruntime import executed_precision
from onnxq.verification.engines.result import Precision
from tests.e2e.probes import U8, Probe, values, weight_scale
from tests.versions import RUNTIME

S8 = (1 / 8, np.int8(0))
OUT = (1 / 8, np.uint8(128))


def told(model: ModelProto, op: str) -> tuple[str, str]:
    """The reason and the rule of the first node of type `op`, which has to run in float."""
    node = next(n for n in executed_precision(model).nodes if n.op == op)
    assert node.precision is Precision.FLOAT, f"{op} runs as {node.engine_op}"
    return node.why, node.rule


def batchnorm_behind_a_pair() -> ModelProto:
    p = Probe(1, 8, 6, 6)
    conv = p.pair_of(p.weighted("Conv", p.pair_of(p.x), 8, 8, 3, 3), OUT)
    parts = [p.constant(name, np.ones(8, np.float32)) for name in ("scale", "bias", "mean", "variance")]
    return p.finished(p.pair_of(p.op("BatchNormalization", conv, *parts)))


def matmul_with_float_weight() -> ModelProto:
    p = Probe(3, 8)
    return p.finished(p.pair_of(p.op("MatMul", p.pair_of(p.x), p.constant("w", values(8, 8)))))


def conv_with_a_weight_only() -> ModelProto:
    p = Probe(1, 8, 6, 6)
    return p.finished(p.pair_of(p.weighted("Conv", p.x, 8, 8, 3, 3)))


def conv_with_two_readers() -> ModelProto:
    p = Probe(1, 8, 6, 6)
    conv = p.weighted("Conv", p.pair_of(p.x), 8, 8, 3, 3)
    return p.finished(p.pair_of(conv, OUT), p.op("Tanh", conv))


def conv_with_wrong_bias_scale() -> ModelProto:
    p = Probe(1, 8, 6, 6)
    weight = values(8, 8, 3, 3)
    bias = p.int32_bias("b", U8[0], weight_scale(weight, 0), 2.0)
    return p.finished(p.pair_of(p.op("Conv", p.pair_of(p.x), p.weight("w", weight, 0), bias), OUT))


def conv_without_anything() -> ModelProto:
    p = Probe(1, 8, 6, 6)
    tanh = p.op("Tanh", p.x)
    return p.finished(p.op("Conv", tanh, p.constant("w", values(8, 8, 3, 3)), out="c"))


def relu_behind_a_pair() -> ModelProto:
    p = Probe(1, 8, 6, 6)
    conv = p.pair_of(p.weighted("Conv", p.pair_of(p.x), 8, 8, 3, 3), OUT)
    return p.finished(p.op("Relu", conv))


def relu_on_its_own() -> ModelProto:
    p = Probe(1, 8, 6, 6)
    return p.finished(p.pair_of(p.op("Relu", p.op("Tanh", p.x))))


def residual_of_int8() -> ModelProto:
    p = Probe(1, 8, 6, 6)
    x = p.pair_of(p.x, S8)
    return p.finished(p.pair_of(p.op("Add", p.pair_of(p.weighted("Conv", x, 8, 8, 1, 1), S8), x), S8))


def gemm_with_float_bias() -> ModelProto:
    p = Probe(3, 8)
    weight = p.weight("w", values(5, 8), 0)
    bias = p.constant("b", np.linspace(-2, 2, 5, dtype=np.float32))
    return p.finished(p.op("Gemm", p.pair_of(p.x), weight, bias, transB=1))


def matmul_with_float_bias() -> ModelProto:
    p = Probe(3, 8)
    product = p.weighted("MatMul", p.pair_of(p.x), 8, 8, axis=1)
    return p.finished(p.op("Add", product, p.constant("b", np.linspace(-2, 2, 8, dtype=np.float32))))


def add_of_a_float_constant() -> ModelProto:
    p = Probe(1, 8, 6, 6)
    return p.finished(p.pair_of(p.op("Add", p.pair_of(p.x), p.constant("k", np.float32(3)))))


def pool_between_different_pairs() -> ModelProto:
    p = Probe(1, 8, 6, 6)
    return p.finished(p.pair_of(p.op("MaxPool", p.pair_of(p.x), kernel_shape=[2, 2]), (1 / 30, np.uint8(128))))


def linear_resize() -> ModelProto:
    p = Probe(1, 8, 6, 6)
    scales = p.constant("k", np.float32([1, 1, 2, 2]))
    return p.finished(p.pair_of(p.op("Resize", p.pair_of(p.x), "", scales, mode="linear")))


def conv_of_16_bit() -> ModelProto:
    p = Probe(1, 8, 6, 6, opset=21)
    x = p.pair_of(p.x, (1e-4, np.uint16(32768)))
    return p.finished(p.pair_of(p.weighted("Conv", x, 8, 8, 3, 3), (1e-4, np.uint16(32768))))


def conv_of_mixed_codes() -> ModelProto:
    p = Probe(1, 8, 6, 6, opset=21)
    conv = p.weighted("Conv", p.pair_of(p.x), 8, 8, 3, 3)
    return p.finished(p.pair_of(conv, S8))


CASES: dict[Callable[[], ModelProto], tuple[str, str, str]] = {
    batchnorm_behind_a_pair: (
        "BatchNormalization",
        "onnxruntime has no int8 kernel for BatchNormalization; fold it into Conv 'Conv_t1' before quantizing, as "
        "onnxq does (C10)",
        "C10",
    ),
    matmul_with_float_weight: ("MatMul", "its weight 'w' is float, only its data has a Q/DQ pair (C1)", "C1"),
    conv_with_a_weight_only: (
        "Conv",
        "only its weight is quantized: its input 'x', an input of the model, has no Q/DQ pair (C15)",
        "C15",
    ),
    conv_with_two_readers: ("Conv", "its output 't1' goes to Tanh 'Tanh_t2' without QuantizeLinear (C1)", "C1"),
    conv_with_wrong_bias_scale: ("Conv", "the scale of its bias 'b' is not data scale times weight scale (C4)", "C4"),
    conv_without_anything: (
        "Conv",
        "its input 't1' of Tanh 'Tanh_t1' has no Q/DQ pair, nor has its output 'c' (C1)",
        "C1",
    ),
    relu_behind_a_pair: (
        "Relu",
        "onnxruntime has no int8 kernel for Relu, and a Q/DQ pair stands between it and Conv 'Conv_t1', where it would "
        "disappear (C5)",
        "C5",
    ),
    relu_on_its_own: ("Relu", "onnxruntime has no int8 kernel for Relu (C10)", "C10"),
    gemm_with_float_bias: (
        "Gemm",
        "its bias 'b' is float and its output 't1' is an output of the model in float; it takes one of both: int32, or "
        "Q (C7)",
        "C7",
    ),
    matmul_with_float_bias: (
        "MatMul",
        "Add 'Add_t2' adds the float bias 'b' without QuantizeLinear behind it: onnxruntime makes a float Gemm of both "
        "(C8)",
        "C8",
    ),
    add_of_a_float_constant: (
        "Add",
        "its constant 'k' is float; it needs codes and a DequantizeLinear like a weight (C9)",
        "C9",
    ),
    pool_between_different_pairs: (
        "MaxPool",
        "'DequantizeLinear_x_dq' before it and 'QuantizeLinear_t1_q' behind it differ in scale or zero-point (C12)",
        "C12",
    ),
    linear_resize: ("Resize", "onnxruntime resizes codes by nearest neighbour only (C12)", "C12"),
    conv_of_16_bit: ("Conv", "its input 'x' has codes of uint16; onnxruntime fuses 8-bit ones only (C4)", "C4"),
}


# Versions 1.23 and 1.24 take these into int8.
IN_INT8_BEFORE = (conv_with_wrong_bias_scale, linear_resize) if RUNTIME < (1, 32) else ()


@pytest.mark.parametrize("case", [case for case in CASES if case not in IN_INT8_BEFORE], ids=lambda c: c.__name__)
def test_the_reason_names_the_rule_and_the_neighbour(case: Callable[[], ModelProto]) -> None:
    op, why, rule = CASES[case]
    assert told(case(), op) == (why, rule)


@pytest.mark.skipif(platform.machine().lower() not in ("x86_64", "amd64"), reason="C3 is about x64")
@pytest.mark.parametrize(
    ("op", "other"), [("Add", "Conv 'Conv_t1'"), ("Conv", "Add 'Add_t2'")], ids=["residual", "its branch"]
)
def test_int8_codes_with_two_readers(op: str, other: str) -> None:
    why, rule = told(residual_of_int8(), op)
    assert rule == "C3"
    assert (
        why == f"'x' has int8 codes and goes to {other} too; on x64 onnxruntime fuses that with uint8 codes only (C3)"
    )


@pytest.mark.skipif(platform.machine().lower() not in ("x86_64", "amd64"), reason="C3 is about x64")
def test_int8_behind_uint8() -> None:
    node = next(n for n in executed_precision(conv_of_mixed_codes()).nodes if n.op == "Conv")
    if node.precision is Precision.FLOAT:
        assert node.why == "its input and its output have codes of different types; onnxruntime wants one (C3)"


def test_a_reader_that_takes_the_tensor_as_an_output_is_named() -> None:
    def both(p: Probe) -> tuple[Any, ...]:
        x = p.pair_of(p.weighted("Conv", p.pair_of(p.x, S8), 8, 8, 1, 1, name="v"), S8)
        return x, p.pair_of(p.weighted("Conv", x, 8, 8, 1, 1), S8)

    p = Probe(1, 8, 6, 6)
    nodes = [n for n in executed_precision(p.finished(*both(p))).nodes if n.precision is Precision.FLOAT]
    if platform.machine().lower() in ("x86_64", "amd64"):
        assert "an output of the model too" in nodes[-1].why
