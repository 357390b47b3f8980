"""The models of this repository: `models/NAME.onnx` with `NAME.calib.npz` and the labelled `NAME.test.npz`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from tests.zoo.entry import Batch, Split, ZooModel, top1

FOLDER = Path(__file__).resolve().parents[2] / "models"
BATCH = 32


def repository_models() -> list[ZooModel]:
    """One entry for each model file that has its data beside it."""
    files = sorted(FOLDER.glob("*.onnx"))
    return [_entry(file) for file in files if file.with_suffix(".test.npz").is_file()]


def _entry(file: Path) -> ZooModel:
    def load(split: Split, limit: int | None) -> Iterator[Batch]:
        suffix = ".calib.npz" if split == "calib" else ".test.npz"
        with np.load(file.with_suffix(suffix), allow_pickle=False) as arrays:
            data = {name: arrays[name][:limit] for name in arrays.files}
        labels = data.pop("labels", None)
        for start in range(0, len(next(iter(data.values()))), BATCH):
            rows = slice(start, start + BATCH)
            yield Batch({k: v[rows] for k, v in data.items()}, None if labels is None else labels[rows])

    return ZooModel(
        name=file.stem,
        source="models/ of this repository",
        path=lambda: file if file.is_file() else None,
        load=load,
        decode=top1,
        metric="top-1",
    )
