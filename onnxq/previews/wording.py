"""A preview in rows of text, the first of which names the columns; the terminal and the page show the same."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from onnxq.previews.figures import ChannelFigures
from onnxq.previews.preparations import Preparation
from onnxq.previews.views import InputView, OutputView
from onnxq.report.columns import columns
from onnxq.wording.plural import counted

if TYPE_CHECKING:
    from onnxq.previews.preview import Preview

Rows = list[tuple[str, ...]]


def input_rows(inputs: Iterable[InputView]) -> Rows:
    """Inputs, those of pictures with a row for each channel."""
    rows: Rows = [("input", "type", "model expects", "fed", "range", "mean", "std", "zeros")]
    for one in inputs:
        shapes = ", ".join(map(str, one.shapes)) + (", ..." if one.more_shapes else "")
        rows.append((one.name, one.dtype, one.expected, shapes, *_figures(one), f"{one.zeros:.0%}"))
        if one.channels is not None and len(one.channels) > 1:
            rows += [(f"  channel {i}", "", "", "", *_figures(channel), "") for i, channel in enumerate(one.channels)]
    return rows


def output_rows(outputs: Iterable[OutputView]) -> Rows:
    """Outputs of the float model."""
    rows: Rows = [("output", "shape", "range")]
    return rows + [(o.name, str(o.shape), _range(o.low, o.high)) for o in outputs]


def preparation_rows(preparations: Iterable[Preparation]) -> Rows:
    """Preparations of pictures, first those with which the model tells them apart best."""
    rows: Rows = [("prepared as", "told apart", "certainty", "options")]
    for p in preparations:
        name = f"{p.name}, {p.color}" + (" (given)" if p.given else "")
        rows.append((name, f"{p.separation:.0%}", f"{p.certainty:.0%}", p.flags))
    return rows


def tables(preview: Preview) -> list[tuple[str, Rows]]:
    """The tables of a preview, with what is above each."""
    found = [("Inputs", input_rows(preview.inputs)), ("Outputs of the float model", output_rows(preview.outputs))]
    if preview.preparations:
        found.append(("How well the model tells these pictures apart", preparation_rows(preview.preparations)))
    return found


def summary_line(preview: Preview) -> str:
    """What was looked at."""
    return f"{counted(preview.samples, 'sample')} in {counted(preview.batches, 'feed')} from {preview.source}"


def preview_text(preview: Preview) -> str:
    """A preview as plain text."""
    lines = [summary_line(preview)]
    for title, rows in tables(preview):
        lines += ["", title, columns(rows[0], rows[1:])]
    lines += ["", *(f"warning: {said}" for said in preview.warnings), *(f"note: {said}" for said in preview.notes)]
    return "\n".join(lines).rstrip() + "\n"


def _figures(one: InputView | ChannelFigures) -> tuple[str, str, str]:
    return _range(one.low, one.high), _number(one.mean), _number(one.std)


def _range(low: float | None, high: float | None) -> str:
    return "" if low is None or high is None else f"{low:.4g} to {high:.4g}"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"
