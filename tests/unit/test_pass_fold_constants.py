"""One test for each numbered case of FoldConstants."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from onnxq.passes.simplify.fold_constants import FoldConstants
from onnxq.passes.simplify.infer_shapes import InferShapes
from tests.graphs import apply, graph_of, normal, ops, reasons


def test_case_1_a_chain_folds_as_a_whole() -> None:
    text = """(float[N,3] x) => (float[N,2] y, float[N,3] z) {
        a = Transpose(w)  b = Mul(a, two)  y = MatMul(x, b)  n = Reshape(half, s)  z = Mul(x, n) }"""
    graph = graph_of(text, w=normal(2, 3), two=np.float32(2), half=np.float32(0.5), s=np.array([1, 1]))
    apply(graph, FoldConstants())
    assert ops(graph) == {"MatMul": 1, "Mul": 1}
    assert sorted(graph.initializers) == ["b", "n"]


def test_case_1_a_tensor_read_inside_and_outside() -> None:
    text = "(float[N,3] x) => (float[N,3] y) { a = Neg(w) b = Abs(a) t = Add(x, a) y = Add(t, b) }"
    graph = graph_of(text, w=normal(3))
    apply(graph, FoldConstants())
    np.testing.assert_array_equal(graph.constant("a"), -normal(3))
    np.testing.assert_array_equal(graph.constant("b"), np.abs(normal(3)))


def test_case_1_a_factor_between_integer_casts_is_kept() -> None:
    # Moving the casts past the product would make 0.5 an integer, 0.
    text = "(float[7] x) => (float[a] y) { f = Cast<to=1>(k) h = Mul(f, half) i = Cast<to=7>(h) y = Reshape(x, i) }"
    graph = graph_of(text, k=np.array([14]), half=np.float32(0.5))
    apply(graph, FoldConstants())
    assert graph.constant("i").tolist() == [7]


@pytest.mark.parametrize(
    ("attributes", "sizes"), [("", [2, 3, 4]), ("<start=1>", [3, 4]), ("<start=-3, end=-1>", [2, 3])]
)
def test_case_2_shape_of_known_sizes(attributes: str, sizes: list[int]) -> None:
    text = f"""(float[2,3,4] x, bool c) => (int64[{len(sizes)}] n) {{
        s = Shape{attributes}(x)  t = Neg(s)  n = Where(c, t, t) }}"""
    graph = graph_of(text)
    FoldConstants().run(graph)
    assert graph.constant("t").tolist() == [-size for size in sizes]


def test_case_2_what_follows_from_a_shape_folds_too() -> None:
    text = """(float[2,3,4] x) => (float[a,b] y) {
        r = Relu(x)  s = Shape(r)  b = Gather(s, zero)  c = Unsqueeze(b, zeros)
        t = Concat<axis=0>(c, m)  y = Reshape(r, t) }"""
    graph = graph_of(text, zero=np.int64(0), zeros=np.array([0]), m=np.array([-1]))
    apply(graph, InferShapes(), FoldConstants())
    assert ops(graph) == {"Relu": 1, "Reshape": 1}


@pytest.mark.parametrize(
    ("taken", "value"),
    [
        ("Gather(s, k)", [3, 5]),
        ("Gather(s, one)", 3),
        ("Slice(s, one_, four_)", [3, 4, 5]),
        ("Slice(s, last_, zero_, zero_, back_)", [5, 4, 3]),
    ],
)
def test_case_2_known_sizes_beside_open_ones(taken: str, value: int | list[int]) -> None:
    # torch's chunk(2, 1) with an open batch: Shape, Gather of the channels, then arithmetic.
    constants = {
        "k": np.array([1, -1]), "one": np.array(1), "one_": np.array([1]), "four_": np.array([4]),
        "last_": np.array([-1]), "zero_": np.array([0]), "back_": np.array([-1]),
    }  # fmt: skip
    text = f"(float[N,3,4,5] x, bool c) => (int64[a] n) {{ s = Shape(x) g = {taken} t = Neg(g) n = Where(c, t, t) }}"
    graph = graph_of(text, **{name: v for name, v in constants.items() if name in taken})
    InferShapes().run(graph)
    FoldConstants().run(graph)
    assert graph.constant("t").tolist() == np.negative(value).tolist()


@pytest.mark.parametrize("indices", [[0, 1], [7]])
def test_case_2_open_sizes_and_such_as_there_are_none_stay(indices: list[int]) -> None:
    text = "(float[N,3,4,5] x) => (int64[a] n) { s = Shape(x) g = Gather(s, k) n = Neg(g) }"
    graph = graph_of(text, k=np.array(indices))
    InferShapes().run(graph)
    assert not FoldConstants().run(graph).modified


def test_case_2_unknown_sizes_stay() -> None:
    text = "(float[N,3] x) => (float[a] y) { s = Shape(x) p = ReduceProd(s) y = Reshape(x, p) }"
    graph = graph_of(text)
    assert not apply(graph, FoldConstants()).modified
    # ... but the known end of the same shape folds.
    graph = graph_of(
        text.replace("Shape(x)", "Shape<start=1>(x)").replace("p = ReduceProd(s)", "p = Concat<axis=0>(m, s)"),
        m=np.array([-1]),
    )
    assert apply(graph, FoldConstants()).modified


@pytest.mark.parametrize(
    ("node", "reason"),
    [
        ("RandomNormalLike(k)", "its values are random"),
        ("QuantizeLinear(k, one)", "QuantizeLinear is kept as it is"),
        ("other.Thing(k)", "operators of domain 'other' are not evaluated"),
        ("SequenceConstruct(k)", "it gives no tensor of plain numbers"),
        ("If (on) <then_branch = a () => (float p) { p = Neg(k) }, else_branch = b () => (float q) { q = Abs(k) }>",
         "control flow is not evaluated"),
    ],
)  # fmt: skip
def test_case_3_what_is_never_evaluated(node: str, reason: str) -> None:
    graph = graph_of(f"(float x) => (float y, float z) {{ t = {node} y = Cast<to=1>(t) z = Neg(x) }}".replace(
        "y = Cast<to=1>(t)", "y = SequenceAt(t, i)" if "Sequence" in node else "y = other.Id(t)"
    ), k=np.float32(1), one=np.float32(1), on=np.array(True), i=np.int64(0))  # fmt: skip
    graph.prune()
    result = FoldConstants().run(graph)
    assert not result.modified
    assert reason in reasons(result)


def test_case_3_strings_stay() -> None:
    text = "(float x) => (bool[2] y) { a = StringConcat(s, s) y = Equal(a, s) }"
    graph = graph_of(text, opset=20, s=np.array(["a", "b"], object))
    assert not FoldConstants().run(graph).modified


@pytest.mark.parametrize(
    ("node", "constants"),
    [
        ("Expand(k, s)", {"k": np.ones((1, 600), np.float32), "s": np.array([600, 1])}),
        ("ConstantOfShape(s)", {"s": np.array([600, 600])}),
        ("Tile(k, s)", {"k": np.ones((1, 600), np.float32), "s": np.array([600, 1])}),
        ("Add(k, c)", {"k": np.ones((1, 600), np.float32), "c": np.ones((600, 1), np.float32)}),
    ],
)
def test_case_4_large_results_stay(node: str, constants: dict[str, Any]) -> None:
    graph = graph_of(f"(float[600,600] x) => (float[600,600] y) {{ t = {node} y = Mul(x, t) }}", **constants)
    result = apply(graph, FoldConstants())
    assert not result.modified
    assert "its result takes 1440000 bytes, made from" in reasons(result)


def test_case_4_large_results_of_large_constants_fold() -> None:
    graph = graph_of("(float[N,600] x) => (float[N,600] y) { t = Transpose(w) y = MatMul(x, t) }", w=normal(600, 600))
    apply(graph, FoldConstants())
    assert ops(graph) == {"MatMul": 1}


def test_case_4_size_known_a_round_later() -> None:
    # The target of Expand is computed by an operator whose value inference cannot follow, so it takes two rounds.
    text = "(float[N,3] x) => (float[N,3] y) { m = ReduceMax<keepdims=1>(s) t = Expand(k, m) y = Add(x, t) }"
    graph = graph_of(text, s=np.array([1, 3]), k=np.float32(2))
    apply(graph, FoldConstants())
    assert ops(graph) == {"Add": 1}


def test_case_5_an_output_of_the_graph_stays() -> None:
    graph = graph_of("(float[2] x) => (float[2] y, float[2] z) { y = Neg(x) z = Neg(k) }", k=normal(2))
    assert reasons(apply(graph, FoldConstants())) == "its output is an output of the graph"


def test_case_6_what_cannot_be_run_stays() -> None:
    graph = graph_of("(float[2] x) => (float[a] y) { t = Gather(k, i) y = Add(x, t) }", k=normal(2), i=np.array([7]))
    result = FoldConstants().run(graph)
    assert not result.modified
    assert reasons(result).startswith("onnxruntime cannot evaluate it: ")


@pytest.mark.parametrize(("sizes", "folded"), [([2, 4, 0], False), ([0], True), ([2, 4, 1], True)])
def test_case_7_arrays_without_elements_stay(sizes: list[int], folded: bool) -> None:
    shape = ",".join(str(size or "N") for size in sizes)
    text = f"(float[{shape}] x) => (float[{shape}] y) {{ [made] p = ConstantOfShape(s) y = Add(x, p) }}"
    graph = graph_of(text, s=np.array(sizes))
    FoldConstants().run(graph)
    assert graph.is_constant("p") == folded


def test_onnxruntime_is_silent_while_it_evaluates(capfd: pytest.CaptureFixture[str]) -> None:
    """onnxruntime 1.31 warns that it cannot remove this Unsqueeze, with colour codes, past Python's stderr."""
    graph = graph_of(
        "(float[N,4,4] x) => (float[N,4,4] y) { u = Unsqueeze(w, a) y = Add(x, u) }", w=normal(4, 4), a=np.int64([0])
    )
    apply(graph, FoldConstants())
    assert ops(graph) == {"Add": 1}
    assert capfd.readouterr() == ("", "")
