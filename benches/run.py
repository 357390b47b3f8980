"""onnxq and onnxruntime's `quantize_static`, side by side on real models: `python -m benches.run --help`."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from benches import machine, tables
from benches.job import run_job, shortened
from benches.measure import LATENCY_SECONDS, Session, judge, one_sample
from benches.sections import RESULTS, write_section
from benches.turns import in_turns
from benches.variants import ONNXQ_METHODS, STATIC
from tests.zoo import ZOO, ZooModel
from tests.zoo.entry import samples_in

QUICK_MODELS = (
    "digits_resnet",
    "wordlang_transformer",
    "ppocrv4_det",
    "ppocr_cls",
    "yolov8n_320",
    "mobilenetv1_0.75_224",
    "kwt1_speech_commands",
)
SLOW_STATIC = ("ort-u8s8-percentile",)
QUICK = {"calib": 16, "samples": 64, "rounds": 9, "timeout": 60.0}
FULL = {"calib": 64, "samples": 512, "rounds": 31, "timeout": 600.0}


def main(arguments: list[str] | None = None) -> int:
    options = _parse(arguments)
    scale = QUICK if options.quick else FULL
    chosen = _models(options)
    measured = []
    for model in chosen:
        started = time.perf_counter()
        measured.append(bench(model, options, {k: getattr(options, k) or v for k, v in scale.items()}))
        print(tables.model_section(measured[-1]), f"\n({time.perf_counter() - started:.0f} s)\n", flush=True)
    if options.json:
        options.json.write_text(json.dumps(measured, indent=1), encoding="utf-8")
    command = " ".join(["python -m benches.run", *(sys.argv[1:] if arguments is None else arguments)])
    if measured and options.output:
        write_section(options.output, "comparison", tables.document(machine.facts(), measured, command))
    return 0 if measured else 1


def bench(model: ZooModel, options: argparse.Namespace, scale: dict[str, Any]) -> dict[str, Any]:
    """Measure every variant of one model.

    Args:
        model: A model that is present.
        options: The command line: which methods and settings, and the target.
        scale: `calib` and `samples` to use, `rounds` of latency, `timeout` of a job in seconds.

    Returns:
        The facts that `tables.model_section` shows.
    """
    with tempfile.TemporaryDirectory(prefix="onnxq-bench-") as folder:
        data, output = Path(folder) / "data", Path(folder) / "out"
        data.mkdir()
        output.mkdir()
        calib_samples = _write_batches(model, data, scale["calib"])
        job = {"model": str(model.path()), "data": str(data), "output": str(output), "target": options.target}
        jobs: list[dict[str, Any]] = [{"kind": "float"}]
        jobs += [{"kind": "onnxq", "methods": options.methods}] if options.methods else []
        jobs += [{"kind": "static", "variant": variant} for variant in options.static]
        results = [r for j in jobs for r in run_job(job | j, scale["timeout"])]
        eval_samples = _measure(model, results, scale)
    return {
        "name": model.name,
        "source": model.source,
        "metric": model.metric,
        "opaque": model.opaque,
        "calib_samples": calib_samples,
        "eval_samples": eval_samples,
        "results": results,
    }


def _write_batches(model: ZooModel, folder: Path, limit: int) -> int:
    count = 0
    for index, feed in enumerate(model.calib(limit)):
        arrays: dict[str, Any] = dict(feed)
        np.savez(folder / f"{index:05d}.npz", **arrays)
        count += samples_in(feed)
    return count


def _measure(model: ZooModel, results: list[dict[str, Any]], scale: dict[str, Any]) -> int:
    """Add score, SQNR, kernels and latency to the results; returns the number of samples."""
    sessions: dict[str, Session] = {}
    files: dict[str, str] = {}
    for result in results:
        if "error" in result:
            continue
        try:
            sessions[result["variant"]] = Session(result["file"])
            files[result["variant"]] = result["file"]
        except Exception as error:  # onnxruntime refuses the file: a result
            result["error"] = shortened(f"does not load: {error}")
    batches = list(model.load("eval", scale["samples"]))
    tallies, errors = judge(model, sessions, batches)
    running = {name: session for name, session in sessions.items() if name not in errors}
    alone = {name: Session(files[name], threads=1) for name in running}
    latency = in_turns(alone, one_sample(batches[0].feed), rounds=scale["rounds"], seconds=LATENCY_SECONDS)
    for result in results:
        name = result["variant"]
        if name in errors:
            result["error"] = errors[name]
        elif name in running:
            result["score"], result["sqnr_db"] = tallies[name].score, tallies[name].sqnr_db
            result["int8"], result["float"] = running[name].int8, running[name].float
            result["latency_ms"], result["latency_ratio"] = latency[name]
    return sum(samples_in(batch.feed) for batch in batches)


def _models(options: argparse.Namespace) -> list[ZooModel]:
    names = options.models or (QUICK_MODELS if options.quick else tuple(ZOO))
    unknown = [name for name in names if name not in ZOO and options.models]
    if unknown:
        raise SystemExit(f"no such model: {', '.join(unknown)}; there are {', '.join(ZOO)}")
    known = [ZOO[name] for name in names if name in ZOO]
    for model in known:
        if model.path() is None:
            print(f"{model.name}: absent ({model.source})", file=sys.stderr)
    return [model for model in known if model.path() is not None]


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    def names(text: str) -> list[str]:
        return [name for name in text.split(",") if name]

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", type=names, help="comma-separated names; default: every model that is present")
    parser.add_argument("--methods", type=names, help=f"onnxq's methods, of {','.join(ONNXQ_METHODS)}; '' for none")
    parser.add_argument("--static", type=names, help=f"settings of quantize_static, of {','.join(STATIC)}; '' for none")
    parser.add_argument("--target", default="ort-cpu", help="onnxq's target (default: ort-cpu)")
    parser.add_argument("--quick", action="store_true", help="few models and samples: minutes on two cores")
    parser.add_argument("--calib", type=int, help="calibration samples")
    parser.add_argument("--samples", type=int, help="samples to measure on")
    parser.add_argument("--rounds", type=int, help="rounds of latency")
    parser.add_argument("--timeout", type=float, help="seconds a quantizer may take on one model")
    parser.add_argument("--output", type=Path, default=RESULTS, help="Markdown whose section is replaced")
    parser.add_argument("--json", type=Path, help="raw numbers to write")
    options = parser.parse_args(arguments)
    if options.methods is None:
        options.methods = ["auto", "max"] if options.quick else ["auto", "max", "entropy"]
    if options.static is None:
        options.static = [name for name in STATIC if not (options.quick and name in SLOW_STATIC)]
    return options


if __name__ == "__main__":
    raise SystemExit(main())
