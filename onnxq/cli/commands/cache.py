"""`onnxq cache`: statistics as a calibration cache of TensorRT."""

from __future__ import annotations

from pathlib import Path

import click

from onnxq.cli import options
from onnxq.cli.files import check_places
from onnxq.cli.parameters import METHODS, Name
from onnxq.cli.render import say
from onnxq.wording.plural import counted


@click.command(short_help="Write statistics as a calibration cache of TensorRT.")
@click.argument("stats", type=options.FILE)
@click.option("--output", "-o", type=options.FILE, required=True, help="Calibration cache.")
@click.option("--method", "-m", type=Name(METHODS), default="entropy", show_default=True, help="How ranges are chosen.")
@click.option(
    "--percentile",
    type=click.FloatRange(min=0, max=100, min_open=True),
    help="For --method percentile, percent of the values inside the range.  [default: 99.99]",
    metavar="P",
)
@click.option(
    "--tensorrt-version",
    default="8.6.1",
    show_default=True,
    metavar="X.Y.Z",
    help="TensorRT that is to read it; another version calibrates anew.",
)
@options.force_option()
@options.quiet_option()
@options.debug_option()
def cache(  # noqa: PLR0913 - one parameter for each option
    *, stats: Path, output: Path, method: str, percentile: float | None, tensorrt_version: str, force: bool, quiet: bool
) -> None:
    """Write the scales of STATS as a calibration cache: what trtexec takes for calibration.

    `onnxq quantize --calibration-cache` reads such a cache.

    \b
    Example:
      onnxq cache model.stats -o model.cache
    """
    check_places({"--output": output}, inputs={"the statistics": stats}, force=force)
    from onnxq import load_stats  # noqa: PLC0415 - numpy only now
    from onnxq.calibration.methods import method_from_name  # noqa: PLC0415
    from onnxq.calibration.solve import replaced_note  # noqa: PLC0415
    from onnxq.calibration.tensorrt_cache import cache_from_stats, save_tensorrt_cache  # noqa: PLC0415

    chosen = method_from_name(method, percentile=percentile)
    made = cache_from_stats(load_stats(stats), chosen, version=tensorrt_version)
    save_tensorrt_cache(made, output)
    for text in replaced_note(chosen.label, made.replaced):
        say(f"note: {text}", quiet=quiet)
    say(f"scales of {counted(len(made.scales), 'tensor')} ({chosen.label}) written to {output}", quiet=quiet)
