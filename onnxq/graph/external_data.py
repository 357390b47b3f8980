"""Weights in files beside the model (https://onnx.ai/onnx/repo-docs/ExternalData.html).

A location is a path relative to the model's folder. One that leads out of it, also by way of a symbolic link, is
refused: a model could otherwise carry any file of the reader's machine into its output. onnxruntime has the same rule.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from onnx import AttributeProto, GraphProto, NodeProto, TensorProto, helper

from onnxq.errors import ModelError
from onnxq.wording.plural import counted

LARGE_BYTES = 2**31
"""With more in external files a model counts as large: what is done to it then works tensor by tensor, through files,
for its weights may fill most of the memory. Fixed, so that a model is treated alike on every machine."""

SCRATCH_BYTES = 2**28
"""With more in float32 than this, weights that are made on the way lie in a temporary file. In messages each would be
there several times: in the graph, in the model made of it, in its serialized form and in onnxruntime."""

DRAFT = "onnxq-draft:"
"""Location of data in a file that this process is still writing, before the file's path. Nothing that is read from
outside may say so."""

_CHUNK_BYTES = 2**22
# Types of which several elements share a byte, some unknown to older onnx, and bfloat16, which it takes for float32.
BITS = {
    getattr(TensorProto, name): bits
    for bits, names in ((16, ("BFLOAT16",)), (4, ("INT4", "UINT4", "FLOAT4E2M1")), (2, ("INT2", "UINT2")))
    for name in names
    if hasattr(TensorProto, name)
}


@dataclass(frozen=True, kw_only=True)
class ExternalData:
    """Where the data of one tensor lies.

    Attributes:
        tensor: Name of the tensor.
        path: The file.
        offset: First byte.
        length: Number of bytes.
    """

    tensor: str
    path: Path
    offset: int
    length: int

    def chunks(self) -> Iterator[bytes]:
        """The data, a few megabytes at a time.

        Raises:
            ModelError: the file cannot be read, or is shorter than it was.
        """
        left = self.length
        try:
            with self.path.open("rb") as file:
                file.seek(self.offset)
                while left and (data := file.read(min(left, _CHUNK_BYTES))):
                    left -= len(data)
                    yield data
        except OSError as error:
            raise _unreadable(self.tensor, f"{str(self.path)!r}: {error.strerror or error}") from error
        if left:
            raise _unreadable(self.tensor, f"{str(self.path)!r} ends {counted(left, 'byte')} too early")


def is_external(proto: TensorProto) -> bool:
    """Whether the data of `proto` lies in another file."""
    return proto.data_location == TensorProto.EXTERNAL


def locate(proto: TensorProto, base_dir: Path | None) -> ExternalData:
    """Where the data of `proto` lies; the file exists and is long enough.

    Args:
        proto: A tensor whose data is external.
        base_dir: The model's folder; None for a model without one, which can have no external data.

    Raises:
        ModelError: the location leads out of the folder, or there is no such data.
    """
    entries = {entry.key: entry.value for entry in proto.external_data}
    path = _path_inside(proto.name, entries.get("location", ""), base_dir)
    offset, length = (_number(proto.name, entries, key) for key in ("offset", "length"))
    needed = _size_bytes(proto)
    if length is not None and needed is not None and length != needed:
        raise _unreadable(proto.name, f"{length} bytes are named, its shape {tuple(proto.dims)} needs {needed}")
    try:
        available = path.stat().st_size - (offset or 0)
    except OSError as error:
        raise _unreadable(proto.name, f"{str(path)!r}: {error.strerror or error}") from error
    if not path.is_file():
        raise _unreadable(proto.name, f"{str(path)!r} is not a regular file")
    size = next((n for n in (length, needed) if n is not None), max(available, 0))
    if available < size:
        raise _unreadable(proto.name, f"{str(path)!r} has {counted(max(available, 0), 'byte')} for it, expected {size}")
    return ExternalData(tensor=proto.name, path=path, offset=offset or 0, length=size)


def weights_are_large(tensors: Iterable[TensorProto]) -> bool:
    """Whether so much of `tensors` lies in other files that memory has to be thought of."""
    return sum(_size_bytes(t) or 0 for t in tensors if is_external(t)) > LARGE_BYTES


def are_many(tensors: Iterable[TensorProto]) -> bool:
    """Whether what is made of `tensors` on the way belongs in a file."""
    return bool(4 * sum(math.prod(tensor.dims) for tensor in tensors) > SCRATCH_BYTES)


def in_draft(proto: TensorProto) -> bool:
    """Whether the data of `proto` lies in a file that this process is writing."""
    return draft_of(proto) is not None


def draft_of(proto: TensorProto) -> Path | None:
    """The file that this process is writing and the data of `proto` lies in; None where it lies elsewhere."""
    if not is_external(proto):
        return None
    locations = (e.value for e in proto.external_data if e.key == "location")
    return next((Path(one[len(DRAFT) :]) for one in locations if one.startswith(DRAFT)), None)


def named_length(proto: TensorProto) -> int:
    """Bytes that `proto` says to have in another file; 0 where it does not say."""
    return next((int(e.value) for e in proto.external_data if e.key == "length" and e.value.isdecimal()), 0)


def read_external(proto: TensorProto, base_dir: Path | None) -> bytes:
    """The external data of `proto`.

    Raises:
        ModelError: as `locate` does.
    """
    return b"".join(locate(proto, base_dir).chunks())


def take_inside(proto: TensorProto, base_dir: Path | None) -> None:
    """Move the external data of `proto` into the message, in place.

    Raises:
        ModelError: as `locate` does.
    """
    data = read_external(proto, base_dir)
    proto.ClearField("external_data")
    proto.ClearField("data_location")
    proto.raw_data = data


def check_data(tensors: Iterable[TensorProto], base_dir: Path | None) -> None:
    """See that every tensor has the data that its shape asks for. External data is looked at, not read.

    Args:
        tensors: All tensors of a model.
        base_dir: The model's folder; None for a message, which has none and may refer to files of whoever made it.

    Raises:
        ModelError: naming the first tensor whose data is missing, of another size, or outside the folder.
    """
    for tensor in tensors:
        if is_external(tensor):
            if in_draft(tensor):
                raise _outside(tensor.name, DRAFT)
            if base_dir is not None:
                locate(tensor, base_dir)
        elif tensor.HasField("raw_data") and (needed := _size_bytes(tensor)) not in (None, len(tensor.raw_data)):
            raise ModelError(
                f"it holds {counted(len(tensor.raw_data), 'byte')}, its shape {tuple(tensor.dims)} needs {needed}",
                where=f"tensor {tensor.name!r}",
                hint="export the model again; a download may have been damaged",
            )


def tensors_of(graph: GraphProto) -> Iterator[TensorProto]:
    """Every tensor of a graph: initializers, and those in attributes, bodies included."""
    yield from graph.initializer
    for sparse in graph.sparse_initializer:
        yield from (sparse.values, sparse.indices)
    for node in graph.node:
        yield from tensors_in(node)


def tensors_in(node: NodeProto) -> Iterator[TensorProto]:
    """Every tensor in the attributes of a node, bodies included."""
    for attr in node.attribute:
        if attr.type == AttributeProto.TENSOR:
            yield attr.t
        yield from attr.tensors
        for body in [attr.g] if attr.type == AttributeProto.GRAPH else attr.graphs:
            yield from tensors_of(body)


def _path_inside(tensor: str, location: str, base_dir: Path | None) -> Path:
    if location.startswith(DRAFT):  # `check_data` lets none in
        return Path(location[len(DRAFT) :])
    relative = Path(location)
    no_path = not location or "\0" in location
    outside = base_dir is None or no_path or relative.is_absolute() or ".." in relative.parts
    # Only what exists can be a link.
    if base_dir is None or outside or not (base_dir / relative).resolve().is_relative_to(base_dir.resolve()):
        raise _outside(tensor, location)
    return base_dir / relative


def _outside(tensor: str, location: str) -> ModelError:
    return ModelError(
        f"external data location {location!r} is not a path inside the model's folder",
        where=f"tensor {tensor!r}",
        hint="load the model from a file whose external data lies beside it, named by a relative path; "
        "where symbolic links lead elsewhere, as in a download cache, copy the files into one folder",
    )


def _number(tensor: str, entries: dict[str, str], key: str) -> int | None:
    text = entries.get(key)
    if text is None:
        return None
    if not (text.isascii() and text.isdigit() and len(text) <= len(str(2**63))):
        raise _unreadable(tensor, f"its {key} is {text[:40]!r}")
    return int(text)


def _size_bytes(proto: TensorProto) -> int | None:
    """Bytes that the shape and type of `proto` ask for; None for a type that this onnx does not know."""
    if any(size < 0 for size in proto.dims):
        raise _unreadable(proto.name, f"its shape is {tuple(proto.dims)}")
    count = int(math.prod(proto.dims))
    if proto.data_type in BITS:
        return -(-count * BITS[proto.data_type] // 8)
    try:
        return int(count * helper.tensor_dtype_to_np_dtype(proto.data_type).itemsize)
    except (KeyError, TypeError):
        return None


def _unreadable(tensor: str, why: str) -> ModelError:
    return ModelError(
        f"its external data cannot be read: {why}",
        where=f"tensor {tensor!r}",
        hint="keep the model (MODEL) and the files of its weights in one folder, under the names they were saved with",
    )
