"""Sound in .wav files: PCM of 8, 16, 24 and 32 bits and IEEE floats, as float32 from -1 to 1.

RIFF chunks "fmt " and "data", tags 1 (PCM), 3 (float) and 0xFFFE (extensible, whose sub-format begins with one of the
two). Source: Microsoft, Multiple Channel Audio Data and WAVE Files, https://learn.microsoft.com/windows-hardware/drivers/
audio/extensible-wave-format-descriptors; https://www.mmsp.ece.mcgill.ca/Documents/AudioFormats/WAVE/WAVE.html
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxq.errors import DataError
from onnxq.wording.plural import counted

WAV_SUFFIXES = (".wav", ".wave")

_PCM, _FLOAT, _EXTENSIBLE = 1, 3, 0xFFFE


@dataclass(frozen=True, kw_only=True)
class Sound:
    """What a .wav file holds.

    Attributes:
        samples: float32 within -1..1, shape (frames,), or (frames, channels) where there are several channels.
        rate: Frames in a second, Hz.
        path: The file.
    """

    samples: NDArray[np.float32]
    rate: int
    path: Path


def read_wav(path: Path) -> Sound:
    """Read a file.

    Raises:
        DataError: it is no .wav file, is cut short, or is coded in another way.
    """
    content = path.read_bytes()
    where = str(path)
    if content[:4] != b"RIFF" or content[8:12] != b"WAVE":
        raise DataError("not a .wav file: it does not begin with RIFF and WAVE", where=where)
    chunks = dict(_chunks(content))
    if len(chunks.get(b"fmt ", b"")) < 16 or b"data" not in chunks:
        raise DataError("not a readable .wav file: it lacks its format or its data", where=where)
    form = chunks[b"fmt "]
    tag, channels, rate, _, _, bits = struct.unpack("<HHIIHH", form[:16])
    if tag == _EXTENSIBLE and len(form) >= 26:
        tag = struct.unpack("<H", form[24:26])[0]
    samples = _samples(chunks[b"data"], tag, bits)
    if samples is None or not channels or not rate:
        raise DataError(
            f"sound of format {tag} with {bits} bits and {counted(channels, 'channel')} is not read",
            where=where,
            hint="convert it to 16-bit PCM: ffmpeg -i in.wav -c:a pcm_s16le out.wav",
        )
    samples = samples[: len(samples) // channels * channels]
    return Sound(samples=samples if channels == 1 else samples.reshape(-1, channels), rate=rate, path=path)


def _chunks(content: bytes) -> Iterator[tuple[bytes, bytes]]:
    at = 12
    while at + 8 <= len(content):
        name, size = content[at : at + 4], int.from_bytes(content[at + 4 : at + 8], "little")
        # Programs that stream write sizes that they do not know yet as 0 or 2**32 - 1: then it is the rest.
        yield name, content[at + 8 : at + 8 + size]
        at += 8 + size + size % 2


def _samples(data: bytes, tag: int, bits: int) -> NDArray[np.float32] | None:
    width = bits // 8
    if not width:
        return None
    data = data[: len(data) // width * width]
    if tag == _FLOAT and bits in (32, 64):
        floats: NDArray[np.float32] = np.frombuffer(data, f"<f{width}").astype(np.float32)
        return floats
    if tag != _PCM:
        return None
    whole: NDArray[Any]
    if bits == 8:  # the only one without a sign
        whole = np.frombuffer(data, np.uint8).astype(np.int32) - 128
    elif bits in (16, 32):
        whole = np.frombuffer(data, f"<i{width}")
    elif bits == 24:
        low = np.frombuffer(data, np.uint8).reshape(-1, 3).astype(np.int32)
        whole = ((low[:, 0] << 8) | (low[:, 1] << 16) | (low[:, 2] << 24)) >> 8  # by way of bit 31, for the sign
    else:
        return None
    samples: NDArray[np.float32] = (whole / np.float64(1 << (bits - 1))).astype(np.float32)
    return samples
