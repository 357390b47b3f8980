"""Polygraphy's files of inputs (`polygraphy run --load-inputs`, `--save-inputs`): read and written.

[{"input name": {"array": BASE64, "polygraphy_class": "ndarray"}, ...}, ...]      one object for each run

BASE64 is the array as a .npy file. Objects of other classes (outputs of runs, say) are refused.
Source: https://docs.nvidia.com/deeplearning/tensorrt/polygraphy/docs/json.html
"""

from __future__ import annotations

import base64
import binascii
import io
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxq.data.array_files import read_npy
from onnxq.errors import DataError

_HINT = "write it with polygraphy's save_json of a list of {input name: array}, or `polygraphy run --save-inputs`."


def json_feeds(path: Path) -> Callable[[], Iterator[Mapping[str, NDArray[Any]]]]:
    """A function that reads the feeds of a file.

    Raises:
        DataError: when it is called: the file is no list of feeds.
    """

    def feeds() -> Iterator[Mapping[str, NDArray[Any]]]:
        try:
            document = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError) as error:
            raise DataError(f"not a readable JSON file: {error}", where=str(path), hint=_HINT) from error
        if not isinstance(document, list) or not all(isinstance(feed, dict) for feed in document):
            raise DataError("this is no list of {input name: array}", where=str(path), hint=_HINT)
        for number, feed in enumerate(document, start=1):
            yield {name: _array(value, f"{path}, feed {number}, input {name!r}") for name, value in feed.items()}

    return feeds


def _array(value: Any, where: str) -> NDArray[Any]:
    if not isinstance(value, dict) or not isinstance(value.get("array"), str):
        kind = value.get("polygraphy_class") if isinstance(value, dict) else type(value).__name__
        raise DataError(f"it is of class {kind}, not an array", where=where, hint=_HINT)
    try:
        return read_npy(base64.b64decode(value["array"], validate=True), where)
    except binascii.Error as error:
        raise DataError(f"it is no base64: {error}", where=where, hint=_HINT) from error


def feeds_as_json(feeds: Iterable[Mapping[str, NDArray[Any]]]) -> str:
    """Feeds as the text of such a file, a line for each."""
    encoded = (
        {name: {"array": _encoded(array), "polygraphy_class": "ndarray"} for name, array in feed.items()}
        for feed in feeds
    )
    return "[\n" + ",\n".join(map(json.dumps, encoded)) + "\n]\n"


def _encoded(array: NDArray[Any]) -> str:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return base64.b64encode(buffer.getvalue()).decode("ascii")
