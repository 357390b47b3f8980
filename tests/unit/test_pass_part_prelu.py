"""One test for each numbered case of PartPRelu."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

import onnxq
from onnxq.graph.shapes import infer_shapes
from onnxq.graph.view import Graph
from onnxq.passes.adapt.part_prelu import PartPRelu
from tests.graphs import apply, graph_of, model_of, normal, ops, reasons

TEXT = "(float[1,3,4,5] x) => (float[1,3,4,5] y) { [act] y = PRelu(x, s) }"


def parted(slopes: NDArray[np.float32]) -> Graph:
    """TEXT with these slopes, parted; `apply` compares the outputs, here to the bit."""
    graph = graph_of(TEXT, s=slopes)
    infer_shapes(graph)
    apply(graph, PartPRelu(), rtol=0.0)
    return graph


@pytest.mark.parametrize("shape", [(3, 1, 1), (1, 3, 1, 1), (5,), (3, 4, 5)])
def test_case_1(shape: tuple[int, ...]) -> None:
    slopes = np.linspace(0.1, 1.0, int(np.prod(shape)), dtype=np.float32).reshape(shape)
    graph = parted(slopes)
    assert ops(graph) == {"Mul": 1, "Max": 1}
    assert graph.nodes[-1].name == "act"


@pytest.mark.parametrize("odd", [0.0, -0.3, 1.5])
def test_case_2(odd: float) -> None:
    slopes = np.array([0.2, 0.7, odd], np.float32).reshape(3, 1, 1)
    assert ops(parted(slopes)) == {"Relu": 1, "Min": 1, "Mul": 1, "Add": 1}


def test_case_3() -> None:
    graph = graph_of(TEXT.replace("float[1,3,4,5] x)", "float[1,3,4,5] x, float[3,1,1] s)"))
    infer_shapes(graph)
    assert reasons(apply(graph, PartPRelu())) == "its slopes are computed"


@pytest.mark.parametrize(("target", "left"), [("ort-x64-vnni", 0), ("openvino", 1)])
def test_a_quantized_model_for_onnxruntime_has_none(target: str, left: int) -> None:
    text = """(float[1,16,8,8] x) => (float[1,16,8,8] y)
    { a = Conv(x, v) [act] b = PRelu(a, s) y = Conv(b, w) }"""
    slopes = np.linspace(0.1, 0.4, 16, dtype=np.float32).reshape(16, 1, 1)
    model = model_of(text, v=normal(16, 16, 1, 1), w=normal(16, 16, 1, 1, seed=1), s=slopes)
    result = onnxq.quantize(model, {"x": normal(8, 16, 8, 8)}, target=target)
    assert [n.op_type for n in result.model.graph.node].count("PRelu") == left
    assert result.report
