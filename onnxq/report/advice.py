"""What to do next, in plain words and with the command that does it: the first thing a reader of a report looks for."""

from __future__ import annotations

import re
import shlex
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from onnxq.planning.modes import DYNAMIC, STATIC, WEIGHT_ONLY
from onnxq.report.run_options import command_options
from onnxq.targets import TARGETS
from onnxq.targets.schema import Engine

FEW_SAMPLES = 64
"""Below so many, another sample still moves the ranges of most models."""
POOR_DB, FAIR_DB = 10.0, 20.0
_SLOWER = 0.97

_HELP = {
    STATIC: "Careful rounding of the weights usually helps; what still hurts can stay in float.",
    DYNAMIC: "Keep in float what hurts, by name or operator; static quantization, with samples, may do better.",
    WEIGHT_ONLY: "Rounding that looks at the activations usually helps, or weights in int8.",
}
_SEARCH = {
    STATIC: "See which layers hurt, and leave as few of them in float as the accuracy needs.",
    DYNAMIC: "See which nodes hurt, and leave as few of them in float as the accuracy needs.",
    WEIGHT_ONLY: "See which weights hurt, and give as few of them 8 bits as the accuracy needs.",
}
_REMEDY = {STATIC: "--recover best", DYNAMIC: "--exclude 'NODE'", WEIGHT_ONLY: "--rounding gptq"}
_FASTER = {
    STATIC: ("Let onnxq race placements on this machine.", "--tune latency"),
    DYNAMIC: (
        "Quantizing activations as they come costs time, which small products do not win back.",
        "--exclude 'NODE'",
    ),
    WEIGHT_ONLY: (
        "Weights in few bits save memory, and time only where reading weights takes it (large models, one token at a "
        "time); --mode dynamic computes in int8 on ONNX Runtime, --mode static on every engine.",
        "",
    ),
}
"""What helps against too much noise or time, by mode: in words, and as an option."""

_EXTRAS = frozenset({Engine.TENSORRT, Engine.OPENVINO})
"""Engines that an extra of the same name brings."""


@dataclass(frozen=True, kw_only=True)
class Advice:
    """One step.

    Attributes:
        kind: "fail", "warning" or "next".
        text: What to do and why, one or two sentences.
        command: The command that does it; "" where there is none.
    """

    kind: str
    text: str
    command: str = ""


def advice_for(report: Mapping[str, Any]) -> tuple[Advice, ...]:
    """Steps in the order of their weight; there is always one.

    Args:
        report: A document of the schema onnxq.report/1.
    """
    return (*_failures(report), *_data(report), *_accuracy(report), *_speed(report), *_onward(report))


class _Names:
    """Names of files for commands, those of the run as far as it tells."""

    def __init__(self, report: Mapping[str, Any]) -> None:
        data = report.get("data") or {}
        source = str(data.get("source") or "")
        made_up = bool(data.get("synthetic") or data.get("synthetic_comparison"))
        is_path = bool(data.get("is_path"))
        self.data = shlex.quote(source) if is_path and not made_up else "SRC"
        options = str(data.get("options") or "")
        self.read_as = f" {options}" if options else ""
        self.model = shlex.quote(str(report.get("float_path") or "MODEL.onnx"))
        path = report.get("output_path") or report.get("quantized_path")
        self.output = shlex.quote(str(path or report.get("model_name") or "MODEL.int8.onnx"))
        # Without -o the model would go to a place made of the float model's name, and --force take what lies there.
        self.over = f" -o {self.output} --force" if path else ""
        self.target = str(report.get("target") or "ort-cpu")
        self.mode = _mode_of(report)
        self.in_mode = "" if self.mode == STATIC else f" --mode {self.mode}"
        data = "" if self.mode != STATIC and self.data == "SRC" else f" --data {self.data}{self.read_as}"
        self._start = f"onnxq quantize {self.model}{self.in_mode}{data} --target {self.target}"
        self._options: Mapping[str, Any] = report.get("options") or {}
        self.demands = _demands(report)
        self.searchable = self.mode == STATIC or self.data != "SRC"  # a search needs samples
        self.search = self.again(f"--search{self.demands or ' --min-sqnr 20'} --report report.html")

    def again(self, change: str) -> str:
        """The command that makes the model as this run did, but for the options of `change`."""
        return f"{self._start}{command_options(self._options, but=change)}{self.over} {change}"


def _demands(report: Mapping[str, Any]) -> str:
    """What was demanded of the outputs, as options: the gate of the SQNR, else what a search was for."""
    for check in report.get("checks") or ():
        if gate := re.fullmatch(r"SQNR at least (\S+) dB", check["name"]):
            return f" --min-sqnr {gate[1]}"
        if check["name"] == "accuracy budget":
            forms = {"max-drop": r"may fall by ([^\s;]+)", "min-sqnr": r"dB, at least ([^\s;]+)",
                     "min-cosine": r"cosine \S+, at least ([^\s;]+)"}  # fmt: skip
            found = {name: re.search(form, check["detail"]) for name, form in forms.items()}
            return "".join(f" --{name} {one[1]}" for name, one in found.items() if one)
    return ""


def _mode_of(report: Mapping[str, Any]) -> str:
    """The mode of the run: where activations have no ranges it was not "static"."""
    planned = report.get("planned") or {}
    if report.get("method") == DYNAMIC:
        return DYNAMIC
    return WEIGHT_ONLY if planned.get("weights") and not planned.get("int8") else STATIC


def _failures(report: Mapping[str, Any]) -> Iterator[Advice]:
    names = _Names(report)
    for check in report.get("checks") or ():
        if not check["passed"]:
            yield Advice(
                kind="fail", text=f"{check['name']}: {check['detail']}.", command=_way_out(check["name"], names)
            )
            if check["name"].startswith("SQNR at least") and names.searchable:
                yield Advice(kind="next", text=_SEARCH[names.mode], command=names.search)
    if not report.get("checks"):
        yield Advice(
            kind="warning",
            text="Nothing was checked: this shows what the model asks for, not what its engine makes of it. Ask it.",
            command=f"onnxq verify FLOAT.onnx {names.output} --target {names.target} --data {names.data}"
            f"{names.read_as} --report report.html",
        )


def _way_out(check: str, names: _Names) -> str:
    if check.startswith(("SQNR at least", "accuracy budget")):
        again = "--search " if check.startswith("accuracy") else ""
        return names.again(f"{again}{_REMEDY[names.mode]}{names.demands}")
    if check.startswith(("outputs are sound", "outputs follow")):
        return (
            f"onnxq sensitivity {names.model}{names.in_mode} --data {names.data}{names.read_as} "
            f"--target {names.target} --report layers.html"
        )
    target = TARGETS.get(names.target)
    if check.startswith("the engine was asked") and target is not None and target.engine in _EXTRAS:
        return f"pip install 'onnxq[{target.engine.value}]'"
    if check.startswith("int8 nodes"):
        return f"onnxq plan {names.model} --target {names.target} --decision float"
    return ""


def _data(report: Mapping[str, Any]) -> Iterator[Advice]:
    names, data = _Names(report), report.get("data") or {}
    if data.get("synthetic"):
        yield Advice(
            kind="warning",
            text="Calibrate on real data. The ranges come from made-up inputs, so nothing is known of the accuracy; a "
            "few hundred samples like those in production are enough.",
            command=names.again(f"{'' if names.mode == STATIC else '--data SRC '}--report report.html"),
        )
    elif data.get("synthetic_comparison"):
        yield Advice(
            kind="warning",
            text="Compare on real data: the errors here were measured on made-up inputs.",
            command=f"onnxq verify {names.model} {names.output} --target {names.target} --data SRC",
        )
    elif 0 < int(data.get("samples") or 0) < FEW_SAMPLES:
        yield Advice(
            kind="next",
            text=f"Give more samples if you have them: {data['samples']} were used, some hundreds settle the ranges.",
        )


def _accuracy(report: Mapping[str, Any]) -> Iterator[Advice]:
    names = _Names(report)
    known = [o for o in report.get("outputs") or () if o["sqnr_db"] is not None]
    data = report.get("data") or {}
    if not known or data.get("synthetic") or data.get("synthetic_comparison"):
        return
    worst = min(known, key=lambda o: o["sqnr_db"])
    if worst["sqnr_db"] >= FAIR_DB:
        return
    poor = worst["sqnr_db"] < POOR_DB
    found = f"output {worst['name']!r} has {worst['sqnr_db']:.1f} dB SQNR"
    if poor:
        text = f"Win accuracy back: {found}, so noise is a third of the signal or more. {_HELP[names.mode]}"
    else:
        text = (
            f"{found[0].upper()}{found[1:]}: fine for most classifiers, little for boxes and other numbers. "
            f"{_HELP[names.mode]}"
        )
    yield Advice(
        kind="warning" if poor else "next", text=text, command=names.again(f"{_REMEDY[names.mode]}{names.demands}")
    )
    told = any(c["name"].startswith("SQNR at least") and not c["passed"] for c in report.get("checks") or ())
    if not report.get("sensitivity") and names.searchable and not told:
        yield Advice(kind="next", text=_SEARCH[names.mode], command=names.search)


def _speed(report: Mapping[str, Any]) -> Iterator[Advice]:
    names, latency = _Names(report), report.get("latency")
    if latency and latency["float_ms"] < _SLOWER * latency["quantized_ms"]:
        text, option = _FASTER[names.mode]
        times = f"{latency['quantized_ms']:.3g} ms against {latency['float_ms']:.3g} ms"
        yield Advice(
            kind="warning",
            text=f"The quantized model is slower here than the float one ({times}). {text}",
            command=names.again(option) if option else "",
        )
    reasons = Counter(
        row["reason"]
        for row in report.get("layers") or ()
        if row["macs"] and row["reason"] and (row["executed"] or row["decision"]) == "float"
    )
    if reasons:
        (reason, count), total = reasons.most_common(1)[0], reasons.total()
        layers = "layer that does arithmetic stays" if total == 1 else "layers that do arithmetic stay"
        shared = "" if count == total else f" ({count} of them)"
        text = f"{total} {layers} in float: {reason}{shared}. The table of layers gives every reason."
        yield Advice(kind="next", text=text)


def _onward(report: Mapping[str, Any]) -> Iterator[Advice]:
    names = _Names(report)
    if report.get("passed") and not (report.get("data") or {}).get("synthetic") and not report.get("evaluation"):
        yield Advice(
            kind="next",
            text="Before you ship it, measure your own metric on labelled data: closeness to the float model is a "
            "hint, accuracy is the proof.",
            command=f"onnxq evaluate {names.model} {names.output} --data TEST{names.read_as} --labels LABELS",
        )
