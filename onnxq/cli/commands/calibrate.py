"""`onnxq calibrate`: statistics for later, or from one shard of the data."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import click

from onnxq.cli import options
from onnxq.cli.configuration import config_option
from onnxq.cli.documents import stats_document
from onnxq.cli.files import check_places
from onnxq.cli.libraries import custom_ops_option
from onnxq.cli.progress import calibration_progress
from onnxq.cli.render import print_json, say
from onnxq.errors import ConfigError
from onnxq.wording.plural import counted

DEFAULT_CHECKPOINT_EVERY_S = 60.0
THIS_MACHINE = "auto"
"""Stands for --ray without an address."""


@dataclass(frozen=True, kw_only=True)
class LongRun:
    """How a long run is spread and saved. Attributes as the options of the same names."""

    shard: str | None
    ray: str | None
    checkpoint: Path | None
    checkpoint_every: float
    resume: bool


_LONG_RUN_OPTIONS = (
    click.option("--shard", metavar="I/N", help="Take the I-th of N parts of the data; merge with `onnxq merge`."),
    click.option(
        "--ray",
        is_flag=False,
        flag_value=THIS_MACHINE,
        metavar="[ADDRESS]",
        help="Spread the batches over a Ray cluster; without ADDRESS over that of this machine.",
    ),
    click.option(
        "--checkpoint", type=options.FILE, help="Where a long run saves its state.  [default: OUTPUT.checkpoint]"
    ),
    click.option(
        "--checkpoint-every",
        type=click.FloatRange(min=0, min_open=True),
        default=DEFAULT_CHECKPOINT_EVERY_S,
        show_default=True,
        metavar="SECONDS",
        help="Time between two checkpoints.",
    ),
    click.option("--resume", is_flag=True, help="Go on from the checkpoint of an interrupted run, if there is one."),
)


@click.command(short_help="Collect statistics of the activations, for later runs.")
@click.argument("model", type=options.FILE)
@click.option("--output", "-o", type=options.FILE, required=True, help="Statistics file.")
@options.plan_options()
@options.data_options("Calibration data, as for `onnxq quantize`.  [default: MODEL.calib.npz if it exists]")
@options.collect_options()
@click.option("--range-only", is_flag=True, help="Keep extremes alone: faster, and enough for --method max.")
@options.grouped(LongRun, "long_run", *_LONG_RUN_OPTIONS)
@options.force_option()
@options.json_option("what was collected")
@options.quiet_option()
@config_option(apart=("output",))
@custom_ops_option()
@options.debug_option()
def calibrate(  # noqa: PLR0913 - one parameter for each group of options
    *,
    model: Path,
    output: Path,
    placement: options.PlanOptions,
    data_from: options.DataOptions,
    collecting: options.CollectOptions,
    range_only: bool,
    long_run: LongRun,
    force: bool,
    as_json: bool,
    quiet: bool,
) -> None:
    """Collect statistics of MODEL's activations, enough for every method of `onnxq quantize --stats`.

    A run that is interrupted (Ctrl-C, SIGTERM) saves what it has done, and --resume goes on from there. Statistics of
    parts of the data, made on any number of machines, are put together with `onnxq merge`; the result is the same.

    \b
    Examples:
      onnxq calibrate model.onnx --data samples.npz -o model.stats
      onnxq quantize model.onnx --stats model.stats --method entropy
      onnxq calibrate model.onnx --data samples.npz --shard 3/16 -o part-3.stats
    """
    saved = long_run.checkpoint or output.with_name(output.name + ".checkpoint")
    # A checkpoint that exists is not to be replaced but to be gone on from: see below.
    chosen = data_from.beside(model)
    check_places(
        {"--output": output, "--checkpoint": saved},
        inputs={"the input model": model, "the calibration data": chosen.data},
        force=force,
        kept=frozenset({saved}),
    )
    if chosen.data is None:
        raise ConfigError("there is no calibration data", hint="pass --data SRC")
    from onnxq.api.calibrate import calibrate as run  # noqa: PLC0415 - numpy and onnx only now
    from onnxq.calibration.checkpoint import Checkpointing, stop_on_signals  # noqa: PLC0415
    from onnxq.calibration.statistics.file import save_stats  # noqa: PLC0415

    if long_run.resume and not saved.exists():
        say(f"no checkpoint {str(saved)!r}: starting from the beginning", quiet=quiet)
    remarks: list[str] = []
    with stop_on_signals() as stop, calibration_progress(quiet=quiet or as_json, afterwards="saving") as progress:
        checkpointing = Checkpointing(
            path=saved, every_s=long_run.checkpoint_every, resume=long_run.resume, overwrite=force, stop=stop
        )
        stats = run(
            model,
            chosen.source(),
            target=placement.target,
            activations=placement.activations,
            **chosen.keywords(),
            **placement.keywords(),
            **collecting.keywords(),
            range_only=range_only,
            shard=long_run.shard,
            ray=long_run.ray is not None if long_run.ray in (None, THIS_MACHINE) else str(long_run.ray),
            checkpoint=checkpointing,
            progress=progress,
            remark=remarks.append,
        )
    for text in remarks:
        say(f"note: {text}", quiet=quiet)
    save_stats(stats, output, force=force)
    if as_json:
        print_json(stats_document(stats, output))
    else:
        part = "" if stats.shards is None else f" ({stats.shards})"
        what = f"{counted(len(stats), 'tensor')} over {counted(stats.samples, 'sample')}{part}"
        say(f"statistics of {what} written to {output}", quiet=quiet)
