"""Where onnxq puts pairs for TensorRT (R20 to R33): the graph of each rule, built by TensorRT-RTX, and its account.

Whether a placement is faster needs a GPU; what is checked is that the pairs stand where the rule says and nowhere else,
that TensorRT takes them as they are (it counts the quantizing layers), and that `onnxq verify` reads them the same way.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import ModelProto

import onnxq
from onnxq.verification.engines.tensorrt import build_engine, installed_package
from tests.graphs import model_of, normal

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(installed_package() is None, reason="TensorRT is not installed"),
]

W = {"w": normal(16, 16, 3, 3), "v": normal(16, 16, 3, 3, seed=1)}
PADS = "pads=[1,1,1,1]"
X = "float[1,16,8,8] x"


RULES: dict[str, tuple[str, dict[str, Any], set[str], dict[str, str]]] = {
    "R20 inputs of Conv and not its output": (
        f"({X}) => (float[1,16,8,8] y) {{ [c] y = Conv<{PADS}>(x, w) }}",
        {"w": W["w"]},
        {"x"},
        {"c": "int8"},
    ),
    "R20 inputs of Gemm": (
        "(float[4,16] x) => (float[4,32] y) { [g] y = Gemm<transB=1>(x, w, b) }",
        {"w": normal(32, 16), "b": normal(32)},
        {"x"},
        {"g": "int8"},
    ),
    "R20 inputs of ConvTranspose": (
        f"({X}) => (float[1,16,16,16] y) {{ [t] y = ConvTranspose<strides=[2,2]>(x, w) }}",
        {"w": normal(16, 16, 2, 2)},
        {"x"},
        {"t": "int8"},
    ),
    "R21 nothing between Conv and Relu": (
        f"({X}) => (float[1,16,8,8] y) {{ [c] a = Conv<{PADS}>(x, w) [r] r = Relu(a) [d] y = Conv<{PADS}>(r, v) }}",
        W,
        {"x", "r"},
        {"c": "int8", "r": "fused", "d": "int8"},
    ),
    "R21 nothing between Conv and the gate of SiLU": (
        f"({X}) => (float[1,16,8,8] y) "
        f"{{ [c] a = Conv<{PADS}>(x, w) [s] s = Sigmoid(a) [m] m = Mul(a, s) [d] y = Conv<{PADS}>(m, v) }}",
        W,
        {"x", "m"},
        {"c": "int8", "s": "fused", "m": "fused", "d": "int8"},
    ),
    "R22 the skip branch of a residual Add alone": (
        f"({X}) => (float[1,16,8,8] y) "
        f"{{ [c] a = Conv<{PADS}>(x, w) [add] s = Add(a, x) [r] r = Relu(s) [d] y = Conv<{PADS}>(r, v) }}",
        W,
        {"x", "r"},
        {"c": "int8", "add": "fused", "r": "fused", "d": "int8"},
    ),
    "R23 one pair for all readers": (
        f"({X}) => (float[1,16,8,8] y, float[1,16,8,8] z) {{ [c] y = Conv<{PADS}>(x, w) [d] z = Conv<{PADS}>(x, v) }}",
        W,
        {"x"},
        {"c": "int8", "d": "int8"},
    ),
    "R27 Softmax stays": (
        "(float[4,16] x) => (float[4,16] y) { [m] a = MatMul(x, w) [s] y = Softmax(a) }",
        {"w": normal(16, 16)},
        {"x"},
        {"m": "int8", "s": "float"},
    ),
    "R28 products of activations stay": (
        "(float[2,4,16] x) => (float[2,4,4] y) "
        "{ [q] a = MatMul(x, w) [t] b = Transpose<perm=[0,2,1]>(a) [p] y = MatMul(a, b) }",
        {"w": normal(16, 16)},
        {"x"},
        {"q": "int8", "t": "float", "p": "float"},
    ),
    "R29 few features stay": (
        "(float[4,16] x) => (float[4,8] y) { [m] a = MatMul(x, w) [n] y = MatMul(a, v) }",
        {"w": normal(16, 16), "v": normal(16, 8)},
        {"x"},
        {"m": "int8", "n": "float"},
    ),
    "R30 few channels stay": (
        f"(float[1,3,8,8] x) => (float[1,16,8,8] y) {{ [c] a = Conv<{PADS}>(x, w) [d] y = Conv<{PADS}>(a, v) }}",
        {"w": normal(16, 3, 3, 3), "v": W["v"]},
        {"a"},
        {"c": "float", "d": "int8"},
    ),
    "R32 a pair behind the Mul of squeeze and excite": (
        f"({X}) => (float[1,16,8,8] y) {{ [c] a = Conv<{PADS}>(x, w) [p] p = GlobalAveragePool(a) [s] s = Sigmoid(p)"
        f" [m] m = Mul(a, s) [d] y = Conv<{PADS}>(m, v) }}",
        W,
        {"x", "m"},
        {"c": "int8", "p": "float", "s": "float", "m": "float", "d": "int8"},
    ),
    "R33 operators without weights stay": (
        f"({X}) => (float[1,16,1,1] y) {{ [c] a = Conv<{PADS}>(x, w) [p] p = GlobalAveragePool(a) [t] y = Tanh(p) }}",
        W,
        {"x"},
        {"c": "int8", "p": "float", "t": "float"},
    ),
}


def quantized(text: str, constants: dict[str, Any], placement: str = "fast") -> tuple[ModelProto, ModelProto]:
    model = model_of(text, **{k: v for k, v in constants.items() if f" {k}" in text})
    shape = [d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim]
    arguments: dict[str, Any] = {"target": "tensorrt", "method": "max", "recover": "none", "placement": placement}
    return model, onnxq.quantize(model, [{"x": normal(*shape)}], **arguments).model


def pairs(model: ModelProto) -> set[str]:
    """The activations with a Q behind them."""
    constants = {t.name for t in model.graph.initializer}
    return {n.input[0] for n in model.graph.node if n.op_type == "QuantizeLinear" and n.input[0] not in constants}


@pytest.mark.parametrize("rule", RULES)
def test_placement(rule: str) -> None:
    text, constants, expected, runs = RULES[rule]
    model, made = quantized(text, constants)
    assert pairs(made) == expected
    engine = build_engine(made, {})
    assert engine.accepted, engine.problems
    assert engine.engine_ops.get("QUANTIZE", 0) == len(expected)
    feed = {"x": np.zeros([d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim], np.float32)}
    layers = onnxq.verify(model, made, [feed], target="tensorrt").layers
    assert {row.node: row.decision for row in layers} == runs


def test_r24_what_moves_values_gets_no_pair_of_its_own() -> None:
    text = (
        f"({X}) => (float[1,16,4,4] y) {{ [c] a = Conv<{PADS}>(x, w) "
        f"[p] p = MaxPool<kernel_shape=[2,2],strides=[2,2]>(a) [d] y = Conv<{PADS}>(p, v) }}"
    )
    _, made = quantized(text, W)
    assert len(pairs(made)) == 2  # of x, and one beside the pool
    assert pairs(made) - {"x"} <= {"a", "p"}
    assert build_engine(made, {}).accepted


def test_r25_the_inputs_of_a_concat_share_one_scale() -> None:
    text = (
        f"({X}) => (float[1,16,8,8] y) {{ [c] a = Conv<{PADS}>(x, w) [d] b = Conv<{PADS}>(x, v)"
        f" [r] ar = Relu(a) [s] br = Relu(b) [cat] k = Concat<axis=1>(ar, br) [e] y = Conv<{PADS}>(k, u) }}"
    )
    _, made = quantized(text, {**W, "u": normal(16, 32, 3, 3)})
    scales = {n.input[0]: n.input[1] for n in made.graph.node if n.op_type == "QuantizeLinear"}
    values = {t.name: t.raw_data for t in made.graph.initializer}
    around = [values[scale] for tensor, scale in scales.items() if tensor in ("ar", "br", "k")]
    assert around
    assert len(set(around)) == 1
    assert build_engine(made, {}).accepted


ATTENTION = (
    "(float[1,32,64] x) => (float[1,32,64] y) { [q] q = MatMul(x, wq) [k] k = MatMul(x, wk) [v] v = MatMul(x, wv)"
    " [t] kt = Transpose<perm=[0,2,1]>(k) [s] s = MatMul(q, kt) [p] p = Softmax<axis=-1>(s) [o] y = MatMul(p, v) }"
)


@pytest.mark.parametrize(("placement", "expected"), [("fast", {"x"}), ("full", {"x", "q", "kt", "p", "v"})])
def test_r28_attention_is_quantized_on_request(placement: str, expected: set[str]) -> None:
    weights = {name: 0.1 * normal(64, 64, seed=i) for i, name in enumerate(("wq", "wk", "wv"))}
    model, made = quantized(ATTENTION, weights, placement)
    assert pairs(made) == expected
    assert build_engine(made, {}).accepted
    layers = onnxq.verify(model, made, [{"x": normal(1, 32, 64)}], target="tensorrt").layers
    products = {row.decision for row in layers if row.node in ("s", "o")}
    assert products == ({"int8"} if placement == "full" else {"float"})
