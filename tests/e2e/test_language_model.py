"""A trained language model with a key-value cache: its perplexity in each mode, and that its cache works."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from numpy.typing import NDArray

import onnxq
from benches.language_model import perplexity

MODEL = Path(__file__).parents[2] / "models" / "pydoc_lm.onnx"
WINDOWS = 40


def windows() -> tuple[dict[str, NDArray[Any]], NDArray[np.int64]]:
    arrays = dict(np.load(MODEL.with_name("pydoc_lm.test.npz")))
    labels = arrays.pop("labels")
    return {name: value[:WINDOWS] for name, value in arrays.items()}, labels[:WINDOWS]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "more"),
    [
        ({"mode": "static"}, 0.02),
        ({"mode": "dynamic"}, 0.02),
        ({"mode": "weight-only", "weights": "int8"}, 0.01),
        ({"mode": "weight-only"}, 0.05),
        ({"mode": "weight-only", "rounding": "gptq"}, 0.04),
    ],
    ids=str,
)
def test_perplexity(options: dict[str, Any], more: float, tmp_path: Path) -> None:
    """It may rise by a share of `more`, which is at least twice what was measured when this was written."""
    test, labels = windows()
    data = MODEL.with_name("pydoc_lm.calib.npz")
    path = tmp_path / "quantized.onnx"
    result = onnxq.quantize(MODEL, data, output=path, limit=24, target="ort-x64-vnni", **options)
    assert result.report, result.report.to_text()
    before, after = perplexity(MODEL, test, labels), perplexity(path, test, labels)
    assert after < before * (1 + more)
    assert _last_logits(path, steps=True) == pytest.approx(_last_logits(path, steps=False), abs=0.5)


def _last_logits(path: Path, *, steps: bool) -> NDArray[np.float32]:
    """Logits of the last of 12 characters, fed at once or in two steps with a cache."""
    test, _ = windows()
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    ids = test["input_ids"][:1, :12]
    cache = {name: value[:1] for name, value in test.items() if name != "input_ids"}
    names = [output.name for output in session.get_outputs()]
    for part in (ids[:, :7], ids[:, 7:]) if steps else (ids,):
        found = dict(zip(names, session.run(None, {"input_ids": part, **cache}), strict=True))
        cache = {name: found[name.replace("past_key_values", "present")] for name in cache}
    last: NDArray[np.float32] = found["logits"][0, -1]
    return last


@pytest.mark.slow
@pytest.mark.parametrize("options", [{"mode": "dynamic"}, {"mode": "weight-only", "accuracy_level": 0}], ids=str)
def test_layers_are_ranked_by_what_they_do_to_the_whole_model(options: dict[str, Any]) -> None:
    """The worst and the best layer of a decoder with a cache, against models with them alone quantized."""
    data = MODEL.with_name("pydoc_lm.calib.npz")
    ranked = onnxq.sensitivity(MODEL, data, limit=8, samples=8, target="ort-cpu", **options).ranked()
    assert len(ranked) == 16
    for row in (ranked[0], ranked[-1]):
        made = onnxq.quantize(MODEL, data, limit=8, target="ort-cpu", include=[row.node], **options)
        # In int8 on the same codes or in float32 of what they stand for: rounding in float32 apart.
        assert made.report.worst_sqnr_db == pytest.approx(row.effect.sqnr_db, abs=0.2), row.node
    assert ranked[-1].effect.sqnr_db > ranked[0].effect.sqnr_db + 10.0
