"""onnxq's methods against each other: `python -m benches.accuracy`.

Calibrates on the calib split and measures on `--split`. Choices (a default method, a constant) are made on the calib
split; the eval split is for the number that is reported in the end.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator
from pathlib import Path

import onnxq
from benches.measure import Session, Tally, judge
from benches.variants import ONNXQ_METHODS
from onnxq.planning.plan import Action
from tests.zoo import ZOO, Batch, Feed, ZooModel, available


def main(arguments: list[str] | None = None) -> int:
    options = _parse(arguments)
    print("| model | metric | float | " + " | ".join(options.methods) + " |")
    print("|" + " --- |" * (3 + len(options.methods)))
    for model in models_named(options.models):
        cells = measured_cells(model, options)
        print(f"| {model.name} | {model.metric} | " + " | ".join(cells) + " |", flush=True)
    return 0


def measured_cells(model: ZooModel, options: argparse.Namespace) -> list[str]:
    """Float, then each method: the metric in percent and SQNR in dB."""
    path = str(model.path())
    if not any(d.action is Action.INT8 for d in onnxq.plan(path, target=options.target).nodes):
        return ["nothing to quantize", *[""] * len(options.methods)]
    stats = onnxq.calibrate(path, model.calib(options.calib), target=options.target)
    proof = list(first_feeds(model.load("calib", options.calib), 1))
    with tempfile.TemporaryDirectory(prefix="onnxq-bench-") as folder:
        sessions = {"float": Session(path)}
        for method in options.methods:
            output = Path(folder) / f"{method}.onnx"
            onnxq.quantize(path, proof, stats=stats, target=options.target, method=method, output=output)
            sessions[method] = Session(output)
        tallies, errors = judge(model, sessions, model.load(options.split, options.samples))
    return [errors.get(name) or cell(name, tallies[name]) for name in sessions]


def first_feeds(batches: Iterator[Batch], count: int) -> Iterator[Feed]:
    for _, batch in zip(range(count), batches, strict=False):
        yield batch.feed


def cell(name: str, tally: Tally) -> str:
    score = "" if tally.score is None else f"{100 * tally.score:.2f}"
    return score if name == "float" else f"{score} ({tally.sqnr_db:.1f} dB)".strip()


def models_named(names: str | None) -> list[ZooModel]:
    present = {model.name: model for model in available()}
    if names is None:
        return list(present.values())
    missing = [name for name in names.split(",") if name not in present]
    if missing:
        raise SystemExit(f"absent: {', '.join(missing)}; the zoo has {', '.join(ZOO)}")
    return [present[name] for name in names.split(",")]


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", help="comma-separated names; default: every model that is present")
    parser.add_argument("--methods", type=lambda text: text.split(","), default=list(ONNXQ_METHODS))
    parser.add_argument("--split", choices=("calib", "eval"), default="calib", help="what to measure on")
    parser.add_argument("--target", default="ort-cpu")
    parser.add_argument("--calib", type=int, default=64, help="calibration samples")
    parser.add_argument("--samples", type=int, default=None, help="samples to measure on; default: all of the split")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    raise SystemExit(main())
