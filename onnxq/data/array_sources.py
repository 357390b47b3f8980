"""Sources of arrays, in memory or in .npy and .npz files, the first axis counting samples."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from onnxq.data.array_files import array_shapes, open_columns
from onnxq.data.batches import Item
from onnxq.data.cutting import ArrayColumn, Column
from onnxq.data.inputs import InputSpecs
from onnxq.data.mapped_arrays import MappedArrays
from onnxq.data.shuffling import order_in_files, shuffled_columns
from onnxq.errors import DataError

_UNNAMED = ("", "arr_0")
"""An array in a .npy file, and what numpy.savez calls one that was given no name."""


class ArraysSource:
    """Arrays in memory, the first axis counting samples."""

    one_shot = False

    def __init__(
        self, arrays: Mapping[str, Any], inputs: InputSpecs, batch_size: int | None, skip: Mapping[str, str]
    ) -> None:
        self._skip = skip
        self._arrays = {name: np.asarray(value) for name, value in arrays.items()}
        self._inputs = inputs
        self._size = batch_size or 1
        self.samples = _samples({n: a.shape for n, a in self._arrays.items()}, inputs)
        self._seed: int | None = None

    def shuffled(self, seed: int) -> ArraysSource:
        """With its samples in a random order."""
        self._seed = seed
        return self

    def items(self, note: Callable[[str], None]) -> Iterator[Item]:
        columns: dict[str, Column] = {name: ArrayColumn(array) for name, array in self._arrays.items()}
        if self._seed is not None and self.samples is not None:
            ((_, order),) = order_in_files(self._seed, [self.samples])
            columns = shuffled_columns(self._arrays, order)
        yield Item(_named(columns, self._inputs, note, self._skip), self._size, stacked=True)


class FilesSource:
    """.npy and .npz files, the first axis of their arrays counting samples."""

    one_shot = False

    def __init__(self, paths: list[Path], inputs: InputSpecs, batch_size: int | None, skip: Mapping[str, str]) -> None:
        self._skip = skip
        self._paths = paths
        self._inputs = inputs
        self._size = batch_size or 1
        counts = [_samples(array_shapes(path), inputs) for path in paths]
        self.samples: int | None = sum(c or 0 for c in counts)
        self._counts = counts
        self._seed: int | None = None

    def shuffled(self, seed: int) -> FilesSource:
        """With its samples in a random order; of several files also the files, but not the samples across files."""
        self._seed = seed
        return self

    def items(self, note: Callable[[str], None]) -> Iterator[Item]:
        if self._seed is not None:
            yield from self._in_random_order(self._seed, note)
            return
        for path in self._paths:
            with open_columns(path) as columns:
                yield Item(_named(columns, self._inputs, note, self._skip), self._size, stacked=True, origin=path.name)

    def _in_random_order(self, seed: int, note: Callable[[str], None]) -> Iterator[Item]:
        for index, order in order_in_files(seed, [count or 0 for count in self._counts]):
            path = self._paths[index]
            columns = shuffled_columns(MappedArrays(path).arrays, order)
            yield Item(_named(columns, self._inputs, note, self._skip), self._size, stacked=True, origin=path.name)


def _samples(shapes: Mapping[str, tuple[int, ...]], inputs: InputSpecs) -> int | None:
    """Longest first axis among the inputs: the sample count in all but contrived data."""
    lengths = [shape[0] for name, shape in shapes.items() if shape and (name in inputs or len(inputs) == 1)]
    return max(lengths, default=None)


def _named(
    columns: Mapping[str, Column], inputs: InputSpecs, note: Callable[[str], None], skip: Mapping[str, str]
) -> Mapping[str, Column]:
    """Columns under the model's input names: labels left out, a lone array given to a lone input."""
    kept = {name: column for name, column in columns.items() if name not in skip or name in inputs}
    for name in columns:
        if name not in kept and skip[name]:
            note(skip[name])
    if len(kept) == 1 and len(inputs) == 1:
        ((name, column),) = kept.items()
        if name not in inputs and name not in _UNNAMED:
            note(f"the only array, {name!r}, was taken for the only input, {next(iter(inputs))!r}")
        return {next(iter(inputs)): column}
    if "" in kept:
        raise DataError(
            f"a single array cannot feed the model's {len(inputs)} inputs",
            hint=f"use a .npz file with the arrays {', '.join(map(repr, inputs))}.",
        )
    return kept
