"""One measured job in a process of its own, so that its peak memory is its own.

`python -m benches.job` reads the job as JSON from standard input and writes a file of results. Every job gets its
calibration data in the same way: one .npz per batch on disk, read one at a time.
"""

from __future__ import annotations

import json
import os
import re
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray
from onnx import version_converter

from benches.variants import LATENCY_STATIC, STATIC, STATIC_TENSORRT

ROOT = Path(__file__).resolve().parents[1]
MIN_PEER_OPSET = 13
PEER_OPSET = 17
ERROR_CHARACTERS = 160

Feed = dict[str, NDArray[Any]]
Job = dict[str, Any]


def run_job(job: Job, timeout_s: float) -> list[dict[str, Any]]:
    """Run one job in a new process.

    Args:
        job: `kind` (float, onnxq, static), `model`, `data` (folder of batches), `output` (folder), and what its
            kind needs.
        timeout_s: After so many seconds the process is ended.

    Returns:
        One result for each variant that the job makes; a failed one has `error`.
    """
    results = Path(job["output"]) / "results.json"
    results.unlink(missing_ok=True)
    command = [sys.executable, "-m", "benches.job", str(results)]
    try:
        done = subprocess.run(
            command, input=json.dumps(job), text=True, capture_output=True, cwd=ROOT, timeout=timeout_s, check=False
        )
    except subprocess.TimeoutExpired:
        return _failed(job, f"over {timeout_s:.0f} s")
    if results.is_file():
        return list(json.loads(results.read_text(encoding="utf-8")))
    return _failed(job, f"exit code {done.returncode}: " + (done.stderr.strip().splitlines() or [""])[-1])


def variants_of(job: Job) -> list[str]:
    """Names of the variants that a job makes."""
    if job["kind"] == "onnxq":
        return [f"onnxq-{method}" for method in job["methods"]]
    return [str(job.get("variant", job["kind"]))]


def _failed(job: Job, error: str) -> list[dict[str, Any]]:
    return [{"variant": name, "error": shortened(error)} for name in variants_of(job)]


def shortened(error: str) -> str:
    """An error for a table cell: one line, the paths of temporary files left out."""
    line = " ".join(re.sub(r"(/[\w.+-]+){2,}", "FILE", error).split())
    return line if len(line) <= ERROR_CHARACTERS else line[: ERROR_CHARACTERS - 4] + " ..."


def batches(folder: Path) -> Iterator[Feed]:
    """The calibration batches, one in memory at a time."""
    for file in sorted(folder.glob("*.npz")):
        with np.load(file) as arrays:
            yield {name: arrays[name] for name in arrays.files}


def peak_memory_mb() -> float:
    """Largest resident size of this process so far, MB.

    VmHWM where there is one: Linux's ru_maxrss survives exec, so it would count the parent's memory as well.
    """
    status = Path("/proc/self/status")
    found = re.search(r"VmHWM:\s+(\d+) kB", status.read_text(encoding="ascii")) if status.is_file() else None
    if found:
        return int(found[1]) / 1e3
    unit = 1e6 if sys.platform == "darwin" else 1e3
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


# ---- the kinds of jobs -------------------------------------------------------------------------------------------


def float_pass(job: Job) -> list[dict[str, Any]]:
    """The yardstick: load the model, run the calibration batches, keep nothing."""
    started = time.perf_counter()
    session = ort.InferenceSession(job["model"], _quiet(), providers=["CPUExecutionProvider"])
    for feed in batches(Path(job["data"])):
        session.run(None, feed)
    seconds = time.perf_counter() - started
    size = os.path.getsize(job["model"])  # noqa: PTH202 - a str from JSON
    return [{"variant": "float", "seconds": seconds, "peak_mb": peak_memory_mb(), "size": size, "file": job["model"]}]


def onnxq_methods(job: Job) -> list[dict[str, Any]]:
    """onnxq: one calibration, then each method from its statistics.

    `seconds` is calibration, ranges and rewriting, what `quantize_static` does too; the proof on the engine that
    `quantize` adds is `verify_seconds`. The peak is of everything, the proof included.
    """
    import onnxq  # noqa: PLC0415 - the peers' jobs must not load it, nor this one the peers

    calibrate, quantize = onnxq.calibrate, onnxq.quantize  # loads them: the peers' imports are not timed either
    started = time.perf_counter()
    stats = calibrate(job["model"], batches(Path(job["data"])), target=job["target"])
    calibration_seconds, calibration_peak = time.perf_counter() - started, peak_memory_mb()
    proof = [feed for _, feed in zip(range(2), batches(Path(job["data"])), strict=False)]
    results = []
    for method in job["methods"]:
        entry: dict[str, Any] = {"variant": f"onnxq-{method}"}
        output = Path(job["output"]) / f"onnxq-{method}.onnx"
        try:
            made = quantize(
                job["model"], proof, stats=stats, target=job["target"], method=method, output=output, force=True
            )
        except Exception as error:  # whatever it is, the table shows it
            results.append(entry | {"error": _one_line(error)})
            continue
        spent = dict(made.report.seconds)
        own = sum(spent.get(step, 0.0) for step in ("plan", "calibrate", "rewrite"))
        entry |= {"seconds": calibration_seconds + own, "verify_seconds": sum(spent.values()) - own}
        entry |= {"peak_mb": peak_memory_mb(), "calibration_peak_mb": calibration_peak}
        results.append(entry | _file(output))
    return results


def onnxq_setting(job: Job) -> list[dict[str, Any]]:
    """onnxq as a user calls it: one `quantize`, with the keyword arguments in the job's `arguments`."""
    import onnxq  # noqa: PLC0415 - see above

    output = Path(job["output"]) / f"{job['variant']}.onnx"
    started = time.perf_counter()
    onnxq.quantize(
        job["model"], batches(Path(job["data"])), target=job["target"], output=output, force=True, **job["arguments"]
    )
    return [{"variant": job["variant"], "seconds": time.perf_counter() - started} | _file(output)]


def quantize_static(job: Job) -> list[dict[str, Any]]:
    """onnxruntime's quantizer, prepared as its documentation asks: pre-processed, and at opset 13 or newer."""
    from onnxruntime import quantization as oq  # noqa: PLC0415 - see above
    from onnxruntime.quantization.shape_inference import quant_pre_process  # noqa: PLC0415

    class Reader(oq.CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self._feeds = batches(Path(job["data"]))

        def get_next(self) -> Feed | None:
            return next(self._feeds, None)

    variant = {**STATIC, **STATIC_TENSORRT, **LATENCY_STATIC}[job["variant"]]
    enums = {"activation_type": oq.QuantType, "weight_type": oq.QuantType, "calibrate_method": oq.CalibrationMethod}
    arguments = {k: enums[k][v] if k in enums else v for k, v in variant.arguments.items()}
    output = Path(job["output"]) / f"{job['variant']}.onnx"
    prepared = output.with_suffix(".prepared.onnx")
    started = time.perf_counter()
    try:
        quant_pre_process(_upgraded(Path(job["model"]), output), str(prepared), skip_symbolic_shape=True)
        oq.quantize_static(str(prepared), str(output), Reader(), **arguments)
    except Exception as error:  # a peer's failure is a result
        return [{"variant": job["variant"], "error": _one_line(error)}]
    seconds = time.perf_counter() - started
    return [{"variant": job["variant"], "seconds": seconds, "peak_mb": peak_memory_mb()} | _file(output)]


def _upgraded(model: Path, output: Path) -> str:
    """The model's path, or that of a copy at a newer opset where per-channel Q/DQ did not exist yet."""
    loaded = onnx.load(str(model))
    if max(o.version for o in loaded.opset_import if o.domain in ("", "ai.onnx")) >= MIN_PEER_OPSET:
        return str(model)
    path = output.with_suffix(".upgraded.onnx")
    onnx.save(version_converter.convert_version(loaded, PEER_OPSET), str(path))
    return str(path)


KINDS = {"float": float_pass, "onnxq": onnxq_methods, "setting": onnxq_setting, "static": quantize_static}


def _file(path: Path) -> dict[str, Any]:
    return {"file": str(path), "size": path.stat().st_size}


def _quiet() -> ort.SessionOptions:
    options = ort.SessionOptions()
    options.log_severity_level = 4
    return options


def _one_line(error: Exception) -> str:
    return shortened(f"{type(error).__name__}: {error}")


def main() -> None:
    job: Job = json.loads(sys.stdin.read())
    try:
        results = KINDS[job["kind"]](job)
    except Exception as error:  # the parent shows it beside the others
        results = _failed(job, _one_line(error))
    Path(sys.argv[1]).write_text(json.dumps(results), encoding="utf-8")


if __name__ == "__main__":
    main()
