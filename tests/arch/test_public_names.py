"""The public face: its names, and what importing it costs."""

from __future__ import annotations

import subprocess
import sys
import types

import pytest

import onnxq

PUBLIC = {
    "ArtifactError", "ConfigError", "Data", "DataError", "EngineMissingError", "EngineResult", "Evaluation",
    "GateError", "ImageOptions", "InternalError", "InterruptedRunError", "ModelError", "OnnxqError", "Override",
    "PlanError", "Preview", "QuantPlan", "QuantizeResult", "Report", "SearchResult", "Sensitivity", "StatsTable",
    "StripResult", "UnsupportedModelError", "__version__", "build_engine", "calibrate", "channel_ranges",
    "evaluate", "load_stats", "plan", "preview", "quantize", "register_custom_ops", "sensitivity", "strip", "verify",
}  # fmt: skip
HEAVY = ("numpy", "onnx", "onnxruntime", "onnx_graphsurgeon", "rich", "click")


def python(program: str) -> str:
    return subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60
    ).stdout


def test_public_names_are_these_and_no_others() -> None:
    assert set(onnxq.__all__) == PUBLIC
    assert set(dir(onnxq)) == PUBLIC


@pytest.mark.parametrize("name", sorted(PUBLIC))
def test_every_public_name_is_there(name: str) -> None:
    assert getattr(onnxq, name) is not None


def test_unknown_names_are_refused() -> None:
    with pytest.raises(AttributeError, match="module 'onnxq' has no attribute 'quantise'"):
        _ = onnxq.quantise


@pytest.mark.parametrize("module", ["onnxq", "onnxq.cli.main"])
def test_importing_costs_next_to_nothing(module: str) -> None:
    loaded = python(f"import sys, {module}; print(*[m for m in {HEAVY!r} if m in sys.modules])").split()
    assert loaded == (["click"] if module == "onnxq.cli.main" else [])


@pytest.mark.parametrize("name", sorted(name for name in PUBLIC if name.islower() and not name.startswith("_")))
def test_functions_stay_functions_whatever_was_used_before(name: str) -> None:
    """A submodule of the same name would take the function's place as soon as something imports it."""
    used = "; ".join(f"onnxq.{other}" for other in sorted(PUBLIC))
    kind = python(f"import onnxq; {used}; print(type(onnxq.{name}).__name__)").strip()
    assert kind == types.FunctionType.__name__
