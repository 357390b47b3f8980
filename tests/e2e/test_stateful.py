"""Silero VAD from sounds alone: a hook cuts frames, the state goes round, each sound starts anew."""

from __future__ import annotations

import wave
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
from click.testing import CliRunner

import onnxq
from onnxq.cli.main import cli
from onnxq.graph.model import load_graph
from onnxq.pipeline.reading import Reading
from tests.zoo.packages import package_file
from tests.zoo.silero import CONTEXT, FRAME, RATE, silero_models, speech

HOOK = """
import numpy as np

def frames(sound):
    audio = np.r_[np.zeros(64, np.float32), sound.samples]
    for start in range(0, len(audio) - 576 + 1, 512):
        yield {"input": audio[start : start + 576][None], "sr": np.int64(sound.rate)}
"""


@pytest.fixture
def model() -> Path:
    found = package_file("silero_vad", "data/silero_vad_op18_ifless.onnx")
    if found is None:
        pytest.skip("pip: silero-vad")
    return found


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    clips = tmp_path / "clips"
    clips.mkdir()
    for seed in (21, 5):
        with wave.open(str(clips / f"{seed}.wav"), "wb") as out:
            out.setnchannels(1)
            out.setsampwidth(2)
            out.setframerate(RATE)
            out.writeframes((speech(seed)[: 40 * FRAME] * 32767).astype("<i2").tobytes())
    (tmp_path / "frames.py").write_text(HOOK)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_states_are_those_of_the_model(model: Path, folder: Path) -> None:
    """The states that onnxq feeds are those of a loop around onnxruntime, and start anew with each sound."""
    data = onnxq.Data("clips", preprocess="frames.py:frames", state={"stateN": "state"})
    feeds = list(Reading().open(load_graph(model), data))
    assert len(feeds) == 80
    session = ort.InferenceSession(str(model), providers=["CPUExecutionProvider"])
    state = np.zeros((2, 1, 128), np.float32)
    for number, feed in enumerate(feeds):
        if number == 40:
            state = np.zeros_like(state)
        # The same operators in the same order on the same machine; fusion may round the last bit of float32 otherwise.
        np.testing.assert_allclose(feed["state"], state, atol=1e-5)
        assert feed["input"].shape == (1, CONTEXT + FRAME)
        state = session.run(None, dict(feed))[1]


def test_quantized_from_sounds_alone(model: Path, folder: Path) -> None:
    words = [
        "quantize", str(model), "--data", "clips", "--preprocess", "frames.py:frames", "--state", "stateN=state",
        "--target", "ort-x64-vnni", "--shuffle", "3", "-o", "vad.onnx",
    ]  # fmt: skip
    result = CliRunner().invoke(cli, words)
    assert result.exit_code == 0, result.output
    assert "72 samples from clips, errors measured on 8 held out" in result.output
    again = CliRunner().invoke(cli, [
        "verify", str(model), "vad.onnx", "--data", "clips", "--preprocess", "frames.py:frames",
        "--state", "stateN=state", "--target", "ort-x64-vnni", "--reproduce",
    ])  # fmt: skip
    assert "every byte is the same" in again.output


def test_decisions_stay_the_same(model: Path) -> None:
    """Run free, each model on its own states, the int8 one decides as the float one does in nine of ten frames."""
    entry = next(m for m in silero_models() if m.name == "silero_vad_op18_ifless")
    frames = [{n: a for n, a in batch.feed.items() if n != "state"} for batch in entry.load("calib", None)]
    result = onnxq.quantize(model, onnxq.Data([frames], state={"stateN": "state"}), target="ort-x64-vnni")
    decisions = []
    for made in (str(model), result.model.SerializeToString()):
        session = ort.InferenceSession(made, providers=["CPUExecutionProvider"])
        state, said = np.zeros((2, 1, 128), np.float32), []
        for batch in entry.load("eval", None):
            output, state = session.run(None, {**batch.feed, "state": state})
            said.append(output.item() > 0.5)
        decisions.append(np.array(said))
    assert (decisions[0] == decisions[1]).mean() > 0.9  # 0.947 when this was written
    assert 0.1 < decisions[0].mean() < 0.9
