"""InsertQDQ, a test for each numbered case of its docstring."""

from __future__ import annotations

import numpy as np
import pytest

from onnxq.errors import InternalError
from onnxq.graph.view import CAPTURED, Graph, Use
from onnxq.numerics.arrays import qparams_from_scale
from onnxq.numerics.qtypes import UINT8
from onnxq.numerics.specs import QuantSpec
from onnxq.passes.base import PassManager
from onnxq.passes.quantize.insert_qdq import InsertQDQ
from onnxq.planning.plan import Observed, QuantPlan, Role, TensorPlan
from tests.graphs import computed, graph_of, ops

SPEC = QuantSpec(qtype=UINT8, symmetric=False)
PARAMS = qparams_from_scale(0.5, 128, qtype=UINT8)


def inserted(text: str, *tensors: TensorPlan, **constants: object) -> Graph:
    graph = graph_of(text, **constants)
    plan = QuantPlan(target="t", opset=13, tensors={t.name: t for t in tensors}, nodes=(), digest="d")
    manager = PassManager([InsertQDQ(plan, dict.fromkeys(plan.tensors, PARAMS))], name="test")
    result = manager.run(graph)
    assert result.modified
    assert not manager.run(graph).modified, "case 3: a second run does nothing"
    return graph


def activation(name: str, *uses: Use, covers_output: bool = False) -> TensorPlan:
    return TensorPlan(
        name=name, role=Role.ACTIVATION, spec=SPEC, source=Observed(), uses=uses, covers_output=covers_output
    )


def test_1_listed_reads_get_the_pair_and_others_the_float_tensor() -> None:
    graph = inserted(
        "(float[2] x) => (float[2] y, float[2] z) { [a] y = Tanh(x) [b] z = Exp(x) }", activation("x", Use("a", 0))
    )
    assert list(graph.node("a").input) == ["x_dequantized"]
    assert list(graph.node("b").input) == ["x"]
    quantizer, dequantizer = graph.node("x_QuantizeLinear"), graph.node("x_DequantizeLinear")
    assert list(quantizer.input) == ["x", "x_scale", "x_zero_point"]
    assert list(dequantizer.input) == ["x_quantized", "x_scale", "x_zero_point"]
    y, z = computed(graph, {"x": np.float32([0.3, 1.1])})
    np.testing.assert_allclose(y, np.tanh(np.float32([0.5, 1.0])), rtol=1e-6)
    np.testing.assert_allclose(z, np.exp(np.float32([0.3, 1.1])), rtol=1e-6)


def test_1_both_slots_of_one_node() -> None:
    graph = inserted("(float[2] x) => (float[2] y) { [a] y = Mul(x, x) }", activation("x", Use("a", 0), Use("a", 1)))
    assert ops(graph) == {"QuantizeLinear": 1, "DequantizeLinear": 1, "Mul": 1}
    np.testing.assert_array_equal(computed(graph, {"x": np.float32([1.1, -0.6])})[0], [1.0, 0.25])


def test_1_read_from_the_body_of_an_if() -> None:
    graph = inserted(
        """(float[2] x, bool k) => (float[2] y) {
        [a] t = Neg(x)
        [branch] y = If(k) <then_branch = t () => (float[2] u) { u = Identity(t) },
                            else_branch = e () => (float[2] v) { v = Neg(t) }>
        }""",
        activation("t", Use("branch", CAPTURED)),
    )
    feeds = {"x": np.float32([0.3, 1.1])}
    np.testing.assert_array_equal(computed(graph, {**feeds, "k": np.array(True)})[0], [-0.5, -1.0])
    np.testing.assert_array_equal(computed(graph, {**feeds, "k": np.array(False)})[0], [0.5, 1.0])


def test_2_covered_output_is_the_dequantized_tensor_under_its_name() -> None:
    graph = inserted(
        "(float[2] x) => (float[2] y, float[2] z) { [a] y = Neg(x) [b] z = Neg(y) }",
        activation("y", Use("b", 0), covers_output=True),
    )
    assert list(graph.outputs) == ["y", "z"]
    assert list(graph.node("a").output) == ["y_float"]
    assert list(graph.node("y_DequantizeLinear").output) == ["y"]
    y, z = computed(graph, {"x": np.float32([0.3, 1.1])})
    np.testing.assert_array_equal(y, [-0.5, -1.0])
    np.testing.assert_array_equal(z, [0.5, 1.0])


def test_2_output_that_is_not_covered_stays_float() -> None:
    graph = inserted(
        "(float[2] x) => (float[2] y, float[2] z) { [a] y = Neg(x) [b] z = Neg(y) }", activation("y", Use("b", 0))
    )
    y, z = computed(graph, {"x": np.float32([0.3, 1.1])})
    np.testing.assert_array_equal(y, np.float32([-0.3, -1.1]))
    np.testing.assert_array_equal(z, [0.5, 1.0])


def test_new_names_do_not_collide() -> None:
    graph = inserted(
        """(float[2] x, float[2] x_scale) => (float[2] y) {
        [a] x_quantized = Add(x, x_scale)
        [b] y = Mul(x, x_quantized)
        }""",
        activation("x", Use("a", 0)),
    )
    feeds = {"x": np.float32([0.3, 1.1]), "x_scale": np.float32([1, 1])}
    np.testing.assert_allclose(computed(graph, feeds)[0], np.float32([0.3 * 1.5, 1.1 * 2.0]), rtol=1e-6)


def test_shape_of_the_pair_is_known() -> None:
    graph = inserted("(float[2] x) => (float[2] y) { [a] y = Neg(x) }", activation("x", Use("a", 0)))
    assert graph.shape("x_dequantized") == (2,)


def test_output_that_no_node_computes_is_a_bug() -> None:
    with pytest.raises(InternalError, match="graph output 'y' is not computed by a node"):
        inserted(
            "(float[2] y) => (float[2] y, float[2] z) { [b] z = Neg(y) }",
            activation("y", Use("b", 0), covers_output=True),
        )
