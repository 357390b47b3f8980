"""What is taken of one array: exact extremes of all its elements, and the elements that go into the histogram.

A sample's tensor is seen as channels by places by lanes:

    images, rank 3 and more     (C, places, 1)     all channels of a pixel are taken or none
    any other, (..., D)         (1, places, L)     L = the greatest common divisor of D and LANES

Of its `size` elements, n(size) go into the histogram, evenly spread:

    n(size) = size where size <= SAMPLE, else SAMPLE or a SHARE-th of them, whichever is more
    stride  = the integer next to size / n(size), by ratio, that has no divisor in common with the places of a row
    taken   = the places stride // 2, stride // 2 + stride, ...        each element stands for `stride` elements

The choice depends on the shape of one sample's tensor alone, so it is the same for any batch size, order or split. Such
a stride walks through all columns in turn. Taking whole pixels and lanes makes
it one strided copy inside the model, also where memory has another layout than the shape says (`blocked_layout`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from onnxq.errors import DataError

SAMPLE = 2048
"""Elements counted of one tensor of one sample, at least."""

SHARE = 64
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
        taken: float32, shape (n,), finite: the elements for the histogram. May share memory with the array.
        weight: How many elements each of them stands for.
    """

    count: int
    nonfinite: int
    rmin: float
    rmax: float
    taken: NDArray[np.float32]
    weight: int

    def mapped(self, function: Callable[[NDArray[np.float32]], NDArray[np.float32]]) -> Extract:
        """The extract of `function(array)`, for a function that rises or falls throughout.

        The extremes of a monotone function are its values at the extremes; elements are taken by place, and the
        function keeps them there. Holds for arrays of finite elements.
        """
        if not self.count:
            return self
        ends = function(np.array([self.rmin, self.rmax], np.float32))
        return replace(self, rmin=float(ends.min()) + 0.0, rmax=float(ends.max()) + 0.0, taken=function(self.taken))


@dataclass(frozen=True)
class Choice:
    """Which elements of one sample's tensor go into the histogram.

    Attributes:
        channels: Of an image.
        places: Places in all.
        lanes: Neighbours at each place.
        stride: Distance between places that are taken; also the weight of an element.
    """

    channels: int
    places: int
    lanes: int
    stride: int

    @classmethod
    def of(cls, shape: Sequence[int]) -> Choice:
        """For a sample's tensor of this shape, without a size of 0.

        >>> Choice.of((2048,)), Choice.of((98, 264)), Choice.of((64, 80, 80))  # doctest: +NORMALIZE_WHITESPACE
        (Choice(channels=1, places=128, lanes=16, stride=1),
         Choice(channels=1, places=3234, lanes=8, stride=13),
         Choice(channels=64, places=6400, lanes=1, stride=63))
        """
        image = len(shape) >= _IMAGE_RANK
        channels, lanes = (shape[0], 1) if image else (1, math.gcd(LANES, *(shape[-1:] or (1,))))
        size = math.prod(shape)
        places = size // (channels * lanes)
        if size <= SAMPLE:
            return cls(channels, places, lanes, 1)
        best = size / max(SAMPLE, size // SHARE)
        row = shape[-1] // lanes
        near = (n for n in range(1, min(places, 2 * math.ceil(best)) + 1) if math.gcd(n, row) == 1)
        return cls(channels, places, lanes, min(near, key=lambda n: max(n / best, best / n)))

    @property
    def start(self) -> int:
        """The first place that is taken."""
        return self.stride // 2

    @property
    def taken(self) -> int:
        """Places that are taken."""
        return len(range(self.start, self.places, self.stride))


def sample_shape(shape: Sequence[int], rows: int) -> tuple[int, ...]:
    """Shape of one sample's tensor.

    Args:
        shape: Of the tensor of all samples.
        rows: Samples along its first axis; 1 takes the whole array for one sample.
    """
    return tuple(shape[1:]) if shape and shape[0] == rows else tuple(shape)


def extract(values: ArrayLike, *, rows: int | None = None, histogram: bool = True) -> Extract:
    """Read an array once.

    Args:
        values: Any shape and layout; any real dtype, taken as float32 (a finite double beyond float32 counts as
            non-finite).
        rows: Samples along the first axis, of each of which some elements are taken; 1 takes the whole array for one
            sample. None takes every element.
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
        choice = Choice.of(sample_shape(array.shape, rows))
        stride = choice.stride
        view = flat.reshape(-1, choice.channels, choice.places, choice.lanes)
        taken = view[:, :, choice.start :: stride].ravel()
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
