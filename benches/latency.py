"""Latency of onnxq's graph, the float model and `quantize_static`: `python -m benches.latency`.

Batch 1 on one thread, under onnxruntime and under OpenVINO. The models of a row take turns in one process, by engine,
in random order and each with a run before the clock starts; a cell is the median over the rounds of the ratio to the
float model in the same round, of CPU time, which other work on the machine hardly disturbs. Weights of
`quantize_static` are per-channel; "all" lets it quantize every operator it knows, "Conv, MatMul" only those and Gemm.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benches import machine
from benches.job import run_job, shortened
from benches.measure import Session, one_sample
from benches.sections import RESULTS, write_section
from benches.turns import Run, in_turns
from benches.variants import LATENCY_STATIC
from tests.zoo import ZOO, Feed, ZooModel

ENGINES = {"onnxruntime": "ort-cpu", "openvino": "openvino"}
"""By engine, onnxq's target for it."""
FAILS = "fails"


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parse(arguments)
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    tables: dict[str, list[list[str]]] = {engine: [] for engine in options.engines}
    for name in options.models:
        model = ZOO[name]
        if model.path() is None:
            print(f"{name}: absent ({model.source})", file=sys.stderr)
            continue
        for engine, row in bench(model, options).items():
            tables[engine].append(row)
            print(engine, _line(row), flush=True)
    if not any(tables.values()):
        print("nothing was measured", file=sys.stderr)
        return 1
    if options.output.name != "-":
        name, title = "latency", "Latency"
        if options.target != ENGINES["onnxruntime"]:
            name, title = f"latency-{options.target}", f"Latency of {options.target}"
        write_section(options.output, name, section(title, tables, options.static))
    return 0


def bench(model: ZooModel, options: argparse.Namespace) -> dict[str, list[str]]:
    """One row for each engine."""
    with tempfile.TemporaryDirectory(prefix="onnxq-bench-") as folder:
        data = Path(folder) / "data"
        data.mkdir()
        feeds = list(model.calib(options.calib))
        for index, feed in enumerate(feeds):
            np.savez(data / f"{index:05d}.npz", **{name: np.asarray(array) for name, array in feed.items()})
        static = _static_files(model, data, options)
        rows = {}
        for engine in options.engines:
            target = options.target if engine == "onnxruntime" else ENGINES[engine]
            ours = _made(model, data, {"kind": "onnxq", "methods": ["auto"], "target": target}, options)
            files = {"float": str(model.path()), "onnxq": ours, **static}
            rows[engine] = _row(model.name, engine, files, one_sample(feeds[0]), options)
    return rows


def _static_files(model: ZooModel, data: Path, options: argparse.Namespace) -> dict[str, str | None]:
    return {name: _made(model, data, {"kind": "static", "variant": name}, options) for name in options.static}


def _made(model: ZooModel, data: Path, job: Mapping[str, Any], options: argparse.Namespace) -> str | None:
    """The file that a quantizer wrote; None where it failed, with the reason on stderr."""
    output = data.parent / f"{job['kind']}-{job.get('target', '')}"
    output.mkdir(exist_ok=True)
    whole = {"target": "", **job, "model": str(model.path()), "data": str(data), "output": str(output)}
    result = run_job(whole, options.timeout)[0]
    if "error" in result:
        print(f"{model.name}, {result['variant']}: {result['error']}", file=sys.stderr)
        return None
    return str(result["file"])


def _row(name: str, engine: str, files: Mapping[str, str | None], feed: Feed, options: argparse.Namespace) -> list[str]:
    """Milliseconds of the float model, then ratios to it."""
    runs: dict[str, Run] = {}
    for variant, file in files.items():
        try:
            if file is not None:
                run = Session(file, threads=1) if engine == "onnxruntime" else openvino_run(file)
                run(feed)
                runs[variant] = run
        except Exception as error:  # noqa: PERF203 - an engine that refuses a file is a result
            print(f"{name}, {variant}, {engine}: {shortened(str(error))}", file=sys.stderr)
    if "float" not in runs:
        return [name, FAILS, *[""] * (len(files) - 1)]
    taken = in_turns(runs, feed, rounds=options.rounds, seconds=options.seconds)
    return [name, f"{taken['float'][0]:.2f}", *(f"{taken[v][1]:.2f}" if v in taken else FAILS for v in list(files)[1:])]


def openvino_run(file: str) -> Run:
    """A model compiled by OpenVINO for one thread of the CPU; float stays float32."""
    import openvino  # noqa: PLC0415 - an extra

    settings = {"INFERENCE_NUM_THREADS": 1, "PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}
    core = openvino.Core()
    network = core.read_model(file)
    compiled = core.compile_model(network, "CPU", settings)
    request = compiled.create_infer_request()

    def run(feed: Feed) -> object:
        return request.infer({key: np.asarray(value) for key, value in feed.items()}, share_inputs=True)

    return run


def section(title: str, tables: Mapping[str, list[list[str]]], static: Sequence[str]) -> str:
    """The section of RESULTS.md."""
    facts = "\n".join(f"- {key}: {value}" for key, value in machine.facts().items())
    text = " ".join((__doc__ or "").split("\n\n", 1)[1].split())
    head = ["model", "float, ms", "**onnxq**", *(LATENCY_STATIC[name].title for name in static)]
    parts = [f"## {title}\n\nWritten by `python -m benches.latency`. {text}\n\n{facts}"]
    for engine, rows in tables.items():
        lines = [head, ["---"] * len(head), *rows, _geometric_means(rows)]
        parts.append(f"### Under {engine}\n\n" + "\n".join(_line(line) for line in lines))
    return "\n\n".join(parts)


def _geometric_means(rows: list[list[str]]) -> list[str]:
    """Over the models that every variant could run."""
    whole = [row for row in rows if FAILS not in row and "" not in row]
    if not whole:
        return ["geometric mean", *[""] * (len(rows[0]) - 1)]
    means = [f"{statistics.geometric_mean(float(row[i]) for row in whole):.2f}" for i in range(2, len(whole[0]))]
    return [f"geometric mean of {len(whole)}", "", *means]


def _line(row: Sequence[str]) -> str:
    return "| " + " | ".join(row) + " |"


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    def names(known: Mapping[str, Any]) -> Callable[[str], list[str]]:
        def parse(text: str) -> list[str]:
            chosen = [name for name in text.split(",") if name]
            unknown = [name for name in chosen if name not in known]
            if unknown:
                raise argparse.ArgumentTypeError(f"unknown: {', '.join(unknown)}; there are {', '.join(known)}")
            return chosen

        return parse

    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--models", type=names(ZOO), default=list(ZOO), help="comma-separated names; default: all")
    parser.add_argument(
        "--static",
        type=names(LATENCY_STATIC),
        default=list(LATENCY_STATIC),
        help=f"settings of quantize_static, of {','.join(LATENCY_STATIC)}; '' for none",
    )
    parser.add_argument("--engines", type=names(ENGINES), default=list(ENGINES), help=f"of {','.join(ENGINES)}")
    parser.add_argument(
        "--target", default=ENGINES["onnxruntime"], help="onnxq's target under onnxruntime; each has its own section"
    )
    parser.add_argument("--calib", type=int, default=4, help="calibration samples")
    parser.add_argument("--rounds", type=int, default=31, help="rounds, at most")
    parser.add_argument("--seconds", type=float, default=5.0, help="no further round of a race begins after so long")
    parser.add_argument("--timeout", type=float, default=120.0, help="seconds a quantizer may take on one model")
    parser.add_argument("--output", type=Path, default=RESULTS, help="Markdown whose section is replaced; - for none")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    raise SystemExit(main())
