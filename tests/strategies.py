"""Hypothesis strategies that several test modules share."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from onnxq.numerics import INT8, UINT8, QuantSpec

FLOAT32_MAX = float(np.finfo(np.float32).max)

SPECS = {
    "s8": QuantSpec(qtype=INT8, symmetric=True),
    "s8-narrow": QuantSpec(qtype=INT8, symmetric=True, narrow_range=True),
    "u8": QuantSpec(qtype=UINT8, symmetric=False),
    "s8-affine": QuantSpec(qtype=INT8, symmetric=False),
    "u8-symmetric": QuantSpec(qtype=UINT8, symmetric=True),
}


def specs() -> st.SearchStrategy[QuantSpec]:
    """Every 8-bit form of per-tensor quantization."""
    return st.sampled_from(list(SPECS.values()))


def finite_floats(limit: float = FLOAT32_MAX) -> st.SearchStrategy[float]:
    """float32 values up to `limit`, subnormals and both zeros included."""
    limit = float(np.float32(limit))
    return st.floats(-limit, limit, width=32, allow_nan=False)


def finite_arrays(limit: float = FLOAT32_MAX, max_size: int = 60) -> st.SearchStrategy[Any]:
    """One-dimensional float32 arrays, possibly empty."""
    return hnp.arrays(np.float32, st.integers(0, max_size), elements=finite_floats(limit))


@st.composite
def activations(draw: st.DrawFn) -> Any:
    """float32 arrays shaped like what networks produce: normal, one-sided, heavy-tailed, spiked, sparse, shifted."""
    seed = draw(st.integers(0, 2**32 - 1))
    kind = draw(
        st.sampled_from(["normal", "relu", "relu6", "silu", "laplace", "heavy", "sparse", "shifted", "negative"])
    )
    size = draw(st.integers(2, 3000))
    scale = 2.0 ** draw(st.integers(-20, 20)) * draw(st.floats(1.0, 2.0))
    rng = np.random.default_rng(seed)
    x = rng.standard_normal(size)
    shapes = {
        "normal": lambda: x,
        "relu": lambda: np.maximum(x, 0.0),
        "relu6": lambda: np.clip(4.0 * x, 0.0, 6.0),
        "silu": lambda: 3.0 * x / (1.0 + np.exp(-3.0 * x)),
        "laplace": lambda: rng.laplace(size=size),
        "heavy": lambda: rng.standard_t(3, size=size),
        "sparse": lambda: x * (rng.random(size) < 0.02),
        "shifted": lambda: x + 10.0,
        "negative": lambda: -np.abs(x),
    }
    return (shapes[kind]() * scale).astype(np.float32)
