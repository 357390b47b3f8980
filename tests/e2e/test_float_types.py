"""float16, bfloat16 and float64 models, on the engines that they are meant for."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import ModelProto, TensorProto, helper

import onnxq
from onnxq.graph.float_types import float_tensor
from onnxq.planning.plan import Action

# numpy has no bfloat16: such inputs are given as float32.
NUMPY = {
    TensorProto.FLOAT: np.float32,
    TensorProto.FLOAT16: np.float16,
    TensorProto.DOUBLE: np.float64,
    TensorProto.BFLOAT16: np.float32,
}
TYPES = [TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE]
FLOOR_DB = 30.0
"""Two int8 layers give 31 dB (a matrix product) and more; a scale rounded the wrong way or a wrong type costs 6 dB."""


def convolutions(elem_type: int, opset: int, interface: int) -> ModelProto:
    """Conv, Relu, residual Conv, pooling."""
    rng = np.random.default_rng(0)
    nodes = [
        helper.make_node("Conv", ["v", "w1", "b1"], ["a"], pads=[1] * 4),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("Conv", ["b", "w2", "b2"], ["c"]),
        helper.make_node("Add", ["b", "c"], ["e"]),
        helper.make_node("GlobalAveragePool", ["e"], ["d"]),
    ]
    weights = {
        "w1": rng.normal(size=(32, 16, 3, 3)) / 12,
        "b1": rng.normal(size=32),
        "w2": rng.normal(size=(32, 32, 1, 1)) / 6,
        "b2": rng.normal(size=32),
    }
    return _model(nodes, weights, [1, 16, 8, 8], elem_type, opset, interface)


def products(elem_type: int, opset: int, interface: int) -> ModelProto:
    """Two linear layers."""
    rng = np.random.default_rng(0)
    nodes = [
        helper.make_node("MatMul", ["v", "w1"], ["a"]),
        helper.make_node("Add", ["a", "b1"], ["b"]),
        helper.make_node("Relu", ["b"], ["c"]),
        helper.make_node("MatMul", ["c", "w2"], ["d"]),
    ]
    weights = {
        "w1": rng.normal(size=(32, 64)) / 6,
        "b1": rng.normal(size=64),
        "w2": rng.normal(size=(64, 32)) / 8,
    }
    return _model(nodes, weights, [4, 32], elem_type, opset, interface)


def _model(  # noqa: PLR0917
    nodes: list[onnx.NodeProto],
    weights: dict[str, np.ndarray],
    shape: list[int],
    elem_type: int,
    opset: int,
    interface: int,
) -> ModelProto:
    body = [
        helper.make_node("Cast", ["x"], ["v"], to=elem_type),
        *nodes,
        helper.make_node("Cast", ["d"], ["y"], to=interface),
    ]
    graph = helper.make_graph(
        body,
        "g",
        [helper.make_tensor_value_info("x", interface, shape)],
        [helper.make_tensor_value_info("y", interface, list("abcd")[: len(shape)])],
        [float_tensor(w, elem_type, name) for name, w in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9)
    onnx.checker.check_model(model, full_check=True)
    return model


def samples(model: ModelProto) -> list[dict[str, np.ndarray]]:
    value = model.graph.input[0].type.tensor_type
    dtype = NUMPY[value.elem_type]
    shape = [d.dim_value for d in value.shape.dim]
    return [{"x": x.astype(dtype)} for x in np.random.default_rng(1).normal(size=(8, *shape))]


@pytest.mark.parametrize("interface", ["own", "float32"])
@pytest.mark.parametrize("net", [convolutions, products])
@pytest.mark.parametrize("elem_type", TYPES, ids=TensorProto.DataType.Name)
@pytest.mark.parametrize("target", ["ort-x64-vnni", "tensorrt"])
def test_model_in_another_float_type(target: str, elem_type: int, net: object, interface: str) -> None:
    # Conv takes bfloat16 from opset 22 on.
    opset = 22 if elem_type == TensorProto.BFLOAT16 and net is convolutions else 17
    if opset > onnx.defs.onnx_opset_version():
        pytest.skip("this onnx is older")
    model = net(elem_type, opset, elem_type if interface == "own" else TensorProto.FLOAT)  # type: ignore[operator]
    result = onnxq.quantize(model, samples(model), target=target)
    onnx.checker.check_model(result.model, full_check=True)
    assert result.report.failed_checks == ()
    assert all(d.action is Action.INT8 for d in result.plan.nodes if d.op in ("Conv", "MatMul", "Gemm"))
    assert [o.sqnr_db > FLOOR_DB for o in result.report.outputs] == [True]
    before, after = ([*m.graph.input, *m.graph.output] for m in (model, result.model))
    assert [v.type.tensor_type.elem_type for v in after] == [v.type.tensor_type.elem_type for v in before]
    scales = {
        t.data_type for t in result.model.graph.initializer for n in result.model.graph.node
        if n.op_type == "QuantizeLinear" and n.input[1] == t.name
    }  # fmt: skip
    half = target == "tensorrt" and elem_type != TensorProto.DOUBLE
    assert scales == {elem_type if half else TensorProto.FLOAT}
    assert result.plan.opset == (19 if half else 13)


@pytest.mark.parametrize("step", ["smooth", "equalize", "absorb", "rounding", "reconstruct"])
@pytest.mark.parametrize("elem_type", TYPES, ids=TensorProto.DataType.Name)
def test_recovery_in_another_float_type(elem_type: int, step: str) -> None:
    """Inputs and outputs are of the type as well; numpy and onnxruntime's kernels lack bfloat16."""
    model = products(elem_type, 17, elem_type)
    # Channels that are far apart give smoothing something to try.
    weight = next(t for t in model.graph.initializer if t.name == "w1")
    values = np.random.default_rng(0).normal(size=(32, 64)) / 6 * np.geomspace(0.01, 10, 64)
    weight.CopyFrom(float_tensor(values, elem_type, "w1"))
    for target in ("ort-x64-vnni", "tensorrt"):
        result = onnxq.quantize(model, samples(model), target=target, recover=[step])
        assert result.report.failed_checks == ()
        assert [o.sqnr_db > FLOOR_DB - 10 for o in result.report.outputs] == [True]  # channels share a range


def test_statistics_of_a_half_model_serve_both_targets() -> None:
    model = convolutions(TensorProto.FLOAT16, 17, TensorProto.FLOAT16)
    stats = onnxq.calibrate(model, samples(model), target="tensorrt")
    result = onnxq.quantize(model, samples(model), target="tensorrt", stats=stats)
    assert result.report.passed
