"""Rows of plans, models and statistics as tables for a person."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from onnxq.report.explanation import Explanation, NodeRow, TensorRow
from onnxq.report.weight_shares import is_code
from onnxq.report.wording import frequent_reasons
from onnxq.wording.flags import flags_first
from onnxq.wording.plural import counted

_SHOWN_CHANNELS = 3
_LEFT = "left in float: "
_STYLES = {"int8": "green", "fused": "cyan", "weights": "green", "float": "yellow"}


def node_table(rows: Iterable[NodeRow], *, title: str) -> Table:
    """One line for each node."""
    table = _table(title, ("node", "op", "runs as", "rule", "MACs", "reason"), right=("MACs",))
    for row in rows:
        table.add_row(
            escape(row.node),
            row.op,
            Text(row.runs, style=_STYLES.get(row.action, "dim")),
            escape(row.rule),
            _share(row),
            escape(flags_first(row.reason)),
        )
    return table


def tensor_table(rows: Iterable[TensorRow], *, title: str) -> Table:
    """One line for each quantized tensor."""
    headings = ("tensor", "role", "type", "axis", "block", "zero-point", "scale", "from", "shared", "rule", "read by")
    cells = [
        (
            row.tensor,
            row.role,
            row.dtype,
            "" if row.axis is None else str(row.axis),
            "" if row.block_size is None else str(row.block_size),
            several([str(z) for z in dict.fromkeys(row.zero_point)], "values"),
            several([f"{s:.6g}" for s in row.scale], "channels" if row.block_size is None else "blocks"),
            row.source,
            row.group,
            row.rule,
            ", ".join(row.readers),
        )
        for row in rows
    ]
    # A column that says nothing (a model does not tell where its scales come from) is left out.
    used = [i for i in range(len(headings)) if i == 0 or any(line[i] for line in cells)]
    table = _table(title, [headings[i] for i in used])
    for line in cells:
        table.add_row(*(escape(line[i]) for i in used))
    return table


def counts(
    rows: Sequence[NodeRow], int8_mac_share: float | None, weight_shares: Mapping[str, float] | None = None
) -> Text:
    """How many nodes run as what, how much of the arithmetic is in int8, and how much of the weights in few bits."""
    found = Counter(row.runs for row in rows)
    codes = sorted({row.runs for row in rows if row.action == "int8"}) or ["int8"]
    stored = sorted({row.runs for row in rows if row.action == "weights"})
    if stored and not found[codes[0]]:
        codes = []  # nothing was to compute on codes
    kinds = (*codes, *stored, "fused", "float", *(["other"] if found["other"] else []))
    line = ", ".join(f"{found[runs]} {runs}" for runs in kinds)
    share = ""
    if codes and int8_mac_share is not None:
        share = f"; {int8_mac_share:.1%} of the arithmetic in {' and '.join(codes)}"
    few = [(name, part) for name, part in (weight_shares or {}).items() if is_code(name)]
    parts = [f"{part:.1%}{'' if number else ' of the weights'} in {name}" for number, (name, part) in enumerate(few)]
    return Text(f"{counted(len(rows), 'node')}: {line}{share}{'; ' if parts else ''}{', '.join(parts)}")


def explanation_table(
    shown: Explanation, whole: Explanation, *, title: str, tensors: bool, notes: Iterable[str] = ()
) -> RenderableType:
    """The picked rows, nodes or tensors, then the counts of the whole and why most of its float nodes are that."""
    table = tensor_table(shown.tensors, title=title) if tensors else node_table(shown.nodes, title=title)
    said = frequent_reasons((row.node, row.op, row.reason) for row in whole.nodes if row.action == "float")
    lines = [Text(f"{'' if number else _LEFT:{len(_LEFT)}}{flags_first(line)}") for number, line in enumerate(said)]
    found = counts(whole.nodes, whole.int8_mac_share)
    return Group(table, found, *lines, *(Text(flags_first(f"note: {n}"), style="cyan") for n in notes))


def several(values: list[str], of: str = "channels") -> str:
    """A few of many values, and how many there are, one for each of what is named."""
    if len(values) <= _SHOWN_CHANNELS:
        return ", ".join(values)
    return ", ".join(values[:_SHOWN_CHANNELS]) + f", ... ({len(values)} {of})"


def _share(row: NodeRow) -> str:
    if row.macs is None:
        return "?"
    if not row.macs:
        return ""
    return f"{row.macs:,}" if row.mac_share is None else f"{row.mac_share:.1%}"


def _table(title: str, headings: Iterable[str], *, right: Iterable[str] = ()) -> Table:
    table = Table(title=title, title_justify="left", box=None, pad_edge=False, header_style="bold")
    for heading in headings:
        table.add_column(heading, overflow="fold", justify="right" if heading in right else "left")
    return table
