"""A preview as one HTML file: tables of what is fed, and the first pictures."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Sequence
from html import escape
from typing import TYPE_CHECKING

from onnxq.previews.wording import input_rows, output_rows, preparation_rows
from onnxq.report.html.document import plain_page
from onnxq.wording.plural import counted

if TYPE_CHECKING:
    from onnxq.previews.preview import Preview


def render_preview(found: Preview) -> str:
    """The whole page; everything that came from the model or the user is escaped."""
    counted_samples = f"{counted(found.samples, 'sample')} in {counted(found.batches, 'feed')}"
    parts = [f"<h1>Data: {escape(found.source)}</h1><p class='mute'>{counted_samples}</p>"]
    parts.append(_list("warn", found.warnings) + _list("mute", found.notes))
    parts.append("<h2>Inputs</h2>" + _table(input_rows(found.inputs)))
    if found.pictures:
        parts.append(
            "<h2>First samples as they would be fed</h2><p class='mute'>Each spread from black to white over its own "
            f"range; of colours, the order is the one that is fed.</p><p>{''.join(map(_picture, found.pictures))}</p>"
        )
    if found.outputs:
        parts.append("<h2>Outputs of the float model</h2>" + _table(output_rows(found.outputs)))
    if found.preparations:
        parts.append(
            "<h2>How well the model tells these pictures apart</h2><p class='mute'>The same pictures prepared in the "
            "usual ways. Told apart: mutual information of picture and class; certainty: mean of the "
            "largest probability.</p>" + _table(preparation_rows(found.preparations))
        )
    return plain_page(f"onnxq data: {found.source}", "\n".join(parts))


def _list(kind: str, texts: Iterable[str]) -> str:
    items = "".join(f"<li class='{kind}'>{escape(text)}</li>" for text in texts)
    return f"<ul>{items}</ul>" if items else ""


def _table(rows: Sequence[Sequence[str]]) -> str:
    head = "".join(f"<th>{escape(cell)}</th>" for cell in rows[0])
    body = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows[1:])
    return f"<div class='scroll'><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"


def _picture(png: bytes) -> str:
    return (
        f"<img alt='a sample' style='margin:2px' src='data:image/png;base64,{base64.b64encode(png).decode('ascii')}'>"
    )
