"""What `onnxq.quantize` gives back."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from onnx import ModelProto

from onnxq.calibration.solve import QParamsTable
from onnxq.calibration.statistics.table import StatsTable
from onnxq.planning.plan import QuantPlan
from onnxq.report.report import Report
from onnxq.search.result import SearchResult
from onnxq.tuning.search import Tuning


@dataclass(frozen=True, kw_only=True)
class QuantizeResult:
    """What `quantize` made.

    Attributes:
        model: The quantized model, with all its data inside. Only the weights of a large one (2 GB) stay in the file
            beside `output`; where nothing was written, what is left in float stays in the float model's files.
        plan: Where Q/DQ pairs went, and why.
        stats: Statistics of the activations; give them to another `quantize` of the same model to skip inference.
        qparams: Scale and zero-point of every quantized tensor.
        report: What was measured; truthy when every check passed.
        output: Where the model was written, if it was.
        search: What the search for layers to leave in float found, if one was asked for.
        tuning: What `tune` found, if it was asked for.
    """

    model: ModelProto = field(repr=False)
    plan: QuantPlan = field(repr=False)
    stats: StatsTable = field(repr=False)
    qparams: QParamsTable = field(repr=False)
    report: Report
    output: Path | None = None
    search: SearchResult | None = None
    tuning: Tuning | None = None
