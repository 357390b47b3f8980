"""YOLOv8n at 320x320 (nudenet's detector): photographs of scikit-image, cropped, flipped and scaled.

Input `images`, float32 [N, 3, 320, 320], RGB, 0..1. The eval split has its own crops, some of other photographs.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageEnhance

from tests.zoo.entry import Batch, Outputs, Split, ZooModel, overlap
from tests.zoo.packages import package_file

SIDE = 320
BOX_ROWS = 4
SCORE = 0.25
PHOTOS: dict[Split, tuple[str, ...]] = {
    "calib": ("astronaut.png", "chelsea.png", "coffee.png", "motorcycle_left.png", "camera.png"),
    "eval": ("astronaut.png", "chelsea.png", "rocket.jpg", "motorcycle_right.png", "ihc.png"),
}
SAMPLES: dict[Split, int] = {"calib": 48, "eval": 48}
SEEDS: dict[Split, int] = {"calib": 1, "eval": 2}


@functools.cache
def _photo(name: str) -> Image.Image:
    path = package_file("skimage", f"data/{name}")
    if path is None:
        raise FileNotFoundError(f"{name}: pip install --no-deps -r tests/requirements-models.txt")
    with Image.open(path) as image:
        photo: Image.Image = image.convert("RGB")
    return photo


def photo_crop(photo: Image.Image, rng: np.random.Generator) -> NDArray[np.float32]:
    """A random square crop, perhaps mirrored and a little brighter or darker, as the detector's input [3, 320, 320]."""
    edge = int(min(photo.size) * rng.uniform(0.45, 1.0))
    left, top = (int(rng.integers(0, extent - edge + 1)) for extent in photo.size)
    crop = photo.crop((left, top, left + edge, top + edge)).resize((SIDE, SIDE), Image.Resampling.BILINEAR)
    if rng.random() < 0.5:
        crop = crop.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    crop = ImageEnhance.Brightness(crop).enhance(float(rng.uniform(0.7, 1.3)))
    planes: NDArray[np.float32] = np.asarray(crop, np.float32).transpose(2, 0, 1) / np.float32(255)
    return np.ascontiguousarray(planes)


def _load(split: Split, limit: int | None) -> Iterator[Batch]:
    rng = np.random.default_rng(SEEDS[split])
    names = PHOTOS[split]
    count = SAMPLES[split] if limit is None else min(limit, SAMPLES[split])
    for index in range(count):
        yield Batch({"images": photo_crop(_photo(names[index % len(names)]), rng)[None]})


def detections(outputs: Outputs) -> NDArray[np.bool_]:
    """Which class is detected at which of the 2100 places, before boxes are merged: bool [N, 18, 2100]."""
    return np.asarray(outputs[0][:, BOX_ROWS:] > SCORE)


YOLOV8N = ZooModel(
    name="yolov8n_320",
    source="pip: nudenet",
    path=lambda: package_file("nudenet", "320n.onnx") if package_file("skimage", "data/astronaut.png") else None,
    load=_load,
    decode=detections,
    agree=overlap,
    metric="raw detections' IoU with float",
)
