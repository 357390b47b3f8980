"""Forms of single tensors by overrides: bits, given ranges, powers of two, narrow ranges, blocks; in whole models."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import onnxq
from onnxq.errors import ConfigError
from onnxq.graph.view import Graph
from onnxq.numerics import fake_quantize
from onnxq.targets import TARGETS
from onnxq.targets.schema import Engine
from tests.graphs import computed, model_of, normal

TEXT = """(float[4,32] x) => (float[4,24] y) {
    [a] h = MatMul(x, u)
    [r] r = Relu(h)
    [b] y = Gemm(r, v, e)
    }"""
CONSTANTS = {"u": normal(32, 40), "v": normal(40, 24, seed=1), "e": normal(24, seed=2)}
DATA = [{"x": normal(4, 32, seed=i)} for i in range(6)]
NPU = replace(TARGETS["tensorrt"], name="npu", engine=Engine.NONE, blocks=True)


def made(*overrides: dict[str, Any], target: object = NPU) -> onnxq.QuantizeResult:
    model = model_of(TEXT, **CONSTANTS)
    return onnxq.quantize(model, DATA, target=target, method="max", recover="none", overrides=overrides)


def by_hand(result: onnxq.QuantizeResult, feeds: dict[str, np.ndarray]) -> np.ndarray:
    """The network in numpy, with each tensor rounded by the parameters of the result."""
    params = result.qparams
    x, u = fake_quantize(feeds["x"], params["x"]), fake_quantize(CONSTANTS["u"], params["u"])
    r = fake_quantize(np.maximum(x @ u, 0.0), params["r"])
    return np.asarray(r @ fake_quantize(CONSTANTS["v"], params["v"]) + CONSTANTS["e"])


FORMS: dict[str, dict[str, Any]] = {
    "few bits": {"nodes": "*", "activation_bits": 5, "weight_bits": 3},
    "two bits": {"nodes": "b", "activation_bits": 2, "weight_bits": 2},
    "powers of two": {"nodes": "*", "power_of_two": True},
    "narrow": {"nodes": "*", "narrow_range": True},
    "amax": {"tensors": "x", "amax": 0.5},
    "amax of weights": {"tensors": "u", "weight_amax": 0.5},
    "blocks": {"nodes": "*", "block_size": 16},
    "blocks that do not divide": {"nodes": "b", "block_size": 12, "weight_bits": 4},
}


@pytest.mark.parametrize("name", FORMS)
def test_what_the_graph_computes_is_what_numpy_says(name: str) -> None:
    result = made(FORMS[name])
    # Twice the calibration data: values beyond the range, where a missing Clip would show.
    feeds = {"x": 2.0 * DATA[0]["x"]}
    # Sums of at most 40 products in another order.
    np.testing.assert_allclose(computed(Graph(result.model), feeds)[0], by_hand(result, feeds), rtol=1e-5, atol=1e-4)


def test_no_clip_behind_a_relu_where_the_smallest_code_alone_is_left_out() -> None:
    graph = Graph(made(FORMS["narrow"]).model)
    assert {n.name for n in graph.nodes if n.op_type == "Clip"} == {"x_Clip"}, "r is never negative"


def test_codes_stay_inside_their_bits() -> None:
    result = made(FORMS["few bits"])
    graph = Graph(result.model)
    assert {n.op_type for n in graph.nodes} == {
        "Clip",
        "QuantizeLinear",
        "DequantizeLinear",
        "MatMul",
        "Relu",
        "Gemm",
    }
    assert np.abs(graph.constant("u_quantized")).max() <= 3
    graph.prune()
    out = computed(graph, DATA[0])[0]
    assert np.isfinite(out).all()


def test_scales_are_powers_of_two() -> None:
    result = made(FORMS["powers of two"])
    for params in result.qparams.values():
        exponents = np.log2(params.scale.astype(np.float64))
        np.testing.assert_array_equal(exponents, np.rint(exponents))


def test_given_magnitudes() -> None:
    assert float(made(FORMS["amax"]).qparams["x"].scale) == np.float32(0.5 / 127)
    scales = made(FORMS["amax of weights"]).qparams["u"].scale
    np.testing.assert_array_equal(scales, np.full(40, 0.5 / 127, np.float32))


def test_blocks_run_along_the_summed_axis() -> None:
    params = made(FORMS["blocks"]).qparams
    assert (params["u"].spec.axis, params["u"].scale.shape) == (0, (2, 40))
    assert (params["v"].spec.axis, params["v"].scale.shape) == (0, (3, 24))
    node = next(n for n in made(FORMS["blocks"]).model.graph.node if n.name == "u_DequantizeLinear")
    assert {a.name: a.i for a in node.attribute} == {"axis": 0, "block_size": 16}
    assert made(FORMS["blocks"]).model.opset_import[0].version >= 21


def test_blocks_round_no_worse_than_channels() -> None:
    few = {"nodes": "*", "weight_bits": 4}
    channels, blocks = made(few), made({**few, "block_size": 8})
    assert blocks.report.outputs[0].sqnr_db > channels.report.outputs[0].sqnr_db + 0.5


CONVS = """(float[1,64,16,16] x) => (float[1,64,16,16] y) {
    [a] h = Conv<pads=[1,1,1,1]>(x, w)
    [r] r = Relu(h)
    [b] y = Conv<pads=[1,1,1,1]>(r, v)
    }"""


@pytest.mark.parametrize(("target", "override"), [
    ("ort-x64-vnni", {"weight_bits": 5, "power_of_two": True}),
    ("openvino", {"weight_bits": 5, "power_of_two": True}),
    ("openvino", {"activation_bits": 6}),
    ("tensorrt", {"activation_bits": 6, "weight_bits": 4}),
])  # fmt: skip
def test_engines_run_codes_of_fewer_bits_as_those_of_the_type(target: str, override: dict[str, Any]) -> None:
    model = model_of(CONVS, w=normal(64, 64, 3, 3), v=normal(64, 64, 3, 3, seed=1))
    data = [{"x": normal(1, 64, 16, 16, seed=i)} for i in range(2)]
    result = onnxq.quantize(model, data, target=target, overrides=[{"nodes": "*", **override}])
    assert result.report, result.report.to_text()
    largest = np.abs(Graph(result.model).constant("w_quantized")).max()
    assert largest == {5: 15, 4: 7}.get(override.get("weight_bits"), 127)


@pytest.mark.parametrize(("override", "target", "message"), [
    ({"nodes": "*", "activation_bits": 9}, "tensorrt", "bits is 9, expected a whole number from 2 to 8"),
    ({"nodes": "*", "weight_bits": 1}, "tensorrt", "bits is 1, expected a whole number from 2 to 8"),
    ({"nodes": "*", "block_size": 16}, "tensorrt", "tensorrt takes no scales for blocks of weights"),
    ({"nodes": "*", "symmetric": False}, "tensorrt", "tensorrt takes symmetric activations alone"),
    ({"nodes": "*", "symmetric": "no"}, "tensorrt", "symmetric is 'no', expected true or false"),
    ({"tensors": "x", "amax": -1}, "tensorrt", "amax is -1, expected a positive number"),
    ({"tensors": "x", "amax": 1.0, "range": [0, 1]}, "tensorrt", "range and amax say the same"),
    ({"tensors": "x", "amax": 1.0, "method": "max"}, "tensorrt", "range leaves nothing for a method to choose"),
    ({"nodes": "*", "block_size": 16, "per_channel": True}, NPU, "per_channel and block_size contradict"),
    ({"nodes": "*", "block_size": 0}, NPU, "block_size is 0, expected a whole number"),
])  # fmt: skip
def test_what_cannot_be(override: dict[str, Any], target: object, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        made(override, target=target)


def test_a_clip_in_front_of_a_pair_is_told_where_kernels_do_not_fuse_with_it() -> None:
    text = "(float[n,64] x) => (float[n,64] y) { [a] h = MatMul(x, v) [b] y = MatMul(h, w) }"
    graph = model_of(text, v=normal(64, 64), w=normal(64, 64, seed=1))
    told = "1 activation with fewer codes than the type has, first 'h': a Clip stands in front of its Q"
    for target, there in (("ort-x64-vnni", True), ("tensorrt", False)):
        plan = onnxq.plan(graph, target=target, placement="full", overrides=[{"tensors": "h", "activation_bits": 6}])
        assert any(note.startswith(told) for note in plan.notes) is there
