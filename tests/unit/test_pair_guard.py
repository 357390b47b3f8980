"""The scale of a channel grows until no pair of neighbouring codes can saturate, by just enough."""

from __future__ import annotations

import numpy as np
import pytest

from onnxq.numerics.arrays import quantize
from onnxq.numerics.pair_guard import LARGEST_PAIR_SUM, guard_pair_sums, within_pair_sums
from onnxq.numerics.qparams import QuantParams, Range, qparams_from_range
from onnxq.numerics.qtypes import INT8
from onnxq.numerics.specs import QuantSpec


def params_of(values: np.ndarray, axis: int | None = 0) -> QuantParams:
    others = None if axis is None else tuple(a for a in range(values.ndim) if a != axis)
    spec = QuantSpec(qtype=INT8, symmetric=True, axis=axis, narrow_range=True)
    return qparams_from_range(Range(rmin=values.min(axis=others), rmax=values.max(axis=others)), spec)


def test_limit_is_that_of_int16() -> None:
    """255 * 128 fits into int16, 255 * 129 does not; the negative end allows no more."""
    assert 255 * LARGEST_PAIR_SUM <= 2**15 - 1 < 255 * (LARGEST_PAIR_SUM + 1)
    assert -255 * (LARGEST_PAIR_SUM + 1) < -(2**15) <= -255 * LARGEST_PAIR_SUM


@pytest.mark.parametrize(
    ("pair", "codes"),
    [
        ((1.0, 1.0), [64, 64]),
        ((-1.0, -1.0), [-64, -64]),
        ((1.0, -1.0), [127, -127]),
        ((1.27, 0.01), [127, 1]),
        ((1.0, 0.0), [127, 0]),
    ],
)
def test_codes_of_one_pair(pair: tuple[float, float], codes: list[int]) -> None:
    values = np.float32([pair])
    assert quantize(values, guard_pair_sums(values, params_of(values), [1], 0)).tolist() == [codes]


def test_growth_is_just_enough() -> None:
    values = np.random.default_rng(0).uniform(-1, 1, (200, 24)).astype(np.float32)
    before = params_of(values)
    after = guard_pair_sums(values, before, [1], 0)
    sums = np.abs(quantize(values, after).astype(int).reshape(200, 12, 2).sum(-1)).max(-1)
    plain = np.abs(quantize(values, before).astype(int).reshape(200, 12, 2).sum(-1)).max(-1)
    assert sums.max() <= LARGEST_PAIR_SUM
    # Two roundings of half a code and the small push: a channel that grew ends at most two codes below the limit.
    assert sums[plain > LARGEST_PAIR_SUM].min() >= LARGEST_PAIR_SUM - 2
    np.testing.assert_array_equal(after.scale[plain <= LARGEST_PAIR_SUM], before.scale[plain <= LARGEST_PAIR_SUM])


def test_pairs_are_disjoint_and_the_odd_one_out_is_alone() -> None:
    values = np.float32([[0.0, 1.0, 1.0, 0.0, 1.0]])
    before = params_of(values)
    assert guard_pair_sums(values, before, [1], 0) is before


def test_walk_decides_who_is_a_neighbour() -> None:
    values = np.zeros((1, 2, 1, 2), np.float32)
    values[0, :, 0, 0] = 1.0  # two input channels at the same kernel position
    before = params_of(values)
    assert float(guard_pair_sums(values, before, [2, 3, 1], 0).scale[0]) > float(before.scale[0])
    assert guard_pair_sums(values, before, [1, 2, 3], 0) is before


def test_per_tensor_parameters_grow_as_a_whole() -> None:
    values = np.float32([[1.0, 0.0], [1.0, 1.0]])
    before = params_of(values, axis=None)
    after = guard_pair_sums(values, before, [1], 0)
    assert after.scale.shape == ()
    assert quantize(values, after).tolist() == [[64, 0], [64, 64]]


def test_axes_outside_walk_and_channel_are_batches() -> None:
    values = np.zeros((2, 2, 3), np.float32)
    values[1, :, 2] = 1.0
    before = params_of(values, axis=2)
    after = guard_pair_sums(values, before, [1], 2)
    np.testing.assert_allclose(after.scale / before.scale, [1, 1, 127 / 64], rtol=1e-2)


def test_empty_reduction_changes_nothing() -> None:
    values = np.ones((3, 1), np.float32)
    before = params_of(values)
    assert guard_pair_sums(values, before, [1], 0) is before


def test_pairs_beyond_the_limit_move_to_the_nearest_codes_within_it() -> None:
    """Against all pairs of codes, tried one by one; columns without a partner stay."""
    units = np.random.default_rng(1).uniform(-140, 140, (300, 5))
    codes = np.clip(np.rint(units), -127, 127).astype(np.int16)
    held = within_pair_sums(units, codes, np.array([3, -1, 4, 0, 2]))
    every = np.arange(-127, 128)
    allowed = np.abs(every[:, None] + every) <= LARGEST_PAIR_SUM
    for one, other in ((0, 3), (2, 4)):
        wanted = np.clip(units[:, [one, other]], -127.5, 127.5)  # beyond the codes' range, the range's end counts
        far = (wanted[:, :1, None] - every[:, None]) ** 2 + (wanted[:, 1:, None] - every) ** 2
        nearest = np.where(allowed, far, np.inf).min(axis=(1, 2))
        found = ((wanted - held[:, [one, other]]) ** 2).sum(axis=1)
        assert np.abs(held[:, one] + held[:, other]).max() <= LARGEST_PAIR_SUM
        assert np.abs(held).max() <= 127
        np.testing.assert_allclose(found, nearest, rtol=0, atol=1e-9)
    np.testing.assert_array_equal(held[:, 1], codes[:, 1])
    inside = np.abs(codes[:, 0] + codes[:, 3]) <= LARGEST_PAIR_SUM
    np.testing.assert_array_equal(held[inside][:, [0, 3]], codes[inside][:, [0, 3]])
