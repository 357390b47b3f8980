"""Post-training quantization of ONNX graphs to int8 that the target engine provably runs.

>>> import onnxq
>>> result = onnxq.quantize("model.onnx", data, target="tensorrt", output="model.int8.onnx")  # doctest: +SKIP

The names below are loaded when they are first used, so that importing onnxq costs next to nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from onnxq.errors import (
    ArtifactError,
    ConfigError,
    DataError,
    GateError,
    InternalError,
    InterruptedRunError,
    ModelError,
    OnnxqError,
    PlanError,
    UnsupportedModelError,
)
from onnxq.version import VERSION

if TYPE_CHECKING:
    from onnxq.api import quantize
    from onnxq.calibrating import calibrate
    from onnxq.calibration.statistics.file import load_stats
    from onnxq.calibration.statistics.table import StatsTable
    from onnxq.channels import channel_ranges
    from onnxq.data.description import Data
    from onnxq.data.images import ImageOptions
    from onnxq.engine import EngineResult, build_engine
    from onnxq.evaluation.evaluate import evaluate
    from onnxq.evaluation.evaluation import Evaluation
    from onnxq.explaining import plan
    from onnxq.planning.overrides import Override
    from onnxq.planning.plan import QuantPlan
    from onnxq.previews.preview import Preview, preview
    from onnxq.report.report import Report
    from onnxq.result import QuantizeResult
    from onnxq.search.ranking import Sensitivity
    from onnxq.search.result import SearchResult
    from onnxq.search.sensitivity import sensitivity
    from onnxq.stripping import StripResult, strip
    from onnxq.verifying import verify

__version__ = VERSION

_LAZY = {
    "Data": "onnxq.data.description",
    "EngineResult": "onnxq.engine",
    "Evaluation": "onnxq.evaluation.evaluation",
    "ImageOptions": "onnxq.data.images",
    "Override": "onnxq.planning.overrides",
    "Preview": "onnxq.previews.preview",
    "QuantPlan": "onnxq.planning.plan",
    "QuantizeResult": "onnxq.result",
    "Report": "onnxq.report.report",
    "SearchResult": "onnxq.search.result",
    "Sensitivity": "onnxq.search.ranking",
    "StatsTable": "onnxq.calibration.statistics.table",
    "StripResult": "onnxq.stripping",
    "build_engine": "onnxq.engine",
    "calibrate": "onnxq.calibrating",
    "channel_ranges": "onnxq.channels",
    "evaluate": "onnxq.evaluation.evaluate",
    "load_stats": "onnxq.calibration.statistics.file",
    "plan": "onnxq.explaining",
    "preview": "onnxq.previews.preview",
    "quantize": "onnxq.api",
    "sensitivity": "onnxq.search.sensitivity",
    "strip": "onnxq.stripping",
    "verify": "onnxq.verifying",
}

__all__ = [
    "ArtifactError",
    "ConfigError",
    "Data",
    "DataError",
    "EngineResult",
    "Evaluation",
    "GateError",
    "ImageOptions",
    "InternalError",
    "InterruptedRunError",
    "ModelError",
    "OnnxqError",
    "Override",
    "PlanError",
    "Preview",
    "QuantPlan",
    "QuantizeResult",
    "Report",
    "SearchResult",
    "Sensitivity",
    "StatsTable",
    "StripResult",
    "UnsupportedModelError",
    "__version__",
    "build_engine",
    "calibrate",
    "channel_ranges",
    "evaluate",
    "load_stats",
    "plan",
    "preview",
    "quantize",
    "sensitivity",
    "strip",
    "verify",
]


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'onnxq' has no attribute {name!r}")
    value = getattr(importlib.import_module(_LAZY[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
