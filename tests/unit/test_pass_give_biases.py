"""One test for each numbered case of GiveBiases."""

from __future__ import annotations

import numpy as np
import pytest

from onnxq.passes.quantize.give_biases import GiveBiases
from tests.graphs import apply, graph_of, normal


@pytest.mark.parametrize(
    ("op", "shape", "channels"),
    [
        ("Conv(x, w)", (5, 4, 1, 1), 5),
        ("Conv<group=2>(x, w)", (6, 2, 1, 1), 6),
        ("ConvTranspose(x, w)", (4, 3, 1, 1), 3),
        ("ConvTranspose<group=2>(x, w)", (4, 3, 1, 1), 6),
    ],
)
def test_case_1_conv(op: str, shape: tuple[int, ...], channels: int) -> None:
    graph = graph_of(f"(float[1,4,6,6] x) => (float[a,b,c,d] y) {{ y = {op} }}", w=normal(*shape))
    apply(graph, GiveBiases())
    bias = graph.constant(graph.nodes[0].input[2])
    assert bias is not None
    np.testing.assert_array_equal(bias, np.zeros(channels, np.float32))


@pytest.mark.parametrize(("trans", "shape"), [(0, (4, 3)), (1, (3, 4))])
def test_case_1_gemm(trans: int, shape: tuple[int, int]) -> None:
    graph = graph_of(f"(float[2,4] x) => (float[a,b] y) {{ y = Gemm<transB={trans}>(x, w) }}", w=normal(*shape))
    apply(graph, GiveBiases())
    bias = graph.constant(graph.nodes[0].input[2])
    assert bias is not None
    assert bias.shape == (3,)


def test_case_2_shared_bias_is_copied() -> None:
    text = "(float[1,4,6,6] x) => (float[a,b,c,d] y, float[a,b,c,d] z) { y = Conv(x, v, b) z = Conv(x, w, b) }"
    graph = graph_of(text, v=normal(4, 4, 1, 1), w=normal(4, 4, 1, 1, seed=1), b=normal(4))
    apply(graph, GiveBiases())
    first, second = (node.input[2] for node in graph.nodes)
    assert first != second
    np.testing.assert_array_equal(graph.constant(first), graph.constant(second))


def test_case_2_bias_of_matmul() -> None:
    text = "(float[2,4] x) => (float[2,3] y, float[2,3] z) { p = MatMul(x, w) y = Add(b, p) z = Add(x3, b) }"
    graph = graph_of(text, w=normal(4, 3), b=normal(3), x3=normal(2, 3))
    apply(graph, GiveBiases())
    adds = [node for node in graph.nodes if node.op_type == "Add"]
    assert adds[0].input[0] != adds[1].input[1]


@pytest.mark.parametrize(
    "body",
    ["y = Conv(x, w, k)", "y = Conv(x, k)", "y = MatMul(x, m)"],
    ids=["bias computed", "weight computed", "bare"],
)
def test_case_3_left_alone(body: str) -> None:
    inputs = {"y = Conv(x, w, k)": "float[5] k", "y = Conv(x, k)": "float[5,4,1,1] k"}.get(body, "float[1] k")
    constants = {"w": normal(5, 4, 1, 1), "m": normal(6, 3)}
    used = {
        name: value
        for name, value in constants.items()
        if f"{name}" in body.replace("(", " ").replace(")", " ").replace(",", " ").split()
    }
    graph = graph_of(f"(float[1,4,6,6] x, {inputs}) => (float[a,b,c,d] y) {{ {body} }}", **used)
    assert not GiveBiases().run(graph).modified
