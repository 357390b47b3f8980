"""Arrays of .npy and .npz files that are mapped into memory: any row at any time, for the pages that it lies on.

A member of a .npz file that is packed (`numpy.savez_compressed`) is first unpacked into a temporary file. The claims of
all files are checked by `array_files` before anything is mapped.
"""

from __future__ import annotations

import mmap
import shutil
import tempfile
import zipfile
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from onnxq.data.array_files import open_columns
from onnxq.errors import DataError

_LOCAL_HEADER = 30
"""Bytes of a zip file's local header ahead of name and extra field (PKWARE APPNOTE 4.3.7)."""


class MappedArrays:
    """The arrays of one file by name; the array of a .npy file is called ""."""

    def __init__(self, path: Path) -> None:
        with open_columns(path):  # header, size and type of every member
            pass
        self.arrays: dict[str, NDArray[Any]] = {}
        if path.suffix.lower() == ".npy":
            with path.open("rb") as stream:
                self.arrays[""] = _mapped(stream, 0)
            return
        with zipfile.ZipFile(path) as archive, path.open("rb") as stream:
            for info in archive.infolist():
                if info.filename.endswith(".npy"):
                    self.arrays[info.filename.removesuffix(".npy")] = _member(archive, info, stream, path)


def _member(archive: zipfile.ZipFile, info: zipfile.ZipInfo, stream: IO[bytes], path: Path) -> NDArray[Any]:
    if info.compress_type == zipfile.ZIP_STORED:
        stream.seek(info.header_offset)
        header = stream.read(_LOCAL_HEADER)
        names = int.from_bytes(header[26:28], "little") + int.from_bytes(header[28:30], "little")
        return _mapped(stream, info.header_offset + _LOCAL_HEADER + names)
    try:
        with tempfile.TemporaryFile(prefix="onnxq-") as unpacked:
            with archive.open(info) as packed:
                shutil.copyfileobj(packed, unpacked)
            unpacked.flush()
            return _mapped(unpacked, 0)
    except (zipfile.BadZipFile, OSError) as error:
        raise DataError(f"array {info.filename!r} cannot be unpacked: {error}", where=str(path)) from error


def _mapped(stream: IO[bytes], start: int) -> NDArray[Any]:
    """The array in .npy format that begins at `start`."""
    stream.seek(start)
    version = npy.read_magic(stream)
    read_header = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
    shape, fortran_order, dtype = read_header(stream)
    whole = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
    array: NDArray[Any] = np.ndarray(
        tuple(shape), dtype, buffer=whole, offset=stream.tell(), order="F" if fortran_order else "C"
    )
    return array
