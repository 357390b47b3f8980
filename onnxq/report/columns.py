"""Tables in plain text: columns as wide as their widest cell, numbers to the right."""

from __future__ import annotations

from collections.abc import Sequence

_GAP = "  "


def columns(headings: Sequence[str], rows: Sequence[Sequence[str]], *, numbers: Sequence[int] = ()) -> str:
    """A table, without a newline at its end.

    Args:
        headings: One for each column.
        rows: Cells as text.
        numbers: Positions of the columns that are set to the right.

    >>> print(columns(["node", "dB"], [["conv", "9.5"], ["head", "41.0"]], numbers=[1]))
    node    dB
    conv   9.5
    head  41.0
    """
    table = [headings, *rows]
    widths = [max(len(row[i]) for row in table) for i in range(len(headings))]
    lines = [
        _GAP.join(
            cell.rjust(width) if i in numbers else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in table
    ]
    return "\n".join(lines)
