"""Options that several commands share, each group turned into one value.

A decorator of this module adds options to a command and hands their values over as one frozen object, so a command has
a few parameters, not thirty. `keywords()` of such an object gives a group of keyword arguments of the Python API, whose
names mypy compares.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from onnxq.cli.parameters import (
    ACTIVATIONS,
    COLORS,
    IMAGE_PRESETS,
    LAYOUTS,
    NONFINITE,
    PLACEMENTS,
    RESIZES,
    TARGETS,
    Bytes,
    FilePath,
    ImageSize,
    Name,
    Numbers,
    StateLink,
    Table,
    TargetName,
)
from onnxq.errors import ConfigError

if TYPE_CHECKING:
    from onnxq.calibration.runner import CollectKeywords, NonFinite
    from onnxq.data.inputs import Layout
    from onnxq.pipeline.reading import ReadingKeywords
    from onnxq.planning.options import PlacementKeywords

Command = Callable[..., Any]
Decorator = Callable[[Command], Command]

FILE = FilePath(path_type=Path, readable=False)
"""Whether a file can be read is found by who reads it: that is an error of the file (exit code 3), not of the usage."""
COUNT = click.IntRange(min=1)

DATA_SUFFIX = ".calib.npz"
"""Calibration data is looked for beside model.onnx under the name model.calib.npz."""


def beside(model: Path, ending: str) -> Path:
    """The file beside a model that has its name and another ending; also of ".", which is told to be no model later."""
    return model.parent / (model.stem + ending)


@dataclass(frozen=True, kw_only=True)
class DataOptions:
    """Where samples come from and how they become arrays. Attributes as the options of the same names."""

    data: Path | None
    batch_size: int | None
    limit: int | None
    layout: Layout | None
    images: str | None
    mean: tuple[float, ...] | None
    std: tuple[float, ...] | None
    color: str | None
    resize: str | None
    crop_share: float | None
    image_size: tuple[int, int] | None
    shuffle: int | None
    state: tuple[tuple[str, str], ...]
    preprocess: str | None
    tokenizer: Path | None
    text_column: str | None
    max_length: int | None

    def beside(self, model: Path) -> DataOptions:
        """With the calibration data that lies beside the model, where none was named."""
        found = beside(model, DATA_SUFFIX)
        return replace(self, data=found) if self.data is None and found.is_file() else self

    def keywords(self) -> ReadingKeywords:
        """How the Python API is to read `source`."""
        return {
            "batch_size": self.batch_size,
            "limit": self.limit,
            "layout": self.layout,
            "images": self._images(),
        }

    def source(self) -> Any:
        """The data with what is said about how it is read, where something is."""
        said: dict[str, Any] = {
            "shuffle": self.shuffle,
            "state": dict(self.state or ()),
            "preprocess": self.preprocess,
            "tokenizer": self.tokenizer,
            "text_column": None if self.text_column is None else tuple(self.text_column.split(",")),
            "max_length": self.max_length,
        }
        given = {name: value for name, value in said.items() if value not in (None, {})}
        if not given:
            return self.data
        if self.data is None:
            named = ", ".join(f"--{name.replace('_', '-')}" for name in given)
            raise ConfigError(f"{named} without data", hint="pass --data SRC")
        from onnxq.data.description import Data  # noqa: PLC0415 - numpy only now

        return Data(self.data, **given)

    def _images(self) -> Any:
        """A preset's name, or options where single parts were given; None where nothing was said about images."""
        from onnxq.data.images import ImageOptions, image_options  # noqa: PLC0415 - imports numpy

        changes = {
            name: getattr(self, name)
            for name in ("mean", "std", "color", "resize", "crop_share")
            if getattr(self, name) is not None
        }
        if self.image_size is not None:
            changes["size"] = self.image_size
        if not changes:
            return self.images
        preset = image_options(self.images)
        return replace(preset, **changes) if preset is not None else ImageOptions(**changes)


@dataclass(frozen=True, kw_only=True)
class PlanOptions:
    """What is quantized, and for whom. Attributes as the options of the same names."""

    target: str
    exclude: tuple[str, ...]
    exclude_op: tuple[str, ...]
    exclude_between: tuple[str, ...]
    include: tuple[str, ...]
    include_op: tuple[str, ...]
    include_between: tuple[str, ...]
    override: tuple[dict[str, Any], ...]
    where: str
    activations: str | None

    def keywords(self) -> PlacementKeywords:
        """Which nodes the Python API is to quantize."""
        return {
            "exclude": self.exclude,
            "exclude_ops": self.exclude_op,
            "exclude_between": self.exclude_between,
            "include": self.include,
            "include_ops": self.include_op,
            "include_between": self.include_between,
            "overrides": self.override,
            "placement": self.where,
        }


@dataclass(frozen=True, kw_only=True)
class CollectOptions:
    """How statistics are collected. Attributes as the options of the same names."""

    threads: int | None
    ep: tuple[str, ...]
    nonfinite: NonFinite
    full_histogram: bool
    memory_limit: int | None

    def keywords(self) -> CollectKeywords:
        """How the Python API is to run the model and collect statistics."""
        return {
            "threads": self.threads,
            "providers": self.ep or None,
            "nonfinite": self.nonfinite,
            "full_histogram": self.full_histogram,
            "memory_limit": self.memory_limit,
        }


def data_options(help_text: str, *, as_argument: bool = False) -> Decorator:
    """The options of `DataOptions`; `help_text` explains --data, hidden where an argument stands for it."""
    return grouped(
        DataOptions,
        "data_from",
        click.option("--data", type=FILE, metavar="SRC", help=help_text, hidden=as_argument),
        click.option(
            "--batch-size", type=COUNT, metavar="N", help="Samples to feed at once, where the model leaves it open."
        ),
        click.option("--limit", type=COUNT, metavar="N", help="Most samples to use."),
        click.option(
            "--layout", type=Name(LAYOUTS), help="Where rank-4 data keeps its channels, if not where the model does."
        ),
        click.option(
            "--images",
            type=Name(IMAGE_PRESETS),
            help="How image files become model input; the options below change single parts of it.",
        ),
        click.option("--mean", type=Numbers(), help="Images: subtracted from pixel / 255, for each channel."),
        click.option("--std", type=Numbers(), help="Images: divided by after that, for each channel."),
        click.option("--color", type=Name(COLORS), help="Images: order of the channels."),
        click.option("--resize", type=Name(RESIZES), help="Images: how they are brought to the model's size."),
        click.option(
            "--crop-share",
            type=click.FloatRange(min=0, max=1, min_open=True),
            metavar="SHARE",
            help="Images: for --resize crop, side of the crop as a share of the resized short side.",
        ),
        click.option(
            "--image-size",
            type=ImageSize(),
            metavar=ImageSize.name,
            help="Images: size, where the model leaves it open; one number for a square.",
        ),
        click.option(
            "--shuffle",
            type=click.IntRange(min=0),
            metavar="SEED",
            help="Read the samples in a random order, the same for the same seed; --limit then takes the first of it.",
        ),
        click.option(
            "--state",
            multiple=True,
            type=StateLink(),
            metavar=StateLink.name,
            help="The model's OUTPUT is its INPUT in the next step; starts at zero with each sequence; repeatable.",
        ),
        click.option(
            "--preprocess",
            metavar="FILE.py:FUNCTION",
            help="A function that makes model input of a file (sound, image, row of text, any other); the file is run.",
        ),
        click.option("--tokenizer", type=FILE, help="Texts: the model's tokenizer.json."),
        click.option(
            "--text-column", metavar="NAME[,NAME]", help="Texts: column to take, two for pairs.  [default: text]"
        ),
        click.option("--max-length", type=COUNT, metavar="N", help="Texts: most tokens of a sample."),
    )


def plan_options() -> Decorator:
    """The options of `PlanOptions`."""
    return grouped(
        PlanOptions,
        "placement",
        target_option(),
        click.option(
            "--exclude",
            multiple=True,
            metavar="PATTERN",
            help="Keep nodes of this name in float: a name, a pattern such as '/head/*', or 're:' and a regular "
            "expression; repeatable.",
        ),
        click.option("--exclude-op", multiple=True, metavar="OP", help="Keep nodes of this type in float; repeatable."),
        click.option(
            "--exclude-between",
            multiple=True,
            metavar="FROM:TO",
            help="Keep every node on a path from tensor FROM to tensor TO in float; repeatable.",
        ),
        click.option(
            "--include",
            multiple=True,
            metavar="PATTERN",
            help="Quantize only nodes of this name and what fuses into them; what is excluded stays float; repeatable.",
        ),
        click.option(
            "--include-op", multiple=True, metavar="OP", help="Quantize nodes of this type alone; repeatable."
        ),
        click.option(
            "--include-between",
            multiple=True,
            metavar="FROM:TO",
            help="Quantize only nodes on a path from tensor FROM to tensor TO; repeatable.",
        ),
        click.option(
            "--override",
            multiple=True,
            type=Table(),
            metavar=Table.name,
            help="Quantize single nodes or tensors differently, such as 'tensors = \"images\", range = [0, 1]'; "
            "repeatable. See docs/control.md.",
        ),
        click.option(
            "--placement",
            "where",
            type=Name(PLACEMENTS),
            default="fast",
            show_default=True,
            help="fast keeps nodes in float that are faster there; full runs in int8 what can.",
        ),
        click.option(
            "--activations",
            type=Name(ACTIVATIONS),
            help="Type of the activations, if not the target's own; weights follow. none: float, in mode weight-only. "
            "See docs/types.md.",
        ),
    )


def target_option(default: str | None = "ort-cpu", unasked: str | bool = True) -> Decorator:
    """--target.

    Args:
        default: What it is unless given.
        unasked: What help says of that, where it is not the default itself.
    """
    return click.option(
        "--target",
        "-t",
        type=TargetName(TARGETS),
        metavar="NAME",
        default=default,
        show_default=unasked,
        help="Engine that will run the model: ort-cpu (this machine's CPU), ort-x64-avx2, ort-x64-vnni, ort-arm64, "
        "tensorrt, openvino (on this machine's CPU), openvino-avx2, qnn, xnnpack, or a .toml file with a table of your "
        "own.",
    )


def json_option(what: str) -> Decorator:
    """--json, which prints `what`."""
    return click.option("--json", "as_json", is_flag=True, help=f"Print {what} as JSON, and nothing else, on stdout.")


def junit_option() -> Decorator:
    """--junit."""
    return click.option(
        "--junit", type=FILE, metavar="FILE.xml", help="Write the checks as JUnit XML, which CI servers show as tests."
    )


def quiet_option() -> Decorator:
    """--quiet."""
    return click.option("--quiet", "-q", is_flag=True, help="Print nothing but errors and warnings.")


def force_option() -> Decorator:
    """--force."""
    return click.option("--force", "-f", is_flag=True, help="Replace files that exist.")


def debug_option() -> Decorator:
    """--debug, which only the group reads: the traceback of an error is printed outside of all commands."""
    return click.option("--debug", is_flag=True, expose_value=False, help="Show the traceback of an error.")


def collect_options() -> Decorator:
    """The options of `CollectOptions`."""
    return grouped(
        CollectOptions,
        "collecting",
        click.option(
            "--threads",
            type=COUNT,
            metavar="N",
            help="Threads for inference while calibrating; by default onnxruntime decides.",
        ),
        click.option(
            "--ep",
            multiple=True,
            metavar="PROVIDER",
            help="onnxruntime's provider for calibration, such as cuda or cpu; several, in fall-back order, "
            "by commas or repeated.",
        ),
        click.option(
            "--nonfinite",
            type=Name(NONFINITE),
            default="error",
            show_default=True,
            help="What NaN and Inf in a tensor are: an error, or left out of the statistics.",
        ),
        click.option("--full-histogram", is_flag=True, help="Count every element of a tensor, not a sample of them."),
        click.option(
            "--memory-limit",
            type=Bytes(),
            metavar=Bytes.name,
            help="Memory for tensors under calibration, such as 4GB; where they do not fit, the data is read several "
            "times, with the same result.",
        ),
    )


def grouped(group: type[Any], name: str, *options: Decorator) -> Decorator:
    """A decorator that adds `options` to a command and passes their values as one `group` under `name`."""
    keys = [field.name for field in fields(group)]

    def decorate(command: Command) -> Command:
        @functools.wraps(command)
        def wrapped(**values: Any) -> Any:
            return command(**{name: group(**{key: values.pop(key) for key in keys})}, **values)

        result: Command = wrapped
        for option in reversed(options):
            result = option(result)
        return result

    return decorate
