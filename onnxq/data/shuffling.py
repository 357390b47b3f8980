"""A random order of samples that depends on nothing but a seed and their number.

The order is numpy's PCG64 permutation of range(count) (https://numpy.org/doc/stable/reference/random/bit_generators/
pcg64.html), whose stream numpy keeps from version to version. Statistics do not depend on the order; which samples a
limit takes and which are held out do.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxq.data.cutting import ArrayColumn, Column


def shuffled_order(seed: int, count: int) -> NDArray[np.int64]:
    """The order, as indices, shape (count,)."""
    # argsort of raw 64-bit draws: numpy promises the stream of a bit generator, but not that of its permutation().
    draws = np.random.PCG64(seed).random_raw(count)
    return np.argsort(draws, kind="stable").astype(np.int64)


def chosen_files(paths: Sequence[Path], limit: int | None, shuffle: int | None) -> list[Path]:
    """At most `limit` files: the first ones of a random order, or taken evenly over the list.

    Evenly, because the first ones alone would all be of one class.
    """
    if shuffle is not None:
        paths = [paths[i] for i in shuffled_order(shuffle, len(paths))]
        return list(paths if limit is None else paths[:limit])
    if limit is None or limit >= len(paths):
        return list(paths)
    return [paths[i * len(paths) // limit] for i in range(limit)]


class ShuffledColumn:
    """A column that gives the rows of an array in another order. The array may be mapped from a file."""

    def __init__(self, array: NDArray[Any], order: NDArray[np.int64]) -> None:
        self._array = array
        self._order = order
        self._next = 0
        self.shape: tuple[int, ...] = array.shape
        self.dtype: np.dtype[Any] = array.dtype

    def take(self, count: int | None) -> NDArray[Any]:
        start = self._next
        self._next = len(self._order) if count is None else start + count
        # One by one: a mapped array then touches only the pages of these rows.
        rows = [self._array[i] for i in self._order[start : self._next]]
        return np.stack(rows) if rows else self._array[:0]


def order_in_files(seed: int, counts: Sequence[int]) -> Iterator[tuple[int, NDArray[np.int64]]]:
    """Files in a random order: the index of each, and the order of its samples.

    Args:
        seed: The seed.
        counts: Number of samples in each file.
    """
    for index in map(int, shuffled_order(seed, len(counts))):
        yield index, shuffled_order(seed + index, counts[index])


def shuffled_columns(arrays: Mapping[str, NDArray[Any]], order: NDArray[np.int64]) -> dict[str, Column]:
    """Columns of the arrays; those that hold one row for each sample in the given order."""
    return {
        name: ShuffledColumn(array, order) if array.shape[:1] == order.shape else ArrayColumn(array)
        for name, array in arrays.items()
    }
