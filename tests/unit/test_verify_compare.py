"""Errors of outputs, summed batch by batch."""

from __future__ import annotations

import math

import numpy as np
import pytest

from onnxq.errors import DataError
from onnxq.verification.compare import OutputComparison, OutputError, compare_outputs
from tests.verify_models import conv_feeds, float_conv, int8_conv


def _one(*pairs: tuple[object, object]) -> OutputError:
    comparison = OutputComparison()
    for want, got in pairs:
        comparison.add({"y": np.asarray(want)}, {"y": np.asarray(got)})
    return comparison.result()[0]


def test_sqnr_cosine_and_largest_error_by_hand():
    error = _one((np.float32([3.0, 4.0]), np.float32([3.0, 3.5])))
    assert error.sqnr_db == pytest.approx(10 * math.log10(25 / 0.25), abs=1e-12)  # sums of exact binary fractions
    assert error.cosine == pytest.approx(23 / (5 * math.hypot(3, 3.5)), abs=1e-12)
    assert (error.max_abs, error.peak, error.mismatch_share, error.elements) == (0.5, 4.0, 0.5, 2)


def test_batches_add_up_to_the_error_of_all_values_at_once():
    rng = np.random.default_rng(0)
    want, got = rng.normal(size=(6, 50)), rng.normal(size=(6, 50))
    split = _one(*((want[i : i + 2], got[i : i + 2]) for i in range(0, 6, 2)))
    whole = _one((want, got))
    # Both sum 300 float64 products; only the order differs.
    assert split.sqnr_db == pytest.approx(whole.sqnr_db, rel=1e-12)
    assert split.cosine == pytest.approx(whole.cosine, rel=1e-12)
    assert split.max_abs == whole.max_abs


def test_the_worst_and_the_median_batch():
    want = np.float32([3.0, 4.0])
    errors = [0.5, 0.05, 0.005]  # 20 dB apart
    found = _one(*((want, want - np.float32([0.0, e])) for e in errors))
    worst, median = (10 * math.log10(25 / e**2) for e in errors[:2])
    # Rounding of 4 - e to float32 changes e by 1e-6 of itself at most here.
    assert found.worst_batch_sqnr_db == pytest.approx(worst, abs=1e-3)
    assert found.median_batch_sqnr_db == pytest.approx(median, abs=1e-3)
    assert _one((np.int64([1]), np.int64([2]))).worst_batch_sqnr_db is None
    assert _one((np.float32([]), np.float32([])), (want, want)).worst_batch_sqnr_db == math.inf


def test_equal_outputs_have_infinite_sqnr():
    error = _one((np.float32([1.0]), np.float32([1.0])))
    assert (error.sqnr_db, error.cosine, error.max_abs) == (math.inf, 1.0, 0.0)


def test_zero_signal():
    assert _one((np.zeros(3), np.zeros(3))).cosine == 1.0
    noisy = _one((np.zeros(3), np.ones(3)))
    assert (noisy.sqnr_db, noisy.cosine) == (-math.inf, 0.0)


def test_integers_are_compared_by_the_share_that_differs():
    error = _one((np.int64([1, 2, 3, 4]), np.int64([1, 2, 3, 9])))
    assert (error.sqnr_db, error.cosine, error.max_abs, error.mismatch_share) == (None, None, 5.0, 0.25)


def test_strings_are_compared_by_the_share_that_differs():
    error = _one((np.array(["a", "b"]), np.array(["a", "c"])))
    assert (error.sqnr_db, error.max_abs, error.mismatch_share) == (None, None, 0.5)


def test_a_nan_on_one_side_is_counted_and_left_out():
    error = _one((np.float32([1.0, 2.0, np.nan]), np.float32([1.0, np.nan, np.nan])))
    assert (error.nonfinite, error.elements, error.is_sound) == (1, 1, False)


def test_infinities_that_are_the_same_on_both_sides_are_sound():
    assert _one((np.float32([-np.inf, 1.0]), np.float32([-np.inf, 1.0]))).is_sound


def test_another_shape_is_counted():
    error = _one((np.zeros(2), np.zeros(2)), (np.zeros(2), np.zeros(3)))
    assert (error.shape_mismatches, error.elements, error.is_sound) == (1, 2, False)


def test_different_outputs_are_refused():
    with pytest.raises(DataError) as caught:
        OutputComparison().add({"a": np.zeros(1)}, {"b": np.zeros(1)})
    assert str(caught.value) == (
        "the models have different outputs: ['a'] and ['b']\n"
        "Hint: compare a model with the quantized form of the same model"
    )


@pytest.mark.parametrize("feeds", [[], [{"x": np.zeros((0, 8, 6, 6), np.float32)}]], ids=["no batch", "empty batch"])
def test_comparing_nothing_is_refused(feeds):
    with pytest.raises(DataError, match="there is nothing to compare: no batch gave a single output value"):
        compare_outputs(float_conv(), int8_conv(), feeds)


def test_models_are_compared_over_a_generator():
    error = compare_outputs(float_conv(), int8_conv(amax=63), iter(conv_feeds(3)))[0]
    assert error.elements == 3 * 8 * 36
    assert error.sqnr_db is not None
    # 8-bit activations and weights: 30 dB would already mean a wrong scale somewhere, 60 dB that nothing is quantized.
    assert 30 < error.sqnr_db < 60


def test_sequences_are_compared_tensor_by_tensor() -> None:
    ragged = [np.float32([1, 2]), np.float32([3])]
    near = [np.float32([1, 2]), np.float32([3.5])]
    comparison = OutputComparison()
    comparison.add({"s": ragged}, {"s": near})
    [found] = comparison.result()
    assert (found.elements, found.max_abs, found.is_sound) == (3, 0.5, True)


def test_output_without_elements_is_told_from_a_wrong_one() -> None:
    empty = np.zeros((2, 0), np.float32)
    comparison = OutputComparison()
    comparison.add({"a": empty, "b": empty}, {"a": empty, "b": np.zeros((3, 0), np.float32)})
    assert [o.is_empty for o in comparison.result()] == [True, False]
