"""One test for each numbered case of LiftActivations, and what a plan makes of it."""

from __future__ import annotations

import numpy as np
import pytest

from onnxq.graph.shapes import infer_shapes
from onnxq.graph.view import Graph
from onnxq.passes.simplify.lift_activations import LiftActivations
from onnxq.passes.simplify.normalise import normalise_float
from tests.graphs import apply, graph_of, normal
from tests.planned import actions, activations, planned

CONSTANTS = {
    "w": normal(8, 8, 3),
    "b": normal(8, seed=1),
    "g": normal(16, 8, seed=2),
    "zero": np.zeros(1, np.int64),
    "end": np.full(1, -2, np.int64),
    "two": np.full(1, 2, np.int64),
    "flat": np.array([1, 4, 2, -1]),
    "low": np.float32(-0.5),
    "six": np.float32(6),
}


def lifted(text: str) -> Graph:
    """The graph of `text` after the pass; `apply` compares the outputs, here to the bit: only the order changes."""
    used = {name: value for name, value in CONSTANTS.items() if f" {name}" in text.replace("(", " ")}
    graph = graph_of(text, **used)
    infer_shapes(graph)
    apply(graph, LiftActivations(), rtol=0.0)
    return graph


def order(graph: Graph) -> list[str]:
    graph.sort()
    return [node.op_type for node in graph.nodes]


@pytest.mark.parametrize(
    ("types", "body", "expected"),
    [
        (
            "(float[1,8,10] x) => (float[1,8,a] y)",
            "c = Conv<pads=[2,2]>(x, w, b) s = Slice(c, zero, end, two) y = Relu(s)",
            ["Conv", "Relu", "Slice"],
        ),
        (
            "(float[1,8,10] x) => (float[1,8,a] y)",
            "c = Conv(x, w) s = MaxPool<kernel_shape=[2],pads=[1,0]>(c) y = Clip(s, low, six)",
            ["Conv", "Clip", "MaxPool"],
        ),
        (
            "(float[1,8,10] x) => (float[1,4,2,a] y)",
            "c = Conv(x, w) t = Transpose<perm=[0,2,1]>(c) s = Reshape(t, flat) y = Relu(s)",
            ["Conv", "Relu", "Transpose", "Reshape"],
        ),
        (
            "(float[2,8] x) => (float[1,2,a] y)",
            "c = Gemm<transB=1>(x, g) s = Unsqueeze(c, zero) y = Relu(s)",
            ["Gemm", "Relu", "Unsqueeze"],
        ),
    ],
)
def test_case_1(types: str, body: str, expected: list[str]) -> None:
    graph = lifted(f"{types} {{ {body} }}")
    assert order(graph) == expected
    assert graph.nodes[-1].output[0] == "y"


def test_case_1_keeps_names() -> None:
    graph = lifted(
        """(float[1,8,10] x) => (float[1,8,a] y) {
        [conv] c = Conv<pads=[2,2]>(x, w) [cut] s = Slice(c, zero, end, two) [act] y = Relu(s) }"""
    )
    assert [node.name for node in graph.nodes] == ["conv", "act", "cut"]


@pytest.mark.parametrize(
    "text",
    [
        """(float[1,8,10] x) => (float[1,8,a] y, float[1,8,c] s) {
        c = Conv(x, w) s = Slice(c, zero, end, two) y = Relu(s) }""",
        """(float[1,8,10] x) => (float[1,8,a] y, float[1,8,c] c) {
        c = Conv(x, w) s = Slice(c, zero, end, two) y = Relu(s) }""",
        """(float[1,8,10] x) => (float[1,8,a] y, float[1,8,c] z) {
        c = Conv(x, w) s = Slice(c, zero, end, two) y = Relu(s) z = Neg(s) }""",
        "(float[1,8,10] x) => (float[1,8,a] y) { c = Neg(x) s = Slice(c, zero, end, two) y = Relu(s) }",
        "(float[1,8,10] x) => (float[1,8,a] y) { c = Conv(x, w) y = Relu(c) }",
    ],
)  # fmt: skip
def test_case_2(text: str) -> None:
    before = [n.op_type for n in graph_of(text, **{k: v for k, v in CONSTANTS.items() if k in text}).nodes]
    assert [n.op_type for n in lifted(text).nodes] == before


@pytest.mark.parametrize(
    "body",
    [
        "c = Conv(x, w) s = Slice(c, zero, end, two) l = ReduceMin<keepdims=0>(x) y = Clip(s, l)",
        "c = Conv(x, w) s, i = MaxPool<kernel_shape=[2]>(c) j = Neg(i) y = Relu(s)",
    ],
)
def test_case_3(body: str) -> None:
    outputs = "float[1,8,a] y, int64[1,8,d] j" if "j" in body else "float[1,8,a] y"
    graph = lifted(f"(float[1,8,10] x) => ({outputs}) {{ {body} }}")
    assert order(graph)[-1] in ("Clip", "Relu")


def test_what_is_cut_stays_codes() -> None:
    """The Conv, its Relu and the Slice of a causal convolution: without the pass the last two are float."""
    graph = graph_of(
        """(float[N,16,8] x) => (float[N,16,8] y) {
        [c1] a = Conv<pads=[2,2]>(x, w) [cut] s = Slice(a, zero, end, two) [relu] r = Relu(s)
        [c2] y = Conv<pads=[1,1]>(r, w) }""",
        w=normal(16, 16, 3),
        **{name: CONSTANTS[name] for name in ("zero", "end", "two")},
    )
    normalise_float().run(graph)
    plan = planned(graph)
    assert actions(plan) == {"c1": "int8", "relu": "fused", "cut": "int8", "c2": "int8"}
    assert any(text.endswith("-> cut.0") and "observed[0,]" in text for text in activations(plan))
