"""ONNX's test data: test_data_set_<i>/input_<j>.pb, one batch for each set."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import chain
from pathlib import Path

from onnx import TensorProto, numpy_helper

from onnxq.data.batches import Item
from onnxq.data.cutting import ArrayColumn, Column
from onnxq.data.inputs import InputSpecs
from onnxq.errors import DataError
from onnxq.graph.external_data import is_external


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
            columns = dict(chain.from_iterable(self._read(path) for path in input_files(folder)))
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


def input_files(folder: Path) -> list[Path]:
    """The input_<j>.pb of a folder, by their numbers."""
    found = [p for p in folder.glob("input_*.pb") if p.stem.removeprefix("input_").isdigit()]
    return sorted(found, key=lambda p: int(p.stem.removeprefix("input_")))
