"""The graph's index: what it says after edits is what a fresh graph of the same model says."""

from __future__ import annotations

import numpy as np
import pytest

from onnxq.errors import InternalError
from onnxq.graph.float_types import computes_no_float
from onnxq.graph.model import load_graph
from onnxq.graph.view import CAPTURED, Graph, Use
from tests.graphs import graph_of, model_of, normal

BODY = """(float[2] x, bool c) => (float[2] y) { r = Relu(x) s = Neg(r) y = If (c)
    <then_branch = a () => (float[2] p) { p = Add(r, s) }, else_branch = b () => (float[2] q) { q = Abs(r) }> }"""


def index(graph: Graph) -> dict[str, set[Use]]:
    tensors = (
        {t for node in graph.nodes for t in (*node.input, *node.output)} | set(graph.inputs) | set(graph.initializers)
    )
    return {t: set(graph.uses(t)) for t in tensors if graph.uses(t)}


def assert_consistent(graph: Graph) -> None:
    graph.sort()
    fresh = Graph(graph.to_model())
    assert index(graph) == index(fresh)
    assert all(len(set(graph.uses(t))) == len(graph.uses(t)) for t in index(graph))


def test_edits_keep_the_index() -> None:
    graph = graph_of("(float[2] x) => (float[2] y) { a = Add(x, k) b = Mul(a, a) y = Sub(b, a) }", k=normal(2))
    graph.set_inputs(graph.producer("b"), ["a", "x"])
    graph.replace_uses("a", "x", [Use("Sub_y", 1)])
    node = graph.add_node("Neg", ["a"], [graph.unique_name("a")], name="Neg_new")
    graph.set_input(graph.producer("b"), 0, node.output[0])
    assert_consistent(graph)


def test_bodies_read_too() -> None:
    graph = graph_of(BODY)
    assert graph.uses("r") == [Use("Neg_s", 0), Use("If_y", CAPTURED)]
    graph.replace_uses("s", "x")
    assert_consistent(graph)


def test_a_body_that_reads_old_and_new_counts_once() -> None:
    graph = graph_of(BODY)
    graph.replace_uses("s", "r")
    assert graph.uses("r").count(Use("If_y", CAPTURED)) == 1
    graph.remove_node(graph.producer("y"))
    assert graph.uses("r") == [Use("Neg_s", 0)]


def test_a_captured_read_has_no_slot() -> None:
    graph = graph_of(BODY)
    with pytest.raises(InternalError, match="a captured tensor has no input slot"):
        graph.set_input(graph.producer("y"), CAPTURED, "x")


def test_names_are_given_where_there_are_none_and_made_unique() -> None:
    model = model_of("(float[2] x) => (float[2] y) { a = Neg(x) y = Neg(a) }")
    for node in model.graph.node:
        node.name = "same"
    assert [node.name for node in load_graph(model).nodes] == ["same", "same_2"]


def test_sort_keeps_a_free_order_and_takes_dense_graphs_in_any() -> None:
    # Every node reads all before it, written backwards: a walk that counts its stack takes this for a cycle.
    lines = [f"t{i} = Sum({', '.join(['x', *(f't{j}' for j in range(i))])})" for i in range(40)]
    graph = graph_of(f"(float[2] x) => (float[2] t39) {{ {' '.join(reversed(lines))} }}")
    assert [node.output[0] for node in graph.nodes] == [f"t{i}" for i in range(40)]


def test_copies_are_independent() -> None:
    graph = graph_of("(float[2] x) => (float[2] y) { a = Add(x, k) y = Neg(a) }", k=normal(2))
    before = graph.to_model().SerializeToString(deterministic=True)
    twin = graph.copy()
    twin.add_initializer("k", np.zeros(2, np.float32))
    twin.set_attributes(twin.producer("y"), alpha=1.0)
    twin.set_input(twin.producer("y"), 0, "x")
    twin.inputs["x"].type.tensor_type.shape.dim[0].dim_value = 7
    twin.prune()
    assert graph.to_model().SerializeToString(deterministic=True) == before


def test_negative_sizes_are_unknown() -> None:
    model = model_of("(float[N] x) => (float[N] y) { y = Neg(x) }")
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = -1
    assert load_graph(model).shape("x") == (None,)


def test_two_nodes_of_one_name_are_a_bug() -> None:
    graph = graph_of("(float[2] x) => (float[2] y) { y = Neg(x) }")
    with pytest.raises(InternalError, match="two nodes are called 'Neg_y'"):
        graph._attach(graph.producer("y"))


@pytest.mark.parametrize(("to", "no_float"), [(7, True), (9, True), (1, False), (11, False)])
def test_a_cast_says_itself_what_it_makes_where_types_are_not_inferred(to: int, no_float: bool) -> None:
    model = model_of(f"(float[2] x) => (float[2] y) {{ a = Cast<to={to}>(x) y = Cast<to=1>(a) }}")
    del model.graph.value_info[:]
    graph = Graph(model)
    assert graph.dtype("a") is None
    assert computes_no_float(graph, graph.nodes[0]) is no_float
