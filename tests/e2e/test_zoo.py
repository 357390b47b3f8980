"""The zoo itself: its models are installed, its data are the same on every call and mean something to the float models.

A floor that a float model misses says that the data or its pre-processing changed, before int8 is blamed for it.
"""

from __future__ import annotations

import itertools

import numpy as np
import onnxruntime as ort
import pytest

from tests.e2e.conftest import present
from tests.zoo import ZOO, Feed, ZooModel, evaluate
from tests.zoo.entry import samples_in

# What the float models were measured at over the whole eval split (rec 95.5 %, cls 99.2 %, digits 99.2 %), less three
# standard errors of the first 128 samples.
FLOAT_FLOORS = {"ppocrv4_rec": 0.90, "ppocr_cls": 0.96, "digits_resnet": 0.96}
FROM_PIP = [name for name, model in ZOO.items() if model.source.startswith("pip:")]


def float_session(model: ZooModel) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.log_severity_level = 4
    return ort.InferenceSession(str(model.path()), options, providers=["CPUExecutionProvider"])


@pytest.mark.parametrize("name", FROM_PIP)
def test_data_are_the_same_on_every_call_and_differ_between_splits(name: str) -> None:
    model = present(name)
    once, again, held_out = (
        list(itertools.islice(it, 2)) for it in (model.calib(2), model.calib(2), model.held_out(2))
    )
    assert once
    assert all(_same(a, b) for a, b in zip(once, again, strict=True))
    assert not _same(once[0], held_out[0])


@pytest.mark.parametrize("name", FROM_PIP)
def test_a_limit_counts_samples(name: str) -> None:
    model = present(name)
    batches = list(model.calib(3))
    assert sum(map(samples_in, batches[:-1])) < 3 <= sum(map(samples_in, batches))


@pytest.mark.parametrize(("name", "floor"), FLOAT_FLOORS.items())
def test_float_models_read_the_data(name: str, floor: float) -> None:
    model = present(name)
    session = float_session(model)
    assert evaluate(model, lambda feed: session.run(None, feed), model.load("eval", 128)) >= floor


def test_synthetic_speech_is_speech_in_part() -> None:
    """Both decisions occur often, so that a detector stuck at one of them scores badly."""
    model = present("silero_vad_sequence")
    session = float_session(model)
    spoken = np.concatenate([session.run(None, feed)[0] > 0.5 for feed in model.held_out()])
    assert 0.2 < spoken.mean() < 0.8


def test_photographs_show_something_to_detect() -> None:
    """YOLOv8n is sure (a score over 0.5, from row 4 on) of something in at least a tenth of the crops."""
    model = present("yolov8n_320")
    session = float_session(model)
    best = [session.run(None, feed)[0][:, 4:].max() for feed in model.held_out(20)]
    assert np.mean(np.array(best) > 0.5) >= 0.1


def _same(a: Feed, b: Feed) -> bool:
    return a.keys() == b.keys() and all(np.array_equal(a[k], b[k]) for k in a)
