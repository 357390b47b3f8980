"""16-bit activations: what engines do with such pairs, the numbers, and the targets that nobody here can run."""

from __future__ import annotations

import numpy as np
import onnxruntime as ort
import pytest

import onnxq
from onnxq.graph.model import load_graph
from onnxq.graph.view import Graph
from onnxq.numerics import fake_quantize, sqnr_db
from onnxq.verification.engines.openvino_model import core
from tests.e2e.conftest import present
from tests.graphs import computed, model_of, normal

pytestmark = pytest.mark.slow

TEXT = """(float[1,16,8,8] x) => (float[1,8] y) {
    [c] a = Conv<pads=[1,1,1,1]>(x, w, b)
    [s] s = Sigmoid(a)
    [m] m = Mul(a, s)
    [d] e = Conv<pads=[1,1,1,1]>(m, v)
    [t] t = Tanh(e)
    [g] g = GlobalAveragePool(t)
    [f] f = Flatten(g)
    [p] y = Gemm(f, u, k)
    }"""
CONSTANTS = {
    "w": normal(16, 16, 3, 3), "b": normal(16), "v": 0.1 * normal(16, 16, 3, 3, seed=1), "u": normal(16, 8),
    "k": normal(8),
}  # fmt: skip
DATA = [{"x": normal(1, 16, 8, 8, seed=i)} for i in range(6)]


def made(target: str, **arguments: object) -> onnxq.QuantizeResult:
    return onnxq.quantize(model_of(TEXT, **CONSTANTS), DATA, target=target, method="max", **arguments)


# ---- engines that compute in float -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["int16", "uint16"])
def test_c18_onnxruntime_has_no_kernel_for_16_bits(name: str, tmp_path: object) -> None:
    model = made("ort-x64-vnni", activations=name).model
    options = ort.SessionOptions()
    options.optimized_model_filepath = f"{tmp_path}/optimised.onnx"
    ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    kernels = {n.op_type for n in load_graph(f"{tmp_path}/optimised.onnx").nodes}
    assert "Conv" in kernels and not any(kernel.startswith(("QLinear", "QGemm")) for kernel in kernels)


@pytest.mark.parametrize("name", ["int16", "uint16"])
def test_v6_openvino_computes_in_float(name: str) -> None:
    pytest.importorskip("openvino")
    model = made("openvino", activations=name).model
    compiled = core().compile_model(core().read_model(model.SerializeToString()), "CPU")
    info = [op.get_rt_info() for op in compiled.get_runtime_model().get_ordered_ops()]
    precisions = [str(i["runtimePrecision"].value) for i in info if str(i["layerType"].value) == "Convolution"]
    assert precisions and set(precisions) <= {"f32", "bf16", "f16"}


@pytest.mark.parametrize("target", ["ort-x64-vnni", "openvino"])
def test_a_user_is_told_that_such_a_model_is_for_measuring(target: str) -> None:
    result = made(target, activations="uint16", weights="int16")
    assert any("in float between Q/DQ pairs of int16 and uint16" in note for note in result.report.notes)
    assert result.report, result.report.to_text()
    assert result.report.engine is None
    assert any(f"{target} computes in float between pairs of such types" in said for said in result.report.warnings)
    # On a sample of the calibration, where nothing clips. Eight bits more are 48 dB.
    reference = computed(load_graph(model_of(TEXT, **CONSTANTS)), DATA[0])[0]
    eight, sixteen = (sqnr_db(reference, computed(Graph(r.model), DATA[0])[0]) for r in (made(target), result))
    assert sixteen > eight + 30.0


def test_so_is_one_who_asks_for_a_single_tensor() -> None:
    result = made("ort-x64-vnni", overrides=[{"tensors": "m", "activation": "uint16"}])
    assert result.report, result.report.to_text()
    assert any("computes in float between Q/DQ pairs of uint16" in note for note in result.report.notes)
    assert {k: t.spec.qtype.name for k, t in result.plan.tensors.items() if k in "xm"} == {"x": "uint8", "m": "uint16"}


# ---- QNN, XNNPACK -----------------------------------------------------------------------------------------------


def test_q1_to_q5_in_the_plan_for_qnn() -> None:
    result = made("qnn", activations="uint16")
    params = result.qparams
    assert {d.node: d.action.value for d in result.plan.nodes} == dict.fromkeys("csmdtgfp", "int8")
    assert (float(params["s"].scale), int(params["s"].zero_point)) == (1 / 65536, 0)
    assert (float(params["t"].scale), int(params["t"].zero_point)) == (1 / 32768, 32768)
    forms = {k: (t.spec.qtype.name, t.spec.axis) for k, t in result.plan.tensors.items()}
    assert forms["w"] == forms["v"] == ("int8", 0)
    assert forms["u"] == ("uint8", None)
    assert forms["x"] == forms["y"] == ("uint16", None)
    assert int(params["u"].zero_point) == 128
    assert forms["b"][0] == forms["k"][0] == "int32"


@pytest.mark.parametrize(("activations", "codes"), [(None, "uint8"), ("uint16", "uint16")])
def test_q3_an_add_behind_a_product_is_an_operator_of_its_own(activations: str | None, codes: str) -> None:
    text = "(float[n,6,8] x) => (float[n,6,16] y) { [m] a = MatMul(x, w) [d] b = Add(a, c) [r] y = Relu(b) }"
    values = {"w": normal(8, 16), "c": normal(16, seed=1)}
    data = [{"x": normal(2, 6, 8, seed=i)} for i in range(16)]
    result = onnxq.quantize(model_of(text, **values), data, target="qnn", activations=activations)
    forms = {k: (t.spec.qtype.name, t.role.value) for k, t in result.plan.tensors.items()}
    assert forms["a"] == forms["b"] == (codes, "activation")
    assert forms["c"] == (codes, "constant")
    assert {d.node: d.action.value for d in result.plan.nodes} == dict.fromkeys("mdr", "int8")


@pytest.mark.parametrize("recover", ["bias", "fast"])
@pytest.mark.parametrize("activations", [None, "uint16"])
def test_q3_the_constant_of_such_an_add_takes_back_the_mean_shift(activations: str | None, recover: str) -> None:
    """In its own codes: what is left of the shift is at most half a step, or what saturates at the ends."""
    text = "(float[n,6,8] x) => (float[n,6,16] y) { [m] a = MatMul(x, w) [d] y = Add(a, c) }"
    values = {"w": normal(8, 16), "c": normal(16, seed=1)}
    # Inputs far from 0: the one scale of the weight then shifts every channel.
    data = [{"x": normal(2, 6, 8, seed=i) + 3} for i in range(16)]
    model = model_of(text, **values)

    def left(recover: str) -> tuple[np.ndarray, float]:
        result = onnxq.quantize(model, data, target="qnn", activations=activations, recover=recover, method="max")
        shifts = [computed(load_graph(result.model), d)[0] - computed(load_graph(model), d)[0] for d in data]
        assert result.report, result.report.to_text()
        return np.mean(shifts, axis=(0, 1, 2)), float(result.qparams["c"].scale)

    before, step = left("none")
    after, _ = left(recover)
    inner = np.abs(values["c"]) < 0.8 * np.abs(values["c"]).max()
    assert np.abs(before[inner]).max() > 2 * step
    # Half a step of the constant, and what rounding outputs to steps ten times as wide leaves of their mean.
    assert np.abs(after[inner]).max() < np.abs(before[inner]).max() / 2
    assert np.square(after).sum() < np.square(before).sum() / 4


@pytest.mark.parametrize("activations", [None, "uint16"])
def test_the_pairs_for_qnn_compute_what_numpy_says(activations: str | None) -> None:
    result = made("qnn", activations=activations, recover="none")
    graph, params = load_graph(model_of(TEXT, **CONSTANTS)), result.qparams
    rounded = graph.copy()
    for name in ("w", "v", "u", "b", "k"):
        rounded.add_initializer(name, fake_quantize(graph.constant(name), params[name]))
    feeds = {"x": fake_quantize(DATA[0]["x"], params["x"])}
    rounded.outputs = dict.fromkeys(["y"], rounded.outputs["y"])
    out = computed(rounded, feeds)[0]
    got = computed(Graph(result.model), DATA[0])[0]
    # The activations between are not rounded in the reference: a few steps of the last one.
    assert np.abs(out - got).max() < 12 * float(params["y"].scale) * (1 if activations is None else 256)
    assert result.report
    assert "No engine was asked" in " ".join(result.report.warnings)


def test_x1_to_x3_in_the_plan_for_xnnpack() -> None:
    result = made("xnnpack")
    actions = {d.node: d.action.value for d in result.plan.nodes}
    assert {node for node, action in actions.items() if action == "int8"} == {"c", "d"}
    forms = {k: (t.spec.qtype.name, t.spec.symmetric) for k, t in result.plan.tensors.items()}
    assert forms["x"] == forms["m"] == ("int8", False) and forms["w"] == ("int8", True)


def test_real_models() -> None:
    image, text = present("digits_resnet"), present("wordlang_transformer")
    found = {
        (model.name, target, activations): onnxq.quantize(
            str(model.path()), model.calib(32), target=target, activations=activations
        )
        .report.outputs[0]
        .sqnr_db
        for model, target, activations in (
            (image, "qnn", None),
            (image, "qnn", "uint16"),
            (image, "xnnpack", None),
            (text, "qnn", "uint16"),  # the attention mask takes all of 8 bits
        )
    }
    assert min(found.values()) > 25.0, found
    assert found["digits_resnet", "qnn", "uint16"] > found["digits_resnet", "qnn", None] + 5.0
