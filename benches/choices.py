"""How defaults were chosen: every method and every recovery step beside each other, `python -m benches.choices`.

Each model is calibrated on the first samples of its calibration split and measured on the others of it: choices are
made here, and the evaluation split stays for the numbers of `benches.labelled`. Writes two sections of RESULTS.md.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import onnxq
from benches import machine
from benches.job import shortened
from benches.measure import Session, Tally, judge
from benches.sections import RESULTS, write_section
from onnxq.errors import OnnxqError
from onnxq.recovery.registry import BUNDLES, STEPS
from tests.zoo import ZOO, Batch, ZooModel, available
from tests.zoo.entry import samples_in

Arguments = Mapping[str, Any]

CHOICES: dict[str, dict[str, Arguments]] = {
    "methods": {name: {"method": name} for name in ("auto", "max", "mse", "percentile", "entropy")},
    "recovery": {
        "none": {"recover": "none"},
        **{step.name: {"recover": (step.name,)} for step in STEPS},
        **{f"{name} ({', '.join(BUNDLES[name])})": {"recover": name} for name in ("best",)},
    },
}
"""By section, what is measured: columns, and arguments of `quantize`."""

TITLES = {"methods": "Methods", "recovery": "Recovery steps, each alone"}


def main(arguments: list[str] | None = None) -> int:
    options = _parse(arguments)
    for section in options.sections:
        rows = []
        for model in _models(options.models):
            rows.append(f"| {model.name} | {model.metric} | " + " | ".join(measured(model, section, options)) + " |")
            print(rows[-1], flush=True)
            if options.output.name != "-":
                write_section(options.output, section, document(section, rows, options))
    return 0


def measured(model: ZooModel, section: str, options: argparse.Namespace) -> list[str]:
    """How many samples were measured, the float score, then a cell for each choice."""
    variants = CHOICES[section]
    feeds = list(model.calib(options.calib))
    with tempfile.TemporaryDirectory(prefix="onnxq-bench-") as folder:
        sessions, failed = {"float": Session(str(model.path()))}, {}
        for index, (name, arguments) in enumerate(variants.items()):
            output = Path(folder) / f"{index}.onnx"
            try:
                onnxq.quantize(str(model.path()), feeds, target=options.target, output=output, **arguments)
            except OnnxqError as error:
                failed[name] = shortened(f"{type(error).__name__}: {error}")
            else:
                sessions[name] = Session(output, optimise=options.target != "tensorrt")
        tallies, errors = judge(model, sessions, _others(model, options))
    float_score = tallies["float"].score
    shown = {name: errors.get(name) or _cell(tally) for name, tally in tallies.items()} | failed
    plain = "" if float_score is None else f"{100 * float_score:.1f}"
    return [str(len(tallies["float"].right)), plain, *(shown[name] for name in variants)]


def _others(model: ZooModel, options: argparse.Namespace) -> Iterator[Batch]:
    """What calibration does not see, of the same split."""
    seen = 0
    for batch in model.load("calib", options.calib + options.samples):
        seen += samples_in(batch.feed)
        if seen > options.calib:
            yield batch


def _cell(tally: Tally) -> str:
    return f"{tally.sqnr_db:.1f} dB" + ("" if tally.score is None else f", {100 * tally.score:.1f}")


def document(section: str, rows: list[str], options: argparse.Namespace) -> str:
    """The section as Markdown."""
    head = ["model", "metric", "samples", "float", *CHOICES[section]]
    facts = {**machine.facts(), "Calibration": f"{options.calib} samples", "Target": options.target}
    return "\n".join(
        [
            f"## {TITLES[section]}\n",
            f"Written by `python -m benches.choices --sections {section}`; do not edit. SQNR of the worst output, and",
            "the metric in percent, on samples of the *calibration* split that were not calibrated on.\n",
            *(f"- {key}: {value}" for key, value in facts.items()),
            "",
            "| " + " | ".join(head) + " |",
            "|" + " --- |" * len(head),
            *rows,
        ]
    )


def _models(names: list[str] | None) -> list[ZooModel]:
    present = {model.name: model for model in available() if model.decode is not None}
    if missing := [name for name in names or [] if name not in present]:
        raise SystemExit(f"absent: {', '.join(missing)}; the zoo has {', '.join(ZOO)}")
    return [model for name, model in present.items() if names is None or name in names]


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sections", type=lambda text: text.split(","), default=list(CHOICES))
    parser.add_argument("--models", type=lambda text: text.split(","), help="default: all present that have a metric")
    parser.add_argument("--target", default="ort-cpu")
    parser.add_argument("--calib", type=int, default=32, help="calibration samples")
    parser.add_argument("--samples", type=int, default=128, help="samples to measure on, at most")
    parser.add_argument("--output", type=Path, default=RESULTS, help="Markdown whose sections are replaced; - for none")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    raise SystemExit(main())
