"""How TensorRT runs a node by its rules: a small graph for each, and the sentence."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from onnx import ModelProto, shape_inference

from onnxq.graph.view import Graph
from onnxq.verification.lint_tensorrt import lint_tensorrt
from onnxq.verification.reasons.tensorrt import account
from tests.e2e.probes import Probe, values

S8 = (1 / 32, np.int8(0))


def accounts(model: ModelProto) -> dict[str, tuple[str, str, str]]:
    """(`int8`, `fused`, `float` or `other`, reason, rule) by operator type; every type occurs once."""
    graph = Graph(model)
    graph.set_value_info(shape_inference.infer_shapes(graph.skeleton()).graph.value_info)
    return {n.op: (n.precision.value, n.why, n.rule) for n in account(graph, lint_tensorrt(graph))}


class Int8(Probe):
    """A probe whose pairs are those of TensorRT."""

    def __init__(self) -> None:
        super().__init__(1, 16, 8, 8)

    def s8(self, tensor: str) -> str:
        return self.pair_of(tensor, S8)

    def conv(self, x: str) -> str:
        return self.weighted("Conv", x, 16, 16, 3, 3, pads=[1, 1, 1, 1], out="c")


def conv_and_relu() -> ModelProto:
    p = Int8()
    return p.finished(p.op("Relu", p.conv(p.s8(p.x))))


def pair_between_conv_and_relu() -> ModelProto:
    p = Int8()
    return p.finished(p.op("Relu", p.s8(p.conv(p.s8(p.x)))))


def silu() -> ModelProto:
    p = Int8()
    conv = p.conv(p.s8(p.x))
    return p.finished(p.op("Mul", conv, p.op("Sigmoid", conv, out="s")))


def residual() -> ModelProto:
    p = Int8()
    x = p.s8(p.x)
    return p.finished(p.op("Add", p.conv(x), x))


def residual_without_a_pair() -> ModelProto:
    p = Int8()
    return p.finished(p.op("Add", p.conv(p.s8(p.x)), p.x))


def weight_only() -> ModelProto:
    p = Int8()
    return p.finished(p.conv(p.x))


def data_only() -> ModelProto:
    p = Int8()
    return p.finished(p.op("Conv", p.s8(p.x), p.constant("w", values(16, 16, 3, 3))))


def _moved_weight(p: Int8) -> str:
    """As TensorFlow's weights are exported, the channel last and a Transpose behind the pair."""
    return p.op("Transpose", p.weight("w", values(3, 3, 16, 16), 3), out="moved", perm=[3, 2, 0, 1])


def moved_weight() -> ModelProto:
    p = Int8()
    return p.finished(p.op("Conv", p.s8(p.x), _moved_weight(p)))


def moved_weight_alone() -> ModelProto:
    p = Int8()
    return p.finished(p.op("Conv", p.x, _moved_weight(p)))


def moved_float_weight() -> ModelProto:
    p = Int8()
    weight = p.op("Transpose", p.constant("w", values(3, 3, 16, 16)), out="moved", perm=[3, 2, 0, 1])
    return p.finished(p.op("Conv", p.s8(p.x), weight))


def pool_behind_the_pair() -> ModelProto:
    p = Int8()
    return p.finished(p.conv(p.op("MaxPool", p.s8(p.x), kernel_shape=[2, 2])))


def relu_behind_the_pair() -> ModelProto:
    p = Int8()
    return p.finished(p.conv(p.op("Relu", p.s8(p.x), out="r")))


def attention() -> ModelProto:
    p = Int8()
    return p.finished(p.op("MatMul", p.x, p.input("z", [1, 16, 8, 8])))


def softmax() -> ModelProto:
    p = Int8()
    return p.finished(p.s8(p.op("Softmax", p.s8(p.x))))


def pool_in_float() -> ModelProto:
    p = Int8()
    return p.finished(p.op("MaxPool", p.x, kernel_shape=[2, 2]))


def average_without_a_pair_behind() -> ModelProto:
    p = Int8()
    return p.finished(p.op("GlobalAveragePool", p.s8(p.x), out="y"))


def average_between_pairs() -> ModelProto:
    p = Int8()
    return p.finished(p.s8(p.op("GlobalAveragePool", p.s8(p.x))))


def uint8_codes() -> ModelProto:
    p = Int8()
    return p.finished(p.conv(p.pair_of(p.x)))


CASES: dict[Callable[[], ModelProto], dict[str, tuple[str, str, str]]] = {
    conv_and_relu: {"Conv": ("int8", "", "R20"), "Relu": ("fused", "part of Conv 'Conv_c'", "R21")},
    pair_between_conv_and_relu: {
        "Conv": ("int8", "", "R20"),
        "Relu": (
            "float",
            "a Q/DQ pair stands between it and Conv 'Conv_c', so that TensorRT cannot fuse them (R21)",
            "R21",
        ),
    },
    silu: {
        "Conv": ("int8", "", "R20"),
        "Sigmoid": ("fused", "part of Conv 'Conv_c'", "R21"),
        "Mul": ("fused", "part of Sigmoid 'Sigmoid_s'", "R21"),
    },
    residual: {"Conv": ("int8", "", "R20"), "Add": ("fused", "part of Conv 'Conv_c'", "R22")},
    residual_without_a_pair: {
        "Conv": ("int8", "", "R20"),
        "Add": (
            "float",
            "its other input 'x', an input of the model, has no Q/DQ pair, so that it is not part of Conv 'Conv_c' "
            "(R22)",
            "R22",
        ),
    },
    weight_only: {
        "Conv": ("float", "its input 'x', an input of the model, has no Q/DQ pair, only its weight (R20)", "R20")
    },
    data_only: {"Conv": ("float", "its weight 'w' is float (R20)", "R20")},
    moved_weight: {
        "Transpose": ("other", "a constant", ""),
        "Conv": ("int8", "", "R24"),
    },
    moved_weight_alone: {
        "Transpose": ("other", "a constant", ""),
        "Conv": ("float", "its input 'x', an input of the model, has no Q/DQ pair, only its weight (R20)", "R20"),
    },
    moved_float_weight: {
        "Transpose": ("other", "a constant", ""),
        "Conv": ("float", "its weight 'moved' is float (R20)", "R20"),
    },
    pool_behind_the_pair: {"MaxPool": ("int8", "", "R24"), "Conv": ("int8", "", "R24")},
    relu_behind_the_pair: {
        "Relu": (
            "float",
            "its inputs have Q/DQ pairs, but its output 'r' goes to Conv 'Conv_c' without QuantizeLinear (R24)",
            "R24",
        ),
        "Conv": ("float", "its input 'r' of Relu 'Relu_r' has no Q/DQ pair, only its weight (R20)", "R20"),
    },
    attention: {"MatMul": ("float", "it multiplies two activations, and there is no Q/DQ pair on them (R28)", "R28")},
    softmax: {"Softmax": ("float", "Softmax stays in higher precision (R27)", "R27")},
    pool_in_float: {
        "MaxPool": (
            "float",
            "it only moves values, and its input 'x', an input of the model, has no Q/DQ pair (R24)",
            "R24",
        )
    },
    average_without_a_pair_behind: {
        "GlobalAveragePool": (
            "float",
            "its inputs have Q/DQ pairs, but its output 'y' is an output of the model in float (R33)",
            "R33",
        )
    },
    average_between_pairs: {"GlobalAveragePool": ("int8", "", "R33")},
    uint8_codes: {
        "Conv": (
            "float",
            "TensorRT refuses the Q/DQ pair on its input 'x': its codes are uint8; "
            "TensorRT takes int8 and fp8 only (R2)",
            "R2",
        )
    },
}


@pytest.mark.parametrize("case", CASES, ids=lambda c: c.__name__)
def test_account(case: Callable[[], ModelProto]) -> None:
    assert accounts(case()) == CASES[case]


def test_shapes_and_constants_are_neither() -> None:
    p = Int8()
    scaled = p.op("Mul", p.constant("a", np.float32(2)), p.constant("b", np.float32(3)))
    p.op("Shape", p.x, out="shape")
    p.output("shape", dtype=7)
    found = accounts(p.finished(p.op("Add", p.x, scaled)))
    assert found["Mul"][:2] == ("other", "a constant")
    assert found["Shape"][:2] == ("other", "shapes, indices or masks")
