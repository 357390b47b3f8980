"""The top of a report: the verdict in a sentence, the numbers that matter, and what to do next. Static HTML."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from html import escape
from typing import Any

from onnxq.report.advice import Advice, advice_for
from onnxq.report.wording import document_codes
from onnxq.wording.plural import counted
from onnxq.wording.sizes import size_text

_SIGNS = {"fail": "✕", "warning": "!", "next": "→", "pass": "✓", "info": "i"}
_KINDS = ("int8", "fused", "weights", "float")
_QUALITY = ((30.0, "excellent: hard to tell from float"), (20.0, "good"), (10.0, "fair"), (-1e9, "poor"))


def verdict(report: Mapping[str, Any]) -> str:
    """The banner."""
    kind, title = verdict_of(report)
    mark = {"pass": "✓", "fail": "✕", "unsure": "?"}[kind]
    sentences = " ".join(_sentences(report))
    return (
        f'<section class="verdict {kind}" aria-label="Verdict"><div class="mark" aria-hidden="true">{mark}</div>'
        f"<div><h1>{escape(title)}</h1><p>{escape(sentences)}</p></div></section>"
    )


def verdict_of(report: Mapping[str, Any]) -> tuple[str, str]:
    """Whether it is "pass", "fail" or "unsure", and the verdict in a few words."""
    checks = report.get("checks") or ()
    failed = sum(not c["passed"] for c in checks)
    target = report["target"]
    if not checks:
        return "unsure", f"Not passed: nothing was checked for {target}"
    if failed:
        return "fail", f"Failed: {failed} of {counted(len(checks), 'check')} for {target}"
    if report.get("engine") is None:
        return "unsure", f"Passed: {counted(len(checks), 'check')} for {target}, without asking its engine"
    if _made_up(report):
        return "unsure", f"Passed: {counted(len(checks), 'check')} for {target}, but on made-up data"
    return "pass", f"Passed: {counted(len(checks), 'check')} for {target}"


def _made_up(report: Mapping[str, Any]) -> bool:
    """Whether the models were compared on made-up inputs."""
    data = report.get("data") or {}
    return bool(data.get("synthetic") or data.get("synthetic_comparison"))


def _sentences(report: Mapping[str, Any]) -> Iterator[str]:
    counts, engine = report.get("proven"), report.get("engine")
    if counts and engine:
        inside, weights = counts["int8"] + counts["fused"], counts.get("weights", 0)
        total = inside + weights + counts["float"]
        codes, stored = document_codes(report)
        what = f"in {codes} or fused into such" if inside or not weights else f"with {stored} weights"
        more = f", {weights} with {stored} weights" if inside and weights else ""
        yield f"{engine['name']} {engine['version']} runs {inside or weights} of {counted(total, 'node')} {what}{more}."
    elif engine:
        built = f" and built an engine of {size_text(engine['size_bytes'])}" if engine["size_bytes"] else ""
        verb = "accepted" if engine["accepted"] else "refused"
        yield f"{engine['name']} {engine['version']} {verb} the model{built}."
    if (worst := worst_sqnr(report)) is not None:
        said = "on made-up inputs, which tell little" if _made_up(report) else quality(worst)
        yield f"The outputs are within {worst:.1f} dB SQNR of the float model's ({said})."
    elif exact_outputs(report):
        yield "The outputs are equal to the float model's."
    latency = report.get("latency")
    if latency:
        times = f"One run takes {latency['quantized_ms']:.3g} ms, the float model {latency['float_ms']:.3g} ms"
        yield f"{times} ({latency['engine']})."


def worst_sqnr(report: Mapping[str, Any]) -> float | None:
    """Smallest SQNR of the float outputs in dB."""
    return min((o["sqnr_db"] for o in report.get("outputs") or () if o["sqnr_db"] is not None), default=None)


def exact_outputs(report: Mapping[str, Any]) -> bool:
    """Whether there are outputs, and all are equal to the float model's."""
    outputs = report.get("outputs") or ()
    return bool(outputs) and all(o.get("exact") for o in outputs)


def quality(sqnr_db: float) -> str:
    """An SQNR in words."""
    return next(text for least, text in _QUALITY if sqnr_db >= least)


def cards(report: Mapping[str, Any]) -> str:
    """The numbers that matter, one card each."""
    found = [_share_card(report)]
    if report.get("checks"):  # of a model alone neither is known
        found = [_accuracy_card(report), _size_card(report), _latency_card(report), *found, _data_card(report)]
    return f'<div class="cards">{"".join(found)}</div>'


def _card(label: str, value: str, sub: str = "", meter: str = "") -> str:
    return (
        f'<div class="card"><div class="label">{escape(label)}</div><div class="value">{value}</div>{meter}'
        f'<div class="sub">{escape(sub)}</div></div>'
    )


def _accuracy_card(report: Mapping[str, Any]) -> str:
    evaluation = report.get("evaluation")
    if evaluation and len(evaluation["models"]) > 1:
        before, after = evaluation["models"][:2]
        text = _score(before["score"], evaluation["unit"]), _score(after["score"], evaluation["unit"])
        verdicts = [c["verdict"] for c in evaluation["comparisons"][:1]]
        judged = f"{evaluation['metric']} on {counted(evaluation['samples'], 'sample')}"
        sub = ", ".join([judged, *verdicts])  # a metric that compares with the float model has no verdict
        return _card("accuracy, float to quantized", f"{escape(text[0])} → {escape(text[1])}", sub)
    worst = worst_sqnr(report)
    if worst is None:
        value = "exact" if exact_outputs(report) else "not measured"
        return _card("closeness to float", value)
    cosine = min((o["cosine"] for o in report["outputs"] if o["cosine"] is not None), default=None)
    sub = ("on made-up inputs" if _made_up(report) else quality(worst)) + (
        f", cosine {cosine:.5f}" if cosine is not None else ""
    )
    return _card("closeness to float", f"{worst:.1f} <small>dB SQNR</small>", sub)


def _score(value: float | None, unit: str) -> str:
    if value is None:
        return "exact"
    return f"{100 * value:.2f} %" if unit == "%" else f"{value:.2f} {unit}".strip()


def _size_card(report: Mapping[str, Any]) -> str:
    before, after = report.get("size_before_bytes") or 0, report.get("size_after_bytes") or 0
    if not before or not after:
        return _card("size", "not known")
    share = min(100.0, 100.0 * after / before)
    meter = f'<div class="meter"><span class="bg-accent" style="width:{share:.1f}%"></span></div>'
    value = f"{before / after:.1f}&times; <small>smaller</small>" if before > after else escape(size_text(after))
    return _card("size", value, f"{size_text(before)} to {size_text(after)}", meter)


def _latency_card(report: Mapping[str, Any]) -> str:
    latency = report.get("latency")
    if not latency:
        return _card("latency", "not measured", "its engine does not run here")
    ratio = latency["float_ms"] / latency["quantized_ms"]
    value = f"{ratio:.2f}&times; <small>{'faster' if ratio >= 1 else 'as fast: slower'}</small>"
    share = min(100.0, 100.0 / ratio)
    meter = f'<div class="meter"><span class="bg-accent" style="width:{share:.1f}%"></span></div>'
    batch = f", batch of {latency['samples']}" if latency["samples"] != 1 else ""
    sub = f"{latency['float_ms']:.3g} ms to {latency['quantized_ms']:.3g} ms{batch}, {latency['engine']}"
    return _card("latency", value, sub, meter)


def _share_card(report: Mapping[str, Any]) -> str:
    counts = report.get("proven") or report.get("asked") or report.get("planned")
    planned = report.get("int8_mac_share")
    proven = report.get("proven_mac_share")  # not in reports of models that others made, nor in those of older versions
    share = planned if proven is None else proven
    codes, stored = document_codes(report)
    if not counts:
        return _card(f"in {codes}", "not known")
    total = max(1, sum(counts.get(kind, 0) for kind in _KINDS))
    meter = "".join(
        f'<span class="bg-{kind}" style="width:{100 * counts.get(kind, 0) / total:.1f}%"></span>'
        for kind in _KINDS
        if counts.get(kind)
    )
    told = "by the engine" if report.get("proven") else "by its Q/DQ pairs" if report.get("asked") else "by the plan"
    alone = counts.get("weights") and not counts["int8"] + counts["fused"]  # mode "weight-only"
    always = ("float",) if alone else ("int8", "float")
    names = {"int8": codes, "weights": "with such weights" if alone else f"with {stored} weights"}
    kinds = [kind for kind in _KINDS if counts.get(kind) or kind in always]
    named = ", ".join(f"{counts.get(kind, 0)} {names.get(kind, kind)}" for kind in kinds)
    sub = f"{named} {'node' if counts.get(kinds[-1]) == 1 else 'nodes'} {told}"
    label = f"{stored} weights" if alone else f"in {codes}"
    inside = counts["weights"] if alone else counts["int8"] + counts["fused"]
    shown, of = (inside / total, "nodes") if alone or share is None else (share, "arithmetic")
    value = f"{shown:{'.0%' if of == 'nodes' else '.1%'}} <small>of the {of}</small>"
    return _card(label, value, sub, f'<div class="meter" aria-hidden="true">{meter}</div>')


def _data_card(report: Mapping[str, Any]) -> str:
    data = report.get("data")
    if not data:
        return _card("data", "none")
    if _made_up(report) and (data["synthetic"] or not data["samples"]):
        return _card("data", "made up", "accuracy on real inputs is unknown")
    if data["samples"]:
        value = f"{data['samples']:,} <small>samples</small>"
        return _card("calibrated on", value, f"{data['source']}; compared on {data['held_out_samples']} others")
    return _card("compared on", f"{data['held_out_samples']:,} <small>samples</small>", str(data["source"]))


def steps(advice: Sequence[Advice]) -> str:
    """A list of what to do."""
    return "".join(_step(a.kind, a.text, a.command) for a in advice)


def _step(kind: str, text: str, command: str = "") -> str:
    button = '<button type="button">copy</button>'
    line = f'<div class="command"><code>{_words(command)}</code>{button}</div>' if command else ""
    return (
        f'<li><span class="sign {kind}" aria-hidden="true">{_SIGNS[kind]}</span>'
        f'<div class="text"><span class="sr">{kind}: </span>{escape(text)}{line}</div></li>'
    )


def _words(command: str) -> str:
    """A command whose lines break between its words, not at the dashes of an option."""
    return " ".join(f"<span>{escape(word)}</span>" for word in command.split(" "))


def what_to_do(report: Mapping[str, Any]) -> str:
    """The box with the next steps, and one with the warnings and notes of the run."""
    advice = advice_for(report)
    made = [f'<div class="box"><h2>What to do next</h2><ul class="steps">{steps(advice)}</ul></div>'] if advice else []
    remarks = "".join(
        [_step("warning", w) for w in report.get("warnings") or ()]
        + [_step("info", n) for n in report.get("notes") or ()]
    )
    if remarks:
        made.append(f'<div class="box"><h2>Warnings and notes</h2><ul class="steps">{remarks}</ul></div>')
    return "".join(made)


def checks(report: Mapping[str, Any]) -> str:
    """The box with every question and its answer."""
    items = "".join(
        _step("pass" if c["passed"] else "fail", f"{c['name']}: {c['detail']}") for c in report.get("checks") or ()
    )
    return f'<div class="box"><h2>What was checked</h2><ul class="steps">{items}</ul></div>' if items else ""
