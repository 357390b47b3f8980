"""Reads .npy and .npz files front to back, a few samples at a time.

A file of any size costs the memory of one piece: numpy's own `load` would hold a whole .npz member. Format:
https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html
"""

from __future__ import annotations

import math
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from onnxq.calibration.cutting import ArrayColumn, Column
from onnxq.errors import DataError

SUFFIXES = (".npy", ".npz")

_DAMAGED = (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error)


class FileColumn:
    """A column over an open .npy stream in C order."""

    def __init__(self, stream: IO[bytes], shape: tuple[int, ...], dtype: np.dtype[Any], where: str) -> None:
        self._stream = stream
        self._where = where
        self._left = shape[0] if shape else 1
        self.shape = shape
        self.dtype = dtype

    def take(self, count: int | None) -> NDArray[Any]:
        count = self._left if count is None else min(count, self._left)
        self._left -= count
        shape = (count, *self.shape[1:]) if self.shape else ()
        size_bytes = math.prod(shape) * self.dtype.itemsize
        try:
            data = self._stream.read(size_bytes)
        except _DAMAGED as error:
            raise DataError(f"the file is damaged: {error}", where=self._where) from error
        if len(data) != size_bytes:
            raise DataError(f"the file is cut short: {size_bytes - len(data)} bytes are missing", where=self._where)
        return np.frombuffer(data, dtype=self.dtype).reshape(shape)


def array_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Shapes of the arrays in a .npy (under the name "") or .npz file, read from their headers.

    Raises:
        DataError: the file is not in that format, or holds Python objects.
    """
    with open_columns(path) as columns:
        return {name: column.shape for name, column in columns.items()}


@contextmanager
def open_columns(path: Path) -> Iterator[Mapping[str, Column]]:
    """Open a .npy file (its array under the name "") or a .npz file for reading front to back.

    Raises:
        DataError: the file is not in that format, or holds Python objects.
    """
    with ExitStack() as stack:
        try:
            streams = _streams(path, stack)
            columns = {
                name: _column(stream, f"{path}{f', array {name!r}' if name else ''}") for name, stream in streams
            }
        except _DAMAGED as error:
            raise DataError(f"not a readable {path.suffix} file: {error}", where=str(path)) from error
        yield columns


def _streams(path: Path, stack: ExitStack) -> list[tuple[str, IO[bytes]]]:
    if path.suffix.lower() == ".npy":
        return [("", stack.enter_context(path.open("rb")))]
    archive = stack.enter_context(zipfile.ZipFile(path))
    members = [name for name in archive.namelist() if name.endswith(".npy")]
    return [(name.removesuffix(".npy"), stack.enter_context(archive.open(name))) for name in members]


def _column(stream: IO[bytes], where: str) -> Column:
    version = npy.read_magic(stream)
    read_header = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
    shape, fortran_order, dtype = read_header(stream)
    if dtype.hasobject:
        raise DataError(
            "it holds Python objects, which are not read from files", where=where, hint="save plain arrays."
        )
    column = FileColumn(stream, tuple(shape), dtype, where)
    if not fortran_order or len(shape) < 2:
        return column
    # Samples do not lie one after the other, so the array is read whole.
    flat = FileColumn(stream, (math.prod(shape),), dtype, where).take(None)
    return ArrayColumn(flat.reshape(shape[::-1]).T)
