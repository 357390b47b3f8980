"""A script for onnxruntime's `quantize_static` runs with one import changed, on real models, and does no worse."""

from __future__ import annotations

import shutil
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest

from tests.e2e.conftest import present

SCRIPT = """
from {module} import CalibrationDataReader, CalibrationMethod, QuantFormat, QuantType, quantize_static

class Reader(CalibrationDataReader):
    def __init__(self, feeds):
        self.feeds = iter(feeds)

    def get_next(self):
        return next(self.feeds, None)

quantize_static(
    model_input,
    model_output,
    Reader(feeds),
    quant_format=QuantFormat.QDQ,
    per_channel=True,
    activation_type=QuantType.QUInt8,
    weight_type=QuantType.QInt8,
    calibrate_method=CalibrationMethod.MinMax,
)
"""

MODELS = ["digits_resnet", "wordlang_transformer", "ppocr_cls", "magika"]


def noise_db(model: Path, quantized: Path, feeds: list[dict[str, Any]]) -> float:
    """SQNR of the first output over some feeds, dB."""
    sessions = [ort.InferenceSession(str(p), providers=["CPUExecutionProvider"]) for p in (model, quantized)]
    signal = noise = 0.0
    for feed in feeds:
        want, got = (np.asarray(s.run(None, feed)[0], np.float64) for s in sessions)
        signal, noise = signal + float((want**2).sum()), noise + float(((want - got) ** 2).sum())
    return float(10 * np.log10(signal / noise))


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_the_same_script_with_either_import(name: str, tmp_path: Path) -> None:
    entry = present(name)
    found_at = entry.path()
    assert found_at is not None
    # A copy, as onnxruntime writes its inferred model beside the source, where another test may be doing the same.
    path = Path(shutil.copy(found_at, tmp_path / "float.onnx"))
    feeds = [dict(batch.feed) for batch in entry.load("calib", 8)]
    test = [dict(batch.feed) for batch in entry.load("eval", 4)]
    found: dict[str, float] = {}
    for module in ("onnxruntime.quantization", "onnxq.compat"):
        place = tmp_path / f"{module}.onnx"
        given = {"model_input": str(path), "model_output": str(place), "feeds": feeds}
        with warnings.catch_warnings():
            warnings.simplefilter("error" if module == "onnxq.compat" else "ignore")
            try:
                exec(compile(SCRIPT.format(module=module), module, "exec"), given)
                found[module] = noise_db(path, place, test)
            except Exception:
                if module == "onnxq.compat":
                    raise
                continue
    theirs = found.get("onnxruntime.quantization", -np.inf)
    assert found["onnxq.compat"] > theirs - 1.0, found  # 1 dB: which of two roundings fits eight samples is chance
