"""Logits with errors: what is best taken off each class, for the probabilities behind them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from onnxq.graph.shapes import infer_shapes
from onnxq.graph.view import Graph
from onnxq.recovery import odds
from onnxq.recovery.odds import best_for_odds, softmax_behind
from tests.graphs import graph_of, normal


def softmax(logits: NDArray[Any], axis: int = -1) -> NDArray[Any]:
    powers = np.exp(logits - logits.max(axis=axis, keepdims=True))
    return np.asarray(powers / powers.sum(axis=axis, keepdims=True))


def steps(seed: int, count: int = 2000) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Logits with errors and without: mostly class 0 for certain, one place in ten undecided between 0 and 1.

    The error is in favour of 0 where nothing is decided, and of 1 where something is: its mean says the opposite of
    what counts. Class 4 never occurs.
    """
    rng = np.random.default_rng(seed)
    wanted = np.float32([12, 0, 0, 0, -20]) + rng.normal(0, 1, (count, 5)).astype(np.float32)
    undecided = np.arange(count) % 10 == 0
    wanted[undecided, 1] = wanted[undecided, 0] + rng.normal(0, 1, undecided.sum()).astype(np.float32)
    error = rng.normal(0, 0.1, wanted.shape).astype(np.float32)
    error[:, 1] += np.where(undecided, 0.3, -0.2)
    error[:, 4] += 0.5
    return wanted + error, wanted


def divergence(got: NDArray[Any], wanted: NDArray[Any]) -> float:
    p, q = softmax(wanted.astype(np.float64)), softmax(got.astype(np.float64))
    return float((p * np.log(p / q)).sum(axis=-1).mean())


def test_it_serves_the_undecided_places_of_other_samples() -> None:
    got, wanted = steps(0)
    mean = (got - wanted).mean(axis=0, dtype=np.float64)
    shift = best_for_odds([got], [wanted], mean, 1)
    assert mean[1] - mean[0] < -0.1
    assert shift[1] - shift[0] == pytest.approx(
        0.3, abs=0.05
    )  # 200 places with an error of 0.14 each: 0.01, and the prior
    others = steps(1)
    # 0.08: what is left is the noise of single places.
    assert divergence(others[0] - shift, others[1]) < 0.2 * divergence(others[0] - mean, others[1])


def test_a_class_that_never_occurs_keeps_the_mean() -> None:
    got, wanted = steps(0)
    mean = (got - wanted).mean(axis=0, dtype=np.float64)
    assert best_for_odds([got], [wanted], mean, 1)[4] == pytest.approx(mean[4], abs=1e-3)


def test_classes_lie_along_any_axis_and_places_in_any_batch() -> None:
    got, wanted = steps(0, 120)
    mean = np.zeros(5)
    parts = [[a.reshape(2, 6, 10, 5).transpose(0, 3, 1, 2)[i : i + 1] for i in (0, 1)] for a in (got, wanted)]
    # Sums in another order, float32.
    np.testing.assert_allclose(best_for_odds(*parts, mean, 1), best_for_odds([got], [wanted], mean, 1), atol=1e-5)


def test_of_many_places_some_are_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    got, wanted = steps(0)
    whole = best_for_odds([got], [wanted], np.zeros(5), 1)
    monkeypatch.setattr(odds, "_ELEMENTS", got.size // 2)
    thinned = best_for_odds([got], [wanted], np.zeros(5), 1)
    assert not np.array_equal(thinned, whole)
    np.testing.assert_array_equal(thinned, best_for_odds([got[::3]], [wanted[::3]], np.zeros(5), 1))


def test_certainty_everywhere_leaves_the_mean() -> None:
    wanted = np.tile(np.float32([60, 0]), (50, 1))
    mean = np.array([0.25, -0.25])
    np.testing.assert_allclose(best_for_odds([wanted + 0.25], [wanted], mean, 1), mean, atol=1e-9)


def network(end: str) -> Graph:
    graph = graph_of(f"(float[N,3,4,4] x) => (float[N,3,4,4] y) {{ a = Conv(x, w) {end} }}", w=normal(3, 3, 1, 1))
    infer_shapes(graph)
    return graph


@pytest.mark.parametrize(
    ("end", "axis", "found"),
    [
        ("y = Softmax<axis=1>(a)", 1, True),
        ("y = Softmax<axis=-3>(a)", 1, True),
        ("y = Softmax(a)", 3, True),
        ("y = Softmax(a)", 1, False),
        ("y = Relu(a)", 1, False),
        ("s = Softmax<axis=1>(a) y = Mul(s, a)", 1, False),
    ],
)
def test_only_a_softmax_over_the_classes_alone_counts(end: str, axis: int, found: bool) -> None:
    assert softmax_behind(network(end), "a", axis, 4) is found
