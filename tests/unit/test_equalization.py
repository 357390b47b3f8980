"""Cross-layer equalization: equal ranges on both sides of a channel, and the same function."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from onnxq.graph.shapes import infer_shapes
from onnxq.graph.view import Graph
from onnxq.pipeline.stages import prepare
from onnxq.planning.options import PlanOptions
from onnxq.recovery.equalization import LARGEST_SCALE, equalize
from tests.graphs import computed, graph_of, normal, random_feeds
from tests.zoo import ZOO, ZooModel

SPREAD = np.exp(np.linspace(-2, 2, 8)).astype(np.float32)


def pair(**more: Any) -> Graph:
    """Conv -> Relu -> Conv, whose hidden channels differ by e^4."""
    graph = graph_of(
        "(float[n,4,6,6] x) => (float[n,6,6,6] y) { a = Conv(x, w1, b1) r = Relu(a) y = Conv(r, w2) }",
        **{
            "w1": normal(8, 4, 1, 1) * SPREAD.reshape(-1, 1, 1, 1),
            "b1": normal(8, seed=1),
            "w2": normal(6, 8, 1, 1, seed=2),
            **more,
        },
    )
    infer_shapes(graph)
    return graph


def value(graph: Graph, name: str) -> NDArray[Any]:
    found = graph.constant(name)
    assert found is not None
    return found


def test_both_sides_of_a_channel_get_the_same_range() -> None:
    graph = pair()
    result = equalize(graph)
    rows = np.abs(value(result.graph, "w1")).max(axis=(1, 2, 3))
    columns = np.abs(value(result.graph, "w2")).max(axis=(0, 2, 3))
    # One sweep reaches the fixed point of a pair; products are rounded to float32.
    np.testing.assert_allclose(rows, columns, rtol=1e-6)
    before = np.abs(value(graph, "w1")).max(axis=(1, 2, 3)) * np.abs(value(graph, "w2")).max(axis=(0, 2, 3))
    np.testing.assert_allclose(rows * columns, before, rtol=1e-6)
    assert (result.channels, result.tensors) == (8, ("a", "r"))


def test_chains_settle() -> None:
    """Classes that meet in depthwise layers: every class ends with equal ranges, to the 1 % at which sweeps stop."""
    graph = graph_of(
        "(float[n,4,6,6] x) => (float[n,6,6,6] y) { a = Conv(x, w1) r = Relu(a) "
        "d = Conv<group=8, pads=[1,1,1,1]>(r, w2) s = Relu(d) y = Conv(s, w3) }",
        w1=normal(8, 4, 1, 1) * SPREAD.reshape(-1, 1, 1, 1),
        w2=normal(8, 1, 3, 3, seed=1),
        w3=normal(6, 8, 1, 1, seed=2),
    )
    infer_shapes(graph)
    result = equalize(graph).graph
    first = np.abs(value(result, "w1")).max(axis=(1, 2, 3))
    second = np.abs(value(result, "w2")).max(axis=(1, 2, 3))
    third = np.abs(value(result, "w3")).max(axis=(0, 2, 3))
    np.testing.assert_allclose(first, second, rtol=0.05)
    np.testing.assert_allclose(second, third, rtol=0.05)


def test_an_equalized_graph_stays_nearly_as_it_is() -> None:
    once = equalize(pair()).graph
    twice = equalize(once).graph
    np.testing.assert_allclose(value(twice, "w1"), value(once, "w1"), rtol=1e-5)


def test_the_given_graph_is_not_changed() -> None:
    graph = pair()
    before = graph.to_model().SerializeToString(deterministic=True)
    assert equalize(graph).modified
    assert graph.to_model().SerializeToString(deterministic=True) == before


def test_dead_channels_are_left_alone_and_scales_are_bounded() -> None:
    w1, w2 = normal(8, 4, 1, 1), normal(6, 8, 1, 1, seed=2)
    w1[0] = 0
    w2[:, 1] = 0
    w1[2] *= np.float32(1e-20)
    result = equalize(pair(w1=w1, w2=w2)).graph
    np.testing.assert_array_equal(value(result, "w1")[:2], w1[:2])
    np.testing.assert_allclose(value(result, "w1")[2], w1[2] * LARGEST_SCALE, rtol=1e-6)
    assert np.isfinite(value(result, "w2")).all()


def test_a_clip_from_0_to_6_is_refused_with_the_reason() -> None:
    graph = graph_of(
        "(float[n,4,6,6] x) => (float[n,6,6,6] y) { a = Conv(x, w1) r = Clip(a, low, high) y = Conv(r, w2) }",
        w1=normal(8, 4, 1, 1), w2=normal(6, 8, 1, 1), low=np.float32(0), high=np.float32(6),
    )  # fmt: skip
    infer_shapes(graph)
    result = equalize(graph)
    assert not result.modified
    assert result.graph is graph
    assert ("'Clip_r': its upper limit would differ from channel to channel", 8) in result.left_alone


@pytest.mark.parametrize("name", ["digits_resnet", "wordlang_transformer"])
def test_models_of_the_repository_compute_the_same(name: str) -> None:
    check_same_function(ZOO[name])


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(set(ZOO) - {"digits_resnet", "wordlang_transformer"}))
def test_real_models_compute_the_same(name: str) -> None:
    if ZOO[name].path() is None:
        pytest.skip(f"{name} is not here")
    check_same_function(ZOO[name])


def check_same_function(model: ZooModel) -> None:
    graph = prepare(str(model.path()), "openvino", PlanOptions()).graph
    result = equalize(graph)
    feed = next(model.calib(4))
    for before, after in zip(computed(graph, feed), computed(result.graph, feed), strict=True):
        if before.dtype.kind == "f":
            # Each weight is rounded once more (2^-24); over 50 layers that stays under 1e-4 of the largest output. What
            # a forgotten constant or a wrong axis does is of order 1.
            np.testing.assert_allclose(after, before, rtol=0, atol=1e-4 * np.abs(before).max())


def test_feeds_reach_every_channel() -> None:
    """The graphs above are not all zeros behind their Relu."""
    graph = pair()
    assert np.abs(computed(graph, random_feeds(graph))[0]).min() > 0
