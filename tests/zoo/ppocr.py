"""PP-OCRv4 text detection and recognition, and PP-OCR's angle classifier, on rendered text.

All three take BGR pixels as (x / 255 - 0.5) / 0.5 in NCHW; lines are padded on the right with zeros.
Source: https://github.com/RapidAI/RapidOCR, python/rapidocr_onnxruntime (config.yaml, three pre-processing steps).
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from tests.zoo.entry import Batch, Outputs, Split, ZooModel, grouped, overlap, take, top1
from tests.zoo.packages import package_file
from tests.zoo.text_lines import text_line, text_page

SOURCE = "pip: rapidocr-onnxruntime"
HEIGHT = 48
MIN_WIDTH = 320
CLS_WIDTH = 192
DET_THRESHOLD = 0.3
BATCH = 8
SAMPLES: dict[Split, int] = {"calib": 128, "eval": 512}
PAGES: dict[Split, int] = {"calib": 16, "eval": 16}
PAGE_SIZES = ((640, 640), (480, 736), (640, 640), (736, 480))
SEEDS: dict[Split, int] = {"calib": 11, "eval": 12}


def _rng(split: Split) -> np.random.Generator:
    return np.random.default_rng(SEEDS[split])


def _path(file: str) -> Path | None:
    return package_file("rapidocr_onnxruntime", f"models/{file}")


def normalised(pixels: NDArray[np.uint8], width: int | None = None) -> NDArray[np.float32]:
    """RGB uint8 [H, W, 3] as the networks take it, [3, H, width], padded on the right."""
    planes = (pixels[..., ::-1].astype(np.float32).transpose(2, 0, 1) / 255 - 0.5) / 0.5
    padded = np.zeros((3, pixels.shape[0], width or pixels.shape[1]), np.float32)
    padded[..., : pixels.shape[1]] = planes
    return padded


def _lines(split: Split, limit: int | None, group: int) -> Iterator[list[tuple[NDArray[np.uint8], str]]]:
    """Groups of lines of similar width, as an OCR pipeline batches them: sorted within eight groups."""
    rng, count = _rng(split), SAMPLES[split] if limit is None else min(limit, SAMPLES[split])
    for chunk in grouped((text_line(rng, HEIGHT) for _ in range(count)), 8 * group):
        yield from grouped(iter(sorted(chunk, key=lambda line: line[0].shape[1])), group)


def _rec(split: Split, limit: int | None) -> Iterator[Batch]:
    for group in _lines(split, limit, BATCH):
        width = max(MIN_WIDTH, *(pixels.shape[1] for pixels, _ in group))
        width = -(-width // 32) * 32
        yield Batch({"x": np.stack([normalised(p, width) for p, _ in group])}, [text for _, text in group])


@functools.cache
def _characters() -> tuple[str, ...]:
    """The recogniser's alphabet, from its own metadata: index 0 is CTC's blank, the last one is a space."""
    path = _path("ch_PP-OCRv4_rec_infer.onnx")
    if path is None:
        raise FileNotFoundError(SOURCE)
    metadata = {p.key: p.value for p in onnx.load(str(path), load_external_data=False).metadata_props}
    return ("", *metadata["character"].split("\n"), " ")


def ctc_text(outputs: Outputs) -> list[str]:
    """Greedy CTC: the best character of each step, repeats and blanks dropped."""
    characters, texts = _characters(), []
    for best in outputs[0].argmax(-1):
        fresh = np.r_[True, best[1:] != best[:-1]]
        texts.append("".join(characters[i] for i in best[fresh]).strip())
    return texts


def _cls(split: Split, limit: int | None) -> Iterator[Batch]:
    rng, count = (
        np.random.default_rng(100 + SEEDS[split]),
        SAMPLES[split] if limit is None else min(limit, SAMPLES[split]),
    )
    for group in grouped((text_line(rng, HEIGHT) for _ in range(count)), BATCH):
        turned = rng.integers(0, 2, len(group))
        images = [p[::-1, ::-1] if t else p for (p, _), t in zip(group, turned, strict=True)]
        yield Batch({"x": np.stack([normalised(_narrowed(p), CLS_WIDTH) for p in images])}, turned)


def _narrowed(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """At most `CLS_WIDTH` wide: squeezed, as RapidOCR does."""
    if pixels.shape[1] <= CLS_WIDTH:
        return pixels
    from PIL import Image  # noqa: PLC0415 - the data are drawn with Pillow, the rest of this module needs none

    resized = Image.fromarray(np.ascontiguousarray(pixels)).resize((CLS_WIDTH, HEIGHT), Image.Resampling.BILINEAR)
    return np.asarray(resized)


def _det(split: Split, limit: int | None) -> Iterator[Batch]:
    rng, count = _rng(split), PAGES[split] if limit is None else min(limit, PAGES[split])
    for index in range(count):
        yield Batch({"x": normalised(text_page(rng, PAGE_SIZES[index % len(PAGE_SIZES)]))[None]})


def text_mask(outputs: Outputs) -> NDArray[Any]:
    """Pixels that the detector calls text, bool [N, H, W]."""
    return np.asarray(outputs[0][:, 0] > DET_THRESHOLD)


PPOCR_DET = ZooModel(
    name="ppocrv4_det",
    source=SOURCE,
    path=lambda: _path("ch_PP-OCRv4_det_infer.onnx"),
    load=_det,
    decode=text_mask,
    agree=overlap,
    metric="mask IoU with float",
)
PPOCR_REC = ZooModel(
    name="ppocrv4_rec",
    source=SOURCE,
    path=lambda: _path("ch_PP-OCRv4_rec_infer.onnx"),
    load=lambda split, limit: take(_rec(split, limit), limit),
    decode=ctc_text,
    metric="exact match",
)
PPOCR_CLS = ZooModel(
    name="ppocr_cls",
    source=SOURCE,
    path=lambda: _path("ch_ppocr_mobile_v2.0_cls_infer.onnx"),
    load=lambda split, limit: take(_cls(split, limit), limit),
    decode=top1,
    metric="top-1",
)
