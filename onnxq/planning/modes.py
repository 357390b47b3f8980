"""What a model can be turned into: the modes of `onnxq.quantize`.

static       weights and activations are int8, ranges come from calibration data
dynamic      weights are int8, activations are quantized while the model runs; needs no data
weight-only  weights are stored in 4 or 8 bits, arithmetic stays float; needs no data, or a few samples
"""

from __future__ import annotations

from collections.abc import Mapping

STATIC, DYNAMIC, WEIGHT_ONLY = "static", "dynamic", "weight-only"
MODES = (STATIC, DYNAMIC, WEIGHT_ONLY)

WEIGHT_TYPES: Mapping[str, tuple[str, ...]] = {
    DYNAMIC: ("int8",),
    WEIGHT_ONLY: ("int4", "uint4", "int8"),
}
"""Types of weights that a mode can write, the default first."""
