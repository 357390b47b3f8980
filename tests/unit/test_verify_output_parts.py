"""Scores beside boxes in one output are compared on their own."""

from __future__ import annotations

import numpy as np
import pytest

from onnxq.verification.output_parts import OutputParts
from onnxq.verification.verify import verify_model
from tests.graphs import graph_of

BOTH = """(float[N,4,M] boxes, float[N,2,M] scores) => (float[N,6,M] y) {
    large = Mul(boxes, three_hundred)
    small = Sigmoid(scores)
    y = Concat<axis=AXIS>(large, small)
    }"""
SIZES = {"three_hundred": np.float32(300)}


@pytest.mark.parametrize("axis", [1, -2])
def test_scores_behind_boxes_are_a_part(axis: int) -> None:
    parts = OutputParts(graph_of(BOTH.replace("AXIS", str(axis)), **SIZES))
    y = np.concatenate([np.full((1, 4, 8), 200), np.full((1, 2, 8), 0.5)], axis=1).astype(np.float32)
    want, got = parts.of({"y": y}, {"y": y + 1})
    assert list(want) == list(got) == ["y[:, 4:6]"]
    np.testing.assert_array_equal(want["y[:, 4:6]"], y[:, 4:])
    np.testing.assert_array_equal(got["y[:, 4:6]"], y[:, 4:] + 1)


@pytest.mark.parametrize(
    "values",
    [
        np.ones((1, 6, 8)),
        np.zeros((1, 6, 8)),
        np.ones((1, 6, 0)),
        # More than a few stretches are no parts: the values just differ much.
        np.float64([1.0, 1e-3] * 6).reshape(1, 12, 1).repeat(8, axis=2),
    ],
    ids=["alike", "zeros", "empty", "scattered"],
)
def test_others_have_no_parts(values: np.ndarray) -> None:
    y = values.astype(np.float32)
    parts = OutputParts(graph_of(BOTH.replace("AXIS", "1"), **SIZES))
    assert parts.of({"y": y}, {"y": y}) == ({}, {})


def test_what_no_concat_writes_has_no_parts() -> None:
    y = np.float32([[1.0, 1e-4]])
    parts = OutputParts(graph_of("(float[N,2] x) => (float[N,2] y) { y = Softmax(x) }"))
    assert parts.of({"y": y}, {"y": y}) == ({}, {})


def test_verification_names_the_part_that_is_lost() -> None:
    """A candidate without scores has 50 dB as a whole, and 0 dB where it counts."""
    text = BOTH.replace("AXIS", "1")
    lost = text.replace("y = Concat<axis=1>(large, small)", "none = Mul(small, zero) y = Concat<axis=1>(large, none)")
    rng = np.random.default_rng(0)
    feeds = [{"boxes": rng.random((1, 4, 8), np.float32), "scores": rng.random((1, 2, 8), np.float32)}]
    models = graph_of(text, **SIZES), graph_of(lost, **SIZES, zero=np.float32(0))
    result = verify_model(*models, feeds, "ort-x64-vnni")
    whole, part = result.outputs
    assert (whole.name, part.name) == ("y", "y[:, 4:6]")
    assert whole.sqnr_db is not None and whole.sqnr_db > 40
    assert part.sqnr_db == pytest.approx(0.0)
