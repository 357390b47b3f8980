"""Labels of samples, in the order in which the samples are fed.

labels.npy                  one entry for each sample
labels.npz, labels.npz:KEY  its only array, the array "labels", or KEY
labels.txt                  one line for each sample
labels.csv                  one column: as .txt; two columns, file name and class: for images, found by name
KEY                         an array of the .npz files (or the dict) that the samples come from
folders                     images lie in one folder for each class; folders with numbers for names are those classes,
                            others count from 0 in the order of their names
nothing                     the array "labels" beside the samples, or class folders, where there are any
"""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxq.data.array_files import array_shapes, open_columns
from onnxq.data.description import bare, data_from
from onnxq.data.shuffling import chosen_files, order_in_files
from onnxq.data.sources import LABELS, image_files
from onnxq.errors import ConfigError, DataError
from onnxq.wording.plural import counted

FOLDERS = "folders"
_FILES = (".npy", ".npz", ".txt", ".csv")
_HINT = (
    "labels= (--labels) is a .npy, .npz, .txt or .csv file, an array's name in the .npz of the data, or 'folders' for "
    "images that lie in one folder for each class."
)


def label_key(given: object, data: object) -> str | None:
    """The name of the array of `data` that holds the labels, where they lie there."""
    data = bare(data)
    if not isinstance(given, (str, Path, type(None))):
        return None
    name = LABELS if given is None else str(given)
    return name if name in _arrays_beside(data) and not Path(name).is_file() else None


def load_labels(given: object, data: object, *, limit: int | None) -> NDArray[Any] | None:
    """The labels of the samples of `data`.

    Args:
        given: A path, a name (see the module), an array or a sequence; None looks for labels in `data`.
        data: What the samples are read from.
        limit: Most samples that are used of `data`.

    Returns:
        One entry for each sample, as it was given: shape (n,), or (n, ...) for masks, points and the like; numbers or
        text. None where there are none and none were asked for.

    Raises:
        ConfigError: the labels are of no known kind.
        DataError: a file is missing, damaged, or lacks the label of a sample.
    """
    shuffle, data = data_from(data).shuffle, bare(data)
    images = _images(data, limit, shuffle)
    if given is None:
        return _found_beside(data, images, shuffle)
    inside = isinstance(given, (str, Path)) and (str(given) == FOLDERS or str(given) in _arrays_beside(data))
    if shuffle is not None and not inside and not (images and str(given).lower().endswith(".csv")):
        raise ConfigError(
            "the data is shuffled, and nothing says which of these labels belongs to which sample",
            where="labels",
            hint="leave out shuffle= (--shuffle), or keep the labels beside the samples: an array of the .npz, "
            "'folders', or a .csv of file names and classes.",
        )
    if not isinstance(given, (str, Path)):
        return _of_samples(np.asarray(given), "labels")
    text = str(given)
    if text == FOLDERS:
        return _from_folders(Path(str(data)), images)
    path, _, key = text.partition(".npz:")
    if key:
        return _from_npz(Path(path + ".npz"), key)
    if Path(text).suffix.lower() in _FILES or Path(text).exists():
        return _from_file(Path(text), images, Path(str(data)))
    arrays = _arrays_beside(data)
    if text in arrays:
        return _of_data(data, text, shuffle)
    beside = f", which holds {', '.join(map(repr, sorted(arrays)))}" if arrays else ""
    raise ConfigError(f"{text!r} is neither a file of labels nor an array of the data{beside}", hint=_HINT)


def check_count(labels: NDArray[Any], samples: int, *, limited: bool) -> None:
    """See that there is a label for each sample, and, where all samples are used, no other.

    Raises:
        DataError: there is not.
    """
    if len(labels) < samples or (len(labels) > samples and not limited):
        raise DataError(
            f"{counted(len(labels), 'label')} for {counted(samples, 'sample')}",
            where="labels",
            hint="labels= (--labels) must hold one label for each sample of data= (--data), in the same order.",
        )


def as_classes(labels: NDArray[Any], metric: str) -> NDArray[np.int64]:
    """Labels as class numbers, shape (n,).

    Raises:
        DataError: they are not whole numbers, one for each sample.
    """
    labels = as_column(labels)
    if labels.ndim != 1:
        raise DataError(
            f"labels have shape {labels.shape}; {metric} needs a class number for each sample, (n,)",
            where="labels",
            hint="a metric of your own takes labels of any shape: metric='file.py:function' (--metric); "
            "metric='sqnr' (--metric sqnr) needs none.",
        )
    try:
        numbers = np.asarray(labels, np.float64)
    except (TypeError, ValueError):
        numbers = np.array([np.nan])
    if not (numbers == np.floor(numbers)).all():
        bad = labels[0] if numbers.shape != labels.shape else labels[numbers != np.floor(numbers)][0]
        raise DataError(
            f"label {bad!s} is no class number, which {metric} needs",
            where="labels",
            hint="labels= (--labels) hold whole numbers that count from 0, or use a metric of your own: "
            "metric='file.py:function' (--metric).",
        )
    return numbers.astype(np.int64)


def as_column(labels: NDArray[Any]) -> NDArray[Any]:
    """Labels of shape (n, 1) and one-hot ones as (n,), others as they are."""
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.ndim == 2 and labels.dtype.kind in "biuf" and ((labels == 0).sum(axis=1) == labels.shape[1] - 1).all():
        labels = labels.argmax(axis=1)  # one-hot
    return labels


def _of_samples(labels: NDArray[Any], where: str) -> NDArray[Any]:
    if labels.ndim == 0:
        raise DataError("labels have shape (), expected one for each sample: (n, ...)", where=where, hint=_HINT)
    return labels


# ---- beside the samples ------------------------------------------------------------------------------------------


def _npz_files(data: object) -> list[Path]:
    if not isinstance(data, (str, Path)):
        return []
    path = Path(data)
    if path.is_file():
        return [path] if path.suffix.lower() == ".npz" else []
    return sorted(p for p in path.glob("*") if p.suffix.lower() == ".npz") if path.is_dir() else []


def _arrays_beside(data: object) -> set[str]:
    if isinstance(data, Mapping):
        return {str(name) for name in data}
    files = _npz_files(data)
    return set(array_shapes(files[0])) if files else set()


def _of_data(data: object, key: str, shuffle: int | None) -> NDArray[Any]:
    if isinstance(data, Mapping):
        parts = [_of_samples(np.asarray(data[key]), f"array {key!r} of the data")]
    else:
        parts = [_from_npz(path, key) for path in _npz_files(data)]
    if shuffle is not None:
        parts = [parts[i][order] for i, order in order_in_files(shuffle, [len(part) for part in parts])]
    shapes = {part.shape[1:] for part in parts}
    if len(shapes) > 1:
        raise DataError(
            f"the array {key!r} has samples of different shapes in the files, such as "
            f"{' and '.join(map(str, sorted(shapes, key=str)[:2]))}",
            where=str(data),
            hint="fill the labels up to one shape, and leave out what was filled in a metric of your own: "
            "metric='file.py:function' (--metric).",
        )
    return np.concatenate(parts)


def _images(data: object, limit: int | None, shuffle: int | None) -> list[Path]:
    """The image files that are fed, in their order."""
    if not isinstance(data, (str, Path)) or not Path(data).exists() or _npz_files(data):
        return []
    return chosen_files(image_files(Path(data)), limit, shuffle)


def _found_beside(data: object, images: Sequence[Path], shuffle: int | None) -> NDArray[Any] | None:
    if LABELS in _arrays_beside(data):
        return _of_data(data, LABELS, shuffle)
    if images and all(len(path.relative_to(Path(str(data))).parts) > 1 for path in images if path != data):
        return _from_folders(Path(str(data)), images)
    return None


def _from_folders(data: Path, images: Sequence[Path]) -> NDArray[Any]:
    if not images or any(len(path.relative_to(data).parts) < 2 for path in images):
        raise DataError(
            "labels from folders need images that lie in one folder for each class",
            where=str(data),
            hint=_HINT,
        )
    names = [path.relative_to(data).parts[0] for path in images]
    # All class folders count, also those that a limit leaves without an image.
    classes = sorted({path.relative_to(data).parts[0] for path in image_files(data)})
    if all(name.isdigit() for name in classes):
        return np.array([int(name) for name in names], np.int64)
    return np.array([classes.index(name) for name in names], np.int64)


# ---- files -------------------------------------------------------------------------------------------------------


def _from_file(path: Path, images: Sequence[Path], data: Path) -> NDArray[Any]:
    if not path.is_file():
        raise DataError("no such file", where=str(path), hint="check the path in labels= (--labels).")
    suffix = path.suffix.lower()
    if suffix == ".npz":
        return _from_npz(path, None)
    if suffix == ".npy":
        with open_columns(path) as columns:
            return _of_samples(columns[""].take(None), str(path))
    if suffix == ".csv":
        return _from_csv(path, images, data)
    if suffix == ".txt":
        lines = _text(path).splitlines()
        return _numbers_or_text([line.strip() for line in lines if line.strip()])
    raise ConfigError(f"{suffix or 'a file without suffix'} is no known kind of labels", where=str(path), hint=_HINT)


def _from_npz(path: Path, key: str | None) -> NDArray[Any]:
    if not path.is_file():
        raise DataError("no such file", where=str(path), hint="check the path in labels= (--labels).")
    with open_columns(path) as columns:
        name = key or (LABELS if LABELS in columns else next(iter(columns)) if len(columns) == 1 else None)
        if name is None or name not in columns:
            raise DataError(
                f"the file has no array {name or LABELS!r}; it has {', '.join(map(repr, columns))}",
                where=str(path),
                hint=f"name one of them: labels='{path.name}:NAME' (--labels)",
            )
        return _of_samples(columns[name].take(None), f"{path}, array {name!r}")


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, ValueError) as error:
        raise DataError(f"not a readable text file: {error}", where=str(path)) from error


def _numbers_or_text(values: Sequence[str]) -> NDArray[Any]:
    try:
        return np.array([int(v) for v in values], np.int64)
    except ValueError:
        return np.array(values)


def _from_csv(path: Path, images: Sequence[Path], data: Path) -> NDArray[Any]:
    rows = [row for row in csv.reader(_text(path).splitlines()) if any(cell.strip() for cell in row)]
    if not rows:
        raise DataError("the file is empty", where=str(path), hint=_HINT)
    width = len(rows[0])
    if width not in (1, 2) or any(len(row) != width for row in rows):
        raise DataError("expected one column (class) or two (file name, class)", where=str(path), hint=_HINT)
    cells = [[cell.strip() for cell in row] for row in rows]
    if not _is_number(cells[0][-1]) and all(_is_number(row[-1]) for row in cells[1:]) and len(cells) > 1:
        cells = cells[1:]  # a header
    if width == 1 or not images:
        return _numbers_or_text([row[-1] for row in cells])
    by_name = {row[0]: row[1] for row in cells}
    found = [_label_of(image, data, by_name) for image in images]
    missing = [str(image) for image, label in zip(images, found, strict=True) if label is None]
    if missing:
        raise DataError(
            f"{len(missing)} of {counted(len(images), 'image')} {'is' if len(missing) == 1 else 'are'} not in the "
            f"file, first {missing[0]!r}",
            where=str(path),
            hint="the first column holds file names, as they are or relative to the folder of data= (--data).",
        )
    return _numbers_or_text([label for label in found if label is not None])


def _label_of(image: Path, data: Path, by_name: Mapping[str, str]) -> str | None:
    inside = image.relative_to(data).as_posix() if image != data else image.name
    return next((by_name[n] for n in (inside, image.name, image.stem) if n in by_name), None)


def _is_number(text: str) -> bool:
    return text.lstrip("-").isdigit()
