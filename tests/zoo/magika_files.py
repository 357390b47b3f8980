"""Magika (file type from content): real files of Python's standard library and of installed packages.

Input `bytes`, int32 [N, 2048]: the first 1024 bytes of the first 4096 after left-stripping whitespace, padded with
256 at the end, then the last 1024 bytes of its last 4096 after right-stripping, padded with 256 in front.
Source: https://github.com/google/magika, python/src/magika/magika.py, "features extraction v2".
"""

from __future__ import annotations

import functools
import hashlib
import sysconfig
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tests.zoo.entry import Batch, Split, ZooModel, grouped, take, top1
from tests.zoo.packages import package_file, package_folder

PART = 1024
BLOCK = 4096
PADDING = 256
MIN_FILE_BYTES = 64
FILES_PER_SUFFIX = 60
PACKAGES = ("numpy", "onnx", "onnxruntime", "skimage", "magika", "PIL", "pip")
BATCH = 16


def features(content: bytes) -> NDArray[np.int32]:
    """The model's 2048 integers for one file's content."""
    begin = content[:BLOCK].lstrip()[:PART]
    end = content[-BLOCK:].rstrip()[-PART:]
    values = np.full(2 * PART, PADDING, np.int32)
    values[: len(begin)] = np.frombuffer(begin, np.uint8)
    if end:
        values[-len(end) :] = np.frombuffer(end, np.uint8)
    return values


@functools.cache
def _files() -> tuple[Path, ...]:
    """Files of many types, at most so many of each suffix, in an order that only their names decide."""
    roots = [Path(sysconfig.get_path("stdlib")), *(p for p in map(package_folder, PACKAGES) if p)]
    found: list[tuple[str, Path]] = []
    for root in dict.fromkeys(roots):
        for path in root.rglob("*"):
            relative = path.relative_to(root)
            # Which files are compiled, and when, differs from run to run.
            if not {"site-packages", "__pycache__"}.isdisjoint(relative.parts):
                continue
            if not path.is_file() or path.stat().st_size < MIN_FILE_BYTES:
                continue
            found.append((hashlib.sha256(f"{root.name}/{relative.as_posix()}".encode()).hexdigest(), path))
    kept: list[Path] = []
    seen: Counter[str] = Counter()
    for _, path in sorted(found):
        seen[path.suffix] += 1
        if seen[path.suffix] <= FILES_PER_SUFFIX:
            kept.append(path)
    return tuple(kept)


def _load(split: Split, limit: int | None) -> Iterator[Batch]:
    chosen = _files()[0::2] if split == "calib" else _files()[1::2]
    for group in take_files(chosen, limit):
        yield Batch({"bytes": np.stack([features(_read(path)) for path in group])})


def take_files(files: tuple[Path, ...], limit: int | None) -> Iterator[list[Path]]:
    """Groups of `BATCH` files, at most `limit` files in all."""
    return grouped(iter(files[:limit]), BATCH)


def _read(path: Path) -> bytes:
    with path.open("rb") as file:
        head = file.read(BLOCK)
        file.seek(0, 2)
        size = file.tell()
        file.seek(max(0, size - BLOCK))
        tail = file.read(BLOCK)
    return head if size <= BLOCK else head + tail


MAGIKA = ZooModel(
    name="magika",
    source="pip: magika",
    path=lambda: package_file("magika", "models/standard_v3_3/model.onnx"),
    load=lambda split, limit: take(_load(split, limit), limit),
    decode=top1,
    metric="agreement with float",
)
