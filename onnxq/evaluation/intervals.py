"""How sure a measured score is, and whether a difference between two models on the same samples is one.

share of right answers     Wilson's score interval
difference of two shares   on the same samples only those count that one model gets right and the other wrong: b and c.
                           p by McNemar's exact test, the binomial test of b among b + c; interval by Bonett and Price,
                           who add one to b and to c
anything else              paired bootstrap: samples drawn with replacement, the same ones for both models; percentiles
the same on every sample   resampling cannot vary it, so there is no interval (-inf to inf); of a difference, the sign
                           test is the binomial test of n equal signs

Sources: E. B. Wilson, J. Am. Stat. Assoc. 22 (1927) 209; Q. McNemar, Psychometrika 12 (1947) 153; D. G. Bonett and
R. M. Price, Br. J. Math. Stat. Psychol. 65 (2012) 430; B. Efron, Ann. Statist. 7 (1979) 1.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

CONFIDENCE = 0.95
ALPHA = 1.0 - CONFIDENCE
"""A difference counts as shown where p is below it, or where the interval leaves zero out."""

_Z = 1.959963984540054
"""The normal distribution's 97.5 % quantile."""

RESAMPLES = 2000
SEED = 20060401
"""Fixed, so that the same data give the same interval."""

_CHUNK_ELEMENTS = 2**21

_SAME = 1e-9
"""Scores of resamples that lie this near each other differ by rounding alone."""

Total = Callable[[NDArray[np.float64]], NDArray[np.float64]]
"""Sums over samples, shape (resamples, columns), to scores, shape (resamples,)."""


class Interval(NamedTuple):
    """A 95 % confidence interval; -inf to inf where the samples tell none."""

    low: float
    high: float

    @property
    def is_told(self) -> bool:
        """Whether the samples tell it."""
        return not (self.low == -math.inf and self.high == math.inf)

    def __contains__(self, value: object) -> bool:
        return isinstance(value, (int, float)) and self.low <= value <= self.high


def wilson(right: int, samples: int) -> Interval:
    """The interval of a share.

    >>> [round(end, 4) for end in wilson(81, 263)]
    [0.2553, 0.3662]
    """
    share, z2 = right / samples, _Z * _Z
    centre = (share + z2 / (2 * samples)) / (1 + z2 / samples)
    half = _Z / (1 + z2 / samples) * math.sqrt(share * (1 - share) / samples + z2 / (4 * samples * samples))
    return Interval(max(0.0, centre - half) if right else 0.0, min(1.0, centre + half) if right < samples else 1.0)


def mcnemar_p(only_first: int, only_second: int) -> float:
    """Probability of a split at least this uneven if neither model were better: exact, two-sided.

    Args:
        only_first: Samples that only the first model gets right.
        only_second: Samples that only the second one gets right.

    >>> mcnemar_p(0, 5), mcnemar_p(3, 3)
    (0.0625, 1.0)
    """
    discordant = only_first + only_second
    term = total = 1
    for i in range(1, min(only_first, only_second) + 1):
        term = term * (discordant - i + 1) // i
        total += term
    p: float = 2 * total / (1 << discordant)
    return min(1.0, p)


def sign_test_p(equal_signs: int) -> float:
    """Probability of so many differences of one sign and none of the other by chance: exact, two-sided.

    >>> sign_test_p(0), sign_test_p(1), sign_test_p(6)
    (1.0, 1.0, 0.03125)
    """
    return mcnemar_p(0, equal_signs)


def paired_share_difference(only_first: int, only_second: int, samples: int) -> Interval:
    """The interval of the second share minus the first, both of the same samples."""
    n = samples + 2
    first, second = (only_first + 1) / n, (only_second + 1) / n
    half = _Z * math.sqrt(max(0.0, first + second - (second - first) ** 2) / n)
    return Interval(max(-1.0, second - first - half), min(1.0, second - first + half))


def bootstrap(values: NDArray[np.float64], total: Total) -> Interval:
    """The interval of a score; none is told where every sample contributes the same.

    Args:
        values: What each sample contributes, shape (samples, columns).
        total: From sums of rows to a score.
    """
    return _percentiles(total(_resampled_sums(values)))


def paired_bootstrap(first: NDArray[np.float64], second: NDArray[np.float64], total: Total) -> Interval:
    """The interval of the second score minus the first, both of the same samples. Arguments as for `bootstrap`.

    None is told where the difference is the same on every sample.
    """
    columns = first.shape[1]
    sums = _resampled_sums(np.concatenate([first, second], axis=1))
    scores = total(sums[:, columns:]), total(sums[:, :columns])
    with np.errstate(invalid="ignore"):
        gap = np.where(scores[0] == scores[1], 0.0, scores[0] - scores[1])
    return _percentiles(gap)


def _resampled_sums(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Sums over samples drawn with replacement, shape (RESAMPLES, columns)."""
    rng = np.random.default_rng(SEED)
    samples = len(values)
    rows = max(1, _CHUNK_ELEMENTS // max(samples, 1))
    parts = [
        values[rng.integers(0, samples, (min(rows, RESAMPLES - start), samples))].sum(axis=1)
        for start in range(0, RESAMPLES, rows)
    ]
    return np.concatenate(parts)


def _percentiles(scores: NDArray[np.float64]) -> Interval:
    # "nearest" keeps infinities (a perfect SQNR) out of interpolation.
    low, high = np.percentile(scores, [50 * ALPHA, 100 - 50 * ALPHA], method="nearest")
    if math.isfinite(low) and np.ptp(scores) <= _SAME * max(1.0, abs(low)):
        return Interval(-math.inf, math.inf)
    return Interval(float(low), float(high))
