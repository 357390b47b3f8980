"""What a user demands of a report, beyond its own checks: the exit code is 4 where it is not met."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import click

from onnxq.cli.parameters import Percent

if TYPE_CHECKING:
    from onnxq.report.gates import GateKeywords


@dataclass(frozen=True, kw_only=True)
class GateOptions:
    """What the user demands. Attributes as the options of the same names."""

    min_sqnr: float | None
    min_int8: float | str | None
    require_engine: bool

    def keywords(self) -> GateKeywords:
        """What the Python API is to demand of the engine's answer; an SQNR may also be what is searched for."""
        return {"min_int8": self.min_int8, "require_engine": self.require_engine}


GATE_OPTIONS = (
    click.option("--min-sqnr", type=float, metavar="DB", help="Fail unless every float output has this SQNR, in dB."),
    click.option(
        "--min-int8",
        type=Percent(),
        metavar=Percent.name,
        help="Fail unless the engine runs this share of the nodes in int8 or fused into int8 nodes. TensorRT does not "
        "tell.",
    ),
    click.option("--require-engine", is_flag=True, help="Fail unless the target's engine was there to be asked."),
)
