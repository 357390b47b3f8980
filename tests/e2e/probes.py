"""Tiny Q/DQ graphs put to the real onnxruntime: which kernels it runs, and whether they compute what Q/DQ says."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto

from onnxq.verification.engines.onnxruntime import OrtModel, executed_precision
from tests.verify_models import ModelBuilder

PLUMBING = frozenset({"QuantizeLinear", "DequantizeLinear", "Transpose", "Reshape", "ReorderInput", "ReorderOutput"})
U8 = (1 / 32, np.uint8(128))
"""Scale and zero-point of an ordinary activation: [-4, 4)."""
U8_POSITIVE = (1 / 32, np.uint8(0))


def values(*shape: int, seed: int = 0) -> NDArray[np.float32]:
    """Weights whose slices differ in size along every axis, so that a wrong axis shows."""
    made = np.random.default_rng(seed).uniform(-1, 1, shape).astype(np.float32)
    for axis, size in enumerate(shape[:2]):
        made = made * np.geomspace(0.05, 1, size).reshape([-1 if a == axis else 1 for a in range(len(shape))])
    return made.astype(np.float32)


class Probe(ModelBuilder):
    """A graph from input `x` to output `y`, with the usual Q/DQ parameters at hand."""

    def __init__(self, *shape: Any, opset: int = 17) -> None:
        super().__init__(opset)
        self.x = self.input("x", list(shape))
        self._count = 0

    def pair_of(self, tensor: str, params: tuple[float, Any] = U8) -> str:
        return self.pair(tensor, *params)

    def op(self, kind: str, *inputs: str, out: str = "", **attributes: Any) -> str:
        self._count += 1
        return self.node(kind, list(inputs), out or f"t{self._count}", **attributes)

    def weighted(self, kind: str, x: str, *shape: int, axis: int | None = 0, name: str = "w", **attributes: Any) -> str:
        """A node with an int8 weight and no bias."""
        return self.op(kind, x, self.weight(name, values(*shape), axis), **attributes)

    def int32_bias(self, name: str, x_scale: float, w_scale: NDArray[Any], factor: float = 1.0) -> str:
        """A bias of int32 codes; `factor` falsifies its scale."""
        scale = np.float32(x_scale) * np.asarray(w_scale, np.float32)
        codes = np.rint(np.linspace(-2, 2, scale.size) / scale).astype(np.int32)
        zero_point = np.zeros(scale.shape, np.int32)
        return self.dq(self.constant(f"{name}_codes", codes), scale * np.float32(factor), zero_point, name, axis=0)

    def finished(self, *outputs: str) -> ModelProto:
        for tensor in outputs:
            self.output(tensor)
        return self.model()


def weight_scale(weight: NDArray[Any], axis: int) -> NDArray[Any]:
    """The scales that `ModelBuilder.weight` gives."""
    others = tuple(a for a in range(weight.ndim) if a != axis)
    return np.abs(weight).max(axis=others) / np.float32(127)


def kernels(model: ModelProto) -> dict[str, int]:
    """How often each kernel runs; Q, DQ and layout conversions are left out."""
    counts = executed_precision(model).engine_ops
    return {op: count for op, count in sorted(counts.items()) if op not in PLUMBING}


def error(model: ModelProto, *, unsaturated: bool = True, **feed: NDArray[Any]) -> float:
    """Largest difference between optimised and unoptimised outputs, as a share of the peak.

    Weights of probes use all codes, so CPUs without VNNI are asked about their kernels that do not saturate.
    """
    feed = feed or {i.name: _input(i) for i in model.graph.input}
    want, got = OrtModel(model, optimised=False)(feed), OrtModel(model, unsaturated=unsaturated)(feed)
    worst = 0.0
    for name, value in want.items():
        peak = float(np.abs(value).max(initial=0)) or 1.0
        worst = max(worst, float(np.abs(value - got[name]).max(initial=0)) / peak)
    return worst


def _input(value: Any) -> NDArray[np.float32]:
    shape = [d.dim_value or 2 for d in value.type.tensor_type.shape.dim]
    return np.random.default_rng(1).uniform(-4, 4, shape).astype(np.float32)


ROUNDING = 1 / 127
"""A flipped tie is one code of a tensor that may use no more than half of its codes."""
