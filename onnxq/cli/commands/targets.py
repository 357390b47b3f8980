"""`onnxq targets`: the tables that decide what is quantized."""

from __future__ import annotations

import click

from onnxq.cli import options
from onnxq.cli.parameters import TARGETS, TargetName
from onnxq.cli.render import print_json, show
from onnxq.errors import ConfigError


@click.command(short_help="List the targets, or show the table of one.")
@click.argument("name", metavar="NAME", required=False, type=TargetName(TARGETS))
@click.option("--toml", "as_toml", is_flag=True, help="Print the table as a file that --target takes.")
@options.json_option("the tables")
@options.debug_option()
def targets(name: str | None, as_toml: bool, as_json: bool) -> None:
    """List the targets; with NAME, or the path of a .toml file, show its table and where each rule comes from.

    A table printed with --toml is the way to a target of your own: save it under a name that ends in
    .toml, change it, and pass the file as --target. See docs/adding-a-target.md.

    \b
    Examples:
      onnxq targets
      onnxq targets tensorrt
      onnxq targets ort-x64-vnni --toml
    """
    if name is None and as_toml:
        raise ConfigError("a file holds one table", where="--toml", hint="name a target: onnxq targets tensorrt --toml")
    from onnxq.cli.target_view import list_table, target_document, target_table  # noqa: PLC0415 - numpy only now
    from onnxq.targets import TARGETS as TABLES  # noqa: PLC0415
    from onnxq.targets import resolve_target  # noqa: PLC0415
    from onnxq.targets.written import target_to_toml  # noqa: PLC0415

    chosen = list(TABLES.values()) if name is None else [resolve_target(name)[0]]
    if as_toml:
        click.echo(target_to_toml(chosen[0]), nl=False)
    elif as_json:
        print_json({"schema": "onnxq.targets/1", "targets": [target_document(one) for one in chosen]})
    elif name is None:
        show(list_table(chosen), table=True)
    else:
        show(target_table(chosen[0]), table=True)
