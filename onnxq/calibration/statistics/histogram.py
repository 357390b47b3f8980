"""A histogram that merges exactly: bins of width 2^e, with the smallest e that fits the values seen.

    bin(x) = floor(x * 2^-e)        -BINS <= bin(x) < BINS

Multiplying by a power of two is exact, and floor(x * 2^-(e+k)) = floor(x * 2^-e) >> k for either sign, so a histogram
is brought to a coarser exponent by adding up runs of 2^k bins, with the same counts as if it had been coarse from the
start. The exponent depends only on the extremes of all values; hence the counts do not depend on how the values were
batched, ordered or split. The larger side always uses at least BINS / 2 bins.

Zeros are left out here and counted by the caller: they are exact under every quantizer, and half of a ReLU's output.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

BINS = 4096
"""Bins on each side of zero: at least 2048 between zero and the largest value, whatever its place in its octave."""

LEVELS = BINS.bit_length() - 1
MIN_EXPONENT = -126
"""Bins no narrower than the smallest scale that engines treat as a normal number; also keeps 2^-e inside float32."""

MAX_EXPONENT = 128 - LEVELS
"""Reached by the largest finite float32."""


def exponent_for(rmin: float, rmax: float) -> int:
    """The smallest exponent whose bins hold [rmin, rmax].

    Args:
        rmin: Smallest value, finite; a positive one counts as 0.
        rmax: Largest value, finite; a negative one counts as 0.

    Returns:
        e with -BINS * 2^e <= rmin and rmax < BINS * 2^e, at least MIN_EXPONENT.

    >>> exponent_for(-1.0, 0.5), exponent_for(-0.5, 1.0)
    (-12, -11)
    """
    exponent = MIN_EXPONENT
    if rmax > 0.0:
        exponent = max(exponent, math.frexp(rmax)[1] - LEVELS)
    if rmin < 0.0:
        mantissa, power = math.frexp(-rmin)
        # -BINS * 2^e itself fits on the negative side: its floor is the first bin.
        exponent = max(exponent, power - LEVELS - (mantissa == 0.5))
    return exponent


def coarsen(counts: NDArray[np.int64], steps: int) -> NDArray[np.int64]:
    """The same histogram with bins 2^steps times as wide.

    Args:
        counts: shape (2 * BINS,).
        steps: >= 0.

    Returns:
        A new array, shape (2 * BINS,).
    """
    if steps == 0:
        return np.array(counts)
    # At LEVELS steps each side has become one bin, which every further step maps to itself.
    run = 1 << min(steps, LEVELS)
    used = BINS // run
    wide = np.zeros_like(counts)
    wide[BINS - used : BINS + used] = counts.reshape(-1, run).sum(axis=1)
    return wide


def bin_edges(exponent: int) -> NDArray[np.float64]:
    """Edges of all bins, exact in float64: shape (2 * BINS + 1,)."""
    return np.asarray(np.arange(-BINS, BINS + 1) * math.ldexp(1.0, exponent), np.float64)


class Binner:
    """Adds float32 chunks to a histogram, through scratch memory that stays in the processor's cache."""

    CHUNK = 32768
    """Elements a chunk: with its scratch about half a megabyte. Measured flat from 16384 to 65536."""

    def __init__(self, size: int) -> None:
        size = min(size, self.CHUNK)
        self._scaled = np.empty(size, np.float32)
        self._narrow = np.empty(size, np.int32)
        self._index = np.empty(size, np.intp)
        self._is_zero = np.empty(size, np.bool_)
        self._turns = np.tile(np.array([BINS, 0], np.int32), -(-size // 2))[:size]

    def add(
        self, counts: NDArray[np.int64], chunk: NDArray[np.float32], exponent: int, rmin: float, weight: int = 1
    ) -> int:
        """Count a chunk.

        Args:
            counts: Changed in place, shape (2 * BINS,).
            chunk: Of any shape; finite, at most the size the scratch was made for, all inside the bins.
            exponent: Bin width is 2^exponent.
            rmin: At most the smallest value of the chunk.
            weight: How many elements each of the chunk stands for.

        Returns:
            How many elements of the chunk are zero; they are not in `counts`.
        """
        size = chunk.size
        scaled, narrow, index = self._scaled[:size], self._narrow[:size], self._index[:size]
        shaped, is_zero = scaled.reshape(chunk.shape), self._is_zero[:size].reshape(chunk.shape)
        has_negative = rmin < 0.0
        if exponent > 0 and has_negative:
            # 2^-e < 1 can take a tiny negative to -0.0 in float32, and floor would then miss bin -1. float64 cannot.
            wide = np.multiply(chunk, math.ldexp(1.0, -exponent), dtype=np.float64)
            np.floor(wide, out=shaped, casting="same_kind")
        else:
            np.multiply(chunk, np.float32(math.ldexp(1.0, -exponent)), out=shaped)
            if has_negative:
                np.floor(scaled, out=scaled)
        # float32 -> int32 -> intp are two vector instructions; float32 -> intp directly is a scalar loop on AVX2.
        # What is not negative needs no floor: the conversion cuts off what is behind the point.
        np.copyto(narrow, scaled, casting="unsafe")
        if has_negative:
            np.add(narrow, BINS, out=index)
            seen, first = np.bincount(index), BINS + math.floor(math.ldexp(rmin, -exponent))
        else:
            # The lower half is free: every other element is counted there. Zeros behind a Relu would else be added to
            # one and the same number, each addition waiting for the one before.
            np.add(narrow, self._turns[:size], out=index)
            seen, first = np.bincount(index, minlength=2 * BINS), BINS
            seen[BINS:] += seen[:BINS]
        # What lies outside is not touched: histograms of many tensors take turns in the processor's cache.
        seen = seen[first:]
        if weight > 1:
            seen *= weight
        counts[first : first + seen.size] += seen
        np.equal(chunk, 0.0, out=is_zero)
        zeros = int(np.count_nonzero(is_zero))
        counts[BINS] -= weight * zeros
        return zeros
