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
    EngineMissingError,
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
    from onnxq.api.build_engine import EngineResult, build_engine
    from onnxq.api.calibrate import calibrate
    from onnxq.api.channel_ranges import channel_ranges
    from onnxq.api.plan import plan
    from onnxq.api.quantize import quantize
    from onnxq.api.sensitivity import sensitivity
    from onnxq.api.strip import StripResult, strip
    from onnxq.api.verify import verify
    from onnxq.calibration.statistics.file import load_stats
    from onnxq.calibration.statistics.table import StatsTable
    from onnxq.data.description import Data
    from onnxq.data.images import ImageOptions
    from onnxq.evaluation.evaluate import evaluate
    from onnxq.evaluation.evaluation import Evaluation
    from onnxq.inference.custom_ops import register_custom_ops
    from onnxq.modes.result import QuantizeResult
    from onnxq.planning.overrides import Override
    from onnxq.planning.plan import QuantPlan
    from onnxq.previews.preview import Preview, preview
    from onnxq.report.report import Report
    from onnxq.search.ranking import Sensitivity
    from onnxq.search.result import SearchResult

__version__ = VERSION

_LAZY = {
    "Data": "onnxq.data.description",
    "EngineResult": "onnxq.api.build_engine",
    "Evaluation": "onnxq.evaluation.evaluation",
    "ImageOptions": "onnxq.data.images",
    "Override": "onnxq.planning.overrides",
    "Preview": "onnxq.previews.preview",
    "QuantPlan": "onnxq.planning.plan",
    "QuantizeResult": "onnxq.modes.result",
    "Report": "onnxq.report.report",
    "SearchResult": "onnxq.search.result",
    "Sensitivity": "onnxq.search.ranking",
    "StatsTable": "onnxq.calibration.statistics.table",
    "StripResult": "onnxq.api.strip",
    "build_engine": "onnxq.api.build_engine",
    "calibrate": "onnxq.api.calibrate",
    "channel_ranges": "onnxq.api.channel_ranges",
    "evaluate": "onnxq.evaluation.evaluate",
    "load_stats": "onnxq.calibration.statistics.file",
    "plan": "onnxq.api.plan",
    "preview": "onnxq.previews.preview",
    "quantize": "onnxq.api.quantize",
    "register_custom_ops": "onnxq.inference.custom_ops",
    "sensitivity": "onnxq.api.sensitivity",
    "strip": "onnxq.api.strip",
    "verify": "onnxq.api.verify",
}

__all__ = [
    "ArtifactError",
    "ConfigError",
    "Data",
    "DataError",
    "EngineMissingError",
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
    "register_custom_ops",
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
