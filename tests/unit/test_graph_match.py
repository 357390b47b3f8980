"""Patterns: what matches, and the reason where nothing does."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from onnxq.graph.match import Match, Miss, activation_after, biased_matmul
from tests.graphs import graph_of, normal


def matmul_then(tail: str, outputs: str = "float[2,3,4] y", **constants: Any) -> Match | Miss:
    text = f"(float[2,3,6] x, float[4] v) => ({outputs}) {{ p = MatMul(x, w) {tail} }}"
    graph = graph_of(text, w=normal(6, 4), **constants)
    return biased_matmul(graph, graph.producer("p"))


@pytest.mark.parametrize("shape", [(4,), (1, 4), (1, 1, 4), (1,), ()])
@pytest.mark.parametrize("add", ["Add(p, b)", "Add(b, p)"])
def test_biased_matmul(add: str, shape: tuple[int, ...]) -> None:
    found = matmul_then(f"y = {add}", b=normal(*shape))
    assert isinstance(found, Match)
    assert dict(found.bindings) == {"data": "x", "weight": "w", "bias": "b", "product": "p", "output": "y"}
    assert found.nodes == ("MatMul_p", "Add_y")


@pytest.mark.parametrize(
    ("tail", "outputs", "constants", "reason"),
    [
        ("y = Relu(p)", "float[2,3,4] y", {}, "the product goes to Relu, not to Add"),
        ("y = Add(p, v)", "float[2,3,4] y", {}, "'v', which is added, is not a constant"),
        ("y = Add(p, b)", "float[2,3,4] y", {"b": normal(3, 1)}, "'b', of shape (3, 1), differs along other axes"),
        ("y = Add(p, b) z = Relu(p)", "float[2,3,4] y, float[2,3,4] z", {"b": normal(4)}, "'p' has 2 readers, not one"),
        ("y = Add(p, b)", "float[2,3,4] y, float[2,3,4] p", {"b": normal(4)}, "'p' is an output of the graph"),
        (
            "y = If (c) <then_branch = a () => (float[2,3,4] q) { q = Neg(p) }, "
            "else_branch = b () => (float[2,3,4] r) { r = Abs(x) }>",
            "float[2,3,4] y",
            {"c": np.array(True)},
            "'p' is read inside the body of another node",
        ),
    ],
)
def test_no_biased_matmul(tail: str, outputs: str, constants: dict[str, Any], reason: str) -> None:
    found = matmul_then(tail, outputs, **constants)
    assert isinstance(found, Miss)
    assert reason in found.reason


def test_a_bias_of_higher_rank_or_other_length() -> None:
    graph = graph_of(
        "(float[2,6] x) => (float[1,2,4] y) { p = MatMul(x, w) y = Add(p, b) }", w=normal(6, 4), b=normal(1, 1, 4)
    )
    graph.copy_value_info("x", "p")
    found = biased_matmul(graph, graph.producer("p"))
    assert isinstance(found, Miss)
    assert "has a higher rank than the product" in found.reason
    graph = graph_of("(float[2,6] x) => (float[2,4] y) { p = MatMul(x, w) y = Add(p, b) }", w=normal(6, 1), b=normal(4))
    found = biased_matmul(graph, graph.producer("p"))
    assert isinstance(found, Miss)
    assert found.reason == "'b' has 4 values, not one for each column (1)"


def test_not_a_matmul() -> None:
    graph = graph_of("(float[2] x) => (float[2] y) { y = Relu(x) }")
    assert biased_matmul(graph, graph.producer("y")) == Miss("Relu is not MatMul", ("Relu_y",))


def test_activation_after() -> None:
    graph = graph_of("(float[2] x, float[2] s) => (float[2] y) { a = Neg(x) b = Relu(a) c = PRelu(s, b) y = Neg(c) }")
    found = activation_after(graph, graph.producer("a"))
    assert isinstance(found, Match)
    assert (dict(found.bindings), found.nodes) == ({"input": "a", "output": "b"}, ("Neg_a", "Relu_b"))
    slope, other = activation_after(graph, graph.producer("b")), activation_after(graph, graph.producer("c"))
    assert isinstance(slope, Miss)
    assert slope.reason == "'b' is a parameter of PRelu"
    assert isinstance(other, Miss)
    assert other.reason == "Neg is no such activation"
    assert activation_after(graph, graph.producer("y")) == Miss("'y' is an output of the graph", ("Neg_y",))
