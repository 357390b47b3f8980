"""Intervals and tests against enumeration, published values and simulation."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from onnxq.evaluation.intervals import (
    bootstrap,
    mcnemar_p,
    paired_bootstrap,
    paired_share_difference,
    sign_test_p,
    wilson,
)


@pytest.mark.parametrize(
    ("right", "samples", "expected"),
    # R. G. Newcombe, Statist. Med. 17 (1998) 857, table I, method 3.
    [(81, 263, (0.2553, 0.3662)), (15, 148, (0.0624, 0.1605)), (0, 20, (0.0, 0.1611)), (1, 29, (0.0061, 0.1718))],
)
def test_wilson_is_the_published_interval(right: int, samples: int, expected: tuple[float, float]) -> None:
    assert wilson(right, samples) == pytest.approx(expected, abs=5e-5)


def test_wilson_ends_where_shares_end() -> None:
    assert wilson(0, 10).low == 0.0
    assert wilson(10, 10).high == 1.0


@pytest.mark.parametrize(("first", "second"), [(0, 0), (0, 1), (1, 4), (5, 5), (2, 9), (12, 1)])
def test_mcnemar_counts_every_split(first: int, second: int) -> None:
    n, rare = first + second, min(first, second)
    splits = [sum(flips) for flips in itertools.product((0, 1), repeat=n)]
    extreme = sum(s <= rare or s >= n - rare for s in splits)
    assert mcnemar_p(first, second) == pytest.approx(extreme / len(splits), rel=1e-12)


def test_mcnemar_survives_large_counts() -> None:
    assert mcnemar_p(20000, 20000) == 1.0
    assert 0 < mcnemar_p(9800, 10200) < 0.01  # z = 2.8
    assert mcnemar_p(0, 5000) == 0.0


def test_sign_test_is_the_binomial_one() -> None:
    assert [sign_test_p(n) for n in (0, 1, 2, 5)] == [1.0, 1.0, 0.5, 0.0625]


def test_paired_share_difference_covers_the_truth() -> None:
    """95 % nominal; Bonett and Price report 94 to 97. Dropping the pairing gives above 99.5 here."""
    rng = np.random.default_rng(0)
    samples, b, c = 400, 0.04, 0.02
    hits = 0
    for only_first, only_second, _ in rng.multinomial(samples, [b, c, 1 - b - c], size=2000):
        hits += (c - b) in paired_share_difference(int(only_first), int(only_second), samples)
    assert 0.93 < hits / 2000 < 0.98


def test_small_differences_are_not_shown() -> None:
    """0.2 points on 1,000 images."""
    assert mcnemar_p(6, 8) > 0.7
    assert 0.0 in paired_share_difference(6, 8, 1000)
    assert mcnemar_p(3, 23) < 0.001
    assert 0.0 not in paired_share_difference(3, 23, 1000)


def test_bootstrap_of_a_mean_is_that_of_the_normal_distribution() -> None:
    """n = 400 normal values: the mean's interval is 1.96 s / sqrt(n); 2000 resamples are off by a few percent."""
    values = np.random.default_rng(1).standard_normal((400, 1))
    found = bootstrap(values, lambda sums: sums[:, 0] / 400)
    half = 1.96 * values.std() / math.sqrt(400)
    assert found.low == pytest.approx(values.mean() - half, abs=0.1 * half)
    assert found.high == pytest.approx(values.mean() + half, abs=0.1 * half)


def test_paired_bootstrap_keeps_pairs_together() -> None:
    first = 10 * np.random.default_rng(2).standard_normal((300, 1))
    noise = 0.01 * np.random.default_rng(3).standard_normal((300, 1))
    found = paired_bootstrap(first, first + 0.1 + noise, lambda sums: sums[:, 0] / 300)
    # Unpaired, the interval would be 1 wide.
    assert found == pytest.approx((0.1, 0.1), abs=5e-3)


@pytest.mark.parametrize("samples", [1, 16])
def test_what_never_varies_tells_no_interval(samples: int) -> None:
    values = np.random.default_rng(5).random((samples, 1))
    gap = paired_bootstrap(values, values - 0.1, lambda sums: sums[:, 0] / samples)
    equal = paired_bootstrap(values, values, lambda sums: sums[:, 0] / samples)
    constant = bootstrap(np.full((samples, 1), 0.3), lambda sums: sums[:, 0] / samples)
    for found in (gap, equal, constant):
        assert found == (-math.inf, math.inf)
        assert not found.is_told


def test_bootstrap_is_the_same_on_every_run_and_in_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(3).random((50, 2))
    once = bootstrap(values, lambda sums: sums[:, 0] / sums[:, 1])
    assert bootstrap(values, lambda sums: sums[:, 0] / sums[:, 1]) == once
    monkeypatch.setattr("onnxq.evaluation.intervals._CHUNK_ELEMENTS", 7 * 50)
    assert bootstrap(values, lambda sums: sums[:, 0] / sums[:, 1]) == once


def test_equal_perfect_models_do_not_differ() -> None:
    power = np.array([[1.0, 0.0]] * 5)
    with np.errstate(divide="ignore"):
        found = paired_bootstrap(power, power, lambda sums: np.log10(sums[:, 0] / sums[:, 1]))
    assert not found.is_told
