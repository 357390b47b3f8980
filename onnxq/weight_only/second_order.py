"""GPTQ (arXiv 2210.17323): codes that keep a product's output, on a grid fixed beforehand.

The grid is that of least squared error of each block. Columns are rounded one after another, those with the largest
inputs first, and what a column is off by is made up for by the columns that follow:

    w[j] -= (w[i] - w'[i]) U[i, j] / U[i, i]   for j > i,   H^-1 = U^T U, U upper triangular, H = E[x x^T]

`recovery/second_order.py` does the same for one scale in a row, and explains it further.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from onnxq.weight_only.blocks import Blocks, Grid, Rounded
from onnxq.weight_only.rounding import least_error_grid

_DAMPING = 0.01
_BATCH = 64
"""Columns after which the rest is brought up to date by one product of matrices."""


class SecondOrder:
    """The part of the method that all rows share.

    Args:
        moments: E[x x^T] of the product's input, (K, K), positive semidefinite.
    """

    def __init__(self, moments: NDArray[np.float64]) -> None:
        diagonal = np.diagonal(moments)
        damping = max(_DAMPING * float(diagonal.mean()), np.finfo(np.float64).tiny ** 0.5)
        damped = moments + damping * np.eye(moments.shape[0])
        self._order = np.argsort(-np.diagonal(damped), kind="stable")
        permuted = damped[np.ix_(self._order, self._order)]
        self._upper = np.linalg.cholesky(np.linalg.inv(permuted)).T

    def rounded(self, blocks: Blocks) -> Rounded:
        """The codes of some rows."""
        grid = least_error_grid(blocks)
        columns = blocks.columns
        size = blocks.values.shape[2]
        scale = np.repeat(grid.scale, size, axis=1)[:, :columns].astype(np.float64)[:, self._order]
        shift = np.repeat(grid.zero_point, size, axis=1)[:, :columns].astype(np.float64)[:, self._order]
        rest = blocks.values.reshape(blocks.values.shape[0], -1)[:, :columns].astype(np.float64)[:, self._order]
        low, high = blocks.spec.qmin - shift, blocks.spec.qmax - shift
        steps = np.empty_like(rest)
        for start in range(0, columns, _BATCH):
            stop = min(start + _BATCH, columns)
            errors = np.empty((rest.shape[0], stop - start))
            for i in range(start, stop):
                steps[:, i] = np.clip(np.rint(rest[:, i] / scale[:, i]), low[:, i], high[:, i])
                error = (rest[:, i] - steps[:, i] * scale[:, i]) / self._upper[i, i]
                errors[:, i - start] = error
                rest[:, i + 1 : stop] -= error[:, None] * self._upper[i : i + 1, i + 1 : stop]
            rest[:, stop:] -= errors @ self._upper[start:stop, stop:]
        return _in_order(blocks, grid, steps, self._order)


def _in_order(blocks: Blocks, grid: Grid, steps: NDArray[np.float64], order: NDArray[np.intp]) -> Rounded:
    rows, count, size = blocks.values.shape
    filled = np.zeros((rows, count * size), np.float32)
    filled[:, order] = steps
    return blocks.rounded(grid, filled.reshape(rows, count, size))
