"""What the keys of `extra_options` become; one that onnxruntime does not know is an error, not ignored."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from onnxq.compat.names import QuantType, member
from onnxq.errors import ConfigError

_DIFFERENT: Mapping[str, tuple[Any, str]] = {
    "WeightSymmetric": (True, "weights stay symmetric"),
    "ForceQuantizeNoInputCheck": (False, "MaxPool, Transpose and the like run in int8 only between int8 neighbours"),
    "AddQDQPairToWeight": (False, "weights are stored as int8; engines compute the same"),
    "DedicatedQDQPair": (False, "readers of a tensor share its pair; engines compute the same"),
    "QDQOpTypePerChannelSupportToAxis": (
        {},
        "the axis of per-channel weights is the one that the engine's kernels take",
    ),
    "QuantizeBias": (True, "biases are quantized where the engine wants it"),
    "UseQDQContribOps": (False, "Q and DQ are ONNX's own operators"),
    "MinimumRealRange": (None, "ranges of nothing get a scale that is safe on their own"),
    "OpTypesToExcludeOutputQuantization": (
        [],
        "which outputs are quantized is the target's to say; see nodes_to_exclude",
    ),
    "ActivationRestrictedAsymmetric": (False, "zero-points are where the range puts them"),
    "extra.Sigmoid.nnapi": (False, "the parameters of Sigmoid are the ones of its range"),
    "QDQKeepRemovableActivations": (False, "Relu and Clip are kept or fused as the engine does it"),
    "SmoothQuantAlpha": (0.5, "onnxq finds the exponent for each layer"),
    "num_bins": (None, "histograms have bins of a power of two"),
    "num_quantized_bins": (None, "histograms have bins of a power of two"),
    "scenario": (None, "it belongs to fp8"),
}
"""Keys whose other values change nothing: the value that means no wish, and what is done."""

_NO_CHANGE = frozenset({
    "CalibMaxIntermediateOutputs", "CalibStridedMinMax", "QDQDisableWeightAdjustForInt32Bias", "DefaultTensorType",
    "SmoothQuantFolding", "EnableSubgraph",
})  # fmt: skip
"""Keys about memory and mechanics: the result is what it is with any value."""

_MEANT = frozenset({
    "ActivationSymmetric", "CalibTensorRangeSymmetric", "CalibMovingAverage", "CalibMovingAverageConstant",
    "CalibPercentile", "SmoothQuant", "MatMulConstBOnly", "TensorQuantOverrides",
})  # fmt: skip

_REFUSED: Mapping[str, str] = {"BlockSize": "blocks are for weights of 4 bits: onnxq.quantize(mode=...)"}

_CODES = {"QInt8": ("int8", -128), "QUInt8": ("uint8", 0)}


@dataclass(frozen=True, kw_only=True)
class ExtraOptions:
    """What was wished for.

    Attributes:
        symmetric: Whether ranges of activations are symmetric about 0.
        momentum: Weight of the newest batch in a moving average; None: no moving average.
        percentile: For CalibrationMethod.Percentile, in percent; None unless given.
        smooth: Whether activations are smoothed into weights.
        constant_b_only: Whether products of two activations stay float.
        overrides: What is different for single tensors.
        remarks: What is done otherwise than onnxruntime does it.
    """

    symmetric: bool = False
    momentum: float | None = None
    percentile: float | None = None
    smooth: bool = False
    constant_b_only: bool = False
    overrides: tuple[Mapping[str, Any], ...] = ()
    remarks: tuple[str, ...] = field(default=())


def read_extra_options(given: Mapping[str, Any] | None) -> ExtraOptions:
    """What the dictionary says.

    Raises:
        ConfigError: a key is misspelt, or asks for what cannot be had.
    """
    given = {key: value for key, value in (given or {}).items() if value is not None}
    known = [*_DIFFERENT, *_NO_CHANGE, *_MEANT, *_REFUSED]
    for key in given:
        if key not in known:
            close = difflib.get_close_matches(str(key), known, n=1)
            raise ConfigError(
                f"extra_options has no key {key!r}",
                hint=f"did you mean {close[0]!r}?" if close else f"its keys are {', '.join(sorted(known))}",
            )
        if key in _REFUSED and given[key]:
            raise ConfigError(f"extra_options[{key!r}] is {given[key]!r}", hint=_REFUSED[key])
    remarks = [
        f"extra_options[{key!r}] = {given[key]!r} has no effect: {what}"
        for key, (no_wish, what) in _DIFFERENT.items()
        if key in given and given[key] != no_wish and given[key] is not None
    ]
    moving = bool(given.get("CalibMovingAverage", False))
    if "CalibMovingAverageConstant" in given and not moving:
        remarks.append("extra_options['CalibMovingAverageConstant'] has no effect without CalibMovingAverage")
    return ExtraOptions(
        symmetric=bool(given.get("ActivationSymmetric", False) or given.get("CalibTensorRangeSymmetric", False)),
        momentum=float(given.get("CalibMovingAverageConstant", 0.01)) if moving else None,
        percentile=float(given["CalibPercentile"]) if "CalibPercentile" in given else None,
        smooth=bool(given.get("SmoothQuant", False)),
        constant_b_only=bool(given.get("MatMulConstBOnly", False)),
        overrides=tuple(_overrides(given.get("TensorQuantOverrides") or {})),
        remarks=tuple(remarks),
    )


def _overrides(given: Mapping[str, Sequence[Mapping[str, Any]]]) -> Iterator[Mapping[str, Any]]:
    for tensor, entries in given.items():
        where = f"TensorQuantOverrides[{tensor!r}]"
        if len(entries) != 1 or "axis" in entries[0]:
            raise ConfigError(
                "channels with overrides of their own", where=where, hint="give one dictionary for the whole tensor"
            )
        entry = dict(entries[0])
        made: dict[str, Any] = {"tensors": tensor}
        name = member(entry.pop("quant_type"), QuantType, where) if "quant_type" in entry else None
        if name is not None and name not in _CODES:
            raise ConfigError(f"codes of type {name}", where=where, hint="QInt8 and QUInt8 can be chosen here")
        if "scale" in entry and "zero_point" in entry:
            low, scale = _CODES[name or "QInt8"][1], float(entry.pop("scale"))
            lowest = (low - int(entry.pop("zero_point"))) * scale
            made["range"] = [lowest, lowest + 255 * scale]
        elif "rmin" in entry and "rmax" in entry:
            made["range"] = [float(entry.pop("rmin")), float(entry.pop("rmax"))]
        if entry:
            raise ConfigError(
                f"{', '.join(map(repr, entry))} cannot be overridden",
                where=where,
                hint="scale with zero_point, or rmin with rmax, can; see onnxq.quantize(overrides=...)",
            )
        if "range" in made:
            yield made
