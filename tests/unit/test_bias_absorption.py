"""Offsets of channels move into the next bias: exactly where nothing lies between, and where a Relu never cut."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from onnxq.calibration.runner import CollectOptions
from onnxq.data.batches import Batch
from onnxq.data.inputs import InputSpecs
from onnxq.data.sources import open_data
from onnxq.graph.shapes import infer_shapes
from onnxq.graph.view import Graph
from onnxq.passes.quantize.give_biases import GiveBiases
from onnxq.planning.options import PlanOptions
from onnxq.planning.planner import make_plan
from onnxq.recovery.bias_absorption import AbsorptionResult, absorb_biases
from onnxq.targets import TARGETS
from tests.graphs import computed, graph_of, normal, random_feeds

OPTIONS = CollectOptions(threads=1)
APART = (np.arange(8, dtype=np.float32) - 4) * 6
"""Offsets much larger than what the channels vary by."""

EXACT = {
    "linear bottleneck": (
        "(float[n,4,6,6] x) => (float[n,6,6,6] y) { a = Conv(x, w1, b1) y = Conv(a, w2) }",
        {"w1": normal(8, 4, 1, 1), "b1": APART, "w2": normal(6, 8, 1, 1, seed=2)},
    ),
    "grouped, with taps": (
        "(float[n,4,6,6] x) => (float[n,6,4,4] y) { a = Conv(x, w1, b1) y = Conv<group=2>(a, w2, b2) }",
        {"w1": normal(8, 4, 1, 1), "b1": APART, "w2": normal(6, 4, 3, 3, seed=2), "b2": normal(6)},
    ),
    "gemm": (
        "(float[n,4] x) => (float[n,6] y) { a = Gemm(x, w1, b1) y = Gemm<transB=1>(a, w2, b2) }",
        {"w1": normal(4, 8), "b1": APART, "w2": normal(6, 8, seed=2), "b2": normal(6)},
    ),
    "layer norm, two readers": (
        "(float[n,5,8] x) => (float[n,5,6] y) { a = LayerNormalization(x, g, b1) p = MatMul(a, w2) q = Add(p, b2) "
        "r = MatMul(a, w3) s = Add(b3, r) y = Mul(q, s) }",
        {
            "g": normal(8), "b1": APART, "w2": normal(8, 6, seed=2), "b2": normal(6), "w3": normal(8, 6, seed=3),
            "b3": normal(6, seed=4),
        },
    ),
    "biased matmul": (
        "(float[n,5,4] x) => (float[n,5,6] y) { m = MatMul(x, w1) a = Add(m, b1) p = MatMul(a, w2) y = Add(p, b2) }",
        {"w1": normal(4, 8), "b1": APART, "w2": normal(8, 6, seed=2), "b2": normal(6)},
    ),
}  # fmt: skip


def absorbed(
    text: str, constants: dict[str, Any], *, target: str = "openvino", exact_only: bool = True
) -> tuple[Graph, AbsorptionResult]:
    graph = graph_of(text, **constants)
    infer_shapes(graph)
    GiveBiases().run(graph)
    plan = make_plan(graph, TARGETS[target], options=PlanOptions(placement="full"), digest="")
    return graph, absorb_biases(graph, plan, TARGETS[target], samples_of(graph), OPTIONS, exact_only=exact_only)


def samples_of(graph: Graph) -> list[Batch]:
    (shape,) = (graph.shape(name) for name in graph.inputs)
    sizes = [d if isinstance(d, int) else 2 for d in shape or ()]
    # With each sample its negative: ranges are even around the biases.
    feeds = [{"x": np.concatenate([x, -x])} for x in (normal(*sizes, seed=i) for i in range(8))]
    return list(open_data(feeds, inputs=InputSpecs.from_graph(graph)).stream())


@pytest.mark.parametrize("target", ["openvino", "ort-x64-vnni"])
@pytest.mark.parametrize("case", EXACT)
def test_exact(case: str, target: str) -> None:
    graph, result = absorbed(*EXACT[case], target=target)
    tensor = next(t for t in result.tensors if t.tensor == "a")
    assert tensor.taken
    assert tensor.exact
    assert tensor.measured_db is not None
    # Offsets of up to 24 around channels that vary by about 3: steps shrink four times and more, 12 dB.
    assert tensor.step_db > 6
    assert tensor.measured_db > 3
    feeds = random_feeds(graph)
    (before,), (after,) = computed(graph, feeds), computed(result.graph, feeds)
    # Sums of under 100 float32 terms of size 24 at most, in another order: 1e-5 of the largest.
    np.testing.assert_allclose(after, before, rtol=0, atol=3e-5 * np.abs(before).max())
    assert not np.array_equal(graph.constant("b1"), result.graph.constant("b1"))  # type: ignore[arg-type]


RELU = (
    "(float[n,4,6,6] x) => (float[n,6,6,6] y) { a = Conv(x, w1, b1) r = Relu(a) y = Conv(r, w2) }",
    {
        "w1": normal(8, 4, 1, 1) * np.float32(0.2),
        "b1": np.array([20, 10, 0, 0, 0, 0, 0, 0], np.float32),
        "w2": normal(6, 8, 1, 1, seed=2),
    },
)


def test_behind_a_relu_only_when_asked() -> None:
    graph, result = absorbed(*RELU)
    assert not result.modified
    assert result.graph is graph
    graph, result = absorbed(*RELU, exact_only=False)
    (tensor,) = [t for t in result.tensors if t.tensor == "r"]
    assert tensor.taken
    assert not tensor.exact
    moved = graph.constant("b1") - result.graph.constant("b1")  # type: ignore[operator]
    # Only channels that no sample brought down to 0 give anything, and not all that they have.
    assert (moved[:2] > 5).all()
    assert (moved[2:] == 0).all()
    (sample,) = samples_of(graph)[:1]
    (before,), (after,) = (computed(g, sample.arrays) for g in (graph, result.graph))
    np.testing.assert_allclose(after, before, rtol=0, atol=3e-5 * np.abs(before).max())


LEFT_ALONE = {
    "padded reader": "(float[n,4,6,6] x) => (float[n,6,8,8] y) { a = Conv(x, w1, b1) y = Conv<pads=[1,1,1,1]>(a, w2) }",
    "auto padded reader": "(float[n,4,6,6] x) => (float[n,6,6,6] y) "
    "{ a = Conv(x, w1, b1) y = Conv<auto_pad=\"SAME_UPPER\">(a, w2) }",
    "another reader": "(float[n,4,6,6] x) => (float[n,6,6,6] y, float[n,8,6,6] z) "
    "{ a = Conv(x, w1, b1) y = Conv(a, w2) z = Tanh(a) }",
    "an output": "(float[n,4,6,6] x) => (float[n,6,6,6] y, float[n,8,6,6] a) { a = Conv(x, w1, b1) y = Conv(a, w2) }",
    "a sigmoid": "(float[n,4,6,6] x) => (float[n,6,6,6] y) { a = Conv(x, w1, b1) s = Sigmoid(a) y = Conv(s, w2) }",
}  # fmt: skip


@pytest.mark.parametrize("case", LEFT_ALONE)
def test_left_alone(case: str) -> None:
    constants = {"w1": normal(8, 4, 1, 1), "b1": APART, "w2": normal(6, 8, 1, 1, seed=2)}
    graph, result = absorbed(LEFT_ALONE[case], constants, exact_only=False)
    assert not result.modified
    assert result.graph is graph


def test_small_offsets_are_not_worth_it() -> None:
    text, constants = EXACT["gemm"]
    graph, result = absorbed(text, {**constants, "b1": np.zeros(8, np.float32)})
    assert not result.modified
    assert result.graph is graph
    assert [tensor.measured_db for tensor in result.tensors] == [None]
