"""One self-contained HTML document from the files in `assets`, text, and data.

What the page says first is in it as HTML, for readers without scripts as well; tables and pictures are made by the
scripts from the data, a block of JSON. The document's own policy keeps it from loading anything, from anywhere.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import cache
from html import escape
from importlib.resources import files
from typing import Any

_SCRIPTS = ("base", "table", "charts", "detail", "graph", "run", "comparison", "start")
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:; base-uri 'none'"
_ICON = (
    "data:image/svg+xml,%3Csvg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 16 16'%3E%3Crect width='16' height='16' "
    "rx='4' fill='%232358d6'/%3E%3Cpath d='M4 12V7h2v5zm3 0V4h2v8zm3 0V9h2v3z' fill='white'/%3E%3C/svg%3E"
)


def document(  # noqa: PLR0913 - the parts of a page
    *, title: str, name: str, chips: Sequence[str], head: str, overview: str, data: Mapping[str, Any]
) -> str:
    """The whole document.

    Args:
        title: Shown by the browser.
        name: What the report is of, shown at the top.
        chips: Short facts beside it.
        head: HTML above the tabs; escaped by the caller.
        overview: HTML of the first tab; escaped by the caller. Empty leaves the tab out.
        data: What the scripts work on; plain values.
    """
    tab = (
        '<button role="tab" id="tab-overview" aria-controls="panel-overview" type="button">Overview</button>'
        if overview
        else ""
    )
    panel = (
        '<section role="tabpanel" class="panel" id="panel-overview" aria-labelledby="tab-overview">'
        f"{overview}</section>"
        if overview
        else ""
    )
    scripts = "\n".join(asset(f"{part}.js") for part in _SCRIPTS)
    return f"""{_opening(title)}
<body><a class="skip" href="#panels">To the content</a>
<div class="page"><div class="top"><span class="brand">onnxq</span><span class="name">{escape(name)}</span>
{"".join(f'<span class="chip">{escape(c)}</span>' for c in chips)}<span class="space"></span>
<button type="button" id="theme" class="plain-button" aria-label="Light or dark">Dark</button></div>
<main>{head}
<noscript><p class="box">Tables, histograms and the graph need JavaScript, which is switched off here.</p></noscript>
<div class="tabs" role="tablist" id="tabs" aria-label="Parts of the report">{tab}</div>
<div id="panels">{panel}</div></main></div>
<aside class="detail" id="detail" hidden aria-labelledby="detail-title"></aside>
<script type="application/json" id="data">{embedded(data)}</script>
<script>(() => {{
"use strict";
{scripts}
}})();</script></body></html>
"""


def _opening(title: str) -> str:
    """What every document begins with."""
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{_POLICY}">
<title>{escape(title)}</title><link rel="icon" href="{_ICON}">
<style>{asset("style.css")}</style><script>{asset("theme.js")}</script></head>"""


def plain_page(title: str, body: str) -> str:
    """A document of the same look without tabs and data.

    Args:
        title: Shown by the browser; escaped here.
        body: HTML; escaped by the caller.
    """
    return f"""{_opening(title)}
<body><div class="page plain"><main>
{body}
</main></div></body></html>
"""


def embedded(data: Mapping[str, Any]) -> str:
    """JSON that cannot end the element it stands in."""
    text = json.dumps(data, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")


@cache
def asset(name: str) -> str:
    """A file of the folder `assets`."""
    return (files("onnxq.report.html") / "assets" / name).read_text(encoding="utf-8")
