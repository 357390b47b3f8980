"""Where data comes from: opens whatever the user has and names the way out where it cannot be used.

file.npz, file.npy, a folder of them      the first axis counts samples
a folder of images                        needs `images`: how pixels become numbers is never guessed
test_data_set_*/input_*.pb                ONNX's test data, one batch for each set
file.py with load_data()                  Polygraphy's convention: yields {input name: array}, one batch each
file.json                                 Polygraphy's inputs, see `polygraphy_json`
.jsonl, .csv, .tsv, .txt                  texts, with a tokenizer or a hook, see `texts`
.wav, a folder of them or of other files  with a hook, which makes model input of each file, see `feeds`
an iterable, a function that returns one, an object with get_next() (onnxruntime's CalibrationDataReader)
                                          {input name: array} or what `feeds` takes, one batch each
{input name: array} or one array          as a .npz or .npy file

Data (see `description`) says more about any of them: shuffled, with a state, through a hook.
"""

from __future__ import annotations

import runpy
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from onnxq.data.array_files import SUFFIXES
from onnxq.data.array_sources import ArraysSource, FilesSource
from onnxq.data.batches import Batches, Notes, Source, read_batches
from onnxq.data.cutting import Cutter
from onnxq.data.description import Data, Hook, data_from
from onnxq.data.feeds import FeedsSource
from onnxq.data.file_sources import FOLDER_SUFFIXES, check_there, files_source
from onnxq.data.images import IMAGE_SUFFIXES, ImageOptions, ImageSource, for_model, image_options
from onnxq.data.inputs import InputSpecs, Layout
from onnxq.data.onnx_test_data import TestDataSource, input_files
from onnxq.data.polygraphy_json import json_feeds
from onnxq.data.recurrence import Recurrence
from onnxq.data.sharded_batches import ShardedBatches
from onnxq.data.sharding import Shard
from onnxq.data.shuffling import chosen_files
from onnxq.data.user_code import function_from
from onnxq.data.variation import watched
from onnxq.errors import ConfigError, DataError
from onnxq.graph.model import get_metadata
from onnxq.graph.view import Graph

LABELS = "labels"
"""An extra array of this name in a .npz file is skipped: it is where data sets keep their classes."""

_KINDS = (
    "a .npz or .npy file, a folder of them, a folder of images, test_data_set_* folders, a .py file with load_data(), "
    "a .json file of Polygraphy, texts (.jsonl, .csv, .txt) with tokenizer= (--tokenizer), or .wav and other files "
    "with preprocess= (--preprocess)"
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
    graph: Graph | None = None,
) -> Batches:
    """Open calibration or verification data for a model.

    Args:
        source: A path (str or Path), an iterable of `{input name: array}`, a function that returns one, an onnxruntime
            CalibrationDataReader, a dict of arrays, or one array (see the module's table); or Data.
        inputs: What the model expects.
        batch_size: Samples in a run, for files, arrays and images and where the model leaves it open; 1 by default.
            Batches from iterables are fed as they come.
        limit: Most samples to use. From a folder of images they are taken evenly over its sorted files.
        layout: Where rank-4 data keeps its channels ("nchw" or "nhwc"), if not where the model does.
        images: How image files become arrays: "imagenet", "yolo", "paddleocr", or ImageOptions.
        shard: The part of the data to take, after `limit`; the result is then a ShardedBatches.
        label: What the data is called in messages.
        skip: Arrays in files and dicts that are used elsewhere (labels) and not fed. One that is called "labels" is not
            fed in any case; unless it is named here a note says so.
        graph: The model, which Data with a state needs, and whose metadata may name the size of its images.

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
    said = data_from(source)
    recurrence = None
    if said.state:
        if graph is None:
            raise ConfigError("a state needs its model", hint="open data with the model it is for")
        recurrence = Recurrence(graph, said.state)
    opening = _Opening(
        said=said,
        inputs=inputs,
        batch_size=batch_size,
        limit=limit,
        images=for_model(image_options(images), {} if graph is None else get_metadata(graph.frame)),
        skip={LABELS: f"the array {LABELS!r} was skipped: it is not an input of the model", **dict.fromkeys(skip, "")},
        optional=frozenset(said.state.values()),
    )
    opened = opening.open()
    if images is not None and not isinstance(opened, (ImageSource, FeedsSource)):
        raise images_without_files(said.source)
    if said.shuffle is not None:
        opened = _shuffled(opened, said.shuffle)
    notes = Notes()
    if batch_size is not None and (why := _batch_size_is_moot(opened, inputs, batch_size)):
        notes.add(f"batch_size= (--batch-size) has no effect: {why}")
    total = None
    if shard is not None and isinstance(opened, ImageSource):
        # Decoding is dear: a shard reads only its own images.
        total, opened = opened.samples, opened.part(shard)
    cutter = Cutter(
        inputs=inputs if recurrence is None else recurrence.inputs,
        layout=None if isinstance(opened, ImageSource) else layout,
        note=notes.add,
    )
    known = opened.samples
    batches = Batches(
        lambda: watched(read_batches(opened, cutter, limit=limit, label=label, fill=recurrence), notes, label=label),
        inputs=inputs,
        notes=notes,
        expected_samples=min(known, limit) if known is not None and limit is not None else known,
        one_shot=opened.one_shot,
        label=label,
    )
    return batches if shard is None else ShardedBatches(batches, shard, total_samples=total)


def images_without_files(source: object) -> ConfigError:
    """The error for options of images where `source` holds none (None: there is no data at all)."""
    given = "there is no data" if source is None else "the data is not a folder of images and holds no pictures"
    return ConfigError(
        f"images are described, but {given}",
        hint="leave out images= (--images, --mean, --std, --color, --resize, --crop-share, --image-size), "
        "or pass image files as data= (--data)",
    )


def _refuse_splits(source: Mapping[Any, Any]) -> None:
    """See that a mapping holds arrays, not data sets (train, test) as a DatasetDict of Hugging Face does.

    Raises:
        DataError: it holds data sets.
    """
    for name, value in source.items():
        if hasattr(value, "__getitem__") and not hasattr(value, "dtype") and not isinstance(value, (list, tuple, str)):
            raise DataError(
                f"{name!r} of the data is of type {type(value).__name__}, not an array",
                hint=f"pass one of the data sets as data=, such as data[{name!r}]",
            )


def _batch_size_is_moot(source: Source, inputs: InputSpecs, batch_size: int) -> str | None:
    """Why the size of batches cannot be chosen, where it cannot."""
    sizes = {spec.fixed_batch for spec in inputs.values() if spec.shape}
    if sizes and None not in sizes and sizes != {batch_size}:
        return f"the model's batch is fixed at {', '.join(map(str, sorted(size or 0 for size in sizes)))}"
    if isinstance(source, (FeedsSource, TestDataSource)):
        return "the data comes in batches, which are fed as they are"
    return None


def _shuffled(opened: Source, seed: int) -> Source:
    """The source in a random order.

    Raises:
        ConfigError: it can only be read from its start.
    """
    if isinstance(opened, ImageSource):
        return opened  # in this order already, ahead of the limit
    shuffled = getattr(opened, "shuffled", None)
    if shuffled is None:
        raise ConfigError(
            "this data cannot be shuffled: it is read from its start",
            hint="leave out shuffle= (--shuffle), and shuffle where the data is made, with a fixed seed",
        )
    result: Source = shuffled(seed)
    return result


@dataclass(frozen=True, kw_only=True)
class _Opening:
    """What it takes to open a source.

    Attributes as the arguments of `open_data`; `skip` with what is to be noted of each array, and `optional`, names of
    states.
    """

    said: Data
    inputs: InputSpecs
    batch_size: int | None
    limit: int | None
    images: ImageOptions | None
    skip: Mapping[str, str]
    optional: frozenset[str]

    def open(self) -> Source:
        """The source of the right kind.

        Raises:
            ConfigError: something was said that has no meaning for it.
            DataError: it is of no known kind, is missing or is empty.
        """
        source = self.said.source
        if isinstance(source, (str, Path)):
            if source == "":  # to Path, the working folder
                raise DataError("the path of the data is empty", hint="check the path in data= (--data).")
            opened = self._path(Path(source))
        elif isinstance(source, np.ndarray):
            opened = ArraysSource({"": source}, self._needed(), self._size(), self.skip)
        elif isinstance(source, Mapping):
            _refuse_splits(source)
            opened = ArraysSource(source, self._needed(), self._size(), self.skip)
        elif callable(source) or callable(getattr(source, "get_next", None)) or isinstance(source, Iterable):
            opened = self._feeds(source)
        elif hasattr(source, "__getitem__") and hasattr(source, "__len__"):  # a torch Dataset
            opened = self._feeds(_Indexed(source))
        else:
            raise DataError(
                f"data of type {type(source).__name__} is of no known kind",
                hint=f"pass data= (--data) {_KINDS}, or an iterable of {{input name: array}}.",
            )
        self._check_hook(opened)
        return opened

    def _needed(self) -> InputSpecs:
        """The inputs that data has to bring: all but states."""
        return InputSpecs(spec for name, spec in self.inputs.items() if name not in self.optional)

    def _size(self) -> int | None:
        """Samples in a run; steps of a sequence go one by one."""
        return 1 if self.said.state else self.batch_size

    def _hook(self) -> Hook | None:
        given = self.said.preprocess
        if isinstance(given, str):
            return function_from(given, what="preprocess", argument="preprocess= (--preprocess)")
        return given

    def _feeds(self, feeds: Any, origin: str | None = None) -> Source:
        hook = self._hook()
        if self.images is not None:
            if hook is not None:
                raise images_without_files(feeds)
            hook = self._picture_hook(feeds)
        return FeedsSource(feeds, self.inputs, origin=origin, hook=hook, optional=self.optional)

    def _picture_hook(self, feeds: Any) -> Hook:
        """For items that hold pictures of Pillow, as data sets of Hugging Face and torchvision do."""
        where = f"data of type {type(feeds).__name__}"
        try:
            source = ImageSource([], inputs=self._needed(), options=self.images, batch_size=1, where=where)
        except DataError as error:
            raise images_without_files(feeds) from error

        def prepare(item: Any) -> Any:
            feed = source.of_item(item)
            if feed is None:
                raise images_without_files(feeds)
            return feed

        return prepare

    def _check_hook(self, opened: Source) -> None:
        if self.said.preprocess is not None and isinstance(opened, (ArraysSource, FilesSource, TestDataSource)):
            raise ConfigError(
                "arrays are fed as they are, preprocess has nothing to do",
                hint="leave out preprocess= (--preprocess), or yield what it makes from load_data() of a Python file",
            )
        if self.said.tokenizer is not None and not getattr(opened, "is_text", False):
            raise ConfigError(
                "a tokenizer is given, but the data is no text",
                hint="leave out tokenizer= (--tokenizer), or pass a .jsonl, .csv or .txt file as data= (--data)",
            )

    def _path(self, path: Path) -> Source:
        where = str(path)
        check_there(path)
        if path.is_file():
            return self._file(path)
        sets = sorted(p for p in path.glob("test_data_set_*") if p.is_dir()) or ([path] if input_files(path) else [])
        if sets:
            return TestDataSource(sets, self.inputs)
        arrays = sorted(p for p in path.iterdir() if p.suffix.lower() in SUFFIXES)
        pictures = image_files(path)
        if arrays and pictures:
            raise DataError(
                f"the folder holds both arrays ({arrays[0].name}) and images ({pictures[0].name})",
                where=where,
                hint="pass a folder that holds one kind of data.",
            )
        if pictures:
            return self._pictures(pictures, where)
        if arrays:
            return FilesSource(arrays, self._needed(), self._size(), self.skip)
        others = sorted(p for p in path.rglob("*") if p.is_file() and not p.name.startswith("."))
        if self.said.preprocess is None:
            others = [p for p in others if p.suffix.lower() in FOLDER_SUFFIXES]
        if others:
            return self._files(others, where)
        raise DataError("no calibration data: the folder holds neither arrays nor images", where=where, hint=_hint())

    def _file(self, path: Path) -> Source:
        suffix = path.suffix.lower()
        if suffix in SUFFIXES:
            return FilesSource([path], self._needed(), self._size(), self.skip)
        if suffix == ".py":
            return self._feeds(_load_data(path), origin=path.name)
        if suffix == ".json":
            return self._feeds(json_feeds(path), origin=path.name)
        if suffix in IMAGE_SUFFIXES:
            return self._pictures([path], str(path))
        if suffix in FOLDER_SUFFIXES or self.said.preprocess is not None:
            return self._files([path], str(path))
        raise DataError(
            f"{path.suffix or 'a file without suffix'} is no known kind of data", where=str(path), hint=_hint()
        )

    def _pictures(self, pictures: list[Path], where: str) -> Source:
        if self.said.preprocess is not None:
            return self._files(pictures, where)
        return ImageSource(
            chosen_files(pictures, self.limit, self.said.shuffle),
            inputs=self.inputs,
            options=self.images,
            batch_size=self._size(),
            where=where,
        )

    def _files(self, paths: list[Path], where: str) -> Source:
        return files_source(
            paths,
            said=self.said,
            hook=self._hook(),
            inputs=self.inputs,
            batch_size=self._size(),
            optional=self.optional,
            where=where,
        )


class _Indexed:
    """A data set with len() and [i] as an iterable; Python's own protocol would need an IndexError at its end."""

    def __init__(self, items: Any) -> None:
        self._items = items

    def __len__(self) -> int:
        return len(self._items)

    def __getitem__(self, index: int) -> Any:
        return self._items[index]

    def __iter__(self) -> Iterator[Any]:
        return (self._items[i] for i in range(len(self._items)))


def image_files(path: Path) -> list[Path]:
    """The image files of a folder and its subfolders in the order in which they are fed, or the one file."""
    if path.is_file():
        return [path] if path.suffix.lower() in IMAGE_SUFFIXES else []
    return sorted(p for p in path.rglob("*") if p.suffix.lower() in IMAGE_SUFFIXES)


def _hint() -> str:
    return f"data= (--data) takes {_KINDS}."


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
