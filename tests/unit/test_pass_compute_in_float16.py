"""The pass that moves a graph to float16, case by case: what stays in float32, and that the function stays the same."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
import pytest
from onnx import TensorProto

from onnxq.graph.shapes import infer_shapes
from onnxq.graph.view import Graph
from onnxq.passes.adapt.compute_in_float16 import ComputeInFloat16, kept_in_float32
from tests.graphs import computed, graph_of, normal, ops

HALF, FLOAT = TensorProto.FLOAT16, TensorProto.FLOAT
W = normal(8, 8)
PAIRS = {"s": np.float32(0.25), "z": np.int8(0)}
PAIR = "q = QuantizeLinear(x, s, z) d = DequantizeLinear(q, s, z)"


def converted(text: str, reach: Mapping[str, float] | None = None, **constants: object) -> tuple[Graph, Graph]:
    before = graph_of(text, opset=19, **constants)
    infer_shapes(before)
    after = before.copy()
    ComputeInFloat16(reach or {}).run(after)
    onnx.checker.check_model(after.to_model(), full_check=True)
    assert not ComputeInFloat16(reach or {}).run(after).modified, "a second run changes nothing"
    assert [graph_type(after, name) for name in after.outputs] == [graph_type(before, name) for name in before.outputs]
    return before, after


def graph_type(graph: Graph, tensor: str) -> int | None:
    return graph.dtype(tensor)


def same(before: Graph, after: Graph, **feeds: np.ndarray) -> None:
    for want, got in zip(computed(before, feeds), computed(after, feeds), strict=True):
        # A node or two that round to 11 bits each; values are of order 1 to 10.
        np.testing.assert_allclose(got, want, rtol=4e-3, atol=1e-2)


def test_nodes_compute_in_float16_and_the_interface_stays() -> None:
    before, after = converted("(float[2,8] x) => (float[2,8] y) { m = MatMul(x, w) y = Relu(m) }", w=W)
    assert ops(after) == {"Cast": 2, "MatMul": 1, "Relu": 1}
    assert after.dtype("m") == HALF
    assert after.initializers["w"].data_type == HALF
    same(before, after, x=normal(2, 8))


def test_pairs_have_scales_in_float16_and_no_cast_inside() -> None:
    text = f"(float[2,8] v) => (float[2,8] y) {{ x = Relu(v) {PAIR} m = MatMul(d, w) y = Neg(m) }}"
    before, after = converted(text, w=W, **PAIRS)
    assert after.initializers["s"].data_type == HALF
    assert [after.dtype(name) for name in ("x", "q", "d", "m")] == [HALF, TensorProto.INT8, HALF, HALF]
    assert ops(after)["Cast"] == 2
    same(before, after, v=normal(2, 8))


def test_a_pair_behind_an_input_stays_with_it() -> None:
    _, after = converted(f"(float[2,8] x) => (float[2,8] y) {{ {PAIR} y = MatMul(d, w) }}", w=W, **PAIRS)
    assert after.dtype("d") == HALF
    assert ops(after)["Cast"] == 1, "none in front of the QuantizeLinear"


@pytest.mark.parametrize(("reach", "stays"), [(65504.0 / 4, False), (65504.0 / 3, True), (1e-4, True), (0.0, False)])
def test_reach_on_samples(reach: float, stays: bool) -> None:  # case 1
    text = "(float[2,8] x) => (float[2,8] y) { a = MatMul(x, w) b = Neg(a) c = Abs(b) y = Neg(c) }"
    before, after = converted(text, {"b": reach}, w=W)
    assert (after.dtype("b") == FLOAT) == stays
    assert after.dtype("a") == HALF
    assert after.dtype("c") == (FLOAT if stays else HALF), "what reads the tensor computes in float32, too"
    same(before, after, x=normal(2, 8))


def test_small_addends_need_not_be_exact() -> None:  # case 1
    text = "(float[2,8] x) => (float[2,8] y) { a = Neg(x) b = Mul(a, c) s = Add(a, b) y = Neg(s) }"
    before, after = converted(text, {"a": 3.0, "b": 3e-5, "s": 3.0}, c=np.full(8, 1e-5, np.float32))
    assert [after.dtype(name) for name in ("a", "b", "s")] == [HALF, FLOAT, HALF]
    same(before, after, x=normal(2, 8))


@pytest.mark.parametrize(
    ("value", "stays"), [(1e-12, True), (1e-5, False), (1e6, True), (0.0, False), (np.inf, False), (-7e4, True)]
)
def test_constants_that_float16_lacks(value: float, stays: bool) -> None:  # case 2
    before, after = converted(
        "(float[2,8] x) => (float[2,8] y) { a = Abs(x) b = Max(a, c) y = Neg(b) }", c=np.float32(value)
    )
    assert (after.dtype("b") == FLOAT) == stays
    if np.isfinite(value):
        np.testing.assert_allclose(*computed(after, {"x": W[:2]}), *computed(before, {"x": W[:2]}), rtol=1e-3)


@pytest.mark.parametrize("node", ["ReduceMean(a)", "Pow(a, two)", "Exp(a)", "Log(a)", "ReduceL2(a)"])
def test_operators_that_lose_too_much(node: str) -> None:  # case 3
    _, after = converted(
        f"(float[2,8] x) => (float[a,b] y) {{ a = Abs(x) [n] r = {node} y = Neg(r) }}", two=np.float32(2)
    )
    assert after.dtype("r") == FLOAT
    assert {after.dtype(name) for name in after.node("n").input} == {FLOAT}


def test_sizes_and_positions_are_exact() -> None:  # case 4
    text = """(float[n,8] x) => (float[m] y, int64[n,8] z) {
        s = Shape(x) f = Cast<to = 1>(s) g = Mul(f, half) y = Floor(g)
        a = Mul(x, big) b = Round(a) z = Cast<to = 7>(b)
    }"""
    before, after = converted(text, half=np.float32(0.5), big=np.float32(1000))
    assert [after.dtype(name) for name in ("f", "g", "a", "b")] == [FLOAT] * 4
    for want, got in zip(computed(before, {"x": W}), computed(after, {"x": W}), strict=True):
        np.testing.assert_array_equal(got, want)


def test_part_of_a_table_is_no_position() -> None:
    text = "(float[n,8] x) => (float[n,8] y) { s = Shape<end = 1>(x) t = Slice(w, zero, s) y = Add(x, t) }"
    _, after = converted(text, w=W, zero=np.array([0]))
    assert after.dtype("t") == HALF


def test_a_scale_that_float16_does_not_hold_stays_with_its_readers() -> None:  # case 5
    text = f"(float[2,8] v) => (float[2,8] y) {{ x = Relu(v) {PAIR} m = MatMul(d, w) y = Neg(m) }}"
    before, after = converted(text, w=W, s=np.float32(0.1), z=np.int8(0))
    assert [after.dtype(name) for name in ("x", "d", "m", "y")] == [HALF, FLOAT, FLOAT, FLOAT]
    same(before, after, v=normal(2, 8))


def test_readers_of_one_dequantizer_compute_in_one_type() -> None:
    text = f"""(float[2,8] v) => (float[2,8] y, float[2,8] k) {{
        x = Relu(v) {PAIR} [far] y = MatMul(d, w) [near] k = MatMul(d, u)
    }}"""
    graph = graph_of(text, opset=19, w=W, u=normal(8, 8, seed=1), **PAIRS)
    infer_shapes(graph)
    assert kept_in_float32(graph, {}) == {}
    kept = kept_in_float32(graph, {"y": 1e5})
    assert {"far", "near"} <= kept.keys()
    assert "reaches 1e+05" in kept["far"]


def test_resize_keeps_its_scales_in_float32() -> None:  # case 6
    text = '(float[1,2,4,4] x) => (float[a,b,c,d] y) { r = Relu(x) y = Resize<mode="nearest">(r, , scales) }'
    before, after = converted(text, scales=np.array([1, 1, 2, 2], np.float32))
    assert after.dtype("r") == HALF
    assert after.initializers["scales"].data_type == FLOAT
    same(before, after, x=normal(1, 2, 4, 4))


def test_control_flow_reads_float32() -> None:  # case 6
    text = """(float[2,8] x, bool c) => (float[2,8] y) {
        r = Relu(x)
        y = If(c) <
            then_branch = g () => (float[2,8] t) { t = Neg(r) },
            else_branch = h () => (float[2,8] e) { e = Identity(r) }
        >
    }"""
    before, after = converted(text)
    assert after.dtype("r") == HALF
    same(before, after, x=normal(2, 8), c=np.array(True))


@pytest.mark.parametrize("hidden", [-3.4028235e38, -1e9, -10000.0, -np.inf])
def test_scores_are_hidden_by_numbers_of_float16(hidden: float) -> None:
    text = """(float[2,8] x, bool[2,8] seen) => (float[2,8] y) {
        s = MatMul(x, w) m = Where(seen, zero, low) t = Add(s, m) y = Softmax(t)
    }"""
    reach = {"m": abs(hidden), "t": abs(hidden)} if np.isfinite(hidden) else {}
    before, after = converted(text, reach, w=W, zero=np.float32(0), low=np.float32(hidden))
    assert [after.dtype(name) for name in ("s", "m", "t")] == [HALF] * 3
    seen = np.arange(16).reshape(2, 8) % 3 > 0
    same(before, after, x=normal(2, 8), seen=seen)


def test_a_row_that_is_hidden_whole_stays_finite() -> None:
    text = """(float[2,8] x, bool[2,8] seen) => (float[2,8] y) {
        m = Where(seen, zero, low) a = Add(x, m) t = Add(a, m) y = Softmax(t)
    }"""
    low = np.float32(np.finfo(np.float32).min / 4)
    _, after = converted(text, {"m": 1e38, "a": 1e38, "t": 1e38}, zero=np.float32(0), low=low)
    (got,) = computed(after, {"x": normal(2, 8), "seen": np.zeros((2, 8), bool)})
    assert np.isfinite(got).all()
