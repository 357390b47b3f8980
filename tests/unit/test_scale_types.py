"""Scales in half precision: representable, never too small, never overflowing."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, numpy_helper

from onnxq.graph.float_types import float_tensor
from onnxq.numerics.arrays import dequantize, qparams_from_scale, quantize
from onnxq.numerics.qparams import Range, qparams_from_range
from onnxq.numerics.qtypes import INT8
from onnxq.numerics.scale_types import with_scale_in_bfloat16, with_scale_in_float16
from onnxq.numerics.specs import QuantSpec

SYMMETRIC = QuantSpec(qtype=INT8, symmetric=True)


@given(st.floats(1e-12, 65504.0))
def test_float16_covers_the_range(amax: float) -> None:
    params = with_scale_in_float16(qparams_from_range(Range.of(-amax, amax), SYMMETRIC))
    scale = np.float32(params.scale)
    assert np.float16(scale).astype(np.float32) == scale > 0
    codes = quantize([amax, -amax], params)
    with np.errstate(over="raise"):
        back = dequantize(codes, params).astype(np.float16)
    # Half a step, and half a step of float16 (2**-11) at the top.
    assert np.abs(back.astype(np.float64) - [amax, -amax]).max() <= scale / 2 + amax * 2**-11 + 2**-24


@given(st.floats(1e-30, 1e30))
def test_bfloat16_covers_the_range(amax: float) -> None:
    exact = qparams_from_range(Range.of(-amax, amax), SYMMETRIC)
    params = with_scale_in_bfloat16(exact)
    assert params.scale.astype(ml_dtypes.bfloat16).astype(np.float32) == params.scale
    assert exact.scale <= params.scale <= exact.scale * (1 + 2**-7)


@pytest.mark.parametrize("scale", [2.0**-24, 1e-7, 6.1e-5, 0.1, 515.0])
def test_channels_are_rounded_one_by_one(scale: float) -> None:
    params = with_scale_in_float16(qparams_from_scale([scale, 0.3], axis=0))
    assert params.scale.shape == (2,)
    assert (params.scale >= np.float32([scale, 0.3])).all()


@given(st.lists(st.floats(-(2.0**127), 2.0**127, width=32), min_size=1, max_size=9))
def test_bfloat16_initializers_round_to_nearest(values: list[float]) -> None:
    ours = float_tensor(np.array(values, np.float32), TensorProto.BFLOAT16, "b")
    theirs = np.array(values, np.float32).astype(ml_dtypes.bfloat16)
    np.testing.assert_array_equal(numpy_helper.to_array(ours).astype(np.float32), theirs.astype(np.float32))
