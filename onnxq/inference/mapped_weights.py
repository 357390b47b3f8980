"""Weights in files that are still being written, for onnxruntime to read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, helper

from onnxq.files.scratch import ScratchFolder
from onnxq.graph.external_data import BITS, ExternalData, in_draft, is_external, locate, take_inside
from onnxq.graph.scratch_weights import scratch_file
from onnxq.runtime import ort

_PAGE_BYTES = 4096


def with_drafts_mapped(
    model: ModelProto, base_dir: Path | None, options: ort.SessionOptions
) -> tuple[ModelProto, Path, object]:
    """`model` for a session that reads what lies in files which this process is writing.

    onnxruntime maps files of one folder: the model's own or that of temporary files, whichever holds more. All else
    comes from memory, of which it makes a copy: a file that is not complete has no name, and onnxruntime wants one for
    every tensor that is not in the message, so it gets that of another. (`add_initializer` would make no copy, but what
    optimises the graph would read the file.)
    """
    mapped = ModelProto()
    mapped.CopyFrom(model)  # weights are in files: there is little to copy
    outside = [tensor for tensor in mapped.graph.initializer if is_external(tensor)]
    places = {tensor.name: locate(tensor, base_dir) for tensor in outside}
    folder, location, held = _folder_of_most(outside, places, base_dir)
    values: dict[str, ort.OrtValue] = {}
    files: dict[Path, NDArray[np.uint8]] = {}
    for tensor in outside:
        found, dtype = places[tensor.name], _plain_type(tensor)
        if _folder_of(tensor, base_dir) == folder:
            _rename(tensor, found.path.relative_to(folder).as_posix())
        elif dtype is None or found.length < _PAGE_BYTES:
            take_inside(tensor, base_dir)
        else:
            # One mapping for each file: each holds a descriptor, of which a process may have 1024.
            if found.path not in files:
                files[found.path] = np.memmap(found.path, mode="r", dtype=np.uint8)
            part = files[found.path][found.offset : found.offset + found.length]
            array = part.view(dtype).reshape(tuple(tensor.dims))
            values[tensor.name] = ort.OrtValue.ortvalue_from_numpy_with_onnx_type(array, tensor.data_type)
            _rename(tensor, location)
    if values:
        options.add_external_initializers(list(values), list(values.values()))
    return mapped, folder, (held, values)


def _folder_of_most(
    tensors: Sequence[TensorProto], places: Mapping[str, ExternalData], base_dir: Path | None
) -> tuple[Path, str, object]:
    """The folder with most of the data of `tensors`, the name of a file in it, and what keeps it."""
    sizes: Counter[Path] = Counter()
    files: dict[Path, str] = {}
    for tensor in tensors:
        folder, place = _folder_of(tensor, base_dir), places[tensor.name]
        if folder is not None:
            sizes[folder] += place.length
            files[folder] = place.path.relative_to(folder).as_posix()
    if sizes:
        folder = sizes.most_common(1)[0][0]
        return folder, files[folder], None
    made = ScratchFolder()
    (Path(made.name) / "empty").touch()
    return Path(made.name), "empty", made


def _folder_of(tensor: TensorProto, base_dir: Path | None) -> Path | None:
    """The folder that onnxruntime could map the data of `tensor` from; None where the file has no name yet."""
    scratch = scratch_file(tensor)
    if scratch is not None:
        return scratch.parent
    return None if in_draft(tensor) else base_dir


def _rename(tensor: TensorProto, location: str) -> None:
    for entry in tensor.external_data:
        if entry.key == "location":
            entry.value = location


def _plain_type(tensor: TensorProto) -> np.dtype[Any] | None:
    """The numpy type of a tensor that numpy holds as files do; None for 4-bit codes, bfloat16 and unknown types."""
    try:
        dtype = helper.tensor_dtype_to_np_dtype(tensor.data_type)
    except (KeyError, TypeError):
        return None
    packed = tensor.data_type in BITS
    return dtype if dtype.kind in "fiub" and not packed else None
