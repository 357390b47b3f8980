"""The report as one HTML file: no network, light and dark, readable at 400 px, usable by keyboard.

The page is plain HTML first (every value is in it as text); a few lines of script add filtering and sorting.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING

from onnxq.plural import counted
from onnxq.report.wording import counts_text, data_text, files_text, output_text
from onnxq.sizes import size_text

if TYPE_CHECKING:
    from onnxq.report.report import LayerRow, Report, TensorRow

_SHOWN_CHANNELS = 4

_STYLE = """
:root { color-scheme: light dark; --ink: #1c2024; --paper: #fff; --soft: #f2f4f6; --line: #d8dde2; --good: #147a3d;
  --bad: #b3261e; --warn: #8a5a00; --mute: #5c6670; --link: #0b5cad; }
@media (prefers-color-scheme: dark) { :root { --ink: #e4e8ec; --paper: #14171a; --soft: #1e2327; --line: #343b42;
  --good: #5fd08a; --bad: #ff8a80; --warn: #f0b849; --mute: #98a3ad; --link: #7ab8ff; } }
* { box-sizing: border-box }
body { margin: 0 auto; max-width: 80rem; padding: 1rem; background: var(--paper); color: var(--ink);
  font: 15px/1.5 system-ui, sans-serif }
h1 { font-size: 1.4rem; margin: .2rem 0 } h2 { font-size: 1.1rem; margin: 2rem 0 .5rem }
.pass { color: var(--good) } .fail { color: var(--bad) } .warn { color: var(--warn) } .mute { color: var(--mute) }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .25rem 1.25rem; margin: 1rem 0 }
dt { color: var(--mute) } dd { margin: 0; overflow-wrap: anywhere }
ul { padding-left: 1.2rem } li { overflow-wrap: anywhere }
.scroll { overflow-x: auto; border: 1px solid var(--line); border-radius: 6px; max-height: 70vh }
table { border-collapse: collapse; width: 100%; font-size: 13px }
th, td { padding: .3rem .6rem; text-align: left; border-bottom: 1px solid var(--line); vertical-align: top }
th { position: sticky; top: 0; background: var(--soft); white-space: nowrap }
td { overflow-wrap: anywhere; min-width: 4rem } td.n { text-align: right; font-variant-numeric: tabular-nums }
th button { all: unset; cursor: pointer; font-weight: 600 } th button:focus-visible { outline: 2px solid var(--link) }
input { font: inherit; color: inherit; background: var(--soft); border: 1px solid var(--line); border-radius: 6px;
  padding: .35rem .6rem; width: min(24rem, 100%); margin: 0 0 .5rem }
.int8, .weights { color: var(--good) } .fused { color: var(--link) } .float { color: var(--warn) }
.other { color: var(--mute) }
@media (max-width: 500px) { dl { grid-template-columns: 1fr; gap: 0 } dd { margin-bottom: .5rem } }
"""

_SCRIPT = """
for (const input of document.querySelectorAll('input[data-table]')) {
  const rows = [...document.getElementById(input.dataset.table).tBodies[0].rows];
  const texts = rows.map(r => r.textContent.toLowerCase());
  input.addEventListener('input', () => {
    const words = input.value.toLowerCase().split(/\\s+/).filter(Boolean);
    rows.forEach((r, i) => { r.hidden = !words.every(w => texts[i].includes(w)); });
  });
}
for (const button of document.querySelectorAll('th button')) {
  button.addEventListener('click', () => {
    const th = button.parentElement, body = th.closest('table').tBodies[0], at = th.cellIndex;
    const up = th.getAttribute('aria-sort') !== 'ascending';
    for (const other of th.parentElement.cells) other.removeAttribute('aria-sort');
    th.setAttribute('aria-sort', up ? 'ascending' : 'descending');
    const key = r => r.cells[at].dataset.key ?? r.cells[at].textContent;
    const order = (a, b) => { const x = key(a), y = key(b);
      return x !== '' && y !== '' && !isNaN(x) && !isNaN(y) ? x - y : x.localeCompare(y); };
    body.append(...[...body.rows].sort((a, b) => up ? order(a, b) : order(b, a)));
  });
}
"""


def render_page(report: Report) -> str:
    """The whole page.

    Args:
        report: What to show.

    Returns:
        A self-contained HTML document; everything that came from the model or the user is escaped.
    """
    parts = [_verdict(report), _facts(report), _checks(report), _layers(report.layers), _tensors(report.tensors)]
    return page_of(f"onnxq report: {report.target}", "\n".join(parts))


@dataclass(frozen=True)
class Cell:
    """A cell of a table.

    Attributes:
        text: What it shows.
        html: Shown in place of the text, as it is: nothing that comes from a model or a user may be in it unescaped.
        key: What it is sorted by, if not the text.
        number: Whether it is set to the right.
    """

    text: str = ""
    html: str = ""
    key: float | None = None
    number: bool = False


def table_of(name: str, title: str, headings: Sequence[str], rows: Iterable[Sequence[Cell]]) -> str:
    """A section with a table that can be filtered and sorted."""
    cells = (
        [f"<td>{c.html}</td>" if c.html else _cell(c.text, key=c.key, number=c.number) for c in row] for row in rows
    )
    return _table(name, title, headings, cells)


def page_of(title: str, body: str) -> str:
    """A self-contained HTML document.

    Args:
        title: Shown by the browser; escaped here.
        body: HTML; escaped by the caller.
    """
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{_STYLE}</style></head>\n"
        f"<body><main>\n{body}\n</main><script>{_SCRIPT}</script></body></html>\n"
    )


def _verdict(report: Report) -> str:
    if report.passed:
        unasked = "" if report.engine is not None else ", without asking its engine"
        checks = counted(len(report.checks), "check")
        line = f'<h1 class="pass">Passed: {checks} for {escape(report.target)}{unasked}</h1>'
    elif not report.checks:
        line = f'<h1 class="fail">Not passed: nothing was checked for {escape(report.target)}</h1>'
    else:
        failed = f"{len(report.failed_checks)} of {counted(len(report.checks), 'check')}"
        line = f'<h1 class="fail">Failed: {failed} for {escape(report.target)}</h1>'
    warnings = "".join(f"<li>{escape(w)}</li>" for w in report.warnings)
    notes = "".join(f"<p>{escape(n)}</p>" for n in report.notes)
    return line + (f'<ul class="warn" aria-label="warnings">{warnings}</ul>' if warnings else "") + notes


def _facts(report: Report) -> str:
    pairs: list[tuple[str, str]] = []
    if report.method:
        pairs.append(("method", report.method))
    if report.planned is not None:
        pairs.append(("planned", counts_text(report.planned)))
    if report.proven is not None:
        pairs.append(("executed", counts_text(report.proven)))
    if report.asked is not None:
        pairs.append(("by its pairs", f"{counts_text(report.asked)} (by the target's rules)"))
    if report.engine is not None:
        size = f", engine of {size_text(report.engine.size_bytes)}" if report.engine.size_bytes else ""
        pairs.append(("engine", f"{report.engine.engine} {report.engine.version}{size}"))
    if report.int8_mac_share is not None:
        pairs.append(("arithmetic in int8", f"{report.int8_mac_share:.1%}"))
    if report.size_before_bytes and report.size_after_bytes:
        pairs.append(("size", f"{size_text(report.size_before_bytes)} to {size_text(report.size_after_bytes)}"))
    pairs += [(f"output {o.name}", output_text(o)) for o in report.outputs]
    if report.data is not None:
        pairs.append(("data", data_text(report.data)))
    if report.seconds:
        pairs.append(("time", ", ".join(f"{k} {v:.1f} s" for k, v in report.seconds.items())))
    if report.output_path is not None:
        pairs.append(("written to", files_text(report.output_path, report.output_data_path)))
    return "<dl>" + "".join(f"<dt>{escape(k)}</dt><dd>{escape(v)}</dd>" for k, v in pairs) + "</dl>"


def _checks(report: Report) -> str:
    items = "".join(
        f'<li><span class="{"pass" if c.passed else "fail"}">{"passed" if c.passed else "failed"}</span> '
        f"{escape(c.name)}: {escape(c.detail)}</li>"
        for c in report.checks
    )
    return f"<section><h2>Checks</h2><ul>{items}</ul></section>" if items else ""


def _layers(rows: Sequence[LayerRow]) -> str:
    headings = ("node", "op", "planned", "executed", "kernel", "MACs", "rule", "reason")
    cells = (
        [
            _cell(r.node),
            _cell(r.op),
            _cell(r.decision, style=r.decision),
            _cell(r.executed, style=r.executed),
            _cell(r.engine_op),
            _cell(f"{r.macs:,}" if r.macs else "", key=r.macs, number=True),
            _cell(r.rule),
            _cell("; ".join(part for part in (r.reason, r.why) if part)),
        ]
        for r in rows
    )
    return _table("layers", "Layers", headings, cells) if rows else ""


def _tensors(rows: Sequence[TensorRow]) -> str:
    headings = ("tensor", "role", "type", "axis", "scale", "zero-point", "smallest", "largest", "range from", "group")
    cells = (
        [
            _cell(r.name),
            _cell(r.role),
            _cell(r.dtype),
            _cell("" if r.axis is None else str(r.axis), number=True),
            _cell(_several([f"{s:.6g}" for s in r.scale]), key=max(r.scale), number=True),
            _cell(_several([str(z) for z in dict.fromkeys(r.zero_point)]), number=True),
            _cell(f"{r.rmin:.6g}", key=r.rmin, number=True),
            _cell(f"{r.rmax:.6g}", key=r.rmax, number=True),
            _cell(r.source),
            _cell(r.group or ""),
        ]
        for r in rows
    )
    return _table("tensors", "Quantized tensors", headings, cells) if rows else ""


def _several(values: Sequence[str]) -> str:
    shown = ", ".join(values[:_SHOWN_CHANNELS])
    return shown + (f", ... ({len(values)})" if len(values) > _SHOWN_CHANNELS else "")


def _cell(text: str, *, style: str = "", key: float | None = None, number: bool = False) -> str:
    classes = " ".join(c for c in ("n" if number else "", escape(style)) if c)
    attributes = (f' class="{classes}"' if classes else "") + (f' data-key="{key!r}"' if key is not None else "")
    return f"<td{attributes}>{escape(text)}</td>"


def _table(name: str, title: str, headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    head = "".join(f'<th scope="col"><button type="button">{escape(h)}</button></th>' for h in headings)
    body = "\n".join(f"<tr>{''.join(row)}</tr>" for row in rows)
    return (
        f"<section><h2>{escape(title)}</h2>"
        f'<input type="search" data-table="{name}" placeholder="Filter" aria-label="Filter {escape(title)}">'
        f'<div class="scroll" tabindex="0"><table id="{name}"><thead><tr>{head}</tr></thead>\n'
        f"<tbody>{body}</tbody></table></div></section>"
    )
