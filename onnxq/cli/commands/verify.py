"""`onnxq verify`: what the target's engine makes of a quantized model."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from onnxq.cli import options
from onnxq.cli.files import check_places
from onnxq.cli.render import check_report_suffix, leave_on_failed_checks, say, show_report, write_report

if TYPE_CHECKING:
    from onnxq.report.report import Report
    from onnxq.verification.check import Check


@dataclass(frozen=True, kw_only=True)
class Gates:
    """What the user demands. Attributes as the options of the same names."""

    min_sqnr: float | None
    min_int8: float | None


_GATE_OPTIONS = (
    click.option("--min-sqnr", type=float, metavar="DB", help="Fail unless every float output has this SQNR, in dB."),
    click.option(
        "--min-int8",
        type=click.FloatRange(min=0, max=100),
        metavar="PERCENT",
        help="Fail unless the engine runs this share of the nodes in int8 or fused into int8 nodes.",
    ),
)


@click.command(short_help="Ask the target's engine about a quantized model.")
@click.argument("float_model", metavar="FLOAT", type=options.FILE)
@click.argument("quantized_model", metavar="QUANTIZED", type=options.FILE)
@options.target_option()
@options.data_options("Inputs to compare on, as for `onnxq quantize`; without it they are synthetic.")
@options.grouped(Gates, "gates", *_GATE_OPTIONS)
@click.option("--report", type=options.FILE, help="Write the report to a .html or .json file.")
@options.force_option()
@options.json_option("the report")
@options.quiet_option()
@options.debug_option()
def verify(  # noqa: PLR0913 - one parameter for each group of options
    *,
    float_model: Path,
    quantized_model: Path,
    target: str,
    data_from: options.DataOptions,
    gates: Gates,
    report: Path | None,
    force: bool,
    as_json: bool,
    quiet: bool,
) -> None:
    """Ask the target's engine what it runs in int8, and compare QUANTIZED with the FLOAT model.

    QUANTIZED may be any Q/DQ model, not only one that onnxq made. The exit code is 4 if a check or gate fails.

    \b
    Examples:
      onnxq verify model.onnx model.int8.onnx --data test.npz
      onnxq verify model.onnx model.int8.onnx --data test.npz --min-sqnr 25 --min-int8 90
    """
    check_places(
        {"--report": report},
        inputs={"the quantized model": quantized_model, "the float model": float_model, "the data": data_from.data},
        force=force,
    )
    check_report_suffix(report)
    if data_from.data is None:
        say("warning: NO DATA. The models are compared on synthetic inputs; pass --data SRC", quiet=quiet)
    from onnxq.api import verify as run  # noqa: PLC0415 - numpy and onnx only now

    found = run(float_model, quantized_model, target=target, **data_from.keywords())
    found = replace(found, checks=(*found.checks, *_gate_checks(found, gates)))
    write_report(found, report)
    show_report(found, as_json=as_json, quiet=quiet)
    leave_on_failed_checks(found)


def _gate_checks(found: Report, gates: Gates) -> list[Check]:
    from onnxq.verification.check import Check  # noqa: PLC0415 - numpy only now

    checks = []
    if gates.min_sqnr is not None:
        worst = found.worst_sqnr_db
        detail = "no output is float" if worst is None else f"the worst output has {worst:.1f} dB"
        passed = worst is not None and worst >= gates.min_sqnr
        checks.append(Check(name=f"SQNR at least {gates.min_sqnr:g} dB", passed=passed, detail=detail))
    if gates.min_int8 is not None:
        share = None if found.proven is None else 100 * found.proven.int8_share
        detail = "the engine tells nothing of nodes" if share is None else f"{share:.1f} % of the nodes"
        passed = share is not None and share >= gates.min_int8
        checks.append(Check(name=f"int8 nodes at least {gates.min_int8:g} %", passed=passed, detail=detail))
    return checks
