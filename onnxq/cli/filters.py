"""Options that pick rows, of `onnxq plan` and `onnxq inspect`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import click

from onnxq.cli.options import Decorator, grouped
from onnxq.cli.parameters import Name

if TYPE_CHECKING:
    from onnxq.report.explanation import RowFilter

DECISIONS = ("int8", "fused", "weights", "float", "other")


@dataclass(frozen=True, kw_only=True)
class Filters:
    """Which rows to show. Attributes as the options of the same names."""

    node: tuple[str, ...]
    op: tuple[str, ...]
    decision: tuple[str, ...]
    tensor: tuple[str, ...]
    words: tuple[str, ...]
    tensors: bool

    @property
    def any(self) -> bool:
        """Whether rows are picked at all."""
        return bool(self.node or self.op or self.decision or self.tensor or self.words)

    @property
    def shows_tensors(self) -> bool:
        """Whether the rows are tensors."""
        return self.tensors or bool(self.tensor)

    def rows(self) -> RowFilter:
        """The filter itself."""
        from onnxq.report.explanation import RowFilter  # noqa: PLC0415 - imports numpy

        return RowFilter(nodes=self.node, tensors=self.tensor, ops=self.op, decisions=self.decision, words=self.words)


def filter_options() -> Decorator:
    """The options of `Filters`."""
    return grouped(
        Filters,
        "filters",
        click.option("--tensors", is_flag=True, help="Show the quantized tensors instead of the nodes."),
        click.option(
            "--node",
            multiple=True,
            metavar="PATTERN",
            help="Show only nodes of this name (or the tensors that they read and write): a name, a pattern such as "
            "'/head/*', or 're:' and a regular expression; repeatable.",
        ),
        click.option("--op", multiple=True, metavar="OP", help="Show only nodes of this type; repeatable."),
        click.option(
            "--decision",
            multiple=True,
            type=Name(DECISIONS),
            help="Show only nodes that run so; repeatable.",
        ),
        click.option("--tensor", multiple=True, metavar="PATTERN", help="Show only tensors of this name; repeatable."),
        click.option(
            "--filter", "words", multiple=True, metavar="WORD", help="Show only rows that hold WORD; repeatable."
        ),
    )
