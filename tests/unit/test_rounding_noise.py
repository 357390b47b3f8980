"""Tensors that are rounding noise of what they are computed from are no evidence; all others are."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import onnxq
from onnxq.verification.agreement import fused_agreement
from onnxq.verification.rounding_noise import noise_only
from tests.graphs import graph_of, model_of, normal

ONE = np.ones(16, np.float32)
CONSTANTS: dict[str, Any] = {
    "s": ONE, "o": 0 * ONE, "w": normal(16, 16, 3, 3) / 12, "p": normal(16, 16, 1, 1) / 4, "b": normal(16),
    "u": normal(16, 4), "zero": np.float32(0), "third": np.float32(0.3), "hidden": np.float32(-np.inf),
}  # fmt: skip
FEED = {"x": normal(2, 16, 8, 8)}
BRANCHES = """y = If (c) < then_branch = t () => (float p2) { p2 = Abs(x) },
    else_branch = e () => (float q2) { q2 = Neg(x) } >"""
MEAN = "i = InstanceNormalization(x, s, o) g = GlobalAveragePool(i)"


def noise(text: str, feed: dict[str, Any] | None = None) -> set[str]:
    used = {name: value for name, value in CONSTANTS.items() if f"{name})" in text or f" {name}," in text}
    graph = graph_of(text, **used)
    return set(noise_only(graph, list(graph.outputs), [feed or FEED]))


def of(body: str) -> set[str]:
    return noise(f"(float[N,16,8,8] x) => (float y) {{ {MEAN} {body} }}")


@pytest.mark.parametrize(
    "body",
    [
        "y = Identity(g)",  # the sum itself
        "f = Flatten(g) y = Relu(f)",  # moved
        "y = Conv(g, p)",  # weighed, without a bias
        "y = Conv(g, p, o)",  # or with one of zeros
        "f = Flatten(g) y = MatMul(f, u)",
        "y = Mul(g, x)",  # and multiplied by a signal
        "h = Conv(g, p) y = Add(h, g)",  # all terms
        "y = Sub(x, x)",  # a difference of equals: 0, which is below any term
        f"m = ReduceMean<keepdims=0>(g) c = Greater(m, zero) {BRANCHES}",  # a toss-up
        "c = Less(g, zero) d = Cast<to=1>(c) y = Conv(d, p, b)",  # and what is computed from one
    ],
)  # fmt: skip
def test_noise(body: str) -> None:
    assert of(body) == {"y"}


@pytest.mark.parametrize(
    "body",
    [
        "y = Conv(g, p, b)",  # the bias is a signal
        "y = Add(g, x)",  # so is another term
        "y = GlobalAveragePool(x)",  # means of values that are not normalized: 0.03 where they reach 3
        "r = Relu(i) y = GlobalAveragePool(r)",
        "y = Softmax(g)",  # nothing is known of other operators
        f"m = ReduceMean<keepdims=0>(g) c = Greater(m, third) {BRANCHES}",  # noise is below 0.3 however it is computed
        "c = Less(x, zero) y = Cast<to=1>(c)",
        "y = Add(x, hidden)",  # -Inf everywhere is a mask
    ],
)  # fmt: skip
def test_signal(body: str) -> None:
    assert of(body) == set()


def test_noise_in_half_precision() -> None:
    text = "(float16[N,16,8,8] x) => (float16 y) { i = InstanceNormalization(x, s, o) y = GlobalAveragePool(i) }"
    graph = graph_of(text, s=np.ones(16, np.float16), o=np.zeros(16, np.float16))
    # Rows of opposite values: their sum is 0, and what float16 rounds of it is none.
    half = np.abs(normal(2, 16, 4, 8)).astype(np.float16)
    assert noise_only(graph, ["y"], [{"x": np.concatenate([half, -half], axis=2)}]) == {"y"}


def test_what_is_noise_for_one_input_alone_is_judged() -> None:
    text = "(float[N,16,8,8] x) => (float y) { y = GlobalAveragePool(x) }"
    even = FEED["x"] - FEED["x"].mean(axis=(2, 3), keepdims=True)
    graph = graph_of(text)
    assert noise_only(graph, ["y"], [{"x": even}]) == {"y"}
    assert noise_only(graph, ["y"], [{"x": even}, FEED]) == set()


def test_a_small_signal_is_judged() -> None:
    """A thousandth of the terms is far above rounding, however little 8 bits make of it."""
    shifted = FEED["x"] - FEED["x"].mean(axis=(2, 3), keepdims=True) + np.float32(1e-3)
    assert noise("(float[N,16,8,8] x) => (float y) { y = GlobalAveragePool(x) }", {"x": shifted}) == set()


def test_deep_graphs_end() -> None:
    """Residual adds double the paths with each layer: every node is looked at once."""
    body = " ".join(f"t{i + 1} = Add(t{i}, t{i})" for i in range(100))
    assert noise(f"(float[N,4] t0) => (float[N,4] t100) {{ {body} }}", {"t0": normal(2, 4)}) == set()


@pytest.mark.parametrize("target", ["ort-x64-vnni", "ort-x64-avx2", "tensorrt", "openvino"])
@pytest.mark.parametrize("tail", ["y = Identity(g)", "y = Conv(g, p)"])
def test_an_output_of_noise_fails_no_check_and_is_told_of(target: str, tail: str) -> None:
    body = f"a = Conv<pads=[1,1,1,1]>(x, w) {MEAN.replace('(x', '(a')} {tail}"
    text = f"(float[N,16,8,8] x) => (float[N,16,1,1] y) {{ {body} }}"
    used = {name: value for name, value in CONSTANTS.items() if f"{name})" in text or f" {name}," in text}
    data = [{"x": normal(2, 16, 8, 8, seed=seed)} for seed in range(8)]
    report = onnxq.quantize(model_of(text, **used), data, target=target, placement="full", recover="none").report
    assert report.failed_checks == ()
    assert any(note.startswith("Output 'y' of the float model is rounding noise") for note in report.warnings)


def test_an_output_that_is_lost_fails_as_before() -> None:
    """Of the same operators, but with a mean that is not 0: int8 that loses it is at fault."""
    text = """(float[N,16,8,8] x) => (float[N,16,1,1] y) { a = Conv<pads=[1,1,1,1]>(x, w) g = GlobalAveragePool(a)
        y = Conv(g, p) }"""
    model = model_of(text, w=CONSTANTS["w"], p=CONSTANTS["p"])
    data = [{"x": normal(2, 16, 8, 8, seed=seed)} for seed in range(8)]
    override = {"tensors": "a", "range": [-400.0, 400.0]}
    report = onnxq.quantize(
        model, data, target="ort-x64-vnni", placement="full", recover="none", overrides=[override]
    ).report
    assert "outputs follow the float model's" in {check.name for check in report.failed_checks}


def test_codes_of_a_toss_up_are_no_evidence_of_wrong_kernels() -> None:
    graph = graph_of(
        """(float[2,16,8,8] x) => (float[2,16,8,8] y) {
        i = InstanceNormalization(x, s, o) m = ReduceMean<keepdims=0>(i) c = Greater(m, zero)
        f = If (c) < then_branch = t () => (float[2,16,8,8] p2) { p2 = Abs(i) },
            else_branch = e () => (float[2,16,8,8] q2) { q2 = Neg(i) } >
        q = QuantizeLinear(f, scale, point) y = DequantizeLinear(q, scale, point) }""",
        s=ONE, o=0 * ONE, zero=np.float32(0), scale=np.float32(0.05), point=np.uint8(128),
    )  # fmt: skip
    assert all(stretch.agrees for stretch in fused_agreement(graph, FEED))
    assert noise_only(graph, ["f"], [FEED]) == {"f"}
