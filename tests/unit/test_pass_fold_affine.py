"""One test for each numbered case of FoldAffine; each checks the function and the structure."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from onnxq.graph.view import Graph
from onnxq.passes.simplify.fold_affine import FoldAffine
from onnxq.passes.simplify.infer_shapes import InferShapes
from tests.graphs import apply, graph_of, normal, ops, reasons

CHANNELS = 4


def conv_then(then: str, constant: Any, linear: str = "Conv(x, w)", **weights: Any) -> Graph:
    text = f"(float[N,6,5,5] x) => (float[a,b,c,d] y) {{ t = {linear} y = {then} }}"
    return graph_of(text, **{"w": normal(CHANNELS, 6, 3, 3), "k": np.float32(constant), **weights})


@pytest.mark.parametrize(
    "op", ["Mul(t, k)", "Mul(k, t)", "Div(t, k)", "Add(t, k)", "Add(k, t)", "Sub(t, k)", "Sub(k, t)"]
)
@pytest.mark.parametrize("shape", [(), (1,), (CHANNELS, 1, 1), (1, CHANNELS, 1, 1)])
@pytest.mark.parametrize("bias", [True, False])
def test_cases_1_and_2_conv(op: str, shape: tuple[int, ...], *, bias: bool) -> None:
    constant = normal(*shape, seed=5) + np.float32(3)
    graph = conv_then(
        op, constant, "Conv(x, w, b)" if bias else "Conv(x, w)", **({"b": normal(CHANNELS)} if bias else {})
    )
    apply(graph, FoldAffine())
    assert ops(graph) == {"Conv": 1}
    assert graph.producer("y").op_type == "Conv"


@pytest.mark.parametrize("op", ["Mul(t, k)", "Add(t, k)"])
def test_cases_1_and_2_conv_transpose_in_groups(op: str) -> None:
    graph = conv_then(op, normal(6, 1, 1, seed=5), "ConvTranspose<group=2>(x, w)", w=normal(6, 3, 3, 3))
    apply(graph, FoldAffine())
    assert ops(graph) == {"ConvTranspose": 1}


@pytest.mark.parametrize("op", ["Mul(t, k)", "Add(t, k)", "Sub(k, t)"])
@pytest.mark.parametrize("gemm", ["Gemm(x, w)", "Gemm<transB=1>(x, v)", "Gemm<beta=0.5>(x, w, b)"])
def test_cases_1_and_2_gemm(op: str, gemm: str) -> None:
    text = f"(float[N,6] x) => (float[N,4] y) {{ t = {gemm} y = {op} }}"
    constants = {"w": normal(6, 4), "v": normal(4, 6), "b": normal(4), "k": normal(4, seed=5)}
    graph = graph_of(text, **{k: v for k, v in constants.items() if k == "k" or f" {k}" in gemm})
    apply(graph, FoldAffine())
    assert ops(graph) == {"Gemm": 1}


@pytest.mark.parametrize("shape", [(6, 4), (2, 6, 4)])
def test_case_1_matmul(shape: tuple[int, ...]) -> None:
    text = "(float[2,3,6] x) => (float[2,3,4] y) { t = MatMul(x, w) y = Mul(t, k) }"
    graph = graph_of(text, w=normal(*shape), k=normal(4, seed=5))
    apply(graph, FoldAffine())
    assert ops(graph) == {"MatMul": 1}


def test_chain_folds_at_once() -> None:
    text = "(float[N,6,5,5] x) => (float[N,4,3,3] y) { a = Conv(x, w) b = Mul(a, k) c = Add(b, k) y = Div(c, k) }"
    graph = graph_of(text, w=normal(4, 6, 3, 3), k=normal(4, 1, 1, seed=5))
    apply(graph, FoldAffine())
    assert ops(graph) == {"Conv": 1}


def test_case_3_behind_batchnorm() -> None:
    text = """(float[N,4,5,5] x) => (float[N,4,5,5] y) {
        n = BatchNormalization(x, s, s, s, v)  m = Mul(n, k)  y = Add(m, k) }"""
    graph = graph_of(text, s=normal(4), v=np.abs(normal(4)) + 1, k=normal(4, 1, 1, seed=5))
    apply(graph, InferShapes(), FoldAffine())
    assert ops(graph) == {"BatchNormalization": 1}


def test_case_3_without_a_known_rank() -> None:
    text = """(float[N,4,5,5] x) => (float[N,4,5,5] y) {
        n = BatchNormalization(x, s, s, s, v)  y = Mul(n, k) }"""
    graph = graph_of(text, s=normal(4), v=np.abs(normal(4)) + 1, k=normal(4, 1, 1, seed=5))
    result = FoldAffine().run(graph)
    assert reasons(result) == "the rank of the output of BatchNormalization 'BatchNormalization_n' is not known"


def test_case_4_gemm_factors() -> None:
    text = "(float[N,6] x) => (float[N,4] y) { y = Gemm<alpha=0.25, beta=3.0>(x, w, b) }"
    graph = graph_of(text, w=normal(6, 4), b=normal(4))
    apply(graph, FoldAffine())
    assert [a.name for a in graph.producer("y").attribute] == []


def test_case_4_beta_without_a_bias() -> None:
    graph = graph_of("(float[N,6] x) => (float[N,4] y) { y = Gemm<alpha=0.25, beta=3.0>(x, w) }", w=normal(6, 4))
    apply(graph, FoldAffine())
    assert [a.name for a in graph.producer("y").attribute] == []


@pytest.mark.parametrize("shape", [(), (1,), (1, 1)])
def test_case_4_one_bias_for_all_channels(shape: tuple[int, ...]) -> None:
    text = "(float[N,6] x) => (float[N,4] y) { y = Gemm<beta=3.0>(x, w, b) }"
    graph = graph_of(text, w=normal(6, 4), b=np.full(shape, 0.5, np.float32))
    apply(graph, FoldAffine())
    np.testing.assert_array_equal(graph.constant(graph.producer("y").input[2]), np.full(4, 1.5, np.float32))


def test_case_4_factor_of_a_variable_stays() -> None:
    text = "(float[N,6] x, float[4] b) => (float[N,4] y) { y = Gemm<beta=3.0>(x, w, b) }"
    assert reasons(apply(graph_of(text, w=normal(6, 4)), FoldAffine())) == (
        "beta is 3, and what it scales is not a constant"
    )


def test_case_5_shared_weight_is_copied() -> None:
    text = "(float[N,6] x) => (float[N,4] y, float[N,4] z) { t = MatMul(x, w) y = Mul(t, k) z = MatMul(x, w) }"
    graph = graph_of(text, w=normal(6, 4), k=np.float32(3))
    apply(graph, FoldAffine())
    assert graph.producer("z").input[1] == "w"
    assert len(graph.initializers) == 2


@pytest.mark.parametrize(
    ("head", "outputs", "tail", "reason"),
    [
        ("", "float[a,b,c,d] y, float[a,b,c,d] z", "z = Relu(t)", "has other readers"),
        ("", "float[a,b,c,d] y, float[a,b,c,d] t", "", "is an output of the graph"),
        (", float[4,6,3,3] v", "float[a,b,c,d] y", "", "is not a constant"),
    ],
)
def test_case_6_not_alone(head: str, outputs: str, tail: str, reason: str) -> None:
    weight = "v" if head else "w"
    text = f"(float[N,6,5,5] x{head}) => ({outputs}) {{ t = Conv(x, {weight}) y = Mul(t, k) {tail} }}"
    constants = {"k": np.float32(2)} | ({} if head else {"w": normal(4, 6, 3, 3)})
    assert reason in reasons(apply(graph_of(text, **constants), FoldAffine()))


@pytest.mark.parametrize(
    ("shape", "reason"),
    [
        ((3,), "differs along other axes than the channels"),
        ((4, 3, 3), "differs along other axes than the channels"),
        ((1, 1, 4, 1, 1), "the constant has rank 5, more than the output's 4"),
    ],
)
def test_case_7_other_shapes(shape: tuple[int, ...], reason: str) -> None:
    text = (
        f"(float[N,6,5,5] x) => (float[{','.join('abcde'[: max(4, len(shape))])}] y) {{ t = Conv(x, w) y = Mul(t, k) }}"
    )
    graph = graph_of(text, w=normal(4, 6, 3, 3), k=normal(*shape))
    assert reason in reasons(apply(graph, FoldAffine()))


def test_case_7_a_size_would_grow() -> None:
    graph = conv_then("Mul(t, k)", normal(4, 1, 1), w=normal(1, 6, 3, 3))
    assert reasons(apply(graph, FoldAffine())) == "the constant has 4 values for 1 channel"


def test_case_7_vector_weight() -> None:
    text = "(float[2,6] x) => (float[2] y) { t = MatMul(x, w) y = Mul(t, k) }"
    assert "is a vector" in reasons(apply(graph_of(text, w=normal(6), k=np.float32(2)), FoldAffine()))


@pytest.mark.parametrize(
    ("then", "reason"),
    [
        ("Add(t, k)", "MatMul has no bias to take the shift"),
        ("Div(k, t)", "a constant divided by the output is not linear"),
    ],
)
def test_case_8_no_place_for_it(then: str, reason: str) -> None:
    graph = graph_of(f"(float[2,6] x) => (float[2,4] y) {{ t = MatMul(x, w) y = {then} }}", w=normal(6, 4), k=normal(4))
    assert reason in reasons(apply(graph, FoldAffine()))


def test_case_9_division_by_zero() -> None:
    graph = conv_then("Div(t, k)", 0.0)
    result = FoldAffine().run(graph)
    assert (reasons(result), result.modified) == ("the folded weights would not be finite", False)


def test_arithmetic_without_a_linear_operator_is_not_mentioned() -> None:
    result = apply(
        graph_of("(float[2,6] x) => (float[2,6] y) { r = Relu(x) y = Mul(r, k) }", k=normal(6)), FoldAffine()
    )
    assert not result.misses
