"""The float graphs whose quantized form is kept as text."""

from __future__ import annotations

import numpy as np
from onnx import ModelProto

from tests.graphs import model_of, normal


def _conv_relu() -> ModelProto:
    return model_of(
        """(float[N,16,8,8] x) => (float[N,16,8,8] y) {
        [conv1] a = Conv<pads=[1,1,1,1]>(x, w1, b1)
        [relu] b = Relu(a)
        [conv2] y = Conv<pads=[1,1,1,1]>(b, w2)
        }""",
        w1=normal(16, 16, 3, 3),
        b1=normal(16),
        w2=normal(16, 16, 3, 3, seed=1),
    )


def _depthwise_relu6() -> ModelProto:
    return model_of(
        """(float[N,16,8,8] x) => (float[N,16,8,8] y) {
        [expand] a = Conv(x, w1)
        [clip1] b = Clip(a, zero, six)
        [depthwise] c = Conv<group=16, pads=[1,1,1,1]>(b, w2)
        [clip2] d = Clip(c, zero, six)
        [project] e = Conv(d, w3)
        [add] f = Add(e, x)
        [next] y = Conv(f, w1)
        }""",
        zero=np.float32(0),
        six=np.float32(6),
        w1=normal(16, 16, 1, 1),
        w2=normal(16, 1, 3, 3),
        w3=normal(16, 16, 1, 1, seed=1),
    )


def _residual() -> ModelProto:
    return model_of(
        """(float[N,16,8,8] x) => (float[N,16,8,8] y) {
        [conv1] a = Conv<pads=[1,1,1,1]>(x, w1)
        [relu1] b = Relu(a)
        [conv2] c = Conv<pads=[1,1,1,1]>(b, w2)
        [relu2] d = Relu(c)
        [conv3] e = Conv<pads=[1,1,1,1]>(d, w3)
        [side] f = Conv(b, w4)
        [add] g = Add(e, f)
        [relu3] h = Relu(g)
        [conv4] y = Conv<pads=[1,1,1,1]>(h, w1)
        }""",
        w1=normal(16, 16, 3, 3),
        w2=normal(16, 16, 3, 3, seed=1),
        w3=normal(16, 16, 3, 3, seed=2),
        w4=normal(16, 16, 1, 1),
    )


def _silu_concat() -> ModelProto:
    return model_of(
        """(float[N,16,8,8] x) => (float[N,16,4,4] y) {
        [conv1] a = Conv<pads=[1,1,1,1]>(x, w1)
        [sigmoid] s = Sigmoid(a)
        [mul] b = Mul(a, s)
        [conv2] c = Conv<pads=[1,1,1,1]>(b, w1)
        [pool] p = MaxPool<kernel_shape=[5,5], pads=[2,2,2,2]>(c)
        [concat] d = Concat<axis=1>(b, c, p)
        [conv3] y = Conv<pads=[1,1,1,1], strides=[2,2]>(d, w2)
        }""",
        w1=normal(16, 16, 3, 3),
        w2=normal(16, 48, 3, 3),
    )


def _squeeze_excite() -> ModelProto:
    return model_of(
        """(float[N,16,8,8] x) => (float[N,16,8,8] y) {
        [conv1] a = Conv<pads=[1,1,1,1]>(x, w)
        [mean] g = GlobalAveragePool(a)
        [fc1] h = Conv(g, v)
        [relu] i = Relu(h)
        [fc2] j = Conv(i, v)
        [gate] k = HardSigmoid<alpha=0.16666667, beta=0.5>(j)
        [mul] l = Mul(a, k)
        [conv2] y = Conv<pads=[1,1,1,1]>(l, w)
        }""",
        w=normal(16, 16, 3, 3),
        v=normal(16, 16, 1, 1),
    )


def _classifier() -> ModelProto:
    return model_of(
        """(float[N,16,8,8] x) => (float[N,20] y) {
        [conv] a = Conv<pads=[1,1,1,1]>(x, w, b)
        [relu] r = Relu(a)
        [pool] p = MaxPool<kernel_shape=[2,2], strides=[2,2]>(r)
        [flatten] f = Flatten(p)
        [fc1] g = Gemm<transB=1>(f, v, c)
        [relu2] h = Relu(g)
        [fc2] i = Gemm(h, u)
        [softmax] y = Softmax(i)
        }""",
        w=normal(16, 16, 3, 3),
        b=normal(16),
        v=normal(32, 256),
        c=normal(32),
        u=normal(32, 20),
    )


def _mlp() -> ModelProto:
    return model_of(
        """(float[N,4,32] x) => (float[N,4,32] y) {
        [norm] n = LayerNormalization(x, scale, bias)
        [up] a = MatMul(n, w1)
        [up_bias] b = Add(a, b1)
        [relu] c = Relu(b)
        [down] d = MatMul(c, w2)
        [down_bias] e = Add(b2, d)
        [residual] y = Add(x, e)
        }""",
        scale=np.ones(32, np.float32),
        bias=np.zeros(32, np.float32),
        w1=normal(32, 64),
        b1=normal(64),
        w2=normal(64, 32),
        b2=normal(1, 1, 32),
    )


def _shared() -> ModelProto:
    """Weights and biases that several nodes share, and outputs that are read on."""
    return model_of(
        """(float[N,16,8,8] x) => (float[N,16,8,8] a, float[N,16,8,8] y, float[16,16,3,3] z) {
        [conv1] a = Conv<pads=[1,1,1,1]>(x, w, b)
        [conv2] y = Conv<pads=[1,1,1,1]>(a, w, b)
        [neg] z = Neg(w)
        }""",
        w=normal(16, 16, 3, 3),
        b=normal(16),
    )


GRAPHS = {
    "conv_relu": _conv_relu,
    "depthwise_relu6": _depthwise_relu6,
    "residual": _residual,
    "silu_concat": _silu_concat,
    "squeeze_excite": _squeeze_excite,
    "classifier": _classifier,
    "mlp": _mlp,
    "shared": _shared,
}
