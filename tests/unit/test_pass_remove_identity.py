"""One test for each numbered case of RemoveIdentity."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from onnxq.graph.view import Graph
from onnxq.passes.simplify.remove_identity import RemoveIdentity
from tests.graphs import apply, graph_of, ops, reasons


def around(node: str, *, opset: int = 17, x: str = "float[2,3]", **constants: Any) -> Graph:
    """x -> Relu -> node -> Neg -> y."""
    text = f"({x} x) => (float[a,b] y) {{ r = Relu(x) t = {node} y = Neg(t) }}"
    return graph_of(text, opset=opset, **constants)


@pytest.mark.parametrize(
    ("node", "constants"),
    [
        ("Identity(r)", {}),  # 1
        ("Dropout(r)", {}),  # 2
        ("Dropout(r, ratio, off)", {"ratio": np.float32(0.5), "off": np.array(False)}),  # 2
        ("Cast<to=1>(r)", {}),  # 3
        ("Transpose<perm=[0,1]>(r)", {}),  # 4
        ("Reshape(r, s)", {"s": np.array([2, 3])}),  # 5
        ("Reshape(r, s)", {"s": np.array([0, -1])}),  # 5
        ("Expand(r, s)", {"s": np.array([3])}),  # 5
        ("Flatten(r)", {}),  # 5
        ("Concat<axis=0>(r)", {}),  # 6
        ("Sum(r)", {}),  # 6
        ("Clip(r)", {}),  # 6
        ("Pad(r, s)", {"s": np.zeros(4, np.int64)}),  # 7
        ("Mul(k, r)", {"k": np.float32(1)}),  # 7
        ("Div(r, k)", {"k": np.ones((1, 1), np.float32)}),  # 7
        ("Add(r, k)", {"k": np.float32(0)}),  # 7
        ("Sub(r, k)", {"k": np.float32(0)}),  # 7
    ],
)
def test_cases_1_to_7_go(node: str, constants: dict[str, Any]) -> None:
    graph = around(node, **constants)
    # Relu's output gets its shape here, as shape inference would give it.
    graph.copy_value_info("x", "r")
    apply(graph, RemoveIdentity())
    assert ops(graph) == {"Relu": 1, "Neg": 1}
    assert not graph.initializers


@pytest.mark.parametrize(
    ("node", "constants"),
    [
        ("Cast<to=1>(d)", {}),
        ("Transpose(r)", {}),
        ("Reshape(r, s)", {"s": np.array([3, 2])}),
        ("Expand(r, s)", {"s": np.array([1, 2, 3])}),
        ("Flatten<axis=0>(r)", {}),
        ("Concat<axis=0>(r, r)", {}),
        ("Clip(r, k)", {"k": np.float32(1)}),
        ("Pad(r, s)", {"s": np.array([0, 0, 0, 1])}),
        ("Mul(r, k)", {"k": np.float32(2)}),
        ("Div(k, r)", {"k": np.float32(1)}),
        ("Sub(k, r)", {"k": np.float32(0)}),
        ("Add(r, k)", {"k": np.zeros((1, 1, 1), np.float32)}),
    ],
)
def test_cases_1_to_7_that_do_something_stay(node: str, constants: dict[str, Any]) -> None:
    rank = 3 if "1, 1, 1" in repr(constants.get("k", np.zeros(())).shape) or "Expand" in node else 2
    sizes = "a,b,c"[: 2 * rank - 1]
    text = f"(float[2,3] x) => (float[{sizes}] y) {{ d = Cast<to=11>(x) r = Relu(x) t = {node} y = Neg(t) }}"
    graph = graph_of(text, **constants)
    graph.copy_value_info("x", "r")
    before = len(graph.nodes)
    RemoveIdentity().run(graph)
    assert len(graph.nodes) in {before, before - 1}  # Cast to double may be dead, nothing else
    assert graph.producer("t").op_type == node.split("(", maxsplit=1)[0].split("<", maxsplit=1)[0]


def test_case_5_unknown_sizes_that_are_copied() -> None:
    graph = around("Reshape(r, s)", x="float[n,3]", s=np.array([-1, 3]))
    graph.copy_value_info("x", "r")
    apply(graph, RemoveIdentity())
    assert ops(graph) == {"Relu": 1, "Neg": 1}


def test_case_8_the_producer_takes_over_the_output() -> None:
    text = "(float[2,3] x) => (float[2,3] y, float[2,3] z) { r = Relu(x) y = Identity(r) z = Neg(r) }"
    graph = graph_of(text)
    apply(graph, RemoveIdentity())
    assert ops(graph) == {"Relu": 1, "Neg": 1}
    assert graph.producer("y").op_type == "Relu"
    assert list(graph.producer("z").input) == ["y"]


@pytest.mark.parametrize(
    ("text", "constants"),
    [
        ("(float[2,3] x) => (float[2,3] y) { y = Identity(x) }", {}),
        (
            "(float[2,3] x) => (float[2,3] y, float[2] z) { y = Relu(x) z = Identity(k) }",
            {"k": np.zeros(2, np.float32)},
        ),
        ("(float[2,3] x) => (float[2,3] y, float[2,3] z) { y = Relu(x) z = Identity(y) }", {}),
    ],
)
def test_case_9_the_interface_stays(text: str, constants: dict[str, Any]) -> None:
    graph = graph_of(text, **constants)
    result = apply(graph, RemoveIdentity())
    assert not result.modified
    assert reasons(result) == "Identity connects the interface of the model"


@pytest.mark.parametrize(
    ("node", "constants", "tail", "reason"),
    [
        ("Dropout(r, q, on)", {"q": np.float32(0.5), "on": np.array(True)}, "", "the Dropout is in training mode"),
        ("Dropout(r)", {}, "z = Not(m)", "the mask of the Dropout is read"),
    ],
)
def test_case_10_dropout_stays(node: str, constants: dict[str, Any], tail: str, reason: str) -> None:
    outputs = "float[2,3] y, bool[2,3] z" if tail else "float[2,3] y"
    graph = graph_of(f"(float[2,3] x) => ({outputs}) {{ r = Relu(x) t, m = {node} y = Neg(t) {tail} }}", **constants)
    result = RemoveIdentity().run(graph)
    assert (reasons(result), result.modified) == (reason, False)


def test_case_10_training_mode_comes_in() -> None:
    text = "(float[2,3] x, bool on) => (float[2,3] y) { t = Dropout(x, q, on) y = Neg(t) }"
    result = RemoveIdentity().run(graph_of(text, q=np.float32(0.5)))
    assert reasons(result) == "the training mode of the Dropout is not constant"


def test_case_10_old_opset() -> None:
    graph = around("Dropout(r)", opset=6)
    assert reasons(RemoveIdentity().run(graph)) == "the Dropout is in training mode"


def test_a_body_that_captures_follows() -> None:
    text = """(float[2,3] x, bool c) => (float[2,3] y) {
        r = Relu(x)
        t = Identity(r)
        y = If (c) <then_branch = a () => (float[2,3] p) { p = Neg(t) },
            else_branch = b () => (float[2,3] q) { q = Abs(t) }>
    }"""
    graph = graph_of(text)
    assert RemoveIdentity().run(graph).modified
    assert ops(graph) == {"Relu": 1, "If": 1}
    assert [use.node for use in graph.uses("r")] == ["If_y"]
