"""`onnxq data`: what would be fed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from onnxq.cli import options
from onnxq.cli.configuration import config_option
from onnxq.cli.files import check_places, write_text
from onnxq.cli.render import check_report_suffix, say, show, warn
from onnxq.errors import ConfigError

if TYPE_CHECKING:
    from rich.table import Table

    from onnxq.previews.preview import Preview


@click.command(short_help="Show what data would feed a model.")
@click.argument("source", metavar="SRC", type=options.FILE)
@click.argument("model", type=options.FILE)
@options.data_options("The same as SRC, which wins.", as_argument=True)
@click.option("--report", type=options.FILE, help="Write a page with the first pictures (.html), or a .json file.")
@click.option(
    "--save-inputs",
    type=options.FILE,
    metavar="FILE.json",
    help="Write the feeds as Polygraphy takes them with its --load-inputs.",
)
@options.force_option()
@options.json_option("what would be fed")
@config_option(apart=("report",))
@options.debug_option()
def data(  # noqa: PLR0913 - one parameter for each option
    *,
    source: Path,
    model: Path,
    data_from: options.DataOptions,
    report: Path | None,
    save_inputs: Path | None,
    force: bool,
    as_json: bool,
) -> None:
    """Show what SRC would feed to MODEL: names, shapes, ranges, and what is probably wrong with them.

    Reads as `onnxq quantize --data SRC` would, with the same options, and runs the float model on the first samples.
    For a classifier of pictures it also tries the usual preparations, and says with which one the model tells them
    apart best: evidence where they are of several classes, no proof.

    \b
    Examples:
      onnxq data photos/ model.onnx --images imagenet --report data.html
      onnxq data samples.npz model.onnx
      onnxq data clips/ vad.onnx --preprocess frames.py:frames --state stateN=state
      onnxq data samples.npz model.onnx --limit 4 --save-inputs inputs.json
    """
    check_report_suffix(report)
    if save_inputs is not None and save_inputs.suffix.lower() != ".json":
        raise ConfigError("feeds are written as .json", where=f"--save-inputs {str(save_inputs)!r}")
    places = {"--report": report, "--save-inputs": save_inputs}
    check_places(places, inputs={"the model": model, "the data": source}, force=force)
    from onnxq.previews.preview import preview  # noqa: PLC0415 - numpy and onnx only now

    kept: list[Any] = []
    chosen = replace(data_from, data=source)
    found = preview(
        model,
        chosen.source(),
        **chosen.keywords(),
        keep=None if save_inputs is None else lambda batch: kept.append(batch.arrays),
    )
    if save_inputs is not None:
        from onnxq.data.polygraphy_json import feeds_as_json  # noqa: PLC0415

        write_text(save_inputs, feeds_as_json(kept), option="--save-inputs")
    if report is not None:
        text = found.to_json() if report.suffix.lower() == ".json" else found.to_html()
        write_text(report, text, option="--report")
    if as_json:
        click.echo(found.to_json())
        return
    _show(found)


def _show(found: Preview) -> None:
    from onnxq.previews.wording import summary_line, tables  # noqa: PLC0415

    say(summary_line(found), quiet=False)
    for title, rows in tables(found):
        show(_table(title, rows), table=True)
    for text in found.warnings:
        warn(text)
    for text in found.notes:
        say(f"note: {text}", quiet=False)


def _table(title: str, rows: list[tuple[str, ...]]) -> Table:
    from rich.table import Table as RichTable  # noqa: PLC0415

    table = RichTable(*rows[0], title=title, title_justify="left", box=None)
    for row in rows[1:]:
        table.add_row(*row)
    return table
