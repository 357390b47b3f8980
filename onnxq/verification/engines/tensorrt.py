"""TensorRT's account of a quantized model: parsed and built for real.

TensorRT-RTX (`pip install onnxq[tensorrt]`) parses and builds ahead of time on a machine without a GPU; where TensorRT
proper is installed that is used instead (it needs a GPU). The build runs in a process of its own: the library may abort
on a malformed network, and must not take the caller down.
Source: https://docs.nvidia.com/deeplearning/tensorrt-rtx/latest/ (explicit quantization, optimization profiles).
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from onnx import ModelProto

from onnxq.errors import DataError
from onnxq.graph.view import Graph
from onnxq.verification.engines.result import EngineMissingError, EngineReport
from onnxq.verification.engines.source import model_file

ENGINE = "tensorrt"
PACKAGES = ("tensorrt", "tensorrt_rtx")
"""In order of preference."""
_TIMEOUT_SECONDS = 1800.0

ShapeRange = tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]
"""Smallest, usual and largest shape of an input."""


def installed_package() -> str | None:
    """The TensorRT package that `build_engine` would use; None if there is none."""
    return next((name for name in PACKAGES if importlib.util.find_spec(name) is not None), None)


def shape_ranges(graph: Graph, seen: Sequence[Mapping[str, tuple[int, ...]]]) -> dict[str, ShapeRange]:
    """The optimization profile that covers `seen`: smallest, most frequent and largest size of every dynamic input.

    Args:
        graph: The model.
        seen: The shapes of each batch, by input name.

    Returns:
        An entry for each input with a dimension that is not fixed.

    Raises:
        DataError: an input with dynamic dimensions is in none of the batches.
    """
    ranges: dict[str, ShapeRange] = {}
    for name in graph.inputs:
        dims = graph.shape(name) or ()
        if all(isinstance(d, int) for d in dims):
            continue
        shapes = [batch[name] for batch in seen if name in batch]
        if not shapes:
            raise DataError(
                f"it has dynamic dimensions {tuple(dims)}, and no batch tells which sizes to build for",
                where=f"input {name!r}",
                hint="pass data whose shapes are those the engine will see (data=, --data)",
            )
        low = tuple(min(sizes) for sizes in zip(*shapes, strict=True))
        high = tuple(max(sizes) for sizes in zip(*shapes, strict=True))
        usual = max(dict.fromkeys(shapes), key=shapes.count)
        ranges[name] = (low, usual, high)
    return ranges


def build_engine(
    model: ModelProto | str | Path,
    shapes: Mapping[str, ShapeRange],
    *,
    base_dir: Path | None = None,
    engine_path: Path | None = None,
    timeout_seconds: float = _TIMEOUT_SECONDS,
) -> EngineReport:
    """Parse a model and build an engine from it, in a process of its own.

    Args:
        model: The model, or the path of its file.
        shapes: Optimization profile for the dynamic inputs, as `shape_ranges` gives it.
        base_dir: Folder of the external data that a model given as a message refers to.
        engine_path: Where to keep the engine; None throws it away.
        timeout_seconds: How long parsing and building may take.

    Returns:
        `accepted` tells whether the engine was built, `problems` what the parser or builder said, `size_bytes` the
        engine's size. TensorRT tells nothing about single nodes without a GPU.

    Raises:
        EngineMissingError: TensorRT is not installed.
    """
    package = installed_package()
    if package is None:
        raise EngineMissingError(
            f"TensorRT is not installed (looked for the packages {' and '.join(PACKAGES)})",
            hint="pip install onnxq[tensorrt] (builds without a GPU), or leave the engine out of the verification",
        )
    with tempfile.TemporaryDirectory(prefix="onnxq-") as folder:
        request = {
            "package": package,
            "model": str(model_file(model, Path(folder), base_dir)),
            "shapes": {name: [list(s) for s in three] for name, three in shapes.items()},
            "engine": str(engine_path) if engine_path is not None else None,
        }
        answer = _ask(request, Path(folder), timeout_seconds)
    return EngineReport(
        engine=package,
        version=str(answer.get("version", "unknown")),
        accepted=bool(answer.get("accepted", False)),
        engine_ops=dict(answer.get("layers", {})),
        problems=tuple(str(p) for p in answer.get("problems", ())),
        size_bytes=int(answer.get("size_bytes", 0)),
        build_seconds=float(answer.get("seconds", 0.0)),
    )


def _ask(request: Mapping[str, Any], folder: Path, timeout_seconds: float) -> dict[str, Any]:
    """Run the worker on `request`; a crash or time-out of it becomes a problem in the answer."""
    question, answer = folder / "request.json", folder / "answer.json"
    question.write_text(json.dumps(request))
    command = [sys.executable, "-m", "onnxq.verification.engines.tensorrt_worker", str(question), str(answer)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    try:
        done = subprocess.run(command, capture_output=True, timeout=timeout_seconds, env=environment, check=False)
    except subprocess.TimeoutExpired:
        return {"problems": [f"TensorRT did not finish within {timeout_seconds:.0f} s"]}
    if answer.exists():
        return dict(json.loads(answer.read_text()))
    last = done.stderr.decode("utf-8", "replace").strip().splitlines()[-1:] or ["no message"]
    return {"problems": [f"TensorRT's process ended with status {done.returncode}: {last[0]}"]}
