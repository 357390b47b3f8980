"""Image files as model input: resize, colour order, scale, mean and standard deviation, channel layout.

    x = (pixel / 255 - mean) / std        per channel, in the order of `color`

How pixels become numbers is part of the model, and a wrong guess gives plausible but wrong ranges: without options the
folder is refused.
"""

from __future__ import annotations

import copy
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from numbers import Real
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from onnxq.data.batches import Item
from onnxq.data.cutting import ArrayColumn
from onnxq.data.inputs import InputSpec, InputSpecs
from onnxq.data.sharding import Shard
from onnxq.errors import ConfigError, DataError
from onnxq.keywords import guesses
from onnxq.wording.plural import counted

if TYPE_CHECKING:
    from PIL import Image

_CROP_SHARE = 0.875
"""torchvision's: 224 of 256."""
_LARGEST_MEAN = 2.0
_LARGEST_STD = 5.0
"""Beyond these, mean and std are those of pixels from 0 to 255."""

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".ppm")

Resize = Literal["stretch", "crop", "letterbox", "height"]


@guesses
@dataclass(frozen=True, kw_only=True)
class ImageOptions:
    """How an image file becomes an array.

    Attributes:
        mean: Subtracted from pixel / 255, for each channel in the order of `color`; one value serves all.
        std: Divided by, likewise. mean 0 and std 1/255 leave raw pixels.
        color: Order of the channels.
        resize: "stretch" to the size; "crop": the short side to size / crop_share, then the centre; "letterbox": keep
            the aspect ratio, pad to the size with grey 114; "height": keep the aspect ratio at the model's height,
            squeeze or pad the right (with zeros after scaling) to the width.
        crop_share: Side of the crop as a share of the resized short side.
        size: (height, width) in pixels where the model leaves them open; one number for a square.
    """

    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    color: Literal["rgb", "bgr"] = "rgb"
    resize: Resize = "stretch"
    crop_share: float = _CROP_SHARE
    size: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        for name in ("mean", "std"):
            given: Any = getattr(self, name)
            values = (given,) if isinstance(given, Real) else given
            numbers = [] if isinstance(values, str) or not isinstance(values, Iterable) else [*values]
            if not numbers or not all(isinstance(v, Real) and not isinstance(v, bool) for v in numbers):
                raise ConfigError(
                    f"{name} is {given!r}, expected a number for each channel, or one for all",
                    hint=f"{name}= (--{name}) is in units of pixel / 255.",
                )
            object.__setattr__(self, name, tuple(map(float, numbers)))
        if isinstance(self.size, int):
            object.__setattr__(self, "size", (self.size, self.size))
        if self.size is not None and (len(self.size) != 2 or not all(isinstance(n, int) and n > 0 for n in self.size)):
            raise ConfigError(
                f"size is {self.size!r}",
                hint="size= (--image-size) is (height, width) in pixels, or one number for a square.",
            )
        for name, allowed in (("color", ("rgb", "bgr")), ("resize", ("stretch", "crop", "letterbox", "height"))):
            if getattr(self, name) not in allowed:
                listed = ", ".join(map(repr, allowed))
                raise ConfigError(
                    f"unknown {name} {getattr(self, name)!r}", hint=f"{name}= (--{name}) is one of {listed}."
                )
        if self.crop_share != _CROP_SHARE and self.resize != "crop":
            raise ConfigError(
                f"crop_share= (--crop-share) serves resize='crop' (--resize crop), and resize is {self.resize!r}",
                hint="leave out crop_share= (--crop-share), or pass resize='crop' (--resize crop)",
            )
        if not all(math.isfinite(v) for v in self.mean) or not all(math.isfinite(v) and v > 0 for v in self.std):
            raise ConfigError(
                f"mean {self.mean} and std {self.std} must be finite, and std positive",
                hint="mean= and std= (--mean, --std) are in units of pixel / 255.",
            )
        # A pixel / 255 lies within 0..1, and so does its mean; the widest spread in use is 1 (nothing is divided by).
        if max(map(abs, self.mean)) > _LARGEST_MEAN or max(self.std) > _LARGEST_STD:
            shares = [",".join(f"{v / 255:.4g}" for v in values) for values in (self.mean, self.std)]
            raise ConfigError(
                f"mean {self.mean} and std {self.std} are in units of 0..255, but those of pixel / 255 are expected",
                hint=f"mean= and std= (--mean {shares[0]} --std {shares[1]}) are the same divided by 255; "
                "without a division use std 1/255.",
            )


PRESETS: Mapping[str, ImageOptions] = {
    # torchvision's reference evaluation: short side 256, centre crop 224.
    "imagenet": ImageOptions(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225), resize="crop", size=(224, 224)),
    # Ultralytics' LetterBox, without rectangular inference.
    "yolo": ImageOptions(resize="letterbox", size=(640, 640)),
    # PaddleOCR's text recognition and angle classification.
    "paddleocr": ImageOptions(mean=(0.5,), std=(0.5,), color="bgr", resize="height", size=(48, 320)),
}

_LETTERBOX_GREY = 114
_GREY = frozenset({"1", "L", "LA", "La", "I", "I;16", "I;16B", "I;16L", "F"})
"""Modes of Pillow without colours."""


def image_options(images: ImageOptions | str | None) -> ImageOptions | None:
    """The options that a preset's name stands for; options and None pass through.

    Raises:
        ConfigError: no preset has that name.
    """
    if not isinstance(images, str):
        return images
    if images not in PRESETS:
        raise ConfigError(
            f"unknown image preset {images!r}", hint=f"images= (--images) is one of {', '.join(map(repr, PRESETS))}."
        )
    return PRESETS[images]


def for_model(options: ImageOptions | None, metadata: Mapping[str, str]) -> ImageOptions | None:
    """The preset "yolo" with the size that Ultralytics' export notes in the model; other options as they are.

    Args:
        options: What the user said.
        metadata: Of the model.
    """
    size = noted_size(metadata)
    return options if size is None or options is not PRESETS["yolo"] else replace(options, size=size)


def noted_size(metadata: Mapping[str, str]) -> tuple[int, int] | None:
    """Height and width in pixels that Ultralytics' export notes in a model; None where there is no such note.

    Args:
        metadata: Of the model. `imgsz` is a size in pixels, "[height, width]" or one number for both.
    """
    sizes = [int(number) for number in re.findall(r"\d+", metadata.get("imgsz", ""))]
    return (sizes[0], sizes[-1]) if 1 <= len(sizes) <= 2 and all(sizes) else None


class ImageSource:
    """Image files, one sample each."""

    one_shot = False

    def __init__(
        self,
        paths: list[Path],
        *,
        inputs: InputSpecs,
        options: ImageOptions | None,
        batch_size: int | None,
        where: str,
    ) -> None:
        self._paths = paths
        self._spec = _image_input(inputs, where)
        self._raw = self._spec.dtype == np.uint8
        if options is None and not self._raw:
            raise DataError(
                f"a folder of images needs to be told how pixels become the numbers of input {self._spec.name!r}",
                where=where,
                hint="pass images='imagenet', 'yolo' or 'paddleocr', or images=ImageOptions(mean=..., std=...) "
                "(--images imagenet, or --mean and --std).",
            )
        self._options = options or ImageOptions()
        _check_channels(self._spec, self._options, where)
        self._height, self._width = _size(self._spec, self._options, where)
        self._group = self._spec.fixed_batch or batch_size or 1
        self._image = _pillow()
        self.samples: int | None = len(self._paths)

    def part(self, shard: Shard) -> ImageSource:
        """The images of one shard: where the model fixes its batch, whole ones, and what is left with the last."""
        unit, twin = self._spec.fixed_batch or 1, copy.copy(self)
        last = max(len(self._paths) // unit - 1, 0)
        twin._paths = [path for i, path in enumerate(self._paths) if shard.holds(min(i // unit, last))]
        twin.samples = len(twin._paths)
        return twin

    def items(self, note: Callable[[str], None]) -> Iterator[Item]:
        group: list[NDArray[Any]] = []
        turned = 0
        for path in self._paths:
            array, is_grey = self._load(path)
            group.append(array)
            turned += is_grey is not self._takes_grey
            if len(group) == self._group:
                yield self._item(group, path.name)
                group = []
        if turned:
            note(self._turned_note(turned))
        if not group:
            return
        if self._spec.fixed_batch:
            note(
                f"{len(group)} of {counted(len(self._paths), 'image')} left out: "
                f"the model's batch is fixed at {self._group}"
            )
        else:
            yield self._item(group, self._paths[-1].name)

    @property
    def _takes_grey(self) -> bool:
        return _channels(self._spec) == 1

    def _turned_note(self, count: int) -> str:
        """What to say of pictures that have other channels than the model's input."""
        spec, pictures = self._spec, f"{count} of {counted(len(self._paths), 'picture')}"
        shape, one = f"input {spec.name!r} {spec.describe()}", count == 1
        if self._takes_grey:
            done = "has colours and was made grey" if one else "have colours and were made grey"
            return f"{pictures} {done}: {shape} has one channel"
        return f"{pictures} {'is' if one else 'are'} grey, and all channels of {shape} got the same"

    def of_item(self, item: Any) -> dict[str, NDArray[Any]] | None:
        """The input of an item that is a picture of Pillow or holds one, by name or in front of its label."""
        parts = item.values() if isinstance(item, Mapping) else item if isinstance(item, (list, tuple)) else (item,)
        pictures = [part for part in parts if isinstance(part, self._image.Image)]
        return {self._spec.name: self.prepared(pictures[0])[None]} if pictures else None

    def _item(self, group: list[NDArray[Any]], origin: str) -> Item:
        return Item({self._spec.name: ArrayColumn(np.stack(group))}, size=None, stacked=False, origin=origin)

    def _load(self, path: Path) -> tuple[NDArray[Any], bool]:
        """What the options make of the picture in a file, and whether that is grey."""
        try:
            with self._image.open(path) as opened:
                opened.load()
                return self.prepared(opened), opened.mode in _GREY
        except MemoryError:
            raise
        except Exception as error:  # decoders raise what they like: SyntaxError, struct.error, DecompressionBombError
            raise _unreadable(path, error) from error

    def prepared(self, picture: Image.Image) -> NDArray[Any]:
        """What the options make of a picture, without a batch axis."""
        grey = self._takes_grey
        pixels, used_width = self._resized(picture.convert("L" if grey else "RGB"))
        pixels = pixels[..., None] if grey else pixels
        array: NDArray[Any] = pixels[..., ::-1] if self._options.color == "bgr" else pixels
        if not self._raw:
            array = _normalised(array, self._options)
            array[:, used_width:] = 0.0
        return array if self._spec.layout == "nhwc" else array.transpose(2, 0, 1)

    def _resized(self, image: Image.Image) -> tuple[NDArray[np.uint8], int]:
        """Pixels of the model's size, and the width up to which they belong to the image."""
        height, width = self._height, self._width
        how = self._options.resize
        bilinear = self._image.Resampling.BILINEAR
        if how == "stretch":
            return np.asarray(image.resize((width, height), bilinear)), width
        if how == "crop":
            share = self._options.crop_share
            factor = max(height / share / image.height, width / share / image.width)
            side = image.resize(
                (max(width, round(image.width * factor)), max(height, round(image.height * factor))), bilinear
            )
            left, top = (side.width - width) // 2, (side.height - height) // 2
            return np.asarray(side.crop((left, top, left + width, top + height))), width
        factor = height / image.height if how == "height" else min(height / image.height, width / image.width)
        inner = (min(width, max(1, round(image.width * factor))), min(height, max(1, round(image.height * factor))))
        small = image.resize(inner, bilinear)
        colour = (_LETTERBOX_GREY,) * len(image.getbands()) if how == "letterbox" else (0,) * len(image.getbands())
        canvas = self._image.new(image.mode, (width, height), colour)
        corner = ((width - inner[0]) // 2, (height - inner[1]) // 2) if how == "letterbox" else (0, 0)
        canvas.paste(small, corner)
        return np.asarray(canvas), width if how == "letterbox" else inner[0]


def _normalised(pixels: NDArray[np.uint8], options: ImageOptions) -> NDArray[np.float32]:
    mean, std = np.asarray(options.mean, np.float32), np.asarray(options.std, np.float32)
    scaled: NDArray[np.float32] = (pixels.astype(np.float32) / np.float32(255) - mean) / std
    return scaled


def _image_input(inputs: InputSpecs, where: str) -> InputSpec:
    spec = next(iter(inputs.values()))
    if len(inputs) != 1 or spec.shape is None or len(spec.shape) != 4 or _channels(spec) not in (1, 3, None):
        raise DataError(
            "images fit only a model with one input of shape (N, 3, H, W), (N, 1, H, W) or channels-last; this one has "
            + ", ".join(f"{s.name!r} {s.describe()}" for s in inputs.values()),
            where=where,
            hint="let a function of yours make an array of each picture, preprocess= (--preprocess FILE.py:FUNCTION), "
            "or pass the arrays in a .npz file as data= (--data).",
        )
    return spec


def _check_channels(spec: InputSpec, options: ImageOptions, where: str) -> None:
    """See that mean and std have a value for each channel, or one for all.

    Raises:
        DataError: they have another number of values.
    """
    channels = _channels(spec)
    preset = next((name for name, one in PRESETS.items() if one == options), None)
    if preset is not None and channels == 1 and len(options.mean) > 1:
        raise DataError(
            f"images={preset!r} (--images {preset}) prepares pictures in colour, but input {spec.name!r} "
            f"{spec.describe()} has one channel",
            where=where,
            hint="pictures in colour are made grey for it; say how it was trained by one value each: "
            "images=ImageOptions(mean=..., std=...) (--mean and --std).",
        )
    for name, values in (("mean", options.mean), ("std", options.std)):
        if channels is not None and len(values) not in (1, channels):
            many = "one value" if channels == 1 else f"one value, or {channels}"
            raise DataError(
                f"{name} has {counted(len(values), 'value')}, but input {spec.name!r} {spec.describe()} has "
                + counted(channels, "channel"),
                where=where,
                hint=f"give {many}: images=ImageOptions({name}=..., ...) (--{name}), as in training; pictures in "
                "colour are made grey for one channel, grey ones go to all three.",
            )


def _channels(spec: InputSpec) -> int | None:
    shape = spec.shape or (None,) * 4
    channels = shape[3] if spec.layout == "nhwc" else shape[1]
    return channels if isinstance(channels, int) else None


def _size(spec: InputSpec, options: ImageOptions, where: str) -> tuple[int, int]:
    shape = spec.shape or (None,) * 4
    dims = shape[1:3] if spec.layout == "nhwc" else shape[2:4]
    size = [d if isinstance(d, int) else (options.size or (None, None))[i] for i, d in enumerate(dims)]
    if None in size:
        raise DataError(
            f"input {spec.name!r} {spec.describe()} leaves the image size open",
            where=where,
            hint="pass images=ImageOptions(size=(height, width), ...) (--image-size HEIGHTxWIDTH).",
        )
    # The sizes of presets are for models that leave theirs open; any other was asked for.
    asked = options.size is not None and options.size not in [preset.size for preset in PRESETS.values()]
    if asked and tuple(size) != options.size:
        given, fixed = ("x".join(map(str, pair)) for pair in (options.size or (), size))
        raise DataError(
            f"input {spec.name!r} {spec.describe()} takes images of {fixed}, and the size given is {given}",
            where=where,
            hint=f"leave out size= (--image-size), or pass {fixed}; resize= (--resize) says how images get that size.",
        )
    return int(size[0] or 0), int(size[1] or 0)


def open_image(path: Path) -> Any:
    """The image in a file, as Pillow has it, read whole.

    Raises:
        DataError: it is no image, or Pillow is not installed.
    """
    try:
        image = _pillow().open(path)
        image.load()
    except (MemoryError, DataError):
        raise
    except Exception as error:  # as above
        raise _unreadable(path, error) from error
    return image


def _unreadable(path: Path, error: Exception) -> DataError:
    said = str(error).replace(f" {str(path)!r}", "")  # Pillow names it once more
    return DataError(
        f"not a readable image: {said}",
        where=str(path),
        hint="mend the file, or take it out of the folder: every file with the suffix of an image is read, but for "
        "limit= (--limit).",
    )


def _pillow() -> Any:
    try:
        from PIL import Image as Pillow  # noqa: PLC0415 - an optional dependency
    except ImportError as error:
        raise DataError(
            "reading images needs Pillow, which is not installed", hint="pip install 'onnxq[images]'."
        ) from error
    return Pillow
