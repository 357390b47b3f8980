"""Types of option values, and the names that options accept.

The names are written out here because importing them from where they are defined would import numpy and onnx;
tests/cli compares them.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from typing import Any

import click

from onnxq.wording.sizes import bytes_from
from onnxq.wording.targets import closest_target

TARGETS = (
    "ort-cpu", "ort-x64-avx2", "ort-x64-vnni", "ort-arm64", "tensorrt", "openvino", "openvino-avx2", "qnn", "xnnpack",
)  # fmt: skip
METHODS = ("auto", "entropy", "max", "mse", "percentile")
METHOD_NAMES = (*METHODS, "moving-average")
MODES = ("static", "dynamic", "weight-only")
NO_ACTIVATIONS = "none"
ACTIVATIONS = ("int8", "uint8", "int16", "uint16", "fp8", NO_ACTIVATIONS)
WEIGHTS = ("int4", "uint4", "int8", "uint8", "int16", "fp8")
BLOCK_SIZES = (0, 16, 32, 64, 128, 256)
ROUNDINGS = ("nearest", "mse", "hqq", "gptq", "awq")
WEIGHT_FORMATS = ("auto", "nbits", "qdq")
IMAGE_PRESETS = ("imagenet", "yolo", "paddleocr")
LAYOUTS = ("nchw", "nhwc")
COLORS = ("rgb", "bgr")
METRICS = ("top1", "top5", "cosine", "sqnr")
QUANTIZED = ("only", "all-but")
RANK_BY = ("sqnr", "cosine", "kl")
RECOVERIES = ("none", "fast", "best")
RECOVERY_STEPS = ("equalize", "smooth", "absorb", "level", "clip", "rounding", "bias", "reconstruct")
PLACEMENTS = ("fast", "full")
FLOAT_TYPES = ("float32", "float16")
NONFINITE = ("error", "ignore")
RESIZES = ("stretch", "crop", "letterbox", "height")


class Name(click.Choice):  # type: ignore[type-arg]  # generic since click 8.2 only
    """One of several names; a name that is not among them is answered with the closest one."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        known = [str(choice) for choice in self.choices]
        if value in known:
            return value
        close = self.closest(str(value), known)
        guess = f" Did you mean {close!r}?" if close else ""
        return self.fail(f"{value!r} is none of {', '.join(known)}.{guess}", param, ctx)

    def closest(self, value: str, known: Sequence[str]) -> str | None:
        """Which of the names was probably meant; None where none is near."""
        return next(iter(difflib.get_close_matches(value, known, n=1)), None)


class Size(Name):
    """One of several numbers; in a configuration file a number too, not a text."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        return int(super().convert(str(value), param, ctx))


class TargetName(Name):
    """A target's name, or the path of a .toml file with one."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        return str(value) if str(value).lower().endswith(".toml") else super().convert(value, param, ctx)

    def closest(self, value: str, known: Sequence[str]) -> str | None:
        return closest_target(value, known)


class Table(click.ParamType):  # type: ignore[type-arg]  # generic since click 8.3 only
    """A table of TOML without its braces: nodes = "/head/*", method = "max"."""

    name = "TABLE"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> dict[str, Any]:
        if isinstance(value, dict):
            return value
        from onnxq.config import parse_toml  # noqa: PLC0415 - only where one is given

        try:
            table: dict[str, Any] = parse_toml(f"table = {{ {value} }}")["table"]
        except ValueError:
            return self.fail(f"""{value!r} is not a table such as 'nodes = "/head/*", method = "max"'.""", param, ctx)
        return table


class Recover(click.ParamType):  # type: ignore[type-arg]  # generic since click 8.3 only
    """A bundle of recovery steps, or steps separated by commas: rounding,bias."""

    name = "recover"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str | tuple[str, ...]:
        if not isinstance(value, str) or value in RECOVERIES:
            return value  # type: ignore[no-any-return]
        names = tuple(part.strip() for part in value.split(","))
        for name in names:
            if name in RECOVERIES:
                steps = "steps can be put together, not bundles of them"
                return self.fail(f"{name!r} stands alone: {steps} ({', '.join(RECOVERIES)}).", param, ctx)
            if name not in RECOVERY_STEPS:
                close = difflib.get_close_matches(name, [*RECOVERIES, *RECOVERY_STEPS], n=1)
                guess = f" Did you mean {close[0]!r}?" if close and close[0] != name else ""
                known = f"{', '.join(RECOVERIES)}, or of the steps {', '.join(RECOVERY_STEPS)}, comma-separated"
                return self.fail(f"{name!r} is none of {known}.{guess}", param, ctx)
        return names


class Numbers(click.ParamType):  # type: ignore[type-arg]  # generic since click 8.3 only
    """Numbers separated by commas: 0.485,0.456,0.406."""

    name = "NUMBER[,NUMBER...]"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[float, ...]:
        parts = value.split(",") if isinstance(value, str) else value
        try:
            return tuple(float(part) for part in parts)
        except (TypeError, ValueError):
            return self.fail(f"{value!r} is not a list of numbers such as 0.485,0.456,0.406.", param, ctx)


class StateLink(click.ParamType):  # type: ignore[type-arg]  # generic since click 8.3 only
    """An output and the input that takes its value in the next step: stateN=state."""

    name = "OUTPUT=INPUT"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, str]:
        if isinstance(value, tuple):
            return value
        output, _, name = str(value).partition("=")
        if not output or not name:
            return self.fail(f"{value!r} is not an output and an input such as stateN=state.", param, ctx)
        return output, name


class Percent(click.FloatRange):
    """A share in percent: 95 or 95%."""

    name = "PERCENT"

    def __init__(self) -> None:
        super().__init__(min=0, max=100)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        bare: Any = str(value).strip().removesuffix("%")
        number = super().convert(bare, param, ctx)
        return number if bare == str(value).strip() else value  # the sign tells 0.9 % from a share of 0.9


class Bytes(click.ParamType):  # type: ignore[type-arg]
    """An amount of memory: 500MB, 4GB (decimal, as in reports), or a plain number of bytes."""

    name = "SIZE"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        return bytes_from(str(value)) or self.fail(f"{value!r} is not a size such as 500MB or 4GB.", param, ctx)


class ImageSize(click.ParamType):  # type: ignore[type-arg]
    """Height and width in pixels: 224x320; one number stands for both."""

    name = "HEIGHTxWIDTH"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, int]:
        if isinstance(value, tuple):
            return value
        found = re.fullmatch(r"(\d+)(?:x(\d+))?", str(value).strip().lower(), re.ASCII)
        size = (0, 0) if found is None else (int(found[1]), int(found[2] or found[1]))
        return size if all(size) else self.fail(f"{value!r} is not a size such as 224 or 224x320.", param, ctx)


class NamedShape(click.ParamType):  # type: ignore[type-arg]
    """The shape of an input: images:1x3x224x224, or 1x3x224x224 where there is one input only."""

    name = "[NAME:]1x3x224x224"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, tuple[int, ...]]:
        if isinstance(value, tuple):
            return value
        name, _, sizes = str(value).rpartition(":")
        parts = sizes.lower().split("x")
        if not all(part.isdigit() for part in parts):
            return self.fail(f"{value!r} is not a shape such as images:1x3x224x224.", param, ctx)
        return name, tuple(int(part) for part in parts)


class Points(click.ParamType):  # type: ignore[type-arg]
    """Percentage points: 0.5% or 0.5."""

    name = "POINTS"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        text = str(value).strip().removesuffix("%")
        found = re.fullmatch(r"\d+(\.\d*)?|\.\d+", text)
        if found is None or float(text) >= 100:
            return self.fail(f"{value!r} is not a number of percentage points such as 0.5%.", param, ctx)
        return float(text)


class Score(click.ParamType):  # type: ignore[type-arg]
    """A score, 95% or 30: whether it is a share is the metric's to say."""

    name = "SCORE"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        return str(value)


class MetricName(click.ParamType):  # type: ignore[type-arg]
    """A metric's name, or FILE.py:FUNCTION."""

    name = "METRIC"

    def __init__(self, offered: Sequence[str] = METRICS) -> None:
        """With the names to list; others are refused with their reason, by who knows it."""
        self.offered = offered

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        if value in METRICS or str(value).startswith("python:") or ".py" in str(value):
            return str(value)
        close = difflib.get_close_matches(str(value), self.offered, n=1)
        guess = f" Did you mean {close[0]!r}?" if close else ""
        return self.fail(f"{value!r} is none of {', '.join(self.offered)}, FILE.py:FUNCTION.{guess}", param, ctx)


class FilePath(click.Path):
    """A path that is not empty: an empty one would mean the working folder, and comes of a variable that is not set."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if value == "":
            self.fail("the path is empty; where it comes from a variable of the shell, is that set?", param, ctx)
        return super().convert(value, param, ctx)
