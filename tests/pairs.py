"""A QuantizeLinear and DequantizeLinear by those who define them: onnxruntime's kernels and onnx's own evaluator."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator

from onnxq.graph.code_tensors import code_tensor, code_values
from onnxq.numerics import QuantParams


def pair_model(shape: tuple[int, ...], params: QuantParams, lowest_opset: int = 13) -> onnx.ModelProto:
    """x -> Q -> codes -> DQ -> y, with the codes as an output too."""
    spec = params.spec
    attributes = {} if spec.axis is None else {"axis": spec.axis}
    if spec.block_size is not None:
        attributes["block_size"] = spec.block_size
    graph = helper.make_graph(
        [
            helper.make_node("QuantizeLinear", ["x", "scale", "zero"], ["codes"], **attributes),
            helper.make_node("DequantizeLinear", ["codes", "scale", "zero"], ["y"], **attributes),
        ],
        "pair",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [
            helper.make_tensor_value_info("codes", spec.qtype.onnx_type, shape),
            helper.make_tensor_value_info("y", TensorProto.FLOAT, shape),
        ],
        [onnx.numpy_helper.from_array(params.scale, "scale"), code_tensor(params.zero_point, spec.qtype, "zero")],
    )
    opset = max(lowest_opset if spec.block_size is None else 21, spec.qtype.min_opset)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10 if opset < 25 else 12)


def through_onnxruntime(x: np.ndarray, params: QuantParams) -> tuple[np.ndarray, np.ndarray]:
    """Codes and values of a pair that onnxruntime runs."""
    qtype = params.spec.qtype
    model = pair_model(x.shape, params)
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    if qtype.bits >= 8 and not qtype.is_float:
        session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        codes, y = session.run(["codes", "y"], {"x": x})
        return codes, y
    # numpy has no such type, so codes leave as what their own DequantizeLinear with scale 1 makes of them.
    one = onnx.numpy_helper.from_array(np.ones(params.scale.shape, np.float32), "one")
    model.graph.initializer.append(one)
    model.graph.initializer.append(code_tensor(np.zeros_like(params.zero_point), qtype, "none"))
    attributes = {a.name: a.i for a in model.graph.node[1].attribute}
    model.graph.node.append(helper.make_node("DequantizeLinear", ["codes", "one", "none"], ["steps"], **attributes))
    model.graph.output[0].CopyFrom(helper.make_tensor_value_info("steps", TensorProto.FLOAT, x.shape))
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    steps, y = session.run(["steps", "y"], {"x": x})
    if qtype.is_float:
        return steps.astype(ml_dtypes.float8_e4m3fn).view(np.uint8), y
    return steps.astype(qtype.dtype), y


def through_reference(x: np.ndarray, params: QuantParams) -> tuple[np.ndarray, np.ndarray]:
    """Codes and values of a pair that onnx's reference evaluator runs."""
    codes, y = ReferenceEvaluator(pair_model(x.shape, params, lowest_opset=19)).run(None, {"x": x})
    carried = codes.view(np.uint8) if params.spec.qtype.is_float else codes.astype(params.spec.qtype.dtype)
    return carried, y


def as_stored(codes: np.ndarray, params: QuantParams) -> np.ndarray:
    """Codes after they have been an initializer."""
    return code_values(code_tensor(codes, params.spec.qtype, "codes"), None)
