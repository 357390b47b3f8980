"""TensorRT's account of a quantized model: parsed and built for real, and run where there is a GPU.

TensorRT-RTX (`pip install 'onnxq[tensorrt]'`) parses and builds ahead of time on a machine without a GPU; where
TensorRT proper is installed that is used instead (it needs a GPU). All of it happens in a process of its own: the
library may abort on a malformed network, and must not take the caller down.
Source: https://docs.nvidia.com/deeplearning/tensorrt-rtx/latest/ (explicit quantization, optimization profiles).
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto

from onnxq.errors import ConfigError, EngineMissingError
from onnxq.files.scratch import scratch_folder
from onnxq.verification.engines.result import EngineReport
from onnxq.verification.engines.source import model_file
from onnxq.verification.engines.tensorrt_profiles import ShapeRange, shape_ranges
from onnxq.verification.engines.tensorrt_run import no_device

__all__ = ["PACKAGES", "BuildOptions", "ShapeRange", "build_engine", "installed_package", "shape_ranges"]

ENGINE = "tensorrt"
PACKAGES = ("tensorrt", "tensorrt_rtx")
"""In order of preference, where there is a GPU."""
_TIMEOUT_SECONDS = 1800.0


@dataclass(frozen=True, kw_only=True)
class BuildOptions:
    """How an engine is built.

    Attributes:
        fp16: Let TensorRT compute what is not quantized in half precision. Only versions with weakly typed networks
            (TensorRT up to 10) take it; others follow the types in the model.
        workspace_bytes: Most scratch memory that a layer may use on the GPU; None leaves it to TensorRT.
        timing_cache: File of measured kernel times, read if it is there and written after the build; TensorRT only.
    """

    fp16: bool = False
    workspace_bytes: int | None = None
    timing_cache: Path | None = None


def installed_package() -> str | None:
    """The TensorRT package that `build_engine` would use; None if there is none.

    TensorRT proper builds only where there is a GPU: without one TensorRT-RTX comes first.
    """
    found = [name for name in PACKAGES if importlib.util.find_spec(name) is not None]
    if len(found) > 1 and no_device():
        found.reverse()
    return next(iter(found), None)


def build_engine(  # noqa: PLR0913 - a model, where it lies, and what to do with the engine
    model: ModelProto | str | Path,
    shapes: Mapping[str, ShapeRange],
    *,
    options: BuildOptions | None = None,
    base_dir: Path | None = None,
    engine_path: Path | None = None,
    feeds: Sequence[Mapping[str, NDArray[Any]]] = (),
    timeout_seconds: float = _TIMEOUT_SECONDS,
) -> EngineReport:
    """Parse a model and build an engine from it, in a process of its own.

    Args:
        model: The model, or the path of its file.
        shapes: Optimization profile for the dynamic inputs, as `shape_ranges` gives it.
        options: How to build.
        base_dir: Folder of the external data that a model given as a message refers to.
        engine_path: Where to keep the engine; None throws it away.
        feeds: Batches to run the engine on, where there is a GPU.
        timeout_seconds: How long parsing, building and running may take.

    Returns:
        `accepted` tells whether the engine was built, `problems` what the parser or builder said, `size_bytes` the
        engine's size, `outputs` what it computed. TensorRT tells nothing about single nodes without a GPU.

    Raises:
        EngineMissingError: TensorRT is not installed.
        ConfigError: this TensorRT does not take one of the options, or there is no room in the temporary folder.
    """
    package = installed_package()
    if package is None:
        raise EngineMissingError(
            f"TensorRT is not installed (looked for the packages {' and '.join(PACKAGES)})",
            hint="pip install 'onnxq[tensorrt]' (from a clone: pip install '.[tensorrt]'); it builds without a GPU",
        )
    options = options or BuildOptions()
    with scratch_folder() as folder:
        request = {
            "package": package,
            "model": str(model_file(model, folder, base_dir)),
            "shapes": {k: [list(s) for s in three] for k, three in shapes.items()},
            "engine": str(engine_path) if engine_path is not None else None,
            "fp16": options.fp16,
            "workspace_bytes": options.workspace_bytes,
            "timing_cache": str(options.timing_cache) if options.timing_cache is not None else None,
            "feeds": _written(feeds, folder),
            "folder": str(folder),
        }
        answer = _ask(request, folder, timeout_seconds)
        outputs = tuple(_read(path) for path in answer.get("outputs", ()))
    if answer.get("unsupported"):
        raise _unsupported(f"{package} {answer.get('version')}")
    return EngineReport(
        engine=package,
        version=str(answer.get("version", "unknown")),
        accepted=bool(answer.get("accepted", False)),
        engine_ops=dict(answer.get("layers", {})),
        problems=tuple(str(p) for p in answer.get("problems", ())),
        size_bytes=int(answer.get("size_bytes", 0)),
        build_seconds=float(answer.get("seconds", 0.0)),
        outputs=outputs,
        run_problem=str(answer.get("run_problem", "")),
    )


def _unsupported(engine: str) -> ConfigError:
    return ConfigError(
        f"{engine} takes no fp16 flag: its networks are strongly typed, every operator runs in the types of the model",
        where="fp16=True (--fp16)",
        hint="leave fp16= (--fp16) out; half precision has to be in the model itself (docs/tensorrt.md)",
    )


def _written(feeds: Sequence[Mapping[str, NDArray[Any]]], folder: Path) -> list[dict[str, str]]:
    """Each feed as files: an input's name need not be one of a file."""
    written = []
    for number, feed in enumerate(feeds):
        paths = {name: folder / f"feed{number}_{slot}.npy" for slot, name in enumerate(feed)}
        for name, path in paths.items():
            np.save(path, feed[name], allow_pickle=False)
        written.append({name: str(path) for name, path in paths.items()})
    return written


def _read(paths: Mapping[str, str]) -> dict[str, NDArray[Any]]:
    return {name: np.load(path, allow_pickle=False) for name, path in paths.items()}


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
