"""The rules of OpenVINO's CPU plugin that the `openvino` target and its explanations rest on, each run for real.

What a rule says never runs in int8 is tested too: if a newer OpenVINO learns it, the test fails and the page follows.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
from onnx import ModelProto

import onnxq
from onnxq.graph.model import load_graph
from onnxq.numerics.metrics import sqnr_db
from onnxq.verification.engines.openvino import executed_precision, is_installed
from onnxq.verification.engines.result import NodeExecution, Precision
from tests.e2e.probes import U8, U8_POSITIVE, Probe, values
from tests.graphs import computed, model_of, normal

pytestmark = pytest.mark.skipif(not is_installed(), reason="OpenVINO is not installed")

S8 = (1 / 32, np.int8(0))
OUT = (1 / 8, np.uint8(128))


def node(model: ModelProto, op: str) -> NodeExecution:
    return next(n for n in executed_precision(model).nodes if n.op == op)


def weighted(op: str, x_shape: tuple[int, ...], w_shape: tuple[int, ...], axis: int | None, params: Any) -> ModelProto:
    p = Probe(*x_shape)
    attributes = {"strides": [2, 2]} if op == "ConvTranspose" else {}
    return p.finished(p.weighted(op, p.pair_of(p.x, params), *w_shape, axis=axis, **attributes))


WEIGHTED: dict[str, tuple[tuple[int, ...], tuple[int, ...], int | None]] = {
    "Conv": ((1, 16, 8, 8), (16, 16, 3, 3), 0),
    "MatMul": ((4, 16), (16, 16), 1),
    "Gemm": ((4, 16), (16, 16), 1),
}


@pytest.mark.parametrize("params", [U8, U8_POSITIVE, S8], ids=["u8 at 128", "u8 at 0", "s8"])
@pytest.mark.parametrize("op", WEIGHTED)
def test_v1_pairs_on_the_inputs_are_enough(op: str, params: Any) -> None:
    x_shape, w_shape, axis = WEIGHTED[op]
    assert node(weighted(op, x_shape, w_shape, axis, params), op).precision is Precision.INT8


def test_v1_never_with_a_float_input() -> None:
    p = Probe(1, 16, 8, 8)
    found = node(p.finished(p.weighted("Conv", p.op("Tanh", p.x), 16, 16, 3, 3)), "Conv")
    assert (found.precision, found.rule) == (Precision.FLOAT, "V1")
    assert found.why == "only its weight is quantized: its input 't1' of Tanh 'Tanh_t1' has no Q/DQ pair (V1)"


def test_v1_never_with_a_float_weight() -> None:
    p = Probe(1, 16, 8, 8)
    found = node(p.finished(p.op("Conv", p.pair_of(p.x), p.constant("w", values(16, 16, 3, 3)))), "Conv")
    assert (found.precision, found.why) == (
        Precision.FLOAT,
        "its weight 'w' is float, only its data has a Q/DQ pair (V1)",
    )


def test_v1_never_16_bit() -> None:
    p = Probe(1, 16, 8, 8, opset=21)
    found = node(p.finished(p.weighted("Conv", p.pair_of(p.x, (1e-3, np.uint16(100))), 16, 16, 3, 3)), "Conv")
    assert (found.precision, found.why) == (
        Precision.FLOAT,
        "its input 'x' has codes of uint16; OpenVINO runs 8-bit ones only (V1)",
    )


@pytest.mark.parametrize(("params", "int8"), [(U8, False), (U8_POSITIVE, True), (S8, True)])
def test_v2_conv_transpose_takes_a_zero_point_of_0_only(params: Any, int8: bool) -> None:
    found = node(weighted("ConvTranspose", (1, 16, 8, 8), (16, 16, 2, 2), 1, params), "ConvTranspose")
    assert (found.precision is Precision.INT8) is int8
    if not int8:
        assert found.why == "its input 'x' has zero-point 128; OpenVINO's int8 ConvTranspose takes 0 only (V2)"


@pytest.mark.parametrize(
    ("first", "second", "int8"), [(U8, U8, False), (U8, S8, False), (U8_POSITIVE, S8, True), (S8, S8, True)]
)
def test_v2_matmul_of_two_activations_takes_zero_points_of_0_only(first: Any, second: Any, int8: bool) -> None:
    p = Probe(2, 4, 8)
    other = p.pair(p.input("z", [2, 8, 4]), *second)
    found = node(p.finished(p.op("MatMul", p.pair_of(p.x, first), other)), "MatMul")
    assert (found.precision is Precision.INT8) is int8
    if not int8:
        assert found.rule == "V2"
        assert found.why.endswith("has zero-point 128; OpenVINO's int8 MatMul of two activations takes 0 only (V2)")


@pytest.mark.parametrize("op", ["Softmax", "Tanh", "Sigmoid", "Erf"])
def test_v3_computed_in_float_with_or_without_pairs(op: str) -> None:
    p = Probe(1, 16, 8, 8)
    conv = p.pair_of(p.weighted("Conv", p.pair_of(p.x), 16, 16, 3, 3), OUT)
    after = p.pair_of(p.op(op, conv, out="f"), OUT)
    found = node(p.finished(p.weighted("Conv", after, 16, 16, 3, 3, name="v")), op)
    assert found.precision is not Precision.INT8
    if found.why and not found.why.startswith("part of"):
        assert found.why == f"OpenVINO computes {op} in float, with or without Q/DQ pairs around it (V3)"


@pytest.mark.parametrize("op", ["MaxPool", "AveragePool"])
def test_v3_pooling_runs_on_codes(op: str) -> None:
    p = Probe(1, 16, 8, 8)
    conv = p.pair_of(p.weighted("Conv", p.pair_of(p.x), 16, 16, 3, 3), OUT)
    assert node(p.finished(p.pair_of(p.op(op, conv, kernel_shape=[2, 2]), OUT)), op).precision is Precision.INT8


def test_v4_scales_of_a_conv_lie_on_axis_0() -> None:
    found = node(weighted("Conv", (1, 16, 8, 8), (16, 16, 3, 3), 1, U8), "Conv")
    assert (found.precision, found.why) == (
        Precision.FLOAT,
        "the scales of its weight lie on axis 1; OpenVINO's int8 Conv takes axis 0 (V4)",
    )


# ---- what became part of another kernel counts as it runs ----------------------------------------------------------


def test_a_relu_in_an_int8_conv_is_not_left_out() -> None:
    p = Probe(1, 16, 8, 8)
    conv = p.weighted("Conv", p.pair_of(p.x), 16, 16, 3, 3)
    report = executed_precision(p.finished(p.pair_of(p.op("Relu", conv), (1 / 8, np.uint8(0)))))
    assert {n.op: n.precision for n in report.nodes}["Relu"] in (Precision.INT8, Precision.FUSED)


def test_a_gemm_that_openvino_names_anew_is_found() -> None:
    """With a bias and a Q behind it the kernel is listed as `NAME/WithoutBiases/DequantizationMultiply`."""
    p = Probe(4, 16)
    weight, bias = p.weight("w", values(16, 16), 1), p.constant("b", np.linspace(-2, 2, 16, dtype=np.float32))
    found = node(p.finished(p.pair_of(p.op("Gemm", p.pair_of(p.x), weight, bias), OUT)), "Gemm")
    assert (found.precision, found.engine_op) == (Precision.INT8, "FullyConnected")


def test_a_batchnorm_folded_into_a_quantization_is_fused() -> None:
    p = Probe(1, 16, 8, 8)
    conv = p.pair_of(p.weighted("Conv", p.pair_of(p.x), 16, 16, 3, 3), OUT)
    parts = [p.constant(n, np.linspace(0.5, 1.5, 16, dtype=np.float32)) for n in ("scale", "shift", "mean", "variance")]
    after = p.pair_of(p.op("BatchNormalization", conv, *parts), OUT)
    found = node(p.finished(p.weighted("Conv", after, 16, 16, 3, 3, name="v")), "BatchNormalization")
    assert found.precision in (Precision.FUSED, Precision.FLOAT)
    assert found.why  # never "removed": it computes


def test_every_node_of_a_float_model_is_float() -> None:
    p = Probe(1, 16, 8, 8)
    report = executed_precision(p.finished(p.op("Relu", p.op("Conv", p.x, p.constant("w", values(16, 16, 3, 3))))))
    assert {n.precision for n in report.nodes} == {Precision.FLOAT}


def test_v5_a_hard_swish_is_one_operator_for_openvino() -> None:
    """In two operators it is a kernel of its own; put together the Conv computes it."""
    w = values(16, 16, 3, 3)
    text = """(float[1,16,8,8] x) => (float[1,16,8,8] y) {
        [c] c = Conv<pads=[1,1,1,1]>(x, w)
        [gate] g = HardSigmoid<alpha=0.16666667, beta=0.5>(c)
        [swish] h = Mul(c, g)
        [d] y = Conv<pads=[1,1,1,1]>(h, w)
    }"""
    model = model_of(text, opset=13, w=w)
    data = [{"x": values(1, 16, 8, 8, seed=seed)} for seed in range(4)]
    result = onnxq.quantize(model, data, target="openvino", recover="none")
    assert result.report
    assert "HardSigmoid" not in [n.op_type for n in result.model.graph.node]
    ran = {n.node: n for n in executed_precision(result.model).nodes}
    assert (ran["swish"].op, ran["swish"].engine_op) == ("HardSwish", "Convolution")


@pytest.mark.parametrize(("group", "int8"), [(1, True), (2, False), (16, False)])
@pytest.mark.parametrize("rank", [1, 2, 3])
def test_v7_conv_transpose_with_groups_runs_in_float(group: int, rank: int, int8: bool) -> None:
    p = Probe(1, 16, *[8] * rank)
    weights = (16, 16 // group, *[2] * rank)
    out = p.weighted("ConvTranspose", p.pair_of(p.x, U8_POSITIVE), *weights, axis=1, strides=[2] * rank, group=group)
    found = node(p.finished(out), "ConvTranspose")
    assert (found.precision is Precision.INT8) is int8
    if not int8:
        assert found.why == "OpenVINO computes a ConvTranspose with groups in float (V7)"


def double_input(between: str) -> ModelProto:
    return model_of(
        f"""(double[N,16] x) => (float[N,16] y) {{ c = Cast<to=1>(x) {between} q = QuantizeLinear(p, s, z)
        d = DequantizeLinear(q, s, z) v = DequantizeLinear<axis=1>(w, t, u) y = MatMul(d, v) }}""",
        s=np.float32(0.02), z=np.uint8(128), w=np.ones((16, 16), np.int8), t=np.full(16, 0.01, np.float32),
        u=np.zeros(16, np.int8), lowest=np.array(np.finfo(np.float32).min, np.float32), zero=np.float32(0),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("between", "compiles"),
    [("p = Identity(c)", False), ("p = Add(c, zero)", False), ("p = Max(c, lowest)", True)],
)
def test_v8_a_float64_input_is_parted_from_its_quantization(between: str, compiles: bool) -> None:
    assert executed_precision(double_input(between)).accepted is compiles


@pytest.mark.parametrize("elem_type", ["double", "float"])
def test_v8_onnxq_parts_them(elem_type: str) -> None:
    cast, kind = ("c = Cast<to=1>(x)", "float") if elem_type == "float" else ("c = Identity(x)", "double")
    model = model_of(
        f"(double[N,16] x) => ({kind}[N,16] y) {{ {cast} m = MatMul(c, w) y = Relu(m) }}",
        w=normal(16, 16).astype(np.float64 if kind == "double" else np.float32),
    )
    result = onnxq.quantize(model, [{"x": normal(4, 16).astype(np.float64)}], target="openvino")
    assert result.report.failed_checks == ()
    assert [n.op_type for n in result.model.graph.node].count("Max") == 1


SQUEEZED = (
    "(float[1,16,H,W] x) => (float[1,16,H,W] y) { [a] a = Conv(x, w) [b] b = Conv(a, v) [m] m = GlobalAveragePool(b)"
    " [c] c = Conv(m, u) [s] s = HardSigmoid(c) [y] y = Mul(b, s) }"
)


@pytest.mark.parametrize("biased", [True, False], ids=["as onnxq makes it", "without the biases"])
def test_v9_the_scale_of_a_conv_is_not_counted_twice(biased: bool) -> None:
    weights = {name: normal(16, 16, 1, 1, seed=i) for i, name in enumerate("wvu")}
    model, feed = model_of(SQUEEZED, **weights), {"x": normal(1, 16, 8, 8)}
    made = onnxq.quantize(model, [feed], target="openvino", method="max", recover="none").model
    if not biased:
        for conv in (n for n in made.graph.node if n.op_type == "Conv"):
            del conv.input[2:]
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    expected = ort.InferenceSession(made.SerializeToString(), options).run(None, feed)[0]
    found = executed_precision(made, feeds=[feed]).outputs[0]["y"]
    # Both compute what the pairs say, but for codes that lie on the edge between two: far below a tenth.
    assert (float(np.abs(found - expected).max()) < 0.1 * float(np.abs(expected).max())) is biased


def test_v10_a_max_pool_behind_a_concat_runs_in_int8() -> None:
    text = (
        "(float[1,16,8,8] x) => (float[1,16,4,4] y) { [a] a = Conv(x, w) [b] b = Conv(x, v)"
        " [k] k = Concat<axis=1>(a, b) [p] p = MaxPool<kernel_shape=[2,2], strides=[2,2]>(k) [c] y = Conv(p, u) }"
    )
    weights = {"w": normal(16, 16, 1, 1), "v": normal(16, 16, 1, 1, seed=1), "u": normal(16, 32, 1, 1, seed=2)}
    model, feed = model_of(text, **weights), {"x": normal(1, 16, 8, 8)}
    made = onnxq.quantize(model, [feed], target="openvino", method="max", recover="none").model
    assert node(made, "MaxPool").precision is Precision.INT8
    assert node(made, "Concat").precision is Precision.INT8
    codes = {t.name: t.raw_data for t in made.graph.initializer}
    around = {codes[n.input[1]] for n in made.graph.node if n.op_type == "QuantizeLinear" and n.input[0] in ("k", "p")}
    assert len(around) == 1


@pytest.mark.parametrize(
    "moved",
    [
        "s, t = Split<axis=1>(b)",
        "s = Slice(b, n0, n8, n1) t = Slice(b, n8, n16, n1)",
        "r = Reshape(b, five) q = Transpose<perm=[0,2,1,3,4]>(r) p = Reshape(q, four) s, t = Split<axis=1>(p)",
        "q = Transpose<perm=[0,1,3,2]>(b) s, t = Split<axis=1>(q)",
    ],
    ids=["split", "slice", "shuffle", "transpose"],
)
def test_v13_a_conv_beside_what_moves_its_input_runs_in_int8(moved: str) -> None:
    text = f"""(float[1,16,8,8] x) => (float[1,8,8,8] y) {{ [a] a = Conv(x, w) b = Relu(a) {moved}
    [c] c = Conv(s, v) [d] d = Conv(t, v) e = Add(c, d) [h] h = Conv(b, u) y = Add(e, h) }}"""
    sizes = {f"n{i}": np.array([i]) for i in (0, 1, 8, 16)}
    shapes = {"five": np.array([1, 2, 8, 8, 8]), "four": np.array([1, 16, 8, 8])}
    constants = {k: v for k, v in {**sizes, **shapes}.items() if f", {k})" in moved or f", {k}," in moved}
    weights = {"w": normal(16, 16, 1, 1), "v": normal(8, 8, 1, 1, seed=1), "u": normal(8, 16, 1, 1, seed=2)}
    feeds = [{"x": normal(1, 16, 8, 8, seed=i)} for i in range(4)]
    made = onnxq.quantize(
        model_of(text, **weights, **constants), feeds, target="openvino", recover="none", placement="full"
    )
    assert made.report.failed_checks == ()
    assert {d.node: d.action.value for d in made.plan.nodes}["h"] == "int8"
    codes = {t.name: t.raw_data for t in made.model.graph.initializer}
    pairs = [n for n in made.model.graph.node if n.op_type == "QuantizeLinear" and n.input[0] in ("b", "s", "t")]
    assert len({codes[n.input[1]] for n in pairs}) == 1


def test_a_conv_transpose_that_openvino_calls_after_an_output_is_found() -> None:
    """The output is handed through a sequence, of which nothing is left but the name."""
    model = model_of(
        """(float[1,16,5,5] x) => (float[1,16,7,7] y, float z) { c = ConvTranspose(x, w) s = SequenceConstruct(c)
        y = SequenceAt(s, first) z = ReduceMean<keepdims=0>(c) }""",
        w=normal(16, 16, 3, 3),
        first=np.int64(0),
    )
    made = onnxq.quantize(model, [{"x": normal(1, 16, 5, 5, seed=n)} for n in range(4)], target="openvino")
    assert made.report.failed_checks == ()


def test_a_float64_conv_is_compared_in_float32_where_onnxruntime_lacks_it() -> None:
    """In a model that computes in float64 throughout, also what stays float (the InstanceNormalization)."""
    model = model_of(
        """(double[1,16,5,5] x) => (double[1,16,5,5] y) { c = Conv(x, w)
        n = InstanceNormalization(c, one, zero) y = LeakyRelu(n) }""",
        w=normal(16, 16, 1, 1).astype(np.float64), one=np.ones(16), zero=np.zeros(16),
    )  # fmt: skip
    data = [{"x": normal(1, 16, 5, 5, seed=n).astype(np.float64)} for n in range(4)]
    assert onnxq.quantize(model, data, target="openvino").report.failed_checks == ()


LONG_ROWS = {  # input, weight, groups: wrong on CPUs with AMX at these sizes if run in int8
    "1-D, one group": ((1, 16, 41), (32, 16, 8), 1),
    "1-D, groups": ((1, 192, 41), (192, 24, 3), 8),
    "2-D, groups": ((1, 192, 20, 20), (192, 24, 3, 3), 8),
}


@pytest.mark.parametrize("case", LONG_ROWS)
def test_v14_convs_with_long_rows_of_few_channels_come_out_right(case: str) -> None:
    shape, weight, group = LONG_ROWS[case]
    sizes = "L" if len(shape) == 3 else "L,M"
    pads = [weight[-1] // 2] * 2 * (len(shape) - 2)
    text = f"""(float[1,{shape[1]},{",".join(map(str, shape[2:]))}] x) => (float[1,32,{sizes}] y) {{
        [a] a = Conv<group = {group}, pads = {pads}>(x, w) [b] y = Conv(a, v) }}"""
    last = (32, weight[0], *[1] * (len(shape) - 2))
    model = model_of(text, w=normal(*weight) / 16, v=normal(*last, seed=1))
    feed = {"x": normal(*shape, seed=2)}
    made = onnxq.quantize(model, [feed], target="openvino", recover="none", placement="full").model
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    expected = ort.InferenceSession(made.SerializeToString(), options).run(None, feed)[0]
    found = executed_precision(made, feeds=[feed]).outputs[0]["y"]
    # Right but for codes on the edge between two, as for V9; the wrong kernel is off by more than the values are large.
    assert float(np.abs(found - expected).max()) < 0.1 * float(np.abs(expected).max())


@pytest.mark.parametrize("channels", [1, 2])
def test_a_conv_transpose_whose_name_went_to_its_bias_is_found(channels: int) -> None:
    """With one output channel OpenVINO gives its name to the addition behind it, and the product one of its own."""
    model = model_of(
        f"""(float[1,64,8,8] x) => (float[1,{channels},16,16] y) {{ c = Conv<pads=[1,1,1,1]>(x, v) r = Relu(c)
        [t] d = ConvTranspose<strides=[2,2]>(r, w, b) y = Sigmoid(d) }}""",
        v=0.1 * normal(64, 64, 3, 3),
        w=0.1 * normal(64, channels, 2, 2),
        b=normal(channels),
    )
    data = [{"x": normal(1, 64, 8, 8, seed=n)} for n in range(8)]
    made = onnxq.quantize(model, data, target="openvino", placement="full")
    assert made.report.failed_checks == ()
    assert made.report.engine is not None
    ran = made.report.engine.node("t")
    assert ran is not None
    assert (ran.precision, ran.engine_op) == (Precision.INT8, "Deconvolution")


@pytest.mark.parametrize("size", [48, 49])
def test_v16_a_large_residual_add_runs_on_codes(size: int) -> None:
    """64 x 48 x 48 values are too few to be worth a pair on both branches, and the Add is a float kernel of its own."""
    text = (
        f"(float[1,64,{size},{size}] x) => (float[1,64,{size},{size}] y) {{ [s] s = Conv(x, w) sr = Relu(s)"
        " [c] c = Conv(sr, v) [add] d = Add(c, sr) e = Relu(d) [f] y = Conv(e, u) }"
    )
    weights = {name: normal(64, 64, 1, 1, seed=seed) for seed, name in enumerate("wvu")}
    model, feed = model_of(text, **weights), {"x": normal(1, 64, size, size)}
    made = onnxq.quantize(model, [feed], target="openvino", method="max", recover="none").model
    assert node(made, "Add").precision is (Precision.FLOAT if size == 48 else Precision.INT8)


def test_v17_codes_that_are_read_both_ways() -> None:
    """If a newer OpenVINO computes it right, this fails, and `compute.py` can let such Gemms run in int8."""
    text = """(float[4,32] x) => (float[4,32] y, float[4,32] z) {
        q = QuantizeLinear(x, s, zx) d = DequantizeLinear(q, s, zx) v = DequantizeLinear(w, t, zw)
        y = MatMul(d, v) z = Gemm<transB=1>(d, v) }"""
    codes = np.clip(40 * normal(32, 32), -127, 127).astype(np.int8)
    scales = {"s": np.float32(0.03), "zx": np.uint8(128), "t": np.float32(0.01), "zw": np.int8(0)}
    model, feed = model_of(text, w=codes, **scales), {"x": normal(4, 32)}
    found = executed_precision(model, feeds=[feed]).outputs[0]
    want = dict(zip("yz", computed(load_graph(model), feed), strict=True))
    # Sums of 32 products in another order, and codes of something else.
    assert sqnr_db(want["y"], found["y"]) > 80
    assert sqnr_db(want["z"], found["z"]) < 10


@pytest.mark.parametrize(
    ("text", "stays_float"),
    [
        ("(float[4,32] x) => (float[4,32] y, float[4,32] z) { y = MatMul(x, w) z = Gemm<transB=1>(x, w) }", ["z"]),
        ("(float[4,32] x) => (float[4,32] y, float[4,32] z) { y = Gemm(x, w) z = Gemm<transB=1>(y, w) }", ["z"]),
        ("(float[4,32] x) => (float[4,32] y, float[4,32] z) { y = Gemm<transB=1>(x, w) z = Gemm<transB=1>(y, w) }", []),
        ("(float[32] x) => (float[32] y, float[1,32] z) { y = MatMul(x, w) u = Unsqueeze(x, a) z = MatMul(u, v) }",
         ["y"]),
    ],
)  # fmt: skip
def test_v17_stays_float(text: str, stays_float: list[str]) -> None:
    more = {"a": np.array([0]), "v": normal(32, 32, seed=1)} if "Unsqueeze" in text else {}
    model = model_of(text, w=normal(32, 32) / 6, **more)
    shape = [d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim]
    made = onnxq.quantize(model, [{"x": normal(*shape, seed=seed)} for seed in range(8)], target="openvino")
    assert made.report.failed_checks == ()
    assert [d.node[-1] for d in made.plan.nodes if d.rule == "V17"] == stays_float
