"""Rule V15: on x64 without VNNI OpenVINO's int8 sums saturate, and guarded weights keep them from it.

ONEDNN_MAX_CPU_ISA makes OpenVINO take any x64 CPU for one without VNNI: with AVX512 where it has that, else with AVX2
alone. (Held down to AVX2, OpenVINO 2026.4 crashes on CPUs with AMX.) It is read once, so each run is a process.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from onnxq.verification.engines.openvino import is_installed

pytestmark = pytest.mark.skipif(not is_installed(), reason="OpenVINO is not installed")

PROGRAM = """
import json, sys
import numpy as np, onnxq
from onnxq.targets import TARGETS
from onnxq.verification.compare import OutputComparison
from onnxq.verification.engines.onnxruntime import OrtModel
from onnxq.verification.engines.openvino_model import OpenvinoModel
from tests.graphs import graph_of

rng = np.random.default_rng(0)
# Large values of one sign side by side: the products of codes near 255 and 127 leave int16 two at a time.
CASES = {
    "Conv": ("(float[N,32,12,12] x) => (float[N,32,10,10] y) { y = Conv(x, w) }", (8, 32, 12, 12), (32, 32, 3, 3)),
    "picture": ("(float[N,3,32,32] x) => (float[N,32,30,30] y) { y = Conv(x, w) }", (4, 3, 32, 32), (32, 3, 3, 3)),
    "ConvTranspose": (
        "(float[N,32,12,12] x) => (float[N,16,24,24] y) { y = ConvTranspose<strides=[2,2]>(x, w) }",
        (8, 32, 12, 12), (32, 16, 2, 2),
    ),
    "MatMul": ("(float[N,128] x) => (float[N,128] y) { y = MatMul(x, w) }", (32, 128), (128, 128)),
}
text, inputs, weights = CASES[sys.argv[1]]
w = rng.uniform(0.7, 1.0, weights).astype(np.float32)
if sys.argv[1] == "picture":
    # Pairs that went on from tap to tap, (2, 0) and (1, 2) in every other one, would never hold both large channels.
    w[:, 2] *= 0.05
    w.reshape(32, 3, 9)[:, :, ::2] *= 0.05
model = graph_of(text, w=w).to_model()
x = {"x": rng.uniform(0.7, 1.0, inputs).astype(np.float32)}
want, found = OrtModel(model)(x), {}
for name in ("openvino", "openvino-avx2"):
    made = onnxq.quantize(model, x, target=TARGETS[name], placement="full", recover=sys.argv[2]).model
    comparison = OutputComparison()
    comparison.add(want, OpenvinoModel(made)(x))
    found[name] = comparison.result()[0].sqnr_db
print(json.dumps(found))
"""


def sqnr_db(op: str, recover: str = "fast") -> dict[str, float]:
    """SQNR of OpenVINO's own output with plain and with guarded weights, in dB."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, op, recover],
        env={**os.environ, "ONEDNN_MAX_CPU_ISA": "AVX512_CORE", "PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


@pytest.mark.parametrize("op", ["Conv", "picture", "MatMul"])
def test_v15_guarded_weights_do_not_saturate(op: str) -> None:
    """8 bits on both sides leave 35 dB and more; sums cut off at 32767 leave less than 20.

    A pair is two channels of one tap: OpenVINO fills up odd numbers of them, those of a picture, with zeros.
    """
    found = sqnr_db(op)
    assert found["openvino"] < 20
    assert found["openvino-avx2"] > 35


def test_v15_careful_rounding_minds_the_same_pairs() -> None:
    assert sqnr_db("picture", "best")["openvino-avx2"] > 35


def test_v15_a_conv_transpose_needs_no_guard() -> None:
    found = sqnr_db("ConvTranspose")
    assert min(found.values()) > 35
    assert found["openvino-avx2"] == found["openvino"]
