"""Tensor statistics: what is counted where, for every kind of input; the table and its refusals."""

from __future__ import annotations

import copy
import math
import pickle

import ml_dtypes
import numpy as np
import pytest

from onnxq.calibration.statistics.histogram import (
    BINS,
    MAX_EXPONENT,
    MIN_EXPONENT,
    Binner,
    bin_edges,
    coarsen,
    exponent_for,
)
from onnxq.calibration.statistics.sampling import Extract
from onnxq.calibration.statistics.table import (
    EMPTY_FINGERPRINT,
    StatsBuilder,
    StatsTable,
    TensorStats,
    combine_fingerprints,
)
from onnxq.errors import ArtifactError, DataError, InternalError

FLOAT32_MAX = float(np.finfo(np.float32).max)
FIELDS = ("count", "counted", "zeros", "nonfinite", "rmin", "rmax", "counts")
SMALLEST = float(np.finfo(np.float32).smallest_subnormal)


def reference_counts(x: np.ndarray, exponent: int) -> np.ndarray:
    """The definition, one element at a time in exact arithmetic."""
    counts = np.zeros(2 * BINS, np.int64)
    for value in x.ravel().tolist():
        if value != 0.0 and math.isfinite(value):
            counts[math.floor(math.ldexp(value, -exponent)) + BINS] += 1
    return counts


def test_counts_follow_the_definition() -> None:
    x = np.random.default_rng(0).standard_normal((3, 500)).astype(np.float32)
    x[0, :50] = 0.0
    stats = TensorStats.of(x)
    assert (stats.count, stats.zeros, stats.nonfinite) == (1500, 50, 0)
    assert (stats.rmin, stats.rmax) == (float(x.min()), float(x.max()))
    np.testing.assert_array_equal(stats.counts, reference_counts(x, stats.exponent))


@pytest.mark.parametrize("amax", [1.0, 1.0000001, 1.999, 3.7e-12, 6.6e30, FLOAT32_MAX])
@pytest.mark.parametrize("sign", [1, -1])
def test_at_least_2048_bins_are_used(amax: float, sign: int) -> None:
    edge = sign * float(np.float32(amax))
    exponent = exponent_for(min(edge, 0.0), max(edge, 0.0))
    used = abs(edge) * 2.0**-exponent
    # Catches an exponent one too large (fewer bins) or too small (outside).
    assert BINS / 2 <= used <= BINS
    assert TensorStats.of([edge]).counts.sum() == 1


def test_power_of_two_ends() -> None:
    # -BINS * 2^e is the first bin itself, +BINS * 2^e is one past the last.
    assert exponent_for(-1.0, 0.0) == -12
    assert exponent_for(0.0, 1.0) == -11
    assert TensorStats.of([-1.0]).counts[0] == 1
    assert TensorStats.of([1.0]).counts[BINS + BINS // 2] == 1


def test_zeros_of_both_signs_are_apart() -> None:
    stats = TensorStats.of(np.float32([0.0, -0.0, -0.0]))
    assert (stats.zeros, int(stats.counts.sum())) == (3, 0)
    assert math.copysign(1.0, stats.rmin) == math.copysign(1.0, stats.rmax) == 1.0
    assert stats == TensorStats.of(np.float32([-0.0, 0.0, 0.0]))


def test_tiny_values_are_not_lost() -> None:
    stats = TensorStats.of(np.float32([SMALLEST, -SMALLEST, 0.0]))
    assert stats.zeros == 1
    assert stats.exponent == MIN_EXPONENT
    assert (stats.counts[BINS], stats.counts[BINS - 1]) == (1, 1)


def test_tiny_negatives_beside_huge_values_stay_negative() -> None:
    # In float32, -1e-30 * 2^-116 underflows to -0.0 and floors to bin 0: the reason for the float64 branch.
    stats = TensorStats.of(np.float32([-1e-30, FLOAT32_MAX, -FLOAT32_MAX]))
    assert stats.exponent == MAX_EXPONENT
    assert stats.counts[BINS - 1] == 1
    assert stats.counts[BINS] == 0


def test_nonfinite_elements_are_counted_and_left_out() -> None:
    x = np.float32([np.nan, np.inf, -np.inf, 1.0, 0.0])
    stats = TensorStats.of(x)
    assert (stats.count, stats.nonfinite, stats.zeros, stats.rmin, stats.rmax) == (5, 3, 1, 0.0, 1.0)
    nothing = TensorStats.of(np.float32([np.nan, np.inf]))
    assert (nothing.count, nothing.finite, nothing.rmin, nothing.rmax) == (2, 0, math.inf, -math.inf)
    builder = StatsBuilder()
    builder.update(x)
    assert builder.nonfinite == 3


@pytest.mark.parametrize("dtype", [np.float16, np.float64, ml_dtypes.bfloat16, np.int8, np.uint8, np.int64, np.bool_])
def test_other_dtypes_count_as_float32(dtype: type) -> None:
    x = np.array([0, 1, 1, 0, 1]).astype(dtype)
    assert TensorStats.of(x) == TensorStats.of(x.astype(np.float32))


def test_doubles_beyond_float32_are_nonfinite() -> None:
    stats = TensorStats.of(np.array([1e300, -1e300, 1.0]))
    assert (stats.nonfinite, stats.rmax) == (2, 1.0)


@pytest.mark.parametrize("values", [np.array(["a"]), np.array([1j]), np.array([None]), np.zeros(2, "f4,f4")])
def test_other_values_are_refused(values: np.ndarray) -> None:
    with pytest.raises(DataError, match=r"statistics need numbers, got an array of dtype"):
        TensorStats.of(values)


def test_any_layout_gives_the_same() -> None:
    x = np.random.default_rng(1).standard_normal((4, 5, 6)).astype(np.float32)
    assert TensorStats.of(x.transpose(2, 0, 1)[::-1]) == TensorStats.of(x)
    assert TensorStats.of(x[:, ::2]) == TensorStats.of(np.ascontiguousarray(x[:, ::2]))
    assert TensorStats.of(np.float32(2.0)).count == 1
    assert TensorStats.of(np.empty((0, 3), np.float32)) == TensorStats.empty()


def test_arrays_longer_than_a_chunk() -> None:
    x = np.random.default_rng(2).standard_normal(2 * Binner.CHUNK + 17).astype(np.float32)
    x[-1] = 1e4  # the last chunk makes the bins 4 octaves or more wider
    stats = TensorStats.of(x)
    np.testing.assert_array_equal(stats.counts, reference_counts(x, stats.exponent))


@pytest.mark.parametrize("size", [1, 2, 4095, Binner.CHUNK, 2 * Binner.CHUNK + 17])
@pytest.mark.parametrize("scale", [1.0, 1e30])
def test_what_is_not_negative_is_counted_in_its_bins(size: int, scale: float) -> None:
    x = (np.maximum(np.random.default_rng(3).standard_normal(size), 0.0) * scale).astype(np.float32)
    x[-1], x[0] = scale, -0.0 if size > 1 else scale
    stats = TensorStats.of(x)
    np.testing.assert_array_equal(stats.counts, reference_counts(x, stats.exponent))
    assert stats.zeros == np.count_nonzero(x == 0)


@pytest.mark.parametrize("shape", [(3, 5), (7, 5000), (40, 1000), (2, Binner.CHUNK + 9)])
@pytest.mark.parametrize("floor", [-np.inf, 0.0])
def test_columns_of_rows_are_counted_where_they_lie(shape: tuple[int, int], floor: float) -> None:
    rows = np.random.default_rng(4).standard_normal((shape[0], shape[1] + 11)).astype(np.float32).clip(floor)
    taken = rows[:, 5:-6]
    ends = {"rmin": float(taken.min()), "rmax": float(taken.max())}
    builder = StatsBuilder()
    for _ in range(2):
        builder.add(Extract(count=3 * taken.size, nonfinite=0, taken=taken, weight=3, **ends))
    rows[:] = 99.0  # what waits was copied
    stats = builder.freeze()
    once = TensorStats.of(np.random.default_rng(4).standard_normal(rows.shape).astype(np.float32).clip(floor)[:, 5:-6])
    np.testing.assert_array_equal(stats.counts, 6 * once.counts)
    assert (stats.count, stats.counted, stats.zeros) == (6 * taken.size, 2 * taken.size, 6 * once.zeros)


def test_builder_goes_on_after_freeze() -> None:
    builder = StatsBuilder()
    builder.update([1.0])
    first = builder.freeze()
    builder.update([2.0])
    assert (first.count, builder.freeze().count) == (1, 2)
    with pytest.raises(ValueError, match="read-only"):
        first.counts[0] = 1


def test_coarsen_to_the_end() -> None:
    counts = TensorStats.of(np.random.default_rng(3).standard_normal(999)).counts
    for steps in (12, 13, 200):
        wide = coarsen(counts, steps)
        assert (wide[BINS - 1], wide[BINS]) == (counts[:BINS].sum(), counts[BINS:].sum())
        assert wide.sum() == counts.sum()


def test_bin_edges_are_exact() -> None:
    for exponent in (MIN_EXPONENT, 0, MAX_EXPONENT):
        edges = bin_edges(exponent)
        assert (edges.size, edges[BINS], edges[-1]) == (2 * BINS + 1, 0.0, math.ldexp(BINS, exponent))


def test_equality_and_hash() -> None:
    a, b = TensorStats.of([1.0, 2.0]), TensorStats.of([2.0, 1.0])
    assert a == b
    assert hash(a) == hash(b)
    assert a != TensorStats.of([1.0, 1.5, 2.0])
    assert a != "stats"


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"counts": np.zeros(3, np.int64)}, r"counts is int64 of shape \(3,\), expected int64 of \(8192,\)"),
        ({"zeros": -1}, r"a count is negative"),
        ({"count": 3, "zeros": 2}, r"count is 3 and 3 were counted, but 2 zeros, 0 non-finite and 2 binned"),
        ({"count": 2}, r"count is 2 and 3 were counted, but 1 zeros"),
        ({"counted": 4, "count": 9}, r"count is 9 and 4 were counted, but 1 zeros"),
        ({"rmax": math.inf}, r"are not an interval around 0 of finite float32 numbers"),
        ({"rmin": 3.0}, r"are not an interval around 0 of finite float32 numbers"),
        ({"rmax": 1.5}, r"used bins \[.*\] do not fit extremes"),
        (
            {"counts": np.zeros(2 * BINS, np.int64), "count": 1, "counted": 1},
            r"extremes are .*, but every finite element is zero",
        ),
        (
            {"counts": np.zeros(2 * BINS, np.int64), "count": 0, "counted": 0, "zeros": 0},
            r"extremes are .*, but no finite element was seen",
        ),
    ],
)
def test_broken_statistics_are_internal_errors(change: dict[str, object], text: str) -> None:
    good = TensorStats.of([0.0, 1.0, 1.9])
    fields = {name: getattr(good, name) for name in FIELDS}
    with pytest.raises(InternalError, match=text):
        TensorStats(**{**fields, **change})


def table(values: dict[str, list[float]], digest: str = "d", samples: int = 1, fingerprint: str = "1") -> StatsTable:
    return StatsTable(
        tensors={name: TensorStats.of(v) for name, v in values.items()},
        digest=digest,
        samples=samples,
        data_fingerprint=fingerprint.rjust(32, "0"),
    )


def test_table_is_a_mapping() -> None:
    t = table({"a": [1.0], "b": [2.0]})
    assert list(t) == ["a", "b"]
    assert (len(t), t["a"].rmax, "c" in t) == (2, 1.0, False)
    with pytest.raises(TypeError, match="does not support item assignment"):
        t.tensors["a"] = TensorStats.empty()  # type: ignore[index]


def test_table_travels_between_processes() -> None:
    t = table({"a": [1.0], "b": [2.0]})
    assert pickle.loads(pickle.dumps(t)) == t == copy.deepcopy(t)


def test_tables_merge() -> None:
    one, two = table({"a": [1.0], "b": [0.0]}, samples=2), table({"b": [-5.0], "a": [3.0]}, samples=3, fingerprint="f")
    merged = one.merge(two)
    assert merged["a"] == TensorStats.of([1.0, 3.0])
    assert (merged.samples, merged.data_fingerprint) == (5, "10".rjust(32, "0"))
    assert merged == two.merge(one)


def test_tables_that_do_not_belong_together() -> None:
    with pytest.raises(ArtifactError, match=r"different models cannot be merged: digests d and e\nHint: .*same float"):
        table({"a": [1.0]}).merge(table({"a": [1.0]}, digest="e"))
    with pytest.raises(ArtifactError, match=r"1 are in one table only, first 'b'\nHint: .*target= \(--target\)"):
        table({"a": [1.0]}).merge(table({"a": [1.0], "b": [1.0]}))
    with pytest.raises(InternalError, match=r"samples is -1"):
        table({}, samples=-1)


def test_fingerprints_add_up_in_any_order() -> None:
    a, b = "f" * 32, "1".rjust(32, "0")
    assert combine_fingerprints(a, b) == EMPTY_FINGERPRINT == combine_fingerprints()
    assert combine_fingerprints(b, b, a) == b == combine_fingerprints(a, b, b)
    for bad in ("", "0" * 31, "F" * 32, "-" + "0" * 31):
        with pytest.raises(ArtifactError, match=r"data fingerprint .* is not 32 hexadecimal digits"):
            combine_fingerprints(bad)
