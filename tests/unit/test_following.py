"""Statistics of tensors that are functions of another one, beside a plain reference and beside counting."""

from __future__ import annotations

import copy
import itertools
import math
import pickle
from collections import Counter

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from onnxq.calibration.statistics import following, sampling
from onnxq.calibration.statistics.curves import Curve
from onnxq.calibration.statistics.following import FollowingStats
from onnxq.calibration.statistics.histogram import BINS
from onnxq.calibration.statistics.sampling import extract
from onnxq.calibration.statistics.table import StatsBuilder, StatsTable, TensorStats
from onnxq.errors import ArtifactError

SIGMOID = Curve(("Sigmoid", "x"))
SILU = Curve(("Mul", "x", ("Sigmoid", "x")))
HARD_SWISH = Curve(("HardSwish", "x"))
RISING = [
    SIGMOID,
    Curve(("Tanh", "x")),
    Curve(("Softplus", "x")),
    Curve(("HardSigmoid", "x", 0.2, 0.5)),
    Curve(("LeakyRelu", "x", 0.1)),
    Curve(("Add", ("Mul", 3.0, "x"), -5.0)),
]
CURVES = [*RISING, SILU, HARD_SWISH, Curve(("Elu", "x", 1.0)), Curve(("Gelu", "x")), Curve(("Neg", ("Mul", "x", "x")))]


def extremes(values: np.ndarray) -> TensorStats:
    builder = StatsBuilder()
    builder.add(extract(values, histogram=False))
    return builder.freeze()


def follow(x: np.ndarray, curve: Curve) -> FollowingStats:
    return FollowingStats(extremes(curve(x.astype(np.float64))), TensorStats.of(x), curve)


def reference(stats: FollowingStats, pieces: int) -> tuple[Counter[int], int]:
    """One element after the other, by the definition: bins that are occupied, and zeros."""
    own, source, found, zeros = stats.own, stats.source, Counter[int](), 0
    narrow, wide = math.ldexp(1.0, own.exponent), math.ldexp(1.0, source.exponent)

    def value(x: float) -> float:
        return min(max(float(stats.curve(np.array([x]))[0]), own.rmin), own.rmax)

    def put(ends: tuple[float, float], elements: int) -> None:
        nonlocal zeros
        low, high = min(ends), max(ends)
        if low == high == 0.0:
            zeros += elements
            return
        first = math.floor(low / narrow)
        last = max(math.ceil(high / narrow) - 1, first)
        below = 0
        for bin_ in range(first, last + 1):
            share = 1.0 if bin_ == last else ((bin_ + 1) * narrow - low) / (high - low)
            upto = math.floor(elements * share + 0.5)
            found[bin_] += upto - below
            below = upto

    for bin_ in np.flatnonzero(source.counts).tolist():
        low = max((bin_ - BINS) * wide, source.rmin)
        high = min((bin_ - BINS + 1) * wide, source.rmax)
        elements = int(source.counts[bin_])
        at = [low + (high - low) * (step / pieces) for step in range(pieces + 1)]
        upto = [(2 * elements * step + pieces) // (2 * pieces) for step in range(pieces + 1)]
        for step in range(pieces):
            put((value(at[step]), value(at[step + 1])), upto[step + 1] - upto[step])
    put((value(0.0), value(0.0)), source.zeros)
    return +found, zeros


def is_reference(stats: FollowingStats) -> None:
    used = int(np.count_nonzero(stats.source.counts))
    pieces = min(max(following._PIECES // max(used, 1), 1), following._MOST_PIECES)
    expected, zeros = reference(stats, pieces)
    assert {int(b) - BINS: int(stats.counts[b]) for b in np.flatnonzero(stats.counts)} == expected
    assert stats.zeros == zeros


def sampled(x: np.ndarray, curve: Curve) -> FollowingStats:
    """Of samples of which a part is counted: extremes are not moved then."""
    builder = StatsBuilder()
    part = extract(x, rows=len(x))
    builder.add(part)
    return FollowingStats(extremes(curve(x.astype(np.float64))), builder.freeze(), curve)


@pytest.mark.parametrize("curve", CURVES, ids=lambda c: str(c.expression))
@pytest.mark.parametrize("scale", [0.5, 30.0])
def test_a_histogram_is_moved_as_the_reference_moves_it(
    monkeypatch: pytest.MonkeyPatch, curve: Curve, scale: float
) -> None:
    monkeypatch.setattr(following, "_PIECES", 1 << 11)  # the reference is slow
    monkeypatch.setattr(sampling, "SAMPLE", 300)
    x = (np.random.default_rng(0).standard_normal((2, 900)) * scale).astype(np.float32)
    x[:, ::5] = 0.0
    stats = sampled(x, curve)
    assert not stats.complete
    is_reference(stats)


values = st.lists(
    st.floats(-100.0, 100.0, width=32) | st.sampled_from([0.0, -3.0, 3.0, 1e-30, -1e-30, 88.0]), min_size=1, max_size=40
).map(np.float32)


@settings(max_examples=300, deadline=None)
@given(x=values, curve=st.sampled_from(CURVES))
@example(x=np.float32([-3.0, 0.0]), curve=HARD_SWISH)
@example(x=np.float32([1e-30, -1e-30]), curve=SILU)
def test_no_element_is_lost_and_extremes_are_reached(x: np.ndarray, curve: Curve) -> None:
    stats = follow(x, curve)
    # Raises InternalError where bins do not fit extremes, or elements are missing.
    found = stats.itself()
    assert found.complete
    assert found.zeros + int(found.counts.sum()) == x.size
    y = curve(x.astype(np.float64)).astype(np.float32)
    assert (found.rmin, found.rmax) == (min(float(y.min()), 0.0), max(float(y.max()), 0.0))


@settings(max_examples=150, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), scale=st.sampled_from([0.01, 1.0, 20.0]), curve=st.sampled_from(RISING))
def test_below_any_value_are_the_elements_that_counting_finds_there(seed: int, scale: float, curve: Curve) -> None:
    """Up to those of one bin of the source: where in its bin an element lies is not known."""
    x = (np.random.default_rng(seed).standard_normal(3000) * scale).astype(np.float32)
    stats = follow(x, curve)
    width, wide = math.ldexp(1.0, stats.exponent), math.ldexp(1.0, stats.source.exponent)
    at = np.arange(-BINS, BINS + 1) * width
    below = np.concatenate(([0], np.cumsum(stats.counts)))
    # Zeros lie at the edge between two bins.
    below[BINS + 1 :] += stats.zeros
    bins = np.floor(x.astype(np.float64) / wide)
    ends = [np.clip(curve(edge), stats.rmin, stats.rmax) for edge in (bins * wide, (bins + 1) * wide)]
    first, last = np.sort(ends[0]), np.sort(ends[1])
    # One element may have been moved to each extreme.
    assert (below >= np.searchsorted(last, at, "left") - 1).all()
    assert (below <= np.searchsorted(first, at, "left") + 1).all()


@settings(max_examples=100, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), parts=st.integers(1, 6), curve=st.sampled_from([SILU, SIGMOID, HARD_SWISH]))
def test_any_split_and_order_gives_the_same(seed: int, parts: int, curve: Curve) -> None:
    rng = np.random.default_rng(seed)
    x = (rng.standard_normal(500) * 10.0 ** rng.integers(-3, 3)).astype(np.float32)
    whole = follow(x, curve)
    pieces = [
        follow(p, curve) for p in np.split(rng.permutation(x), np.sort(rng.integers(1, x.size, parts - 1))) if p.size
    ]
    merged: TensorStats = TensorStats.empty()
    for piece in pieces:
        piece.counts  # noqa: B018 - a histogram that was made early changes nothing
        merged = piece.merge(merged)
    assert merged == whole
    np.testing.assert_array_equal(merged.counts, whole.counts)
    assert (merged.zeros, merged.counted, merged.complete) == (whole.zeros, whole.counted, True)
    a, b, c = pieces[0], pieces[-1], TensorStats.empty()
    assert a.merge(b) == b.merge(a)
    assert a.merge(c) == a == c.merge(a)
    assert a.merge(b).follows


def test_what_follows_is_another_value_than_what_was_counted() -> None:
    x = np.float32([0.0, 1.0, 2.0])
    stats, other = follow(x, SILU), follow(x, SIGMOID)
    assert stats == follow(x, SILU)
    assert hash(stats) == hash(follow(x, SILU))
    assert stats not in (other, stats.itself(), "stats")
    assert stats.itself() != stats
    assert pickle.loads(pickle.dumps(stats)) == stats == copy.deepcopy(stats)
    assert not stats.itself().follows
    assert not stats.counts.flags.writeable


def test_members_of_a_group_merge_by_their_histograms() -> None:
    x = np.random.default_rng(0).standard_normal(1000).astype(np.float32)
    one, two = follow(x, SILU), follow(2 * x, SIGMOID)
    assert one.merge(two) == one.itself().merge(two.itself()) == two.merge(one)
    counted = TensorStats.of(x)
    assert one.merge(counted) == counted.merge(one)
    assert not one.merge(counted).follows


def test_elements_that_are_not_finite() -> None:
    """sigmoid(inf) is finite, and the product of two finite numbers may be not."""
    x = np.float32([np.inf, 1.0, 2.0])
    with np.errstate(invalid="ignore"):
        more = FollowingStats(extremes(SIGMOID(x.astype(np.float64))), TensorStats.of(x), SIGMOID)
    assert (more.counted, more.finite, more.complete) == (2, 3, False)
    assert int(more.itself().counts.sum()) == 2
    square = Curve(("Mul", "x", "x"))
    large = np.float32([3e38, 1.0, 2.0])
    fewer = FollowingStats(extremes(np.float32([np.inf, 1.0, 4.0])), TensorStats.of(large), square)
    assert (fewer.counted, fewer.finite, fewer.nonfinite) == (1, 2, 1)
    assert fewer.itself().rmax == 4.0
    nothing = FollowingStats(extremes(np.float32([np.nan])), TensorStats.of([np.nan]), square)
    assert nothing.itself() == TensorStats.of([np.nan])


def test_wide_bins_are_looked_into() -> None:
    """Between -4096 and 1 a bin is 1 wide: a hard swish is 0 at both ends of [-3, 0], and lowest in between."""
    x = np.concatenate([np.full(1, -4095.0), np.full(64, -2.5), np.full(64, -1.5), np.full(64, -0.5)]).astype(
        np.float32
    )
    found = follow(x, HARD_SWISH).itself()
    assert found.rmin == np.float32(-0.375)
    assert found.zeros == 1
    at = (np.flatnonzero(found.counts) - BINS + 0.5) * math.ldexp(1.0, found.exponent)
    mean = float(np.dot(at, found.counts[found.counts > 0])) / 192
    grid = np.linspace(-3.0, 0.0, 30001)
    assert mean == pytest.approx(float(HARD_SWISH(grid).mean()), abs=0.002)


def test_tables_of_which_one_follows_do_not_merge() -> None:
    x = np.float32([0.0, 1.0, 2.0])

    def table(stats: TensorStats) -> StatsTable:
        return StatsTable(tensors={"y": stats}, digest="d", samples=1)

    with pytest.raises(ArtifactError, match=r"tensor 'y' was counted .* another tensor's\nHint: .*--full-histogram"):
        table(follow(x, SILU)).merge(table(TensorStats.of(x)))
    # In a branch of an If that was not taken nothing was counted.
    for one, other in itertools.permutations([TensorStats.empty(), follow(x, SILU)]):
        assert table(one).merge(table(other))["y"] == follow(x, SILU)
