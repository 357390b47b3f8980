"""Codes for a weight that keep a node's output, not each weight, as near as possible to what it was.

With rows w of a weight, codes q and scale s, and H the second moments of the inputs, the squared error of the output is

    e H e^T,  e = w - s q

Rounded to nearest, the errors of one row add up at random. Here columns are rounded one after another, and the error of
each is made up for by the columns that are not rounded yet:

    w[j] -= (w[i] - s q[i]) U[i, j] / U[i, i]   for j > i,   H^-1 = U^T U, U upper triangular

(arXiv 2210.17323, section 3, which builds on arXiv 2208.11580), largest H[i, i] first. Then each code is set to the
best one while all others stand, which lowers the error further and never raises it:

    q[i] <- round(q[i] + (e H)[i] / (s H[i, i]))

Everything is float64, for all groups of a Conv at once.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from onnxq.numerics.pair_guard import LARGEST_PAIR_SUM

Rows = NDArray[np.float64]

_BLOCK = 64
"""Columns after which the rest of the row is brought up to date, by one product of matrices."""

_DAMPING = 0.01
"""Share of the mean of the diagonal that is added to it, as in the paper: keeps H invertible and the codes near."""

_SWEEPS = 2
"""Rounds of setting single codes; a third gains less than 0.01 dB."""


class CodeLimits:
    """What codes may be: a range, and the sum of two that the kernel adds in 16 bits.

    Args:
        qmin: Smallest code.
        qmax: Largest code.
        partner: For each of the K columns the one it is added to, -1 for none; None where sums do not matter.
        rounded: What a number becomes as a code: the nearest integer, unless codes are floats.
    """

    def __init__(
        self,
        qmin: int,
        qmax: int,
        partner: NDArray[np.intp] | None = None,
        rounded: Callable[[Rows], Rows] = np.rint,
    ) -> None:
        self.qmin, self.qmax, self.partner, self.rounded = float(qmin), float(qmax), partner, rounded

    def permuted(self, order: NDArray[np.intp]) -> CodeLimits:
        """The limits for columns taken in `order`."""
        if self.partner is None:
            return self
        place = np.empty_like(order)
        place[order] = np.arange(order.size)
        taken = self.partner[order]
        return CodeLimits(int(self.qmin), int(self.qmax), np.where(taken < 0, -1, place[taken]), self.rounded)

    def nearest(self, wanted: Rows, codes: Rows, column: int, fixed: bool) -> Rows:
        """The allowed codes nearest to `wanted`, (g, m), for a column of `codes`, (g, m, K).

        `fixed`: whether the column's partner has its code already.
        """
        low, high = np.full_like(wanted, self.qmin), np.full_like(wanted, self.qmax)
        if self.partner is not None and fixed and self.partner[column] >= 0:
            other = codes[:, :, self.partner[column]]
            low = np.maximum(low, -LARGEST_PAIR_SUM - other)
            high = np.minimum(high, LARGEST_PAIR_SUM - other)
        return np.clip(self.rounded(wanted), low, high)


def round_second_order(rows: Rows, moments: Rows, scales: Rows, limits: CodeLimits) -> Rows:
    """Codes for the rows of a weight.

    Args:
        rows: The weight, shape (g, m, K).
        moments: Second moments of the inputs, shape (g, K, K), positive semidefinite.
        scales: Of each row, shape (g, m).
        limits: What codes may be.

    Returns:
        Integers in float64, shape (g, m, K).
    """
    damped = _damped(moments)
    order = np.argsort(-np.einsum("gkk->k", damped), kind="stable")
    permuted = limits.permuted(order)
    units = rows[:, :, order] / scales[..., None]
    h = damped[:, order][:, :, order]
    codes = _one_after_another(units, h, permuted)
    for _ in range(_SWEEPS):
        _settle(units, codes, h, permuted)
    result = np.empty_like(codes)
    result[:, :, order] = codes
    return result


def _damped(moments: Rows) -> Rows:
    diagonal = np.einsum("gkk->gk", moments)
    damping = np.maximum(_DAMPING * diagonal.mean(axis=1), np.finfo(np.float64).tiny ** 0.5)
    return np.asarray(moments + damping[:, None, None] * np.eye(moments.shape[-1]))


def _one_after_another(units: Rows, h: Rows, limits: CodeLimits) -> Rows:
    """Codes of the columns from first to last, each column's error made up for by those after it."""
    columns = units.shape[-1]
    # H^-1 = U^T U: the Cholesky factor of the inverse, transposed.
    upper = np.linalg.cholesky(np.linalg.inv(h)).transpose(0, 2, 1)
    rest, codes = units.copy(), np.zeros_like(units)
    for start in range(0, columns, _BLOCK):
        stop = min(start + _BLOCK, columns)
        errors = np.empty((*units.shape[:2], stop - start))
        for i in range(start, stop):
            known = limits.partner is not None and 0 <= limits.partner[i] < i
            codes[:, :, i] = limits.nearest(rest[:, :, i], codes, i, known)
            error = (rest[:, :, i] - codes[:, :, i]) / upper[:, i, i, None]
            errors[:, :, i - start] = error
            rest[:, :, i + 1 : stop] -= error[..., None] * upper[:, None, i, i + 1 : stop]
        rest[:, :, stop:] -= errors @ upper[:, start:stop, stop:]
    return codes


def _settle(units: Rows, codes: Rows, h: Rows, limits: CodeLimits) -> None:
    """Set each code to the best one while the others stand, in place."""
    columns = units.shape[-1]
    for start in range(0, columns, _BLOCK):
        stop = min(start + _BLOCK, columns)
        inner = h[:, start:stop, start:stop]
        pull = (units - codes) @ h[:, :, start:stop]
        for i in range(start, stop):
            k = i - start
            old = codes[:, :, i].copy()
            codes[:, :, i] = limits.nearest(old + pull[:, :, k] / inner[:, k, k, None], codes, i, True)
            pull -= (codes[:, :, i] - old)[..., None] * inner[:, None, k]
