"""`ort-x64-avx2` on kernels without VNNI: an onnxruntime that is told the processor has none (benches/without_vnni.py).

Fused and unfused computation agree on real models, stretch by stretch, with the guarded weights of that target, and do
not with the plain ones of `ort-x64-vnni`: int16 sums of two products saturate. Asked about as a model for its own
target, by kernels that do not, such a model is right.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from benches import without_vnni
from tests.zoo import ZOO

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not without_vnni.is_possible(), reason="needs Linux on x64, a C compiler and binutils"),
]

ROOT = Path(__file__).parents[2]
MODELS = (
    "digits_resnet", "wordlang_transformer", "ppocr_cls", "silero_vad_openvino", "cifar10_resnet20",
    "kwt1_speech_commands", "mobilenetv2_1.0_160_flowers",
)  # fmt: skip

PROGRAM = """
import itertools, json, sys
import onnxq
from tests.zoo import ZOO
found = {}
for name in sys.argv[2:]:
    model = ZOO[name]
    made_for, verified_for = sys.argv[1].split(",")
    result = onnxq.quantize(str(model.path()), model.calib(8), target=made_for, placement="full", recover="none")
    held_out = model.held_out(16 if "silero" in name else 2)  # two windows of silence have nothing to follow
    report = onnxq.verify(str(model.path()), result.model, held_out, target=verified_for)
    found[name] = [check.name for check in report.failed_checks]
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("without_vnni")
    assert without_vnni.make(made) > 0
    return made


def failed(folder: Path, target: str, *names: str, verified_for: str | None = None) -> dict[str, list[str]]:
    """Checks that fail on kernels without VNNI, by model."""
    paths = os.pathsep.join([str(folder), str(ROOT)])
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, f"{target},{verified_for or target}", *names],
        env={**os.environ, "PYTHONPATH": paths},
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, list[str]] = json.loads(done.stdout.splitlines()[-1])
    return found


@pytest.mark.parametrize("name", MODELS)
def test_guarded_weights_compute_the_same_fused_and_unfused(folder: Path, name: str) -> None:
    if name not in ZOO or ZOO[name].path() is None:
        pytest.skip(f"{name} is absent")
    assert failed(folder, "ort-x64-avx2", name) == {name: []}


def test_plain_weights_do_not(folder: Path) -> None:
    found = failed(folder, "ort-x64-vnni", "wordlang_transformer", verified_for="ort-x64-avx2")
    assert "fused and unfused agree" in found["wordlang_transformer"]


def test_plain_weights_are_right_for_other_cpus(folder: Path) -> None:
    assert failed(folder, "ort-x64-vnni", "wordlang_transformer") == {"wordlang_transformer": []}
