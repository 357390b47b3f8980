"""One test for each numbered case of FuseHardSwish."""

from __future__ import annotations

import pytest

from onnxq.graph.shapes import infer_shapes
from onnxq.graph.view import Graph
from onnxq.passes.adapt.fuse_hard_swish import FuseHardSwish, with_whole_operators
from onnxq.targets import TARGETS
from tests.graphs import apply, graph_of, ops, reasons

SIXTH = "HardSigmoid<alpha=0.16666667, beta=0.5>"


def swish(body: str, *, opset: int = 17, outputs: str = "float[1,2,4] y") -> Graph:
    graph = graph_of(f"(float[1,2,4] x) => ({outputs}) {{ {body} }}", opset=opset)
    infer_shapes(graph)
    return graph


@pytest.mark.parametrize("mul", ["Mul(x, h)", "Mul(h, x)"])
def test_case_1(mul: str) -> None:
    graph = swish(f"h = {SIXTH}(x) [m] y = {mul}")
    apply(graph, FuseHardSwish())
    assert ops(graph) == {"HardSwish": 1}
    assert graph.nodes[0].name == "m"


def test_case_2_other_slopes() -> None:
    graph = swish("h = HardSigmoid(x) y = Mul(x, h)")
    apply(graph, FuseHardSwish())
    assert ops(graph) == {"HardSigmoid": 1, "Mul": 1}


@pytest.mark.parametrize(
    ("body", "outputs", "reason"),
    [
        (f"n = Neg(x) h = {SIXTH}(x) y = Mul(n, h)", "float[1,2,4] y", "it is not multiplied by its own input"),
        (f"h = {SIXTH}(x) y = Add(x, h)", "float[1,2,4] y", "it is not multiplied by its own input"),
        (f"h = {SIXTH}(x) n = Neg(h) m = Mul(x, h) y = Add(m, n)", "float[1,2,4] y", "readers"),
        (f"h = {SIXTH}(x) y = Mul(x, h)", "float[1,2,4] y, float[1,2,4] h", "output"),
    ],
)
def test_case_3_left_alone(body: str, outputs: str, reason: str) -> None:
    graph = swish(body, outputs=outputs)
    result = apply(graph, FuseHardSwish())
    assert not result.modified
    assert reason in reasons(result)


def test_case_4_old_opset() -> None:
    graph = swish(f"h = {SIXTH}(x) y = Mul(x, h)", opset=13)
    assert not apply(graph, FuseHardSwish()).modified


def test_only_for_targets_that_want_it_whole_and_at_the_opset_that_has_it() -> None:
    graph = swish(f"h = {SIXTH}(x) y = Mul(x, h)", opset=13)
    assert with_whole_operators(graph, TARGETS["ort-x64-vnni"]) is graph
    made = with_whole_operators(graph, TARGETS["openvino"])
    assert made.opset == 14
    assert ops(made) == {"HardSwish": 1}
    plain = swish("y = Neg(x)", opset=13)
    assert with_whole_operators(plain, TARGETS["openvino"]) is plain
