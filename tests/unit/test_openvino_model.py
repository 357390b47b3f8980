"""Models as OpenVINO runs them."""

from __future__ import annotations

import time

import numpy as np
import pytest

from onnxq.errors import ModelError
from onnxq.verification.engines.onnxruntime import OrtModel
from onnxq.verification.engines.openvino import is_installed
from onnxq.verification.engines.openvino_model import OpenvinoModel, own_precision, said
from tests.graphs import model_of, normal

pytestmark = pytest.mark.skipif(not is_installed(), reason="OpenVINO is not installed")

NET = """(float[N,16,24,24] x, float unread) => (float[N,16,24,24] y, float[N,16,24,24] z) {
[c] a = Conv<pads=[1,1,1,1]>(x, w)
[r] y = Relu(a)
[i] z = Identity(y)
}"""
FEED = {"x": normal(2, 16, 24, 24), "unread": np.array(1.0, np.float32)}


def net() -> OpenvinoModel:
    return OpenvinoModel(MODEL, threads=1)


MODEL = model_of(NET, w=normal(16, 16, 3, 3))


def test_outputs_have_the_names_and_values_of_the_model() -> None:
    want, got = OrtModel(MODEL)(FEED), net()(FEED)
    assert set(got) == {"y", "z"}
    for name, values in want.items():
        # Sums of 144 products in float32, in another order; bfloat16 would be a thousand times farther off.
        np.testing.assert_allclose(got[name], values, rtol=1e-5, atol=1e-5)


def test_threads_and_precision_reach_openvino() -> None:
    assert net().compiled.get_property("INFERENCE_NUM_THREADS") == 1
    assert net().compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name() == "f32"
    own = OpenvinoModel(MODEL, precision=own_precision())
    assert own.compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name() == own_precision()


def test_on_one_thread_the_calling_one_computes() -> None:
    """So a race on one thread can take the CPU time of the thread that it runs in."""
    model = net()
    model(FEED)
    thread, process = time.thread_time(), time.process_time()
    for _ in range(100):
        model(FEED)
    assert time.thread_time() - thread > 0.8 * (time.process_time() - process)


def test_a_model_that_it_does_not_take() -> None:
    strange = model_of("(float[1] x) => (float[1] y) { y = nowhere.Strange(x) }")
    with pytest.raises(ModelError, match=r"^OpenVINO cannot compile the model: ") as error:
        OpenvinoModel(strange)
    assert said(error.value)
    assert str(error.value) == f"OpenVINO cannot compile the model: {said(error.value)}"


def test_a_feed_that_it_does_not_take() -> None:
    fixed = model_of("(float[1,4] x) => (float[1,4] y) { y = Relu(x) }")
    with pytest.raises(ModelError, match=r"^OpenVINO cannot run the model: "):
        OpenvinoModel(fixed)({"x": normal(2, 4)})


@pytest.mark.parametrize("operator", ["Identity", "Dropout"])
def test_an_input_that_is_an_output_too_is_fed(operator: str) -> None:
    """OpenVINO knows such an input by the output's name alone."""
    model = model_of(
        f"""(float[2,4] w, float[2,4] x) => (float[2,4] y, float[2,4] s) {{
            y = {operator}(x) d = Sub(w, y) s = Relu(d) }}"""
    )
    feed = {"x": normal(2, 4), "w": normal(2, 4, seed=1)}
    for _ in range(2):
        found = OpenvinoModel(model)(feed)
        np.testing.assert_array_equal(found["y"], feed["x"])
        np.testing.assert_array_equal(found["s"], np.maximum(feed["w"] - feed["x"], 0))
