"""The laws of the merge, bit for bit, for any batching, order and split."""

from __future__ import annotations

from functools import reduce
from pathlib import Path
from tempfile import TemporaryDirectory
from unittest import mock

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxq.calibration.statistics.file import load_stats
from onnxq.calibration.statistics.histogram import BINS
from onnxq.calibration.statistics.table import StatsBuilder, StatsTable, TensorStats
from tests.strategies import activations, finite_arrays

wild = st.one_of(finite_arrays(), finite_arrays(10.0), activations())


@settings(max_examples=300)
@given(x=wild, seed=st.integers(0, 2**32 - 1), parts=st.integers(1, 9))
def test_any_split_and_order_gives_the_same(x: np.ndarray, seed: int, parts: int) -> None:
    rng = np.random.default_rng(seed)
    whole = TensorStats.of(x)
    shuffled = rng.permutation(x)
    pieces = np.split(shuffled, np.sort(rng.integers(0, x.size + 1, parts - 1)))
    assert reduce(TensorStats.merge, [TensorStats.of(p) for p in pieces]) == whole
    memory = np.zeros((2, 2 * BINS), np.int64)
    for builder in (StatsBuilder(), StatsBuilder(counts=memory[1])):
        for piece in pieces:
            builder.update(piece)
        assert builder.freeze() == whole
    assert not memory[0].any()


@settings(max_examples=200)
@given(a=wild, b=wild, c=wild)
def test_merge_is_commutative_and_associative_and_has_a_neutral_element(
    a: np.ndarray, b: np.ndarray, c: np.ndarray
) -> None:
    x, y, z = TensorStats.of(a), TensorStats.of(b), TensorStats.of(c)
    assert x.merge(y) == y.merge(x)
    assert x.merge(y).merge(z) == x.merge(y.merge(z))
    assert x.merge(TensorStats.empty()) == x == TensorStats.empty().merge(x)


@settings(max_examples=150, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), size=st.sampled_from([1, 7, 63, 64, 150, 500, 1000]), count=st.integers(1, 12))
def test_samples_give_the_same_in_any_batches_and_order(seed: int, size: int, count: int) -> None:
    """A limit of 64 elements a sample stands in for the real one; half of the sizes are above it."""
    rng = np.random.default_rng(seed)
    x = (rng.standard_normal((count, size)) * 10.0 ** rng.integers(-3, 4, (count, 1))).astype(np.float32)
    x[rng.random(x.shape) < 0.2] = 0.0
    with mock.patch("onnxq.calibration.statistics.sampling.SAMPLE", 64):
        whole = StatsBuilder()
        whole.update(x, rows=count)
        cut = np.sort(rng.integers(0, count + 1, 3))
        batches = [piece for piece in np.split(rng.permutation(x), cut) if len(piece)]
        builder = StatsBuilder()
        for batch in batches:
            builder.update(batch, rows=len(batch))
        merged = TensorStats.empty()
        for sample in x:
            one = StatsBuilder()
            one.update(sample[None], rows=1)
            merged = one.freeze().merge(merged)
    assert builder.freeze() == whole.freeze() == merged
    stats = whole.freeze()
    assert (stats.count, stats.rmin, stats.rmax) == (x.size, min(float(x.min()), 0.0), max(float(x.max()), 0.0))
    assert stats.complete == (size <= 64)
    # The weights of a sample add up to its size, less than one stride of at most 16 lanes apart.
    weight = stats.zeros + int(stats.counts.sum())
    assert abs(weight - x.size) <= count * 16 * (size / 64 + 1)


@given(x=wild, bad=st.lists(st.sampled_from([np.nan, np.inf, -np.inf]), max_size=5))
def test_nonfinite_elements_change_nothing_else(x: np.ndarray, bad: list[float]) -> None:
    clean, dirty = TensorStats.of(x), TensorStats.of(np.concatenate([bad, x]).astype(np.float32))
    assert dirty.nonfinite == len(bad)
    assert dirty.count == clean.count + len(bad)
    assert (dirty.rmin, dirty.rmax, dirty.zeros) == (clean.rmin, clean.rmax, clean.zeros)
    np.testing.assert_array_equal(dirty.counts, clean.counts)


@given(x=wild)
def test_every_element_is_counted_once(x: np.ndarray) -> None:
    stats = TensorStats.of(x)
    assert stats.count == x.size
    assert stats.zeros == int((x == 0).sum())
    assert int(stats.counts.sum()) == int((x != 0).sum())


@settings(max_examples=50)
@given(x=wild, y=wild, samples=st.integers(0, 2**40))
def test_a_file_gives_back_the_table(x: np.ndarray, y: np.ndarray, samples: int) -> None:
    table = StatsTable(tensors={"x": TensorStats.of(x), "y": TensorStats.of(y)}, digest="d", samples=samples)
    with TemporaryDirectory() as folder:
        table.save(Path(folder) / "m.stats")
        assert load_stats(Path(folder) / "m.stats") == table
