"""Weight scales that keep vpmaddubsw from saturating.

x64 CPUs without VNNI multiply u8 by s8 with vpmaddubsw, which adds two neighbouring products in saturating int16:

    255 * (w[k] + w[k+1]) stays inside [-32768, 32767]    exactly when    |w[k] + w[k+1]| <= 128

A channel in which a pair exceeds that gets a larger scale, by just enough; at most twice as large, since |w| <= 64 is
always safe. All other channels keep their full range. Clipping such pairs in place of it costs more: at the old scale
1.5 to 24 dB of a weight's SQNR (PP-OCRv4's recogniser, 30 weights; growth: 3 at most), and at the best scale between
the two 0.1 dB at most is gained. Where weights change while scales stand, the pairs that go beyond the limit are
moved back to it. Source: Intel Intrinsics Guide, _mm256_maddubs_epi16; the order of the pairs was found by running
onnxruntime 1.31 with weights that overflow in one chosen pair.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxq.numerics.arrays import quantize
from onnxq.numerics.qparams import QuantParams, next_power_of_two

LARGEST_PAIR_SUM = 128


def guard_pair_sums(values: NDArray[Any], params: QuantParams, walk: Sequence[int], channel: int) -> QuantParams:
    """Parameters under which no pair of neighbouring codes can saturate.

    Pairs are disjoint, (0, 1), (2, 3), ..., along the order in which the kernel reduces.

    Args:
        values: Float weight, any shape.
        params: Symmetric int8 parameters, per-tensor or per-channel.
        walk: The reduced axes, outermost first; axes in neither `walk` nor `channel` are batches.
        channel: The axis of output channels.

    Returns:
        `params`, with larger scales in the channels that need it.
    """
    scale = params.scale.astype(np.float64)
    while (worst := _worst_pair_sum(values, params, walk, channel)).max(initial=0) > LARGEST_PAIR_SUM:
        # The rounding of both codes can keep the sum at 129 a little longer, hence the small push.
        growth = np.where(worst > LARGEST_PAIR_SUM, worst / LARGEST_PAIR_SUM * (1 + 2**-12), 1.0)
        scale = scale * (growth if params.spec.axis is not None else growth.max())
        narrowed = scale.astype(np.float32)
        params = replace(params, scale=next_power_of_two(narrowed) if params.spec.power_of_two else narrowed)
        scale = params.scale.astype(np.float64)
    return params


def within_pair_sums(
    units: NDArray[np.float64], codes: NDArray[np.int16], partner: NDArray[np.intp]
) -> NDArray[np.int16]:
    """The codes nearest to a weight that stay inside the limit: pairs beyond it are moved back to it.

    Args:
        units: Weight by its scale, shape (..., K).
        codes: What it is quantized to, same shape.
        partner: For each of the K columns the one it is added to, -1 for none.
    """
    first = np.flatnonzero(partner > np.arange(partner.size))
    pair = [first, partner[first]]
    # Of what lies outside the codes' range, the end of the range is what counts.
    one, other = (np.clip(units[..., at], codes[..., at] - 0.5, codes[..., at] + 0.5) for at in pair)
    sums = codes[..., first] + codes[..., partner[first]]
    limit = np.sign(sums) * LARGEST_PAIR_SUM
    moved = np.rint(one - (one + other - limit) / 2).astype(np.int16)
    held: NDArray[np.int16] = codes.copy()
    beyond = np.abs(sums) > LARGEST_PAIR_SUM
    for at, new in zip(pair, (moved, limit - moved), strict=True):
        held[..., at] = np.where(beyond, new, codes[..., at])
    return held


def _worst_pair_sum(values: NDArray[Any], params: QuantParams, walk: Sequence[int], channel: int) -> NDArray[np.int64]:
    """Largest |sum| of the two codes of a pair, for each channel, shape (C,)."""
    codes = quantize(values, params).astype(np.int16)
    batch = [a for a in range(values.ndim) if a != channel and a not in walk]
    reduced = int(np.prod([values.shape[a] for a in walk], dtype=np.int64))
    rows = codes.transpose(channel, *batch, *walk).reshape(values.shape[channel], -1, reduced)
    pairs = rows[..., : reduced - reduced % 2].reshape(values.shape[channel], -1, 2)
    worst: NDArray[np.int64] = np.abs(pairs.sum(axis=-1, dtype=np.int64)).max(axis=1, initial=0)
    return worst
