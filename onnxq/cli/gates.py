"""What a user demands of a report, beyond its own checks: the exit code is 4 where it is not met."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import click

from onnxq.cli.parameters import Percent

if TYPE_CHECKING:
    from onnxq.report.report import Report


@dataclass(frozen=True, kw_only=True)
class Gates:
    """What the user demands. Attributes as the options of the same names."""

    min_sqnr: float | None
    min_int8: float | None
    require_engine: bool


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


def gated(report: Report, gates: Gates) -> Report:
    """`report` with a check for each demand."""
    from onnxq.verification.check import Check  # noqa: PLC0415 - numpy only now

    checks: list[Check] = []
    if gates.min_sqnr is not None:
        worst = report.worst_sqnr_db
        detail = "no output is float" if worst is None else f"the worst output has {worst:.1f} dB"
        passed = worst is not None and worst >= gates.min_sqnr
        checks.append(Check(name=f"SQNR at least {gates.min_sqnr:g} dB", passed=passed, detail=detail))
    if gates.min_int8 is not None:
        share = None if report.proven is None else 100 * report.proven.int8_share
        detail = "the engine tells nothing of nodes" if share is None else f"{share:.1f} % of the nodes"
        passed = share is not None and share >= gates.min_int8
        checks.append(Check(name=f"int8 nodes at least {gates.min_int8:g} %", passed=passed, detail=detail))
    if gates.require_engine:
        asked = report.engine is not None
        detail = f"{report.target}'s engine was asked" if asked else f"{report.target}'s engine is not installed here"
        checks.append(Check(name="the engine was asked", passed=asked, detail=detail))
    return replace(report, checks=(*report.checks, *checks))
