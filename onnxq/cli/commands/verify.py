"""`onnxq verify`: what the target's engine makes of a quantized model."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from onnxq.cli import options
from onnxq.cli.configuration import config_option
from onnxq.cli.files import check_places
from onnxq.cli.gates import GATE_OPTIONS, GateOptions
from onnxq.cli.libraries import custom_ops_option
from onnxq.cli.progress import calibration_progress
from onnxq.cli.render import (
    check_report_suffix,
    errors_in_junit,
    leave_on_failed_checks,
    say,
    show,
    show_report,
    write_junit,
    write_report,
)

if TYPE_CHECKING:
    from onnxq.report.contents import LayerRow
    from onnxq.report.report import Report


@click.command(short_help="Ask the target's engine about a quantized model.")
@click.argument("float_model", metavar="FLOAT", type=options.FILE)
@click.argument("quantized_model", metavar="QUANTIZED", type=options.FILE)
@options.target_option(None, "what QUANTIZED was made for, else ort-cpu")
@options.data_options("Inputs to compare on, as for `onnxq quantize`; without it they are synthetic.")
@options.grouped(GateOptions, "gates", *GATE_OPTIONS)
@click.option(
    "--reproduce",
    is_flag=True,
    help="Quantize FLOAT again as QUANTIZED says it was made, with the data of --data, and fail unless it is the same.",
)
@click.option("--nodes", is_flag=True, help="Show every node: how it runs, and why not in int8.")
@click.option(
    "--filter", "words", multiple=True, metavar="WORD", help="Show only nodes whose row holds WORD; repeatable."
)
@click.option("--report", type=options.FILE, help="Write the report to a .html or .json file.")
@options.junit_option()
@options.force_option()
@options.json_option("the report")
@options.quiet_option()
@config_option(apart=("report", "junit"))
@custom_ops_option()
@options.debug_option()
def verify(  # noqa: PLR0913 - one parameter for each group of options
    *,
    float_model: Path,
    quantized_model: Path,
    target: str | None,
    data_from: options.DataOptions,
    gates: GateOptions,
    reproduce: bool,
    nodes: bool,
    words: tuple[str, ...],
    report: Path | None,
    junit: Path | None,
    force: bool,
    as_json: bool,
    quiet: bool,
) -> None:
    """Ask the target's engine what it runs in int8, and compare QUANTIZED with the FLOAT model.

    QUANTIZED may be any Q/DQ model, not only one that onnxq made. For each node in float it says why: the plan's
    reason, where onnxq made the model, else the rule of the target and the neighbour in the way. The rules are
    explained in docs/targets.md. The exit code is 4 if a check or gate fails.

    \b
    Examples:
      onnxq verify model.onnx model.int8.onnx --data test.npz
      onnxq verify model.onnx model.int8.onnx --data test.npz --min-sqnr 25 --min-int8 90
      onnxq verify model.onnx model.int8.onnx --data test.npz --min-sqnr 25 --quiet --junit verify.xml
      onnxq verify model.onnx model.int8.onnx --data samples.npz --reproduce
      onnxq verify model.onnx other.qdq.onnx --target tensorrt --filter Conv
    """
    check_places(
        {"--report": report, "--junit": junit},
        inputs={"the quantized model": quantized_model, "the float model": float_model, "the data": data_from.data},
        force=force,
    )
    check_report_suffix(report)
    if data_from.data is None:
        say("data: NONE; --data SRC was not given: inputs are made up", quiet=quiet)
    from onnxq.api.verify import verify as run  # noqa: PLC0415 - numpy and onnx only now

    with (
        errors_in_junit(junit, f"onnxq verify {quantized_model.name}"),
        calibration_progress(quiet=quiet or as_json, afterwards="comparing") as progress,
    ):
        found = run(
            float_model,
            quantized_model,
            data_from.source(),
            target=target,
            min_sqnr=gates.min_sqnr,
            **gates.keywords(),
            **data_from.keywords(),
            details=report is not None,
            progress=progress,
        )
    if reproduce:
        from onnxq.api.reproduce import reproduce as make_again  # noqa: PLC0415

        again = make_again(float_model, quantized_model, data_from.source(), target=target)
        say(f"{again.name}: {again.detail}", quiet=quiet or not again.passed)
        found = replace(found, checks=(*found.checks, again))
    write_report(found, report, quiet=quiet or as_json)
    write_junit(found, junit)
    show_report(found, as_json=as_json, quiet=quiet)
    readable = not as_json and not quiet
    if readable:
        _show_nodes(found, words, every=nodes)
    leave_on_failed_checks(found, shown=readable)


def _show_nodes(found: Report, words: tuple[str, ...], *, every: bool) -> None:
    """The rows asked for; unasked, what matters most of the nodes in float."""
    from onnxq.report.text import float_table, nodes_table  # noqa: PLC0415 - rich only now

    def text(row: LayerRow) -> str:
        parts = (row.node, row.op, row.executed or row.decision, row.engine_op, row.rule, row.why or row.reason)
        return " ".join(parts).lower()

    if every or words:
        rows = [row for row in found.layers if all(word.lower() in text(row) for word in words)]
        show(nodes_table(found, rows), table=True)
    elif (table := float_table(found)) is not None:
        show(table, table=True)
