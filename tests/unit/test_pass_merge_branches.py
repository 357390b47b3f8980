"""One test for each numbered case of MergeBranches; `apply` compares the outputs before and after."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from onnxq.graph.view import Graph, attribute
from onnxq.passes.simplify.merge_branches import MergeBranches
from onnxq.passes.simplify.normalise import normalise_float
from tests.graphs import apply, graph_of, normal, ops, reasons

BN = {
    "s": normal(4, seed=5),
    "b": normal(4, seed=6),
    "m": normal(4, seed=7),
    "v": np.abs(normal(4, seed=8)) + np.float32(0.5),
}


def summed(left: str, right: str, *, before: str = "", behind: str = "", **constants: Any) -> Graph:
    """Add of two functions of x, (1, 4, 9, 8), and what stands around it."""
    lines = [f"l = {left}" if left != "x" else "", f"r = {right}" if right != "x" else ""]
    total = f"{'t' if behind else 'y'} = Add({'x' if left == 'x' else 'l'}, {'x' if right == 'x' else 'r'})"
    text = f"(float[1,4,9,8] x) => (float[a,b,c,d] y) {{ {' '.join([before, *lines, total, behind])} }}"
    known = {"w": normal(4, 4, 3, 3), "u": normal(4, 4, 1, 1, seed=1), "c": normal(4, seed=2), **BN, **constants}
    used = set(text.replace("(", " ").replace(")", " ").replace(",", " ").split())
    return graph_of(text, **{name: value for name, value in known.items() if name in used})


@pytest.mark.parametrize(
    ("left", "right"),
    [
        ("Conv<pads=[1,1,1,1]>(x, w)", "Conv(x, u, c)"),
        ("Conv(x, u)", "Conv<pads=[1,1,1,1]>(x, w, c)"),
        ("Conv<pads=[1,1,1,1]>(x, w, c)", "Conv<pads=[1,1,1,1]>(x, w2)"),
        ("Conv<pads=[1,1,1,1], strides=[2,2]>(x, w)", "Conv<strides=[2,2]>(x, u)"),
        ("Conv<pads=[2,2,2,2], dilations=[2,2]>(x, w)", "Conv(x, u)"),
        ("Conv<pads=[1,2,1,0]>(x, w)", "Conv(x, u)"),
        ("Conv<pads=[2,1,2,1]>(x, tall)", "Conv<pads=[0,1,0,1]>(x, flat)"),
    ],
    ids=["3x3 and 1x1", "1x1 and 3x3", "two 3x3", "strides", "dilations", "uneven pads", "5x3 and 1x3"],
)
def test_case_1_one_filter_lies_within_the_other(left: str, right: str) -> None:
    """The pads in "uneven pads" put the single tap off the middle: into the row's last column."""
    more = {"w2": normal(4, 4, 3, 3, seed=3), "tall": normal(4, 4, 5, 3, seed=4), "flat": normal(4, 4, 1, 3, seed=9)}
    graph = summed(left, right, **more)
    apply(graph, MergeBranches())
    assert ops(graph) == {"Conv": 1}


def test_case_1_groups() -> None:
    """Depthwise, as in the blocks of MobileOne."""
    graph = summed(
        "Conv<pads=[1,1,1,1], group=4>(x, w)", "Conv<group=4>(x, u)", w=normal(4, 1, 3, 3), u=normal(4, 1, 1, 1)
    )
    apply(graph, MergeBranches())
    assert ops(graph) == {"Conv": 1}


def test_case_1_a_weight_that_others_read_is_copied() -> None:
    text = """(float[1,4,6,6] x) => (float[a,b,c,d] y, float[e,f,g,h] z) {
    l = Conv(x, u) r = Conv(x, v) y = Add(l, r) z = Conv(y, u) }"""
    graph = graph_of(text, u=normal(4, 4, 1, 1), v=normal(4, 4, 1, 1, seed=1))
    apply(graph, MergeBranches())
    assert ops(graph) == {"Conv": 2}


@pytest.mark.parametrize("group", [1, 2, 4])
def test_case_2_batch_normalization(group: int) -> None:
    conv = f"Conv<pads=[1,1,1,1], group={group}>(x, w, c)"
    graph = summed(conv, "BatchNormalization(x, s, b, m, v)", w=normal(4, 4 // group, 3, 3))
    apply(graph, MergeBranches())
    assert ops(graph) == {"Conv": 1}


def test_case_3_the_tensor_itself_before_a_batch_normalization() -> None:
    """The depthwise blocks of RepViT: bn(conv(x) + conv1x1(x) + x) is one Conv."""
    graph = summed(
        "Conv<pads=[1,1,1,1]>(x, w)", "Conv(x, u)", behind="q = Add(t, x) y = BatchNormalization(q, s, b, m, v)"
    )
    apply(graph, normalise_float())
    assert ops(graph) == {"Conv": 1}


def test_case_3_a_residual_stays() -> None:
    graph = summed("Conv<pads=[1,1,1,1]>(x, w)", "x")
    result = apply(graph, MergeBranches())
    assert reasons(result) == "the tensor itself is added, and no BatchNormalization reads the sum alone"


def test_case_4_different_inputs() -> None:
    graph = summed("Conv<pads=[1,1,1,1]>(x, w)", "Conv(a, u)", before="a = Relu(x)")
    assert not apply(graph, MergeBranches()).modified


def test_case_4_another_reader() -> None:
    graph = summed("Conv(x, u)", "Conv(x, u)", behind="y = Mul(t, r)")
    result = apply(graph, MergeBranches())
    assert not result.modified
    assert "has other readers" in reasons(result)


@pytest.mark.parametrize(
    ("left", "right"),
    [
        ("Conv<pads=[1,0,1,0]>(x, tall)", "Conv<pads=[0,1,0,1]>(x, flat)"),
        ("Conv<pads=[1,1,1,1], strides=[1,1]>(x, w)", "Conv<pads=[2,2,2,2], dilations=[2,2]>(x, w)"),
        ("Conv<pads=[1,1,1,1]>(x, w)", "Conv<pads=[1,1,1,1], group=4>(x, d)"),
        ("Conv<strides=[9,8]>(x, u)", "Conv<pads=[1,1,1,1]>(x, w)"),
    ],
    ids=["3x1 and 1x3", "dilations", "groups", "broadcast"],
)
def test_case_5_filters_that_do_not_fit(left: str, right: str) -> None:
    more = {"tall": normal(4, 4, 3, 1), "flat": normal(4, 4, 1, 3), "d": normal(4, 1, 3, 3)}
    result = apply(summed(left, right, **more), MergeBranches())
    assert reasons(result) == "neither filter lies within the other, or they step differently"


def test_case_6_weights_that_would_not_be_finite() -> None:
    big = np.full((4, 4, 1, 1), 3e38, np.float32)
    result = MergeBranches().run(summed("Conv(x, u)", "Conv(x, k)", u=big, k=big))
    assert reasons(result) == "the merged weights would not be finite"


def test_case_6_auto_pad() -> None:
    result = apply(summed('Conv<auto_pad="SAME_UPPER">(x, w)', "Conv(x, u)"), MergeBranches())
    assert "depends on the size of its input" in reasons(result)


def test_a_block_of_mobileone_is_one_conv() -> None:
    """Three branches with a BatchNormalization each, one of them over the input itself."""
    text = """(float[1,4,9,8] x) => (float[a,b,c,d] y) {
    h = Relu(x)
    i = BatchNormalization(h, s, b, m, v)
    k = Conv(h, u) n = BatchNormalization(k, s, b, m, v)
    o = Conv<pads=[1,1,1,1]>(h, w) p = BatchNormalization(o, b, s, m, v)
    q = Add(n, i) r = Add(q, p)
    y = Relu(r)
    }"""
    graph = graph_of(text, u=normal(4, 4, 1, 1), w=normal(4, 4, 3, 3, seed=1), **BN)
    apply(graph, normalise_float())
    assert ops(graph) == {"Relu": 2, "Conv": 1}
    assert attribute(graph.producer("r"), "pads") == [1, 1, 1, 1]


def test_branches_of_a_training_with_pairs_stay() -> None:
    """Their codes are what the training settled; the sum of two weights has others."""
    graph = summed("Conv<pads=[1,1,1,1]>(x, w)", "Conv(x, u)")
    normalise_float(trained=True).run(graph)
    assert ops(graph) == {"Conv": 2, "Add": 1}
