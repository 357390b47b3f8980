"""What a report shows beyond decisions and checks, measured only where a report is to be looked at."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from onnxq.report.drawing import Drawing
from onnxq.report.ranges import TensorRanges
from onnxq.verification.compare import OutputError


@dataclass(frozen=True, kw_only=True)
class Latency:
    """How long one run takes on one thread of this machine, in CPU time, both models in turns.

    Attributes:
        float_ms: Median for the float model, in ms.
        quantized_ms: Median for the quantized one, in ms.
        engine: What ran them.
        samples: Samples in a run.
    """

    float_ms: float
    quantized_ms: float
    engine: str
    samples: int


@dataclass(frozen=True, kw_only=True)
class Details:
    """See the attributes.

    Attributes:
        outputs: The first output of each node, by the node's name.
        errors: Distance of inner tensors from the float model's, by name.
        ranges: Histograms, and the ranges that methods choose, by key of the plan's tensors.
        drawing: The quantized model as a picture.
        latency: How long runs take; None where the engine does not run on this machine.
        sensitivity: A ranking of layers in the schema onnxq.sensitivity/1, if one was measured.
    """

    outputs: Mapping[str, str] = field(default_factory=dict)
    errors: Mapping[str, OutputError] = field(default_factory=dict)
    ranges: Mapping[str, TensorRanges] = field(default_factory=dict)
    drawing: Drawing | None = None
    latency: Latency | None = None
    sensitivity: Mapping[str, Any] | None = None
