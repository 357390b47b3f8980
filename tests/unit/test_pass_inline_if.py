"""Ifs with a constant condition, case by case."""

from __future__ import annotations

import numpy as np
import pytest

from onnxq.passes.simplify.inline_if import InlineIf
from onnxq.passes.simplify.normalise import normalise_float
from tests.graphs import computed, graph_of, normal, ops

X = normal(2, 4)
IF = """(float[2,4] x) => (float[2,4] y) {
    a = Relu(x)
    b = If (c) <then_branch = t () => (float[2,4] p) { k = Neg(a) p = Add(k, w) },
                else_branch = e () => (float[2,4] q) { q = Abs(a) }>
    y = Neg(b) }"""


@pytest.mark.parametrize("taken", [True, False])
def test_branch_takes_the_place(taken: bool) -> None:  # cases 1, 2
    graph = graph_of(IF, c=np.array(taken), w=normal(4))
    want = computed(graph, {"x": X})
    result = normalise_float().run(graph)
    assert "If" not in ops(graph) and "Identity" not in ops(graph)
    assert "w" in graph.initializers if taken else "w" not in graph.initializers
    np.testing.assert_array_equal(computed(graph, {"x": X})[0], want[0])
    assert not InlineIf().run(result.graph).modified


def test_names_that_are_taken_do_not_chain() -> None:  # case 1
    text = """(float[2,4] x) => (float[2,4] y, float[2,4] z) {
        b = If (c) <then_branch = t () => (float[2,4] p) { k = Neg(x) k_2 = Abs(k) p = Add(k, k_2) },
                    else_branch = e () => (float[2,4] q) { q = Abs(x) }>
        k = Exp(x) y = Neg(b) z = Neg(k) }"""
    graph = graph_of(text, c=np.array(True))
    want = computed(graph, {"x": X})
    assert InlineIf().run(graph).modified
    graph.sort()
    for old, new in zip(want, computed(graph, {"x": X}), strict=True):
        np.testing.assert_array_equal(new, old)


def test_bodies_inside_the_branch_follow() -> None:  # case 1
    text = """(float[2,4] x, bool f) => (float[2,4] y) {
        y = If (c) <then_branch = t () => (float[2,4] p) {
                        k = Neg(x)
                        p = If (f) <then_branch = t2 () => (float[2,4] m) { m = Exp(k) },
                                    else_branch = e2 () => (float[2,4] n) { n = Abs(k) }> },
                    else_branch = e () => (float[2,4] q) { q = Abs(x) }> }"""
    for flag in (True, False):
        graph = graph_of(text, c=np.array(True))
        want = computed(graph, {"x": X, "f": np.array(flag)})
        normalise_float().run(graph)
        assert ops(graph) == {"Neg": 1, "If": 1}
        np.testing.assert_array_equal(computed(graph, {"x": X, "f": np.array(flag)})[0], want[0])


def test_computed_condition_is_left_alone() -> None:  # case 3
    graph = graph_of(IF.replace("x) =>", "x, bool c) =>"), w=normal(4))
    assert not InlineIf().run(graph).modified


def test_condition_that_follows_from_a_rank_is_constant() -> None:
    text = """(float[2,4] x) => (float[2,4] y) {
        s = Shape(x) n = Size(s) c = Equal(n, two)
        y = If (c) <then_branch = t () => (float[2,4] p) { p = Neg(x) },
                    else_branch = e () => (float[2,4] q) { q = Abs(x) }> }"""
    graph = graph_of(text, two=np.int64(2))
    normalise_float().run(graph)
    assert ops(graph) == {"Neg": 1}
