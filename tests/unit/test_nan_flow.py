"""Where NaN in a tensor is bound to show further on, said and seen."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper, shape_inference

from onnxq.calibration.taps.nan_flow import shown_behind
from onnxq.graph.view import Graph
from onnxq.inference.outputs import with_outputs
from onnxq.inference.session import make_session

RNG = np.random.default_rng(0)


def graph_of(nodes, shape, weights=()):
    made = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info(nodes[-1].output[0], TensorProto.FLOAT, None)],
        [numpy_helper.from_array(value, name) for name, value in weights],
    )
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return Graph(shape_inference.infer_shapes(model))


def shows_wherever_it_stands(graph, tap, others, x):
    """Whether NaN in any place of `tap`, an input, is in one of `others`."""
    session = make_session(with_outputs(graph, others).to_model(), threads=1)
    for place in range(x.size):
        fed = x.copy()
        fed.ravel()[place] = np.nan
        if not any(np.isnan(value).any() for value in session.run({tap: fed})):
            return False
    return True


@pytest.mark.parametrize(("taps", "shown"), [(["a", "b"], True), (["a"], False), (["b"], False), (["a", "y"], True)])
def test_a_split_gives_each_element_to_one_of_its_outputs(taps, shown):
    """(a, b) = Split(x), y = -b: all outputs have to be looked at, themselves or further on."""
    nodes = [
        helper.make_node("Split", ["x", "sizes"], ["a", "b"], name="split", axis=1),
        helper.make_node("Neg", ["b"], ["y"], name="neg"),
    ]
    graph = graph_of(nodes, [2, 5], [("sizes", np.array([2, 3], np.int64))])
    assert ("x" in shown_behind(graph, ["x", *taps])) == shown
    assert shows_wherever_it_stands(graph, "x", taps, np.ones((2, 5), np.float32)) == shown


@pytest.mark.parametrize("sizes", [(7, 7), (8, 7), (8, 8), ("H", "W")])
@pytest.mark.parametrize("pads", [(0, 0, 0, 0), (1, 1, 0, 0), (0, 0, 1, 1), (1, 1, 1, 1)])
@pytest.mark.parametrize(("window", "stride"), [(3, 1), (3, 2), (2, 2), (1, 2), (4, 3)])
def test_a_conv_is_said_to_see_everything_where_it_does(sizes, pads, window, stride):
    conv = helper.make_node("Conv", ["x", "w"], ["y"], name="y", strides=[stride] * 2, pads=pads)
    graph = graph_of([conv], [1, 1, *sizes], [("w", np.ones((1, 1, window, window), np.float32))])
    said = "x" in shown_behind(graph, ["x", "y"])
    known = all(isinstance(size, int) for size in sizes)
    tried = [sizes] if known else [(h, w) for h in range(5, 9) for w in range(5, 9)]
    seen = [shows_wherever_it_stands(graph, "x", ["y"], np.ones((1, 1, *size), np.float32)) for size in tried]
    assert said == all(seen)


def test_what_does_not_leave_through_a_tap_is_not_shown():
    nodes = [
        helper.make_node("Relu", ["x"], ["a"], name="a"),
        helper.make_node("MaxPool", ["a"], ["y"], name="y", kernel_shape=[1, 1]),
    ]
    assert shown_behind(graph_of(nodes, [1, 1, 4, 4]), ["x", "y"]) == set()
