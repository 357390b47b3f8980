"""What `onnxq.quantize` gives back."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from onnx import ModelProto

from onnxq.calibration.solve import QParamsTable
from onnxq.calibration.statistics.table import StatsTable
from onnxq.planning.plan import QuantPlan
from onnxq.report.report import Report, report_in_brief
from onnxq.search.result import SearchResult
from onnxq.tuning.search import Tuning
from onnxq.wording.brief import brief


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

    model: ModelProto
    plan: QuantPlan
    stats: StatsTable
    qparams: QParamsTable
    report: Report
    output: Path | None = None
    search: SearchResult | None = None
    tuning: Tuning | None = None

    def __repr__(self) -> str:
        return brief(self, *report_in_brief(self.report), None if self.output is None else f"written to {self.output}")
