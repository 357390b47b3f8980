"""The rules of TensorRT that the `tensorrt` target rests on, run on TensorRT-RTX's parser and builder.

onnxq's graph is accepted; each broken variant of it is refused. Rules that a build without a GPU does not enforce (R6,
R7, R12) are in the linter alone.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from onnx import ModelProto, numpy_helper

import onnxq
from onnxq.graph.view import Graph
from onnxq.verification.engines.tensorrt import build_engine, installed_package
from onnxq.verification.lint_tensorrt import lint_tensorrt
from tests.e2e.probes import Probe, values, weight_scale
from tests.golden.graphs import GRAPHS
from tests.graphs import model_of, normal

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True, scope="module")
def _engine() -> None:
    if installed_package() is None:
        pytest.fail("TensorRT-RTX is missing: pip install -e '.[tensorrt]' (it builds without a GPU)")


@pytest.mark.parametrize("name", GRAPHS)
def test_r1_to_r12_hold_in_what_onnxq_makes(name: str) -> None:
    model = GRAPHS[name]()
    shape = [d.dim_value or 1 for d in model.graph.input[0].type.tensor_type.shape.dim]
    result = onnxq.quantize(model, [{"x": normal(*shape, seed=i)} for i in range(4)], target="tensorrt")
    assert {c.name: c.passed for c in result.report.checks} == {
        "outputs are sound": True,
        "rules of TensorRT": True,
        "engine builds": True,
    }


# ---- refused -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def good() -> ModelProto:
    """What onnxq makes of two Convs with a bias."""
    text = """(float[1,16,8,8] x) => (float[1,16,8,8] y) {
        [c1] a = Conv<pads=[1,1,1,1]>(x, w, b)
        [r] ar = Relu(a)
        [c2] y = Conv<pads=[1,1,1,1]>(ar, w)
        }"""
    model = model_of(text, w=normal(16, 16, 3, 3), b=normal(16))
    return onnxq.quantize(model, [{"x": normal(1, 16, 8, 8)}], target="tensorrt", method="max").model


def _set(model: ModelProto, name: str, value: Any) -> None:
    next(t for t in model.graph.initializer if t.name == name).CopyFrom(
        numpy_helper.from_array(np.asarray(value), name)
    )


def _int32_bias(model: ModelProto) -> None:
    x_scale, w_scale = (numpy_helper.to_array(_initializer(model, n)) for n in ("x_scale", "w_scale"))
    scale = x_scale * w_scale
    for name, value in (("b_codes", np.ones(16, np.int32)), ("b_s", scale), ("b_z", np.zeros(16, np.int32))):
        model.graph.initializer.append(numpy_helper.from_array(value, name))
    conv = next(n for n in model.graph.node if n.name == "c1")
    conv.input[2] = "b_dq"
    node = model.graph.node.add(
        op_type="DequantizeLinear", input=["b_codes", "b_s", "b_z"], output=["b_dq"], name="bdq"
    )
    node.attribute.add(name="axis", type=2, i=0)
    nodes = sorted(model.graph.node, key=lambda n: n.name != "bdq")
    del model.graph.node[:]
    model.graph.node.extend(nodes)


def _initializer(model: ModelProto, name: str) -> Any:
    return next(t for t in model.graph.initializer if t.name == name)


def _uint8(model: ModelProto) -> None:
    _set(model, "x_zero_point", np.uint8(128))


REFUSED: dict[str, tuple[Callable[[ModelProto], None], str, str]] = {
    "r1_zero_point": (lambda m: _set(m, "x_zero_point", np.int8(3)), "Non-zero zero point", "R1"),
    "r2_uint8": (_uint8, "Non-zero zero point", "R2"),
    "r4_scale_zero": (lambda m: _set(m, "x_scale", np.float32(0)), "must all be positive", "R4"),
    "r4_scale_nan": (lambda m: _set(m, "x_scale", np.float32(np.nan)), "must all be positive", "R4"),
    "r8_int32_bias": (_int32_bias, "has type Int32", "R8"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused(case: str, good: ModelProto) -> None:
    breaks, message, rule = REFUSED[case]
    broken = ModelProto()
    broken.CopyFrom(good)
    breaks(broken)
    engine = build_engine(broken, {})
    assert not engine.accepted
    assert message in engine.problems[0]
    assert rule in {v.rule for v in lint_tensorrt(Graph(broken))}


def test_r2_int16_is_refused() -> None:
    p = Probe(1, 16, 8, 8, opset=21)
    model = p.finished(p.weighted("Conv", p.pair(p.x, 1 / 32, np.int16(0)), 16, 16, 3, 3))
    assert not build_engine(model, {}).accepted


def test_r11_qoperator_nodes_are_refused() -> None:
    p = Probe(1, 16, 8, 8)
    codes, w = p.q(p.x, 1 / 32, np.int8(0)), p.constant("w", np.ones((16, 16, 3, 3), np.int8))
    s, z = p.constant("s", np.float32(0.1)), p.constant("z", np.int8(0))
    model = p.finished(p.dq(p.op("QLinearConv", codes, s, z, w, s, z, s, z), 0.1, np.int8(0), "out"))
    assert not build_engine(model, {}).accepted


def test_r11b_equal_names_of_different_sizes_are_refused_and_onnxq_clears_them() -> None:
    """PP-OCR's angle classifier calls its height and its width `?`."""
    text = '(float[1,16,"?","?"] x) => (float[1,16,"?","?"] y) { y = Conv<pads=[1,1,1,1]>(x, w) }'
    model = model_of(text.replace('"?"', "S"), w=normal(16, 16, 3, 3))
    for value in (*model.graph.input, *model.graph.output):
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param:
                dim.dim_param = "?"
    wide = ((1, 16, 8, 16),) * 3
    refused = build_engine(model, {"x": wide})
    assert not refused.accepted
    assert "have different constant values" in refused.problems[0]
    result = onnxq.quantize(model, [{"x": normal(1, 16, 8, 16)}], target="tensorrt")
    assert build_engine(result.model, {"x": wide}).accepted


# ---- accepted ------------------------------------------------------------------------------------------------------


def _float_weight_behind_a_pair() -> ModelProto:
    p = Probe(1, 16, 8, 8)
    weight = values(16, 16, 3, 3)
    w = p.pair(p.constant("w", weight), weight_scale(weight, 0), np.zeros(16, np.int8), axis=0)
    return p.finished(p.op("Conv", p.pair(p.x, 1 / 32, np.int8(0)), w))


def _conv_transpose(*shape: int, group: int) -> ModelProto:
    p = Probe(1, 16, 8, 8)
    return p.finished(
        p.weighted("ConvTranspose", p.pair(p.x, 1 / 32, np.int8(0)), *shape, axis=1, group=group, strides=[2, 2])
    )


def _matmul(*shape: int, axis: int | None) -> ModelProto:
    p = Probe(2, 4, 16)
    return p.finished(p.weighted("MatMul", p.pair(p.x, 1 / 32, np.int8(0)), *shape, axis=axis))


ACCEPTED: dict[str, Callable[[], ModelProto]] = {
    "r9_float_weight_behind_q_and_dq": _float_weight_behind_a_pair,
    "r7_conv_transpose": lambda: _conv_transpose(16, 16, 2, 2, group=1),
    "r7_conv_transpose_in_groups": lambda: _conv_transpose(16, 8, 2, 2, group=2),
    "r7_conv_transpose_depthwise": lambda: _conv_transpose(16, 1, 2, 2, group=16),
    "r7_matmul": lambda: _matmul(16, 32, axis=1),
    "r6_matmul_rank_3_per_tensor": lambda: _matmul(2, 16, 32, axis=None),
}


@pytest.mark.parametrize("case", ACCEPTED)
def test_accepted(case: str) -> None:
    engine = build_engine(ACCEPTED[case](), {})
    assert engine.accepted, engine.problems
