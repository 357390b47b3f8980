"""A preview in rows of text, the first of which names the columns; the terminal and the page show the same."""

from __future__ import annotations

from collections.abc import Iterable

from onnxq.previews.figures import ChannelFigures
from onnxq.previews.preparations import Preparation
from onnxq.previews.views import InputView, OutputView

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


def _figures(one: InputView | ChannelFigures) -> tuple[str, str, str]:
    return _range(one.low, one.high), _number(one.mean), _number(one.std)


def _range(low: float | None, high: float | None) -> str:
    return "" if low is None or high is None else f"{low:.4g} to {high:.4g}"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"
