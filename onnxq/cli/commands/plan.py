"""`onnxq plan`: what would be quantized, and why not."""

from __future__ import annotations

from pathlib import Path

import click

from onnxq.cli import options
from onnxq.cli.configuration import config_option, from_file
from onnxq.cli.documents import plan_document
from onnxq.cli.filters import Filters, filter_options
from onnxq.cli.forms import FORM_OPTIONS, FormOptions
from onnxq.cli.libraries import custom_ops_option
from onnxq.cli.parameters import METHODS, Name
from onnxq.cli.render import print_json, show


@click.command(short_help="Show what would be quantized, and why not.")
@click.argument("model", type=options.FILE)
@options.grouped(FormOptions, "form", *FORM_OPTIONS)
@options.plan_options()
@filter_options()
@click.option("--stats", type=options.FILE, help="Statistics of an earlier run: scales of activations are shown too.")
@click.option(
    "--method", "-m", type=Name(METHODS), default="auto", show_default=True, help="How ranges are chosen from them."
)
@click.option("--percentile", type=float, help="For --method percentile.  [default: 99.99]", metavar="P")
@options.json_option("the plan")
@config_option()
@custom_ops_option()
@options.debug_option()
def plan(  # noqa: PLR0913 - one parameter for each group of options
    *,
    model: Path,
    form: FormOptions,
    placement: options.PlanOptions,
    filters: Filters,
    stats: Path | None,
    method: str,
    percentile: float | None,
    as_json: bool,
) -> None:
    """Show how each node of MODEL would run on the target, and why. Needs no data.

    A node runs in int8 (or fp8, or 16 bits), is fused (it disappears into such a neighbour), has its weights stored in
    few bits, or stays float. Names are those of the model
    after onnxq has folded what can be folded. The rules are explained in docs/targets.md. With --tensors the quantized
    tensors are shown: type, scale and zero-point as far as they are known without data, and who shares them.

    \b
    Examples:
      onnxq plan model.onnx --target tensorrt
      onnxq plan model.onnx --target ort-cpu --decision float --op MatMul
      onnxq plan model.onnx --tensors --node '/head/*' --stats model.stats
      onnxq plan model.onnx --mode weight-only --tensors
    """
    from onnxq import load_stats  # noqa: PLC0415 - numpy and onnx only now
    from onnxq.api.plan import explain  # noqa: PLC0415

    idle = from_file("method", "percentile") if stats is None else frozenset()
    method, percentile = "auto" if "method" in idle else method, None if "percentile" in idle else percentile
    made, rows = explain(
        model,
        stats=None if stats is None else load_stats(stats),
        method=method,
        percentile=percentile,
        parameters=filters.shows_tensors or stats is not None,
        target=placement.target,
        mode=form.mode,
        activations=placement.activations,
        weights=form.weights,
        **form.keywords(),
        **placement.keywords(),
    )
    picked = filters.rows().pick(rows)
    if as_json:
        tensors = filters.shows_tensors or stats is not None
        print_json(plan_document(made, picked, rows.int8_mac_share, mode=form.mode, tensors=tensors))
        return
    from onnxq.cli.tables import explanation_table  # noqa: PLC0415

    title = f"Plan for {made.target}" + ("" if form.mode == "static" else f", mode {form.mode}")
    show(explanation_table(picked, rows, title=title, tensors=filters.shows_tensors, notes=made.notes), table=True)
