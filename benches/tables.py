"""Results as Markdown."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from benches.variants import STATIC

Result = Mapping[str, Any]
SUMMARY_COLUMNS = (
    "model",
    "metric",
    "float",
    "onnxq",
    "best static",
    "onnxq SQNR",
    "best static SQNR",
    "onnxq latency",
    "best static latency",
)
COLUMNS = ("", "metric %", "SQNR dB", "int8 kernels", "time s", "x float pass", "peak MB", "file MB", "latency", "ms")

LEGEND = """\
- *metric*: on samples that calibration never saw; with labels where there are any, else agreement with the float model.
- *SQNR*: of the worst output against the float model, on the same samples.
- *int8 kernels*: Conv, MatMul and Gemm that onnxruntime's optimised graph runs as QLinear*, QGemm or MatMulInteger*, of
  all that it runs.
- *time*: load, calibrate, rewrite. *x float pass*: the same as a multiple of one plain inference pass over the same
  data. What onnxq's proof on the engine takes is added in parentheses.
- *peak*: of a process that does nothing else; the float row is the plain inference pass. For onnxq: after calibration,
  and in parentheses with the proof on the engine, which loads the float and the int8 model.
- *latency*: batch 1 on one thread, as a ratio to the float model: CPU time, median over rounds in which the models take
  turns; *ms* the same in absolute terms.

Peers get `quant_pre_process` first, and models below opset 13 are converted to opset 17 for them.
"""


def title(variant: str) -> str:
    """How a variant is called in a table."""
    if variant in STATIC:
        return STATIC[variant].title
    return f"**onnxq {variant.removeprefix('onnxq-')}**" if variant.startswith("onnxq-") else variant


def document(facts: Mapping[str, str], models: Sequence[Mapping[str, Any]], command: str) -> str:
    """The section of RESULTS.md."""
    head = ["## onnxq and quantize_static", "", f"Written by `{command}`; do not edit.", ""]
    head += [f"- {key}: {value}" for key, value in facts.items()]
    parts = ["\n".join(head), LEGEND.rstrip(), summary(models)]
    parts += [model_section(m) for m in models]
    return "\n\n".join(parts) + "\n"


def summary(models: Sequence[Mapping[str, Any]]) -> str:
    """One line a model: float, the first onnxq method, and the best setting of quantize_static by the metric."""
    rows = [list(SUMMARY_COLUMNS)]
    for model in models:
        results = {r["variant"]: r for r in model["results"]}
        ours: Result = next((r for r in model["results"] if r["variant"].startswith("onnxq-")), {})
        peers = [r for r in model["results"] if r["variant"] in STATIC and "error" not in r]
        best: Result = max(peers, key=lambda r: (r.get("score") or 0.0, r["sqnr_db"]), default={})
        shown = f"{_percent(best)} ({best['variant']})".strip() if best else "all fail"
        rows.append([model["name"], model["metric"], _percent(results.get("float", {})), _percent(ours), shown,
                     _db(ours), _db(best), _ratio(ours), _ratio(best)])  # fmt: skip
    return "### Summary\n\nThe best static setting is picked by its result on the very samples shown.\n\n" + _table(
        rows
    )


def model_section(model: Mapping[str, Any]) -> str:
    """Every variant of one model."""
    note = f" Here {model['opaque']}." if model["opaque"] else ""
    text = (
        f"### {model['name']}\n\n{model['source']}; metric: {model['metric']}; "
        f"{model['calib_samples']} samples to calibrate, {model['eval_samples']} to measure.{note}"
    )
    plain = next((r.get("seconds") for r in model["results"] if r["variant"] == "float"), None)
    return f"{text}\n\n" + _table([list(COLUMNS), *(_row(r, plain) for r in model["results"])])


def _row(result: Result, plain_seconds: float | None) -> list[str]:
    if "error" in result:
        return [title(result["variant"]), f"fails: {_escaped(result['error'])}", *[""] * (len(COLUMNS) - 2)]
    seconds = result["seconds"]
    more = f" (+ {result['verify_seconds']:.1f})" if "verify_seconds" in result else ""
    return [
        title(result["variant"]),
        _percent(result),
        _db(result),
        f"{result['int8']}/{result['int8'] + result['float']}",
        f"{seconds:.1f}{more}",
        f"{seconds / plain_seconds:.1f}" if plain_seconds else "",
        _peak(result),
        f"{result['size'] / 1e6:.2f}",
        _ratio(result),
        f"{result['latency_ms']:.2f}",
    ]


def _peak(result: Result) -> str:
    whole = f"{result['peak_mb']:.0f}"
    return f"{result['calibration_peak_mb']:.0f} ({whole})" if "calibration_peak_mb" in result else whole


def _table(rows: Sequence[Sequence[str]]) -> str:
    head, *body = rows
    lines = [head, ["---"] * len(head), *body]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def _percent(result: Result) -> str:
    score = result.get("score")
    return "fails" if "error" in result else "" if score is None else f"{100 * score:.2f}"


def _db(result: Result) -> str:
    value = result.get("sqnr_db")
    return "" if value is None else "exact" if value == math.inf else f"{value:.1f}"


def _ratio(result: Result) -> str:
    return f"{result['latency_ratio']:.2f}" if "latency_ratio" in result else ""


def _escaped(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;")
