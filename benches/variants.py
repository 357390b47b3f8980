"""Everything that is measured beside the float model: onnxq's methods, settings of onnxruntime's `quantize_static`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

ONNXQ_METHODS = ("auto", "max", "percentile", "entropy", "mse")


@dataclass(frozen=True, kw_only=True)
class StaticVariant:
    """One setting of `quantize_static`, in the spelling of its own arguments.

    Attributes:
        title: How tables call it.
        arguments: Keyword arguments; the enum members by name.
    """

    title: str
    arguments: Mapping[str, Any] = field(default_factory=dict)


def _uint8(weights: str, **more: str | bool) -> dict[str, str | bool]:
    return {"activation_type": "QUInt8", "weight_type": weights, "per_channel": True, **more}


STATIC: dict[str, StaticVariant] = {
    "ort-default": StaticVariant(title="static defaults (S8S8, MinMax)"),
    "ort-u8s8": StaticVariant(title="static U8S8 per-channel", arguments=_uint8("QInt8")),
    "ort-u8s8-reduce": StaticVariant(
        title="static U8S8 per-channel, reduce_range", arguments=_uint8("QInt8", reduce_range=True)
    ),
    "ort-u8u8": StaticVariant(title="static U8U8 per-channel", arguments=_uint8("QUInt8")),
    "ort-u8s8-entropy": StaticVariant(
        title="static U8S8 per-channel, Entropy", arguments=_uint8("QInt8", calibrate_method="Entropy")
    ),
    "ort-u8s8-percentile": StaticVariant(
        title="static U8S8 per-channel, Percentile", arguments=_uint8("QInt8", calibrate_method="Percentile")
    ),
}

_SYMMETRIC = {
    "activation_type": "QInt8",
    "weight_type": "QInt8",
    "per_channel": True,
    "extra_options": {"ActivationSymmetric": True, "WeightSymmetric": True},
}

STATIC_TENSORRT: dict[str, StaticVariant] = {
    f"trt-{method.lower()}": StaticVariant(
        title=f"static S8S8 symmetric per-channel, {method}", arguments={**_SYMMETRIC, "calibrate_method": method}
    )
    for method in ("MinMax", "Entropy", "Percentile")
}
"""What onnxruntime's documentation asks for in front of TensorRT."""
_MATRIX_OPS = ["Conv", "MatMul", "Gemm"]


def _typed(activations: str, weights: str, **more: str | bool | list[str]) -> dict[str, str | bool | list[str]]:
    return {"activation_type": activations, "weight_type": weights, "per_channel": True, **more}


LATENCY_STATIC: dict[str, StaticVariant] = {
    f"{name}-{short}": StaticVariant(title=f"{name.upper()}, {title}", arguments=_typed(*types, **more))
    for name, types in (("u8s8", ("QUInt8", "QInt8")), ("u8u8", ("QUInt8", "QUInt8")), ("s8s8", ("QInt8", "QInt8")))
    for short, title, more in (
        ("all", "all", {}),
        ("matrix", "Conv, MatMul", {"op_types_to_quantize": _MATRIX_OPS}),
    )
}
"""Settings that differ in speed; see `benches.latency`."""
