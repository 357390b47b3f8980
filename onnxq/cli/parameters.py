"""Types of option values, and the names that options accept.

The names are written out here because importing them from where they are defined would import numpy and onnx;
tests/cli compares them.
"""

from __future__ import annotations

import difflib
import re
from typing import Any, ClassVar

import click

TARGETS = ("ort-cpu", "ort-x64-avx2", "ort-x64-vnni", "ort-arm64", "tensorrt", "openvino")
METHODS = ("auto", "entropy", "max", "mse", "percentile")
METHOD_NAMES = (*METHODS, "moving-average")
IMAGE_PRESETS = ("imagenet", "yolo", "paddleocr")
LAYOUTS = ("nchw", "nhwc")
COLORS = ("rgb", "bgr")
RECOVERIES = ("none", "fast")
PLACEMENTS = ("fast", "full")
NONFINITE = ("error", "ignore")
RESIZES = ("stretch", "crop", "letterbox", "height")


class Name(click.Choice):  # type: ignore[type-arg]  # generic since click 8.2 only
    """One of several names; a name that is not among them is answered with the closest one."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        known = [str(choice) for choice in self.choices]
        if value in known:
            return value
        close = difflib.get_close_matches(str(value), known, n=1)
        guess = f" Did you mean {close[0]!r}?" if close else ""
        return self.fail(f"{value!r} is none of {', '.join(known)}.{guess}", param, ctx)


class Numbers(click.ParamType):  # type: ignore[type-arg]  # generic since click 8.3 only
    """Numbers separated by commas: 0.485,0.456,0.406."""

    name = "NUMBER[,NUMBER...]"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[float, ...]:
        parts = value.split(",") if isinstance(value, str) else value
        try:
            return tuple(float(part) for part in parts)
        except (TypeError, ValueError):
            return self.fail(f"{value!r} is not a list of numbers such as 0.485,0.456,0.406.", param, ctx)


class Bytes(click.ParamType):  # type: ignore[type-arg]
    """An amount of memory: 500MB, 4GB (decimal, as in reports), or a plain number of bytes."""

    name = "SIZE"
    _UNITS: ClassVar[dict[str, int]] = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([A-Z]*)", str(value).upper())
        size = 0 if found is None or found[2] not in self._UNITS else int(float(found[1]) * self._UNITS[found[2]])
        return size or self.fail(f"{value!r} is not a size such as 500MB or 4GB.", param, ctx)


class ImageSize(click.ParamType):  # type: ignore[type-arg]
    """Height and width in pixels: 224x224."""

    name = "HEIGHTxWIDTH"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, int]:
        if isinstance(value, tuple):
            return value
        height, _, width = str(value).partition("x")
        if not (height.isdigit() and width.isdigit() and int(height) and int(width)):
            return self.fail(f"{value!r} is not a size such as 224x224.", param, ctx)
        return int(height), int(width)
