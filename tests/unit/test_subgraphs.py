"""Branches of If as graphs of their own, and models without any standard operator."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper

from onnxq.graph.opset import upgrade_opset
from onnxq.graph.shapes import infer_shapes
from onnxq.graph.subgraphs import nodes_inside, own_graph, subgraphs, with_subgraph
from onnxq.graph.view import Graph
from onnxq.verification.agreement import fused_agreement
from tests.graphs import computed, graph_of, normal

TEXT = """(float[2,4] x, bool c) => (float[2,4] y) {
    a = Relu(x)
    y = If (c) <then_branch = t () => (float[2,4] p) { [n] k = Mul(a, w) p = Add(k, x) },
                else_branch = e () => (float[2,4] q) { q = Abs(a) }> }"""


def graph() -> Graph:
    made = graph_of(TEXT, w=normal(4))
    infer_shapes(made)
    return made


def test_what_a_branch_reads_becomes_inputs_and_initializers() -> None:
    around = graph()
    then, other = subgraphs(around)
    inner = own_graph(around, then)
    assert (then.path, other.path) == ("If_y/then_branch", "If_y/else_branch")
    assert list(inner.inputs) == ["a", "x"] and list(inner.initializers) == ["w"] and list(inner.outputs) == ["p"]
    a, x = normal(2, 4), normal(2, 4, seed=1)
    np.testing.assert_allclose(computed(inner, {"a": a, "x": x})[0], a * normal(4) + x, rtol=1e-6)


def test_branch_goes_back_as_it_came() -> None:
    around = graph()
    feeds = [{"x": normal(2, 4), "c": np.array(flag)} for flag in (True, False)]
    want = [computed(around, feed)[0] for feed in feeds]
    for subgraph in list(subgraphs(around)):
        with_subgraph(around, subgraph, own_graph(around, subgraph))
    around.prune()
    around.sort()
    onnx.checker.check_model(around.to_model(), full_check=True)
    assert [t.name for t in around.to_model().graph.initializer] == ["w"], "a constant from outside stays outside"
    for feed, value in zip(feeds, want, strict=True):
        np.testing.assert_array_equal(computed(around, feed)[0], value)


def test_new_names_hide_none_of_the_scopes_around() -> None:
    around = graph()
    inner = own_graph(around, next(iter(subgraphs(around))))
    assert inner.unique_name("y") != "y" and inner.unique_name("q") != "q"
    new = inner.unique_name("fresh")
    inner.add_node("Neg", ["p"], [new], name="added")
    inner.outputs = {new: helper.make_tensor_value_info(new, TensorProto.FLOAT, [2, 4])}
    with_subgraph(around, next(iter(subgraphs(around))), inner)
    assert around.unique_name(new) != new


def test_nodes_inside_have_paths() -> None:
    assert nodes_inside(graph()) == {
        "If_y/then_branch/n": "Mul", "If_y/then_branch/Add_p": "Add", "If_y/else_branch/Abs_q": "Abs"
    }  # fmt: skip


def test_model_without_standard_operators_takes_any_version() -> None:
    node = helper.make_node("Scaler", ["x"], ["y"], domain="ai.onnx.ml", offset=[0.0], scale=[2.0])
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 1]) for name in "xy"]
    model = helper.make_model(
        helper.make_graph([node], "g", values[:1], values[1:]), opset_imports=[helper.make_opsetid("ai.onnx.ml", 1)]
    )
    upgraded = upgrade_opset(Graph(model), 13)
    assert upgraded.opset == 13
    onnx.checker.check_model(upgraded.to_model())


def test_equal_infinities_agree() -> None:
    text = """(float[2,4] x, float[2,4] mask) => (float[2,4] y) {
        q = QuantizeLinear(x, s, z) d = DequantizeLinear(q, s, z) y = Add(d, mask) }"""
    quantized = graph_of(text, s=np.float32(0.1), z=np.uint8(0))
    feed = {"x": normal(2, 4), "mask": np.float32([[0, -np.inf, 0, 0]] * 2)}
    assert all(stretch.agrees for stretch in fused_agreement(quantized, feed))
