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
    from onnxq.api import QuantizeResult, calibrate, quantize, verify
    from onnxq.calibration.images import ImageOptions
    from onnxq.calibration.statistics import StatsTable
    from onnxq.calibration.stats_file import load_stats
    from onnxq.channels import channel_ranges
    from onnxq.engine import EngineResult, build_engine
    from onnxq.explaining import plan
    from onnxq.planning.overrides import Override
    from onnxq.planning.plan import QuantPlan
    from onnxq.report.report import Report
    from onnxq.stripping import StripResult, strip

__version__ = VERSION

_LAZY = {
    "EngineResult": "onnxq.engine",
    "ImageOptions": "onnxq.calibration.images",
    "Override": "onnxq.planning.overrides",
    "QuantPlan": "onnxq.planning.plan",
    "QuantizeResult": "onnxq.api",
    "Report": "onnxq.report.report",
    "StatsTable": "onnxq.calibration.statistics",
    "StripResult": "onnxq.stripping",
    "build_engine": "onnxq.engine",
    "calibrate": "onnxq.api",
    "channel_ranges": "onnxq.channels",
    "load_stats": "onnxq.calibration.stats_file",
    "plan": "onnxq.explaining",
    "quantize": "onnxq.api",
    "strip": "onnxq.stripping",
    "verify": "onnxq.api",
}

__all__ = [
    "ArtifactError",
    "ConfigError",
    "DataError",
    "EngineResult",
    "GateError",
    "ImageOptions",
    "InternalError",
    "InterruptedRunError",
    "ModelError",
    "OnnxqError",
    "Override",
    "PlanError",
    "QuantPlan",
    "QuantizeResult",
    "Report",
    "StatsTable",
    "StripResult",
    "UnsupportedModelError",
    "__version__",
    "build_engine",
    "calibrate",
    "channel_ranges",
    "load_stats",
    "plan",
    "quantize",
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
