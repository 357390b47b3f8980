"""One test for each numbered case of UnfoldSoftmax."""

from __future__ import annotations

import numpy as np
import pytest
from onnx.reference import ReferenceEvaluator

from onnxq.graph.opset import upgrade_opset
from onnxq.graph.view import Graph
from onnxq.passes.simplify.infer_shapes import InferShapes
from onnxq.passes.simplify.normalise import normalise_float
from onnxq.passes.simplify.unfold_softmax import UnfoldSoftmax
from tests.graphs import apply, graph_of, ops

UNFOLDED = {"Relu": 1, "Softmax": 1, "Neg": 1}


def flattened(
    body: str = "s = Softmax<axis=-1>(f) h = Shape(r) t = Reshape(s, h)",
    *,
    x: str = "N,3,M,5",
    axis: int = 3,
    opset: int = 17,
    outputs: str = "float[a,b,c,d] y",
) -> Graph:
    text = f"(float[{x}] x) => ({outputs}) {{ r = Relu(x) f = Flatten<axis={axis}>(r) {body} y = Neg(t) }}"
    graph = graph_of(text, opset=opset)
    graph.outputs["y"].type.tensor_type.ClearField("shape")
    InferShapes().run(graph)
    return graph


@pytest.mark.parametrize("op_type", ["Softmax", "LogSoftmax", "Hardmax"])
@pytest.mark.parametrize("axis", [3, -1])
def test_case_1_back_to_the_shape_of_the_data(op_type: str, axis: int) -> None:
    graph = flattened(f"s = {op_type}<axis=1>(f) h = Shape(r) t = Reshape(s, h)", axis=axis)
    apply(graph, UnfoldSoftmax())
    assert ops(graph) == {"Relu": 1, op_type: 1, "Neg": 1}
    InferShapes().run(graph)
    assert graph.shape("y") == ("N", 3, "M", 5)


def test_case_2_back_to_a_known_shape() -> None:
    constant = "s = Softmax(f) h = Constant<value_ints=[2,3,4,5]>() t = Reshape(s, h)"
    graph = flattened(constant, x="2,3,4,5")
    apply(graph, UnfoldSoftmax())
    assert {k: n for k, n in ops(graph).items() if k != "Constant"} == UNFOLDED


def test_case_2_another_shape() -> None:
    constant = "s = Softmax(f) h = Constant<value_ints=[3,2,4,5]>() t = Reshape(s, h)"
    assert not UnfoldSoftmax().run(flattened(constant, x="2,3,4,5")).modified


@pytest.mark.parametrize("axis", [1, 2])
def test_case_3_rows_of_more_than_the_last_axis(axis: int) -> None:
    assert not UnfoldSoftmax().run(flattened(axis=axis)).modified


@pytest.mark.parametrize(
    "body",
    [
        "s = Softmax<axis=0>(f) h = Shape(r) t = Reshape(s, h)",
        "s = Softmax(f) h = Shape(x) z = Neg(s) t = Reshape(z, h)",
        "s = Softmax(f) h = Shape(f) t = Reshape(s, h)",
        "s = Softmax(f) h = Shape<start=1>(r) t = Reshape(s, h)",
    ],
)
def test_case_4_other_followers(body: str) -> None:
    assert not UnfoldSoftmax().run(flattened(body)).modified


def test_case_5_the_matrix_is_read_elsewhere() -> None:
    body = "s = Softmax(f) h = Shape(r) t = Reshape(s, h)"
    assert not UnfoldSoftmax().run(flattened(body, outputs="float[a,b,c,d] y, float[a,b] s")).modified
    assert not UnfoldSoftmax().run(flattened(body, outputs="float[a,b,c,d] y, float[a,b] f")).modified


def test_case_6_before_opset_13() -> None:
    assert (
        not UnfoldSoftmax().run(flattened("s = Softmax<axis=1>(f) h = Shape(r) t = Reshape(s, h)", opset=12)).modified
    )


def test_the_matrix_of_the_version_converter_is_gone_in_the_end() -> None:
    text = "(float[N,2,M,5] x) => (float[N,2,M,5] y) { h = Shape(x) r = Reshape(x, h) y = Softmax<axis=3>(r) }"
    old = graph_of(text, opset=12)
    upgraded = upgrade_opset(old, 17)
    assert ops(upgraded)["Flatten"] == 1  # else the converter knows better by now, and the pass has little to do
    normalised = normalise_float().run(upgraded).graph
    assert ops(normalised) == {"Softmax": 1}
    x = np.random.default_rng(0).normal(size=(3, 2, 4, 5)).astype(np.float32)
    expected, found = (ReferenceEvaluator(g.to_model()).run(None, {"x": x})[0] for g in (old, normalised))
    np.testing.assert_allclose(found, expected, rtol=1e-6)  # the same sums in float32, perhaps in another order
