"""`onnxq merge`: statistics of several parts of the data become one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from onnxq.cli import options
from onnxq.cli.documents import stats_document
from onnxq.cli.files import check_places
from onnxq.cli.render import print_json, say, warn
from onnxq.errors import ArtifactError, ConfigError
from onnxq.wording.plural import counted

if TYPE_CHECKING:
    from onnxq import StatsTable


@click.command(short_help="Merge statistics of parts of the data.")
@click.argument("stats", type=options.FILE, nargs=-1, required=True)
@click.option("--output", "-o", type=options.FILE, required=True, help="Statistics file.")
@options.force_option()
@options.json_option("what was merged")
@options.quiet_option()
@options.debug_option()
def merge(stats: tuple[Path, ...], output: Path, force: bool, as_json: bool, quiet: bool) -> None:
    """Merge STATS files of one model into one, exactly: as if all samples had been calibrated in one run.

    \b
    Example:
      onnxq merge part-*.stats -o model.stats

    A file or a shard (`onnxq calibrate --shard`) that is given twice, or a shard of another split, is refused.
    """
    for path in stats:
        check_places({"--output": output}, inputs={"one of the statistics to merge": path}, force=force)
    _see_each_once(stats)
    merged = _merged(stats)
    merged.save(output)
    if as_json:
        print_json(stats_document(merged, output))
    else:
        what = f"{counted(len(merged), 'tensor')} over {counted(merged.samples, 'sample')}"
        say(f"statistics of {what} written to {output}", quiet=quiet)
    if merged.shards is not None:
        numbers = ", ".join(map(str, merged.shards.missing))
        missing, them = ("number {} is", "it") if len(merged.shards.missing) == 1 else ("numbers {} are", "them")
        of = counted(merged.shards.count, "shard")
        warn(f"this is not all of the data: of {of}, {missing.format(numbers)} missing; merge {them} too (onnxq merge)")


def _merged(paths: Sequence[Path]) -> StatsTable:
    """The statistics of all files, with a warning where samples are in several of them.

    Raises:
        ArtifactError: a file is no statistics file, or does not go with those before it.
    """
    from onnxq import load_stats  # noqa: PLC0415 - numpy and onnx only now

    merged = load_stats(paths[0])
    for path in paths[1:]:
        table = load_stats(path)
        try:
            both = merged.merge(table)
        except ArtifactError as error:
            raise ArtifactError(error.message, where=str(path), hint=error.hint) from error
        # Shards of one split have no sample in common, though they may hold equal ones.
        if table.shards is None and merged.seen is not None and table.seen is not None:
            overlap = merged.seen.shared_with(table.seen)
            if overlap.shared:
                of = counted(table.samples, "sample")
                warn(f"{path}: counted twice: {overlap} of its {of}, which the files before it hold, too")
        merged = both
    return merged


def _see_each_once(stats: Sequence[Path]) -> None:
    """See that no samples count twice.

    Raises:
        ConfigError: a file is named twice.
    """
    seen: set[Path] = set()
    for path in stats:
        if path.resolve() in seen:
            raise ConfigError(
                f"{path}: these statistics are given twice, and their samples would count twice",
                hint="name each file once",
            )
        seen.add(path.resolve())
