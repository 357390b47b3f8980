"""What onnxruntime does on its own around Q/DQ: rules C3, C6, C8, C10, C13, C15 and C16, each run on the real thing."""

from __future__ import annotations

import platform
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
from onnx import ModelProto

from onnxq.targets import TARGETS
from tests.e2e.probes import ROUNDING, Probe, error, kernels, values

OUT = (1 / 8, np.uint8(128))
S8 = (1 / 8, np.int8(0))
TABLE = TARGETS["ort-x64-vnni"]
X64 = platform.machine().lower() in ("x86_64", "amd64")


def integer(model: ModelProto) -> list[str]:
    return [op for op in kernels(model) if op.startswith(("QLinear", "QGemm", "MatMulInteger"))]


# ---- C3: int8 activations on x64 -------------------------------------------------------------------------------------


def forked(params: tuple[float, Any]) -> ModelProto:
    """A Conv whose result two others read."""
    p = Probe(1, 8, 6, 6)
    first = p.pair_of(p.weighted("Conv", p.pair_of(p.x, params), 8, 8, 1, 1), params)
    return p.finished(*(p.pair_of(p.weighted("Conv", first, 8, 8, 1, 1, name=n), params) for n in ("v", "u")))


@pytest.mark.skipif(not X64, reason="C3 is about x64")
def test_c3_int8_in_a_straight_chain_only() -> None:
    p = Probe(1, 8, 6, 6)
    first = p.pair_of(p.weighted("Conv", p.pair_of(p.x, S8), 8, 8, 1, 1), S8)
    assert kernels(p.finished(p.pair_of(p.weighted("Conv", first, 8, 8, 1, 1, name="v"), S8))) == {"QLinearConv": 2}
    assert kernels(forked(S8)) == {"Conv": 3}
    assert kernels(forked(OUT)) == {"QLinearConv": 3}


# ---- C6, C8: MatMul --------------------------------------------------------------------------------------------------


def test_c6_matmul_with_q_behind() -> None:
    p = Probe(3, 8)
    model = p.finished(p.pair_of(p.weighted("MatMul", p.pair_of(p.x), 8, 8, axis=1), OUT))
    assert kernels(model) == {"QLinearMatMul": 1}
    assert error(model) <= ROUNDING


def test_c6_scales_along_the_reduced_axis_are_silently_wrong() -> None:
    """Why the axis of a square weight matters: the kernel takes any vector of scales for one of its columns."""
    p = Probe(3, 8)
    model = p.finished(p.pair_of(p.weighted("MatMul", p.pair_of(p.x), 8, 8, axis=0), OUT))
    if integer(model):
        assert error(model) > 0.05


def test_c8_float_bias_with_q_behind_stays_two_kernels_or_one_but_right() -> None:
    p = Probe(3, 8)
    product = p.weighted("MatMul", p.pair_of(p.x), 8, 8, axis=1)
    bias = p.constant("b", np.linspace(-2, 2, 8, dtype=np.float32))
    model = p.finished(p.pair_of(p.op("Add", product, bias), OUT))
    assert integer(model)
    assert error(model) <= ROUNDING


# ---- C10: kernels that exist and are not used, and those that do not exist -------------------------------------------


@pytest.mark.parametrize(("op", "attributes"), [("AveragePool", {"kernel_shape": [2, 2]}), ("Softmax", {})])
def test_c10_kernels_that_onnxq_leaves_alone(op: str, attributes: dict[str, Any]) -> None:
    assert op in TABLE.float_reasons
    p = Probe(1, 8, 6, 6)
    model = p.finished(p.pair_of(p.op(op, p.pair_of(p.x), **attributes), (1 / 128, np.uint8(128))))
    assert integer(model) == [f"QLinear{op}"]


def never(p: Probe, op: str, x: str) -> str:
    ones = [p.constant(f"k{i}", np.ones(8, np.float32)) for i in range(4)]
    if op == "BatchNormalization":
        return p.op(op, x, *ones)
    if op == "InstanceNormalization":
        return p.op(op, x, *ones[:2])
    if op == "LayerNormalization":
        return p.op(op, x, p.constant("scale", np.ones(6, np.float32)))
    if op == "Pad":
        return p.op(op, x, p.constant("pads", np.array([0, 0, 1, 1, 0, 0, 1, 1])))
    return p.op(op, x, **({"blocksize": 2} if op == "SpaceToDepth" else {}))


NEVER = (
    "BatchNormalization", "InstanceNormalization", "LayerNormalization", "Pad", "SpaceToDepth", "Sqrt", "Relu", "Gelu",
)  # fmt: skip


@pytest.mark.parametrize("op", NEVER)
def test_c10_never(op: str) -> None:
    p = Probe(1, 8, 6, 6, opset=20)
    assert integer(p.finished(p.pair_of(never(p, op, p.pair_of(p.x))))) == []


# ---- C13: Q and DQ that onnxruntime moves by itself ------------------------------------------------------------------


@pytest.mark.parametrize("op", ["MaxPool", "Reshape", "Transpose", "Unsqueeze", "Slice"])
def test_c13_a_pair_in_front_is_enough(op: str) -> None:
    """x -> Conv -> pair -> `op` -> Gemm or MatMul: the pair is found again behind `op`."""
    p = Probe(1, 8, 2, 2)
    conv = p.pair_of(p.weighted("Conv", p.pair_of(p.x), 8, 8, 1, 1), OUT)
    values_of = {
        "Reshape": {"shape": [4, 8]},
        "Unsqueeze": {"axes": [0]},
        "Slice": {"start": [0], "end": [1], "axis": [2]},
    }.get(op, {})
    constants = [p.constant(name, np.array(value)) for name, value in values_of.items()]
    attributes = {"Transpose": {"perm": [0, 2, 3, 1]}, "MaxPool": {"kernel_shape": [1, 1]}}.get(op, {})
    moved = p.op(op, conv, *constants, **attributes)
    features = {"Reshape": 8, "Transpose": 8}.get(op, 2)
    model = p.finished(p.weighted("MatMul", moved, features, 16, axis=1, name="v"))
    assert sorted(integer(model)) == ["MatMulIntegerToFloat", "QLinearConv"]
    assert error(model) <= ROUNDING


@pytest.mark.parametrize("op", ["Flatten", "Gather"])
def test_c13_others_need_a_pair_on_both_sides(op: str) -> None:
    def behind(pairs: int) -> list[str]:
        p = Probe(1, 8, 2, 2)
        conv = p.pair_of(p.weighted("Conv", p.pair_of(p.x), 8, 8, 1, 1), OUT)
        moved = p.op(op, conv, *([p.constant("k", np.array([0, 0]))] if op == "Gather" else []))
        features = 32 if op == "Flatten" else 2
        paired = p.pair_of(moved, OUT) if pairs == 2 else moved
        return integer(p.finished(p.weighted("MatMul", paired, features, 16, axis=1, name="v")))

    assert "MatMulIntegerToFloat" in behind(2)
    assert "MatMulIntegerToFloat" not in behind(1)


# ---- C15: weights alone ----------------------------------------------------------------------------------------------


def test_c15_weight_only_matmul_and_conv() -> None:
    p = Probe(4, 64)
    assert kernels(p.finished(p.weighted("MatMul", p.x, 64, 32, axis=1))) in ({"MatMulNBits": 1}, {"MatMul": 1})
    p = Probe(1, 8, 6, 6)
    assert kernels(p.finished(p.weighted("Conv", p.x, 8, 8, 3, 3))) == {"Conv": 1}


# ---- C16: float nodes that onnxruntime takes along -------------------------------------------------------------------


def taken(op: str, *, held: bool) -> ModelProto:
    """A float node between a DQ and a Q; `held` puts a Sum of one operand behind it, as onnxq does."""
    p = Probe(1, 8, 6, 6)
    x = p.pair_of(p.x)
    if op == "Conv":
        node = p.op("Conv", x, p.constant("w", values(8, 8, 1, 1)))
    elif op == "Add":
        node = p.op("Add", x, p.pair(p.input("z", [1, 8, 6, 6]), *OUT))
    elif op == "ConvTranspose":
        node = p.op("ConvTranspose", x, p.constant("w", values(8, 8, 2, 2)), strides=[2, 2])
    elif op == "Where":
        mask = p.constant("m", values(1, 8, 6, 6) > 0)
        node = p.op("Where", mask, x, p.pair(p.input("z", [1, 8, 6, 6]), *OUT))
    else:
        node = p.op(op, x, **({"kernel_shape": [2, 2]} if op == "AveragePool" else {}))
    return p.finished(p.pair_of(p.op("Sum", node) if held else node, OUT))


@pytest.mark.parametrize("op", ["Conv", "Add", "AveragePool", "Softmax", "Where"])
def test_c16_is_taken_to_int8_unless_held(op: str) -> None:
    assert integer(taken(op, held=False)) == [f"QLinear{op}"]
    assert integer(taken(op, held=True)) == []
    assert error(taken(op, held=True)) <= ROUNDING


def test_c16_weights_of_a_conv_transpose_are_rounded_unless_held() -> None:
    """onnxruntime 1.32 writes a weight of its own, per tensor, and computes in float all the same."""
    assert integer(taken("ConvTranspose", held=False)) == []
    if tuple(map(int, ort.__version__.split(".")[:2])) >= (1, 32):
        assert error(taken("ConvTranspose", held=False)) > ROUNDING
    assert error(taken("ConvTranspose", held=True)) <= ROUNDING
