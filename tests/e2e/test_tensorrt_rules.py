"""The rules of TensorRT that the `tensorrt` target rests on, run on TensorRT-RTX's parser and builder.

onnxq's graph is accepted; each broken variant of it is refused. What a build without a GPU accepts all the same,
although it then computes something else than ONNX says or may fail later, is listed too: there the linter is the only
guard.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper, shape_inference

import onnxq
from onnxq.graph.view import Graph
from onnxq.verification.engines.tensorrt import build_engine, installed_package
from onnxq.verification.lint_tensorrt import lint_tensorrt
from onnxq.verification.reasons.tensorrt import account
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
        "outputs follow the float model's": True,
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


REFUSED: dict[str, tuple[Callable[[ModelProto], Any], str, str]] = {
    "r1_zero_point": (lambda m: _set(m, "x_zero_point", np.int8(3)), "Non-zero zero point", "R1"),
    "r2_uint8": (_uint8, "Non-zero zero point", "R2"),
    "r4_scale_zero": (lambda m: _set(m, "x_scale", np.float32(0)), "must all be positive", "R4"),
    "r4_scale_nan": (lambda m: _set(m, "x_scale", np.float32(np.nan)), "must all be positive", "R4"),
    "r4_scale_negative": (lambda m: _set(m, "x_scale", np.float32(-0.1)), "must all be positive", "R4"),
    "r5_volumes": (lambda m: _set(m, "w_zero_point", np.zeros(15, np.int8)), "must have the same volume", "R5"),
    "r6_number_of_scales": (
        lambda m: (_set(m, "w_scale", np.full(8, 0.1, np.float32)), _set(m, "w_zero_point", np.zeros(8, np.int8))),
        "number of scales is not equal to the number of output channels",
        "R6",
    ),
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


# ---- accepted by the builder, and wrong ------------------------------------------------------------------------------

S8 = (1 / 32, np.int8(0))


def _conv(weight: Callable[[Probe], str], x: Any = S8) -> ModelProto:
    p = Probe(1, 16, 8, 8)
    return p.finished(p.op("Conv", p.pair(p.x, *x), weight(p)))


def _codes(p: Probe, scales: int, *, zero_point: bool = True, **attributes: Any) -> str:
    inputs = [p.constant("codes", np.ones((16, 16, 3, 3), np.int8)), p.constant("s", np.full(scales, 0.1, np.float32))]
    if zero_point:
        inputs.append(p.constant("z", np.zeros(scales, np.int8)))
    return p.node("DequantizeLinear", inputs, "w", **attributes)


def _scalar() -> ModelProto:
    p = Probe(1, 16, 8, 8)
    return p.finished(p.op("Mul", p.x, p.dq(p.constant("codes", np.int8(50)), 0.01, np.int8(0), "half")))


def _int4(last: int) -> ModelProto:
    p = Probe(4, 16, opset=21)
    p.initializers += [
        helper.make_tensor("codes", TensorProto.INT4, [16, last], [1] * (16 * last)),
        helper.make_tensor("z", TensorProto.INT4, [], [0]),
    ]
    w = p.node("DequantizeLinear", ["codes", p.constant("s", np.float32(0.1)), "z"], "w")
    return p.finished(p.op("MatMul", p.x, w))


def _dynamic_scale() -> ModelProto:
    p = Probe(1, 16, 8, 8)
    p.inputs.append(helper.make_tensor_value_info("s", TensorProto.FLOAT, []))
    z = p.constant("z", np.int8(0))
    return p.finished(p.node("DequantizeLinear", [p.node("QuantizeLinear", [p.x, "s", z], "q"), "s", z], "out"))


def _old_opset() -> ModelProto:
    p = Probe(4, 16, opset=11)
    return p.finished(p.weighted("MatMul", p.pair(p.x, *S8), 16, 16, axis=1))


def _scaled_weight(p: Probe) -> str:
    return p.op("Mul", p.weight("w", values(16, 16, 3, 3), 0), p.constant("half", np.float32(0.5)))


def _conv_of_pairs_per_channel() -> ModelProto:
    p = Probe(1, 16, 8, 8)
    x = p.pair(p.x, np.full(16, 0.1, np.float32), np.zeros(16, np.int8), axis=1)
    return p.finished(p.weighted("Conv", x, 16, 16, 3, 3))


UNGUARDED: dict[str, tuple[Callable[[], ModelProto], str]] = {
    "r2_uint8_with_zero_point_0": (lambda: _conv(lambda p: _codes(p, 16, axis=0), (1 / 32, np.uint8(0))), "R2"),
    "r3_no_zero_point": (lambda: _conv(lambda p: _codes(p, 16, zero_point=False, axis=0)), "R3"),
    "r4_infinite_scale": (lambda: _conv(lambda p: _codes(p, 16, axis=0), (np.inf, np.int8(0))), "R4"),
    "r5_scale_computed_while_running": (_dynamic_scale, "R5"),
    "r6_per_channel_activation": (_conv_of_pairs_per_channel, "R6"),
    "r7_axis_of_the_input_channels": (lambda: _conv(lambda p: _codes(p, 16, axis=1)), "R7"),
    "r7_no_axis": (lambda: _conv(lambda p: _codes(p, 16)), "R7"),
    "r10_int4_odd": (lambda: _int4(7), "R10"),
    "r11_per_channel_before_opset_13": (_old_opset, "R11"),
    "r12_something_in_between": (lambda: _conv(_scaled_weight), "R12"),
}


@pytest.mark.parametrize("case", UNGUARDED)
def test_the_linter_guards_what_the_builder_takes(case: str) -> None:
    """If a newer TensorRT refuses one of these, it belongs to REFUSED and the page can say so."""
    make, rule = UNGUARDED[case]
    model = make()
    assert {v.rule for v in lint_tensorrt(Graph(model))} == {rule}
    assert build_engine(model, {}).accepted


def test_r10_a_scalar_of_codes_is_refused_and_even_int4_is_not() -> None:
    assert {v.rule for v in lint_tensorrt(Graph(_scalar()))} == {"R10"}
    assert "only allowed before DQ" in build_engine(_scalar(), {}).problems[0]
    assert lint_tensorrt(Graph(_int4(6))) == []
    assert build_engine(_int4(6), {}).accepted


# ---- what is moved behind a pair -----------------------------------------------------------------------------------

_MOVED: dict[str, tuple[tuple[int, ...], Callable[[Probe, str], str]]] = {
    "nothing": ((1, 64, 14, 14), lambda p, x: x),
    "Transpose": ((1, 14, 14, 64), lambda p, x: p.op("Transpose", x, perm=[0, 3, 1, 2])),
    "Reshape": ((1, 64, 196), lambda p, x: p.op("Reshape", x, p.constant("sizes", np.array([1, 64, 14, 14])))),
    "MaxPool": ((1, 64, 28, 28), lambda p, x: p.op("MaxPool", x, kernel_shape=[2, 2], strides=[2, 2])),
    "Slice": (
        (1, 64, 28, 14),
        lambda p, x: p.op("Slice", x, *(p.constant(f"s{v}", np.array([v])) for v in (0, 14, 2))),
    ),
    "Relu": ((1, 64, 14, 14), lambda p, x: p.op("Relu", x)),
    "AveragePool": ((1, 64, 28, 28), lambda p, x: p.op("AveragePool", x, kernel_shape=[2, 2], strides=[2, 2])),
}


def _conv_of(moved: str, *, with_pair: bool, transposed_weight: bool = False) -> ModelProto:
    shape, move = _MOVED[moved]
    p = Probe(*shape)
    data = move(p, p.pair_of(p.x, (1 / 32, np.int8(0))) if with_pair else p.x)
    weight = values(64, 64, 3, 3)
    if transposed_weight:
        codes = p.weight("w", weight.transpose(2, 3, 1, 0).copy(), 3)
        return p.finished(p.op("Conv", data, p.op("Transpose", codes, perm=[3, 2, 0, 1])))
    return p.finished(p.op("Conv", data, p.weight("w", weight, 0)))


def _scratch_bytes(model: ModelProto) -> int:
    """What the engine's kernels need beside weights and activations: a Conv on codes takes less than one on floats."""
    package = installed_package()
    assert package is not None
    trt, said = importlib.import_module(package), list[str]()

    class Listener(trt.ILogger):  # type: ignore[misc, name-defined]
        def log(self, severity: Any, message: str) -> None:
            said.append(message)

    logger = Listener()
    builder = trt.Builder(logger)
    network = builder.create_network(0)
    parser = trt.OnnxParser(network, logger)
    assert parser.parse(model.SerializeToString())
    assert builder.build_serialized_network(network, builder.create_builder_config()) is not None
    # The order in which the library takes it.
    del parser, network, builder
    return int(next(m for m in said if m.startswith("Max Scratch Memory")).split()[3])


@pytest.mark.parametrize("moved", _MOVED)
def test_r24_what_only_moves_values_stands_between_a_pair_and_its_conv(moved: str) -> None:
    """TensorRT moves the pair through, or it does not; our account of foreign models says the same."""
    with_pair, without = (_scratch_bytes(_conv_of(moved, with_pair=pair)) for pair in (True, False))
    is_int8 = moved not in ("Relu", "AveragePool")
    assert (with_pair < without) is is_int8
    graph = Graph(shape_inference.infer_shapes(_conv_of(moved, with_pair=True)))
    told = next(n for n in account(graph, ()) if n.op == "Conv")
    assert (told.precision.value == "int8") is is_int8


def test_r12_a_weight_transposed_behind_its_pair_is_folded() -> None:
    plain, transposed, weight_alone = (
        _scratch_bytes(_conv_of("nothing", with_pair=pair, transposed_weight=moved))
        for pair, moved in ((True, False), (True, True), (False, True))
    )
    assert plain == transposed < weight_alone
