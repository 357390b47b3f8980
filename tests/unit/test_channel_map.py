"""Rescaling channels leaves the function as it is, whatever the scales, and never touches what must stay."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxq.graph.shapes import infer_shapes
from onnxq.graph.view import Graph
from onnxq.recovery.channel_map import ChannelMap, rescaled
from onnxq.recovery.channel_rules import map_channels
from tests.graphs import computed, graph_of, normal, random_feeds

CONV = {"w1": normal(8, 4, 3, 3), "b1": normal(8, seed=1), "w2": normal(6, 8, 1, 1, seed=2)}
IMAGE = "(float[n,4,6,6] x) => (float[n,c,h,w] y)"
MATRIX = {"w1": normal(6, 8), "b1": normal(8, seed=1), "w2": normal(8, 5, seed=2)}
ROWS = "(float[3,6] x) => (float[3,5] y)"


def mapped(text: str, **constants: Any) -> tuple[Graph, ChannelMap]:
    graph = graph_of(text, **constants)
    infer_shapes(graph)
    return graph, map_channels(graph)


def random_scales(channels: ChannelMap, seed: int = 0) -> Any:
    """A scale for each free class, over three orders of magnitude, within what a Clip allows."""
    drawn = np.exp(np.random.default_rng(seed).uniform(-3.5, 3.5, channels.channels))
    scales = np.maximum(drawn, channels.lower_limits())[channels.roots()]
    return np.where(channels.free(), scales, 1.0)


def check_function_is_kept(graph: Graph, channels: ChannelMap, seed: int = 0) -> None:
    feeds = random_feeds(graph)
    (before,) = computed(graph, feeds)
    (after,) = computed(rescaled(graph, channels, random_scales(channels, seed)), feeds)
    # Every product of a weight and a scale is rounded once (2^-24 each), and float32 sums of under 100 terms are taken
    # in the same order; a wrong axis, a missed constant or a wrong power gives errors of order 1.
    np.testing.assert_allclose(after, before, rtol=0, atol=2e-5 * np.abs(before).max())


KEPT: dict[str, tuple[str, dict[str, Any], int]] = {
    # name: (graph, constants, number of free channels)
    "relu": (f"{IMAGE} {{ a = Conv(x, w1, b1) r = Relu(a) y = Conv(r, w2) }}", CONV, 8),
    "no activation": (f"{IMAGE} {{ a = Conv(x, w1, b1) y = Conv(a, w2) }}", CONV, 8),
    "leaky": (f"{IMAGE} {{ a = Conv(x, w1, b1) r = LeakyRelu<alpha=0.2>(a) y = Conv(r, w2) }}", CONV, 8),
    "prelu": (f"{IMAGE} {{ a = Conv(x, w1, b1) r = PRelu(a, p) y = Conv(r, w2) }}", {**CONV, "p": normal(8, 1, 1)}, 8),
    "clip from 0": (
        f"{IMAGE} {{ a = Conv(x, w1, b1) r = Clip(a, zero) y = Conv(r, w2) }}",
        {**CONV, "zero": np.float32(0)},
        8,
    ),
    "depthwise": (
        f"{IMAGE} {{ a = Conv(x, w1, b1) r = Relu(a) d = Conv<group=8, pads=[1,1,1,1]>(r, w3, b3) s = Relu(d) "
        "y = Conv(s, w2) }",
        {**CONV, "w3": normal(8, 1, 3, 3, seed=3), "b3": normal(8, seed=4)},
        16,
    ),
    "grouped": (
        f"{IMAGE} {{ a = Conv(x, w1, b1) r = Relu(a) d = Conv<group=2>(r, w3) y = Conv(d, w4) }}",
        {**CONV, "w3": normal(6, 4, 3, 3, seed=3), "w4": normal(5, 6, 1, 1, seed=4)},
        14,
    ),
    "transposed": (
        f"{IMAGE} {{ a = Conv(x, w1, b1) r = Relu(a) t = ConvTranspose<group=2, strides=[2,2]>(r, w3, b3) "
        "y = Conv(t, w2) }",
        {**CONV, "w3": normal(8, 4, 2, 2, seed=3), "b3": normal(8, seed=4)},
        16,
    ),
    "pooling": (
        f"{IMAGE} {{ a = Conv(x, w1, b1) r = Relu(a) p = MaxPool<kernel_shape=[2,2]>(r) "
        "q = AveragePool<kernel_shape=[2,2]>(p) g = GlobalAveragePool(q) y = Conv(g, w2) }",
        CONV,
        8,
    ),
    "residual": (
        f"{IMAGE} {{ a = Conv(x, w1, b1) b = Conv(x, w3) s = Add(a, b) r = Relu(s) y = Conv(r, w2) }}",
        {**CONV, "w3": normal(8, 4, 3, 3, seed=3)},
        16,
    ),
    "concat": (
        f"{IMAGE} {{ a = Conv(x, w1, b1) b = Conv(x, w3) c = Concat<axis=1>(a, b) r = Relu(c) y = Conv(r, w4) }}",
        {**CONV, "w3": normal(5, 4, 3, 3, seed=3), "w4": normal(3, 13, 1, 1, seed=4)},
        13,
    ),
    "half of it read elsewhere": (
        f"{IMAGE} {{ a = Conv(x, w1, b1) p, q = Split<axis=1>(a, parts) t = Tanh(p) c = Concat<axis=1>(t, q) "
        "y = Conv(q, w4) }",
        {**CONV, "parts": np.array([3, 5]), "w4": normal(2, 5, 1, 1)},
        5,
    ),
    "gate": (
        f"{IMAGE} {{ a = Conv(x, w1, b1) g = GlobalAveragePool(a) c = Conv(g, w3) h = HardSigmoid(c) m = Mul(a, h) "
        "y = Conv(m, w2) }",
        {**CONV, "w3": normal(8, 8, 1, 1, seed=3)},
        8,
    ),
    "flattened": (
        "(float[2,4,6,6] x) => (float[2,5] y) { a = Conv(x, w1, b1) r = Relu(a) f = Flatten(r) y = Gemm(f, w3, b3) }",
        {**CONV, "w3": normal(128, 5), "b3": normal(5)},
        8,
    ),
    "gemm": (f"{ROWS} {{ a = Gemm(x, w1, b1) r = Relu(a) y = Gemm(r, w2) }}", MATRIX, 8),
    "transB": (
        f"{ROWS} {{ a = Gemm<transB=1>(x, w3, b1) r = Relu(a) y = Gemm<transB=1>(r, w4) }}",
        {"w3": normal(8, 6), "b1": normal(8), "w4": normal(5, 8)},
        8,
    ),
    "matmul and bias": (f"{ROWS} {{ a = MatMul(x, w1) s = Add(b1, a) y = MatMul(s, w2) }}", MATRIX, 8),
    "scalar bias": (
        f"{ROWS} {{ a = MatMul(x, w1) s = Add(a, one) t = Sub(s, b1) y = MatMul(t, w2) }}",
        {**MATRIX, "one": np.float32(1)},
        8,
    ),
    "subtracted from a constant": (f"{ROWS} {{ a = MatMul(x, w1) s = Sub(b1, a) y = MatMul(s, w2) }}", MATRIX, 8),
    "layer norm": (
        "(float[2,3,6] x) => (float[2,3,5] y) { n = LayerNormalization(x, g, b) y = MatMul(n, w) }",
        {"g": normal(6), "b": normal(6, seed=1), "w": normal(6, 5)},
        6,
    ),
    "layer norm of single operators": (
        "(float[2,3,6] x) => (float[2,3,5] y) { m = ReduceMean<axes=[-1]>(x) c = Sub(x, m) q = Mul(c, c) "
        "v = ReduceMean<axes=[-1]>(q) e = Add(v, eps) s = Sqrt(e) d = Div(c, s) p = Mul(d, g) n = Add(p, b) "
        "y = MatMul(n, w) }",
        {"g": normal(6), "b": normal(6, seed=1), "w": normal(6, 5), "eps": np.float32(1e-5)},
        6,
    ),
    "values of two heads": (
        "(float[2,3,8] x, float[2,2,3,3] p) => (float[2,3,5] y) { v = MatMul(x, wv) b = Add(v, bv) "
        "h = Reshape(b, split) t = Transpose<perm=[0,2,1,3]>(h) a = MatMul(p, t) u = Transpose<perm=[0,2,1,3]>(a) "
        "j = Reshape(u, join) y = MatMul(j, wo) }",
        {
            "wv": normal(8, 8), "bv": normal(8, seed=1), "wo": normal(8, 5, seed=2),
            "split": np.array([0, 0, 2, 4]), "join": np.array([0, 0, 8]),
        },
        8,
    ),
    "batch normalization": (
        f"{IMAGE} {{ a = Conv(x, w1, b1) r = Relu(a) n = BatchNormalization(r, g, b, m, v) q = Relu(n) "
        "y = Conv(q, w2) }",
        {**CONV, "g": normal(8), "b": normal(8, seed=3), "m": normal(8, seed=4), "v": np.abs(normal(8, seed=5)) + 1},
        16,
    ),
    "padding": (
        f"{IMAGE} {{ a = Conv(x, w1, b1) r = Relu(a) p = Pad(r, pads) y = Conv(p, w2) }}",
        {**CONV, "pads": np.array([0, 0, 1, 1, 0, 0, 1, 1])},
        8,
    ),
    "cut out and scaled": (
        f"{IMAGE} {{ a = Conv(x, w1, b1) s = Slice(a, from, to, axes) m = Mul(s, c) y = Conv(m, w3) }}",
        {
            **CONV, "from": np.array([2]), "to": np.array([7]), "axes": np.array([1]), "c": normal(5, 1, 1),
            "w3": normal(3, 5, 1, 1),
        },
        10,
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", KEPT)
def test_function_is_kept(case: str) -> None:
    text, constants, free = KEPT[case]
    graph, channels = mapped(text, **constants)
    assert int(channels.free().sum()) == free
    check_function_is_kept(graph, channels)


SCALED = "h = HardSwish(a) m = Mul(s, h) r = Add(m, o)"


@pytest.mark.parametrize(("shape", "free"), [((), 8), ((1,), 8), ((1, 1, 1, 1), 8), ((1, 8, 1, 1), 8), ((6,), 0)])
def test_a_number_can_become_one_for_each_channel(shape: tuple[int, ...], free: int) -> None:
    """Behind what nothing can be moved through, and only where that is asked for."""
    constants = {**CONV, "s": normal(*shape), "o": normal(1)}
    graph, plain = mapped(f"{IMAGE} {{ a = Conv<pads=[1,1,1,1]>(x, w1, b1) {SCALED} y = Conv(r, w2) }}", **constants)
    channels = map_channels(graph, widens=True)
    assert int(channels.free().sum()) == free
    assert int(plain.free().sum()) == (8 if shape == (1, 8, 1, 1) else 0)
    check_function_is_kept(graph, channels)


PINNED = {
    "sigmoid": f"{IMAGE} {{ a = Conv(x, w1, b1) r = Sigmoid(a) y = Conv(r, w2) }}",
    "swish": f"{IMAGE} {{ a = Conv(x, w1, b1) s = Sigmoid(a) r = Mul(a, s) y = Conv(r, w2) }}",
    "output": "(float[n,4,6,6] x) => (float[n,c,h,w] y, float[n,c,h,w] a) { a = Conv(x, w1, b1) y = Conv(a, w2) }",
    "clip to 6": f"{IMAGE} {{ a = Conv(x, w1, b1) r = Clip(a, zero, six) y = Conv(r, w2) }}",
    "clip from -1": f"{IMAGE} {{ a = Conv(x, w1, b1) r = Clip(a, minus) y = Conv(r, w2) }}",
    "shared weight": f"{IMAGE} {{ a = Conv(x, w1, b1) r = Relu(a) y = Conv(r, w2) z = Conv(x, w1, b1) }}",
    "product of two": f"{IMAGE} {{ a = Conv(x, w1, b1) c = Conv(x, w3) m = Mul(a, c) y = Conv(m, w2) }}",
    "sum with an input": f"{IMAGE} {{ a = Conv(x, w3) b = Add(a, x) y = Conv(b, w4) }}",
    "softmax": f"{IMAGE} {{ a = Conv(x, w1, b1) r = Softmax<axis=1>(a) y = Conv(r, w2) }}",
    "padding with ones": f"{IMAGE} {{ a = Conv(x, w1, b1) p = Pad(a, pads, one) y = Conv(p, w2) }}",
    "other domain": f"{IMAGE} {{ a = Conv(x, w1, b1) r = other.Relu(a) y = Conv(r, w2) }}",
    "read in a body": "(float[n,4,6,6] x, bool c) => (float[n,6,h,w] y) { a = Conv(x, w1, b1) d = Conv(a, w2) "
    "y = If(c) <then_branch = t () => (float[n,6,h,w] u) { u = Conv(a, w2) }, "
    "else_branch = e () => (float[n,6,h,w] v) { v = Identity(d) }> }",
}


@pytest.mark.parametrize("case", PINNED)
def test_pinned(case: str) -> None:
    constants = {
        **CONV,
        "zero": np.float32(0),
        "six": np.float32(6),
        "minus": np.float32(-1),
        "one": np.float32(1),
        "w3": normal(*((4, 4, 1, 1) if case == "sum with an input" else (8, 4, 3, 3)), seed=3),
        "w4": normal(6, 4, 1, 1),
        "pads": np.array([0, 0, 1, 1, 0, 0, 1, 1]),
    }
    text = PINNED[case]
    used = {name: value for name, value in constants.items() if name in text.replace("(", " ").replace(")", " ")}
    _, channels = mapped(text, **used)
    assert not channels.free().any()
    assert channels.reasons


def test_a_clip_carries_what_cannot_reach_its_limit() -> None:
    """Behind a Clip to [0, 6], a channel that sums at most 6 * 0.5 + 1 = 4 may grow by 6 / 4, and no further."""
    weight = np.zeros((2, 2, 1, 1), np.float32)
    weight[0, 0], weight[1, 1] = 0.5, 2.0
    graph, channels = mapped(
        "(float[n,2,4,4] x) => (float[n,3,4,4] y) { i = Clip(x, zero, six) a = Conv(i, w1, b1) r = Clip(a, zero, six) "
        "y = Conv(r, w2) }",
        w1=weight, b1=np.ones(2, np.float32), w2=normal(3, 2, 1, 1), zero=np.float32(0), six=np.float32(6),
    )  # fmt: skip
    free = channels.free()
    assert free[:2].tolist() == [True, False]
    # 4 / 6, and room for the rounding of a float32 sum.
    np.testing.assert_allclose(channels.lower_limits()[0], 4 / 6, rtol=2e-3)
    scales = np.where(free, channels.lower_limits(), 1.0)
    x = np.full((1, 2, 4, 4), 100.0, np.float32)
    (before,), (after,) = computed(graph, {"x": x}), computed(rescaled(graph, channels, scales), {"x": x})
    np.testing.assert_allclose(after, before, rtol=1e-5)


def test_sites_and_their_tensors() -> None:
    text, constants, _ = KEPT["depthwise"]
    _, channels = mapped(text, **constants)
    assert [site.tensors for site in channels.sites()] == [("a", "r"), ("d", "s")]
    text, constants, _ = KEPT["residual"]
    _, channels = mapped(text, **constants)
    assert [(site.tensors, site.classes.size) for site in channels.sites()] == [(("a", "b", "s", "r"), 8)]


@settings(max_examples=40, deadline=None)
@given(
    layers=st.lists(st.sampled_from(["relu", "depthwise", "residual", "pool", "gate", "sigmoid"]), max_size=6),
    seed=st.integers(0, 1000),
)
def test_any_chain_keeps_its_function(layers: list[str], seed: int) -> None:
    constants: dict[str, Any] = {"first": normal(8, 4, 3, 3), "last": normal(3, 8, 1, 1)}
    lines, tensor = ["t0 = Conv<pads=[1,1,1,1]>(x, first)"], "t0"
    for i, layer in enumerate(layers):
        w = f"w{i}"
        match layer:
            case "relu":
                lines.append(f"l{i} = Relu({tensor})")
            case "depthwise":
                constants[w] = normal(8, 1, 3, 3, seed=i)
                lines.append(f"l{i} = Conv<group=8, pads=[1,1,1,1]>({tensor}, {w})")
            case "residual":
                constants[w] = normal(8, 8, 1, 1, seed=i)
                lines += [f"m{i} = Conv({tensor}, {w})", f"l{i} = Add({tensor}, m{i})"]
            case "pool":
                lines.append(f"l{i} = AveragePool<kernel_shape=[3,3], pads=[1,1,1,1]>({tensor})")
            case "gate":
                lines += [f"g{i} = GlobalAveragePool({tensor})", f"s{i} = Sigmoid(g{i})", f"l{i} = Mul({tensor}, s{i})"]
            case "sigmoid":
                lines.append(f"l{i} = Sigmoid({tensor})")
        tensor = f"l{i}"
    body = " ".join(lines)
    graph, channels = mapped(
        f"(float[1,4,5,5] x) => (float[1,3,5,5] y) {{ {body} y = Conv({tensor}, last) }}", **constants
    )
    check_function_is_kept(graph, channels, seed)
