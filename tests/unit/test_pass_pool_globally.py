"""One test for each numbered case of PoolGlobally."""

from __future__ import annotations

import numpy as np
import pytest

from onnxq.graph.view import Graph
from onnxq.passes.simplify.infer_shapes import InferShapes
from onnxq.passes.simplify.pool_globally import PoolGlobally
from tests.graphs import apply, graph_of, ops


def mean(node: str, *, x: str = "N,3,4,5", opset: int = 17, **constants: object) -> Graph:
    text = f"(float[{x}] x) => (float[a,b,c,d] y) {{ r = Relu(x) t = {node} y = Neg(t) }}"
    graph = graph_of(text, opset=opset, **constants)
    graph.outputs["y"].type.tensor_type.ClearField("shape")
    InferShapes().run(graph)
    return graph


@pytest.mark.parametrize("axes", ["[2,3]", "[3,2]", "[-1,-2]", "[2,-1]"])
def test_case_1_a_mean_that_keeps_its_axes(axes: str) -> None:
    graph = mean(f"ReduceMean<axes={axes}>(r)")
    apply(graph, PoolGlobally())
    assert ops(graph) == {"Relu": 1, "GlobalAveragePool": 1, "Neg": 1}


def test_case_1_axes_as_input() -> None:
    graph = mean("ReduceMean(r, axes)", opset=18, axes=np.array([2, 3]))
    apply(graph, PoolGlobally())
    assert ops(graph) == {"Relu": 1, "GlobalAveragePool": 1, "Neg": 1}


def test_case_2_a_mean_that_drops_its_axes() -> None:
    graph = mean("ReduceMean<axes=[2,3], keepdims=0>(r)")
    apply(graph, PoolGlobally())
    assert ops(graph) == {"Relu": 1, "GlobalAveragePool": 1, "Flatten": 1, "Neg": 1}


@pytest.mark.parametrize("more", ["", ", strides=[4,5]", ", pads=[0,0,0,0]", ', auto_pad="VALID"', ", ceil_mode=1"])
def test_case_3_a_window_as_large_as_the_image(more: str) -> None:
    graph = mean(f"AveragePool<kernel_shape=[4,5]{more}>(r)")
    apply(graph, PoolGlobally())
    assert ops(graph) == {"Relu": 1, "GlobalAveragePool": 1, "Neg": 1}


@pytest.mark.parametrize(
    ("node", "x"),
    [
        ("ReduceMean<axes=[1,2]>(r)", "N,3,4,5"),
        ("ReduceMean<axes=[3]>(r)", "N,3,4,5"),
        ("ReduceMean<axes=[1,2,3]>(r)", "N,3,4,5"),
        ("ReduceMean(r)", "N,3,4,5"),
        ("ReduceMean<axes=[1,2]>(r)", "N,3,4"),
        ("ReduceMean<axes=[2,3]>(r)", "N,3,4,5,6"),
    ],
)
def test_case_4_other_means(node: str, x: str) -> None:
    assert not apply(mean(node, x=x), PoolGlobally()).modified


def test_case_4_integers() -> None:
    text = "(int32[N,3,4,5] x) => (int32[N,3,1,1] y) { y = ReduceMean<axes=[2,3]>(x) }"
    assert not PoolGlobally().run(graph_of(text)).modified


@pytest.mark.parametrize(
    ("node", "x"),
    [
        ("AveragePool<kernel_shape=[4,4]>(r)", "N,3,4,5"),
        ("AveragePool<kernel_shape=[4,5]>(r)", "N,3,H,W"),
        ("AveragePool<kernel_shape=[4,5], pads=[0,0,0,1]>(r)", "N,3,4,5"),
        ('AveragePool<kernel_shape=[4,5], auto_pad="SAME_UPPER">(r)', "N,3,4,5"),
    ],
)
def test_case_5_windows_that_see_less_or_more(node: str, x: str) -> None:
    assert not PoolGlobally().run(mean(node, x=x)).modified
