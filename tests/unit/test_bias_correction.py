"""The mean of every channel is what it was before the weights were rounded."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from onnxq.calibration.batches import Batch, Batches
from onnxq.calibration.inputs import InputSpecs
from onnxq.calibration.kept import keep_first
from onnxq.calibration.runner import CollectOptions
from onnxq.calibration.solve import range_of_values
from onnxq.calibration.sources import open_data
from onnxq.graph.shapes import infer_shapes
from onnxq.graph.view import Graph
from onnxq.numerics.arrays import fake_quantize
from onnxq.numerics.qparams import QuantParams, qparams_from_range
from onnxq.passes.give_biases import GiveBiases
from onnxq.planning.options import PlanOptions
from onnxq.planning.plan import QuantPlan, Role
from onnxq.planning.planner import make_plan
from onnxq.recovery.bias_correction import correct_biases
from onnxq.targets import TARGETS
from tests.graphs import computed, graph_of, normal


def planned(graph: Graph) -> tuple[QuantPlan, dict[str, QuantParams]]:
    """The plan for OpenVINO, which has no size limits, and coarse weights, so that the shift shows."""
    infer_shapes(graph)
    GiveBiases().run(graph)
    plan = make_plan(graph, TARGETS["openvino"], options=PlanOptions(), digest="")
    params = {}
    for name, tensor in plan.tensors.items():
        if tensor.role is Role.WEIGHT:
            weight = graph.constant(name)
            assert weight is not None
            params[name] = qparams_from_range(range_of_values(weight * 16, tensor.spec), tensor.spec)
    return plan, params


def rounded(graph: Graph, params: dict[str, QuantParams]) -> Graph:
    result = graph.copy()
    for name, found in params.items():
        result.add_initializer(name, fake_quantize(graph.constant(name), found))  # type: ignore[arg-type]
    return result


def batches_of(graph: Graph, arrays: NDArray[Any]) -> list[Batch]:
    return list(open_data([{"x": arrays}], inputs=InputSpecs.from_graph(graph)).stream())


CASES = {
    "padded conv": ("Conv<pads=[1,1,1,1]>(x, w)", (5, 4, 3, 3), (3, 4, 6, 6)),
    "strided": ("Conv<strides=[2,2]>(x, w)", (5, 4, 3, 3), (3, 4, 7, 7)),
    "depthwise": ("Conv<group=4, pads=[1,1,1,1]>(x, w)", (4, 1, 3, 3), (3, 4, 6, 6)),
    "transposed": ("ConvTranspose<strides=[2,2]>(x, w)", (4, 5, 2, 2), (3, 4, 6, 6)),
    "1-d": ("Conv(x, w)", (5, 4, 3), (3, 4, 9)),
}


@pytest.mark.parametrize("opset", [13, 18])
@pytest.mark.parametrize("case", CASES)
def test_mean_of_each_channel_is_kept(case: str, opset: int) -> None:
    op, weight, shape = CASES[case]
    dims = ",".join(map(str, shape))
    open_dims = ",".join("abcd"[: len(shape)])
    graph = graph_of(f"(float[{dims}] x) => (float[{open_dims}] y) {{ y = {op} }}", opset=opset, w=normal(*weight))
    plan, params = planned(graph)
    x = np.abs(normal(*shape, seed=3)) + 1  # a mean far from zero, as behind a Relu
    corrected = correct_biases(graph, plan, params, batches_of(graph, x), CollectOptions())

    def means(g: Graph) -> NDArray[Any]:
        (y,) = computed(g, {"x": x})
        return y.mean(axis=tuple(a for a in range(y.ndim) if a != 1))

    wanted = means(graph)
    before = np.abs(means(rounded(graph, params)) - wanted).max()
    after = np.abs(means(rounded(corrected, params)) - wanted).max()
    # float32 sums of some hundred terms of size 10: 1e-4; without the correction the shift is of order 0.1.
    assert before > 0.02
    assert after < 1e-4


@pytest.mark.parametrize("text", ["y = Gemm(x, w, b)", "p = MatMul(x, w) y = Add(p, b)"])
def test_matrices(text: str) -> None:
    graph = graph_of(f"(float[9,6] x) => (float[9,5] y) {{ {text} }}", w=normal(6, 5), b=normal(5))
    plan, params = planned(graph)
    x = np.abs(normal(9, 6, seed=3)) + 1
    corrected = correct_biases(graph, plan, params, batches_of(graph, x), CollectOptions())
    wanted = computed(graph, {"x": x})[0].mean(axis=0)
    before = computed(rounded(graph, params), {"x": x})[0].mean(axis=0)
    after = computed(rounded(corrected, params), {"x": x})[0].mean(axis=0)
    assert np.abs(before - wanted).max() > 0.02
    assert np.abs(after - wanted).max() < 1e-4


def test_without_samples_nothing_changes() -> None:
    graph = graph_of("(float[9,6] x) => (float[9,5] y) { y = Gemm(x, w, b) }", w=normal(6, 5), b=normal(5))
    plan, params = planned(graph)
    assert correct_biases(graph, plan, params, [], CollectOptions()) is graph


def test_the_given_graph_is_not_changed() -> None:
    graph = graph_of("(float[9,6] x) => (float[9,5] y) { y = Gemm(x, w, b) }", w=normal(6, 5), b=normal(5))
    plan, params = planned(graph)
    before = graph.to_model().SerializeToString(deterministic=True)
    correct_biases(graph, plan, params, batches_of(graph, normal(9, 6)), CollectOptions())
    assert graph.to_model().SerializeToString(deterministic=True) == before


def stream_of(count: int, width: int = 6) -> Batches:
    graph = graph_of("(float[n,m] x) => (float[n,m] y) { y = Relu(x) }")
    feeds = [{"x": normal(2, width, seed=i)} for i in range(count)]
    return open_data(feeds, inputs=InputSpecs.from_graph(graph))


def test_keep_first_keeps_enough_samples_and_passes_all() -> None:
    reader, kept = keep_first(stream_of(10), samples=5)
    assert sum(batch.samples for batch in reader.stream()) == 20
    assert [batch.samples for batch in kept] == [2, 2, 2]
    list(reader.stream())
    assert len(kept) == 3


def test_keep_first_bounds_memory_but_keeps_one() -> None:
    reader, kept = keep_first(stream_of(10), samples=100, size_bytes=2 * 6 * 4 * 3)
    list(reader.stream())
    assert len(kept) == 3
    reader, kept = keep_first(stream_of(10), samples=100, size_bytes=1)
    list(reader.stream())
    assert len(kept) == 1
