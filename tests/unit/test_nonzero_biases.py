"""Biases that are not zero, for OpenVINO (V9)."""

from __future__ import annotations

import numpy as np
import pytest

import onnxq
from tests.graphs import model_of, normal

TWICE = "(float[1,16,8,8] x) => (float[1,16,8,8] y) { a = Conv(x, w%s) s = Sigmoid(a) y = Mul(a, s) }"
ONCE = "(float[1,16,8,8] x) => (float[1,16,8,8] y) { a = Conv(x, w%s) y = Sigmoid(a) }"
TINY = float(np.finfo(np.float32).tiny)


def biases(text: str, target: str = "openvino", **constants: np.ndarray) -> list[float]:
    """The values that the bias of the quantized Conv has; none where it has no bias."""
    model = model_of(text, w=normal(16, 16, 1, 1), **constants)
    made = onnxq.quantize(model, [{"x": normal(1, 16, 8, 8)}], target=target, method="max", recover="none").model
    (conv,) = (node for node in made.graph.node if node.op_type == "Conv")
    if len(conv.input) < 3:
        return []
    (bias,) = (tensor for tensor in made.graph.initializer if tensor.name == conv.input[2])
    return sorted(set(np.frombuffer(bias.raw_data, np.float32).tolist()))


def test_a_conv_with_several_readers_gets_one() -> None:
    assert biases(TWICE % "") == [TINY]


def test_zeros_are_replaced() -> None:
    assert biases(TWICE % ", b", b=np.zeros(16, np.float32)) == [TINY]


@pytest.mark.parametrize(("text", "target"), [(ONCE, "openvino"), (TWICE, "tensorrt")])
def test_others_stay_without(text: str, target: str) -> None:
    assert biases(text % "", target) == []


def test_a_bias_of_its_own_stays() -> None:
    own = normal(16)
    assert biases(TWICE % ", b", b=own) == sorted(set(own.tolist()))
