"""Silero VAD, in the forms its package ships, on synthetic speech with the recurrent state carried from frame to frame.

Each frame is 512 samples at 16 kHz with the last 64 samples of the one before in front. The feeds are recorded from
a run of the float model, so the state a feed holds is what the float model would hold there.
Source: https://github.com/snakers4/silero-vad, src/silero_vad/utils_vad.py (OnnxWrapper) and sequence_vad.py.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from tests.zoo.entry import Batch, Feed, Outputs, Split, ZooModel, take
from tests.zoo.packages import package_file

RATE = 16000
FRAME = 512
CONTEXT = 64
SECONDS = 6
SEQUENCE_FRAMES = 32
SPEECH = 0.5
SEEDS: dict[Split, int] = {"calib": 21, "eval": 22}
VOWELS = ((730, 1090, 2440), (270, 2290, 3010), (300, 870, 2240), (530, 1840, 2480), (570, 840, 2410))
"""First three formants of five vowels, Hz (Peterson & Barney 1952, men)."""
FILES = {
    "silero_vad": "silero_vad.onnx",
    "silero_vad_op15": "silero_vad_16k_op15.onnx",
    "silero_vad_op18_ifless": "silero_vad_op18_ifless.onnx",
    "silero_vad_openvino": "silero_vad_openvino_16k.onnx",
    "silero_vad_sequence": "silero_vad_16k_sequence.onnx",
}


def speech(seed: int) -> NDArray[np.float32]:
    """Vowels of a gliding voice between pauses and hisses, over faint noise: float32 [SECONDS * RATE], within -1..1."""
    rng = np.random.default_rng(seed)
    audio = rng.normal(0.0, 0.003, SECONDS * RATE)
    position = int(rng.integers(1000, 6000))
    while position < audio.size:
        for _ in range(int(rng.integers(2, 6))):  # the syllables of a word
            length = int(rng.integers(1600, 4000))
            sound = _vowel(rng, length) if rng.random() < 0.8 else rng.normal(0.0, 0.05, length)
            stretch = audio[position : position + length]
            stretch += (sound * np.hanning(length) ** 0.3)[: stretch.size]
            position += length
        position += int(rng.integers(4000, 14000))
    return np.clip(audio, -1.0, 1.0).astype(np.float32)


def _vowel(rng: np.random.Generator, length: int) -> NDArray[np.float64]:
    """Harmonics of a voice, weighted by three formant resonances and a falling glottal spectrum."""
    time = np.arange(length) / RATE
    pitch = rng.uniform(90, 220) * (1 + rng.uniform(-0.2, 0.2) * time + 0.02 * np.sin(2 * np.pi * 5 * time))
    phase = 2 * np.pi * np.cumsum(pitch) / RATE
    formants = np.array(VOWELS[int(rng.integers(len(VOWELS)))]) * rng.uniform(0.9, 1.15)
    sound = np.zeros(length)
    for harmonic in range(1, 36):
        frequency = harmonic * float(pitch.mean())
        gain = sum(1.0 / (1.0 + ((frequency - f) / (60.0 + 0.04 * f)) ** 2) for f in formants)
        sound += (gain + 0.02) / harmonic**0.7 * np.sin(harmonic * phase)
    return np.asarray(sound / np.abs(sound).max() * rng.uniform(0.2, 0.7))


def _frames(split: Split) -> NDArray[np.float32]:
    audio = np.r_[np.zeros(CONTEXT, np.float32), speech(SEEDS[split])]
    count = (audio.size - CONTEXT) // FRAME
    return np.stack([audio[i * FRAME : i * FRAME + CONTEXT + FRAME] for i in range(count)])


def _streamed(path: Path, split: Split) -> list[Feed]:
    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    names = {i.name for i in session.get_inputs()}
    state, feeds = np.zeros((2, 1, 128), np.float32), []
    for frame in _frames(split):
        feed: dict[str, NDArray[Any]] = {"input": frame[None], "state": state}
        if "sr" in names:
            feed["sr"] = np.array(RATE, np.int64)
        feeds.append(feed)
        state = session.run(None, feed)[1]
    return feeds


def _sequences(path: Path, split: Split) -> list[Feed]:
    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    frames, feeds = _frames(split), []
    hidden = cell = np.zeros((1, 1, 128), np.float32)
    for start in range(0, len(frames) - SEQUENCE_FRAMES + 1, SEQUENCE_FRAMES):
        feed = {"input": frames[start : start + SEQUENCE_FRAMES], "h": hidden, "c": cell}
        feeds.append(feed)
        _, hidden, cell = session.run(None, feed)
    return feeds


@functools.lru_cache(maxsize=16)
def _recorded(name: str, path: Path, split: Split) -> tuple[Feed, ...]:
    return tuple((_sequences if name.endswith("sequence") else _streamed)(path, split))


def is_speech(outputs: Outputs) -> NDArray[Any]:
    """The detector's decision for each frame."""
    return np.asarray(outputs[0].reshape(-1) > SPEECH)


def silero_models() -> list[ZooModel]:
    """One entry for each file of the package."""
    return [_entry(name, file) for name, file in FILES.items()]


def _entry(name: str, file: str) -> ZooModel:
    def path() -> Path | None:
        return package_file("silero_vad", f"data/{file}")

    def load(split: Split, limit: int | None) -> Iterator[Batch]:
        found = path()
        if found is None:
            raise FileNotFoundError("pip: silero-vad")
        yield from take((Batch(feed) for feed in _recorded(name, found, split)), limit)

    return ZooModel(
        name=name,
        source="pip: silero-vad",
        path=path,
        load=load,
        decode=is_speech,
        metric="decisions as float",
    )
