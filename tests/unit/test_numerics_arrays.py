"""Array functions: published examples, onnxruntime as the judge, and every refusal."""

from __future__ import annotations

import numpy as np
import pytest

from onnxq.errors import ConfigError, DataError, InternalError
from onnxq.numerics import (
    INT8,
    INT32,
    UINT8,
    QuantParams,
    QuantSpec,
    Range,
    dequantize,
    fake_quantize,
    qparams_from_range,
    qparams_from_scale,
    qtype_from_name,
    quantize,
)
from tests.pairs import through_onnxruntime

NARROW = QuantSpec(qtype=INT8, symmetric=True, narrow_range=True)


def test_example_of_pytorch_quantization() -> None:
    x = np.array([0.9817, 0.8796, 0.9921, 0.4611, 0.0832, 0.1784, 0.3674, 0.5676, 0.3376, 0.2119], np.float32)
    params = qparams_from_range(Range.of(-x.max(), x.max()), NARROW)
    assert quantize(x, params).tolist() == [126, 113, 127, 59, 11, 23, 47, 73, 43, 27]
    published = [0.9843, 0.8828, 0.9921, 0.4609, 0.0859, 0.1797, 0.3672, 0.5703, 0.3359, 0.2109]
    # The documentation prints four digits, of an x whose own digits were cut: half a unit of the last of each.
    np.testing.assert_allclose(fake_quantize(x, params), published, atol=1.01e-4, rtol=0)


def test_example_of_pytorch_quantize_per_tensor() -> None:
    x = [[0.5827, 0.8619], [0.3827, -0.1982], [-0.8213, 0.6351]]
    expected = [[0.58, 0.86], [0.38, -0.20], [-0.82, 0.64]]
    # One float32 product: half an ulp.
    np.testing.assert_allclose(fake_quantize(x, qparams_from_scale(0.01)), expected, rtol=1e-7)


@pytest.mark.parametrize("name", ["int8", "uint8", "int16", "uint16"])
def test_ties_and_saturation_equal_onnxruntime(name: str) -> None:
    # Catches rounding half away from zero, and saturating before the zero-point is added.
    qtype = qtype_from_name(name)
    middle = (qtype.qmin + qtype.qmax + 1) // 2
    for zero_point in (qtype.qmin, middle, middle + 7, qtype.qmax):
        params = qparams_from_scale(0.5, zero_point, qtype=name)
        steps = np.concatenate([np.arange(-600, 600) * 0.5, [1e9, -1e9, 3.4e38, -3.4e38, np.inf, -np.inf]])
        x = (steps * 0.5).astype(np.float32)
        codes, y = through_onnxruntime(x, params)
        np.testing.assert_array_equal(quantize(x, params), codes)
        np.testing.assert_array_equal(fake_quantize(x, params), y)


@pytest.mark.parametrize("axis", [0, 1, 2, -1])
def test_each_axis_equals_onnxruntime(axis: int) -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((3, 4, 5)).astype(np.float32)
    size = x.shape[axis]
    params = qparams_from_scale(rng.uniform(0.001, 0.1, size), rng.integers(0, 256, size), qtype=UINT8, axis=axis)
    codes, y = through_onnxruntime(x, params)
    np.testing.assert_array_equal(quantize(x, params), codes)
    np.testing.assert_array_equal(dequantize(codes, params), y)


def test_narrow_range_leaves_out_the_smallest_code() -> None:
    params = qparams_from_scale(1.0, narrow_range=True)
    assert quantize([-500.0, 500.0], params).tolist() == [-127, 127]


def test_int32_codes_keep_more_than_float32_digits() -> None:
    # 2^24 + 1 steps: float32 arithmetic would return 2^24.
    params = qparams_from_scale(2.0**-30, qtype=INT32)
    x = np.float32(2.0**-6 + 2.0**-29)
    assert quantize(x, params) == 2**24 + 2
    assert quantize([1e30, -1e30], params).tolist() == [2**31 - 1, -(2**31)]
    assert dequantize([-(2**31)], params).tolist() == [-2.0]


def test_scalars_empty_arrays_and_integers() -> None:
    params = qparams_from_scale(0.5, 3, qtype="uint8")
    assert quantize(1.0, params).shape == ()
    assert quantize(np.empty((0, 3)), params).shape == (0, 3)
    assert quantize(np.array([2], np.int64), params).tolist() == [7]
    assert fake_quantize(np.array([2], np.int64), params).dtype == np.float32


def test_input_is_not_changed() -> None:
    x = np.array([0.26], np.float32)
    quantize(x, qparams_from_scale(0.01))
    assert x[0] == np.float32(0.26)


def test_nan_is_refused() -> None:
    with pytest.raises(DataError, match=r"2 of 3 values are NaN, which has no integer code\nHint: .*nan_to_num"):
        quantize([np.nan, 1.0, np.nan], qparams_from_scale(0.1))


def test_symmetric_is_told_from_the_zero_point() -> None:
    assert qparams_from_scale(0.1).spec.symmetric
    assert qparams_from_scale(0.1, 128, qtype=UINT8).spec.symmetric
    assert not qparams_from_scale([0.1, 0.1], [0, 1], axis=0).spec.symmetric


@pytest.mark.parametrize("scale", [0.0, -0.1, np.nan, np.inf, 1e39, 1e-60])
def test_scale_must_be_a_positive_float32(scale: float) -> None:
    with pytest.raises(ConfigError, match=r"scale must be positive and finite in float32"):
        qparams_from_scale(scale)


@pytest.mark.parametrize("zero_point", [-129, 128, 0.5, np.nan])
def test_zero_point_must_be_a_code(zero_point: float) -> None:
    with pytest.raises(ConfigError, match=r"zero_point must be an integer in \[-128, 127\] for int8, got"):
        qparams_from_scale(0.1, zero_point)


def test_narrow_range_narrows_the_zero_point() -> None:
    with pytest.raises(ConfigError, match=r"in \[-127, 127\]"):
        qparams_from_scale(0.1, -128, narrow_range=True)


def test_shapes_of_parameters_are_checked() -> None:
    with pytest.raises(ConfigError, match=r"scale has shape \(2,\), but axis=None needs a number\nHint: pass axis="):
        qparams_from_scale([0.1, 0.2])
    with pytest.raises(ConfigError, match=r"scale has shape \(\), but axis=1 needs an array of shape \(C,\)"):
        qparams_from_scale(0.1, axis=1)
    with pytest.raises(ConfigError, match=r"zero_point has shape \(3,\), scale \(2,\); expected equal, or one number"):
        qparams_from_scale([0.1, 0.2], [0, 0, 0], axis=0)


@pytest.mark.parametrize("shape", [(4, 3), (2,), ()])
def test_array_must_have_the_channels(shape: tuple[int, ...]) -> None:
    params = qparams_from_scale([0.1, 0.2], axis=1)
    for function in (quantize, dequantize):
        with pytest.raises(
            ConfigError, match=r"scales of shape \(2,\) along axis 1 do not fit an array of shape .*\nHint: pass axis="
        ):
            function(np.zeros(shape, np.int8), params)


def test_unknown_type_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"unknown quantized type 'int9'; known: float8e4m3fn, fp8, int16"):
        qparams_from_scale(0.1, qtype="int9")


def test_broken_values_are_internal_errors() -> None:
    spec = QuantSpec(qtype=INT8, symmetric=True)
    with pytest.raises(InternalError, match=r"range ends have shapes"):
        Range(rmin=np.zeros(2), rmax=np.zeros(3))
    with pytest.raises(InternalError, match=r"is not finite"):
        Range.of(0.0, np.inf)
    with pytest.raises(InternalError, match=r"scale has shape \(2,\), zero_point \(\)"):
        QuantParams(scale=np.ones(2, np.float32), zero_point=np.int8(0), spec=spec)
    with pytest.raises(InternalError, match=r"does not fit axis None"):
        QuantParams(scale=np.ones(2, np.float32), zero_point=np.zeros(2, np.int8), spec=spec)
    with pytest.raises(InternalError, match=r"scale must be positive and finite"):
        QuantParams(scale=np.float32(0), zero_point=np.int8(0), spec=spec)


@pytest.mark.parametrize("spec", [NARROW, QuantSpec(qtype=UINT8, symmetric=False)])
def test_range_of_a_single_point_has_a_usable_scale(spec: QuantSpec) -> None:
    for end in (0.0, 1e-45, 1e-300):
        params = qparams_from_range(Range.of(-end, end), spec)
        assert params.scale >= np.finfo(np.float32).tiny
        assert fake_quantize(0.0, params) == 0.0
