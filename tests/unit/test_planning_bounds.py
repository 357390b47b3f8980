"""What the graph alone says about values."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from onnxq.planning.bounds import clip_limits, known_bounds
from onnxq.planning.plan import Observed
from tests.graphs import graph_of

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
