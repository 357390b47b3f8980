"""How models are loaded into onnxruntime."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest

from onnxq.errors import ModelError
from onnxq.inference.hints import hint_of_loading
from onnxq.inference.session import make_session, optimisation_level
from onnxq.runtime import ort
from tests.graphs import model_of, normal

LEVELS = ort.GraphOptimizationLevel

HALF = {
    "float16 inputs": ("(float16[2] x) => (float16[2] y) { y = Relu(x) }", {}),
    "float16 constants": ("(float[2] x) => (float16[2] y) { y = Mul(w, w) }", {"w": normal(2).astype(np.float16)}),
    "a Cast to float16": ("(float[2] x) => (float16[2] y) { y = Cast<to=10>(x) }", {}),
}


@pytest.mark.parametrize("name", HALF)
def test_models_that_compute_in_float16_keep_their_layouts(name: str) -> None:
    text, constants = HALF[name]
    assert optimisation_level(model_of(text, **constants)) == LEVELS.ORT_ENABLE_EXTENDED


def test_other_models_get_every_optimisation() -> None:
    stored = "(float[2] x) => (float[2] y) { a = Cast<to=1>(w) y = Mul(x, a) }"
    assert optimisation_level(model_of(stored, w=normal(2).astype(np.float16))) == LEVELS.ORT_ENABLE_ALL
    assert optimisation_level(model_of("(float[2] x) => (float[2] y) { y = Relu(x) }")) == LEVELS.ORT_ENABLE_ALL


def test_none_are_asked_for() -> None:
    model = model_of("(float16[2] x) => (float16[2] y) { y = Relu(x) }")
    assert optimisation_level(model, optimise=False) == LEVELS.ORT_DISABLE_ALL


def test_operators_of_a_library_are_told_to_be_that() -> None:
    model = model_of("(float[2] x) => (float[2] y) { y = Relu(x) }")
    model.graph.node[0].op_type, model.graph.node[0].domain = "Magic", "my.ops"
    model.opset_import.add(domain="my.ops", version=1)
    with pytest.raises(ModelError, match=r"my.ops:Magic.*\nHint: the operator is not one of onnxruntime's own"):
        make_session(model)


def test_a_session_keeps_no_copy_of_the_model_beside_onnxruntimes_own() -> None:
    weight = normal(1000, 1000)
    model = model_of("(float[1, 1000] x) => (float[1, 1000] y) { y = MatMul(x, w) }", w=weight)
    tracemalloc.start()
    try:
        session = make_session(model)
        kept, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak > weight.nbytes, "Python's copies are seen"
    assert kept < weight.nbytes / 10
    x = normal(1, 1000)
    # Sums of 1000 products in float32, in another order: some units in the last place of about 100.
    np.testing.assert_allclose(session.run({"x": x})[0], x @ weight, rtol=0, atol=1e-3)


@pytest.mark.parametrize("error", [
    "[ONNXRuntimeError] : 6 : RUNTIME_EXCEPTION : Exception during initialization: std::bad_alloc",
    "[ONNXRuntimeError] : 6 : RUNTIME_EXCEPTION : Failed to allocate memory for requested buffer of size 4096",
])  # fmt: skip
def test_want_of_memory_is_told_as_such(error: str) -> None:
    assert "not enough memory" in (hint_of_loading(error) or "")
