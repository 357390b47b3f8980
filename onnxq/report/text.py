"""The terminal's view of a report, as rich renderables."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Sequence

from rich.console import Console, Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from onnxq.report.contents import LayerRow
from onnxq.report.report import Report
from onnxq.report.wording import (
    codes_text,
    counts_text,
    data_text,
    files_text,
    frequent_reasons,
    output_text,
    time_text,
    weights_text,
)
from onnxq.verification.structure import MATRIX_OPS
from onnxq.wording.plural import counted
from onnxq.wording.sizes import size_text

_SHOWN_OUTPUTS = 5
_SMALLER = 1.05
"""From this ratio on a file is called smaller: below it, one decimal would say 1.0 times."""
_SHORT_NAME = 12
"""Characters of an output's name that still leave room beside it."""
_SHOWN_NODES = 10
_ACTION_STYLE = {"int8": "green", "fused": "cyan", "weights": "green", "float": "yellow", "other": "dim", "": "dim"}


def plain(renderable: RenderableType, *, width: int = 100) -> str:
    """`renderable` as text without colour or control codes, at most `width` columns wide."""
    console = Console(file=io.StringIO(), width=width, color_system=None, force_terminal=False)
    with console.capture() as capture:
        console.print(renderable)
    return "\n".join(line.rstrip() for line in capture.get().splitlines()) + "\n"


def summary(report: Report, *, said: Callable[[str], str] = str) -> RenderableType:
    """What a person wants to know first; fits a screen whatever the model's size.

    Args:
        report: The report.
        said: How sentences that name options are put, for the command line or for Python.
    """
    rows = Table.grid(padding=(0, 2))
    rows.add_column(style="bold", no_wrap=True)
    rows.add_column(overflow="fold")
    for name, value in _facts(report):
        rows.add_row(name, escape(said(value)))
    parts: list[RenderableType] = [_verdict(report), rows]
    parts += [Text(said(f"failed: {c.name}: {c.detail}"), style="red") for c in report.failed_checks]
    parts += [Text(said(f"warning: {w}"), style="yellow") for w in report.warnings]
    parts += [Text(said(f"note: {n}"), style="dim") for n in report.notes]
    return Group(*parts)


def _verdict(report: Report) -> Text:
    if report.passed:
        verdict = f"PASSED  {counted(len(report.checks), 'check')} for {report.target}"
        if report.engine is None:
            return Text(f"{verdict}, WITHOUT ASKING ITS ENGINE", style="bold yellow")
        return Text(verdict, style="bold green")
    if not report.checks:
        return Text(f"NOT PASSED  nothing was checked for {report.target}", style="bold red")
    return Text(f"FAILED  {len(report.failed_checks)} of {counted(len(report.checks), 'check')}", style="bold red")


def _facts(report: Report) -> Iterable[tuple[str, str]]:
    yield "target", report.target + (f", method {report.method}" if report.method else "")
    yield from _counts(report)
    yield from _weights(report)
    yield from _left_in_float(report)
    if report.size_before_bytes and report.size_after_bytes:
        ratio = report.size_before_bytes / report.size_after_bytes
        sizes = f"{size_text(report.size_before_bytes)} to {size_text(report.size_after_bytes)}"
        yield "size", f"{sizes} ({ratio:.1f} times smaller)" if ratio >= _SMALLER else sizes
    for output in report.outputs[:_SHOWN_OUTPUTS]:
        if len(output.name) <= _SHORT_NAME:
            yield f"output {output.name}", output_text(output)
        else:  # it would take the room of all other lines
            yield "output", f"{output.name}: {output_text(output)}"
    if len(report.outputs) > _SHOWN_OUTPUTS:
        yield "", f"and {counted(len(report.outputs) - _SHOWN_OUTPUTS, 'more output')}"
    if report.data is not None:
        yield "data", data_text(report.data)
    if report.seconds:
        yield "time", time_text(report.seconds)
    if report.output_path is not None:
        yield "written to", files_text(report.output_path, report.output_data_path)


def _counts(report: Report) -> Iterable[tuple[str, str]]:
    """How many nodes run in which way, by the plan, the engine or the pairs, and what makes these counts differ."""
    codes, stored = codes_text(report.tensors), weights_text(report.tensors)
    if report.planned is not None:
        yield "planned", counts_text(report.planned, codes, stored) + _arithmetic(report.int8_mac_share, codes)
    if report.proven is not None and report.engine is not None:
        stands = counts_text(report.proven, codes, stored) + _arithmetic(report.proven_mac_share, codes)
        yield "executed", f"{stands} (told by {report.engine.engine} {report.engine.version})"
        for number, line in enumerate(report.differences):
            yield "" if number else "difference", line
    elif report.engine is not None and report.engine.size_bytes:
        size = size_text(report.engine.size_bytes)
        yield "engine", f"{size}, built by {report.engine.engine} {report.engine.version}"
    if report.asked is not None:
        stands = counts_text(report.asked, codes, stored)
        yield "by its Q/DQ", f"{stands} (by the target's rules; its engine tells nothing of nodes)"


def _arithmetic(share: float | None, codes: str) -> str:
    return "" if share is None else f"; {share:.1%} of the arithmetic in {codes}"


def _weights(report: Report) -> Iterable[tuple[str, str]]:
    """How near weights in few bits are, where that was measured."""
    known = [row for row in report.tensors if row.sqnr_db is not None]
    if not known:
        return
    worst = min(known, key=lambda row: row.sqnr_db or 0.0)
    best = max(row.sqnr_db or 0.0 for row in known)
    span = f"SQNR {worst.sqnr_db:.1f} to {best:.1f} dB" if len(known) > 1 else f"SQNR {worst.sqnr_db:.1f} dB"
    yield "weights", f"{counted(len(known), 'weight')} in few bits, {span}, worst {worst.name!r}"


def _left_in_float(report: Report) -> Iterable[tuple[str, str]]:
    """The most frequent reasons for float, which is the next question after the counts."""
    found = []
    for row in report.layers:
        reason = _why_float(row)
        if (row.executed or row.decision) == "float" and reason:
            found.append((row.node, row.op, reason))
    for number, line in enumerate(frequent_reasons(found)):
        yield "" if number else "left in float", line


def _why_float(row: LayerRow) -> str:
    # The plan's reason for int8 does not explain why the engine disagrees.
    return row.reason if row.reason and row.decision == "float" else row.why or row.reason


def float_table(report: Report) -> RenderableType | None:
    """The first nodes with weights that run in float, which hold the arithmetic, and how many more run in float."""
    left = [row for row in report.layers if (row.executed or row.decision) == "float"]
    shown = [row for row in left if row.op in MATRIX_OPS][:_SHOWN_NODES]
    more = len(left) - len(shown)
    if not left:
        return None
    line = f"{counted(more, 'more node' if shown else 'node')} in float; --nodes shows every node"
    parts = ([nodes_table(report, shown)] if shown else []) + ([Text(line)] if more else [])
    return Group(*parts)


def nodes_table(report: Report, rows: Sequence[LayerRow]) -> RenderableType:
    """How each of `rows` runs, and why not in int8."""
    table = Table(
        title=f"Nodes on {report.target}", title_justify="left", box=None, pad_edge=False, header_style="bold"
    )
    for heading in ("node", "op", "runs as", "kernel", "rule", "why"):
        table.add_column(heading, overflow="fold")
    for row in rows:
        runs = row.executed or row.decision
        table.add_row(
            escape(row.node), row.op, Text(runs, style=_ACTION_STYLE[runs]), row.engine_op, row.rule,
            escape(_why_float(row)),
        )  # fmt: skip
    return table
