"""--config: a file whose values stand in for options that were not given.

One file serves all commands. A key concerns every command that has the option, but for those that a command keeps
`apart`: what they write, and what they call by the same name and mean otherwise. These, and whatever else is for one
command alone, stand in a table of its name.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from onnxq.cli.options import FILE, Decorator
from onnxq.cli.parameters import ImageSize, MetricName, Numbers, Percent, Points, Score, Size, Table, TargetName
from onnxq.config import Keys, Kind, load_config

_NOT_IN_A_FILE = frozenset({"config", "debug", "help"})


def config_option(*, apart: Collection[str] = ()) -> Decorator:
    """--config, read before all other options.

    Args:
        apart: Long names of options that the command takes from the table of its name alone.
    """

    def read(ctx: click.Context, param: click.Parameter, value: Path | None) -> Path | None:
        if value is not None:
            _take(ctx, value, frozenset(apart))
        return value

    return click.option(
        "--config",
        type=FILE,
        is_eager=True,
        expose_value=False,
        callback=read,
        help="TOML file whose keys are long option names, see docs/terminal.md; options given here win.",
    )


def config_kinds(command: click.Command) -> dict[str, Kind]:
    """The keys that a configuration file of `command` may have: its long option names without dashes."""
    return {
        _long_name(option): _kind(option)
        for option in command.params
        if isinstance(option, click.Option) and _long_name(option) not in _NOT_IN_A_FILE
    }


def from_file(*names: str) -> frozenset[str]:
    """Which parameters of the running command have their value from the file of --config.

    One file serves all commands, so what a run has no use for is passed over there; on the command line it is an error.
    """
    ctx = click.get_current_context()
    return frozenset(name for name in names if ctx.get_parameter_source(name) is ParameterSource.DEFAULT_MAP)


def _take(ctx: click.Context, path: Path, apart: Collection[str]) -> None:
    # Kept for error messages: a bad value is found only when its own option is looked at.
    ctx.meta["onnxq.config"] = str(path)
    names = {_long_name(p): p.name for p in ctx.command.params if isinstance(p, click.Option)}
    loaded = load_config(path, _keys(ctx))
    shared = {key: item for key, item in loaded.values.items() if key in names and key not in apart}
    chosen = {**shared, **loaded.tables.get(str(ctx.command.name), {})}
    ctx.default_map = {str(names[key]): item for key, item in chosen.items()}


def _keys(ctx: click.Context) -> Keys:
    """What a file may hold: the options of all commands that read such files."""
    group = ctx.parent.command if ctx.parent is not None else None
    commands = group.commands if isinstance(group, click.Group) else {}
    readers = {name: c for name, c in commands.items() if any(p.name == "config" for p in c.params)}
    shared = {key: kind for command in readers.values() for key, kind in config_kinds(command).items()}
    arguments = {str(p.name) for c in readers.values() for p in c.params if isinstance(p, click.Argument)}
    return Keys(
        kinds={**shared, **config_kinds(ctx.command)},
        tables={name: config_kinds(command) for name, command in readers.items()},
        arguments={name.replace("_", "-") for name in arguments},
    )


def _long_name(option: click.Option) -> str:
    return max(option.opts, key=len).removeprefix("--")


def _kind(option: click.Option) -> Kind:
    if option.is_flag:
        return Kind.SWITCH
    if isinstance(option.type, Table):
        return Kind.TABLES
    if option.name in ("preprocess", "postprocess"):
        return Kind.PATH  # the function's name behind a colon stays where it is
    if option.multiple:
        return Kind.TEXTS
    by_type: tuple[tuple[type[Any], Kind], ...] = (
        (click.Path, Kind.PATH),
        (TargetName, Kind.NAME_OR_PATH),
        (MetricName, Kind.NAME_OR_PATH),
        (Size, Kind.INTEGER),
        (Numbers, Kind.NUMBERS),
        (click.IntRange, Kind.INTEGER),
        (Percent, Kind.NUMBER_OR_TEXT),
        (Score, Kind.NUMBER_OR_TEXT),
        (click.FloatRange, Kind.NUMBER),
        (type(click.FLOAT), Kind.NUMBER),
        (type(click.INT), Kind.INTEGER),
        (Points, Kind.NUMBER_OR_TEXT),
        (ImageSize, Kind.SIZE),
    )
    return next((kind for cls, kind in by_type if isinstance(option.type, cls)), Kind.TEXT)
