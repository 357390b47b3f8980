"""One test for each numbered case of SettleReshape."""

from __future__ import annotations

import numpy as np
import pytest

from onnxq.graph.view import Graph
from onnxq.passes.simplify.infer_shapes import InferShapes
from onnxq.passes.simplify.settle_reshape import SettleReshape
from tests.graphs import apply, graph_of, ops, reasons

CONSTANTS = {"zero": np.array(0), "zeros": np.array([0]), "two": np.array([2]), "rest": np.array([-1])}


def reshaped(nodes: str, *, x: str = "N,3,4,4", opset: int = 17, **constants: object) -> Graph:
    """`nodes` make the target t of a Reshape of r = Relu(x)."""
    text = f"(float[{x}] x) => (float[a,b,c] y) {{ r = Relu(x) {nodes} }}"
    known = {name: value for name, value in {**CONSTANTS, **constants}.items() if name in nodes}
    graph = graph_of(text, opset=opset, **known)
    InferShapes().run(graph)
    return graph


def target(graph: Graph) -> list[int]:
    node = graph.producer("y")
    assert node is not None
    value = graph.constant(node.input[1])
    assert value is not None
    return [int(size) for size in value]


def test_case_1_own_sizes_without_a_name() -> None:
    # torch's flatten(2): no size of the data but the channels is known, nor has it a name.
    graph = reshaped("s = Shape(r) f = Slice(s, zeros, two) t = Concat<axis=0>(f, rest) y = Reshape(r, t)", x="?,3,?,?")
    apply(graph, SettleReshape())
    assert target(graph) == [0, 3, -1]
    assert ops(graph) == {"Relu": 1, "Reshape": 1}


def test_case_1_a_size_of_another_tensor_with_the_same_name() -> None:
    nodes = (
        "s = Shape(x) n = Gather(s, zero) u = Unsqueeze(n, zeros) t = Concat<axis=0>(u, rest, two) y = Reshape(r, t)"
    )
    graph = reshaped(nodes)
    apply(graph, SettleReshape())
    assert target(graph) == [0, -1, 2]


@pytest.mark.parametrize(
    ("data", "settled"),
    [
        ("m = MatMul(r, w) d = Add(b, m)", [0, -1, 2]),  # heads of an attention, as torch's older exporter writes them
        ("m = MatMul(w4, r) d = Add(b, m)", None),
        ("d = Add(r, column)", [0, -1, 2]),
        ("d = Add(r, whole)", None),  # a batch of 1 may have become one of 2
        ("m = Transpose<perm=[3,1,2,0]>(r) d = Relu(m)", None),
    ],
)
def test_case_1_a_size_of_what_the_data_is_made_from(data: str, settled: list[int] | None) -> None:
    constants = {
        "w": np.ones((4, 4), np.float32), "w4": np.ones((1, 1, 4, 4), np.float32), "b": np.ones(4, np.float32),
        "column": np.ones((1, 3, 1, 1), np.float32), "whole": np.ones((2, 3, 4, 4), np.float32),
    }  # fmt: skip
    nodes = f"{data} s = Shape(r) n = Gather(s, zeros) t = Concat<axis=0>(n, rest, two) y = Reshape(d, t)"
    used = set(nodes.replace("(", " ").replace(")", " ").replace(",", " ").split())
    graph = reshaped(nodes, x="?,3,4,4", **{name: value for name, value in constants.items() if name in used})
    SettleReshape().run(graph)
    node = graph.producer("y")
    assert node is not None
    value = graph.constant(node.input[1])
    assert (None if value is None else value.tolist()) == settled


def test_case_1_not_where_the_same_size_stands_elsewhere() -> None:
    # The batch, but as the second size: 0 would copy the channels.
    nodes = "s = Shape(r) n = Gather(s, zeros) t = Concat<axis=0>(rest, n, two) y = Reshape(r, t)"
    graph = reshaped(nodes)
    result = apply(graph, SettleReshape())
    assert not result.modified
    assert reasons(result) == "more than one size of its target is open"


def test_case_2_the_only_open_size() -> None:
    # Windows of an image: their number is computed.
    nodes = """s = Shape(r) n = Gather(s, zeros) f = Mul(n, four) t = Concat<axis=0>(f, four, three)
        y = Reshape(r, t)"""
    graph = reshaped(nodes, four=np.array([4]), three=np.array([3]))
    apply(graph, SettleReshape())
    assert target(graph) == [-1, 4, 3]


def test_case_3_a_target_of_unknown_length() -> None:
    text = "(float[N,3] x, int64[r] t) => (float[a,b] y) { y = Reshape(x, t) }"
    result = SettleReshape().run(graph_of(text))
    assert reasons(result) == "the length of its target is not known"


def test_case_3_a_target_that_is_an_input() -> None:
    text = "(float[N,3] x, int64[2] t) => (float[a,b] y) { y = Reshape(x, t) }"
    result = SettleReshape().run(graph_of(text))
    assert reasons(result) == "more than one size of its target is open"


def test_case_4_constant() -> None:
    assert not apply(reshaped("y = Reshape(r, t)", t=np.array([0, 3, -1])), SettleReshape()).modified


def test_case_4_a_zero_that_stands_for_no_elements() -> None:
    nodes = "s = Shape(r) n = Gather(s, zeros) t = Concat<axis=0>(n, zeros, rest) y = Reshape<allowzero=1>(r, t)"
    text = f"(float[N,0,4,4] x) => (float[a,b,c] y) {{ r = Relu(x) {nodes} }}"
    graph = graph_of(text, zeros=CONSTANTS["zeros"], rest=CONSTANTS["rest"])
    InferShapes().run(graph)
    assert reasons(SettleReshape().run(graph)) == "a 0 in its target stands for no elements"


@pytest.mark.parametrize("allowzero", [0, 1])
def test_allowzero_has_no_meaning_for_the_zeros_written_here(allowzero: int) -> None:
    nodes = f"""s = Shape(r) n = Gather(s, zeros) t = Concat<axis=0>(n, rest, two)
        y = Reshape<allowzero={allowzero}>(r, t)"""
    graph = reshaped(nodes)
    apply(graph, SettleReshape())
    assert target(graph) == [0, -1, 2]
