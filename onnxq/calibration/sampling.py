"""What is taken of one array: exact extremes of all its elements, and the elements that go into the histogram.

Of a sample's tensor of `size` elements, n(size) go into the histogram, evenly spread:

    n(size) = size where size <= SAMPLE, else SAMPLE or a SHARE-th of them, whichever is more
    stride  = the smallest integer >= size / n(size) that has no divisor in common with size
    taken   = elements stride // 2, stride // 2 + stride, ...          each stands for `stride` elements

The choice depends on the size of one sample's tensor alone, so it is the same for any batch size, order or split. A
stride coprime to the size is coprime to every dimension: it walks through all channels, rows and columns in turn.
Elements are numbered in the order of the model's layout, also where memory has another one (`tap_memory`).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from onnxq.errors import DataError

SAMPLE = 4096
"""Elements counted of one tensor of one sample, at least."""

SHARE = 32
"""Of larger tensors one element in so many is counted: a histogram then costs about as much as the extremes."""


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


def stride_for(size: int) -> int:
    """Distance between the elements taken of a tensor.

    Args:
        size: Elements of one sample's tensor.

    >>> stride_for(4096), stride_for(4097), stride_for(64 * 80 * 80)
    (1, 2, 33)
    """
    if size <= SAMPLE:
        return 1
    stride = -(-size // max(SAMPLE, size // SHARE))
    while math.gcd(stride, size) > 1:
        stride += 1
    return stride


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
    size = flat.size // (rows or 1)
    stride = 1 if rows is None or not histogram else stride_for(size)
    taken = flat.reshape(-1, size)[:, stride // 2 :: stride].ravel() if histogram else flat[:0]
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
