"""How much of an error can be undone by what is at hand: a linear fit that has to prove itself.

    A = argmin |D - A Z|^2 + damping * mean(diag H) |A|^2 = G (H + damping * mean(diag H) I)^-1
    H = sum z z^T,  G = sum d z^T                         D: the error to undo, Z: inputs, both centred

where a bias takes their means. Where there is none, neither is centred: what A makes of the mean of Z stays.

Whether a fit holds on other data is seen on other data: samples are parted, each half is fitted and judged on the other
one, and the damping that leaves the least there is taken, or none.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Stack = NDArray[np.float64]

DAMPINGS = (0.01, 0.1, 1.0)

NEEDED_SHARE = 0.02
"""A fit has to undo this share of the error on the samples that it was not made from."""

_FEWEST_ROWS, _ROWS_OF_COLUMN = 16, 0.5
"""Fewer samples than this, or than this for each input, prove nothing either way."""


def fitted(inputs: Stack, errors: Stack, *, centred: bool = True) -> Stack | None:
    """The linear map from inputs to errors.

    Args:
        inputs: float64, shape (g, n, k): n samples in their order, in each of g groups.
        errors: float64, shape (g, n, m).
        centred: Whether a bias takes the means.

    Returns:
        float64, shape (g, m, k); None where no fit holds on samples that it was not made from.
    """
    rows = inputs.shape[1]
    if rows < max(_FEWEST_ROWS, _ROWS_OF_COLUMN * inputs.shape[2]):
        return None
    # Neighbouring rows are of the same sample: quarters, not single rows, take turns.
    halves = [np.flatnonzero((np.arange(rows) * 4 // rows) % 2 == half) for half in (0, 1)]
    sums = [_Sums.of(inputs[:, half], errors[:, half], centred=centred) for half in halves]
    left = [sum(sums[1 - i].left(sums[i].solved(damping)) for i in (0, 1)) for damping in DAMPINGS]
    best = int(np.argmin(left))
    if not left[best] < (1.0 - NEEDED_SHARE) * (sums[0].power + sums[1].power):  # false for NaN as well
        return None
    fit: Stack = sums[0].added_to(sums[1]).solved(DAMPINGS[best])
    return np.swapaxes(fit, 1, 2)


@dataclass(frozen=True)
class _Sums:
    """Moments of inputs z and errors d about their means, or about 0: all that a fit, and judging one, needs.

    Attributes:
        count: How many rows.
        inputs: Mean of z, (g, 1, k); 0 where moments are about 0.
        errors: Mean of d, (g, 1, m); likewise.
        moments: Sum of z z^T, (g, k, k).
        products: Sum of z d^T, (g, k, m).
        power: Sum of d^2.
    """

    count: int
    inputs: Stack
    errors: Stack
    moments: Stack
    products: Stack
    power: float

    @classmethod
    def of(cls, inputs: Stack, errors: Stack, *, centred: bool) -> _Sums:
        z_mean, d_mean = (values.mean(axis=1, keepdims=True) * centred for values in (inputs, errors))
        z, d = inputs - z_mean, errors - d_mean
        turned = z.transpose(0, 2, 1)
        return cls(inputs.shape[1], z_mean, d_mean, turned @ z, turned @ d, float(np.square(d).sum()))

    def added_to(self, other: _Sums) -> _Sums:
        """The moments of both sets of rows."""
        count = self.count + other.count
        weight = self.count * other.count / count
        z, d = other.inputs - self.inputs, other.errors - self.errors
        turned = z.transpose(0, 2, 1)
        return _Sums(
            count,
            self.inputs + z * (other.count / count),
            self.errors + d * (other.count / count),
            self.moments + other.moments + weight * (turned @ z),
            self.products + other.products + weight * (turned @ d),
            self.power + other.power + weight * float(np.square(d).sum()),
        )

    def solved(self, damping: float) -> Stack:
        """The fit, (g, k, m)."""
        size = self.moments.shape[-1]
        # A group whose inputs never vary gets a map of zeros.
        added = damping * np.trace(self.moments, axis1=1, axis2=2) / size + np.finfo(np.float64).tiny ** 0.5
        return np.asarray(np.linalg.solve(self.moments + added[:, None, None] * np.eye(size), self.products))

    def left(self, fit: Stack) -> float:
        """Sum of (d - A z)^2 over these rows, for a fit of shape (g, k, m)."""
        return self.power + float(np.sum(fit * (self.moments @ fit - 2.0 * self.products)))
