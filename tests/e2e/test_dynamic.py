"""Rules D1 to D7 on onnxruntime itself: dynamic quantization runs on its integer kernels and comes out right."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

import onnxq
from onnxq.dynamic.rules import DYNAMIC_RULES
from onnxq.planning.plan import Action
from onnxq.targets import TARGETS
from onnxq.verification.engines.ort_products import has_kernels_of
from onnxq.verification.engines.result import Precision
from tests.e2e.conftest import present
from tests.graphs import model_of, normal
from tests.versions import since

MIN_SQNR_DB = 30.0
"""8-bit codes of normal values leave some 35 to 45 dB; a wrong scale, axis or bias leaves under 20."""
MIN_SATURATED_DB = 22.0
"""Of models for CPUs that do not saturate, on one that does."""


def model(nodes: list[NodeProto], shape: list[Any], outputs: dict[str, int], **constants: Any) -> ModelProto:
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, list("abcd"[:rank])) for name, rank in outputs.items()],
        [numpy_helper.from_array(np.asarray(v), k) for k, v in constants.items()],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8)


def text_model(text: str, **constants: Any) -> ModelProto:
    """`model_of`, with outputs of the types and shapes that onnx infers."""
    inferred = onnx.shape_inference.infer_shapes(model_of(text, **constants))
    for value in inferred.graph.output:
        value.type.tensor_type.elem_type = TensorProto.FLOAT
        value.type.tensor_type.shape.SetInParent()
    return inferred


def dynamic(given: ModelProto, x: Any, **options: Any) -> onnxq.QuantizeResult:
    return onnxq.quantize(given, [{"x": x}], mode="dynamic", **options)


def assert_runs(result: onnxq.QuantizeResult, kernel: str, count: int = 1) -> None:
    assert result.report, result.report.to_text()
    assert result.report.engine is not None
    assert result.report.engine.engine_ops.get(kernel, 0) == count, result.report.engine.engine_ops
    assert result.report.worst_sqnr_db is not None
    own_kernels = has_kernels_of(TARGETS[result.report.target])
    assert result.report.worst_sqnr_db > (MIN_SQNR_DB if own_kernels else MIN_SATURATED_DB)


@pytest.mark.parametrize("target", ["ort-x64-vnni", "ort-x64-avx2", "ort-arm64"])
def test_d1_matmul_with_its_bias_is_one_kernel(target: str) -> None:
    text = "(float[N, 64] x) => (float[N, 32] y) { [product] p = MatMul(x, w)  y = Add(p, b) }"
    given = text_model(text, w=normal(64, 32), b=normal(32, seed=1))
    result = dynamic(given, normal(8, 64, seed=2), target=target)
    assert_runs(result, "DynamicQuantizeMatMul")
    assert [d.action for d in result.plan.nodes] == [Action.INT8, Action.FUSED]
    engine = result.report.engine
    assert engine is not None
    assert [n.precision for n in engine.nodes if n.node == "product"] == [Precision.INT8]


def test_d1_an_input_of_several_products_is_quantized_once() -> None:
    text = "(float[N, 64] x) => (y, z) { y = MatMul(x, v)  z = MatMul(x, w) }"
    result = dynamic(text_model(text, v=normal(64, 32), w=normal(64, 16, seed=1)), normal(8, 64, seed=2))
    assert_runs(result, "MatMulIntegerToFloat", 2)
    assert [n.op_type for n in result.model.graph.node].count("DynamicQuantizeLinear") == 1


def test_d1_stacks_of_matrices() -> None:
    text = "(float[3, N, 64] x) => (y) { y = MatMul(x, w) }"
    result = dynamic(text_model(text, w=normal(3, 64, 16)), normal(3, 8, 64, seed=2))
    assert_runs(result, "DynamicQuantizeMatMul")


@pytest.mark.parametrize("attributes", ["", "<transB=1>", "<transB=1, alpha=0.5, beta=2.0>", "<alpha=3.0>"])
def test_d2_gemm_in_every_form(attributes: str) -> None:
    text = f"(float[N, 64] x) => (y) {{ y = Gemm{attributes}(x, w, b) }}"
    weight = normal(32, 64) if "transB" in attributes else normal(64, 32)
    result = dynamic(text_model(text, w=weight, b=normal(32, seed=1)), normal(8, 64, seed=2))
    assert_runs(result, "DynamicQuantizeMatMul")


@pytest.mark.parametrize("direction", ["forward", "bidirectional"])
@pytest.mark.parametrize("target", ["ort-x64-vnni", "ort-x64-avx2"])
def test_d3_lstm(direction: str, target: str) -> None:
    size, ways = 24, 2 if direction == "bidirectional" else 1
    node = helper.make_node("LSTM", ["x", "w", "r", "b"], ["y", "h", "c"], hidden_size=size, direction=direction)
    weights = {
        "w": 0.3 * normal(ways, 4 * size, 16),
        "r": 0.3 * normal(ways, 4 * size, size, seed=1),
        "b": normal(ways, 8 * size, seed=2),
    }
    result = dynamic(
        model([node], [7, 2, 16], {"y": 4, "h": 3, "c": 3}, **weights), normal(7, 2, 16, seed=3), target=target
    )
    assert_runs(result, "DynamicQuantizeLSTM")


@pytest.mark.parametrize(("hidden", "told"), [(32, True), (1, False)])
def test_static_quantization_says_where_lstms_run_in_int8(hidden: int, *, told: bool) -> None:
    """4 x 32 x (16 + 32) products a step are the LSTM's and 16 x 16 the other's; with one unit, 68 of 324."""
    text = f"""(float[1,1,16] x) => (float[1,1,{hidden}] h, float[1,1,16] z) {{
        [lstm] y, last = LSTM<hidden_size={hidden}>(x, w, r)
        [axes] h = Squeeze(y, one)
        [out] z = MatMul(x, v)
        }}"""
    values = {
        "w": normal(1, 4 * hidden, 16), "r": normal(1, 4 * hidden, hidden, seed=1), "v": normal(16, 16),
        "one": np.array([1]),
    }  # fmt: skip
    data = [{"x": normal(1, 1, 16, seed=i)} for i in range(4)]
    result = onnxq.quantize(model_of(text, **values), data, target="ort-cpu", placement="full")
    notes = [note for note in result.report.notes if "stays float; mode='dynamic' (--mode dynamic)" in note]
    assert len(notes) == told


def test_d4_attention_of_onnxruntime() -> None:
    node = helper.make_node("Attention", ["x", "w", "b"], ["y"], num_heads=2, domain="com.microsoft")
    given = model([node], [2, 5, 16], {"y": 3}, w=0.3 * normal(16, 48), b=0.3 * normal(48, seed=1))
    assert_runs(dynamic(given, normal(2, 5, 16, seed=2)), "QAttention")


def test_d5_rows_of_an_embedding_have_scales_of_their_own() -> None:
    """One scale for the whole table would leave the small rows with a code or two: under 10 dB."""
    table = normal(200, 32) * np.geomspace(1e-3, 1.0, 200, dtype=np.float32)[:, None]
    text = "(int64[N] i) => (float[N, 32] y) { y = Gather(t, i) }"
    rows = np.arange(20, dtype=np.int64)
    result = onnxq.quantize(text_model(text, t=table), [{"i": rows}], mode="dynamic")
    assert_runs(result, "Gather", 2)
    assert result.report.size_after_bytes < result.report.size_before_bytes / 3


def test_d6_gru_is_stored_in_int8_only_where_all_is_asked_for() -> None:
    node = helper.make_node("GRU", ["x", "w", "r"], ["y", "h"], hidden_size=24, direction="bidirectional")
    weights = {"w": 0.3 * normal(2, 72, 16), "r": 0.3 * normal(2, 72, 24, seed=1)}
    given = model([node], [7, 2, 16], {"y": 4, "h": 3}, **weights)
    with pytest.raises(onnxq.UnsupportedModelError, match="no int8 kernel for GRU"):
        dynamic(given, normal(7, 2, 16, seed=3))
    result = dynamic(given, normal(7, 2, 16, seed=3), placement="full")
    assert_runs(result, "GRU")
    assert [d.action for d in result.plan.nodes] == [Action.WEIGHTS]
    assert {t.data_type for t in result.model.graph.initializer if t.name.endswith("quantized")} == {TensorProto.INT8}


@since(1, 24, "has no ConvInteger for int8 weights")
@pytest.mark.parametrize("group", [1, 2])
def test_d7_conv_where_all_is_asked_for(group: int) -> None:
    text = f"(float[1, 8, 12, 12] x) => (y) {{ y = Conv<pads=[1,1,1,1], group={group}>(x, w, b) }}"
    given = text_model(text, w=normal(16, 8 // group, 3, 3), b=normal(16, seed=1))
    with pytest.raises(onnxq.UnsupportedModelError, match=r"ConvInteger is 3 to 20 times slower.*\n.*mode=.static."):
        dynamic(given, normal(1, 8, 12, 12, seed=2))
    assert_runs(dynamic(given, normal(1, 8, 12, 12, seed=2), placement="full"), "ConvInteger")


UNSIGNED = {
    "MatMul": ("(float[N, 32] x) => (y) { y = MatMul(x, w) }", {"w": normal(32, 24)}),
    "Gemm": (
        "(float[N, 32] x) => (y) { y = Gemm<transB=1, alpha=0.5>(x, w, b) }",
        {"w": normal(24, 32), "b": normal(24)},
    ),
    "LSTM": (
        "(float[7, 2, 32] x) => (y) { y = LSTM<hidden_size=16>(x, w, r) }",
        {"w": 0.3 * normal(1, 64, 32), "r": 0.3 * normal(1, 64, 16)},
    ),
    "GRU": (
        "(float[7, 2, 32] x) => (y) { y = GRU<hidden_size=24>(x, w, r) }",
        {"w": 0.3 * normal(1, 72, 32), "r": 0.3 * normal(1, 72, 24)},
    ),
    "Conv": (
        "(float[1, 32, 12] x) => (y) { y = Conv<pads=[1,1]>(x, w, b) }",
        {"w": normal(16, 32, 3), "b": normal(16)},
    ),
    "Gather": ("(int64[N] x) => (y) { y = Gather(w, x) }", {"w": normal(200, 32)}),
}


@pytest.mark.parametrize("op", UNSIGNED)
@pytest.mark.parametrize("per_channel", [True, False])
def test_weights_in_uint8_have_their_zero_point_everywhere(op: str, per_channel: bool) -> None:
    text, weights = UNSIGNED[op]
    given = text_model(text, **weights)
    shape = [d.dim_value or 5 for d in given.graph.input[0].type.tensor_type.shape.dim]
    x = np.arange(5) if op == "Gather" else normal(*shape, seed=2)
    override = {"nodes": "*", "weight": "uint8", "per_channel": per_channel}
    result = dynamic(given, x, placement="full", overrides=[override])
    assert result.report, result.report.to_text()
    codes = {t.data_type for t in result.model.graph.initializer if t.name.endswith("quantized")}
    assert codes == {TensorProto.INT8 if op == "Gather" else TensorProto.UINT8}
    assert any("1 table in int8, not in uint8" in note for note in result.report.notes) == (op == "Gather")
    assert result.report.worst_sqnr_db is not None
    assert result.report.worst_sqnr_db > MIN_SQNR_DB


def test_every_rule_has_a_test() -> None:
    rules = {rule.rule.lower() for rule in DYNAMIC_RULES.values()}
    tested = {name.split("_")[1] for name in globals() if name.startswith("test_d") and name[6].isdigit()}
    assert tested == rules


def test_weights_never_saturate_on_avx2() -> None:
    """Neighbouring weights at full range: 255 * (127 + 127) does not fit into int16."""
    weight = np.ones((64, 8), np.float32)
    result = dynamic(
        text_model("(float[N, 64] x) => (y) { y = MatMul(x, w) }", w=weight), normal(4, 64), target="ort-x64-avx2"
    )
    codes = next(numpy_helper.to_array(t) for t in result.model.graph.initializer if t.name == "w_quantized")
    assert np.abs(codes.astype(int).reshape(32, 2, 8).sum(1)).max() <= 128


def test_a_loop_has_its_body_quantized() -> None:
    """A decoder that runs a step in a Loop."""
    text = """(float[1, 32] x) => (float[1, 32] y) {
        y = Loop(trips, yes, x) <body = b (int64 i, bool go, float[1, 32] s) => (bool on, float[1, 32] t) {
            [step] p = MatMul(s, w)  t = Tanh(p)  on = Identity(go) }> }"""
    given = text_model(text, w=0.2 * normal(32, 32), trips=np.int64(3), yes=np.bool_(True))
    result = dynamic(given, normal(1, 32, seed=3))
    assert result.report, result.report.to_text()
    assert {d.node.rpartition("/")[2]: d.action for d in result.plan.nodes}["step"] is Action.INT8
    assert result.report.worst_sqnr_db is not None
    assert result.report.worst_sqnr_db > MIN_SQNR_DB


@pytest.mark.parametrize("name", ["silero_vad", "silero_vad_op18_ifless", "silero_vad_sequence"])
def test_a_voice_detector_decides_as_before(name: str) -> None:
    """Its LSTM, inside nested Ifs in the first file, runs in int8; the probabilities stay within one hundredth.

    Guarded weights (C14) are coarser: three hundredths.
    """
    zoo = present(name)
    result = onnxq.quantize(zoo.path(), list(zoo.held_out(64)), mode="dynamic")
    assert result.report, result.report.to_text()
    assert result.report.engine is not None
    kernels = result.report.engine.engine_ops
    assert kernels.get("DynamicQuantizeLSTM", 0) + kernels.get("DynamicQuantizeMatMul", 0) >= 1
    assert result.report.outputs[0].max_abs < (0.03 if result.report.target == "ort-x64-avx2" else 0.01)


def test_what_is_excluded_stays_float() -> None:
    text = "(float[N, 64] x) => (y) { [one] a = MatMul(x, v)  [two] y = MatMul(a, w) }"
    given = text_model(text, v=normal(64, 32), w=normal(32, 16, seed=1))
    result = dynamic(given, normal(8, 64, seed=2), exclude=["two"])
    assert [d.action for d in result.plan.nodes] == [Action.INT8, Action.FLOAT]
    assert_runs(result, "MatMul")


def test_the_model_is_made_again_from_its_metadata(tmp_path: Path) -> None:
    from onnxq.api.reproduce import reproduce  # noqa: PLC0415 - the one test of it here

    given = text_model("(float[N, 64] x) => (y) { y = MatMul(x, w) }", w=normal(64, 32))
    path = tmp_path / "m.onnx"
    onnx.save(given, path)
    result = onnxq.quantize(path, mode="dynamic", output=tmp_path / "m.int8.onnx")
    assert result.output is not None
    assert reproduce(path, result.output).passed


def test_a_wider_type_or_another_engine_is_refused() -> None:
    given = text_model("(float[N, 64] x) => (y) { y = MatMul(x, w) }", w=normal(64, 32))
    with pytest.raises(onnxq.ConfigError, match="no dynamically quantized operators"):
        onnxq.quantize(given, mode="dynamic", target="tensorrt")
    with pytest.raises(onnxq.ConfigError, match="writes weights as int8, not as 'int4'"):
        onnxq.quantize(given, mode="dynamic", weights="int4")
    with pytest.raises(onnxq.ConfigError, match="takes no weights of type 'int16'"):
        onnxq.quantize(given, mode="dynamic", overrides=[{"nodes": "*", "weight": "int16"}])
    with pytest.raises(onnxq.ConfigError, match=r"method='entropy' \(--method\) has no meaning in mode 'dynamic'"):
        onnxq.quantize(given, mode="dynamic", method="entropy")
    with pytest.raises(onnxq.ConfigError, match="did you mean mode='dynamic'"):
        onnxq.quantize(given, mode="dynamics")


def test_what_stays_float_of_a_half_model_takes_no_more_room() -> None:
    """A Conv is left as it is: its weights were float16, compute in float32, and are stored in float16 again.

    With AMX, onnxruntime 1.23 multiplies matrices wrongly whose sizes are no multiples of its tiles: 64 is one.
    """
    text = """(float16[1,32,72] x) => (float16[1,64,64] y)
    { a = Conv(x, w) b = Relu(a) y = MatMul(b, v) }"""
    given = model_of(text, w=normal(64, 32, 9).astype(np.float16), v=normal(64, 64).astype(np.float16))
    result = dynamic(given, normal(1, 32, 72).astype(np.float16))
    assert_runs(result, "DynamicQuantizeMatMul")
    assert result.report.size_after_bytes < 1.1 * result.report.size_before_bytes
