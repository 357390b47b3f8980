"""Results behind a pipeline's last step: compared with labels or with the float model's."""

from __future__ import annotations

import numpy as np
import pytest

import onnxq
from onnxq.errors import ConfigError, DataError
from onnxq.evaluation.agreement import Agreement
from tests.cli.conftest import samples, tiny_model


def words(outputs):
    return ["abcdefghijklmnop"[i] for i in outputs["y"][:, :, 0, 0].argmax(axis=1)]


@pytest.fixture(scope="module")
def models():
    model, data = tiny_model(), {"x": samples(40)}
    return model, onnxq.quantize(model, data, target="ort-x64-vnni").model, data


def test_without_labels_the_float_model_is_right(models):
    found = onnxq.evaluate(*models, postprocess=words, batch_size=7)
    assert (found.metric, found.unit, found.samples) == ("words", "%", 40)
    first, second = found.models
    assert first.score == 1.0
    assert second.score > 0.9  # a network of one layer: ties aside, int8 keeps the largest channel


def test_with_labels_results_are_compared_with_them(models):
    model, quantized, data = models
    labels = np.array(["a"] * 40)
    found = onnxq.evaluate(model, quantized, data, postprocess=words, labels=labels)
    session = onnxq.evaluate(model, (), data, postprocess=lambda outputs: [w == "a" for w in words(outputs)])
    assert session.models[0].score == 1.0  # against itself
    assert 0 <= found.models[0].score < 1
    assert len(found.comparisons) == 1


def test_from_a_file(models, tmp_path):
    (tmp_path / "post.py").write_text("def sizes(outputs):\n    return [tuple(o.shape) for o in outputs['y']]\n")
    found = onnxq.evaluate(*models, postprocess=f"{tmp_path / 'post.py'}:sizes")
    assert [m.score for m in found.models] == [1.0, 1.0]


def test_what_goes_wrong(models):
    with pytest.raises(ConfigError, match="both a metric and postprocess are given"):
        onnxq.evaluate(*models, postprocess=words, metric="sqnr")
    with pytest.raises(DataError, match=r"postprocess gave 1 result for 1?\d? ?samples|postprocess gave 0 results"):
        onnxq.evaluate(*models, postprocess=lambda outputs: [])
    with pytest.raises(DataError, match="postprocess failed: KeyError: 'z'"):
        onnxq.evaluate(*models, postprocess=lambda outputs: outputs["z"])


def test_results_may_be_arrays_texts_and_numbers():
    metric = Agreement(lambda outputs: [np.array([1, 2]), "7", 3.0], "x", against_float=False)
    right = metric.measure({}, {}, [np.array([1, 2]), "7", 4], 3, "batch 1")
    assert right[:, 0].tolist() == [1.0, 1.0, 0.0]
