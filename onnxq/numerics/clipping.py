"""Ranges of constants that clip: for each channel the scale with the least squared error.

    minimise over f    sum_i (w[i] - fq(w[i]; f * scale))^2,    f = 1, 0.98, 0.96, ... 0.6

The largest value of a channel sets its scale; where few are near it, a smaller scale rounds all others better. At 8
bits that seldom gains much. The widest of equally good scales is kept.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxq.numerics.arrays import fake_quantize
from onnxq.numerics.blocks import sum_of_slices
from onnxq.numerics.qparams import SMALLEST_SCALE, QuantParams

_FACTORS = np.linspace(1.0, 0.6, 21)


def clipped_params(values: NDArray[Any], params: QuantParams) -> QuantParams:
    """`params` with the scales, at most as large, under which the squared error of `values` is least.

    Args:
        values: Constants, any shape.
        params: Symmetric parameters that cover them: per-tensor, per-channel or in blocks.
    """
    return _least_error(values, params, _FACTORS)


def nearest_power_of_two(values: NDArray[Any], params: QuantParams) -> QuantParams:
    """`params`, whose scales are powers of two, with half the scale wherever that leaves the smaller squared error.

    The next larger power of two clips nothing, and costs up to a bit; half of it cuts off the largest values.

    Args:
        values: As for `clipped_params`.
        params: As for `clipped_params`.
    """
    return _least_error(values, params, np.array([1.0, 0.5])) if params.spec.symmetric else params


def _least_error(values: NDArray[Any], params: QuantParams, factors: NDArray[np.float64]) -> QuantParams:
    exact = values.astype(np.float64)
    best = params.scale
    least = np.full(params.scale.shape, np.inf)
    for factor in factors:
        scale = np.maximum(params.scale.astype(np.float64) * factor, SMALLEST_SCALE).astype(np.float32)
        noise = (fake_quantize(values, replace(params, scale=scale)) - exact) ** 2
        error = sum_of_slices(noise, params.spec)
        better = error < least
        best, least = np.where(better, scale, best), np.where(better, error, least)
    return replace(params, scale=best)
