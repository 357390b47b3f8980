"""Rule R35: what goes into a logarithm as it is stays float."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import ModelProto

import onnxq
from onnxq.graph.model import load_graph
from onnxq.planning.options import PlanOptions
from tests.graphs import computed, model_of, normal
from tests.planned import actions, planned, reason

WINDOW, HOP, BANDS = 64, 32, 16
SPECTROGRAM = """
    (float[1,1,2080] wave) => (float[1,64,24] y)
    {
        [sines] s = Conv<strides=[32]>(wave, sine)
        [cosines] c = Conv<strides=[32]>(wave, cosine)
        s2 = Mul(s, s)
        c2 = Pow(c, two)
        power = Add(s2, c2)
        turned = Transpose<perm=[0,2,1]>(power)
        [bands] mel = MatMul(turned, filters)
        floored = Max(mel, floor)
        [log] logs = Log(floored)
        [network] y = MatMul(logs, weight)
    }
"""


def constants() -> dict[str, Any]:
    """A windowed Fourier transform, bands of its bins, and a layer behind them."""
    bins = WINDOW // 2
    angles = 2 * np.pi * np.outer(np.arange(bins), np.arange(WINDOW)) / WINDOW
    rng = np.random.default_rng(0)
    return {
        "sine": (np.sin(angles) * np.hanning(WINDOW))[:, None].astype(np.float32),
        "cosine": (np.cos(angles) * np.hanning(WINDOW))[:, None].astype(np.float32),
        "filters": rng.uniform(0.0, 1.0, (bins, BANDS)).astype(np.float32) ** 4,
        "weight": rng.normal(size=(BANDS, 24)).astype(np.float32),
        "two": np.float32(2.0),
        "floor": np.float32(1e-6),
    }


def spectrogram() -> ModelProto:
    return model_of(SPECTROGRAM, **constants())


@pytest.mark.parametrize("target", ["ort-x64-vnni", "tensorrt", "openvino"])
def test_a_front_end_stays_float_and_the_network_behind_does_not(target: str) -> None:
    plan = planned(SPECTROGRAM, target=target, **constants())
    found = actions(plan)
    assert [found[name] for name in ("sines", "cosines", "bands", "network")] == ["float", "float", "float", "int8"]
    assert reason(plan, "bands") == (
        "its output goes into the logarithm 'log', which magnifies the rounding of small values [R35]"
    )


def test_what_is_asked_for_by_name_is_quantized() -> None:
    plan = planned(SPECTROGRAM, options=PlanOptions(include=("bands", "network"), placement="full"), **constants())
    assert [actions(plan)[name] for name in ("sines", "bands", "network")] == ["float", "int8", "int8"]


def test_an_engine_that_computes_on_codes_alone_gets_them() -> None:
    assert actions(planned(SPECTROGRAM, target="qnn", **constants()))["bands"] == "int8"


def test_a_network_in_front_of_a_logarithm_is_quantized() -> None:
    """Behind a Softmax, and behind an activation with a node with weights between, errors are not magnified."""
    softmax = "(float[N,16] x) => (float[N,16] y) { [fc] a = MatMul(x, w) b = Softmax(a) y = Log(b) }"
    assert actions(planned(softmax, w=normal(16, 16)))["fc"] == "int8"
    clipped = """(float[N,16] x) => (float[N,16] y)
    { [first] a = MatMul(x, w) b = Clip(a, low, high) [last] c = MatMul(b, w) d = Clip(c, low, high) y = Log(d) }"""
    found = actions(planned(clipped, w=normal(16, 16), low=np.float32(1e-3), high=np.float32(6.0)))
    assert (found["first"], found["last"]) == ("int8", "float")


def test_dynamic_quantization_leaves_it_in_float_too() -> None:
    found = actions(onnxq.plan(spectrogram(), mode="dynamic"))
    assert (found["bands"], found["network"]) == ("float", "int8")


def test_quiet_sounds_survive() -> None:
    """With the front end in int8, 7 dB are left here: what lies 60 dB below the loudest sound is rounded away."""
    rng = np.random.default_rng(1)
    levels = 10.0 ** rng.permutation(np.linspace(-3.0, 0.0, 16))
    data = [{"wave": (rng.normal(size=(1, 1, 2080)) * level).astype(np.float32)} for level in levels]
    model = spectrogram()
    made = onnxq.quantize(model, data, target="ort-x64-vnni", placement="full").model
    noise = signal = 0.0
    for feed in data:
        exact, got = (computed(load_graph(m), feed)[0] for m in (model, made))
        noise, signal = noise + float(((exact - got) ** 2).sum()), signal + float((exact**2).sum())
    assert 10 * np.log10(signal / noise) > 35.0
