"""ShareConstants: what branches hold in common moves into the graph around them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from onnx import numpy_helper

from onnxq.graph.model import load_graph
from onnxq.graph.view import Graph
from onnxq.passes.adapt.share_constants import ShareConstants
from tests.graphs import computed, graph_of, normal

WEIGHT = normal(16, 16)


def with_weights(one: NDArray[Any], other: NDArray[Any]) -> Graph:
    """An If whose branches multiply with a weight of their own."""
    graph = graph_of("""(float[2, 16] x, bool c) => (float[2, 16] y) {
        y = If(c) <then_branch = t () => (float[2, 16] a) { v = Constant<value_float=0.0>()  a = Add(x, v) },
                   else_branch = e () => (float[2, 16] b) { w = Constant<value_float=0.0>()  b = Sub(x, w) }> }""")
    model = graph.to_model()
    for attribute, name, value in zip(
        sorted(model.graph.node[0].attribute, key=lambda a: a.name, reverse=True), "vw", (one, other), strict=True
    ):
        body = attribute.g
        del body.node[0]
        body.initializer.append(numpy_helper.from_array(value, name))
        body.node[0].op_type = "MatMul"
    return load_graph(model)


@pytest.mark.parametrize("chosen", [True, False])
def test_equal_constants_become_one(chosen: bool) -> None:
    """Case 1."""
    graph = with_weights(WEIGHT, WEIGHT.copy())
    feeds = {"x": normal(2, 16, seed=1), "c": np.array(chosen)}
    before = computed(graph, feeds)
    assert ShareConstants().run(graph).modified
    assert len(graph.initializers) == 1
    assert all(not a.g.initializer for a in graph.nodes[0].attribute)
    assert np.array_equal(computed(graph, feeds)[0], before[0])
    assert not ShareConstants().run(graph).modified


def test_what_differs_stays_where_it_is() -> None:
    """Case 3."""
    graph = with_weights(WEIGHT, WEIGHT + 1)
    assert not ShareConstants().run(graph).modified
    small = with_weights(normal(16, 1), normal(16, 1))
    assert not ShareConstants().run(small).modified


@pytest.mark.parametrize("chosen", [True, False])
def test_a_body_reads_what_the_graph_has_anyway(chosen: bool) -> None:
    """Case 2: one branch's weight is that of the graph, the other's is its own."""
    graph = with_weights(WEIGHT, WEIGHT + 1)
    graph.add_initializer("u", WEIGHT.copy())
    graph.add_node("MatMul", ["x", "u"], ["z"], name="outside")
    feeds = {"x": normal(2, 16, seed=1), "c": np.array(chosen)}
    before = computed(graph, feeds)
    assert ShareConstants().run(graph).modified
    assert list(graph.initializers) == ["u"]
    (node,) = [n for n in graph.nodes if n.op_type == "If"]
    assert {a.name: len(a.g.initializer) for a in node.attribute} == {"then_branch": 0, "else_branch": 1}
    assert np.array_equal(computed(graph, feeds)[0], before[0])
    assert not ShareConstants().run(graph).modified
