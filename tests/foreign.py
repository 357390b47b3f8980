"""Q/DQ graphs as other tools make them, of one residual network: what `onnxq verify` has to explain."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import ModelProto
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

from tests.graphs import model_of, normal
from tests.verify_models import ModelBuilder

SHAPE = (1, 16, 8, 8)
TEXT = """(float[N,16,8,8] x) => (float[N,10] y) {
    [c1] a = Conv<pads=[1,1,1,1]>(x, w1, b1)
    [r1] ar = Relu(a)
    [c2] b = Conv<pads=[1,1,1,1]>(ar, w2, b2)
    [add] s = Add(b, ar)
    [r2] sr = Relu(s)
    [pool] p = GlobalAveragePool(sr)
    [flat] f = Flatten(p)
    [fc] y = Gemm<transB=1>(f, w3, b3)
}"""


def float_model() -> ModelProto:
    """Two Convs, the second in a residual block, and a classifier."""
    scale = np.float32(0.1)
    return model_of(
        TEXT,
        w1=normal(16, 16, 3, 3) * scale, b1=normal(16), w2=normal(16, 16, 3, 3, seed=1) * scale, b2=normal(16),
        w3=normal(10, 16), b3=normal(10),
    )  # fmt: skip


def feeds(count: int = 4) -> list[dict[str, NDArray[Any]]]:
    return [{"x": normal(*SHAPE, seed=i)} for i in range(count)]


class _Reader(CalibrationDataReader):  # type: ignore[misc]
    def __init__(self) -> None:
        self._feeds: Iterator[dict[str, NDArray[Any]]] = iter(feeds())

    def get_next(self) -> dict[str, NDArray[Any]] | None:
        return next(self._feeds, None)


def by_quantize_static(
    folder: Path, activation: QuantType, *, per_channel: bool, form: QuantFormat = QuantFormat.QDQ
) -> ModelProto:
    """onnxruntime's own quantizer."""
    source, made = folder / "float.onnx", folder / "quantized.onnx"
    onnx.save(float_model(), source)
    quantize_static(
        source, made, _Reader(), quant_format=form, activation_type=activation,
        weight_type=QuantType.QInt8, per_channel=per_channel,
    )  # fmt: skip
    return onnx.load(made)


def inputs_only() -> ModelProto:
    """As tools for TensorRT do it: symmetric int8 on the inputs of Conv and Gemm and on the skip branch."""
    return _by_hand(fold=True)


def trained() -> ModelProto:
    """An export of quantization-aware training: float weights, each behind Q and DQ of its own."""
    return _by_hand(fold=False)


def unfolded(model: ModelProto) -> ModelProto:
    """`model` as exporters write it that fold no constants: scales by Constant, zero-points by Identity and Cast."""
    model = onnx.ModelProto.FromString(model.SerializeToString())
    held = {t.name: t for t in model.graph.initializer}
    nodes, seen = list[onnx.NodeProto](), set[str]()
    for node in model.graph.node:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            scale, zero = node.input[1], node.input[2]
            if scale not in seen:
                nodes.append(onnx.helper.make_node("Constant", [], [scale], f"make_{scale}", value=held[scale]))
                wide = onnx.numpy_helper.from_array(
                    onnx.numpy_helper.to_array(held[zero]).astype(np.int32), f"{zero}_wide"
                )
                model.graph.initializer.append(wide)
                nodes.append(onnx.helper.make_node("Identity", [wide.name], [f"{zero}_same"], f"same_{zero}"))
                kind = held[zero].data_type
                nodes.append(onnx.helper.make_node("Cast", [f"{zero}_same"], [zero], f"cast_{zero}", to=kind))
                seen |= {scale, zero}
        nodes.append(node)
    kept = [t for t in model.graph.initializer if t.name not in seen]
    del model.graph.node[:], model.graph.initializer[:]
    model.graph.node.extend(nodes)
    model.graph.initializer.extend(kept)
    return model


def _by_hand(*, fold: bool) -> ModelProto:
    values = {t.name: onnx.numpy_helper.to_array(t) for t in float_model().graph.initializer}
    b = ModelBuilder()
    zero = np.int8(0)

    def weight(name: str) -> str:
        if fold:
            return b.weight(name, values[name], 0)
        scale = np.abs(values[name]).max(axis=tuple(range(1, values[name].ndim))) / np.float32(127)
        return b.pair(b.constant(f"{name}_f", values[name]), scale, np.zeros(len(scale), np.int8), name, axis=0)

    x = b.pair(b.input("x", ["N", *SHAPE[1:]]), 1 / 32, zero)
    biases = {name: b.constant(name, values[name]) for name in ("b1", "b2", "b3")}
    b.node("Relu", [b.node("Conv", [x, weight("w1"), biases["b1"]], "a", pads=[1, 1, 1, 1])], "ar")
    ar = b.pair("ar", 1 / 32, zero)
    b.node("Add", [b.node("Conv", [ar, weight("w2"), biases["b2"]], "b", pads=[1, 1, 1, 1]), ar], "s")
    flat = b.node("Flatten", [b.node("GlobalAveragePool", [b.node("Relu", ["s"], "sr")], "p")], "f")
    b.node("Gemm", [b.pair(flat, 1 / 32, zero), weight("w3"), biases["b3"]], "y", transB=1)
    b.output("y", ["N", 10])
    return b.model()
