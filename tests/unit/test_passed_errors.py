"""Errors in front of an activation: which of them it passes, and what is best taken off a channel."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from onnxq.calibration.runner import CollectOptions
from onnxq.graph.shapes import infer_shapes
from onnxq.graph.view import Graph
from onnxq.recovery.passed import Activation, activation_behind, best_shift
from tests.graphs import graph_of, normal

OPTIONS = CollectOptions(threads=1)
HARD_SWISH = "[act] y = HardSwish(a)"


def network(body: str, **constants: Any) -> Graph:
    graph = graph_of(
        f"(float[N,3,4,4] x) => (float[N,3,4,4] z) {{ [conv] a = Conv(x, w) {body} z = Conv(y, w) }}", w=W, **constants
    )
    infer_shapes(graph)
    return graph


W = normal(3, 3, 1, 1)


def behind(body: str, **constants: Any) -> Activation | None:
    return activation_behind(network(body, **constants), "a", OPTIONS)


def hard_swish(x: NDArray[Any]) -> NDArray[Any]:
    return x * np.clip(x / 6.0 + 0.5, 0.0, 1.0)


@pytest.mark.parametrize(
    "body",
    [
        HARD_SWISH,
        "g = HardSigmoid<alpha=0.16666667>(a) y = Mul(a, g)",
        "t = Add(a, three) c = Clip(t, zero, six) m = Mul(a, c) y = Div(m, six)",
    ],
)
def test_a_function_of_several_operators_is_one(body: str) -> None:
    numbers = {"three": np.float32(3), "zero": np.float32(0), "six": np.float32(6)}
    passed = behind(body, **{name: value for name, value in numbers.items() if name in body})
    assert passed is not None
    values = normal(5, 3, 2, 7)
    np.testing.assert_allclose(passed(values), hard_swish(values), rtol=1e-5, atol=1e-6)


def test_slopes_go_along_with_their_channels() -> None:
    slopes = np.array([0.1, 0.2, 0.3], np.float32).reshape(3, 1, 1)
    passed = behind("y = PRelu(a, s)", s=slopes)
    assert passed is not None
    values = normal(50, 3, 1, 1)
    np.testing.assert_allclose(passed(values), np.where(values < 0, values * slopes, values), rtol=1e-6)


@pytest.mark.parametrize(
    "body",
    [
        "y = MaxPool<kernel_shape=[1,1]>(a)",  # no function of single elements
        "b = Relu(a) y = Add(b, x)",  # a function of two tensors; Relu(a) has gone by
        "y = Add(a, x)",
        "y = Mul(a, two)",  # a straight line: the mean error is as good behind it as before
    ],
)
def test_what_is_no_activation(body: str) -> None:
    found = behind(body, **({"two": np.float32(2)} if "two" in body else {}))
    assert (found is not None) == body.startswith("b = Relu")


def test_an_output_of_the_model_is_not_hidden_by_its_activation() -> None:
    graph = graph_of("(float[N,3,4,4] x) => (float[N,3,4,4] a, float[N,3,4,4] y) { a = Conv(x, w) y = Relu(a) }", w=W)
    infer_shapes(graph)
    assert activation_behind(graph, "a", OPTIONS) is None


def shift_of(body: str, got: NDArray[Any], wanted: NDArray[Any]) -> float:
    passed = behind(body)
    assert passed is not None
    mean = (got - wanted).mean(axis=(0, 2, 3), keepdims=True, dtype=np.float64)
    return float(best_shift(passed, [got], [wanted], mean)[0, 0, 0, 0])


def test_an_error_that_all_values_share_is_taken_off() -> None:
    wanted = normal(20, 3, 4, 4)
    assert shift_of("y = Relu(a)", wanted + np.float32(0.25), wanted) == pytest.approx(0.25, rel=1e-6)


def test_errors_that_are_not_passed_do_not_move_those_that_are() -> None:
    """Nine values in ten lie where HardSwish is flat, with errors of 1/2; the tenth, at 4, is exact."""
    wanted = np.full((20, 3, 5, 10), -1.5, np.float32)
    wanted[..., 0] = 4.0
    got = wanted + np.float32(0.5) * (wanted < 0)
    assert abs(shift_of(HARD_SWISH, got, wanted)) < 0.1  # their mean is 0.45
