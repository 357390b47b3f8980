"""What is taken of one array: exact extremes of all its elements, and the elements that go into the histogram.

A sample's tensor is seen as rows of places, each of some lanes:

    image, rank 3 and more, in blocks of channels     a row is a block, a place a pixel, its lanes the block's channels
    any other image                                   a row is a channel, a place one pixel
    (..., D)                                          a row has D elements, a place L neighbours, L = gcd(D, LANES)

Of its `size` elements, n(size) go into the histogram, evenly spread:

    n(size) = size where size <= SAMPLE, else SAMPLE or a SHARE-th of them, whichever is more
    stride  = the integer next to size / n(size), by ratio, that has no divisor in common with the places of a row
    taken   = the places stride // 2, stride // 2 + stride, ...   through all rows; each element stands for `stride`

The choice depends on the shape of one sample's tensor alone, so it is the same for any batch size, order or split. Such
a stride visits other places in each row in turn. Lanes lie side by side in memory, also in the layout of blocks
(`blocked_layout`), so that the model itself can take them in one strided copy.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from onnxq.calibration.statistics.blocked_layout import Blocked
from onnxq.errors import DataError

SAMPLE = 3072
"""Elements counted of one tensor of one sample, at least."""

SHARE = 128
"""Of larger tensors one element in so many is counted: more would cost more than the model's own work on them."""

LANES = 16
"""Neighbours that are taken together: 64 bytes, a line of the processor's cache."""

_IMAGE_RANK = 3


@dataclass(frozen=True, kw_only=True, eq=False)
class Extract:
    """What statistics keep of one array.

    Attributes:
        count: Elements of every kind.
        nonfinite: NaN and infinite elements.
        rmin: Smallest finite element; +inf if there is none.
        rmax: Largest finite element; -inf if there is none.
        taken: float32, of one or two axes, finite: the elements for the histogram. May share memory with the array.
        weight: How many elements each of them stands for.
    """

    count: int
    nonfinite: int
    rmin: float
    rmax: float
    taken: NDArray[np.float32]
    weight: int

    def mapped(self, function: Callable[[NDArray[np.float32]], NDArray[np.float32]]) -> Extract:
        """The extremes of `function(array)`, for finite elements and a function that rises or falls throughout."""
        if not self.count:
            return self
        ends = function(np.array([self.rmin, self.rmax], np.float32))
        first, last = ends.tolist()
        return Extract(
            count=self.count,
            nonfinite=self.nonfinite,
            rmin=min(first, last) + 0.0,
            rmax=max(first, last) + 0.0,
            taken=np.empty(0, np.float32),
            weight=1,
        )


@dataclass(frozen=True)
class Choice:
    """Which elements of one sample's tensor go into the histogram.

    Attributes:
        places: Places in all.
        lanes: Neighbours at each place; with the padding where blocks have several lengths.
        stride: Distance between places that are taken; also the weight of an element.
    """

    places: int
    lanes: int
    stride: int

    @classmethod
    def of(cls, shape: Sequence[int], blocked: Blocked | None = None) -> Choice:
        """For a sample's tensor of this shape, without a size of 0, and layout.

        >>> Choice.of((2048,)), Choice.of((98, 264))
        (Choice(places=128, lanes=16, stride=1), Choice(places=3234, lanes=8, stride=8))
        >>> Choice.of((64, 80, 80)), Choice.of((64, 80, 80), Blocked(channels=64, block=16))
        (Choice(places=409600, lanes=1, stride=129), Choice(places=25600, lanes=16, stride=129))
        """
        return _choice(tuple(shape), blocked, SAMPLE)

    @property
    def start(self) -> int:
        """The first place that is taken."""
        return self.stride // 2

    @property
    def taken(self) -> int:
        """Places that are taken."""
        return len(range(self.start, self.places, self.stride))

    def in_whole_blocks(self, blocked: Blocked) -> int:
        """How many of the places that are taken come before the last block, which alone has padding."""
        return len(range(self.start, self.places // blocked.blocks * (blocked.blocks - 1), self.stride))

    def used(self, blocked: Blocked) -> NDArray[np.bool_]:
        """Which lanes at the places that are taken are no padding: shape (taken, lanes)."""
        block = np.arange(self.start, self.places, self.stride) // (self.places // blocked.blocks)
        return np.asarray(block[:, None] * self.lanes + np.arange(self.lanes) < blocked.channels)


@functools.lru_cache(maxsize=4096)
def _choice(shape: tuple[int, ...], blocked: Blocked | None, sample: int) -> Choice:
    size, row = math.prod(shape), math.prod(shape[1:])
    if blocked is not None:
        places, lanes = blocked.blocks * row, blocked.lanes
    elif len(shape) >= _IMAGE_RANK:
        places, lanes = size, 1
    else:
        lanes = math.gcd(LANES, *(shape[-1:] or (1,)))
        places, row = size // lanes, (shape[-1] if shape else 1) // lanes
    if size <= sample:
        return Choice(places, lanes, 1)
    best = size / max(sample, size // SHARE)
    near = (n for n in range(1, 4 * math.ceil(best) + 1) if math.gcd(n, row) == 1)
    return Choice(places, lanes, min(near, key=lambda n: max(n / best, best / n)))


def sample_shape(shape: Sequence[int], rows: int) -> tuple[int, ...]:
    """Shape of one sample's tensor.

    Args:
        shape: Of the tensor of all samples.
        rows: Samples along its first axis; 1 takes the whole array for one sample.
    """
    return tuple(shape[1:]) if shape and shape[0] == rows else tuple(shape)


def extract(
    values: ArrayLike, *, rows: int | None = None, blocked: Blocked | None = None, histogram: bool = True
) -> Extract:
    """Read an array once.

    Args:
        values: Any shape and layout; any real dtype, taken as float32 (a finite double beyond float32 counts as
            non-finite).
        rows: Samples along the first axis, of each of which some elements are taken; 1 takes the whole array for one
            sample. None takes every element.
        blocked: The layout in which onnxruntime computes the tensor; that of the array is the model's all the same.
        histogram: Whether any elements are taken at all.

    Raises:
        DataError: the array is not numeric.
    """
    array = np.asarray(values)
    # ml_dtypes' bfloat16 and float8 are of kind "V", yet cast like any float.
    if array.dtype.kind not in "biufV" or array.dtype.names is not None:
        raise DataError(f"statistics need numbers, got an array of dtype {array.dtype}")
    with np.errstate(over="ignore", invalid="ignore"):
        flat = array.ravel(order="K" if rows is None else "C").astype(np.float32, copy=False)
    if not flat.size:
        return Extract(count=0, nonfinite=0, rmin=math.inf, rmax=-math.inf, taken=flat, weight=1)
    stride, taken = 1, flat if histogram else flat[:0]
    if histogram and rows is not None:
        choice = Choice.of(sample_shape(array.shape, rows), blocked)
        stride, taken = choice.stride, _taken(flat, choice, blocked)
    low, high = float(flat.min()), float(flat.max())
    nonfinite = 0
    # min and max pass NaN on and show infinities, so finite data pays nothing for this check.
    if not (math.isfinite(low) and math.isfinite(high)):
        finite = flat[np.isfinite(flat)]
        nonfinite = flat.size - finite.size
        low, high = (float(finite.min()), float(finite.max())) if finite.size else (math.inf, -math.inf)
        taken = taken[np.isfinite(taken)]
    # + 0.0 turns -0.0 into 0.0: which of the two comes first must not show.
    return Extract(count=flat.size, nonfinite=nonfinite, rmin=low + 0.0, rmax=high + 0.0, taken=taken, weight=stride)


def _taken(flat: NDArray[np.float32], choice: Choice, blocked: Blocked | None) -> NDArray[np.float32]:
    """The elements that go into the histogram.

    Args:
        flat: The samples, one behind the other, in the model's layout.
        choice: Which of a sample.
        blocked: The layout that the choice is made for.
    """
    if blocked is None:
        return flat.reshape(-1, choice.places, choice.lanes)[:, choice.start :: choice.stride].ravel()
    plane = choice.places // blocked.blocks
    samples = flat.reshape(-1, blocked.channels, plane)
    wide = np.zeros((len(samples), blocked.blocks * blocked.block, plane), np.float32)
    wide[:, : blocked.channels] = samples
    blocks = wide.reshape(-1, blocked.blocks, blocked.block, plane).swapaxes(2, 3)
    places = blocks.reshape(-1, choice.places, blocked.block)[:, choice.start :: choice.stride, : choice.lanes]
    return np.asarray(places[:, choice.used(blocked)].ravel(), np.float32)
