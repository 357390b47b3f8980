"""Small Q/DQ models, made by hand, that the tests of verification and reports share."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, helper, numpy_helper

FLOAT = TensorProto.FLOAT


class ModelBuilder:
    """Adds nodes one by one; every method returns the name of the tensor it makes."""

    def __init__(self, opset: int = 17) -> None:
        self.opset = opset
        self.nodes: list[Any] = []
        self.initializers: list[Any] = []
        self.inputs: list[Any] = []
        self.outputs: list[Any] = []

    def input(self, name: str, shape: list[Any], dtype: int = FLOAT) -> str:
        self.inputs.append(helper.make_tensor_value_info(name, dtype, shape))
        return name

    def output(self, name: str, shape: list[Any] | None = None, dtype: int = FLOAT) -> None:
        self.outputs.append(helper.make_tensor_value_info(name, dtype, shape))

    def constant(self, name: str, value: Any) -> str:
        self.initializers.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    def node(self, op: str, inputs: list[str], output: str, **attributes: Any) -> str:
        self.nodes.append(helper.make_node(op, inputs, [output], name=f"{op}_{output}", **attributes))
        return output

    def pair(self, tensor: str, scale: Any, zero_point: Any, output: str | None = None, **attributes: Any) -> str:
        """Q and DQ with the same parameters."""
        codes = self.q(tensor, scale, zero_point, **attributes)
        return self.dq(codes, scale, zero_point, output or f"{tensor}_dq", **attributes)

    def q(self, tensor: str, scale: Any, zero_point: Any, **attributes: Any) -> str:
        name = f"{tensor}_q"
        s, z = self.constant(f"{name}_s", np.float32(scale)), self.constant(f"{name}_z", zero_point)
        return self.node("QuantizeLinear", [tensor, s, z], name, **attributes)

    def dq(self, codes: str, scale: Any, zero_point: Any, output: str, **attributes: Any) -> str:
        s, z = self.constant(f"{output}_s", np.float32(scale)), self.constant(f"{output}_z", zero_point)
        return self.node("DequantizeLinear", [codes, s, z], output, **attributes)

    def weight(self, name: str, value: NDArray[Any], axis: int | None, amax: float = 127.0) -> str:
        """int8 codes and their DQ; scales per slice of `axis`."""
        others = tuple(i for i in range(value.ndim) if i != axis)
        scale = np.abs(value).max(axis=None if axis is None else others, keepdims=axis is not None) / amax
        codes = np.rint(value / scale).astype(np.int8)
        flat = np.float32(scale) if axis is None else np.float32(scale).reshape(-1)
        attributes = {} if axis is None else {"axis": axis}
        return self.dq(
            self.constant(f"{name}_codes", codes), flat, np.zeros(np.shape(flat), np.int8), name, **attributes
        )

    def model(self) -> ModelProto:
        graph = helper.make_graph(self.nodes, "test", self.inputs, self.outputs, self.initializers)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", self.opset)], ir_version=9)


def weights(*shape: int, seed: int = 0) -> NDArray[np.float32]:
    """Weights whose output channels (first axis) have very different ranges, so that a wrong axis shows."""
    values = np.random.default_rng(seed).uniform(-1.0, 1.0, shape)
    return (values * np.geomspace(0.1, 1.0, shape[0]).reshape(-1, *[1] * (len(shape) - 1))).astype(np.float32)


def float_conv() -> ModelProto:
    """x -> Conv -> Relu -> y."""
    b = ModelBuilder()
    x = b.input("x", ["N", 8, 6, 6])
    conv = b.node("Conv", [x, b.constant("w", weights(8, 8, 3, 3))], "c", pads=[1, 1, 1, 1])
    b.node("Relu", [conv], "y")
    b.output("y", ["N", 8, 6, 6])
    return b.model()


def int8_conv(
    *,
    weight_axis: int = 0,
    dtype: Any = np.uint8,
    output_pair: bool = True,
    output_zero_point: int = 0,
    amax: float = 127.0,
) -> ModelProto:
    """`float_conv` with Q/DQ around Conv + Relu; the largest code of a weight is `amax`."""
    zero = dtype(128) if dtype is np.uint8 else dtype(0)
    b = ModelBuilder()
    x = b.pair(b.input("x", ["N", 8, 6, 6]), 1 / 127, zero)
    conv = b.node("Conv", [x, b.weight("w", weights(8, 8, 3, 3), weight_axis, amax)], "c", pads=[1, 1, 1, 1])
    b.node("Relu", [conv], "r" if output_pair else "y")
    if output_pair:
        b.pair("r", 12 / 255, dtype(output_zero_point), "y")
    b.output("y", ["N", 8, 6, 6])
    return b.model()


def conv_feeds(count: int = 2, batch: int = 1) -> list[dict[str, NDArray[np.float32]]]:
    rng = np.random.default_rng(7)
    return [{"x": rng.uniform(-1, 1, (batch, 8, 6, 6)).astype(np.float32)} for _ in range(count)]


def tensorrt_conv() -> ModelProto:
    """`float_conv` as TensorRT wants it: int8 in front of the Conv, nothing behind."""
    return int8_conv(dtype=np.int8, output_pair=False)


def check(model: ModelProto) -> ModelProto:
    onnx.checker.check_model(model)
    return model
