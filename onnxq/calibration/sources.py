"""Where data comes from: opens whatever the user has and names the way out where it cannot be used.

file.npz, file.npy, a folder of them      the first axis counts samples
a folder of images                        needs `images`: how pixels become numbers is never guessed
test_data_set_*/input_*.pb                ONNX's test data, one batch for each set
file.py with load_data()                  Polygraphy's convention: yields {input name: array}, one batch each
an iterable, a function that returns one, an object with get_next() (onnxruntime's CalibrationDataReader)
                                          {input name: array}, one batch each
{input name: array} or one array          as a .npz or .npy file
"""

from __future__ import annotations

import runpy
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from onnx import TensorProto, numpy_helper

from onnxq.calibration.array_files import SUFFIXES, array_shapes, open_columns
from onnxq.calibration.batches import Batches, Item, Notes, Source, read_batches
from onnxq.calibration.cutting import ArrayColumn, Column, Cutter
from onnxq.calibration.images import IMAGE_SUFFIXES, ImageOptions, ImageSource, image_options
from onnxq.calibration.inputs import InputSpecs, Layout
from onnxq.calibration.sharded_batches import ShardedBatches
from onnxq.calibration.sharding import Shard
from onnxq.calibration.variation import watched
from onnxq.errors import ConfigError, DataError
from onnxq.graph.external_data import is_external

LABELS = "labels"
"""An extra array of this name in a .npz file is skipped: it is where data sets keep their classes."""

_UNNAMED = ("", "arr_0")
"""An array in a .npy file, and what numpy.savez calls one that was given no name."""

_KINDS = (
    "a .npz or .npy file, a folder of them, a folder of images, test_data_set_* folders, or a .py file with load_data()"
)


def open_data(  # noqa: PLR0913 - one keyword for each choice of the user
    source: object,
    *,
    inputs: InputSpecs,
    batch_size: int | None = None,
    limit: int | None = None,
    layout: Layout | None = None,
    images: ImageOptions | str | None = None,
    shard: Shard | None = None,
    label: str = "calibration",
    skip: Collection[str] = (),
) -> Batches:
    """Open calibration or verification data for a model.

    Args:
        source: A path (str or Path), an iterable of `{input name: array}`, a function that returns one, an onnxruntime
            CalibrationDataReader, a dict of arrays, or one array. See the module's table.
        inputs: What the model expects.
        batch_size: Samples in a run, for files, arrays and images and where the model leaves it open; 1 by default.
            Batches from iterables are fed as they come.
        limit: Most samples to use. From a folder of images they are taken evenly over its sorted files.
        layout: Where rank-4 data keeps its channels ("nchw" or "nhwc"), if not where the model does.
        images: How image files become arrays: "imagenet", "yolo", "paddleocr", or ImageOptions.
        shard: The part of the data to take, after `limit`; the result is then a ShardedBatches.
        label: What the data is called in messages.
        skip: Arrays in files and dicts that are not fed, besides "labels".

    Raises:
        ConfigError: an option has an impossible value, or none for this kind of source.
        DataError: the source is of no known kind, is missing or is empty.
    """
    for name, value in (("batch_size", batch_size), ("limit", limit)):
        if value is not None and value < 1:
            flag = name.replace("_", "-")
            raise ConfigError(f"{name} is {value}", hint=f"{name}= (--{flag}) is a number of samples, 1 or more.")
    if layout not in (None, "nchw", "nhwc"):
        raise ConfigError(f"unknown layout {layout!r}", hint="layout= (--layout) is 'nchw' or 'nhwc'.")
    opened = _source(source, inputs, batch_size, limit, image_options(images), frozenset((LABELS, *skip)))
    if images is not None and not isinstance(opened, ImageSource):
        raise images_without_files(source)
    notes = Notes()
    if batch_size is not None and (why := _batch_size_is_moot(opened, inputs, batch_size)):
        notes.add(f"batch_size= (--batch-size) has no effect: {why}")
    total = None
    if shard is not None and isinstance(opened, ImageSource):
        # Decoding is dear: a shard reads only its own images.
        total, opened = opened.samples, opened.part(shard)
    cutter = Cutter(inputs=inputs, layout=None if isinstance(opened, ImageSource) else layout, note=notes.add)
    known = opened.samples
    batches = Batches(
        lambda: watched(read_batches(opened, cutter, limit=limit, label=label), notes, label=label),
        inputs=inputs,
        notes=notes,
        expected_samples=min(known, limit) if known is not None and limit is not None else known,
        one_shot=opened.one_shot,
        label=label,
    )
    return batches if shard is None else ShardedBatches(batches, shard, total_samples=total)


def images_without_files(source: object) -> ConfigError:
    """The error for options of images where `source` holds none (None: there is no data at all)."""
    given = "there is no data" if source is None else "the data is not a folder of images"
    return ConfigError(
        f"images are described, but {given}",
        hint="leave out images= (--images, --mean, --std, --color, --resize, --crop-share, --image-size), "
        "or pass image files as data= (--data)",
    )


def _batch_size_is_moot(source: Source, inputs: InputSpecs, batch_size: int) -> str | None:
    """Why the size of batches cannot be chosen, where it cannot."""
    sizes = {spec.fixed_batch for spec in inputs.values() if spec.shape}
    if sizes and None not in sizes and sizes != {batch_size}:
        return f"the model's batch is fixed at {', '.join(map(str, sorted(size or 0 for size in sizes)))}"
    if isinstance(source, (FeedsSource, TestDataSource)):
        return "the data comes in batches, which are fed as they are"
    return None


def _source(  # noqa: PLR0913, PLR0917 - the parts of one decision
    source: object,
    inputs: InputSpecs,
    batch_size: int | None,
    limit: int | None,
    images: ImageOptions | None,
    skip: frozenset[str],
) -> Source:
    if isinstance(source, (str, Path)):
        return _path_source(Path(source), inputs, batch_size, limit, images, skip)
    if isinstance(source, np.ndarray):
        return ArraysSource({"": source}, inputs, batch_size, skip)
    if isinstance(source, Mapping):
        return ArraysSource(source, inputs, batch_size, skip)
    if callable(source) or callable(getattr(source, "get_next", None)) or isinstance(source, Iterable):
        return FeedsSource(source)
    raise DataError(
        f"data of type {type(source).__name__} is of no known kind",
        hint=f"pass data= (--data) {_KINDS}, or an iterable of {{input name: array}}.",
    )


def _path_source(  # noqa: PLR0913, PLR0917 - the parts of one decision
    path: Path,
    inputs: InputSpecs,
    batch_size: int | None,
    limit: int | None,
    images: ImageOptions | None,
    skip: frozenset[str],
) -> Source:
    where = str(path)
    if not path.exists():
        raise DataError("no such file or folder", where=where, hint="check the path in data= (--data).")
    if path.is_file():
        if path.suffix.lower() in SUFFIXES:
            return FilesSource([path], inputs, batch_size, skip)
        if path.suffix == ".py":
            return FeedsSource(_load_data(path), origin=path.name)
        if path.suffix.lower() in IMAGE_SUFFIXES:
            return ImageSource([path], inputs=inputs, options=images, batch_size=batch_size, limit=limit, where=where)
        raise DataError(f"{path.suffix or 'a file without suffix'} is no known kind of data", where=where, hint=_hint())
    sets = sorted(p for p in path.glob("test_data_set_*") if p.is_dir()) or ([path] if _inputs_of(path) else [])
    if sets:
        return TestDataSource(sets, inputs)
    arrays = sorted(p for p in path.iterdir() if p.suffix.lower() in SUFFIXES)
    pictures = image_files(path)
    if arrays and pictures:
        raise DataError(
            f"the folder holds both arrays ({arrays[0].name}) and images ({pictures[0].name})",
            where=where,
            hint="pass a folder that holds one kind of data.",
        )
    if pictures:
        return ImageSource(pictures, inputs=inputs, options=images, batch_size=batch_size, limit=limit, where=where)
    if arrays:
        return FilesSource(arrays, inputs, batch_size, skip)
    raise DataError("no calibration data: the folder holds neither arrays nor images", where=where, hint=_hint())


def image_files(path: Path) -> list[Path]:
    """The image files of a folder and its subfolders in the order in which they are fed, or the one file."""
    if path.is_file():
        return [path] if path.suffix.lower() in IMAGE_SUFFIXES else []
    return sorted(p for p in path.rglob("*") if p.suffix.lower() in IMAGE_SUFFIXES)


def _hint() -> str:
    return f"data= (--data) takes {_KINDS}."


class ArraysSource:
    """Arrays in memory, the first axis counting samples."""

    one_shot = False

    def __init__(
        self, arrays: Mapping[str, Any], inputs: InputSpecs, batch_size: int | None, skip: frozenset[str]
    ) -> None:
        self._skip = skip
        self._arrays = {name: np.asarray(value) for name, value in arrays.items()}
        self._inputs = inputs
        self._size = batch_size or 1
        self.samples = _samples({n: a.shape for n, a in self._arrays.items()}, inputs)

    def items(self, note: Callable[[str], None]) -> Iterator[Item]:
        columns: dict[str, Column] = {name: ArrayColumn(array) for name, array in self._arrays.items()}
        yield Item(_named(columns, self._inputs, note, self._skip), self._size, stacked=True)


class FilesSource:
    """.npy and .npz files, the first axis of their arrays counting samples."""

    one_shot = False

    def __init__(self, paths: list[Path], inputs: InputSpecs, batch_size: int | None, skip: frozenset[str]) -> None:
        self._skip = skip
        self._paths = paths
        self._inputs = inputs
        self._size = batch_size or 1
        counts = [_samples(array_shapes(path), inputs) for path in paths]
        self.samples: int | None = sum(c or 0 for c in counts)

    def items(self, note: Callable[[str], None]) -> Iterator[Item]:
        for path in self._paths:
            with open_columns(path) as columns:
                yield Item(_named(columns, self._inputs, note, self._skip), self._size, stacked=True, origin=path.name)


def _samples(shapes: Mapping[str, tuple[int, ...]], inputs: InputSpecs) -> int | None:
    """Longest first axis among the inputs: the sample count in all but contrived data."""
    lengths = [shape[0] for name, shape in shapes.items() if shape and (name in inputs or len(inputs) == 1)]
    return max(lengths, default=None)


def _named(
    columns: Mapping[str, Column], inputs: InputSpecs, note: Callable[[str], None], skip: frozenset[str]
) -> Mapping[str, Column]:
    """Columns under the model's input names: labels left out, a lone array given to a lone input."""
    kept = {name: column for name, column in columns.items() if name not in skip or name in inputs}
    for name in columns:
        if name not in kept:
            note(f"the array {name!r} was skipped: it is not an input of the model")
    if len(kept) == 1 and len(inputs) == 1:
        ((name, column),) = kept.items()
        if name not in inputs and name not in _UNNAMED:
            note(f"the only array, {name!r}, was taken for the only input, {next(iter(inputs))!r}")
        return {next(iter(inputs)): column}
    if "" in kept:
        raise DataError(
            f"a single array cannot feed the model's {len(inputs)} inputs",
            hint=f"use a .npz file with the arrays {', '.join(map(repr, inputs))}.",
        )
    return kept


class FeedsSource:
    """Anything that yields `{input name: array}`, one batch each."""

    samples: int | None = None

    def __init__(self, feeds: Any, origin: str | None = None) -> None:
        self._feeds = feeds
        self._origin = origin
        self._reads = 0
        reader = hasattr(feeds, "get_next")
        self._rewind: Callable[[], object] | None = getattr(feeds, "rewind", None) if reader else None
        one_shot_iterator = not callable(feeds) and iter(feeds) is feeds if not reader else self._rewind is None
        self.one_shot = one_shot_iterator

    def items(self, note: Callable[[str], None]) -> Iterator[Item]:
        for number, feed in enumerate(self._iterate(), start=1):
            if not isinstance(feed, Mapping):
                raise DataError(
                    f"item {number} of the data is of type {type(feed).__name__}",
                    hint="yield a dict {input name: array} for each batch.",
                )
            yield Item(
                {str(name): ArrayColumn(np.asarray(value)) for name, value in feed.items()},
                size=None,
                stacked=False,
                origin=self._origin,
            )

    def _iterate(self) -> Iterator[Any]:
        self._reads += 1
        if hasattr(self._feeds, "get_next"):
            if self._reads > 1 and self._rewind is not None:
                self._rewind()
            return iter(self._feeds.get_next, None)
        return iter(self._feeds() if callable(self._feeds) else self._feeds)


def _load_data(path: Path) -> Callable[[], Iterator[Any]]:
    """`load_data` of a user's Python file; its errors become DataError."""

    def feeds() -> Iterator[Any]:
        try:
            load_data = runpy.run_path(str(path)).get("load_data")
            if callable(load_data):
                yield from load_data()
        except Exception as error:
            raise DataError(f"load_data() failed: {type(error).__name__}: {error}", where=str(path)) from error
        if not callable(load_data):
            raise DataError(
                "the file defines no load_data()",
                where=str(path),
                hint="define load_data() so that it yields {input name: array} for each batch.",
            )

    return feeds


class TestDataSource:
    """ONNX test data: a folder of input_<i>.pb for each batch."""

    one_shot = False
    __test__ = False  # not a test class, whatever pytest thinks of its name

    def __init__(self, folders: list[Path], inputs: InputSpecs) -> None:
        self._folders = folders
        self._inputs = inputs
        self.samples: int | None = None

    def items(self, note: Callable[[str], None]) -> Iterator[Item]:
        for folder in self._folders:
            columns = dict(chain.from_iterable(self._read(path) for path in _inputs_of(folder)))
            yield Item(columns, size=None, stacked=False, origin=folder.name)

    def _read(self, path: Path) -> Iterator[tuple[str, Column]]:
        try:
            proto = TensorProto.FromString(path.read_bytes())
            # A test vector has no business with files; onnx would look in the working directory.
            array = None if is_external(proto) else numpy_helper.to_array(proto)
        except Exception as error:  # protobuf's error class differs between its implementations
            raise DataError(f"not a readable tensor: {error}", where=str(path)) from error
        if array is None:
            raise DataError("not a readable tensor: its data lies in another file", where=str(path))
        # The file's number is the input's position; the name inside is optional in the format.
        position = int(path.stem.removeprefix("input_"))
        names = list(self._inputs)
        by_position = names[position] if position < len(names) else path.stem
        yield (proto.name if proto.name in self._inputs else by_position), ArrayColumn(array)


def _inputs_of(folder: Path) -> list[Path]:
    found = [p for p in folder.glob("input_*.pb") if p.stem.removeprefix("input_").isdigit()]
    return sorted(found, key=lambda p: int(p.stem.removeprefix("input_")))
