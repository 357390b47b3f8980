"""The shift of logits that is best for the probabilities behind them.

Behind a classifier's last layer, y, stands p = Softmax(y), often at many places: the steps of a line of text, the
pixels of a mask. Of an error e at y only what it does to p goes on, and nearly all of that at the few places where two
classes are close. The mean of e is mostly that of places where nothing is to be decided, so with it taken away the odds
of two classes that are often close can still be wrong by a constant. The shift d that counts minimises

    sum KL(p | Softmax(y + e - d)) + PRIOR / 2 |d - mean e|^2        over all places, convex

whose gradient for a class is the sum of p - p' there: each class gets the total probability that it had. `PRIOR` keeps
classes that hardly occur at the mean of e. Solved by Newton's method on the diagonal, steps halved: where two classes
compete, both move.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxq.graph.view import STANDARD_DOMAINS, Graph, attribute

PRIOR = 1.0
"""Weight of the mean, as that of four places that are undecided between two classes."""

_STEPS = 12
_SETTLED = 1e-3
"""Most steps and the smallest: a thousandth of the logarithm of the odds."""

_ELEMENTS = 2**24
"""Logits that are looked at; of more, every third place, or every fifth, ..."""


def softmax_behind(graph: Graph, tensor: str, axis: int, rank: int) -> bool:
    """Whether a Softmax along `axis` is all that reads `tensor`, of `rank` axes."""
    readers = graph.consumers(tensor)
    if len(readers) != 1 or graph.is_output(tensor) or readers[0].op_type != "Softmax":
        return False
    return readers[0].domain in STANDARD_DOMAINS and int(attribute(readers[0], "axis", -1)) % rank == axis


def best_for_odds(
    got: Sequence[NDArray[Any]], wanted: Sequence[NDArray[Any]], mean: NDArray[np.float64], axis: int
) -> NDArray[np.float64]:
    """What to take off each class.

    Args:
        got: Logits with errors, one array for each batch.
        wanted: Those without.
        mean: The mean error of each class, shape (C,).
        axis: Of the classes.

    Returns:
        Shape (C,).
    """
    # An odd stride, so that it is not always the same columns of an image.
    stride = -(-sum(value.size for value in got) // _ELEMENTS)
    stride += 1 - stride % 2
    logits = [_places(value, axis)[::stride] for value in got]
    sought = sum(_softmax(_places(value, axis)[::stride]).sum(axis=0, dtype=np.float64) for value in wanted)
    shift = mean.copy()
    for _ in range(_STEPS):
        total, bend = np.zeros(mean.shape), np.zeros(mean.shape)
        for value in logits:
            odds = _softmax(value - shift.astype(np.float32))
            total += odds.sum(axis=0, dtype=np.float64)
            bend += np.einsum("nc,nc->c", odds, 1.0 - odds, dtype=np.float64)
        step = 0.5 * (total - sought - PRIOR * (shift - mean)) / (bend + PRIOR)
        shift += step
        if np.abs(step).max(initial=0.0) < _SETTLED:  # false for NaN
            break
    return shift if np.isfinite(shift).all() else mean


def _places(values: NDArray[Any], axis: int) -> NDArray[np.float32]:
    return np.moveaxis(values, axis, -1).reshape(-1, values.shape[axis]).astype(np.float32, copy=False)


def _softmax(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=1, keepdims=True))
