"""Accuracy on labelled data, with intervals: `python -m benches.labelled` writes benches/ACCURACY.md.

Every labelled model x {float, onnxq as it comes, onnxq at its best, the best setting of quantize_static}, for ONNX
Runtime on this CPU (int8 kernels) and for TensorRT (Q and DQ as written, onnxruntime's optimisations off). Calibration
sees the calib split alone; numbers are of the eval split. Results go to a state file as they come: a run that is cut
goes on where it stopped.
"""

from __future__ import annotations

import argparse
import functools
import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benches import machine
from benches.job import run_job, shortened
from benches.measure import Cell, Session, judge, paired
from benches.variants import STATIC, STATIC_TENSORRT
from onnxq.cli.parameters import RECOVERIES
from tests.zoo import ZooModel, available

TABLE = Path(__file__).resolve().with_name("ACCURACY.md")
STATE = Path(__file__).resolve().with_name("accuracy-state.json")
TARGETS = ("ort-cpu", "tensorrt")
SETTINGS: dict[str, dict[str, Any]] = {
    "onnxq": {},
    **({"onnxq-best": {"recover": "best"}} if "best" in RECOVERIES else {}),
}
PEERS = {"ort-cpu": STATIC, "tensorrt": STATIC_TENSORRT}
TITLES = {"onnxq": "onnxq", "onnxq-best": "onnxq, recover best"}

State = dict[str, Cell]
"""Results by "model/target/variant/calibration samples/samples", for onnxq also by commit."""


def main(arguments: list[str] | None = None) -> int:
    options = _parse(arguments)
    state: State = {}
    if options.state.is_file() and not options.fresh:
        state = json.loads(options.state.read_text(encoding="utf-8"))
    chosen = [m for m in available() if _is_labelled(m) and (options.models is None or m.name in options.models)]
    if not chosen:
        raise SystemExit("no labelled model is present")
    for model in chosen:
        for target in options.targets:
            _measure(model, target, options, state)
            options.state.write_text(json.dumps(state, indent=1), encoding="utf-8")
            options.output.write_text(document(state, chosen, options), encoding="utf-8")
            print(_row(model, target, state, options), flush=True)
    return 0


def _is_labelled(model: ZooModel) -> bool:
    """Whether each sample has one right answer; language models are judged by perplexity (`language_model`)."""
    if model.decode is None:
        return False
    labels = next(iter(model.load("eval", 1))).labels
    return labels is not None and np.ndim(labels[0]) == 0


def _variants(target: str, options: argparse.Namespace) -> list[str]:
    known = ["float", *SETTINGS, *PEERS[target]]
    return [v for v in known if v == "float" or options.settings is None or v in options.settings]


def _key(model: ZooModel, target: str, variant: str, options: argparse.Namespace) -> str:
    # Another commit may quantize in another way; the float model and the peer stay what they are.
    made_by = f"/{_commit()}" if variant in SETTINGS else ""
    return f"{model.name}/{target}/{variant}/{options.calib}/{options.samples or 'all'}{made_by}"


@functools.cache
def _commit() -> str:
    return machine.facts()["onnxq"]


def _measure(model: ZooModel, target: str, options: argparse.Namespace, state: State) -> None:
    """Make and judge what is missing in `state`; the float model is run beside it, for the comparison."""
    missing = [v for v in _variants(target, options) if _key(model, target, v, options) not in state]
    if not missing:
        return
    with tempfile.TemporaryDirectory(prefix="onnxq-bench-") as folder:
        data, output = Path(folder) / "data", Path(folder) / "out"
        data.mkdir()
        output.mkdir()
        for index, feed in enumerate(model.calib(options.calib)):
            arrays: dict[str, Any] = dict(feed)
            np.savez(data / f"{index:05d}.npz", **arrays)
        common = {"model": str(model.path()), "data": str(data), "output": str(output), "target": target}
        made = [r for v in missing if v != "float" for r in run_job(common | _job(v), options.timeout)]
        found = _judged(model, target, made, options)
    for variant in missing:
        state[_key(model, target, variant, options)] = found[variant]


def _job(variant: str) -> dict[str, Any]:
    if variant in SETTINGS:
        return {"kind": "setting", "variant": variant, "arguments": SETTINGS[variant]}
    return {"kind": "static", "variant": variant}


def _judged(
    model: ZooModel, target: str, made: Sequence[Mapping[str, Any]], options: argparse.Namespace
) -> dict[str, Cell]:
    found: dict[str, Cell] = {r["variant"]: {"error": r["error"]} for r in made if "error" in r}
    sessions = {"float": Session(str(model.path()))}
    for result in made:
        if "error" not in result:
            try:
                sessions[result["variant"]] = Session(result["file"], optimise=target != "tensorrt")
            except Exception as error:  # onnxruntime refuses the file: a result
                found[result["variant"]] = {"error": shortened(f"does not load: {error}")}
    tallies, errors = judge(model, sessions, model.load("eval", options.samples))
    seconds = {r["variant"]: r.get("seconds") for r in made}
    for name, tally in tallies.items():
        cell = {"error": errors[name]} if name in errors else paired(tallies["float"], tally)
        found[name] = cell | {"seconds": seconds.get(name)}
    return found


# ---- the page ----------------------------------------------------------------------------------------------------

_HEAD = """# Accuracy on labelled data

Written by `make bench-accuracy` (`python -m benches.labelled`). Percent right on samples that calibration never saw,
with 95 % intervals (Wilson). Behind each quantized score: the difference from float in points, paired on the same
samples, with its 95 % interval (Bonett and Price), and **worse** or **better** where McNemar's exact test shows a
difference (p < 0.05); without either word none is shown.

`ort-cpu` runs int8 kernels of onnxruntime on this machine. `tensorrt` runs the model made for TensorRT with Q and DQ as
written, onnxruntime's optimisations off. The last column is the best of the settings of `quantize_static` listed
below, picked by its result on the very samples shown, which flatters it.
"""


def document(state: State, models: Sequence[ZooModel], options: argparse.Namespace) -> str:
    """The whole page."""
    facts = {**machine.facts(), "Calibration": f"{options.calib} samples"}
    parts = [_HEAD, "\n".join(f"- {key}: {value}" for key, value in facts.items()) + "\n"]
    for target in options.targets:
        head = ["model", "metric", "samples", "float", *(TITLES[s] for s in SETTINGS), "quantize_static, best"]
        rows = [row for m in models if (row := _row(m, target, state, options))]
        lines = ["| " + " | ".join(head) + " |", "|" + " --- |" * len(head), *rows]
        parts += [f"## {target}\n", "\n".join(lines) + "\n", _summary(target, state, models, options)]
        parts.append(_details(target, state, models, options))
    return "\n".join(parts)


def _row(model: ZooModel, target: str, state: State, options: argparse.Namespace) -> str:
    cells = {v: state.get(_key(model, target, v, options), {}) for v in _variants(target, options)}
    plain = cells["float"]
    if "score" not in plain:
        return ""
    peers = {v: c for v, c in cells.items() if v in PEERS[target] and "score" in c}
    best = max(peers, key=lambda v: peers[v]["score"], default=None)
    shown = [_text(cells.get(s, {})) for s in SETTINGS]
    shown.append(
        f"{_text(peers[best])} ({best})" if best else _text(next((cells[v] for v in PEERS[target] if v in cells), {}))
    )
    interval = f"{100 * plain['low']:.1f} to {100 * plain['high']:.1f}"
    values = [model.name, model.metric, str(plain["samples"]), f"{100 * plain['score']:.2f} ({interval})", *shown]
    return "| " + " | ".join(values) + " |"


_HEAD_LINES = 2


def _summary(target: str, state: State, models: Sequence[ZooModel], options: argparse.Namespace) -> str:
    """Every quantizer in a line, over all models."""
    titles = TITLES | {v: f"quantize_{setting.title}" for v, setting in PEERS[target].items()}
    lines = [
        "| over all models | mean change | worst change | worse than float | fails |",
        "| --- | --- | --- | --- | --- |",
    ]
    for variant in [v for v in _variants(target, options) if v != "float"]:
        cells = [c for m in models if (c := state.get(_key(m, target, variant, options)))]
        changes = [100 * c["difference"] for c in cells if "score" in c]
        if changes:
            worse = sum(c.get("verdict") == "worse" for c in cells)
            values = [titles[variant], f"{np.mean(changes):+.2f}", f"{min(changes):+.2f}", f"{worse} of {len(cells)}"]
            lines.append("| " + " | ".join([*values, str(len(cells) - len(changes))]) + " |")
    return "\n".join(lines) + "\n" if len(lines) > _HEAD_LINES else ""


def _text(cell: Cell) -> str:
    if "score" not in cell:
        return "fails" if "error" in cell else ""
    gap = (
        f"{100 * cell['difference']:+.2f}, {100 * cell['difference_low']:+.2f} to {100 * cell['difference_high']:+.2f}"
    )
    verdict = "" if cell["verdict"] == "no difference shown" else f" **{cell['verdict']}**"
    return f"{100 * cell['score']:.2f} ({gap}){verdict}"


def _details(target: str, state: State, models: Sequence[ZooModel], options: argparse.Namespace) -> str:
    """Every setting of quantize_static."""
    variants = [v for v in _variants(target, options) if v in PEERS[target]]
    if not variants:
        return ""
    lines = [
        "| model | " + " | ".join(PEERS[target][v].title for v in variants) + " |",
        "|" + " --- |" * (len(variants) + 1),
    ]
    for model in models:
        cells = [state.get(_key(model, target, v, options), {}) for v in variants]
        if any(cells):
            lines.append(f"| {model.name} | " + " | ".join(_text(c) for c in cells) + " |")
    return "Every setting of `quantize_static`:\n\n" + "\n".join(lines) + "\n"


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    def names(text: str) -> list[str]:
        return [name for name in text.split(",") if name]

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", type=names, help="comma-separated names; default: every labelled model present")
    parser.add_argument("--settings", type=names, help=f"of {','.join([*SETTINGS, *STATIC, *STATIC_TENSORRT])}")
    parser.add_argument("--targets", type=names, default=list(TARGETS))
    parser.add_argument("--samples", type=int, help="samples to measure on; default: all of the eval split")
    parser.add_argument("--calib", type=int, default=128, help="calibration samples")
    parser.add_argument("--timeout", type=float, default=900.0, help="seconds a quantizer may take on one model")
    parser.add_argument("--state", type=Path, default=STATE, help="results so far, kept between runs")
    parser.add_argument("--fresh", action="store_true", help="forget the results so far")
    parser.add_argument("--output", type=Path, default=TABLE, help="Markdown to write")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    raise SystemExit(main())
