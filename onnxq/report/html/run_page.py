"""The page of one report, and those of a ranking or a score that stand alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from html import escape
from typing import Any

from onnxq.report.contents import NodeCounts
from onnxq.report.html.document import document
from onnxq.report.html.page_data import run_data
from onnxq.report.html.verdict import cards, checks, verdict, what_to_do
from onnxq.report.wording import counts_text, document_codes, recovery_text, spread_text, time_text
from onnxq.wording.plural import counted
from onnxq.wording.sizes import size_text

Document = Mapping[str, Any]

_NOISE = (
    '<div class="box" id="noise-box" hidden><h2>Where the noise comes from</h2>'
    "<p class=\"mute\">Closeness of each layer's output to the float model's with all layers quantized, in dB: higher "
    "is better, a step down is where accuracy is lost. What is lost at a layer is the SQNR of its inputs less that of "
    "its output. What a layer does to the model's outputs with no other one quantized is another measure, that of "
    '<code>onnxq sensitivity</code>. Click a point for its layer.</p><div class="two"><div id="noise"></div>'
    '<div><h3>Largest losses from inputs to output</h3><div id="losses"></div></div></div></div>'
)


def render_run(report: Document, *, sensitivity: Document | None = None, evaluation: Document | None = None) -> str:
    """The page of one report.

    Args:
        report: A document of the schema onnxq.report/1.
        sensitivity: One of onnxq.sensitivity/1, to be shown with it.
        evaluation: One of onnxq.evaluation/1, likewise.

    Returns:
        A self-contained HTML document.
    """
    ranking = sensitivity or report.get("sensitivity")
    shown = {**report, "sensitivity": ranking, "evaluation": evaluation}
    name = str(report.get("model_name") or "quantized model")
    overview = f'<div class="two"><div>{what_to_do(shown)}</div><div>{checks(shown)}{_facts(shown)}</div></div>{_NOISE}'
    return document(
        title=f"onnxq report: {name} for {report['target']}",
        name=name,
        chips=tuple(_chips(report)),
        head=verdict(shown) + cards(shown),
        overview=overview,
        data={"kind": "run", "runs": [run_data(report)], "sensitivity": sensitivity, "evaluation": evaluation},
    )


def render_part(part: Document, *, title: str) -> str:
    """The page of a ranking or a score without a report.

    Args:
        part: A document of the schema onnxq.sensitivity/1 or onnxq.evaluation/1.
        title: What it is of.
    """
    kind = "sensitivity" if str(part["schema"]).startswith("onnxq.sensitivity") else "evaluation"
    warnings = "".join(f'<p class="warn">{escape(w)}</p>' for w in part.get("warnings") or ())
    return document(
        title=f"onnxq {kind}: {title}",
        name=title,
        chips=(kind,),
        head=warnings,
        overview="",
        data={"kind": "part", "runs": [], "sensitivity": None, "evaluation": None, kind: part},
    )


def _chips(report: Document) -> Iterator[str]:
    yield str(report["target"])
    if report.get("method"):
        yield f"method {report['method']}"


def _facts(report: Document) -> str:
    pairs = "".join(f"<dt>{escape(k)}</dt><dd>{escape(v)}</dd>" for k, v in _pairs(report))
    return f'<div class="box"><h2>The run</h2><dl class="facts">{pairs}</dl></div>' if pairs else ""


def _pairs(report: Document) -> Iterator[tuple[str, str]]:
    if report.get("planned"):
        yield "planned", _counts(report, "planned") + _arithmetic(report, "int8_mac_share")
    if report.get("proven"):
        yield "executed", _counts(report, "proven") + _arithmetic(report, "proven_mac_share")
    if report.get("differences"):
        yield "difference", "; ".join(report["differences"])
    if report.get("asked"):
        yield "by its Q/DQ", f"{_counts(report, 'asked')} (by the target's rules)"
    engine = report.get("engine")
    if engine:
        size = f", engine of {size_text(engine['size_bytes'])}" if engine["size_bytes"] else ""
        yield "engine", f"{engine['name']} {engine['version']}{size}"
    for output in report.get("outputs") or ():
        yield f"output {output['name']}", _output(output)
    if report.get("recovery") is not None:
        yield "recovery", recovery_text(report)
    data = report.get("data")
    if data:
        yield "data", str(data["source"])
    if report.get("seconds"):
        yield "time", time_text(report["seconds"])
    if report.get("output_path"):
        extra = f" and {report['output_data_path']}" if report.get("output_data_path") else ""
        yield "written to", f"{report['output_path']}{extra}"
    if report.get("version"):
        yield "made by", f"onnxq {report['version']}"


def _counts(report: Document, key: str) -> str:
    known = ("int8", "fused", "float", "weights", "other")
    return counts_text(NodeCounts(**{k: report[key][k] for k in known if k in report[key]}), *document_codes(report))


def _arithmetic(report: Document, key: str) -> str:
    share = report.get(key)
    return "" if share is None else f"; {share:.1%} of the arithmetic in {document_codes(report)[0]}"


def _output(output: Mapping[str, Any]) -> str:
    trouble = ""
    if output["nonfinite"]:
        trouble = f"; {counted(output['nonfinite'], 'value')} of NaN or Inf in one model only"
    if output["shape_mismatches"]:
        trouble += f"; another shape in {counted(output['shape_mismatches'], 'batch', 'batches')}"
    if output.get("exact"):
        return f"equal to float{trouble}"
    if output["sqnr_db"] is None:
        return f"{output['mismatch_share']:.2%} of the values differ{trouble}"
    spread = spread_text(output.get("worst_batch_sqnr_db"), output.get("median_batch_sqnr_db"))
    return (
        f"SQNR {output['sqnr_db']:.1f} dB{spread}, cosine {output['cosine']:.5f}, "
        f"largest error {output['max_abs']:.4g} where values reach {output['peak']:.4g}{trouble}"
    )
