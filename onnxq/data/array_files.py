"""Reads .npy and .npz files front to back, a few samples at a time.

A file of any size costs the memory of one piece: numpy's own `load` would hold a whole .npz member. What a header
claims is compared with the size of the file or member before anything is allocated for it, and what a member claims
with what its compressed bytes can hold. Format: https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html
"""

from __future__ import annotations

import io
import math
import os
import struct
import sys
import tokenize
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from onnxq.data.cutting import ArrayColumn, Column
from onnxq.errors import DataError
from onnxq.wording.plural import counted

SUFFIXES = (".npy", ".npz")

# RuntimeError: an encrypted member. NotImplementedError: a kind of zip file that Python does not know. The others come
# from a header that is no Python literal.
_DAMAGED = (
    OSError,
    ValueError,
    EOFError,
    zipfile.BadZipFile,
    zlib.error,
    RuntimeError,
    NotImplementedError,
    SyntaxError,
    TypeError,
    struct.error,
    tokenize.TokenError,
    RecursionError,
)

_WRITE_AGAIN = {
    ".npz": "write it again with numpy.savez(path, input=array); copied files may have been cut off.",
    ".npy": "write it again with numpy.save(path, array); copied files may have been cut off.",
}
_MOST_DIMENSIONS = 32
"""Of numpy before 2.0; ONNX knows no operator for as many."""

_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
"""How numpy's `savez` and `savez_compressed` pack members."""

_DEFLATE_RATIO = 1032
"""At most so many bytes come from one byte of deflate: 258 from two bits (RFC 1951, 3.2.5), and framing."""


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
            raise DataError(f"the file is cut short: {_missing(size_bytes - len(data))}", where=self._where)
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
            columns = {
                member.name: _column(member, f"{path}{f', array {member.name!r}' if member.name else ''}")
                for member in _members(path, stack)
            }
        except _DAMAGED as error:
            raise DataError(
                f"not a readable {path.suffix} file: {error}", where=str(path), hint=_WRITE_AGAIN[path.suffix.lower()]
            ) from error
        yield columns


def read_npy(content: bytes, where: str) -> NDArray[Any]:
    """The array of a .npy file in memory.

    Raises:
        DataError: it is not in that format, or holds Python objects.
    """
    try:
        return _column(_Member("", io.BytesIO(content), len(content)), where).take(None)
    except _DAMAGED as error:
        raise DataError(f"not in the .npy format: {error}", where=where) from error


@dataclass(frozen=True)
class _Member:
    """An array in a file, in the .npy format: its name, its bytes, and how many those are."""

    name: str
    stream: IO[bytes]
    size_bytes: int


def _members(path: Path, stack: ExitStack) -> list[_Member]:
    if path.suffix.lower() == ".npy":
        stream = stack.enter_context(path.open("rb"))
        return [_Member("", stream, os.fstat(stream.fileno()).st_size)]
    archive = stack.enter_context(zipfile.ZipFile(path))
    found: list[_Member] = []
    for info in archive.infolist():
        if not info.filename.endswith(".npy"):
            continue
        name = info.filename.removesuffix(".npy")
        if info.compress_type not in _METHODS:
            raise ValueError(f"array {name!r} is packed in a way that numpy does not write")
        if info.file_size > info.compress_size * (_DEFLATE_RATIO if info.compress_type else 1) + _DEFLATE_RATIO:
            raise ValueError(f"array {name!r} claims {info.file_size} bytes, packed in {info.compress_size}")
        if any(member.name == name for member in found):
            raise ValueError(f"array {name!r} is there twice")
        found.append(_Member(name, stack.enter_context(archive.open(info)), info.file_size))
    return found


def _column(member: _Member, where: str) -> Column:
    version = npy.read_magic(member.stream)
    read_header = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
    shape, fortran_order, dtype = read_header(member.stream)
    if dtype.hasobject:
        raise DataError(
            "it holds Python objects, which are not read from files", where=where, hint="save plain arrays."
        )
    # An array without elements may claim any other sizes, and numpy refuses those that no array could have.
    reach = math.prod(size or 1 for size in shape) * dtype.itemsize
    unsound = any(isinstance(size, bool) or size < 0 for size in shape)  # Python counts True among the integers
    if dtype.itemsize == 0 or unsound or reach > sys.maxsize or len(shape) > _MOST_DIMENSIONS:
        raise ValueError(f"an array of shape {shape} and type {dtype}")
    claimed, present = math.prod(shape) * dtype.itemsize, member.size_bytes - member.stream.tell()
    if claimed > present:
        raise DataError(f"the file is cut short: {_missing(claimed - present)}", where=where)
    column = FileColumn(member.stream, tuple(shape), dtype, where)
    if not fortran_order or len(shape) < 2:
        return column
    # Samples do not lie one after the other, so the array is read whole.
    flat = FileColumn(member.stream, (math.prod(shape),), dtype, where).take(None)
    return ArrayColumn(flat.reshape(shape[::-1]).T)


def _missing(size_bytes: int) -> str:
    return f"{counted(size_bytes, 'byte')} {'is' if size_bytes == 1 else 'are'} missing"
