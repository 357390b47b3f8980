"""Weights on their way into the file that will lie beside a model, one tensor at a time.

    bytes -> draft of `<name>.data` -> a reference that this process can follow -> the file appears -> the file's name

The draft is invisible until it is complete (see `onnxq.files.whole`), but its content can be read, and onnxruntime maps
it into memory. So a large model is quantized without ever holding more than the tensor at hand.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from pathlib import Path

from onnx import TensorProto

from onnxq.errors import ConfigError
from onnxq.files.whole import Draft, draft
from onnxq.graph.external_data import DRAFT, in_draft, is_external, locate
from onnxq.graph.messages import tensor_bytes

# Small tensors stay in the model, where shape inference looks for them.
_EXTERNAL_MIN_BYTES = 1024
# Runtimes map the file into memory at multiples of the page size.
_PAGE_BYTES = 4096


class WeightsFile:
    """A file of weights that is being written.

    Attributes:
        draft: The file.
    """

    def __init__(self, draft: Draft) -> None:
        self.draft = draft

    def take(self, tensors: Iterable[TensorProto], base_dir: Path | None) -> None:
        """Move the data of `tensors` into the file, in place; small ones keep theirs.

        Raises:
            ModelError: external data cannot be read.
            ConfigError: the file cannot be written.
        """
        for tensor in tensors:
            self.move(tensor, tensor, base_dir)

    def moved(self, tensor: TensorProto) -> TensorProto:
        """`tensor` with its data in the file; a small one keeps its own.

        A new message: one that held data keeps the memory for it as long as it lives.

        Raises:
            ConfigError: the file cannot be written.
        """
        reference = TensorProto()
        self.move(tensor, reference, None)
        return reference

    def move(self, source: TensorProto, into: TensorProto, base_dir: Path | None) -> None:
        """Let `into` be `source` with its data in the file; small tensors take their data along.

        Raises:
            ModelError: external data of `source` cannot be read.
        """
        if self._holds(source) or (length := _length(source, base_dir)) is None:
            if into is not source:
                into.CopyFrom(source)
            return
        chunks = locate(source, base_dir).chunks() if is_external(source) else (tensor_bytes(source, base_dir) or b"",)
        bare = TensorProto(name=source.name, data_type=source.data_type, dims=source.dims)
        if source.HasField("doc_string"):
            bare.doc_string = source.doc_string
        into.CopyFrom(bare)
        if length < _EXTERNAL_MIN_BYTES:
            into.raw_data = b"".join(chunks)
        else:
            self._write(into, chunks, length)

    def _holds(self, tensor: TensorProto) -> bool:
        return in_draft(tensor) and any(e.value == self._location for e in tensor.external_data)

    @property
    def _location(self) -> str:
        return f"{DRAFT}{self.draft.readable_at}"

    def _write(self, into: TensorProto, chunks: Iterable[bytes], length: int) -> None:
        stream = self.draft.stream
        stream.write(bytes(-stream.tell() % _PAGE_BYTES))
        into.data_location = TensorProto.EXTERNAL
        for key, value in (("location", self._location), ("offset", str(stream.tell())), ("length", str(length))):
            into.external_data.add(key=key, value=value)
        try:
            for chunk in chunks:
                stream.write(chunk)
            stream.flush()
        except OSError as error:
            raise unwritable(self.draft.target, error) from error


def _length(tensor: TensorProto, base_dir: Path | None) -> int | None:
    """Bytes of a tensor that is to be moved; None for one that stays as it is."""
    if tensor.data_type == TensorProto.STRING:
        return None
    if is_external(tensor):
        return locate(tensor, base_dir).length
    data = tensor_bytes(tensor, base_dir)
    return None if data is None or len(data) < _EXTERNAL_MIN_BYTES else len(data)


def name_file(tensors: Iterable[TensorProto], name: str) -> None:
    """Let `tensors` whose data lies in a draft refer to the file `name` beside the model, in place."""
    for tensor in filter(in_draft, tensors):
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = name


def unwritable(target: Path, error: OSError, what: str = "the model") -> ConfigError:
    """The error for an output that cannot be written."""
    return ConfigError(
        f"{what} cannot be written: {error.strerror or error}",
        where=f"output {str(target)!r}",
        hint="choose another place with output= (-o)",
    )


@contextlib.contextmanager
def weights_file(target: Path) -> Iterator[WeightsFile]:
    """A file of weights to appear at `target`; without `draft.publish` nothing of it remains.

    Raises:
        OSError: the folder cannot be written to.
    """
    with draft(target) as made:
        yield WeightsFile(made)
