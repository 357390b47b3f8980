"""Models of many float16 weights: onnxruntime computes in float32, and must not hold all of them in it at once."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto

import onnxq
from onnxq.graph import external_data
from onnxq.graph.model import load_graph
from onnxq.passes.adapt.settle_types import runnable
from onnxq.verification.side_by_side import Loading, outputs_of
from tests.graphs import model_of, normal, ops

HALF = TensorProto.FLOAT16
WIDTH, LAYERS = 512, 64
FLOAT32_BYTES = 4 * WIDTH * WIDTH * LAYERS


def halves(folder: Path, width: int, layers: int) -> Path:
    steps = " ".join(f"p{n} = MatMul({f'h{n - 1}' if n else 'x'}, w{n}) h{n} = Relu(p{n})" for n in range(layers))
    text = f"(float16[N,{width}] x) => (float16[N,{width}] y) {{ {steps} y = Identity(h{layers - 1}) }}"
    weights = {f"w{n}": (normal(width, width, seed=n) * (2 / width) ** 0.5).astype(np.float16) for n in range(layers)}
    path = folder / "half.onnx"
    onnx.save(model_of(text, **weights), path, save_as_external_data=True, location="h.bin", size_threshold=100)
    return path


@pytest.fixture
def large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(external_data, "LARGE_BYTES", 2000)
    monkeypatch.setattr(external_data, "SCRATCH_BYTES", 2000)


def feeds(width: int) -> list[dict[str, np.ndarray]]:
    return [{"x": normal(4, width, seed=seed).astype(np.float16)} for seed in range(4)]


@pytest.mark.usefixtures("large")
def test_weights_stay_as_they_are_stored(tmp_path: Path) -> None:
    graph = load_graph(halves(tmp_path, 256, 3))
    twin = runnable(graph)
    assert ops(twin) == ops(graph) | {"Cast": 3 + 2}
    assert {t.data_type for t in twin.initializers.values()} == {HALF}
    for feed, (want, got) in outputs_of([Loading(graph, optimised=False), Loading(twin)], feeds(256)):
        assert feed.keys() == {"x"}
        assert got["y"].dtype == want["y"].dtype == np.float16
        # onnxruntime rounds to float16 (11 bits) between layers where it puts the Casts itself.
        np.testing.assert_allclose(got["y"].astype(float), want["y"].astype(float), atol=4e-3 * np.abs(want["y"]).max())


def test_other_models_are_run_as_they_are(tmp_path: Path) -> None:
    graph = load_graph(halves(tmp_path, 256, 3))
    assert runnable(graph) is graph


@pytest.mark.usefixtures("large")
def test_outputs_do_not_keep_sessions_alive(tmp_path: Path) -> None:
    """An array of onnxruntime's own is part of its arena, which holds everything that a run took."""
    graph = load_graph(halves(tmp_path, 256, 2))
    for _, found in outputs_of([Loading(graph), Loading(graph)], feeds(256)):
        assert all(value.flags.owndata for outputs in found for value in outputs.values())


PEAK = """
import sys, threading, time
import numpy as np, onnxq
from onnxq.graph import external_data
external_data.LARGE_BYTES = external_data.SCRATCH_BYTES = 2000

def anonymous():
    with open("/proc/self/status") as status:
        return next(1024 * int(line.split()[1]) for line in status if line.startswith("RssAnon"))

def watch():
    while True:
        peak[0] = max(peak[0], anonymous())
        time.sleep(0.001)

feeds = [{"x": np.full((4, int(sys.argv[3])), seed + 1, np.float16)} for seed in range(4)]
from onnxq.api.verify import verify  # and what it imports, before it counts
import onnxruntime
before = anonymous()
peak = [0]
threading.Thread(target=watch, daemon=True).start()
onnxq.verify(sys.argv[1], sys.argv[2], feeds, target="tensorrt")
print(peak[0] - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="what a process holds is told by Linux alone")
@pytest.mark.usefixtures("large")
@pytest.mark.parametrize("mode", ["static", "weight-only"])
def test_what_comparing_takes(tmp_path: Path, mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Less than all weights in float32, 67 MB, which each session held in turn.

    Some of them, of 1 MB each, and the codes are there for as long as they are compared.
    """
    path = halves(tmp_path, WIDTH, LAYERS)
    output = tmp_path / "quantized.onnx"
    result = onnxq.quantize(path, feeds(WIDTH), target="tensorrt", mode=mode, output=output)
    assert result.report.failed_checks == ()
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    command = [sys.executable, "-c", PEAK, str(path), str(output), str(WIDTH)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert int(done.stdout) < FLOAT32_BYTES
