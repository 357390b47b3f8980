"""The mean of every channel is what it was before the weights were rounded."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper

from onnxq.calibration.runner import CollectOptions
from onnxq.data.batches import Batch, Batches
from onnxq.data.inputs import InputSpecs
from onnxq.data.kept import keep_first
from onnxq.data.sources import open_data
from onnxq.graph.shapes import infer_shapes
from onnxq.graph.view import Graph
from onnxq.numerics.arrays import fake_quantize
from onnxq.numerics.blocks import range_of_values
from onnxq.numerics.qparams import QuantParams, Range, qparams_from_range
from onnxq.passes.quantize.give_biases import GiveBiases
from onnxq.planning.options import PlanOptions
from onnxq.planning.plan import QuantPlan, Role
from onnxq.planning.planner import make_plan
from onnxq.recovery.bias_correction import correct_biases
from onnxq.recovery.shadow import rounded_form
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
    assert [batch.label for batch in kept] == [f"calibration batch {n}" for n in (1, 5, 9)]
    list(reader.stream())
    assert len(kept) == 3


def test_keep_first_bounds_memory_but_keeps_one() -> None:
    reader, kept = keep_first(stream_of(10), samples=100, size_bytes=2 * 6 * 4 * 3)
    list(reader.stream())
    assert len(kept) == 3
    reader, kept = keep_first(stream_of(10), samples=100, size_bytes=1)
    list(reader.stream())
    assert len(kept) == 1


def test_shift_of_rounded_activations_is_taken_back_too() -> None:
    """A background of 0.3 on a grid of 1 becomes 0: the next node misses 0.3 W, the one behind it nothing more."""
    text = """(float[3,4,6,6] x) => (float[3,4,6,6] y) {
        h = Conv<pads=[1,1,1,1]>(x, w, b)
        r = Relu(h)
        y = Conv(r, v, c)
    }"""
    graph = graph_of(text, w=normal(4, 4, 3, 3), b=normal(4), v=normal(4, 4, 1, 1, seed=1), c=normal(4, seed=2))
    plan, params = planned(graph)
    x = np.full((3, 4, 6, 6), 0.3, np.float32)
    x[:, :, 2:4] += np.abs(normal(3, 4, 2, 6, seed=3))
    spec = plan.tensors["x"].spec
    params |= {name: QuantParams(scale=np.float32(1), zero_point=np.uint8(0), spec=spec) for name in ("x", "r")}  # type: ignore[arg-type]
    corrected = correct_biases(graph, plan, params, batches_of(graph, x), CollectOptions())
    h, y = (rounded_form(g, plan, params) for g in (graph, corrected))

    def means(g: Graph, tensor: str) -> NDArray[Any]:
        tapped = g.copy()
        tapped.outputs.clear()
        tapped.outputs[tensor] = helper.make_tensor_value_info(tensor, TensorProto.FLOAT, None)
        tapped.prune()
        return np.asarray(computed(tapped, {"x": x})[0].mean(axis=(0, 2, 3)))

    wanted = means(graph, "h")
    assert np.abs(means(h, "h") - wanted).max() > 0.05
    # float32 sums of some hundred terms of size 1.
    assert np.abs(means(y, "h") - wanted).max() < 1e-4


def test_one_bias_for_all_columns_becomes_one_for_each() -> None:
    graph = graph_of(
        "(float[9,6] x) => (float[9,5] y) { p = MatMul(x, w) y = Add(p, b) }", w=normal(6, 5), b=np.ones(1, np.float32)
    )
    plan, params = planned(graph)
    x = np.abs(normal(9, 6, seed=3)) + 1
    corrected = correct_biases(graph, plan, params, batches_of(graph, x), CollectOptions())
    after = computed(rounded(corrected, params), {"x": x})[0].mean(axis=0)
    assert np.abs(after - computed(graph, {"x": x})[0].mean(axis=0)).max() < 1e-4


def test_bodies_of_control_flow_are_copied_along() -> None:
    """A branch that reads a tensor of the graph reads the rounded one in the rounded form."""
    text = """(float[9,6] x, bool cond) => (float[9,5] y) {
        h = Gemm(x, w, b)
        r = If (cond) <
            then_branch = t () => (float[9,5] then_out) { then_out = Relu(h) },
            else_branch = e () => (float[9,5] else_out) { else_out = Neg(h) }
        >
        y = Gemm(r, v, c)
    }"""
    graph = graph_of(text, w=normal(6, 5), b=normal(5), v=normal(5, 5), c=normal(5))
    plan, params = planned(graph)
    x, cond = np.abs(normal(9, 6, seed=3)) + 1, np.array(True)
    (batch,) = open_data([{"x": x, "cond": cond}], inputs=InputSpecs.from_graph(graph)).stream()
    corrected = correct_biases(graph, plan, params, [batch], CollectOptions())
    feeds = {"x": x, "cond": cond}
    wanted = computed(graph, feeds)[0].mean(axis=0)
    before = np.abs(computed(rounded(graph, params), feeds)[0].mean(axis=0) - wanted).max()
    after = np.abs(computed(rounded(corrected, params), feeds)[0].mean(axis=0) - wanted).max()
    # A Relu in between: the first correction leaves a little, which the second does not see.
    assert after < before / 4


def test_what_a_range_clips_does_not_shift_the_rest():
    # One position of 64 lies far outside the range, as tokens with a channel of their own do in text encoders. Its mean
    # error is (1000 - 10) / 64 = 15, and taking that off the bias would move 63 positions that have none.
    data = np.random.default_rng(0).uniform(-10, 10, (64, 8)).astype(np.float32)
    data[0] = 1000.0
    graph = graph_of("(float[N,8] x) => (float[N,8] y) { y = Gemm(x, w, b) }", w=normal(8, 8), b=normal(8))
    plan, _ = planned(graph)
    spec = plan.tensors["x"].spec
    found = {"x": qparams_from_range(Range(rmin=np.float32(-10), rmax=np.float32(10)), spec)}
    corrected = correct_biases(graph, plan, found, batches_of(graph, data), CollectOptions())
    bias = next(name for name in graph.initializers if graph.rank(name) == 1)
    # A step of the grid is 0.08; what is left of its rounding errors in a mean of 64 stays far below it.
    np.testing.assert_allclose(corrected.constant(bias), graph.constant(bias), atol=0.08)
