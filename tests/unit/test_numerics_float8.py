"""E4M3FN: every bit pattern against ml_dtypes, every rounding that can be told apart, and onnxruntime's kernels."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

from onnxq.errors import ConfigError, DataError
from onnxq.numerics import (
    FLOAT8E4M3FN,
    QuantSpec,
    Range,
    dequantize,
    fake_quantize,
    qparams_from_amax,
    qparams_from_range,
    qparams_from_scale,
    quantize,
)
from onnxq.numerics.float8 import VALUES, decode_float8, encode_float8, round_to_float8
from tests.pairs import through_onnxruntime

PATTERNS = np.arange(256, dtype=np.uint8)
SPEC = QuantSpec(qtype=FLOAT8E4M3FN, symmetric=True)


def reference_codes(x: np.ndarray) -> np.ndarray:
    """What ml_dtypes rounds to; it gives NaN above 448 where Q saturates, hence the clip."""
    return np.clip(x, -448, 448).astype(ml_dtypes.float8_e4m3fn).view(np.uint8)


def test_every_pattern_has_the_value_of_ml_dtypes() -> None:
    expected = PATTERNS.view(ml_dtypes.float8_e4m3fn).astype(np.float32)
    np.testing.assert_array_equal(decode_float8(PATTERNS), expected)
    finite = np.isfinite(expected)
    np.testing.assert_array_equal(np.signbit(decode_float8(PATTERNS[finite])), np.signbit(expected[finite]))


def test_every_value_comes_back_as_its_pattern() -> None:
    finite = np.isfinite(VALUES)
    assert finite.sum() == 254
    np.testing.assert_array_equal(encode_float8(VALUES[finite]), PATTERNS[finite])
    np.testing.assert_array_equal(round_to_float8(VALUES[finite]), VALUES[finite])


def test_ties_and_their_neighbours_round_as_in_ml_dtypes() -> None:
    # Catches rounding half up, and a tie broken before the step changes at a power of two.
    positive = np.sort(VALUES[:127]).astype(np.float64)
    ties = ((positive[1:] + positive[:-1]) / 2).astype(np.float32)
    x = np.concatenate([ties, np.nextafter(ties, np.float32(0)), np.nextafter(ties, np.float32(1e9))])
    x = np.concatenate([x, -x])
    np.testing.assert_array_equal(encode_float8(x), reference_codes(x))


def test_a_sweep_of_float32_rounds_as_in_ml_dtypes() -> None:
    x = np.arange(0, 2**32, 65521, dtype=np.uint64).astype(np.uint32).view(np.float32)
    x = x[np.isfinite(x)]
    np.testing.assert_array_equal(encode_float8(x), reference_codes(x))


def test_infinities_saturate() -> None:
    assert decode_float8(encode_float8([np.inf, -np.inf, 1e30])).tolist() == [448.0, -448.0, 448.0]


@pytest.mark.parametrize("scale", [1.0, 0.03125, 0.0371, 3.7])
def test_codes_and_values_equal_onnxruntime(scale: float) -> None:
    params = qparams_from_scale(scale, qtype="fp8")
    rng = np.random.default_rng(3)
    ties = ((VALUES[1:127].astype(np.float64) + VALUES[:126]) / 2).astype(np.float32)
    x = np.concatenate([VALUES[:127], -VALUES[:127], ties, rng.normal(0, 200, 4000), [1e9, -1e9, np.inf, -np.inf]])
    x = (x * np.float32(scale)).astype(np.float32)
    codes, y = through_onnxruntime(x, params)
    np.testing.assert_array_equal(quantize(x, params), codes)
    np.testing.assert_array_equal(fake_quantize(x, params), y)


def test_every_pattern_dequantizes_as_onnxruntime_does() -> None:
    params = qparams_from_scale(0.37, qtype="fp8")
    codes = PATTERNS[np.isfinite(VALUES)]
    x = dequantize(codes, params)
    # -0.0 has a pattern of its own, and comes back as such.
    np.testing.assert_array_equal(through_onnxruntime(x, params)[1], x)


def test_the_scale_is_amax_by_448() -> None:
    assert qparams_from_range(Range.of(-3.5, 7.0), SPEC).scale == np.float32(7.0 / 448.0)
    assert qparams_from_amax(448.0, SPEC).scale == 1.0


def test_relative_error_is_at_most_a_sixteenth_of_the_value() -> None:
    # Three bits of mantissa: half a step of 1/8, down to the smallest normal value.
    x = np.geomspace(2.0**-6, 448, 5000).astype(np.float32)
    assert (np.abs(fake_quantize(x, qparams_from_scale(1.0, qtype="fp8")) - x) <= x / 16).all()


def test_nan_has_no_code() -> None:
    with pytest.raises(DataError, match="NaN"):
        quantize([np.nan], SPEC, amax=1.0)


@pytest.mark.parametrize(("arguments", "message"), [
    ({"symmetric": False}, "no zero-point"),
    ({"narrow_range": True}, "no narrow range"),
    ({"bits": 7}, "expected 8"),
])  # fmt: skip
def test_forms_that_a_float_type_does_not_have(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        QuantSpec.of(dtype="fp8", **arguments)


def test_a_zero_point_is_refused() -> None:
    with pytest.raises(ConfigError, match="zero_point must be 0 for float8e4m3fn"):
        qparams_from_scale(1.0, 3, qtype="fp8")
