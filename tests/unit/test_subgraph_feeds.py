"""Loop and Scan carried out step by step read what onnxruntime reads: the outputs of the last step are the node's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from onnx import ModelProto

from onnxq.graph.model import load_graph
from onnxq.graph.shapes import infer_shapes
from onnxq.graph.subgraph_feeds import Feed, subgraph_feeds
from onnxq.graph.subgraphs import own_graph, subgraphs
from tests.graphs import computed, model_of, normal

LOOP = """(float[2] x, int64 trips, bool go) => (float[2] y, float[T,2] all) {
    y, all = Loop (trips, go, x) <body = b (int64 i, bool c, float[2] h) => (bool d, float[2] n, float[2] s) {
        f = Cast<to=1>(i) k = Mul(f, w) n = Add(h, k) m = ReduceMax<keepdims=0>(n) d = Less(m, limit) s = Neg(n) }> }"""
SCAN = """(float[2] x, float[2,4] p, float[3,2] q) => (float[2] y, float[4,2] all) {
    y, all = Scan (x, P, Q) <num_scan_inputs=2, OPTIONS body = b (float[2] h, float[2] e, float[2] g) => (float[2] n, float[2] s) {
        u = Mul(e, g) n = Add(h, u) s = Mul(n, w) }> }"""  # noqa: E501 - the head of a body


def carried_out(model: ModelProto, feed: Feed) -> tuple[list[NDArray[Any]], list[NDArray[Any]]]:
    """What onnxruntime gives for the node, and what the steps give: last state, stacked scan output."""
    graph = load_graph(model)
    infer_shapes(graph)
    [subgraph] = subgraphs(graph)
    inner = own_graph(graph, subgraph)
    node = graph.node(subgraph.node)
    first = 1 if node.op_type == "Loop" else 0
    state, stacked = feed["x"], []

    def step(values: Feed) -> Sequence[NDArray[Any]]:
        return computed(inner, {name: values[name] for name in inner.inputs})

    for values in subgraph_feeds(node, subgraph, [], feed, step):
        outputs = step(values)
        state = outputs[first]
        stacked.append(outputs[first + 1])
    return computed(graph, feed), [state, np.stack(stacked)] if stacked else [state]


# Without a number of trips a loop has to reach its limit.
@pytest.mark.parametrize(("left_out", "limit"), [("", 2.0), ("", 1e9), ("trips", 2.0), ("go", 2.0), ("go", 1e9)])
def test_loop(left_out: str, limit: float) -> None:
    model = model_of(LOOP, w=np.float32([1, 0.5]), limit=np.float32(limit))
    [node] = model.graph.node
    for slot, name in enumerate(node.input):
        if name == left_out:
            node.input[slot] = ""
    given = {"x": np.float32([0, 1]), "trips": np.array(5), "go": np.array(True)}
    want, got = carried_out(model, given)
    for one, other in zip(want, got, strict=True):
        np.testing.assert_array_equal(other, one)


@pytest.mark.parametrize("options", ["", "scan_input_directions=[1, 0],", "scan_input_directions=[0, 1],"])
def test_scan(options: str) -> None:
    text = SCAN.replace("float[2,4] p, float[3,2] q", "float[2,4] p, float[4,2] q")
    text = text.replace("P, Q", "p, q").replace("OPTIONS", f"scan_input_axes=[1, 0], {options}")
    feed = {"x": normal(2), "p": normal(2, 4, seed=1), "q": normal(4, 2, seed=2)}
    want, got = carried_out(model_of(text, w=normal(2, seed=3)), feed)
    for one, other in zip(want, got, strict=True):
        np.testing.assert_array_equal(other, one)
