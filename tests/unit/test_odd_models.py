"""Models that random changes brought to light, each of which once led to another end than a plan or a typed error."""

from __future__ import annotations

import contextlib

import numpy as np
import pytest
from onnx import ModelProto, TensorProto, ValueInfoProto, helper

import onnxq
from onnxq.data.inputs import InputSpecs
from onnxq.data.synthetic import synthetic_batches
from onnxq.errors import DataError, InternalError, ModelError, OnnxqError
from onnxq.graph.model import load_graph
from onnxq.graph.view import Graph
from onnxq.numerics.qtypes import INT8
from onnxq.numerics.specs import QuantSpec
from onnxq.pipeline import stages
from onnxq.planning.bounds import clip_limits
from onnxq.recovery import site_noise
from tests.graphs import computed, graph_of, model_of, normal
from tests.property.test_mutated_models import MODELS

SMALL = "(float[N,16] x) => (float[N,8] y) { y = MatMul(x, w) }"


def small() -> ModelProto:
    return model_of(SMALL, w=normal(16, 8))


def test_names_that_are_not_text() -> None:
    content = model_of("(float[N] x) => (float[N] y) { y = Abs<note=1>(x) }").SerializeToString()
    with pytest.raises(ModelError, match=r"the name b'n\\x80te' is not in UTF-8"):
        load_graph(content.replace(b"note", b"n\x80te"))


def test_normalizations_with_parameters_of_different_lengths() -> None:
    """onnx's checker does not see it; onnxruntime does."""
    model = model_of(
        "(float[N,3,4,4] x) => (float[N,4,2,2] y) { c = Conv(x, w) y = BatchNormalization(c, s, o, m, v) }",
        w=normal(4, 3, 3, 3), s=np.ones(4, np.float32), o=np.ones(2, np.float32), m=np.ones(4, np.float32),
        v=np.ones(4, np.float32),
    )  # fmt: skip
    plan = onnxq.plan(model)
    assert [d.op for d in plan.nodes] == ["Conv", "BatchNormalization"]


def test_vectors_that_have_no_end() -> None:
    """onnx's data propagation would keep a symbol for each of their elements."""
    model = model_of("(float[N,16] x, int64[M] i) => (float[N,8] y, float[M] z) { y = MatMul(x, w) }", w=normal(16, 8))
    model.graph.input.append(helper.make_tensor_value_info("long", TensorProto.FLOAT, [2**40]))
    model.graph.node.append(helper.make_node("Gather", ["long", "i"], ["z"]))
    assert onnxq.plan(model).nodes


@pytest.mark.parametrize("limit", [np.zeros(0, np.float32), np.zeros((2, 0), np.float32)])
def test_limits_that_are_empty(limit: np.ndarray) -> None:
    graph = graph_of("(float[N] x) => (float[N] y) { y = Clip(x, low, high) }", low=limit, high=np.float32(6))
    assert clip_limits(graph, graph.nodes[0]) == (None, 6.0)


def test_inputs_that_are_too_large_to_be_made_up() -> None:
    graph = graph_of("(float[4611686018427387904,3,8,8] x) => (float[a,b,c,d] y) { y = Relu(x) }")
    with pytest.raises(DataError, match=r"input 'x' has shape \(4611686018427387904, 3, 8, 8\), too large to be made"):
        synthetic_batches(graph)


def test_weights_of_another_size_than_their_shape() -> None:
    model = small()
    model.graph.initializer[0].dims[0] = 17
    with pytest.raises(ModelError, match=r"tensor 'w': it holds 512 bytes, its shape \(17, 8\) needs 544"):
        load_graph(model)


# ---- whose fault it is -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [ValueError("shapes"), InternalError("broken")])
def test_a_failure_on_a_model_that_runs_is_a_bug(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(stages, "make_plan", fail)
    with pytest.raises(type(error), match=str(error)):
        onnxq.plan(small())


def test_a_failure_on_a_model_that_onnxruntime_refuses_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise ValueError

    monkeypatch.setattr(stages, "make_plan", fail)
    model = model_of("(float[N,15] x) => (float[N,8] y) { y = MatMul(x, w) }", w=normal(16, 8))
    with pytest.raises(ModelError, match=r"the model contradicts itself: onnxruntime cannot load the model: .*MatMul"):
        onnxq.plan(model)


def test_types_that_this_onnx_does_not_know() -> None:
    model = small()
    model.graph.input[0].type.tensor_type.elem_type = 99
    with pytest.raises(ModelError, match="input 'x': it is of type number 99, which cannot be fed from numpy arrays"):
        InputSpecs.from_graph(Graph(model))


def without_a_shape(value: ValueInfoProto) -> None:
    value.type.tensor_type.ClearField("shape")


@pytest.mark.parametrize(
    "lacking", ["rank of an output", "type of an output", "an output by its name", "rank of the input"]
)
def test_what_runtimes_infer_need_not_be_declared(lacking: str) -> None:
    text = "(float[N,16] x) => (float[N,8] y) { m = MatMul(x, w) y = Relu(m) }"
    model = model_of(text, w=normal(16, 8))
    if lacking == "rank of an output":
        without_a_shape(model.graph.output[0])
    elif lacking == "type of an output":
        model.graph.output[0].ClearField("type")
    elif lacking == "an output by its name":
        model.graph.output.add(name="m")
    else:
        without_a_shape(model.graph.input[0])
    data = [{"x": normal(4, 16)}] * 2
    result = onnxq.quantize(model, data, target="ort-x64-vnni", placement="full")
    assert result.report
    assert [value.name for value in result.model.graph.output] == [value.name for value in model.graph.output]
    assert computed(load_graph(result.model), data[0])[0].shape == (4, 8)


def test_a_rank_that_nothing_tells_stays_open() -> None:
    model = model_of(
        "(float[N,16] x, int64[K] s) => (float[N,8] y, float z) { m = MatMul(x, w) y = Relu(m) z = Reshape(y, s) }",
        w=normal(16, 8),
    )
    without_a_shape(model.graph.output[1])
    data = [{"x": normal(4, 16), "s": np.array([2, 16])}] * 2
    result = onnxq.quantize(model, data, target="ort-x64-vnni", placement="full")
    assert result.report
    assert not result.model.graph.output[1].type.tensor_type.HasField("shape")
    assert computed(load_graph(result.model), data[0])[1].shape == (2, 16)


def test_scales_whose_product_is_beyond_float32() -> None:
    """Products of the largest values would be, too; on the samples they do not meet."""
    w = np.zeros((16, 8), np.float32)
    w[0, 0], x = 1e22, np.zeros((4, 16), np.float32)
    x[:, 1] = 1e22
    model = model_of("(float[N,16] x) => (float[N,8] y) { [m] y = Gemm(x, w, b) }", w=w + normal(16, 8), b=normal(8))
    with pytest.raises(ModelError) as error:
        onnxq.quantize(model, {"x": x}, target="ort-x64-vnni", placement="full")
    assert str(error.value) == (
        "node 'm': the scales of 'x' and of the weight 'w' are so large that their product, the scale of the bias 'b', "
        "is beyond float32\nHint: leave it in float: exclude= (--exclude) with its name as `onnxq plan MODEL` prints it"
    )


def test_scales_whose_product_is_no_normal_number() -> None:
    """The bias is 0, and so are its codes."""
    model = model_of(
        "(float[N,16] x) => (float[N,8] z) { y = Gemm(x, w, b) z = Gemm(y, v, b) }",
        w=(1e-30 * normal(16, 8)).astype(np.float32), v=normal(8, 8), b=np.zeros(8, np.float32),
    )  # fmt: skip
    data = {"x": (1e-25 * normal(8, 16)).astype(np.float32)}
    result = onnxq.quantize(model, data, target="ort-x64-vnni", placement="full", recover="none")
    scales = [params.scale.min() for key, params in result.qparams.items() if key.startswith("b")]
    assert scales and min(scales) >= np.finfo(np.float32).tiny


def test_weights_that_scales_of_channels_would_take_beyond_float32() -> None:
    """Smoothing tries scales; one that makes Inf of a weight is none to take."""
    spec = QuantSpec(qtype=INT8, symmetric=True, axis=1)
    kept = site_noise._rounding(np.array([[1e38, 1.0]]), spec)
    assert np.isfinite(kept).all()
    assert np.isinf(site_noise._rounding(np.array([[1e39, 1.0]]), spec)).all()


def test_channels_whose_declared_shape_is_another() -> None:
    """onnxruntime warns of such an output and computes what it is."""
    model = ModelProto()
    model.CopyFrom(MODELS[0])
    del model.graph.output[0].type.tensor_type.shape.dim[1]
    with contextlib.suppress(OnnxqError):
        onnxq.quantize(model, target="qnn")
