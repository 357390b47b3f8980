"""Models that come with the Q/DQ pairs of a quantization-aware training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from numpy.typing import NDArray
from onnx import numpy_helper

import onnxq
from onnxq.cli.main import cli
from onnxq.graph import external_data, weights_file
from onnxq.graph.model import load_graph
from onnxq.graph.shapes import infer_shapes
from onnxq.graph.view import Graph
from onnxq.numerics.arrays import quantize
from onnxq.numerics.qparams import QuantParams
from onnxq.planning.plan import Role
from tests.graphs import computed, graph_of, model_of, normal, ops
from tests.qat_graphs import SPECS, Form, fake_quantized

ORT, AVX2, TENSORRT = "ort-x64-vnni", "ort-x64-avx2", "tensorrt"

TEXT = """(float[n,16,8,8] x) => (float[n,10] y) {
    c1 = Conv<pads=[1,1,1,1]>(x, w1, b1)
    r1 = Relu(c1)
    c2 = Conv<pads=[1,1,1,1]>(r1, w2, b2)
    s = Add(c2, r1)
    r2 = Relu(s)
    m = MaxPool<kernel_shape=[2,2], strides=[2,2]>(r2)
    d = Conv<group=32, pads=[1,1,1,1]>(m, w3, b3)
    k = Clip(d, low, high)
    g = GlobalAveragePool(k)
    f = Flatten(g)
    y = Gemm<transB=1>(f, w4, b4)
}"""
WEIGHTS = {"w1": 0, "w2": 0, "w3": 0, "w4": 0}
ALL = ("x", "r1", "c2", "r2", "k", "g")
X = normal(8, 16, 8, 8, seed=11)
FEED = {"x": X}
BATCHES = [{"x": X[i : i + 1]} for i in range(8)] * 2


def float_graph() -> Graph:
    graph = graph_of(
        TEXT,
        w1=normal(32, 16, 3, 3, seed=1) * 0.1,
        b1=normal(32, seed=2),
        w2=normal(32, 32, 3, 3, seed=3) * 0.1,
        b2=normal(32, seed=4),
        w3=normal(32, 1, 3, 3, seed=5) * 0.5,
        b3=normal(32, seed=6),
        w4=normal(10, 32, seed=7),
        b4=normal(10, seed=8),
        low=np.float32(0),
        high=np.float32(6),
    )
    infer_shapes(graph)
    return graph


def trained(
    activations: tuple[str, ...] = ALL, *, form: Form = "uint8", stored: bool = False
) -> tuple[Graph, dict[str, QuantParams]]:
    graph = float_graph()
    return graph, fake_quantized(graph, activations, WEIGHTS, FEED, form=form, stored=stored)


def codes_of(result: onnxq.QuantizeResult, role: Role) -> dict[str, NDArray[Any]]:
    """Integer initializers of a quantized model by the name of the float tensor."""
    values = {t.name: numpy_helper.to_array(t) for t in result.model.graph.initializer}
    return {
        tensor.name.removesuffix("_dq"): values[f"{tensor.name}_quantized"]
        for tensor in result.plan.tensors.values()
        if tensor.role is role
    }


def outputs(model: Any) -> NDArray[Any]:
    return computed(load_graph(model), FEED)[0]


@pytest.mark.parametrize("stored", [False, True])
@pytest.mark.parametrize("form", ["uint8", "int8"])
def test_nothing_is_calibrated_where_the_training_says_all(form: Form, stored: bool) -> None:
    graph, params = trained(form=form, stored=stored)
    result = onnxq.quantize(graph.to_model(), target=ORT)
    assert result.report.passed
    assert result.stats.samples == 0
    assert not result.report.data.synthetic
    # Every scale is the training's, int8 codes become uint8 codes of the same values, and weights keep their codes.
    for name in ALL[:5]:
        own = result.qparams[name]
        assert own.scale == params[name].scale
        shift = 128 if SPECS[form].qtype.signed else 0
        assert int(own.zero_point) == int(params[name].zero_point) + shift
    original = float_graph()
    for name, codes in codes_of(result, Role.WEIGHT).items():
        np.testing.assert_array_equal(codes, quantize(original.constant(name), params[name]))  # type: ignore[arg-type]
    # The same pairs in the same places, and biases in steps of scale(x) * scale(w): 2^-15 of a code of the output or
    # so, which can move a value over the border between two codes. One code in front of the Gemm's 32 products of |w|
    # about 1 is 32 * scale at most.
    step = float(params["g"].scale)
    np.testing.assert_allclose(outputs(result.model), outputs(graph.to_model()), rtol=0, atol=4 * step)


@pytest.mark.parametrize("target", [ORT, TENSORRT, "openvino"])
@pytest.mark.parametrize("form", ["uint8", "int8", "int8-symmetric"])
def test_every_form_for_every_target(form: Form, target: str) -> None:
    graph, params = trained(form=form)
    result = onnxq.quantize(graph.to_model(), BATCHES, target=target)
    assert result.report.passed
    # Forms that do not fit get a scale up to 255 / 127 times the training's. Each of the six roundings then moves the
    # output by about one code of its tensor, and rounding differs between neighbours: 16 codes of the mean, in all.
    step = float(params["g"].scale)
    np.testing.assert_allclose(outputs(result.model), outputs(graph.to_model()), rtol=0, atol=16 * step)


def test_a_symmetric_relu_gets_codes_from_zero_on() -> None:
    """Only then onnxruntime drops the Relu; the values that codes stand for are the training's."""
    graph, params = trained(form="int8-symmetric")
    result = onnxq.quantize(graph.to_model(), target=ORT)
    own = result.qparams["r1"]
    assert (own.scale, int(own.zero_point)) == (params["r1"].scale, 0)


def test_asymmetric_codes_get_a_range_that_holds_them_on_tensorrt() -> None:
    graph, params = trained()
    result = onnxq.quantize(graph.to_model(), BATCHES, target=TENSORRT)
    own, old = result.qparams["r1"], params["r1"]
    assert int(own.zero_point) == 0
    np.testing.assert_allclose(own.scale, old.scale * 255 / 127, rtol=1e-6)  # float32 rounding of the quotient
    assert any(
        "got another scale than in training, in the form of codes that tensorrt takes" in n for n in notes(result)
    )


def notes(result: onnxq.QuantizeResult) -> tuple[str, ...]:
    return tuple(result.report.notes)


def test_what_no_pair_says_needs_data() -> None:
    graph, _ = trained(("x", "r1", "r2", "k", "g"))
    with pytest.raises(onnxq.DataError) as error:
        onnxq.quantize(graph.to_model(), target=ORT)
    assert str(error.value) == (
        "the training's pairs leave 1 tensor open that ort-x64-vnni quantizes, first 'c2'\n"
        "Hint: pass data= (--data) to calibrate them, or keep the nodes that read them in float: exclude=(...) "
        "(--exclude NAME)"
    )
    result = onnxq.quantize(graph.to_model(), BATCHES, target=ORT, method="max")
    assert "1 tensor, first 'c2', had no pair in training and got a calibrated range" in notes(result)
    assert result.report.method == "training, max"
    assert result.report.passed


def test_a_pair_behind_a_max_pool_or_in_front_of_a_relu_says_enough() -> None:
    """The pooled tensor's pair serves the one in front of it; the one in front of a Relu serves the one behind."""
    graph, params = trained(("x", "c1", "c2", "m", "k", "g"))
    result = onnxq.quantize(graph.to_model(), target=ORT)
    assert result.qparams["r1"].scale == params["c1"].scale
    assert result.qparams["r2"].scale == params["m"].scale


def test_biases_are_left_to_the_training() -> None:
    """Bias correction would move what the training has settled."""
    graph, params = trained()
    result = onnxq.quantize(graph.to_model(), BATCHES, target=TENSORRT)
    kept = {t.name: numpy_helper.to_array(t) for t in result.model.graph.initializer}
    for name in ("b1", "b2", "b3", "b4"):
        np.testing.assert_array_equal(kept[name], float_graph().constant(name))  # type: ignore[arg-type]
    assert params


def test_batchnorm_behind_a_trained_weight() -> None:
    """Folding scales rows, also by negative factors: scales follow, and codes change their sign at most."""
    graph = graph_of(
        """(float[n,16,8,8] x) => (float[n,24,8,8] y) {
            c = Conv<pads=[1,1,1,1]>(x, w, b)
            n1 = BatchNormalization(c, gamma, beta, mean, var)
            y = Relu(n1)
        }""",
        w=normal(24, 16, 3, 3, seed=1),
        b=normal(24, seed=2),
        gamma=normal(24, seed=3),
        beta=normal(24, seed=4),
        mean=normal(24, seed=5),
        var=np.abs(normal(24, seed=6)) + np.float32(0.5),
    )
    infer_shapes(graph)
    gamma = graph.constant("gamma")
    assert gamma is not None
    assert (gamma < 0).any()
    codes = graph.copy()
    params = fake_quantized(graph, ("x", "y"), {"w": 0}, FEED)
    result = onnxq.quantize(graph.to_model(), target=ORT)
    (found,) = codes_of(result, Role.WEIGHT).values()
    expected = quantize(codes.constant("w"), params["w"]).astype(np.int32)  # type: ignore[arg-type]
    np.testing.assert_array_equal(found, expected * np.sign(gamma).astype(np.int32).reshape(-1, 1, 1, 1))
    # Equal codes and equal pairs: what differs is the rounding of the bias, which moves few values by one code.
    off = np.abs(outputs(result.model) - outputs(graph.to_model()))
    assert off.max() <= 1.01 * float(params["y"].scale)
    assert (off > 1e-6).mean() < 0.01


def test_per_tensor_scale_serves_every_channel() -> None:
    graph = float_graph()
    params = fake_quantized(graph, ALL, dict.fromkeys(WEIGHTS), FEED)
    result = onnxq.quantize(graph.to_model(), target=ORT)
    np.testing.assert_array_equal(result.qparams["w1_dq"].scale, np.full(32, params["w1"].scale))


def test_asymmetric_weights_get_a_new_scale_and_a_note() -> None:
    graph = float_graph()
    fake_quantized(graph, ALL, {k: v for k, v in WEIGHTS.items() if k != "w1"}, FEED)
    weight = graph.constant("w1")
    assert weight is not None
    scale = graph.add_initializer("w1_s", np.float32(np.abs(weight).max() / 100))
    zero = graph.add_initializer("w1_z", np.uint8(120))
    graph.replace_uses("w1", "w1_dq")
    graph.add_node("QuantizeLinear", ["w1", scale, zero], ["w1_q"], name="q")
    graph.add_node("DequantizeLinear", ["w1_q", scale, zero], ["w1_dq"], name="dq")
    graph.sort()
    result = onnxq.quantize(graph.to_model(), target=ORT)
    assert any("'w1_dq', got another scale: ort-x64-vnni does not take weights" in note for note in notes(result))
    assert result.report.passed


def test_a_guarded_target_widens_weights_and_says_so() -> None:
    graph, params = trained()
    result = onnxq.quantize(graph.to_model(), target=AVX2)
    assert (result.qparams["w1_dq"].scale >= params["w1"].scale).all()
    assert (result.qparams["w1_dq"].scale > params["w1"].scale).any()
    assert any("got larger scales than in training" in note for note in notes(result))


def test_codes_that_are_clipped_and_moved_between_q_and_dq() -> None:
    """PyTorch writes a 7-bit range as a Clip of codes, TensorFlow pools and reshapes codes."""
    graph = graph_of(
        """(float[n,16,8,8] x) => (float[n,16,4,4] y) {
            q = QuantizeLinear(x, s, z)
            low_q = Clip(q, low, high)
            pooled = MaxPool<kernel_shape=[2,2], strides=[2,2]>(low_q)
            d = DequantizeLinear(pooled, s, z)
            y = Conv<pads=[1,1,1,1]>(d, w)
        }""",
        s=np.float32(0.05),
        z=np.uint8(64),
        low=np.uint8(0),
        high=np.uint8(127),
        w=normal(16, 16, 3, 3),
    )
    result = onnxq.quantize(graph.to_model(), BATCHES, target="openvino")
    assert result.qparams["pooled"].scale == np.float32(0.05)
    assert "1 tensor, first 'x', had codes of a smaller range than their type in training, which a pair cannot say" in (
        notes(result)
    )


def test_an_output_that_a_pair_gives_keeps_its_name() -> None:
    graph, _ = trained((*ALL, "y"))
    result = onnxq.quantize(graph.to_model(), target=ORT)
    assert [o.name for o in result.model.graph.output] == ["y"]


REFUSED = {
    "computed": (
        "s2 = Mul(s, s) q = QuantizeLinear(x, s2, z) d = DequantizeLinear(q, s2, z) y = Conv(d, w)",
        "DequantizeLinear 'dq': the model comes quantized, and this pair cannot be taken over: its scale or zero-point "
        "is computed",
    ),
    "another scale": (
        "q = QuantizeLinear(x, s, z) d = DequantizeLinear(q, t, z) y = Conv(d, w)",
        "its parameters are not those of",
    ),
    "codes read elsewhere": (
        "q = QuantizeLinear(x, s, z) d = DequantizeLinear(q, s, z) c = Cast<to=1>(q) e = Conv(d, w) y = Add(e, c)",
        "its codes are read by something else than a DequantizeLinear",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_pairs_that_cannot_be_taken_over(case: str) -> None:
    text, expected = REFUSED[case]
    text = text.replace("d = Deq", "[dq] d = Deq")
    model = model_of(
        f"(float[2,16,8,8] x) => (float[2,16,8,8] y) {{ {text} }}",
        s=np.float32(0.1),
        t=np.float32(0.2),
        z=np.uint8(0),
        w=normal(16, 16, 1, 1),
    )
    with pytest.raises(onnxq.UnsupportedModelError) as error:
        onnxq.quantize(model, BATCHES, target=ORT)
    assert expected in str(error.value)
    assert "Hint: export the trained model with plain" in str(error.value)


def test_placement_is_the_planners() -> None:
    """What the float graph would get, whatever pairs the training had: the same nodes run in int8."""
    graph, _ = trained(("x", "r1", "r2", "k"))
    own = onnxq.quantize(graph.to_model(), BATCHES, target=ORT)
    plain = onnxq.quantize(float_graph().to_model(), BATCHES, target=ORT)
    assert ops(load_graph(own.model)) == ops(load_graph(plain.model))
    assert own.report.passed


def test_weights_in_a_temporary_file(monkeypatch: pytest.MonkeyPatch) -> None:
    """What passes make of many weights lies there; the values that pairs gave are read back from it."""
    graph, _ = trained()
    want = onnxq.quantize(graph.to_model(), BATCHES, target=ORT)
    monkeypatch.setattr(external_data, "SCRATCH_BYTES", 0)
    monkeypatch.setattr(weights_file, "_EXTERNAL_MIN_BYTES", 1)
    assert onnxq.quantize(graph.to_model(), BATCHES, target=ORT).model == want.model


def test_a_calibration_cache_beside_trained_scales_is_refused(tmp_path: Path) -> None:
    cache = tmp_path / "trt.cache"
    cache.write_text("TRT-100000-EntropyCalibration2\nx: 3c010a14\n")
    graph, _ = trained()
    with pytest.raises(onnxq.ConfigError) as error:
        onnxq.quantize(graph.to_model(), target=TENSORRT, tensorrt_cache=cache)
    assert str(error.value) == (
        "the model was trained with Q/DQ pairs and brings its own scales, which a calibration cache would replace\n"
        "Hint: leave out tensorrt_cache= (--calibration-cache)"
    )


def test_statistics_serve_for_what_no_pair_says() -> None:
    graph, params = trained(("x", "r1", "r2", "k", "g"))
    stats = onnxq.calibrate(graph.to_model(), BATCHES, target=ORT)
    result = onnxq.quantize(graph.to_model(), BATCHES, stats=stats, target=ORT)
    assert result.qparams["r1"].scale == params["r1"].scale
    assert result.report.passed


def test_the_command_line_does_not_warn_where_nothing_is_calibrated(tmp_path: Path) -> None:
    graph, _ = trained()
    onnx.save(graph.to_model(), str(tmp_path / "qat.onnx"))
    result = CliRunner().invoke(cli, ["quantize", str(tmp_path / "qat.onnx"), "--target", ORT])
    assert result.exit_code == 0, result.output
    assert "data: NONE" not in result.output
    assert (tmp_path / "qat.int8.onnx").is_file()


def test_what_onnxq_made_is_still_refused() -> None:
    graph, _ = trained()
    made = onnxq.quantize(graph.to_model(), target=ORT).model
    with pytest.raises(onnxq.ModelError, match="the model is quantized already"):
        onnxq.quantize(made, target=ORT)
