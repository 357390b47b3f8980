"""Tensors that nothing can divide get a Mul in front of their readers, where one scale serves their channels badly."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import onnxq
from onnxq.data.inputs import InputSpecs
from onnxq.data.sources import open_data
from onnxq.graph.view import Graph
from onnxq.planning.plan import Action
from onnxq.recovery.dividers import with_dividers
from tests.graphs import computed, graph_of, model_of, normal
from tests.unit.test_levelling import levelled, planned

REACH = np.ones(24, np.float32)
REACH[5] = 60.0

FEATURES = "(float[n,24] x) => (float[n,32] y) { [first] a = Gemm(x, w, b) [act] h = Tanh(a) [last] y = Gemm(h, v, c) }"
"""Features of a model, one of them in another unit."""
CONSTANTS: dict[str, Any] = {
    "w": normal(24, 32, seed=1) / REACH[:, None] / 5, "b": normal(32, seed=2), "v": normal(32, 32, seed=3),
    "c": normal(32, seed=4),
}  # fmt: skip
DATA = [{"x": normal(4, 24, seed=s) * REACH} for s in range(16)]

RESIDUAL = """(float[n,24] x) => (float[n,24] y) {
    [norm] h = LayerNormalization<axis=-1>(x, g, o)
    [up] a = MatMul(h, w)  [act] r = Tanh(a)  [down] m = MatMul(r, v)
    [sum] y = Add(h, m)
}"""
"""What goes into the product goes into a sum as well, which has to see it as it is."""

IMAGES = "(float[n,24,12] x) => (float[n,8,10] y) { [conv] y = Conv(x, w) }"


def worst(result: onnxq.QuantizeResult) -> float:
    assert result.report, result.report.to_text()
    assert result.report.worst_sqnr_db is not None
    return result.report.worst_sqnr_db


def dividers(graph: Graph) -> list[str]:
    return [node.name for node in graph.nodes if node.name.endswith("_divided")]


@pytest.mark.parametrize("target", ["ort-x64-vnni", "ort-x64-avx2", "tensorrt", "openvino"])
def test_features_in_units_of_their_own_are_divided(target: str) -> None:
    model = model_of(FEATURES, **CONSTANTS)
    result = onnxq.quantize(model, DATA, target=target, placement="full")
    assert dividers(Graph(result.model)) == ["x_divided"]
    assert "levelling: channels of 1 tensor made even, first 'x_divided'" in result.report.notes
    decision = next(d for d in result.plan.nodes if d.node == "x_divided")
    assert (decision.action, decision.rule) == (Action.FLOAT, "level")
    plain = onnxq.quantize(model, DATA, target=target, placement="full", recover="reconstruct")
    # One scale for all leaves 23 features four codes; 36 dB and more where they have a scale that fits.
    assert worst(result) > worst(plain) + 6
    again = onnxq.quantize(model, DATA, target=target, placement="full", stats=result.stats)
    assert again.model.graph == result.model.graph


def test_the_float_function_stays() -> None:
    graph = graph_of(FEATURES, **CONSTANTS)
    plan = planned(graph, "tensorrt")
    data = open_data(DATA, inputs=InputSpecs.from_graph(graph))
    result = levelled(graph, plan, data=data, divides=True)
    assert set(result.plan.observed()) == {"x_divided", "h"}
    x = normal(50, 24, seed=99) * REACH
    (want,), (got,) = computed(graph, {"x": x}), computed(result.graph, {"x": x})
    # A weight and a divisor are rounded to float32 once more, 2^-24 of each.
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-5 * np.abs(want).max())
    assert graph.producer("a").input[0] == "x"  # the given graph is not changed


def test_a_residual_sum_reads_what_it_read() -> None:
    constants = {"g": REACH, "o": normal(24, seed=1), "w": normal(24, 32, seed=2) / REACH[:, None] / 5,
                 "v": normal(32, 24, seed=3) / 5}  # fmt: skip
    data = [{"x": normal(4, 24, seed=s)} for s in range(16)]
    model = model_of(RESIDUAL, **constants)
    result = onnxq.quantize(model, data, target="tensorrt")
    graph = Graph(result.model)
    assert dividers(graph) == ["h_divided"]
    assert "h" in graph.node("sum").input
    assert worst(result) > worst(onnxq.quantize(model, data, target="tensorrt", recover="reconstruct")) + 3


def test_channels_of_an_image_are_those_that_a_conv_sums_over() -> None:
    w = normal(8, 24, 3, seed=1) / REACH[:, None]
    data = [{"x": normal(1, 24, 12, seed=s) * REACH[:, None]} for s in range(16)]
    result = onnxq.quantize(model_of(IMAGES, w=w), data, target="ort-x64-vnni", placement="full")
    graph = Graph(result.model)
    assert dividers(graph) == ["x_divided"]
    (divisors,) = [graph.constant(name) for name in graph.node("x_divided").input if graph.is_constant(name)]
    assert divisors.shape == (24, 1)
    assert divisors[5] < divisors[np.arange(24) != 5].min()


@pytest.mark.parametrize("target", ["ort-x64-vnni", "tensorrt", "openvino"])
def test_what_int8_nodes_write_is_left_alone(target: str) -> None:
    text = "(float[n,24,12] x) => (float[n,8,8] y) { a = Conv(x, w) r = Relu(a) y = Conv(r, v) }"
    graph = graph_of(text, w=normal(24, 24, 3), v=normal(8, 24, 3, seed=1))
    found = with_dividers(graph, planned(graph, target), free=[])
    assert list(found.origins.values()) == ["x"]
    assert with_dividers(graph, planned(graph, target), free=["x"]).graph is graph


def test_even_features_get_no_divider() -> None:
    even = [{"x": normal(4, 24, seed=s)} for s in range(16)]
    model = model_of(FEATURES, **CONSTANTS | {"w": normal(24, 32, seed=1) / 5})
    assert dividers(Graph(onnxq.quantize(model, even, target="tensorrt").model)) == []


def test_an_engine_that_computes_on_codes_alone_gets_none() -> None:
    assert dividers(Graph(onnxq.quantize(model_of(FEATURES, **CONSTANTS), DATA, target="qnn").model)) == []


@pytest.mark.parametrize("target", ["ort-x64-vnni", "tensorrt"])
def test_a_search_keeps_dividers(target: str) -> None:
    model = model_of(FEATURES, **CONSTANTS)
    few: dict[str, Any] = {"target": target, "placement": "full", "recover": ("level", "bias")}
    # So few batches are both calibrated on and judged.
    whole = worst(onnxq.quantize(model, DATA[:3], **few))
    result = onnxq.quantize(model, DATA[:3], **few, min_sqnr=whole + 2)
    assert result.search is not None and result.search.met
    assert len(result.search.float_layers) == 1
    kept = next(d for d in result.plan.nodes if d.node == "x_divided")
    assert (kept.action, kept.rule) == (Action.FLOAT, "level")
