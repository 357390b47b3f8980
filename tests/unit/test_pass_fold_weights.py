"""FoldWeights, a test for each numbered case of its docstring."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from onnxq.calibration.methods import method_from_name
from onnxq.calibration.solve import solve
from onnxq.calibration.statistics.table import StatsTable, TensorStats
from onnxq.graph.view import Graph, attribute
from onnxq.passes.base import PassManager
from onnxq.passes.quantize.fold_weights import FoldWeights
from onnxq.targets import TARGETS
from tests.graphs import computed, graph_of, normal, ops
from tests.planned import ORT, planned

W = normal(4, 4, 3, 3)


def folded(text: str, *, target: str = ORT, **constants: Any) -> Graph:
    graph = graph_of(text, **constants)
    plan = planned(graph, target=target)
    seen = StatsTable(
        tensors={k: TensorStats.of(np.float32([-1, 2])) for k in plan.observed()}, digest="test", samples=1
    )
    qparams = solve(graph, plan, seen, method_from_name("max"), TARGETS[target])
    manager = PassManager([FoldWeights(plan, qparams)], name="test")
    assert manager.run(graph).modified
    assert not manager.run(graph).modified, "case 5: a second run does nothing"
    return graph


def int8_initializers(graph: Graph) -> list[str]:
    return [name for name in graph.initializers if str(graph.constant(name).dtype) == "int8"]  # type: ignore[union-attr]


def test_1_weight_becomes_codes_within_half_a_step() -> None:
    graph = folded("(float[N,4,8,8] x) => (float[N,4,6,6] y) { [c] y = Conv(x, w) }", w=W)
    assert ops(graph) == {"Conv": 1, "DequantizeLinear": 1}
    node = graph.node("w_DequantizeLinear")
    codes, scale = graph.constant(node.input[0]), graph.constant(node.input[1])
    assert codes is not None
    assert scale is not None
    assert codes.dtype == np.int8
    assert codes.min() >= -127
    steps = scale.reshape(-1, 1, 1, 1)
    # Half a step, and the float32 rounding of the product.
    assert (np.abs(codes * steps - W) <= steps * (0.5 + 1e-5)).all()


def test_1_one_initializer_and_one_dq_serve_all_readers() -> None:
    graph = folded(
        "(float[N,4,8,8] x) => (float[N,4,4,4] y) { [c1] a = Conv(x, w) [c2] y = Conv(a, w) }",
        w=W,
    )
    assert ops(graph) == {"Conv": 2, "DequantizeLinear": 1}
    assert graph.node("c1").input[1] == graph.node("c2").input[1]
    assert [n for n in int8_initializers(graph) if "quantized" in n] == ["w_quantized"]


def test_1_constant_operand_becomes_codes() -> None:
    graph = folded(
        """(float[N,4,8,8] x) => (float[N,4,4,4] y) {
        [c1] a = Conv(x, w)
        [add] d = Add(k, a)
        [c2] y = Conv(d, w)
        }""",
        w=W,
        k=np.float32(3),
    )
    np.testing.assert_allclose(graph.constant("k_quantized"), 255)
    assert graph.constant("k_quantized").shape == ()  # type: ignore[union-attr]


def test_2_bias_becomes_int32_codes() -> None:
    bias = np.float32([0.5, -0.25, 0.0, 3.0])
    graph = folded("(float[N,4,8,8] x) => (float[N,4,6,6] y) { [c] y = Conv(x, w, b) }", w=W, b=bias)
    node = graph.node("b_DequantizeLinear")
    codes, scale = graph.constant(node.input[0]), graph.constant(node.input[1])
    assert codes is not None
    assert scale is not None
    assert codes.dtype == np.int32
    assert (np.abs(codes * scale.astype(np.float64) - bias) <= scale).all()


@pytest.mark.parametrize("shape", [(4,), (1, 4)])
def test_2_bias_of_a_matmul_loses_its_leading_ones(shape: tuple[int, ...]) -> None:
    bias = np.float32([0.5, -0.25, 0.0, 3.0]).reshape(shape)
    text = "(float[3,4] x) => (float[3,4] y) { [m] a = MatMul(x, w) [add] y = Add(a, b) }"
    graph = folded(text, w=normal(4, 4), b=bias)
    assert graph.constant("b_quantized").shape == (4,)  # type: ignore[union-attr]


@pytest.mark.parametrize("shape", [(), (1,), (1, 1)])
def test_2_bias_that_is_one_number_gets_a_code_for_each_column(shape: tuple[int, ...]) -> None:
    """Columns have different scales, so the same number has different codes."""
    text = "(float[3,4] x) => (float[3,4] y) { [m] a = MatMul(x, w) [add] y = Add(a, b) }"
    graph = folded(text, w=normal(4, 4) * np.float32([1, 2, 3, 4]), b=np.full(shape, 0.75, np.float32))
    codes, scale = graph.constant("b_quantized"), graph.constant("b_scale")
    assert codes is not None
    assert scale is not None
    assert codes.shape == scale.shape == (4,)
    assert (np.abs(codes * scale.astype(np.float64) - 0.75) <= scale).all()


def test_2_bias_of_a_per_tensor_weight_has_one_scale() -> None:
    text = "(float[3,4] x) => (float[3,4] y) { [m] a = MatMul(x, w) [add] y = Add(a, b) }"
    graph = folded(text, target="qnn", w=normal(4, 4), b=normal(4))
    assert graph.constant("b_quantized").shape == (4,)  # type: ignore[union-attr]
    assert graph.constant("b_scale").shape == ()  # type: ignore[union-attr]
    assert not graph.node("b_DequantizeLinear").attribute


def test_2_shared_bias_is_folded_for_each_node() -> None:
    graph = folded(
        "(float[N,4,8,8] x) => (float[N,4,4,4] y) { [c1] a = Conv(x, w, b) [c2] y = Conv(a, v, b) }",
        w=W,
        v=W * 3,
        b=normal(4),
    )
    assert graph.node("c1").input[2] != graph.node("c2").input[2]
    assert "b" not in graph.initializers


@pytest.mark.parametrize(
    ("text", "shape", "axis"),
    [
        ("(float[N,4,8,8] x) => (float[N,4,6,6] y) { [n] y = Conv(x, w) }", (4, 4, 3, 3), 0),
        ("(float[N,4] x) => (float[N,4] y) { [n] y = Gemm<transB=1>(x, w) }", (4, 4), 0),
        ("(float[N,4] x) => (float[N,4] y) { [n] y = Gemm(x, w) }", (4, 4), 1),
        ("(float[N,4] x) => (float[N,4] y) { [n] y = MatMul(x, w) }", (4, 4), 1),
        ("(float[2,4,4] x) => (float[2,4,4] y) { [n] y = MatMul(x, w) }", (2, 4, 4), None),
    ],
)
def test_3_axis_is_written(text: str, shape: tuple[int, ...], axis: int | None) -> None:
    graph = folded(text, w=normal(*shape))
    assert attribute(graph.node("w_DequantizeLinear"), "axis") == axis


def test_4_float_copy_that_somebody_reads_stays() -> None:
    graph = folded(
        "(float[N,4,8,8] x) => (float[N,4,6,6] y, float[4,4,3,3] z) { [c] y = Conv(x, w) [neg] z = Neg(w) }", w=W
    )
    assert {"w", "w_quantized"} <= set(graph.initializers)
    np.testing.assert_array_equal(computed(graph, {"x": normal(1, 4, 8, 8)})[1], -W)


def test_4_float_copy_that_is_an_output_stays() -> None:
    graph = folded("(float[N,4,8,8] x) => (float[N,4,6,6] y, float[4,4,3,3] w) { [c] y = Conv(x, w) }", w=W)
    np.testing.assert_array_equal(computed(graph, {"x": normal(1, 4, 8, 8)})[1], W)


def test_4_float_copy_that_nobody_reads_goes() -> None:
    graph = folded("(float[N,4,8,8] x) => (float[N,4,6,6] y) { [c] y = Conv(x, w, b) }", w=W, b=normal(4))
    assert not {"w", "b"} & set(graph.initializers)


def test_target_with_float_biases_leaves_them() -> None:
    text = "(float[N,16,8,8] x) => (float[N,16,6,6] y) { [c] y = Conv(x, w, b) }"
    graph = folded(text, target="tensorrt", w=normal(16, 16, 3, 3), b=normal(16))
    assert graph.node("c").input[2] == "b"
