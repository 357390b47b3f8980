"""The numbered cases of the passes that take a few lines each, and of the managers."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from onnxq.errors import InternalError
from onnxq.graph.model import load_graph
from onnxq.graph.view import Graph, attribute
from onnxq.passes.base import InvariantError, Pass, PassLog, PassManager, PassResult
from onnxq.passes.simplify.clear_ambiguous_dimensions import ClearAmbiguousDimensions
from onnxq.passes.simplify.dedupe_initializers import DedupeInitializers
from onnxq.passes.simplify.infer_shapes import InferShapes
from onnxq.passes.simplify.lift_constants import LiftConstants
from onnxq.passes.simplify.remove_unused import RemoveUnused
from onnxq.passes.simplify.type_custom_operators import TypeCustomOperators
from onnxq.passes.until_stable import UntilStable
from tests.graphs import apply, graph_of, model_of, normal, ops, reasons


class TestClearAmbiguousDimensions:
    @pytest.mark.parametrize("name", ["?", "-1", "None", "none", "unknown", "unk__12", " "])
    def test_case_1_placeholders(self, name: str) -> None:
        model = model_of("(float[N,3,a,b] x) => (float[N,3,a,b] y) { t = Relu(x) y = Relu(t) }")
        model.graph.value_info.add().CopyFrom(
            helper.make_tensor_value_info("t", TensorProto.FLOAT, ["N", 3, name, name])
        )
        for value in (model.graph.input[0], model.graph.output[0]):
            value.type.tensor_type.shape.dim[2].dim_param = name
            value.type.tensor_type.shape.dim[3].dim_param = name
        graph = load_graph(model)
        apply(graph, ClearAmbiguousDimensions())
        assert [graph.shape(t) for t in "xty"] == [("N", 3, None, None)] * 3

    def test_case_2_negative_sizes(self) -> None:
        model = model_of("(float[N,3] x) => (float[N,3] y) { y = Relu(x) }")
        model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = -1
        graph = load_graph(model)
        apply(graph, ClearAmbiguousDimensions())
        assert graph.inputs["x"].type.tensor_type.shape.dim[0].WhichOneof("value") is None

    def test_case_3_names_and_sizes_stay(self) -> None:
        graph = graph_of("(float[N,0,n,unk] x) => (float[N,0,n,unk] y) { y = Relu(x) }")
        assert not ClearAmbiguousDimensions().run(graph).modified
        assert graph.shape("x") == ("N", 0, "n", "unk")


class TestLiftConstants:
    @pytest.mark.parametrize(
        ("value", "expected"),
        [
            ("value = float[2] {1.0, 2.0}", np.array([1, 2], np.float32)),  # 1
            ("value_float = 1.5", np.array(1.5, np.float32)),  # 2
            ("value_floats = [1.5, 2.5]", np.array([1.5, 2.5], np.float32)),  # 2
            ("value_int = 3", np.array(3, np.int64)),  # 2
            ("value_ints = [3, 4]", np.array([3, 4], np.int64)),  # 2
        ],
    )
    def test_cases_1_and_2(self, value: str, expected: np.ndarray[Any, Any]) -> None:
        graph = graph_of(f"(float x) => (float[a] y) {{ k = Constant<{value}>() f = Cast<to=1>(k) y = Add(x, f) }}")
        LiftConstants().run(graph)
        lifted = graph.constant("k")
        assert (lifted.dtype, lifted.shape, lifted.tolist()) == (expected.dtype, expected.shape, expected.tolist())
        assert "Constant" not in ops(graph)

    @pytest.mark.parametrize(
        ("value", "expected"), [({"value_string": "a"}, b"a"), ({"value_strings": ["a", "b"]}, [b"a", b"b"])]
    )
    def test_case_2_strings(self, value: dict[str, Any], expected: Any) -> None:
        model = model_of("(float x) => (float y) { y = Neg(x) }")
        model.graph.node.append(helper.make_node("Constant", [], ["k"], **value))
        model.graph.node.append(helper.make_node("Use", ["k"], ["z"], domain="other"))
        model.graph.output.append(helper.make_tensor_value_info("z", TensorProto.FLOAT, []))
        graph = load_graph(model)
        LiftConstants().run(graph)
        assert graph.constant("k").astype(bytes).tolist() == expected

    def test_case_3_sparse_stays(self) -> None:
        sparse = helper.make_sparse_tensor(
            helper.make_tensor("v", TensorProto.FLOAT, [1], [2.0]),
            helper.make_tensor("i", TensorProto.INT64, [1], [1]),
            [3],
        )
        model = model_of("(float[3] x) => (float[3] y) { y = Add(x, k) }")
        model.graph.node.insert(0, helper.make_node("Constant", [], ["k"], sparse_value=sparse))
        result = LiftConstants().run(load_graph(model))
        assert (reasons(result), result.modified) == (
            "a sparse constant has no initializer form that the passes know",
            False,
        )

    def test_case_4_bodies_stay(self) -> None:
        text = """(bool c) => (float y) { y = If (c)
            <then_branch = a () => (float p) { p = Constant<value_float = 1.0>() },
             else_branch = b () => (float q) { q = Constant<value_float = 2.0>() }> }"""
        assert not LiftConstants().run(graph_of(text)).modified

    def test_case_5_outputs_stay(self) -> None:
        graph = graph_of("(float x) => (float y, float z) { y = Neg(x) z = Constant<value_float = 1.0>() }")
        assert reasons(apply(graph, LiftConstants())) == "the constant is an output of the graph"


class TestDedupeInitializers:
    def test_case_1_same_bytes(self) -> None:
        graph = graph_of("(float[2] x) => (float[2] y) { t = Add(x, a) y = Mul(t, b) }", a=normal(2), b=normal(2))
        apply(graph, DedupeInitializers())
        assert list(graph.initializers) == ["a"]

    def test_case_2_same_reference(self) -> None:
        graph = graph_of("(float[2] x) => (float[2] y) { t = Add(x, a) y = Mul(t, b) }", a=normal(2), b=normal(2))
        for name in "ab":
            tensor = TensorProto(data_type=1, dims=[2], data_location=TensorProto.EXTERNAL)
            tensor.external_data.add(key="location", value="nowhere.data")
            graph.add_initializer(name, tensor)
        DedupeInitializers().run(graph)
        assert list(graph.initializers) == ["a"]

    def test_case_3_other_shape_or_type(self) -> None:
        text = "(float[2] x) => (float[1,2] y) { t = Add(x, a) u = Mul(t, b) c = Cast<to=1>(i) y = Add(u, c) }"
        graph = graph_of(text, a=np.zeros(2, np.float32), b=np.zeros((1, 2), np.float32), i=np.zeros(2, np.int32))
        assert not apply(graph, DedupeInitializers()).modified

    def test_case_4_read_by_a_body(self) -> None:
        text = """(float[2] x, bool c) => (float[2] y) { t = Add(x, a) y = If (c)
            <then_branch = p () => (float[2] q) { q = Add(t, b) },
             else_branch = r () => (float[2] s) { s = Neg(t) }> }"""
        assert not DedupeInitializers().run(graph_of(text, a=normal(2), b=normal(2))).modified


class TestRemoveUnused:
    def test_cases_1_to_3(self) -> None:
        text = "(float[2] x, float[2] unread) => (float[2] y) { y = Neg(x) dead = Add(x, a) deader = Neg(dead) }"
        graph = graph_of(text, a=normal(2), b=normal(2))
        result = apply(graph, RemoveUnused())
        assert (ops(graph), list(graph.initializers), list(graph.inputs)) == ({"Neg": 1}, [], ["x", "unread"])
        assert {edit.what for edit in result.edits} == {
            "no output depends on it", "initializer 'a' is read by nobody", "initializer 'b' is read by nobody"
        }  # fmt: skip


class TestInferShapes:
    def test_case_1_named_sizes_keep_their_names(self) -> None:
        text = "(float[N,3,h,w] x) => (float[a,b,c,d] y) { r = Relu(x) t = Conv<pads=[1,1,1,1]>(r, k) y = Relu(t) }"
        graph = graph_of(text, k=normal(4, 3, 3, 3))
        apply(graph, InferShapes())
        assert graph.shape("r") == ("N", 3, "h", "w")
        assert graph.shape("t") == ("N", 4, None, None)
        # The name b gives way to the number; the other names are the model's own words.
        assert graph.shape("y") == ("a", 4, "c", "d")
        assert graph.dtype("t") == TensorProto.FLOAT

    def test_case_1_rank_from_the_length_of_a_computed_shape(self) -> None:
        text = """(float[N,3,h,w] x) => (float[a,b,c] y) {
            s = Shape(x)  f = Cast<to=1>(s)  g = Mul(f, one)  i = Cast<to=7>(g)
            n = Slice(i, zero, two)  m = Concat<axis=0>(n, last)  t = Reshape(x, m)  y = Relu(t) }"""
        graph = graph_of(text, one=np.float32(1), zero=np.array([0]), two=np.array([2]), last=np.array([-1]))
        apply(graph, InferShapes())
        assert graph.shape("t") == (None, None, None)

    def test_case_2_unknown_operators_leave_what_was_known(self) -> None:
        model = model_of("(float[N] x) => (float[N] y) { t = other.Thing(x) y = Relu(t) }")
        model.graph.value_info.add().CopyFrom(helper.make_tensor_value_info("t", TensorProto.FLOAT, ["N"]))
        graph = load_graph(model)
        assert not InferShapes().run(graph).modified
        assert graph.shape("t") == ("N",)

    def test_case_2_a_failing_inference_leaves_everything(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def fail(*_: Any, **__: Any) -> None:
            raise onnx.shape_inference.InferenceError("no")

        monkeypatch.setattr(onnx.shape_inference, "infer_shapes", fail)
        assert not InferShapes().run(graph_of("(float[N] x) => (float[N] y) { t = Relu(x) y = Relu(t) }")).modified

    def test_large_weights_are_not_needed(self) -> None:
        graph = graph_of("(float[N,3] x) => (float[a,b] y) { y = MatMul(x, w) }", w=normal(3, 1000))
        assert not graph.skeleton().graph.initializer
        InferShapes().run(graph)
        assert graph.shape("y") == ("a", 1000)


class _CountDown(Pass):
    def run(self, graph: Graph) -> PassResult:
        log = PassLog()
        node = graph.nodes[0]
        left = int(attribute(node, "left", 0))
        if left > 0:
            graph.set_attributes(node, left=left - 1)
            log.edit("one less", node.name)
        log.miss(f"{left} left", node.name)
        return log.result(graph)


class _BreakGraph(Pass):
    def run(self, graph: Graph) -> PassResult:
        graph.add_node("Neg", ["nowhere"], ["z"], name="broken")
        log = PassLog()
        log.edit("broke it", "broken")
        return log.result(graph)


class TestManagers:
    def test_until_stable_cases_1_and_2(self) -> None:
        graph = graph_of("(float x) => (float y) { y = other.Thing<left = 3>(x) }")
        result = UntilStable([_CountDown()], name="count").run(graph)
        assert (len(result.edits), reasons(result)) == (3, "0 left")

    def test_until_stable_case_3(self) -> None:
        graph = graph_of("(float x) => (float y) { y = other.Thing<left = 1000>(x) }")
        with pytest.raises(InternalError, match="passes count do not come to rest: one less"):
            UntilStable([_CountDown()], name="count").run(graph)

    def test_the_pass_that_breaks_the_graph_is_named(self) -> None:
        graph = graph_of("(float x) => (float y) { y = Neg(x) }")
        with pytest.raises(
            InvariantError, match=r"pass _BreakGraph broke the graph: node 'broken': .*before it: RemoveUnused"
        ):
            PassManager([RemoveUnused(), _BreakGraph()], name="m").run(graph)


class TestTypeCustomOperators:
    """Whether onnxruntime knows an operator is seen in tests/e2e/test_custom_ops.py."""

    def test_case_2_onnxruntime_does_not_know_it(self) -> None:
        graph = graph_of("(float[N,3] x) => (float[N,3] y) { t = other.Twice(x) y = Neg(t) }")
        result = TypeCustomOperators().run(graph)
        assert not result.modified
        assert "does not know" in reasons(result)

    def test_case_3_nothing_to_ask(self) -> None:
        graph = graph_of("(float[N,3] x) => (float[N,3] y) { y = Neg(x) }")
        result = TypeCustomOperators().run(graph)
        assert not result.modified
        assert not result.misses
