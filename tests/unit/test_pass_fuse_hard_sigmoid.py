"""One test for each numbered case of FuseHardSigmoid."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from onnxq.graph.shapes import infer_shapes
from onnxq.graph.view import Graph, attribute
from onnxq.passes.simplify.fuse_hard_sigmoid import FuseHardSigmoid
from tests.graphs import apply, graph_of, ops, reasons

CONSTANTS: dict[str, Any] = {
    name: np.float32(value)
    for name, value in {"zero": 0, "one": 1, "three": 3, "six": 6, "sixth": 1 / 6, "five": 5}.items()
}


def spelled(body: str, *, outputs: str = "float[1,2,4] y") -> Graph:
    used = {
        k: v for k, v in CONSTANTS.items() if k in body.replace("(", " ").replace(")", " ").replace(",", " ").split()
    }
    graph = graph_of(f"(float[1,2,4] x) => ({outputs}) {{ {body} }}", **used)
    infer_shapes(graph)
    return graph


@pytest.mark.parametrize("last", ["Div(c, six)", "Mul(c, sixth)", "Mul(sixth, c)"])
@pytest.mark.parametrize("first", ["Add(x, three)", "Add(three, x)"])
def test_case_1(first: str, last: str) -> None:
    graph = spelled(f"a = {first} c = Clip(a, zero, six) y = {last}")
    apply(graph, FuseHardSigmoid())
    assert ops(graph) == {"HardSigmoid": 1}
    assert attribute(graph.nodes[0], "alpha") == pytest.approx(1 / 6)
    assert attribute(graph.nodes[0], "beta") == pytest.approx(0.5)


@pytest.mark.parametrize("gate", ["Mul(x, c)", "Mul(c, x)"])
def test_case_2_hard_swish(gate: str) -> None:
    graph = spelled(f"a = Add(x, three) c = Clip(a, zero, six) m = {gate} y = Div(m, six)")
    apply(graph, FuseHardSigmoid())
    assert ops(graph) == {"HardSigmoid": 1, "Mul": 1}


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("a = Add(x, three) c = Clip(a, one, six) y = Div(c, six)", "its limits are not 0 and a positive constant"),
        ("a = Add(x, three) c = Clip(a, zero) y = Div(c, six)", "its limits are not 0 and a positive constant"),
        ("a = Add(x, x) c = Clip(a, zero, six) y = Div(c, six)", "no Add of a scalar comes before it"),
        ("c = Clip(x, zero, six) y = Div(c, six)", "no Add of a scalar comes before it"),
        ("a = Add(x, three) c = Clip(a, zero, six) y = Div(c, five)", "what follows does not divide by 6"),
        ("a = Add(x, three) c = Clip(a, zero, six) y = Div(six, c)", "what follows does not divide by 6"),
        ("a = Add(x, three) c = Clip(a, zero, six) y = Neg(c)", "what follows does not divide by 6"),
        ("a = Add(x, three) c = Clip(a, zero, six) m = Mul(x, c) n = Neg(m) d = Div(m, six) y = Add(d, n)", "readers"),
    ],
)
def test_cases_3_to_6_left_alone(body: str, reason: str) -> None:
    graph = spelled(body)
    before = ops(graph)
    assert reason in reasons(FuseHardSigmoid().run(graph))
    assert ops(graph) == before


def test_case_6_output_in_between() -> None:
    body = "a = Add(x, three) c = Clip(a, zero, six) y = Div(c, six)"
    graph = spelled(body, outputs="float[1,2,4] y, float[1,2,4] c")
    assert "is an output of the graph" in reasons(FuseHardSigmoid().run(graph))
