"""`onnxq calibrate`: statistics for later, or from one shard of the data."""

from __future__ import annotations

from pathlib import Path

import click

from onnxq.cli import options
from onnxq.cli.documents import stats_document
from onnxq.cli.files import check_places
from onnxq.cli.progress import calibration_progress
from onnxq.cli.render import print_json, say
from onnxq.errors import DataError


@click.command(short_help="Collect statistics of the activations, for later runs.")
@click.argument("model", type=options.FILE)
@click.option("--output", "-o", type=options.FILE, required=True, help="Statistics file.")
@options.plan_options()
@options.data_options("Calibration data, as for `onnxq quantize`.  [default: MODEL.calib.npz if it exists]")
@options.collect_options()
@click.option("--range-only", is_flag=True, help="Keep extremes alone: faster, and enough for --method max.")
@options.force_option()
@options.json_option("what was collected")
@options.quiet_option()
@options.debug_option()
def calibrate(  # noqa: PLR0913 - one parameter for each group of options
    *,
    model: Path,
    output: Path,
    placement: options.PlanOptions,
    data_from: options.DataOptions,
    collecting: options.CollectOptions,
    range_only: bool,
    force: bool,
    as_json: bool,
    quiet: bool,
) -> None:
    """Collect statistics of MODEL's activations, enough for every method of `onnxq quantize --stats`.

    Statistics of parts of the data, made on any number of machines, can be put together with `onnxq merge`.

    \b
    Examples:
      onnxq calibrate model.onnx --data samples.npz -o model.stats
      onnxq quantize model.onnx --stats model.stats --method entropy
    """
    check_places({"--output": output}, source=model, force=force)
    chosen = data_from.beside(model)
    if chosen.data is None:
        raise DataError("there is no calibration data", hint="pass --data SRC")
    from onnxq.api import calibrate as run  # noqa: PLC0415 - numpy and onnx only now

    with calibration_progress(quiet=quiet or as_json, afterwards="saving") as progress:
        stats = run(
            model,
            **chosen.keywords(),
            **placement.keywords(),
            **collecting.keywords(),
            range_only=range_only,
            progress=progress,
        )
    stats.save(output)
    if as_json:
        print_json(stats_document(stats, output))
    else:
        say(f"statistics of {len(stats)} tensors over {stats.samples} samples written to {output}", quiet=quiet)
