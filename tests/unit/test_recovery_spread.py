"""Which layers stand in front of a mean over places, and how far a fit has drawn them to their mean."""

from __future__ import annotations

import numpy as np
import pytest

from onnxq.graph.view import Graph
from onnxq.recovery.spread import averaged_later, spread_left
from tests.graphs import graph_of, normal


def in_front(text: str) -> set[str]:
    """Results of the Convs in front of a mean."""
    weights = {f"w{i}": normal(8, 8, 1, 1, seed=i) for i in range(3)}
    graph: Graph = graph_of(text, **{name: w for name, w in weights.items() if name in text})
    found = averaged_later(graph)
    return {node.output[0] for node in graph.nodes if node.op_type == "Conv" and node.name in found}


@pytest.mark.parametrize(
    ("pool", "expected"),
    [
        ("GlobalAveragePool(b)", {"a", "b"}),
        ("ReduceMean<axes=[2,3]>(b)", {"a", "b"}),
        ("AveragePool<kernel_shape=[4,4]>(b)", {"a", "b"}),
        ("AveragePool<kernel_shape=[2,2]>(b)", set()),
        ("MaxPool<kernel_shape=[4,4]>(b)", set()),
    ],
)
def test_every_way_leads_through_a_mean_over_many_places(pool: str, expected: set[str]) -> None:
    text = f"(float[N,8,4,4] x) => (float[N,8,P,Q] y) {{ a = Conv(x, w0) b = Conv(a, w1) p = {pool} y = Conv(p, w2) }}"
    assert in_front(text) == expected


def test_a_way_around_the_mean_counts() -> None:
    """As in squeeze-and-excite blocks, and where a graph gives the features too."""
    gate = "g = GlobalAveragePool(a) s = Sigmoid(g) y = Mul(a, s)"
    assert in_front(f"(float[N,8,4,4] x) => (float[N,8,4,4] y) {{ a = Conv(x, w0) {gate} }}") == set()
    both = "(float[N,8,4,4] x) => (float[N,8,4,4] a, float[N,8,1,1] y) {"
    assert in_front(f"{both} a = Conv(x, w0) b = Conv(a, w1) y = GlobalAveragePool(b) }}") == {"b"}


def test_the_spread_is_the_slope_over_all_outputs() -> None:
    wanted = np.random.default_rng(0).normal(3.0, 2.0, (2, 500, 4))
    assert spread_left(0.9 * wanted + 7.0, wanted, centred=True) == pytest.approx(0.9)  # exact but for float64
    assert spread_left(0.9 * wanted, wanted, centred=False) == pytest.approx(0.9)


def test_outputs_that_are_mostly_noise_stay() -> None:
    wanted = np.random.default_rng(0).normal(size=(1, 500, 4))
    assert spread_left(0.3 * wanted, wanted, centred=True) == 1.0
    assert spread_left(np.zeros_like(wanted), np.zeros_like(wanted), centred=True) == 1.0
