"""Multiply-accumulates, against the definition of each operator."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from onnxq.planning.macs import macs, plan_with_macs
from tests.graphs import graph_of, normal
from tests.planned import planned


@pytest.mark.parametrize(
    ("text", "weight", "expected"),
    [
        ("(float[N,3,8,8] x) => (float[N,16,8,8] y) { [n] y = Conv<pads=[1,1,1,1]>(x, w) }", (16, 3, 3, 3), 27648),
        ("(float[N,8,8,8] x) => (float[N,8,8,8] y) { [n] y = Conv<pads=[1,1,1,1],group=8>(x, w) }", (8, 1, 3, 3), 4608),
        ("(float[N,8,4,4] x) => (float[N,6,8,8] y) { [n] y = ConvTranspose<strides=[2,2]>(x, w) }", (8, 6, 2, 2), 3072),
        ("(float[N,5,16] x) => (float[N,5,32] y) { [n] y = MatMul(x, w) }", (16, 32), 5 * 16 * 32),
        ("(float[N,16] x) => (float[N,32] y) { [n] y = Gemm(x, w) }", (16, 32), 16 * 32),
        ("(float[N,16] x) => (float[N,32] y) { [n] y = Gemm<transB=1>(x, w) }", (32, 16), 16 * 32),
        ("(float[N,3,H,W] x) => (float[N,16,H,W] y) { [n] y = Conv<pads=[1,1,1,1]>(x, w) }", (16, 3, 3, 3), None),
        ("(float[N,16] x) => (float[N,16] y) { [n] y = Add(x, w) }", (16,), 0),
        ("(float[2,5,16] x) => (float[2,5,32] y) { [n] y = MatMul(x, w) }", (16, 32), 5 * 16 * 32),
        # Windows, patches and tokens in front of the batch, or merged with it.
        (
            "(float[1,4,5,16] x) => (float[4,5,32] y) { v = Squeeze<axes=[0]>(x) [n] y = MatMul(v, w) }",
            (16, 32),
            4 * 5 * 16 * 32,
        ),
        ("(float[2,5,16] x) => (float[10,32] y) { v = Reshape(x, s) [n] y = Gemm(v, w) }", (16, 32), 5 * 16 * 32),
        (
            "(float[N,5,16] x) => (float[5,N,32] y) { v = Transpose<perm=[1,0,2]>(x) [n] y = MatMul(v, w) }",
            (16, 32),
            5 * 16 * 32,
        ),
        ("(float[N,5,16] x) => (float[M,32] y) { v = Reshape(x, s) [n] y = Gemm(v, w) }", (16, 32), None),
    ],
)
def test_macs(text: str, weight: tuple[int, ...], expected: Any) -> None:
    rows = {"s": np.array([-1, 16], np.int64)} if "Reshape" in text else {}
    graph = graph_of(text, opset=11 if "Squeeze" in text else 17, w=normal(*weight), **rows)
    assert macs(graph, graph.node("n")) == expected


@pytest.mark.parametrize(("layout", "shape"), [(0, "7,N,16"), (1, "N,7,16")])
def test_macs_of_a_recurrent_network(layout: int, shape: str) -> None:
    graph = graph_of(
        f"(float[{shape}] x) => (float[A,B,C,D] y) "
        f'{{ [n] y = LSTM<hidden_size=5, direction="bidirectional", layout={layout}>(x, w, r) }}',
        w=normal(2, 20, 16),
        r=normal(2, 20, 5),
    )
    assert macs(graph, graph.node("n")) == 7 * 2 * 20 * (16 + 5)
    open_steps = graph_of(
        "(float[T,N,16] x) => (float[T,1,N,5] y) { [n] y = LSTM<hidden_size=5>(x, w, r) }",
        w=normal(1, 20, 16),
        r=normal(1, 20, 5),
    )
    assert macs(open_steps, open_steps.node("n")) is None


def test_open_sizes_are_counted_for_the_shapes_that_were_fed() -> None:
    text = "(float[N,3,H,W] x) => (float[N,16,H,W] y) { [n] y = Conv<pads=[1,1,1,1]>(x, w) }"
    weight = normal(16, 3, 3, 3)
    plan = plan_with_macs(planned(text, w=weight), graph_of(text, w=weight), {"x": (2, 3, 8, 8)})
    assert [d.macs for d in plan.nodes] == [27648]
