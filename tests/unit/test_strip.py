"""All Q/DQ taken out again: the numbered cases of the pass, and models of three tools."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

import onnxq
from onnxq.errors import ConfigError, ModelError, UnsupportedModelError
from onnxq.graph.model import get_metadata, load_graph
from onnxq.graph.view import Graph
from onnxq.passes.strip.strip_qdq import StripQDQ, dequantized
from tests.graphs import computed, graph_of, model_of, normal, ops, random_feeds

W = normal(16, 16, 3, 3)
S, Z = np.float32(0.05), np.uint8(128)
FLOAT = "(float[N,16,8,8] x) => (float[N,16,8,8] y) { a = Conv<pads=[1,1,1,1]>(x, w, b) r = Relu(a) y = Add(r, x) }"
BIAS = normal(16, seed=1)


def stripped(text: str, **constants: Any) -> Graph:
    graph = graph_of(text, **constants)
    first = StripQDQ().run(graph)
    assert first.modified
    graph.sort()
    again = StripQDQ().run(graph)
    assert not again.modified
    return load_graph(graph.to_model())  # valid


def same(one: Graph, other: Graph) -> None:
    """Both compute the same, to the last bit: nothing but Q and DQ differs."""
    feeds = random_feeds(other)
    for got, want in zip(computed(one, feeds), computed(other, feeds), strict=True):
        np.testing.assert_array_equal(got, want)


# ---- the cases of the pass -----------------------------------------------------------------------------------------


def test_case_1_pairs_of_float_tensors_go() -> None:
    graph = stripped(
        """(float[N,16,8,8] x) => (float[N,16,8,8] y) {
        q = QuantizeLinear(x, s, z) d = DequantizeLinear(q, s, z) e = DequantizeLinear(q, s, z)
        wq = QuantizeLinear(w, s, z) wd = DequantizeLinear(wq, s, z)
        a = Conv<pads=[1,1,1,1]>(d, wd, b) r = Relu(a) y = Add(r, e) }""",
        w=W, b=BIAS, s=S, z=Z,
    )  # fmt: skip
    assert ops(graph) == {"Conv": 1, "Relu": 1, "Add": 1}
    assert set(graph.initializers) == {"w", "b"}
    same(graph, graph_of(FLOAT, w=W, b=BIAS))


def test_case_2_codes_in_the_file_become_floats() -> None:
    codes = np.arange(-8, 8, dtype=np.int8).reshape(4, 4)
    graph = stripped(
        """(float[N,4] x) => (float[N,4] y) {
        d = DequantizeLinear<axis=1>(w_quantized, s, z) e = DequantizeLinear<axis=1>(w_quantized, s, z)
        h = DequantizeLinear(b_quantized, t)
        a = MatMul(x, d) c = MatMul(a, e) y = Add(c, h) }""",
        w_quantized=codes, s=np.float32([1, 2, 3, 4]), z=np.int8([0, 1, 0, -1]),
        b_quantized=np.int32([10**9, -1, 0, 7]), t=np.float32(0.5),
    )  # fmt: skip
    assert set(graph.initializers) == {"w", "b"}  # one for both readers
    want = (codes.astype(np.float32) - [0, 1, 0, -1]) * [1, 2, 3, 4]
    np.testing.assert_array_equal(graph.constant("w"), want.astype(np.float32))
    np.testing.assert_array_equal(graph.constant("b"), np.float32([5e8, -0.5, 0, 3.5]))


def test_case_2_constants_in_nodes_and_behind_identity() -> None:
    graph = stripped(
        """(float[2] x) => (float[2] y) {
        c = Constant<value = int8[2] {-1, 2}>() i = Identity(c) k = Constant<value = float {0.5}>()
        d = DequantizeLinear(i, k) y = Add(x, d) }""",
    )
    assert ops(graph) == {"Add": 1}
    assert [v.tolist() for v in map(graph.constant, graph.initializers) if v is not None] == [[-0.5, 1.0]]


def test_case_3_what_moves_codes_moves_floats() -> None:
    graph = stripped(
        """(float[N,16,8,8] x) => (float[N,16,4,4] y) {
        q = QuantizeLinear(x, s, z) c = Clip(q, lo, hi) p = MaxPool<kernel_shape=[2,2], strides=[2,2]>(c)
        d = DequantizeLinear(p, s, z) y = Relu(d) }""",
        s=S, z=Z, lo=np.uint8(1), hi=np.uint8(254),
    )  # fmt: skip
    assert ops(graph) == {"MaxPool": 1, "Relu": 1}


def test_case_3_concat_of_codes() -> None:
    graph = stripped(
        """(float[2,3] x, float[2,3] t) => (float[2,6] y) {
        q = QuantizeLinear(x, s, z) p = QuantizeLinear(t, s, z) c = Concat<axis=1>(q, p)
        y = DequantizeLinear(c, s, z) }""",
        s=S, z=Z,
    )  # fmt: skip
    assert ops(graph) == {"Concat": 1}
    assert list(graph.outputs) == ["y"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "(float[4] x) => (float[4] y) { a = Relu(x) q = QuantizeLinear(a, s, z) y = DequantizeLinear(q, s, z) }",
            {"Relu": 1},
        ),
        # Nothing computes x: it cannot be renamed.
        ("(float[4] x) => (float[4] y) { q = QuantizeLinear(x, s, z) y = DequantizeLinear(q, s, z) }", {"Identity": 1}),
        # a is an output under its own name, too.
        (
            "(float[4] x) => (float[4] a, float[4] y) "
            "{ a = Relu(x) q = QuantizeLinear(a, s, z) y = DequantizeLinear(q, s, z) }",
            {"Relu": 1, "Identity": 1},
        ),
        ("(float[4] x) => (float[4] y) { y = DequantizeLinear(w, s) }", {"Identity": 1}),
    ],
)  # fmt: skip
def test_case_4_outputs_keep_their_names(text: str, expected: dict[str, int]) -> None:
    constants = {"w": np.int8([1, 2, 3, 4])} if "(w" in text else {"z": Z}
    graph = stripped(text, s=S, **constants)
    assert ops(graph) == expected
    assert list(graph.outputs)[-1] == "y"


def test_case_5_codes_that_enter_and_leave() -> None:
    graph = stripped(
        """(uint8[N,4] x) => (uint8[N,4] y, uint8[4,N] t) {
        d = DequantizeLinear(x, s, z) r = Relu(d) y = QuantizeLinear(r, s, z)
        t = Transpose<perm=[1,0]>(y) }""",
        s=S, z=Z,
    )  # fmt: skip
    assert ops(graph) == {"Relu": 1, "Transpose": 1}
    assert {v.type.tensor_type.elem_type for v in (*graph.inputs.values(), *graph.outputs.values())} == {
        TensorProto.FLOAT
    }


def test_case_6_holds_go_and_other_sums_stay() -> None:
    graph = stripped(
        """(float[4] x) => (float[4] y) {
        a = Relu(x) [a_hold] a_held = Sum(a) q = QuantizeLinear(a_held, s, z) d = DequantizeLinear(q, s, z)
        [mine] b = Sum(d) y = Neg(b) }""",
        s=S, z=Z,
    )  # fmt: skip
    assert ops(graph) == {"Relu": 1, "Sum": 1, "Neg": 1}


REFUSED: dict[str, tuple[str, str]] = {
    "kernel": (
        "(uint8[2,2] x) => (uint8[2,2] y) { y = QLinearMatMul(x, s, z, x, s, z, s, z) }",
        "QLinearMatMul 'QLinearMatMul_y': it computes on codes, which is more than a Q/DQ pair",
    ),
    "dynamic": (
        "(float[4] x) => (float[4] y) { q, s2, z2 = DynamicQuantizeLinear(x) y = DequantizeLinear(q, s2, z2) }",
        "DynamicQuantizeLinear 'DynamicQuantizeLinear_q': it computes on codes, which is more than a Q/DQ pair",
    ),
    "other reader": (
        "(float[4] x) => (float[4] y, float[4] c) "
        "{ q = QuantizeLinear(x, s, z) y = DequantizeLinear(q, s, z) c = Cast<to=1>(q) }",
        "Cast 'Cast_c': it reads the codes 'q', so the pair cannot go",
    ),
    "computed codes": (
        "(float[4] x) => (float[4] y) { q = Cast<to=2>(x) y = DequantizeLinear(q, s, z) }",
        "DequantizeLinear 'DequantizeLinear_y': its codes come from Cast 'Cast_q'",
    ),
    "computed scale": (
        "(float x) => (float[2] y) { y = DequantizeLinear(w, x) }",
        "DequantizeLinear 'DequantizeLinear_y': its scale or zero-point is computed",
    ),
    "body": (
        "(bool c, float[4] x) => (float[4] y) { [choose] y = If(c) <then_branch = t () => (float[4] p) "
        "{ q = QuantizeLinear(x, s, z) p = DequantizeLinear(q, s, z) }, "
        "else_branch = e () => (float[4] o) { o = Abs(x) }> }",
        "If 'choose': it computes on codes inside its body, which is more than a Q/DQ pair",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_case_7_more_than_pairs(case: str) -> None:
    text, message = REFUSED[case]
    constants: dict[str, Any] = {"s": S, "z": Z, "w": np.int8([1, 2])}
    used = {
        name: value
        for name, value in constants.items()
        if f"{name}," in text or f"{name})" in text or f"({name}" in text
    }
    with pytest.raises(UnsupportedModelError) as error:
        onnxq.strip(model_of(text, **used))
    assert str(error.value).splitlines()[0] == message
    assert "ask the tool that made this one for its QDQ format" in str(error.value)


def test_case_9_a_float_graph() -> None:
    graph = graph_of(FLOAT, w=W, b=BIAS)
    assert not StripQDQ().run(graph).modified
    with pytest.raises(ModelError, match="the model has no QuantizeLinear or DequantizeLinear"):
        onnxq.strip(graph.to_model())


def _reference(
    codes: np.ndarray, scale: np.ndarray, zero_point: np.ndarray | None, axis: int, block: int
) -> np.ndarray:
    """onnxruntime's DequantizeLinear at opset 21."""
    names = ["c", "s", "z"] if zero_point is not None else ["c", "s"]
    kind = helper.np_dtype_to_tensor_dtype(codes.dtype)
    attributes = {"axis": axis, **({"block_size": block} if block else {})}
    node = helper.make_node("DequantizeLinear", names, ["y"], **attributes)
    constants = [onnx.numpy_helper.from_array(v, n) for n, v in zip(names, (codes, scale, zero_point), strict=False)]
    out = helper.make_tensor_value_info("y", helper.np_dtype_to_tensor_dtype(scale.dtype), None)
    graph = helper.make_graph([node], "g", [], [out], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    assert kind
    return onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"]).run(None, {})[0]


@pytest.mark.parametrize(
    ("dtype", "scale", "zero_point", "axis", "block"),
    [
        (np.int8, np.float32(0.3), np.int8(-3), 1, 0),
        (np.uint8, np.float32([0.1, 0.2, 0.7]), np.uint8([0, 128, 255]), 0, 0),
        (np.uint8, np.float32([0.1, 0.2, 0.7, 3]), None, -1, 0),
        (np.int32, np.float32(1e-6), None, 0, 0),
        (np.int16, np.float32(0.01), np.int16(77), 0, 0),
        (np.int8, np.float16(0.25), np.int8(1), 0, 0),
        (ml_dtypes.int4, np.float32([[0.1, 0.2], [0.3, 0.4], [0.5, 0.6]]), None, 1, 2),
    ],
)
def test_values_are_those_of_onnxruntime(dtype: Any, scale: Any, zero_point: Any, axis: int, block: int) -> None:
    low, high = (-8, 8) if dtype is ml_dtypes.int4 else (0, 100) if dtype is not np.int32 else (-(10**9), 10**9)
    codes = np.random.default_rng(0).integers(low, high, (3, 4)).astype(dtype)
    got = dequantized(codes, scale, zero_point, axis=axis, block=block)
    want = _reference(codes, np.asarray(scale), zero_point, axis, block)
    assert got.dtype == want.dtype
    np.testing.assert_array_equal(got, want)


def test_scales_that_do_not_fit() -> None:
    with pytest.raises(UnsupportedModelError, match=r"2 scales along axis 1 do not fit codes of shape \(3, 4\)"):
        dequantized(np.zeros((3, 4), np.int8), np.ones(2, np.float32), None, axis=1, block=0)


# ---- models of three tools -----------------------------------------------------------------------------------------

MODELS = Path(__file__).parents[2] / "models"


FLOAT_WEIGHTS = {"AddQDQPairToWeight": True, "QuantizeBias": False}


class _Samples(CalibrationDataReader):  # type: ignore[misc]
    def __init__(self, feeds: list[dict[str, Any]]) -> None:
        self._feeds = iter(feeds)

    def get_next(self) -> dict[str, Any] | None:
        return next(self._feeds, None)


def _by_onnxruntime(tmp_path: Path, **options: Any) -> tuple[Graph, onnxq.StripResult]:
    # A copy, as onnxruntime writes its inferred model beside the source, where another test may be doing the same.
    source = Path(shutil.copy(MODELS / "digits_resnet.onnx", tmp_path))
    images = np.load(MODELS / "digits_resnet.calib.npz")["image"][:4]
    target = tmp_path / "q.onnx"
    feeds = [{"image": image[None]} for image in images]
    options = {"activation_type": QuantType.QUInt8, **options}
    quantize_static(source, target, _Samples(feeds), quant_format=QuantFormat.QDQ, **options)
    return load_graph(source), onnxq.strip(target)


def test_onnxruntime_with_pairs_around_float_weights_gives_back_the_model(tmp_path: Path) -> None:
    """Pairs alone were added, so taking them out gives the same numbers, to the last bit."""
    source, result = _by_onnxruntime(
        tmp_path,
        activation_type=QuantType.QInt8,
        extra_options={**FLOAT_WEIGHTS, "DedicatedQDQPair": True, "ActivationSymmetric": True},
    )
    assert result.exact
    assert result.pairs > 50
    graph = load_graph(result.model)
    assert not {"QuantizeLinear", "DequantizeLinear"} & set(ops(graph))
    same(graph, source)
    assert str(result).endswith("all weights were still float: this is the float model to the last bit")


def test_onnxruntime_leaves_out_relus_and_they_are_put_back(tmp_path: Path) -> None:
    source, result = _by_onnxruntime(tmp_path, extra_options=FLOAT_WEIGHTS)
    assert not result.exact
    assert not result.dequantized
    graph = load_graph(result.model)
    # Its ten Relus, and its four Clips at 6, which these samples do not reach: their limits are not in the file.
    assert len(result.restored) == 14
    assert ops(graph)["Relu"] + ops(graph).get("Clip", 0) == ops(source)["Relu"] + ops(source)["Clip"]
    feeds = {"image": np.load(MODELS / "digits_resnet.calib.npz")["image"][:4]}
    for got, want in zip(computed(graph, feeds), computed(source, feeds), strict=True):
        np.testing.assert_array_equal(got, want)


def test_case_8_only_what_can_be_negative_gets_a_relu() -> None:
    text = """(float[4] x) => (float[4] y) {
        i = QuantizeLinear(x, s) xd = DequantizeLinear(i, s)
        r = Relu(xd) a = Add(r, r) q = QuantizeLinear(a, s) b = DequantizeLinear(q, s)
        m = Mul(b, c) p = QuantizeLinear(m, six) y = DequantizeLinear(p, six) }"""
    constants = {"s": S, "six": np.float32(6 / 255)}
    assert ops(stripped(text, c=np.float32([1, 2, 0, 1]), **constants)) == {"Relu": 1, "Add": 1, "Mul": 1}
    graph = stripped(text, c=np.float32([1, -2, 0, 1]), **constants)
    assert ops(graph) == {"Relu": 1, "Add": 1, "Mul": 1, "Clip": 1}
    (got,) = computed(graph, {"x": np.float32([1, 1, 1, 10])})
    assert got.tolist() == [2.0, 0.0, 0.0, 6.0]


@pytest.mark.parametrize(
    ("body", "restored"),
    [
        ("a = Conv(x, w)", True),
        ("a = Mul(x, x)", False),
        ("t = Tanh(x) a = Add(t, one)", False),
        ("t = Tanh(x) a = Add(t, half)", True),
        ("r = Relu(x) a = Pad(r, pads)", False),
        ("r = Relu(x) a = Pad(r, pads, minus)", True),
        ("r = Relu(x) k = Constant<value = float {-1.0}>() a = Mul(r, k)", True),
        ("r = Relu(x) s0 = Sigmoid(x) m = Mul(r, s0) a = GlobalAveragePool(m)", False),
    ],
)
def test_case_8_what_can_be_negative(body: str, restored: bool) -> None:
    constants = {
        "w": normal(4, 4, 1, 1), "one": np.float32(1), "half": np.float32(0.5), "minus": np.float32(-1),
        "pads": np.int64([0, 0, 0, 0, 0, 0, 1, 1]),
    }  # fmt: skip
    used = {k: v for k, v in constants.items() if f" {k}" in body or f", {k})" in body}
    text = f"(float[1,4,3,3] x) => (float[1,4,n,n] y) {{ {body} q = QuantizeLinear(a, s) y = DequantizeLinear(q, s) }}"
    graph = graph_of(text, s=S, **used)
    stripping = StripQDQ()
    stripping.run(graph)
    assert bool(stripping.restored) is restored


@pytest.mark.parametrize("weights", [QuantType.QInt8, QuantType.QUInt8])
def test_onnxruntime_with_codes(tmp_path: Path, weights: QuantType) -> None:
    # Symmetric activations: no Relu is left out.
    _, result = _by_onnxruntime(
        tmp_path, per_channel=True, weight_type=weights, extra_options={"ActivationSymmetric": True}
    )
    assert not result.exact
    graph = load_graph(result.model)
    assert not {"QuantizeLinear", "DequantizeLinear"} & set(ops(graph))
    same(graph, _without_pairs_of_activations(load_graph(tmp_path / "q.onnx")))


def _without_pairs_of_activations(graph: Graph) -> Graph:
    """The graph, where onnxruntime dequantizes what is constant."""
    for dq in [n for n in graph.nodes if n.op_type == "DequantizeLinear"]:
        q = graph.producer(dq.input[0])
        if q is not None:
            assert not graph.is_output(dq.output[0]) or graph.producer(q.input[0]) is not None
            graph.replace_uses(dq.output[0], q.input[0])
            if graph.is_output(dq.output[0]):
                graph.remove_node(dq)
                graph.add_node("Identity", [q.input[0]], [dq.output[0]], name="out")
    graph.prune()
    graph.sort()
    return graph


@pytest.mark.parametrize("target", ["ort-x64-vnni", "tensorrt", "openvino"])
@pytest.mark.parametrize("name", ["digits_resnet", "wordlang_transformer"])
def test_onnxq_models_get_their_float_graph_back(target: str, name: str, tmp_path: Path) -> None:
    source = MODELS / f"{name}.onnx"
    data = np.load(MODELS / f"{name}.calib.npz")
    quantized = onnxq.quantize(source, dict(data) and [{k: data[k][:4] for k in data.files}], target=target)
    result = onnxq.strip(quantized.model, output=tmp_path / "f.onnx")
    graph = load_graph(tmp_path / "f.onnx")
    assert not {"QuantizeLinear", "DequantizeLinear"} & set(ops(graph))
    assert not any(key.startswith("onnxq.") for key in get_metadata(graph.frame))
    feeds = {k: data[k][:2] for k in data.files}
    for want, got in zip(computed(load_graph(source), feeds), computed(graph, feeds), strict=True):
        assert 10 * np.log10(np.square(want).mean() / np.square(got - want).mean()) > 25  # as above
    # What is stripped can be quantized again.
    assert onnxq.plan(result.model, target=target).tensors
    assert result.holds == sum(n.op_type == "Sum" and len(n.input) == 1 for n in quantized.model.graph.node)


def test_only_activations_in_onnxqs_own_graph() -> None:
    """Without weights in int8 (all are float in the graph of a plan without them), nothing is lost."""
    source = graph_of(FLOAT, w=W, b=BIAS)
    quantized = onnxq.quantize(source.to_model(), [random_feeds(source)], target="openvino", recover="none")
    only_activations = load_graph(quantized.model)
    conv = next(n for n in only_activations.nodes if n.op_type == "Conv")
    only_activations.add_initializer("w", W)
    only_activations.set_input(conv, 1, "w")
    only_activations.prune()
    result = onnxq.strip(only_activations.to_model())
    assert result.exact
    same(load_graph(result.model), source)


# ---- files ---------------------------------------------------------------------------------------------------------


def test_nothing_is_written_over(tmp_path: Path) -> None:
    path = tmp_path / "q.onnx"
    model = model_of(
        "(float[4] x) => (float[4] y) { q = QuantizeLinear(x, s, z) y = DequantizeLinear(q, s, z) }", s=S, z=Z
    )
    onnx.save(model, str(path))
    with pytest.raises(ConfigError, match="this is the file given as model=, which is read"):
        onnxq.strip(path, output=path, force=True)
    (tmp_path / "there.onnx").write_text("")
    with pytest.raises(ConfigError, match="exists"):
        onnxq.strip(path, output=tmp_path / "there.onnx")
    assert onnxq.strip(path, output=tmp_path / "there.onnx", force=True).output == tmp_path / "there.onnx"
    assert ops(load_graph(tmp_path / "there.onnx")) == {"Identity": 1}
