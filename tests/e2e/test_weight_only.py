"""Rules W1 to W5 on the engines themselves: weights in few bits are read as such, and mean what onnxq chose."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, helper, numpy_helper

import onnxq
from onnxq.graph import external_data
from onnxq.numerics import fake_quantize, sqnr_db
from onnxq.planning.plan import Action
from onnxq.verification.engines.result import Precision
from tests.e2e.conftest import present
from tests.e2e.test_dynamic import text_model
from tests.graphs import model_of, normal
from tests.versions import since

EXACT_DB = 100.0
"""Of float32 sums in another order; a wrong code, scale or zero-point leaves under 60 dB."""
MATMUL = "(float[N, 100] x) => (y) { [product] y = MatMul(x, w) }"


def weight_only(given: Any, feed: dict[str, NDArray[Any]], **options: Any) -> onnxq.QuantizeResult:
    return onnxq.quantize(given, [feed], mode="weight-only", **options)


def outputs(model: ModelProto, feed: dict[str, NDArray[Any]], level: str = "ORT_ENABLE_ALL") -> list[NDArray[Any]]:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, level)
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return list(session.run(None, feed))


def real_values(result: onnxq.QuantizeResult, weight: NDArray[Any]) -> NDArray[np.float32]:
    """What the codes of a weight stand for, by numpy alone."""
    return fake_quantize(weight, result.qparams["w"])


def assert_passes(result: onnxq.QuantizeResult, kernel: str = "", count: int = 1) -> None:
    assert result.report, result.report.to_text()
    assert result.report.engine is not None
    if kernel:
        assert result.report.engine.engine_ops.get(kernel, 0) == count, result.report.engine.engine_ops


@pytest.mark.parametrize("weights", ["int4", "uint4", "int8"])
@pytest.mark.parametrize("block_size", [0, 16, 32, 128])
@pytest.mark.parametrize("symmetric", [True, False])
def test_w1_onnxruntime_computes_with_the_values_that_were_chosen(
    weights: str, block_size: int, symmetric: bool
) -> None:
    """K = 100 leaves the last block short."""
    weight, x = normal(100, 24), normal(6, 100, seed=1)
    result = weight_only(
        text_model(MATMUL, w=weight),
        {"x": x},
        weights=weights,
        block_size=block_size,
        symmetric=symmetric,
        accuracy_level=0,
    )
    assert_passes(result, "MatMulNBits")
    assert sqnr_db(x @ real_values(result, weight), outputs(result.model, {"x": x})[0]) > EXACT_DB
    engine = result.report.engine
    assert engine is not None
    assert [n.precision for n in engine.nodes] == [Precision.WEIGHTS]


@pytest.mark.parametrize(("block_size", "written"), [(256, 128), (128, 128), (64, 64), (0, 128)])
def test_w1_blocks_are_no_longer_than_a_channel(block_size: int, written: int) -> None:
    """The kernel reads a block filled up: 100 codes in one of 256 would take more than twice the bytes."""
    result = weight_only(text_model(MATMUL, w=normal(100, 24)), {"x": normal(6, 100, seed=1)}, block_size=block_size)
    assert_passes(result, "MatMulNBits")
    (node,) = (n for n in result.model.graph.node if n.op_type == "MatMulNBits")
    assert {a.name: a.i for a in node.attribute}["block_size"] == written


@since(1, 32, "fuses none of 8 bits or of one block")
@pytest.mark.parametrize("weights", ["int4", "uint4", "int8"])
@pytest.mark.parametrize("block_size", [0, 32])
def test_w1_dequantizelinear_means_the_same_and_is_fused(weights: str, block_size: int) -> None:
    weight, x = normal(100, 24), normal(6, 100, seed=1)
    options = {"weights": weights, "block_size": block_size, "weight_format": "qdq"}
    result = weight_only(text_model(MATMUL, w=weight), {"x": x}, **options)
    assert_passes(result, "MatMulNBits")
    plain = onnxruntime.SessionOptions()
    plain.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(result.model.SerializeToString(), plain, providers=["CPUExecutionProvider"])
    assert sqnr_db(x @ real_values(result, weight), session.run(None, {"x": x})[0]) > EXACT_DB


@since(1, 32, "fuses none of 8 bits")
@pytest.mark.parametrize("storage", ["nbits", "qdq"])
@pytest.mark.parametrize("attributes", ["", "<transB=1>", "<transB=1, alpha=0.5, beta=2.0>"])
def test_w2_gemm_in_every_form(attributes: str, storage: str) -> None:
    text = f"(float[N, 64] x) => (y) {{ y = Gemm{attributes}(x, w, b) }}"
    weight = normal(32, 64) if "transB" in attributes else normal(64, 32)
    given = text_model(text, w=weight, b=normal(32, seed=1))
    result = weight_only(given, {"x": normal(8, 64, seed=2)}, weights="int8", block_size=32, weight_format=storage)
    assert result.report.worst_sqnr_db is not None
    assert result.report.worst_sqnr_db > 35
    if storage == "nbits" or "alpha" not in attributes:
        assert_passes(result, "MatMulNBits")


def test_w1_a_weight_that_is_stored_the_other_way_round() -> None:
    """An embedding that is the last layer too, transposed in front of its product."""
    text = "(int64[N] i) => (y) { e = Gather(t, i)  u = Transpose<perm=[1,0]>(t)  y = MatMul(e, u) }"
    result = weight_only(text_model(text, t=normal(80, 64)), {"i": np.arange(9)})
    assert_passes(result, "MatMulNBits")
    assert result.report.engine is not None
    assert result.report.engine.engine_ops["GatherBlockQuantized"] == 1
    assert "Transpose" not in result.report.engine.engine_ops


@pytest.mark.parametrize(
    ("weights", "block_size"), [("int4", 16), ("int4", 32), ("uint4", 32), ("int8", 32), ("int8", 0)]
)
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("columns", [64, 40])
def test_w3_tables_in_4_and_8_bits(weights: str, block_size: int, symmetric: bool, columns: int) -> None:
    table, rows = normal(60, columns), np.array([[0, 59], [7, 7]])
    text = f"(int64[2, 2] i) => (float[2, 2, {columns}] y) {{ y = Gather(w, i) }}"
    options = {"weights": weights, "block_size": block_size, "symmetric": symmetric}
    result = weight_only(text_model(text, w=table), {"i": rows}, **options)
    assert_passes(result, "GatherBlockQuantized")
    assert sqnr_db(real_values(result, table)[rows], outputs(result.model, {"i": rows})[0]) > EXACT_DB


@pytest.mark.parametrize("opset", [11, 17])  # at 11 a DequantizeLinear has one scale only
def test_w4_other_weights_are_stored_where_all_is_asked_for(opset: int) -> None:
    text = "(float[1, 8, 12, 12] x) => (y) { y = Conv<pads=[1,1,1,1]>(x, w) }"
    given, x = text_model(text, opset=opset, w=normal(16, 8, 3, 3)), {"x": normal(1, 8, 12, 12, seed=2)}
    with pytest.raises(onnxq.UnsupportedModelError, match="dequantized in every run"):
        weight_only(given, x, weights="int8")
    result = weight_only(given, x, weights="int8", placement="full")
    assert result.report.worst_sqnr_db is not None
    assert result.report.worst_sqnr_db > 35


@pytest.mark.parametrize("as_constant", [True, False])
def test_w4_float16_weights_of_old_models(*, as_constant: bool) -> None:
    """Scales are float16 from opset 19 on; the weight may be in a Constant node."""
    text = "(float16[1,8,12,12] x) => (float16[1,16,12,12] y) { y = Conv<pads=[1,1,1,1]>(x, w) }"
    weight = normal(16, 8, 3, 3).astype(np.float16)
    given = model_of(text, opset=11, w=weight)
    if as_constant:
        del given.graph.initializer[:]
        given.graph.node.insert(0, helper.make_node("Constant", [], ["w"], value=numpy_helper.from_array(weight)))
    feed = {"x": normal(1, 8, 12, 12, seed=2).astype(np.float16)}
    result = weight_only(given, feed, weights="int8", placement="full")
    onnx.checker.check_model(result.model, full_check=True)
    assert result.report.worst_sqnr_db is not None
    assert result.report.worst_sqnr_db > 35


def test_a_weight_that_stays_in_float_beside_its_codes_is_told() -> None:
    text = "(float[N, 64] x) => (y) { a = MatMul(x, w)  b = Abs(w)  y = Add(a, b) }"
    result = weight_only(text_model(text, w=normal(64, 64)), {"x": normal(64, 64)})
    told = "the file holds 1 quantized weight in float too, first 'w', which Abs "
    assert any(note.startswith(told) for note in result.report.notes)


def test_w5_small_weights_stay() -> None:
    text = "(float[N, 64] x) => (y) { a = MatMul(x, v)  y = MatMul(a, w) }"
    given = text_model(text, v=normal(64, 32), w=normal(32, 16, seed=1))
    result = weight_only(given, {"x": normal(4, 64)})
    assert [d.action for d in result.plan.nodes] == [Action.WEIGHTS, Action.FLOAT]
    assert "fewer than 1024" in result.plan.nodes[1].reason


@pytest.mark.parametrize(
    "weight_format", ["nbits", pytest.param("qdq", marks=since(1, 32, "leaves the weight of a Gemm behind its DQ"))]
)
@pytest.mark.parametrize("level", ["ORT_DISABLE_ALL", "ORT_ENABLE_BASIC", "ORT_ENABLE_EXTENDED", "ORT_ENABLE_ALL"])
def test_float16_at_every_level_of_optimisation(weight_format: str, level: str) -> None:
    """Scales in float16 that onnxruntime 1.32 casts as it runs leave its int8 kernel 2 dB (case 7 of the rewriter).

    Weights of 4 bits leave about 20 dB.
    """
    text = """(float16[N, 64] x) => (float16[N, 32] y, float16[N, 48] z) {
        s = Softplus(x)  p = MatMul(s, w)  y = Softplus(p)  g = Gemm(s, v, b)  z = Softplus(g) }"""
    w, v, b = (normal(*shape).astype(np.float16) / np.float16(8) for shape in ((64, 32), (64, 48), (48,)))
    given = text_model(text, w=w, v=v, b=b)
    for value in given.graph.output:
        value.type.tensor_type.elem_type = TensorProto.FLOAT16
    feed = {"x": normal(4, 64).astype(np.float16)}
    result = weight_only(given, feed, weight_format=weight_format)
    assert_passes(result)
    assert {o.type.tensor_type.elem_type for o in result.model.graph.output} == {TensorProto.FLOAT16}
    for name, want, got in zip("yz", outputs(given, feed), outputs(result.model, feed, level), strict=True):
        assert sqnr_db(want.astype(np.float32), got.astype(np.float32)) > 15, name


@pytest.mark.parametrize("rounding", ["gptq", "awq"])
def test_methods_that_look_at_data_gain_where_channels_differ(rounding: str) -> None:
    """Inputs of very different size: the output error falls by a dB and more against the best rounding without data."""
    rng = np.random.default_rng(0)
    spread = np.exp(rng.normal(0, 1.5, 128)).astype(np.float32)
    mix = rng.standard_normal((128, 128)).astype(np.float32) / 11 + np.eye(128, dtype=np.float32)
    data = [{"x": (rng.standard_normal((64, 128)).astype(np.float32) @ mix) * spread} for _ in range(8)]
    given = text_model("(float[N, 128] x) => (y) { y = MatMul(x, w) }", w=normal(128, 64))

    def error(method: str) -> float:
        result = onnxq.quantize(given, data, mode="weight-only", rounding=method, accuracy_level=0)
        assert result.report, result.report.to_text()
        assert result.report.worst_sqnr_db is not None
        assert {row.rounding for row in result.report.tensors} == {method}
        return result.report.worst_sqnr_db

    assert error(rounding) > error("mse") + 1.0


def test_awq_divides_in_the_normalisation_before() -> None:
    text = (
        "(float[N, 64] x) => (y) { n = LayerNormalization(x, g, b)  p = MatMul(n, v)  q = MatMul(n, w)  y = Add(p, q) }"
    )
    gain = np.exp(normal(64, seed=5)).astype(np.float32)
    given = text_model(text, g=gain, b=normal(64, seed=6), v=normal(64, 32), w=normal(64, 32, seed=1))
    result = weight_only(given, {"x": normal(200, 64, seed=3)}, rounding="awq")
    assert_passes(result, "MatMulNBits", 2)
    assert [n.op_type for n in result.model.graph.node].count("Mul") == 0
    stored = {t.name: numpy_helper.to_array(t) for t in result.model.graph.initializer}
    assert not np.array_equal(stored["g"], gain)


def test_awq_that_leaves_channels_alone_has_looked_at_them() -> None:
    """Channels that are all alike gain nothing from a scale; that is the method's answer, not for want of data."""
    given = text_model("(float[N, 64] x) => (y) { y = MatMul(x, w) }", w=normal(64, 32))
    result = weight_only(given, {"x": np.eye(64, dtype=np.float32)}, rounding="awq")
    assert_passes(result, "MatMulNBits", 1)
    assert [n.op_type for n in result.model.graph.node].count("Mul") == 0
    assert {row.rounding for row in result.report.tensors} == {"awq"}
    assert not [note for note in result.report.notes if "instead of" in note]


def external_model(folder: Path, layers: int = 3) -> Path:
    text = " ".join(f"h{i + 1} = MatMul(h{i}, w{i})" for i in range(layers))
    weights = {f"w{i}": normal(64, 64, seed=i) / 8 for i in range(layers)}
    given = text_model(f"(float[N, 64] h0) => (h{layers}) {{ {text} }}", **weights)
    path = folder / "m.onnx"
    onnx.save(given, path, save_as_external_data=True, location="m.data", size_threshold=0)
    return path


def test_weights_in_files_of_their_own_go_through_one_by_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same codes as from memory; the float weights are never in the output."""
    monkeypatch.setattr(external_data, "LARGE_BYTES", 1000)
    path, feed = external_model(tmp_path), {"h0": normal(4, 64)}
    result = weight_only(path, feed, output=tmp_path / "out.onnx")
    assert_passes(result, "MatMulNBits", 3)
    data = tmp_path / "out.onnx.data"
    assert data.stat().st_size < 3 * 64 * 64 * 4 / 4
    written = onnx.load(str(tmp_path / "out.onnx"))
    kept = weight_only(onnx.load(str(path)), feed).model
    streamed = {t.name: numpy_helper.to_array(t) for t in written.graph.initializer}
    for tensor in kept.graph.initializer:
        assert np.array_equal(streamed[tensor.name], numpy_helper.to_array(tensor))
    assert result.report.output_data_path == str(data)
    assert result.report.size_after_bytes == data.stat().st_size + (tmp_path / "out.onnx").stat().st_size


def test_nothing_is_left_where_writing_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(external_data, "LARGE_BYTES", 1000)
    path = external_model(tmp_path)
    (tmp_path / "out.onnx.data").mkdir()
    with pytest.raises(onnxq.ConfigError, match="not a regular file"):
        weight_only(path, {"h0": normal(4, 64)}, output=tmp_path / "out.onnx", force=True)
    assert not (tmp_path / "out.onnx").exists()


def test_single_weights_differ_where_the_user_says_so() -> None:
    text = "(float[N, 64] x) => (y) { [a] p = MatMul(x, v)  [b] y = MatMul(p, w) }"
    given = text_model(text, v=normal(64, 64), w=normal(64, 64, seed=1))
    override = {"nodes": "b", "weight": "int8", "block_size": 64, "rounding": "nearest"}
    result = weight_only(given, {"x": normal(4, 64)}, overrides=[override])
    assert_passes(result, "MatMulNBits", 2)
    specs = {key: t.spec for key, t in result.plan.tensors.items()}
    assert (specs["v"].qtype.name, specs["v"].block_size) == ("int4", 32)
    assert (specs["w"].qtype.name, specs["w"].block_size) == ("int8", 64)
    with pytest.raises(onnxq.ConfigError, match="no scales for blocks of weights beside quantized activations"):
        onnxq.quantize(given, [{"x": normal(4, 64)}], overrides=[override])


@pytest.mark.parametrize(("target", "options"), [
    ("openvino", {}), ("openvino", {"weights": "uint4"}), ("openvino", {"weights": "int8"}),
    ("tensorrt", {"block_size": 64}), ("tensorrt", {"weights": "int8"}),
])  # fmt: skip
def test_other_engines_read_few_bits_too(target: str, options: dict[str, Any]) -> None:
    pytest.importorskip({"openvino": "openvino", "tensorrt": "tensorrt_rtx"}[target])
    given = text_model("(float[4, 128] x) => (y) { y = MatMul(x, w) }", w=normal(128, 64))
    result = weight_only(given, {"x": normal(4, 128)}, target=target, **options)
    assert_passes(result)
    assert all(n.domain == "" for n in result.model.graph.node)


@pytest.mark.parametrize("name", ["wordlang_transformer"])
def test_a_text_classifier_answers_as_before(name: str) -> None:
    zoo = present(name)
    result = onnxq.quantize(zoo.path(), list(zoo.calib(64)), mode="weight-only", rounding="gptq")
    assert result.report, result.report.to_text()
    ran = onnxruntime.InferenceSession(result.model.SerializeToString(), providers=["CPUExecutionProvider"])
    before = onnxruntime.InferenceSession(str(zoo.path()), providers=["CPUExecutionProvider"])
    feeds = list(zoo.held_out(256))
    same = [np.argmax(ran.run(None, f)[0], -1) == np.argmax(before.run(None, f)[0], -1) for f in feeds]
    assert np.mean(np.concatenate(same)) > 0.97


def test_impossible_forms_are_refused() -> None:
    given = text_model(MATMUL, w=normal(100, 24))
    for options, message in (
        ({"block_size": 48}, "block_size is 48, expected 16, 32"),
        ({"rounding": "gptq"}, "rounding 'gptq' looks at what weights are multiplied with"),
        ({"rounding": "gtpq"}, "did you mean rounding='gptq'"),
        ({"weights": "fp8"}, "writes weights as int4 or uint4 or int8"),
        ({"accuracy_level": 7}, "accuracy_level is 7"),
    ):
        with pytest.raises(onnxq.ConfigError, match=message):
            onnxq.quantize(given, mode="weight-only", **options)  # type: ignore[arg-type]


def test_a_gemm_that_is_fused_with_its_activation_says_how_to_keep_its_weight_in_few_bits() -> None:
    text = "(float[N, 64] x) => (y) { p = Gemm(x, w, b)  r = Relu(p)  y = MatMul(r, v) }"
    given = text_model(text, w=normal(64, 32), b=normal(32, seed=1), v=normal(32, 64))
    feed = {"x": normal(6, 64, seed=2)}
    made = weight_only(given, feed, weight_format="qdq")
    assert not made.report
    assert any("weight_format='nbits'" in check.detail for check in made.report.checks if not check.passed)
    assert_passes(weight_only(given, feed, weight_format="nbits"), "MatMulNBits", 2)


@pytest.mark.parametrize("options", [{"target": "openvino"}, {"target": "ort-x64-vnni", "weight_format": "qdq"}])
def test_an_accuracy_level_that_nothing_would_read_is_refused(options: dict[str, str]) -> None:
    given, feed = text_model(MATMUL, w=normal(100, 24)), {"x": normal(6, 100, seed=1)}
    with pytest.raises(onnxq.ConfigError, match="accuracy_level is one of MatMulNBits"):
        weight_only(given, feed, accuracy_level=0, **options)


@pytest.mark.parametrize("options", [
    {"weights": "uint4"}, {"symmetric": False}, {"weights": "uint4", "symmetric": True},
    {"overrides": [{"nodes": "product", "symmetric": False}]},
])  # fmt: skip
def test_zero_points_for_tensorrt_are_refused_before_any_work(options: dict[str, Any]) -> None:
    given, feed = text_model(MATMUL, w=normal(100, 24)), {"x": normal(6, 100, seed=1)}
    with pytest.raises(onnxq.ConfigError, match=r"TensorRT takes signed codes without zero-points"):
        weight_only(given, feed, target="tensorrt", **options)


def test_so_does_a_product_in_front_of_a_relu() -> None:
    given = text_model("(float[N, 128] x) => (y) { p = MatMul(x, w)  r = Relu(p)  y = MatMul(r, v) }",
                       w=normal(128, 256), v=normal(256, 128))  # fmt: skip
    made = weight_only(given, {"x": normal(6, 128, seed=2)}, weight_format="qdq")
    assert made.report or any("weight_format='nbits'" in c.detail for c in made.report.checks if not c.passed)
