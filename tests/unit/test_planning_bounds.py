"""What the graph alone says about values."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from onnxq.planning.bounds import clip_limits, cut, known_bounds, reading_bounds, score_reach
from onnxq.planning.plan import Observed
from tests.graphs import computed, graph_of

HEAD = "(float[1,4,8,8] x) => (float[1,4,8,8] y)"


@pytest.mark.parametrize(
    ("body", "bounds"),
    [
        ("y = Relu(x)", (0.0, None)),
        ("y = Sigmoid(x)", (0.0, 1.0)),
        ("y = HardSigmoid(x)", (0.0, 1.0)),
        ("y = Softmax(x)", (0.0, 1.0)),
        ("y = Tanh(x)", (-1.0, 1.0)),
        ("y = HardSwish(x)", (-0.375, None)),
        ("y = Clip(x, low, high)", (-1.0, 6.0)),
        ("y = Clip(x, low)", (-1.0, None)),
        ("y = Clip(x, , high)", (None, 6.0)),
        ("y = Clip(x, given)", (None, None)),
        ("y = Neg(x)", (None, None)),
        ("y = other.Relu(x)", (None, None)),
        # Movers of values keep the bounds of what they move, through any number of them.
        ("a = Relu(x) b = MaxPool<kernel_shape=[1,1]>(a) y = Transpose(b)", (0.0, None)),
        ("a = Sigmoid(x) y = AveragePool<kernel_shape=[3,3],pads=[1,1,1,1]>(a)", (0.0, 1.0)),
        ("a = Relu(x) y = Add(a, x)", (None, None)),
    ],
)
def test_known_bounds(body: str, bounds: tuple[float | None, float | None]) -> None:
    head = "(float[1,4,8,8] x, float given) => (float[1,4,8,8] y)" if "given" in body else HEAD
    graph = graph_of(f"{head} {{ {body} }}", low=np.float32(-1), high=np.float32(6))
    assert known_bounds(graph, "y") == Observed(*bounds)


def test_graph_inputs_have_no_bounds() -> None:
    assert known_bounds(graph_of(f"{HEAD} {{ y = Relu(x) }}"), "x") == Observed()


@pytest.mark.parametrize(
    ("attributes", "limits"), [("min=0.0, max=6.0", (0.0, 6.0)), ("max=6.0", (None, 6.0)), ("min=0.0", (0.0, None))]
)
def test_clip_limits_of_opset_6_are_attributes(attributes: str, limits: tuple[Any, Any]) -> None:
    graph = graph_of(f"{HEAD} {{ [clip] y = Clip<{attributes}>(x) }}", opset=6)
    assert clip_limits(graph, graph.node("clip")) == limits


def test_hard_swish_bound_is_its_minimum() -> None:
    """x * max(0, min(1, x/6 + 1/2)) is smallest at x = -3/2, where it is -3/8."""
    x = np.linspace(-4, 4, 8001)
    assert (x * np.clip(x / 6 + 0.5, 0, 1)).min() == pytest.approx(-0.375, abs=1e-12)


@pytest.mark.parametrize(
    ("body", "bounds"),
    [
        ("y = HardSwish(x)", (-3.0, None)),
        ("g = HardSigmoid<alpha=0.125>(x) y = Mul(x, g)", (-4.0, None)),
        ("g = HardSigmoid(x) y = Mul(g, x)", (-2.5, None)),
        ("y = HardSigmoid(x)", (-2.5, 2.5)),
        ("y = Relu(x)", (0.0, None)),
        ("y = Clip(x, low, high)", (-1.0, 6.0)),
        ("a = Relu(x) b = Clip(x, low, high) y = Add(a, b)", (-1.0, None)),
        ("g = Sigmoid(x) y = Mul(x, g)", (-8.0, None)),
        # Where one reader tells values apart, nothing is cut off.
        ("a = Relu(x) y = Add(a, x)", (None, None)),
        ("g = HardSigmoid<alpha=-0.2>(x) y = Mul(x, g)", (None, None)),
        ("g = HardSigmoid(other) y = Mul(x, g)", (None, None)),
        ("y = Mul(x, x)", (None, None)),
        ("y = other.Relu(x)", (None, None)),
        ("y = Clip(other, x)", (None, None)),
    ],
)
def test_reading_bounds(body: str, bounds: tuple[float | None, float | None]) -> None:
    head = "(float[1,4,8,8] x, float[1,4,8,8] other) => (float[1,4,8,8] y)"
    graph = graph_of(f"{head} {{ {body} }}", low=np.float32(-1), high=np.float32(6))
    found = reading_bounds(graph, "x")
    for end, wanted in zip((found.lower, found.upper), bounds, strict=True):
        assert end == (None if wanted is None else pytest.approx(wanted, rel=1e-6))


def test_what_leaves_the_graph_is_not_cut() -> None:
    graph = graph_of("(float[4] x) => (float[4] a, float[4] y) { a = Neg(x) y = HardSwish(a) }")
    assert reading_bounds(graph, "a") == Observed()


@pytest.mark.parametrize(
    "body", ["y = HardSwish(x)", "g = HardSigmoid<alpha=0.16666667>(x) y = Mul(x, g)", "y = HardSigmoid(x)"]
)
def test_beyond_the_bounds_the_answer_is_that_of_the_bound(body: str) -> None:
    graph = graph_of(f"(float[N] x) => (float[N] y) {{ {body} }}")
    bounds = reading_bounds(graph, "x")
    x = np.linspace(-50, 50, 1001, dtype=np.float32)
    (wanted,), (cut_off,) = computed(graph, {"x": x}), computed(graph, {"x": np.clip(x, bounds.lower, bounds.upper)})
    # -3 / 6 + 1/2 in float32 leaves up to 3 * 2^-24.
    np.testing.assert_allclose(cut_off, wanted, atol=1e-6)


def test_bounds_that_leave_nothing_are_those_that_hold() -> None:
    assert cut(Observed(0.0, None), Observed(-3.0, 3.0)) == Observed(0.0, 3.0)
    assert cut(Observed(4.0, None), Observed(-3.0, 3.0)) == Observed(4.0, None)


@pytest.mark.parametrize(
    ("body", "is_score"),
    [
        ("y = Sigmoid(x)", True),
        ("a = Sigmoid(x) y = Concat<axis=1>(a, other)", True),
        ("a = Concat<axis=1>(x, other) b, c = Split<axis=1>(a) d = Sigmoid(c) y = Concat<axis=1>(b, d)", True),
        ("a = Sigmoid(x) best = ArgMax(a) y = Cast<to=1>(best)", True),
        ("a = Sigmoid(x) y = Mul(x, a)", False),
        ("a = Sigmoid(x) y = Neg(a)", False),
        ("a = Neg(x) y = Sigmoid(a)", False),
        ("a = other.Identity(x) y = Sigmoid(a)", False),
        ("y = Relu(x)", False),
    ],
)
def test_score_reach(body: str, is_score: bool) -> None:
    graph = graph_of(f"(float[1,4,8,8] x, float[1,4,8,8] other) => (float[A,B,C,D] y) {{ {body} }}")
    assert score_reach(graph, "x") == ((-4.0, 4.0) if is_score else None)
