"""Quantize and dequantize, for all inputs: onnxruntime bit for bit, and the error bound that the scale implies."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxq.numerics import (
    INT8,
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
from tests.strategies import activations, finite_arrays, specs

# A session for each example costs milliseconds; the default deadline is for pure functions.
RUNS_SESSIONS = settings(max_examples=60, deadline=None)


@RUNS_SESSIONS
@given(
    x=finite_arrays(1e6),
    scale=st.floats(1e-4, 1e3),
    name=st.sampled_from(["int8", "uint8", "int16", "uint16"]),
    where=st.floats(0, 1),
)
def test_per_tensor_equals_onnxruntime(x: np.ndarray, scale: float, name: str, where: float) -> None:
    qtype = qtype_from_name(name)
    params = qparams_from_scale(scale, round(qtype.qmin + where * (qtype.qmax - qtype.qmin)), qtype=name)
    codes, y = through_onnxruntime(x, params)
    np.testing.assert_array_equal(quantize(x, params), codes)
    np.testing.assert_array_equal(dequantize(codes, params), y)


@RUNS_SESSIONS
@given(
    seed=st.integers(0, 2**32 - 1),
    shape=st.lists(st.integers(1, 5), min_size=1, max_size=4).map(tuple),
    name=st.sampled_from(["int8", "uint8"]),
    data=st.data(),
)
def test_per_channel_equals_onnxruntime(seed: int, shape: tuple[int, ...], name: str, data: st.DataObject) -> None:
    rng = np.random.default_rng(seed)
    axis = data.draw(st.integers(0, len(shape) - 1))
    qtype = qtype_from_name(name)
    scale = rng.uniform(0.001, 0.5, shape[axis]).astype(np.float32)
    params = qparams_from_scale(scale, rng.integers(qtype.qmin, qtype.qmax + 1, shape[axis]), qtype=name, axis=axis)
    # Half-steps of each channel's own scale: ties wherever the product is exact, saturation at both ends.
    steps = rng.integers(-300, 300, shape) + 0.5
    x = (steps * np.expand_dims(scale, tuple(range(1, len(shape) - axis)))).astype(np.float32)
    codes, y = through_onnxruntime(x, params)
    np.testing.assert_array_equal(quantize(x, params), codes)
    np.testing.assert_array_equal(dequantize(codes, params), y)


@given(x=activations(), spec=specs())
def test_error_within_range_is_half_a_step(x: np.ndarray, spec: QuantSpec) -> None:
    params = qparams_from_range(Range.of(float(x.min()), float(x.max())), spec)
    error = np.abs(fake_quantize(x, params).astype(np.float64) - x)
    # Half a step; the zero-point's own rounding may cut up to half a step more off an end, hence inside only. The rest
    # is one float32 rounding each of x / scale and of the product.
    scale, zero_point = float(params.scale), int(params.zero_point)
    inside = (x >= (spec.qmin - zero_point) * scale) & (x <= (spec.qmax - zero_point) * scale)
    slack = 2.0 * np.finfo(np.float32).eps * np.abs(x)
    assert (error[inside] <= scale / 2 + slack[inside]).all()
    assert (error <= scale + slack).all()


@given(x=activations(), spec=specs())
def test_fake_quantize_is_idempotent(x: np.ndarray, spec: QuantSpec) -> None:
    params = qparams_from_range(Range.of(float(x.min()), float(x.max())), spec)
    once = fake_quantize(x, params)
    np.testing.assert_array_equal(fake_quantize(once, params), once)


@given(x=activations(), spec=specs())
def test_zero_is_exact(x: np.ndarray, spec: QuantSpec) -> None:
    params = qparams_from_range(Range.of(float(x.min()), float(x.max())), spec)
    assert fake_quantize(np.float32(0), params) == 0.0


@given(x=finite_arrays())
def test_quantize_is_monotone(x: np.ndarray) -> None:
    codes = quantize(np.sort(x), qparams_from_scale(0.37, 3, qtype=INT8)).astype(int)
    assert (np.diff(codes) >= 0).all()
