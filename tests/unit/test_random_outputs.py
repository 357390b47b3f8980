"""Models in training mode and models that draw: told, because their outputs are a matter of chance."""

from __future__ import annotations

import numpy as np
import pytest

import onnxq
from onnxq.verification.random_outputs import random_warnings
from tests.graphs import graph_of, model_of, normal

ONE = np.ones(8, np.float32)


def told(text: str, opset: int = 17, **constants: object) -> str:
    return " ".join(random_warnings(graph_of(text, opset=opset, **constants)))


@pytest.mark.parametrize(("ratio", "mode", "random"), [(0.1, True, True), (0.0, True, False), (0.1, False, False)])
def test_dropout(ratio: float, mode: bool, random: bool) -> None:
    text = "(float[2,8] x) => (float[2,8] y) { [drop] y = Dropout(x, r, m) }"
    found = told(text, r=np.float32(ratio), m=np.array(mode))
    assert ("1 Dropout in training mode, first 'drop'" in found) == random
    assert ("model.eval()" in found) == random


def test_dropout_whose_mode_is_a_constant_node_or_an_input() -> None:
    constant = "m = Constant<value = bool {1}>() [drop] y = Dropout(x, r, m)"
    assert "training mode" in told(f"(float[2,8] x) => (float[2,8] y) {{ {constant} }}", r=np.float32(0.5))
    assert not told("(float[2,8] x, bool m) => (float[2,8] y) { y = Dropout(x, r, m) }", r=np.float32(0.5))
    assert not told("(float[2,8] x) => (float[2,8] y) { y = Dropout(x) }")


def test_batch_normalization() -> None:
    text = "(float[2,8] x) => (float[2,8] y) {{ [norm] y{} = BatchNormalization{}(x, one, one, one, one) }}"
    assert "hang on what else is in its batch" in told(text.format(", a, b", "<training_mode = 1>"), one=ONE)
    assert not told(text.format("", ""), one=ONE)


def test_drawing() -> None:
    text = "(float[2,8] x) => (float[2,8] y) {{ [draw] n = RandomNormalLike{}(x) y = Add(x, n) }}"
    assert "draws random numbers, first in 'draw'" in told(text.format(""))
    assert not told(text.format("<seed = 1.0>"))


def test_quantize_and_data_say_so() -> None:
    model = model_of(
        "(float[n,32] x) => (float[n,32] y) { a = MatMul(x, w) d = Dropout(a, r, m) y = Relu(d) }",
        w=normal(32, 32),
        r=np.float32(0.5),
        m=np.array(True),
    )
    samples = normal(64, 32)
    result = onnxq.quantize(model, samples, target="ort-cpu")
    assert any("Dropout in training mode" in text for text in result.report.warnings)
    assert any("Dropout in training mode" in text for text in onnxq.preview(model, samples).warnings)
