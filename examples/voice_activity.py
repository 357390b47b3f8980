"""A speech model with a state, quantized: who speaks when?

The model is Silero VAD (pip package silero-vad), an LSTM whose state goes from one frame of 32 ms to the next. Sounds
are wav files; a hook of a few lines cuts them to frames, and onnxq carries the state. Scored is how often both models
agree on whether someone speaks.
"""

from __future__ import annotations

import json
import wave
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from materials import GREEN, GREY, INK, PAPER, arguments, font, package_file
from PIL import Image, ImageDraw

import onnxq

RATE, FRAME, CONTEXT = 16_000, 512, 64
SPEECH = 0.5
ORANGE = (215, 95, 20)
VOWELS = ((730, 1090, 2440), (270, 2290, 3010), (300, 870, 2240), (530, 1840, 2480), (570, 840, 2410))
"""First three formants of five vowels, Hz (Peterson & Barney 1952)."""


def vowel(rng: np.random.Generator, length: int) -> np.ndarray:
    """A sung vowel: harmonics of a gliding pitch, weighted by formants."""
    time = np.arange(length) / RATE
    pitch = rng.uniform(90, 220) * (1 + rng.uniform(-0.2, 0.2) * time + 0.02 * np.sin(31 * time))
    phase = 2 * np.pi * np.cumsum(pitch) / RATE
    formants = np.array(VOWELS[int(rng.integers(len(VOWELS)))]) * rng.uniform(0.9, 1.15)
    harmonics = np.arange(1, 36)[:, None]
    gains = (1 / (1 + ((harmonics * pitch.mean() - formants) / (60 + 0.04 * formants)) ** 2)).sum(axis=1) + 0.02
    sound = (gains / harmonics[:, 0] ** 0.7) @ np.sin(harmonics * phase)
    return sound / np.abs(sound).max() * rng.uniform(0.2, 0.7)


def sing(seed: int, seconds: int = 8) -> np.ndarray:
    """Vowels and hisses between pauses, over faint noise; float64 within -1..1."""
    rng = np.random.default_rng(seed)
    audio, at = rng.normal(0, 0.003, seconds * RATE), int(rng.integers(4000, 12000))
    while at < audio.size:
        for _ in range(int(rng.integers(2, 6))):
            length = int(rng.integers(1600, 4000))
            sound = vowel(rng, length) if rng.random() < 0.8 else rng.normal(0, 0.05, length)
            stretch = audio[at : at + length]
            stretch += (sound * np.hanning(length) ** 0.3)[: stretch.size]
            at += length
        at += int(rng.integers(6000, 18000))
    return np.clip(audio, -1, 1)


def record(folder: Path, seeds: range) -> Path:
    """A wav file for each seed."""
    folder.mkdir(parents=True, exist_ok=True)
    for seed in seeds:
        with wave.open(str(folder / f"{seed:02}.wav"), "wb") as file:
            file.setnchannels(1)
            file.setsampwidth(2)
            file.setframerate(RATE)
            file.writeframes((sing(seed) * 32767).astype("<i2").tobytes())
    return folder


def frames(sound: Any) -> Iterator[dict[str, np.ndarray]]:
    """The steps of a sound: frames with the last 4 ms of the one before in front, as Silero VAD wants them."""
    audio = np.r_[np.zeros(CONTEXT, np.float32), sound.samples]
    for start in range(0, len(audio) - CONTEXT - FRAME + 1, FRAME):
        yield {"input": audio[start : start + CONTEXT + FRAME][None], "sr": np.array(sound.rate, np.int64)}


class Sound:
    """A wav file, as hooks get it: samples within -1..1, and their rate in Hz."""

    def __init__(self, path: Path) -> None:
        with wave.open(str(path)) as file:
            self.rate = file.getframerate()
            self.samples = np.frombuffer(file.readframes(file.getnframes()), "<i2").astype(np.float32) / 32768


def listen(model: Path, sound: Sound) -> np.ndarray:
    """The probability of speech in each frame, the state carried from one to the next."""
    session, state, found = ort.InferenceSession(str(model)), np.zeros((2, 1, 128), np.float32), []
    for step in frames(sound):
        speech, state = session.run(["output", "stateN"], {**step, "state": state})
        found.append(float(speech[0, 0]))
    return np.array(found)


def draw_speech(sound: Sound, heard: dict[str, np.ndarray], picture: Path) -> None:
    """The sound, and below it what both models make of it."""
    width, left, tall = 1000, 20, 150
    sheet = Image.new("RGB", (width + 2 * left, 2 * tall + 120), PAPER)
    draw = ImageDraw.Draw(sheet)
    peaks = [np.abs(part).max() for part in np.array_split(sound.samples, width)]
    for x, peak in enumerate(peaks):
        draw.line((left + x, 100 - 70 * peak, left + x, 100 + 70 * peak), fill=(150, 160, 175))
    base = 2 * tall + 60
    for level in (0, SPEECH, 1):
        draw.line((left, base - tall * level, left + width, base - tall * level), fill=(225, 228, 232))
    for (name, speech), colour, wide, x in zip(heard.items(), (ORANGE, GREEN), (6, 2), (left, left + 130), strict=True):
        steps = left + np.arange(len(speech)) * width / (len(speech) - 1)
        draw.line([(x, base - tall * y) for x, y in zip(steps, speech, strict=True)], fill=colour, width=wide)
        draw.line((x, base + 28, x + 30, base + 28), fill=colour, width=wide)
        draw.text((x + 38, base + 16), name, font=font(18), fill=INK)
    draw.text(
        (left + 260, base + 16), f"probability of speech in {len(speech)} frames of 32 ms", font=font(18), fill=GREY
    )
    sheet.save(picture)


def main() -> None:
    folder, part = arguments("voice_activity")
    model = package_file("silero_vad", "data/silero_vad_16k_op15.onnx", install="silero-vad==6.2.3")
    int8 = folder / "vad.int8.onnx"
    state = {"stateN": "state"}  # output: the input that it is in the next step
    calibration = onnxq.Data(record(folder / "calibration", range(1, 1 + 4 // part)), preprocess=frames, state=state)
    clips = record(folder / "test", range(11, 11 + 4 // part))
    test = onnxq.Data(clips, preprocess=frames, state=state)

    result = onnxq.quantize(model, calibration, output=int8, force=True, details=part == 1)
    print(result.report.to_text())
    (folder / "report.html").write_text(result.report.to_html(), encoding="utf-8")

    checked = onnxq.verify(model, int8, test, limit=250)
    print(f"verified on {checked.data.held_out_samples} other frames: {'PASSED' if checked else 'FAILED'}\n")

    sounds = [Sound(path) for path in sorted(clips.glob("*.wav"))]
    heard = [{"float": listen(model, sound), "int8": listen(int8, sound)} for sound in sounds]
    before, after = (np.concatenate([one[name] for one in heard]) for name in ("float", "int8"))
    agreed = float(((before > SPEECH) == (after > SPEECH)).mean())
    scores = {
        "frames": len(before),
        "agree": round(agreed, 4),
        "largest difference": round(float(np.abs(before - after).max()), 4),
    }
    print(", ".join(f"{name}: {value:g}" for name, value in scores.items()))
    (folder / "scores.json").write_text(json.dumps(scores), encoding="utf-8")
    draw_speech(sounds[0], heard[0], folder / "voice_activity.png")
    print(f"written to {folder}: voice_activity.png, report.html, vad.int8.onnx")


if __name__ == "__main__":
    main()
