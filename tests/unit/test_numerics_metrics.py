"""Error metrics: hand-computed values and the conventions at the edges."""

from __future__ import annotations

import math

import numpy as np
import pytest

from onnxq.errors import DataError
from onnxq.numerics import cosine, max_abs_error, sqnr_db


def test_hand_computed_values() -> None:
    reference, test = [3.0, 4.0], [3.0, 3.5]
    # 10 log10(25 / 0.25) = 20 dB; sums of few doubles: 1e-12.
    assert sqnr_db(reference, test) == pytest.approx(20.0, abs=1e-12)
    assert cosine(reference, test) == pytest.approx((9 + 14) / (5 * math.sqrt(9 + 12.25)), abs=1e-15)
    assert max_abs_error(reference, test) == 0.5
    assert cosine([1.0, 0.0], [-2.0, 0.0]) == -1.0


def test_equal_arrays() -> None:
    x = np.random.default_rng(0).standard_normal((3, 4))
    assert sqnr_db(x, x) == math.inf
    assert cosine(x, x) == pytest.approx(1.0, abs=1e-15)
    assert max_abs_error(x, x) == 0.0


def test_zero_reference() -> None:
    zeros = np.zeros(3)
    assert (sqnr_db(zeros, zeros), cosine(zeros, zeros)) == (math.inf, 1.0)
    assert (sqnr_db(zeros, [0, 0, 1]), cosine(zeros, [0, 0, 1])) == (-math.inf, 0.0)


def test_sums_are_in_float64() -> None:
    # In float32 the squares overflow, in float16 the difference does.
    assert sqnr_db(np.float32([1e30, 1e30]), np.float32([1e30, 0.9e30])) == pytest.approx(23.0103, abs=1e-3)
    assert cosine(np.float32([1e30]), np.float32([1e-30])) == pytest.approx(1.0)
    assert max_abs_error(np.float16([60000.0]), np.float16([-60000.0])) == 120000.0
    assert cosine([1e200, 1e200], [1e-200, 1e-200]) == pytest.approx(1.0)


def test_non_finite_elements() -> None:
    masked = np.array([1.0, -np.inf, np.nan])
    assert (sqnr_db(masked, masked), cosine(masked, masked), max_abs_error(masked, masked)) == (math.inf, 1.0, 0.0)
    for bad in (np.nan, np.inf, -np.inf):
        for reference, test in (([1.0, bad], [1.0, 2.0]), ([1.0, 2.0], [1.0, bad])):
            assert sqnr_db(reference, test) == -math.inf
            assert cosine(reference, test) == 0.0
            assert max_abs_error(reference, test) == math.inf
    assert sqnr_db([np.inf], [-np.inf]) == -math.inf


@pytest.mark.parametrize("metric", [sqnr_db, cosine, max_abs_error])
def test_comparing_nothing_or_other_shapes_is_refused(metric) -> None:
    with pytest.raises(DataError, match=r"cannot compare empty arrays \(shape \(0, 3\)\): nothing would be checked"):
        metric(np.empty((0, 3)), np.empty((0, 3)))
    with pytest.raises(DataError, match=r"cannot compare shape \(2,\) \(reference\) with shape \(2, 1\) \(test\)"):
        metric(np.zeros(2), np.zeros((2, 1)))
