"""One test for each numbered case of UniformPRelu."""

from __future__ import annotations

import numpy as np
import pytest

from onnxq.graph.shapes import infer_shapes
from onnxq.graph.view import attribute
from onnxq.passes.simplify.uniform_prelu import UniformPRelu
from tests.graphs import apply, graph_of, ops, reasons

TEXT = "(float[1,3,4,5] x) => (float[1,3,4,5] y) { [act] y = PRelu(x, s) }"


@pytest.mark.parametrize("shape", [(), (1,), (3, 1, 1), (1, 3, 1, 1)])
def test_case_1(shape: tuple[int, ...]) -> None:
    graph = graph_of(TEXT, s=np.full(shape, 0.25, np.float32))
    infer_shapes(graph)
    apply(graph, UniformPRelu(), rtol=0.0)
    assert ops(graph) == {"LeakyRelu": 1}
    assert graph.nodes[0].name == "act"
    assert attribute(graph.nodes[0], "alpha") == 0.25


def test_case_2() -> None:
    graph = graph_of(TEXT, s=np.array([0.1, 0.1, 0.2], np.float32).reshape(3, 1, 1))
    infer_shapes(graph)
    assert reasons(apply(graph, UniformPRelu())) == "its slopes differ"


def test_case_3() -> None:
    graph = graph_of(TEXT.replace("float[1,3,4,5] x)", "float[1,3,4,5] x, float[3,1,1] s)"))
    infer_shapes(graph)
    assert reasons(apply(graph, UniformPRelu())) == "its slopes are computed"
