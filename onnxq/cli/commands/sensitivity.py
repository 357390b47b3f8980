"""`onnxq sensitivity`: which layers hurt."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from onnxq.cli import options
from onnxq.cli.configuration import config_option
from onnxq.cli.files import check_places, write_text
from onnxq.cli.forms import FORM_OPTIONS, FormOptions
from onnxq.cli.libraries import custom_ops_option
from onnxq.cli.parameters import METHODS, QUANTIZED, RANK_BY, Name
from onnxq.cli.progress import calibration_progress
from onnxq.cli.render import check_report_suffix, say, warn
from onnxq.wording.flags import flags_first

if TYPE_CHECKING:
    from onnxq.search.ranking import Sensitivity


@click.command(short_help="Rank layers by how much each hurts the output.")
@click.argument("model", type=options.FILE)
@options.grouped(FormOptions, "form", *FORM_OPTIONS)
@options.plan_options()
@options.data_options("Samples, as for `onnxq quantize`; static: all are calibrated on, some are measured on.")
@click.option("--method", "-m", type=Name(METHODS), default="auto", show_default=True, help="How ranges are chosen.")
@click.option("--stats", type=options.FILE, help="Statistics of an earlier run: no inference for calibration.")
@click.option(
    "--samples", type=options.COUNT, default=32, show_default=True, metavar="N", help="Samples to measure on."
)
@click.option(
    "--quantize",
    type=Name(QUANTIZED),
    default="only",
    show_default=True,
    help="Quantize only one layer at a time, or all layers but one at a time.",
)
@click.option("--by", type=Name(RANK_BY), default="sqnr", show_default=True, help="What layers are ranked by.")
@click.option(
    "--seconds", type=click.FloatRange(min=0, min_open=True), metavar="S", help="Measure for so long at most."
)
@click.option("--top", type=options.COUNT, metavar="N", help="Show the N most sensitive layers only.")
@click.option(
    "--threads", type=options.COUNT, metavar="N", help="Threads for inference; by default onnxruntime decides."
)
@click.option("--report", type=options.FILE, help="Write the ranking to a .html file (with a plot) or a .json file.")
@options.force_option()
@options.json_option("the ranking")
@options.quiet_option()
@config_option(apart=("report",))
@custom_ops_option()
@options.debug_option()
def sensitivity(  # noqa: PLR0913 - one parameter for each option
    *,
    model: Path,
    form: FormOptions,
    placement: options.PlanOptions,
    data_from: options.DataOptions,
    method: str,
    stats: Path | None,
    samples: int,
    quantize: Literal["only", "all-but"],
    by: Literal["sqnr", "cosine", "kl"],
    seconds: float | None,
    top: int | None,
    threads: int | None,
    report: Path | None,
    force: bool,
    as_json: bool,
    quiet: bool,
) -> None:
    """Rank the layers of MODEL by how much each alone hurts the output: SQNR, cosine, and KL of a classifier.

    A layer is a node that would run in int8, with the quantization of its input, weight, bias and output; in mode
    weight-only, a weight. Only what follows a layer is run again for it. Ctrl-C shows what was measured so far.

    \b
    Examples:
      onnxq sensitivity model.onnx --data samples.npz
      onnxq sensitivity model.onnx --data samples.npz --target tensorrt --top 10 --report layers.html
      onnxq sensitivity model.onnx --data samples.npz --mode weight-only --rounding nearest
    """
    chosen = data_from.beside(model)
    inputs = {"the model": model, "the data": chosen.data, "the file of --stats": stats}
    check_places({"--report": report}, inputs=inputs, force=force)
    check_report_suffix(report)
    if chosen.data is None:
        say("warning: NO DATA. Layers are measured on synthetic inputs; pass --data SRC", quiet=quiet)
    from onnxq import load_stats  # noqa: PLC0415 - numpy and onnx only now
    from onnxq.api.sensitivity import sensitivity as run  # noqa: PLC0415

    with calibration_progress(quiet=quiet or as_json, afterwards="measuring layers") as progress:
        found = run(
            model,
            chosen.source(),
            target=placement.target,
            mode=form.mode,
            activations=placement.activations,
            weights=form.weights,
            **chosen.keywords(),
            **form.keywords(),
            **placement.keywords(),
            method=method,
            stats=None if stats is None else load_stats(stats),
            samples=samples,
            quantize=quantize,
            by=by,
            seconds=seconds,
            threads=threads,
            progress=progress,
        )
    if report is not None:
        text = found.to_json() if report.suffix.lower() == ".json" else found.to_html()
        write_text(report, text, option="--report")
    _show(found, top=top, as_json=as_json, quiet=quiet)


def _show(found: Sensitivity, *, top: int | None, as_json: bool, quiet: bool) -> None:
    if as_json:
        click.echo(found.to_json())
    elif not quiet:
        click.echo(flags_first(found.to_text(top=top)), nl=False)
    if as_json or quiet:
        for text in found.warnings:
            warn(text)
