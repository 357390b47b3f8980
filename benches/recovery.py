"""What each recovery step gains: `python -m benches.recovery`.

One calibration run for each model; then every choice of `--recovers` from the same statistics and samples. Measured on
the split asked for: choices are made on calib, eval is for the number that is reported in the end.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import onnxq
from benches.accuracy import cell, first_feeds, models_named
from benches.measure import Session, judge
from onnxq.calibration.kept import KEPT_SAMPLES
from onnxq.planning.plan import Action
from tests.zoo import Feed, ZooModel
from tests.zoo.entry import samples_in

RECOVERS = ("none", "clip", "rounding", "fast", "best", "clip+rounding+bias")


def main(arguments: list[str] | None = None) -> int:
    options = _parse(arguments)
    print("| model | metric | float | " + " | ".join(options.recovers) + " |")
    print("|" + " --- |" * (3 + len(options.recovers)))
    for model in models_named(options.models):
        cells = measured_cells(model, options)
        print(f"| {model.name} | {model.metric} | " + " | ".join(cells) + " |", flush=True)
    return 0


def measured_cells(model: ZooModel, options: argparse.Namespace) -> list[str]:
    """Float, then each choice: the metric in percent and SQNR in dB."""
    path = str(model.path())
    if not any(d.action is Action.INT8 for d in onnxq.plan(path, target=options.target).nodes):
        return ["nothing to quantize", *[""] * len(options.recovers)]
    stats = onnxq.calibrate(path, model.calib(options.calib), target=options.target)
    feeds = _samples(model, options.calib)
    with tempfile.TemporaryDirectory(prefix="onnxq-bench-") as folder:
        sessions = {"float": Session(path)}
        for recover in options.recovers:
            output = Path(folder) / f"{recover}.onnx"
            onnxq.quantize(
                path,
                feeds,
                stats=stats,
                target=options.target,
                method=options.method,
                recover=recover if "+" not in recover else recover.split("+"),
                output=output,
            )
            sessions[recover] = Session(output)
        tallies, errors = judge(model, sessions, model.load(options.split, options.samples))
    return [errors.get(name) or cell(name, tallies[name]) for name in sessions]


def _samples(model: ZooModel, limit: int) -> list[Feed]:
    """What recovery works on in a run with data: the first samples, and as many again, of which some are set aside."""
    feeds: list[Feed] = []
    for feed in first_feeds(model.load("calib", limit), limit):
        feeds.append(feed)
        if sum(map(samples_in, feeds)) >= 2 * KEPT_SAMPLES:
            break
    return feeds


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", help="comma-separated names; default: every model that is present")
    parser.add_argument("--recovers", type=lambda text: text.split(","), default=list(RECOVERS))
    parser.add_argument("--method", default="auto")
    parser.add_argument("--split", choices=("calib", "eval"), default="calib", help="what to measure on")
    parser.add_argument("--target", default="ort-cpu")
    parser.add_argument("--calib", type=int, default=64, help="calibration samples")
    parser.add_argument("--samples", type=int, default=None, help="samples to measure on; default: all of the split")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    raise SystemExit(main())
