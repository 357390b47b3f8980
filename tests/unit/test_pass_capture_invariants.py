"""CaptureInvariants: states of a Loop that never change are read from outside."""

from __future__ import annotations

import numpy as np
import pytest

import onnxq
from onnxq.graph.messages import attribute
from onnxq.graph.model import load_graph
from onnxq.graph.view import Graph
from onnxq.passes.simplify.capture_invariants import CaptureInvariants
from onnxq.passes.simplify.normalise import normalise_float
from tests.graphs import computed, model_of, normal

LAYER = """(float[n, 64] x, int64 steps) => (float[n, 64] y, float[64, 64] kept) {
   [first] f = MatMul(x, w)
   [loop] y, used, kept, bias = Loop(steps, go, f, w, v, b) <body = step
       (int64 i, bool c, float[n, 64] h, float[64, 64] u, float[64, 64] k, float[64] d)
       => (bool c2, float[n, 64] h2, float[64, 64] u2, float[64, 64] k2, float[64] d) {
       [on] c2 = Identity(c)
       [product] p = MatMul(h, u)
       [other] q = MatMul(p, k)
       [bias] a = Add(q, d)
       [end] h2 = Tanh(a)
       [same] u2 = Identity(u)
       [again] k1 = Identity(k)
       [and_again] k2 = Identity(k1)
   }>
}"""
CONSTANTS = {
    "go": np.array(True),
    "w": normal(64, 64, seed=1) / 8,
    "v": normal(64, 64, seed=2) / 8,
    "b": normal(64, seed=3),
}


def loop_of(text: str, **constants: np.ndarray) -> Graph:
    return load_graph(model_of(text, **constants))


@pytest.mark.parametrize("steps", [0, 1, 3])
def test_states_that_never_change_are_read_from_outside(steps: int) -> None:
    """Cases 1 and 2, whatever the number of steps."""
    graph = loop_of(LAYER, **CONSTANTS)
    feed = {"x": normal(5, 64, seed=4), "steps": np.asarray(steps, np.int64)}
    before = computed(graph, feed)
    result = CaptureInvariants().run(graph)
    assert [edit.what for edit in result.edits] == ["3 of its states never change and are read from outside"]
    graph.sort()
    (loop,) = [n for n in graph.nodes if n.op_type == "Loop"]
    assert (list(loop.input), list(loop.output)) == (["steps", "go", "f"], ["y"])
    body = attribute(loop, "body")
    assert [v.name for v in body.input] == ["i", "c", "h"] and [v.name for v in body.output] == ["c2", "h2"]
    assert {n.name: list(n.input) for n in body.node}["product"] == ["h", "w"]
    for want, got in zip(before, computed(graph, feed), strict=True):
        np.testing.assert_array_equal(want, got)
    assert not CaptureInvariants().run(graph).modified


@pytest.mark.parametrize(("old", "new", "left"), [
    ("Loop(steps, go, f, w, v, b)", "Loop(steps, go, f, f2, v, b)", 2),  # begins as something computed
    ("u2 = Identity(u)", "u2 = Neg(u)", 2),  # changes
    ("u2 = Identity(u)", "u2 = Identity(k)", 1),  # is another one's value after the first step, which is given twice
])  # fmt: skip
def test_what_is_left_alone(old: str, new: str, left: int) -> None:
    """Case 3."""
    text = LAYER.replace(old, new)
    text = text.replace("[first] f", "[square] f2 = MatMul(v, v) [first] f")
    result = CaptureInvariants().run(loop_of(text, **CONSTANTS))
    assert [edit.what[0] for edit in result.edits] == [str(left)]


def test_weights_of_recurrent_layers_are_quantized_once() -> None:
    """Outside and inside of the Loop read one copy of the codes: w and v, 64 x 64 each, in int8."""
    model = model_of(LAYER.replace(", float[64, 64] kept", ""), **CONSTANTS)
    feeds = [{"x": normal(5, 64, seed=s), "steps": np.asarray(3, np.int64)} for s in (5, 6)]
    made = onnxq.quantize(model, feeds, mode="dynamic", target="ort-x64-avx2")
    assert made.report.passed
    assert {d.node for d in made.plan.nodes if d.action.value == "int8"} == {
        "first", "loop/body/product", "loop/body/other",
    }  # fmt: skip
    assert len(made.model.SerializeToString()) < 2 * 64 * 64 + 8000
    assert made.report.worst_sqnr_db is not None and made.report.worst_sqnr_db > 25


def test_normalising_twice_changes_nothing() -> None:
    graph = loop_of(LAYER, **CONSTANTS)
    assert normalise_float().run(graph).modified
    assert not normalise_float().run(graph).modified
