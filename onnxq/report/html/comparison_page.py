"""The page of two reports side by side: what changed from A to B, in numbers first, then layer by layer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from html import escape
from typing import Any

from onnxq.report.html.document import document
from onnxq.report.html.page_data import run_data
from onnxq.report.html.verdict import verdict_of, worst_sqnr
from onnxq.report.wording import recovery_text
from onnxq.wording.plural import counted
from onnxq.wording.sizes import size_text

Document = Mapping[str, Any]

_NOISE = (
    '<div class="box" id="noise-box" hidden><h2>Where the noise comes from</h2><p class="mute">Closeness of each '
    "layer's output to the float model's, in dB: higher is better. Click a point for its layer in both runs.</p>"
    '<div id="noise"></div></div>'
)
_SLIGHT_DB = 0.5
_SLIGHT_SHARE = 0.02
_SLIGHT_LATENCY = 0.2
"""Even against the float model's, in turns and on one thread, times vary by up to a fifth on a busy machine."""


@dataclass(frozen=True, kw_only=True)
class Difference:
    """One number of both runs.

    Attributes:
        name: What it is.
        a: Of the first run, as text.
        b: Of the second.
        text: The difference in words; "" where there is none to speak of.
        better: Whether B is better; None where neither is, or nobody can say.
    """

    name: str
    a: str
    b: str
    text: str = ""
    better: bool | None = None


def render_comparison(a: Document, b: Document, names: tuple[str, str]) -> str:
    """The page of two reports.

    Args:
        a: A document of the schema onnxq.report/1, the baseline.
        b: Another, of the same float model.
        names: What the two are called.

    Returns:
        A self-contained HTML document.
    """
    found = tuple(differences(a, b))
    overview = (
        f'<div class="box"><h2>In numbers</h2><div class="plain-table">{_table(found, names)}</div></div>'
        f"{_changes(a, b)}{_NOISE}"
    )
    return document(
        title=f"onnxq comparison: {names[0]} and {names[1]}",
        name=f"{names[0]} against {names[1]}",
        chips=tuple(dict.fromkeys((str(a["target"]), str(b["target"])))),
        head=_head(found, names),
        overview=overview,
        data={
            "kind": "comparison",
            "names": list(names),
            "runs": [run_data(a), run_data(b)],
            "sensitivity": None,
            "evaluation": None,
        },
    )


def differences(a: Document, b: Document) -> Iterator[Difference]:
    """The numbers that tell which run is better, the weightiest first."""
    kinds = {"pass": "passed", "fail": "failed", "unsure": "passed in part"}
    verdicts = [verdict_of(one)[0] for one in (a, b)]
    order = ["fail", "unsure", "pass"]
    yield Difference(
        name="verdict",
        a=kinds[verdicts[0]],
        b=kinds[verdicts[1]],
        better=None if verdicts[0] == verdicts[1] else order.index(verdicts[1]) > order.index(verdicts[0]),
    )
    sqnr = worst_sqnr(a), worst_sqnr(b)
    if sqnr[0] is not None and sqnr[1] is not None:
        gain = sqnr[1] - sqnr[0]
        better = None if abs(gain) < _SLIGHT_DB else gain > 0
        yield Difference(
            name="closeness to float", a=f"{sqnr[0]:.1f} dB", b=f"{sqnr[1]:.1f} dB",
            text=f"{gain:+.1f} dB" if abs(gain) >= 0.05 else "", better=better,
        )  # fmt: skip
    yield from _ratio("size", a.get("size_after_bytes"), b.get("size_after_bytes"), size_text)
    yield from _latency(a.get("latency") or {}, b.get("latency") or {})
    shares = a.get("int8_mac_share"), b.get("int8_mac_share")
    if shares[0] is not None and shares[1] is not None:
        points = 100 * (shares[1] - shares[0])
        yield Difference(
            name="quantized arithmetic", a=f"{shares[0]:.1%}", b=f"{shares[1]:.1%}",
            text=f"{points:+.1f} points" if abs(points) >= 0.05 else "",
        )  # fmt: skip
    for key, name in (("target", "target"), ("method", "method"), ("version", "onnxq")):
        values = [str(one.get(key) or "") for one in (a, b)]
        if any(values):
            yield Difference(name=name, a=values[0], b=values[1], text="" if values[0] == values[1] else "differs")
    steps = [recovery_text(one) for one in (a, b)]
    if any(steps):
        yield Difference(name="recovery", a=steps[0], b=steps[1], text="" if steps[0] == steps[1] else "differs")
    data = [one.get("data") or {} for one in (a, b)]
    if any(data):
        text = [counted(d.get("samples") or d.get("held_out_samples") or 0, "sample") if d else "none" for d in data]
        yield Difference(name="data", a=text[0], b=text[1], text="" if text[0] == text[1] else "differs")


def _latency(a: Mapping[str, Any], b: Mapping[str, Any]) -> Iterator[Difference]:
    """Each run's time as a share of its own float model's, measured in turns with it: the milliseconds of two runs tell
    how busy the machine was, so that alone they are shown and not judged."""
    if not (a.get("quantized_ms") and b.get("quantized_ms")):
        return
    if not (a.get("float_ms") and b.get("float_ms")):
        texts = [f"{one['quantized_ms']:.3g} ms" for one in (a, b)]
        yield Difference(name="latency", a=texts[0], b=texts[1])
        return
    shares = [one["quantized_ms"] / one["float_ms"] for one in (a, b)]
    name = "latency, as a share of the float model's"
    yield from _ratio(name, shares[0], shares[1], lambda share: f"{share:.2f}", slight=_SLIGHT_LATENCY)


def _ratio(
    name: str, a: float | None, b: float | None, text: Any, slight: float = _SLIGHT_SHARE
) -> Iterator[Difference]:
    if a and b:
        change = b / a - 1
        better = None if abs(change) < slight else change < 0
        yield Difference(name=name, a=text(a), b=text(b), text=f"{change:+.1%}", better=better)


def _head(found: tuple[Difference, ...], names: tuple[str, str]) -> str:
    better = [d for d in found if d.better is True]
    worse = [d for d in found if d.better is False]
    if better and not worse:
        kind, mark, title = "pass", "B", f"B is better: {_listed(better)}"
    elif worse and not better:
        kind, mark, title = "fail", "A", f"A is better: {_listed(worse)}"
    elif better:
        kind, mark, title = "unsure", "?", f"B is better in {_listed(better)}, worse in {_listed(worse)}"
    else:
        kind, mark, title = "unsure", "=", "No difference to speak of"
    said = f"A is {names[0]}, B is {names[1]}."
    return (
        f'<section class="verdict {kind}" aria-label="Verdict"><div class="mark" aria-hidden="true">{mark}</div>'
        f"<div><h1>{escape(title)}</h1><p>{escape(said)}</p></div></section>"
    )


def _listed(found: list[Difference]) -> str:
    return ", ".join(f"{d.name} ({d.text})" if d.text else d.name for d in found)


def _table(found: tuple[Difference, ...], names: tuple[str, str]) -> str:
    rows = "".join(
        f'<tr><td>{escape(d.name)}</td><td class="n">{escape(d.a)}</td><td class="n">{escape(d.b)}</td>'
        f'<td class="n"><span class="{_kind(d)}-text">{escape(d.text)} {_word(d)}</span></td></tr>'
        for d in found
    )
    heads = (
        f'<th scope="col"></th><th scope="col" class="n"><span class="tag a">A</span> {escape(names[0])}</th>'
        f'<th scope="col" class="n"><span class="tag b">B</span> {escape(names[1])}</th>'
        '<th scope="col" class="n">B against A</th>'
    )
    return f"<table><thead><tr>{heads}</tr></thead><tbody>{rows}</tbody></table>"


def _word(difference: Difference) -> str:
    """Percentages may be better for being smaller: said, not left to an arrow."""
    return {True: "better", False: "worse", None: ""}[difference.better]


def _kind(difference: Difference) -> str:
    return {True: "good", False: "bad", None: "mute"}[difference.better]


def _changes(a: Document, b: Document) -> str:
    """Checks whose answers differ, and whether both are of one model."""
    answers = [{c["name"]: c["passed"] for c in one.get("checks") or ()} for one in (a, b)]
    lines = [
        f"{name}: {'passed' if answers[0][name] else 'failed'} in A, {'passed' if answers[1][name] else 'failed'} in B"
        for name in answers[0]
        if name in answers[1] and answers[0][name] != answers[1][name]
    ]
    nodes = [{row["node"] for row in one.get("layers") or ()} for one in (a, b)]
    if all(nodes) and len(nodes[0] & nodes[1]) < 0.5 * min(map(len, nodes)):
        lines.append("the two runs share less than half of their layers: are they of one model?")
    items = "".join(
        f'<li><span class="sign warning" aria-hidden="true">!</span><div class="text">{escape(line)}</div></li>'
        for line in lines
    )
    return f'<div class="box"><h2>Look at</h2><ul class="steps">{items}</ul></div>' if items else ""
