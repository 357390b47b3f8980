"""Local functions that cannot be put in place of their calls: recursive, ambiguous, too many."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
import pytest
from onnx import FunctionProto, ModelProto, NodeProto, TensorProto, helper

from onnxq.errors import ModelError
from onnxq.graph.model import load_graph
from tests.graphs import computed

OPSETS = [helper.make_opsetid("", 17), helper.make_opsetid("loc", 1)]


def call(name: str, *inputs: str, to: Sequence[str] = ("o",)) -> NodeProto:
    return helper.make_node(name, inputs, to, domain="loc", name=f"call_{name}")


def function(name: str, *body: NodeProto, inputs: Sequence[str] = ("a",)) -> FunctionProto:
    return helper.make_function("loc", name, inputs, ["o"], body, OPSETS)


def relu(name: str) -> FunctionProto:
    return function(name, helper.make_node("Relu", ["a"], ["o"]))


def model_with(functions: Sequence[FunctionProto], node: NodeProto | None = None) -> ModelProto:
    graph = helper.make_graph(
        [node or call("F0", "x", to=["y"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
    )
    return helper.make_model(graph, functions=functions, opset_imports=OPSETS, ir_version=8)


def inside_if() -> FunctionProto:
    """A function that calls itself in a branch."""
    out = helper.make_tensor_value_info("p", TensorProto.FLOAT, None)
    branches = [helper.make_graph([call("F0", "a", to=["p"])], name, [], [out]) for name in ("then", "other")]
    return function("F0", helper.make_node("If", ["a"], ["o"], then_branch=branches[0], else_branch=branches[1]))


def doubling(count: int) -> list[FunctionProto]:
    """Each calls the next twice."""
    calls = [function(f"F{i}", call(f"F{i + 1}", "a", to=["b"]), call(f"F{i + 1}", "b")) for i in range(count)]
    return [*calls, relu(f"F{count}")]


@pytest.mark.parametrize(
    ("functions", "node", "message"),
    [
        ([function("F0", call("F0", "a"))], None, "its functions call themselves: 'loc.F0' calls 'loc.F0'"),
        (
            [function("F0", call("F1", "a")), function("F1", call("F0", "a"))],
            None,
            "its functions call themselves: 'loc.F0' calls 'loc.F1' calls 'loc.F0'",
        ),
        ([inside_if()], None, "its functions call themselves: 'loc.F0' calls 'loc.F0'"),
        ([relu("F0"), relu("F0")], None, "function 'loc.F0' is there twice"),
        (
            [relu("F0")],
            call("F0", "x", "x", to=["y"]),
            "node 'call_F0' has 2 inputs, its function 'loc.F0' has 1",
        ),
        (
            [relu("F0")],
            call("F0", "x", to=["y", "z"]),
            "node 'call_F0' has 2 outputs, its function 'loc.F0' has 1",
        ),
        (doubling(22), None, "it would have 4194304 nodes, expected at most 1000000"),
    ],
)
def test_refused(functions: Sequence[FunctionProto], node: NodeProto | None, message: str) -> None:
    with pytest.raises(ModelError) as caught:
        load_graph(model_with(functions, node))
    assert message in str(caught.value)
    assert "export the model again, without functions" in (caught.value.hint or "")


def test_what_the_inliner_itself_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: ModelProto) -> ModelProto:
        raise RuntimeError("Assertion failed")

    monkeypatch.setattr(onnx.inliner, "inline_local_functions", refuse)
    with pytest.raises(ModelError, match="its functions cannot be put in place: Assertion failed"):
        load_graph(model_with([relu("F0")]))


def test_functions_that_call_functions() -> None:
    graph = load_graph(model_with(doubling(4)))
    assert [node.op_type for node in graph.nodes] == ["Relu"] * 16
    (out,) = computed(graph, {"x": np.array([[-1.0] * 4 + [2.0] * 4], np.float32)})
    np.testing.assert_array_equal(out, [[0.0] * 4 + [2.0] * 4])
