"""Data that never varies is said to."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper

import onnxq
from onnxq.data.batches import Batches
from onnxq.data.inputs import InputSpecs
from onnxq.data.sources import open_data
from onnxq.graph.view import Graph
from tests.graphs import model_of, normal

WARNING = (
    "the calibration data never varies, so that ranges and errors mean little: check data= (--data) and how it was "
    "prepared"
)


def opened(data: Any, **options: Any) -> Batches:
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", 3]) for name in ("x", "state")[: len(data)]]
    out = helper.make_tensor_value_info("out", TensorProto.FLOAT, None)
    inputs = InputSpecs.from_graph(Graph(helper.make_model(helper.make_graph([], "g", values, [out]))))
    batches = open_data(data, inputs=inputs, **options)
    for _ in batches:
        pass
    return batches


@pytest.mark.parametrize(
    ("x", "note"),
    [
        (np.zeros((4, 3)), "input 'x' is 0 everywhere in all 4 samples"),
        (np.full((4, 3), 0.5), "input 'x' is 0.5 everywhere in all 4 samples"),
        (np.zeros((1, 3)), "input 'x' is 0 everywhere"),
        (np.tile(normal(1, 3), (4, 1)), "input 'x' is the same in all 4 samples"),
    ],
)
@pytest.mark.parametrize("batch_size", [1, 2, 4])
def test_data_that_never_varies(x: np.ndarray, note: str, batch_size: int) -> None:
    batches = opened({"x": x.astype(np.float32)}, batch_size=batch_size)
    assert batches.notes == (note,)
    assert batches.warnings == (WARNING,)


@pytest.mark.parametrize("place", [0, 1, 3])
@pytest.mark.parametrize("batch_size", [1, 2, 4])
def test_a_single_difference_is_enough(place: int, batch_size: int) -> None:
    x = np.zeros((4, 3), np.float32)
    x[place, 2] = 1e-6
    batches = opened({"x": x}, batch_size=batch_size)
    assert (batches.notes, batches.warnings) == ((), ())


def test_one_sample_says_nothing_of_variation() -> None:
    batches = opened({"x": normal(1, 3)})
    assert (batches.notes, batches.warnings) == ((), ())


def test_one_constant_input_of_two_is_only_noted() -> None:
    batches = opened({"x": normal(4, 3), "state": np.zeros((4, 3), np.float32)})
    assert batches.notes == ("input 'state' is 0 everywhere in all 4 samples",)
    assert batches.warnings == ()


def test_quantize_calibrate_and_verify_say_so() -> None:
    model = model_of("(float[N,16] x) => (float[N,8] y) { y = MatMul(x, w) }", w=normal(16, 8))
    data = {"x": np.ones((8, 16), np.float32)}
    result = onnxq.quantize(model, data, target="ort-x64-vnni")
    assert WARNING in result.report.warnings
    assert "input 'x' is 1 everywhere in all 8 samples" in result.report.notes
    said: list[str] = []
    onnxq.calibrate(model, data, remark=said.append)
    assert said == [WARNING, "input 'x' is 1 everywhere in all 8 samples"]
    assert WARNING in onnxq.verify(model, result.model, data, target="ort-x64-vnni").warnings
