"""What a statistics file holds. Imports numpy: only `onnxq inspect` itself may import this module.

JSON: onnxq.stats/1 as in `documents`, with rows: [{tensor, rmin, rmax, count, counted, zeros, nonfinite, p999}].
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from onnxq.calibration.statistics.file import MAGIC
from onnxq.calibration.statistics.histogram import BINS
from onnxq.calibration.statistics.table import StatsTable, TensorStats
from onnxq.cli.documents import stats_document
from onnxq.planning.names import selected, unmatched_filter
from onnxq.wording.plural import counted

_MOST = 0.999


@dataclass(frozen=True, kw_only=True)
class StatsRow:
    """One tensor.

    Attributes:
        tensor: Its name.
        rmin: Smallest finite value; None where there was none.
        rmax: Largest finite value.
        count: Elements seen.
        counted: Elements in the histogram; 0 where only the range was kept.
        zeros: Share of the elements counted that are 0, 0 to 1; None without a histogram.
        nonfinite: NaN and infinite elements.
        p999: Magnitude that 99.9 % of the elements do not exceed, to the width of a bin; None without a histogram.
    """

    tensor: str
    rmin: float | None
    rmax: float | None
    count: int
    counted: int
    zeros: float | None
    nonfinite: int
    p999: float | None


def is_stats_file(path: Path) -> bool:
    """Whether a file begins as statistics do."""
    try:
        with path.open("rb") as file:
            return file.read(len(MAGIC)) == MAGIC
    except OSError:
        return False


def stats_rows(stats: StatsTable, patterns: Sequence[str] = (), words: Sequence[str] = ()) -> list[StatsRow]:
    """The tensors of a file, by name.

    Args:
        stats: The file's content.
        patterns: Names or patterns of the tensors to show; none shows all.
        words: Each must occur in the name.

    Raises:
        ConfigError: a pattern fits nothing.
    """
    names = sorted(name for name, _ in stats.items())
    wanted: set[str] = set()
    for pattern in patterns:
        found = selected(pattern, names, where="--tensor")
        if not found:
            raise unmatched_filter("tensor", pattern, names, "--tensor")
        wanted.update(found)
    return [
        _row(name, stats.tensors[name])
        for name in names
        if (not patterns or name in wanted) and all(word.lower() in name.lower() for word in words)
    ]


def _row(name: str, one: TensorStats) -> StatsRow:
    weight = one.zeros + int(one.counts.sum())
    return StatsRow(
        tensor=name,
        rmin=one.rmin if one.finite else None,
        rmax=one.rmax if one.finite else None,
        count=one.count,
        counted=one.counted,
        zeros=one.zeros / weight if weight else None,
        nonfinite=one.nonfinite,
        p999=_magnitude(one, weight) if weight else None,
    )


def _magnitude(one: TensorStats, weight: int) -> float:
    """Upper end of the bin of |x| below which 99.9 % of the elements lie."""
    folded = one.counts[BINS:] + one.counts[:BINS][::-1]
    reached = int(np.searchsorted(one.zeros + np.cumsum(folded), _MOST * weight))
    return min((reached + 1) * 2.0**one.exponent, max(-one.rmin, one.rmax))


def stats_table(stats: StatsTable, rows: Sequence[StatsRow], path: Path) -> RenderableType:
    """The rows as a person reads them."""
    table = Table(title=f"Statistics in {path}", title_justify="left", box=None, pad_edge=False, header_style="bold")
    for heading in ("tensor", "min", "max", "99.9 % of |x|", "zeros", "elements", "not finite"):
        table.add_column(heading, overflow="fold", justify="left" if heading == "tensor" else "right")
    for row in rows:
        table.add_row(
            escape(row.tensor),
            _number(row.rmin),
            _number(row.rmax),
            _number(row.p999),
            "?" if row.zeros is None else f"{row.zeros:.1%}",
            f"{row.count:,}",
            str(row.nonfinite) if row.nonfinite else "",
        )
    part = "" if stats.shards is None else f", of {stats.shards}"
    line = f"{counted(len(stats), 'tensor')} over {counted(stats.samples, 'sample')}{part}; model {stats.digest[:12]}"
    return Group(table, Text(line))


def stats_facts(stats: StatsTable, rows: Sequence[StatsRow], path: Path) -> dict[str, Any]:
    """The rows as plain values."""
    return {**stats_document(stats, path), "rows": [asdict(row) for row in rows]}


def _number(value: float | None) -> str:
    return "?" if value is None else f"{value:.6g}"
