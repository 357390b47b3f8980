"""How defaults were chosen: every method and every recovery step beside each other, `python -m benches.choices`.

Each model is calibrated on the first samples of its calibration split and measured on the others of it: choices are
made here, and the evaluation split stays for the numbers of `benches.labelled` (and, with `--split eval`, for a look at
choices once made). Writes two sections of RESULTS.md. Results go to a state file as they come: a run that is cut goes
on where it stopped.
"""

from __future__ import annotations

import argparse
import itertools
import json
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import onnxq
from benches import machine
from benches.job import shortened
from benches.measure import Cell, Session, judge, paired
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
STATE = Path(__file__).resolve().with_name("choices-state.json")

State = dict[str, Cell]
"""Results by "section/model/target/split/calibration samples/samples/column"."""


def main(arguments: list[str] | None = None) -> int:
    options = _parse(arguments)
    state: State = {}
    if options.state.is_file() and not options.fresh:
        state = json.loads(options.state.read_text(encoding="utf-8"))
    models = _models(options.models)
    for section in options.sections:
        for model in models:
            measure(model, section, options, state)
            options.state.write_text(json.dumps(state, indent=1), encoding="utf-8")
            print(_row(model, section, options, state), flush=True)
            if options.output.name != "-":
                write_section(options.output, _marker(section, options), document(section, models, options, state))
    return 0


def measure(model: ZooModel, section: str, options: argparse.Namespace, state: State) -> None:
    """Make and judge what is missing in `state`; the float model is run beside it, for the comparison."""
    missing = [name for name in CHOICES[section] if _key(model, section, name, options) not in state]
    if not missing:
        return
    feeds = list(model.calib(options.calib))
    found: State = {}
    with tempfile.TemporaryDirectory(prefix="onnxq-bench-") as folder:
        sessions = {"float": Session(str(model.path()), threads=options.threads)}
        for index, name in enumerate(missing):
            output = Path(folder) / f"{index}.onnx"
            try:
                arguments = {"target": options.target, "threads": options.threads or None} | CHOICES[section][name]
                onnxq.quantize(str(model.path()), feeds, output=output, **arguments)
            except OnnxqError as error:
                found[name] = {"error": shortened(f"{type(error).__name__}: {error}")}
            else:
                sessions[name] = Session(output, threads=options.threads, optimise=options.target != "tensorrt")
        if next(_measured_on(model, options), None) is None:
            raise SystemExit(
                f"{model.name} has no samples but the {options.calib} that it is calibrated on: "
                "choose a smaller --calib, or --split eval"
            )
        tallies, errors = judge(model, sessions, _measured_on(model, options))
    found |= {name: {"error": error} for name, error in errors.items()}
    found |= {name: paired(tallies["float"], tallies[name]) for name in tallies if name not in found}
    for name in ("float", *missing):
        state[_key(model, section, name, options)] = found[name] | {"commit": machine.facts()["onnxq"]}


def _measured_on(model: ZooModel, options: argparse.Namespace) -> Iterator[Batch]:
    """What calibration does not see: the eval split, or what is left of the calib split."""
    if options.split == "eval":
        yield from model.load("eval", options.samples)
        return
    seen = 0
    for batch in model.load("calib", options.calib + options.samples):
        seen += samples_in(batch.feed)
        if seen > options.calib:
            yield batch


def _key(model: ZooModel, section: str, column: str, options: argparse.Namespace) -> str:
    return f"{section}/{model.name}/{options.target}/{options.split}/{options.calib}/{options.samples}/{column}"


def _marker(section: str, options: argparse.Namespace) -> str:
    return section if options.target == "ort-cpu" else f"{section}-{options.target}"


def _row(model: ZooModel, section: str, options: argparse.Namespace, state: State) -> str:
    """The float score, then a cell for each choice; empty where nothing was measured."""
    plain = state.get(_key(model, section, "float", options))
    if plain is None:
        return ""
    cells = [state.get(_key(model, section, name, options), {}) for name in CHOICES[section]]
    values = [model.name, model.metric, str(plain["samples"]), f"{100 * plain['score']:.1f}", *map(_text, cells)]
    return "| " + " | ".join(values) + " |"


def _text(cell: Cell) -> str:
    if "score" not in cell:
        return str(cell.get("error", ""))
    sqnr = "exact" if cell["sqnr_db"] is None else f"{cell['sqnr_db']:.1f} dB"
    reach = 50 * (cell["difference_high"] - cell["difference_low"])
    verdict = "" if cell["verdict"] == "no difference shown" else f" **{cell['verdict']}**"
    return f"{sqnr}, {100 * cell['difference']:+.1f} ±{reach:.1f}{verdict}"


def document(section: str, models: list[ZooModel], options: argparse.Namespace, state: State) -> str:
    """The section as Markdown."""
    head = ["model", "metric", "samples", "float", *CHOICES[section]]
    rows = [row for model in models if (row := _row(model, section, options, state))]
    keys = [_key(model, section, name, options) for model, name in itertools.product(models, CHOICES[section])]
    commits = sorted({str(state[key]["commit"]) for key in keys if key in state})
    facts = {
        **machine.facts(),
        "onnxq": ", ".join(commits),
        "Calibration": f"{options.calib} samples",
        "Target": options.target,
    }
    where = "that were not calibrated on" if options.split == "calib" else "(choices were made on the other split)"
    command = f"python -m benches.choices --sections {section} --target {options.target} --split {options.split}"
    command += f" --calib {options.calib} --samples {options.samples}"
    title = TITLES[section] + ("" if options.target == "ort-cpu" else f", {options.target}")
    return "\n".join(
        [
            f"## {title}\n",
            f"Written by `{command}`; do not edit. The metric of the float model in percent;",
            "then the SQNR of the worst output, and the difference from float in points, paired on the same",
            f"samples, with half of its 95 % interval, on samples of the *{options.split}* split {where}.",
            "**worse** or **better** stands where a paired test shows a difference (p < 0.05).\n",
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
    parser.add_argument("--split", choices=("calib", "eval"), default="calib", help="where they come from")
    parser.add_argument("--threads", type=int, default=0, help="threads of a session; 0: as many as cores")
    parser.add_argument("--state", type=Path, default=STATE, help="results so far, kept between runs")
    parser.add_argument("--fresh", action="store_true", help="forget the results so far")
    parser.add_argument("--output", type=Path, default=RESULTS, help="Markdown whose sections are replaced; - for none")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    raise SystemExit(main())
