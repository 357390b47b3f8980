"""The pass that moves nodes from another float type to float32, case by case, and what runs without kernels."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from onnxq.errors import UnsupportedModelError
from onnxq.graph.model import load_graph
from onnxq.graph.opset import upgrade_opset
from onnxq.graph.shapes import infer_shapes
from onnxq.graph.view import Graph
from onnxq.passes.adapt.compute_in_type import ComputeInType
from onnxq.passes.adapt.settle_types import runnable, settle_types
from onnxq.passes.adapt.store_in_half import StoreInHalf
from onnxq.targets import TARGETS
from tests.graphs import computed, graph_of, model_of, normal, ops

HALF = TensorProto.FLOAT16
W = normal(8, 8).astype(np.float16)


def converted(
    text: str, types: tuple[int, ...] = (HALF,), attributes: dict[str, Any] | None = None, **constants: object
) -> tuple[Graph, Graph]:
    """`attributes` of nodes by their output: older parsers of ONNX text take no float16 tensors."""
    model = model_of(text, **constants)
    for node in model.graph.node:
        for name, value in (attributes or {}).get(node.output[0], {}).items():
            node.attribute.append(helper.make_attribute(name, value))
    before = load_graph(model)
    infer_shapes(before)
    after = before.copy()
    ComputeInType(types).run(after)
    after.sort()
    onnx.checker.check_model(after.to_model(), full_check=True)
    assert not ComputeInType(types).run(after).modified, "a second run changes nothing"
    return before, after


def same(before: Graph, after: Graph, **feeds: np.ndarray) -> None:
    for want, got in zip(computed(before, feeds), computed(after, feeds), strict=True):
        assert got.dtype == want.dtype
        # Before, onnxruntime rounds to float16 (11 bits) after every node.
        np.testing.assert_allclose(got.astype(np.float64), want.astype(np.float64), rtol=4e-3, atol=4e-3)


def test_nodes_compute_in_float32_and_the_interface_stays() -> None:  # cases 1, 3
    before, after = converted(
        "(float16[2,8] x) => (float16[2,8] y, float16[2,8] z) { y = MatMul(x, w) z = Relu(y) }", w=W
    )
    assert ops(after) == {"Cast": 3, "MatMul": 1, "Relu": 1}
    assert after.initializers["w"].data_type == TensorProto.FLOAT
    same(before, after, x=normal(2, 8).astype(np.float16))


def test_attributes_that_name_the_type_follow() -> None:  # case 1
    text = """(int64[2] n, float16[2,8] x) => (float16[2,8] y) {
        c = Cast<to=10>(n) s = Shape(x) o = ConstantOfShape(s)
        d = Unsqueeze(c, axes) e = Mul(d, o) f = Add(e, x) y = MatMul(f, w) }"""
    ones = numpy_helper.from_array(np.ones(1, np.float16))
    before, after = converted(text, attributes={"o": {"value": ones}}, w=W, axes=np.array([1], np.int64))
    assert after.dtype("c") == TensorProto.FLOAT and after.dtype("o") == TensorProto.FLOAT
    same(before, after, n=np.array([1, 2]), x=normal(2, 8).astype(np.float16))


def test_initializer_that_others_read_is_copied() -> None:  # case 2
    _, after = converted(
        "(float16[8,8] x) => (float16[8,8] y, float16[8,8] z) { y = MatMul(x, w) z = other.Op(w) }", w=W
    )
    assert {name: t.data_type for name, t in after.initializers.items()} == {"w": HALF, "w_float32": TensorProto.FLOAT}


def test_large_initializers_may_stay_as_they_are_stored() -> None:  # case 7
    graph = graph_of(
        """(float16[2,128] x) => (float16[2,128] y) {
            a = MatMul(x, w) b = Add(a, v) c = MatMul(b, w) y = other.Op(c, w) }""",
        w=normal(128, 128).astype(np.float16),
        v=normal(128).astype(np.float16),
    )
    infer_shapes(graph)
    ComputeInType([HALF], as_stored=True).run(graph)
    assert {name: t.data_type for name, t in graph.initializers.items()} == {"w": HALF, "v": TensorProto.FLOAT}
    # x, w for both products, and c for the foreign operator
    assert ops(graph) == {"Cast": 3, "MatMul": 2, "Add": 1, "Op": 1}
    assert not ComputeInType([HALF], as_stored=True).run(graph).modified


def test_what_bodies_read_keeps_its_type() -> None:  # case 4
    text = """(float16[2,8] x, bool c) => (float16[2,8] y) {
        a = MatMul(x, w)
        b = If (c) <then_branch = t () => (float16[2,8] p) { p = Neg(a) },
                    else_branch = e () => (float16[2,8] q) { q = Abs(a) }>
        y = Relu(b) }"""
    before, after = converted(text, w=W)
    assert [use.slot for use in after.uses("a_float16")] == [-1]
    for flag in (True, False):
        same(before, after, x=normal(2, 8).astype(np.float16), c=np.array(flag))


def test_operators_of_other_domains_keep_their_type() -> None:  # case 4
    _, after = converted("(float16[2,8] x) => (float16[2,8] y) { a = MatMul(x, w) y = other.Op(a) }", w=W)
    assert after.producer("y").input[0] == "a_float16"


def test_float64_of_a_mixed_graph_alone_changes() -> None:
    text = "(float16[2,8] x, double[2,8] v) => (float16[2,8] y, double[2,8] z) { y = Relu(x) z = MatMul(v, w) }"
    before, after = converted(text, (TensorProto.DOUBLE,), w=W.astype(np.float64))
    assert after.dtype("x") == HALF and ops(after) == {"Cast": 2, "MatMul": 1, "Relu": 1}
    same(before, after, x=normal(2, 8).astype(np.float16), v=normal(2, 8).astype(np.float64))


def test_runnable_leaves_what_runs() -> None:
    graph = graph_of("(float16[2,8] x, double[2,8] v) => (float16[2,8] y, double[2,8] z) { y = Relu(x) z = Neg(v) }")
    assert runnable(graph) is graph


def test_runnable_gives_bfloat16_models_a_float32_interface() -> None:
    graph = graph_of(
        """(bfloat16[2,8] x) => (bfloat16[2,8] y, bfloat16[2,8] u) {
            a = Cast<to=16>(w) y = MatMul(x, a) u = Identity(x) }""",
        w=W,
    )
    twin = runnable(graph)
    x = normal(2, 8)
    got = computed(twin, {"x": x})
    np.testing.assert_allclose(got[0], x @ W.astype(np.float32), rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(got[1], x)


@pytest.mark.parametrize(
    ("target", "elem_type", "opset"),
    [
        ("tensorrt", "float16", 19),
        ("ort-x64-vnni", "float16", 17),
        ("tensorrt", "double", 17),
        ("openvino", "float16", 17),
    ],
)
def test_types_are_settled_by_the_target(target: str, elem_type: str, opset: int) -> None:
    w = W.astype(np.float64) if elem_type == "double" else W
    graph, gave_way = settle_types(
        graph_of(f"({elem_type}[2,8] x) => ({elem_type}[2,8] y) {{ y = MatMul(x, w) }}", w=w), TARGETS[target]
    )
    assert graph.opset == opset
    assert bool(gave_way) == (opset == 17)


def test_half_that_cannot_be_upgraded_computes_in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    def upgraded(graph: Graph, minimum: int) -> Graph:
        if minimum > 17:
            raise UnsupportedModelError("no conversion")
        return upgrade_opset(graph, minimum)

    monkeypatch.setattr("onnxq.passes.adapt.settle_types.upgrade_opset", upgraded)
    source = graph_of("(float16[2,8] x) => (float16[2,8] y) { y = MatMul(x, w) }", w=W)
    graph, gave_way = settle_types(source, TARGETS["tensorrt"])
    assert gave_way == {HALF} and graph.opset == 17 and ops(graph) == {"Cast": 2, "MatMul": 1}


def test_large_constants_go_back_to_float16() -> None:
    table = normal(512, 64).astype(np.float16).astype(np.float32)
    graph = graph_of(
        "(int64[N] i) => (float[N,64] y, float[N,64] z) { y = Gather(t, i) z = Gather(u, i) }",
        t=table,
        u=normal(512, 64),
    )
    before = graph.copy()
    assert StoreInHalf().run(graph).modified
    graph.sort()
    assert {n: t.data_type for n, t in graph.initializers.items()} == {"u": TensorProto.FLOAT, "t_float16": HALF}
    feed = {"i": np.array([3, 5])}
    for want, got in zip(computed(before, feed), computed(graph, feed), strict=True):
        np.testing.assert_array_equal(got, want)
    assert not StoreInHalf().run(graph).modified
