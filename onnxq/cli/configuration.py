"""--config: a file whose values stand in for options that were not given."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from onnxq.cli.options import FILE, Decorator
from onnxq.cli.parameters import Numbers, Points, Size, Table, TargetName
from onnxq.config import Kind, load_config

_NOT_IN_A_FILE = frozenset({"config", "debug", "help"})


def config_option() -> Decorator:
    """--config, read before all other options."""
    return click.option(
        "--config",
        type=FILE,
        is_eager=True,
        expose_value=False,
        callback=_read,
        help="TOML file whose keys are these long option names; options given here win, and keys of other commands are "
        "passed over.",
    )


def config_kinds(command: click.Command) -> dict[str, Kind]:
    """The keys that a configuration file of `command` may have: its long option names without dashes."""
    return {
        _long_name(option): _kind(option)
        for option in command.params
        if isinstance(option, click.Option) and _long_name(option) not in _NOT_IN_A_FILE
    }


def _read(ctx: click.Context, param: click.Parameter, value: Path | None) -> Path | None:
    if value is not None:
        # Kept for error messages: a bad value is found only when its own option is looked at.
        ctx.meta["onnxq.config"] = str(value)
        names = {_long_name(p): p.name for p in ctx.command.params if isinstance(p, click.Option)}
        loaded: dict[str, Any] = load_config(value, {**_kinds_elsewhere(ctx), **config_kinds(ctx.command)})
        ctx.default_map = {str(names[key]): item for key, item in loaded.items() if key in names}
    return value


def _kinds_elsewhere(ctx: click.Context) -> dict[str, Kind]:
    """The keys of all commands that read such files: one file serves them all, and each takes what concerns it."""
    group = ctx.parent.command if ctx.parent is not None else None
    commands = group.commands.values() if isinstance(group, click.Group) else ()
    readers = [c for c in commands if any(p.name == "config" for p in c.params)]
    return {key: kind for command in readers for key, kind in config_kinds(command).items()}


def _long_name(option: click.Option) -> str:
    return max(option.opts, key=len).removeprefix("--")


def _kind(option: click.Option) -> Kind:
    if option.is_flag:
        return Kind.SWITCH
    if isinstance(option.type, Table):
        return Kind.TABLES
    if option.name == "preprocess":
        return Kind.PATH  # the function's name behind a colon stays where it is
    if option.multiple:
        return Kind.TEXTS
    by_type: tuple[tuple[type[Any], Kind], ...] = (
        (click.Path, Kind.PATH),
        (TargetName, Kind.NAME_OR_PATH),
        (Size, Kind.INTEGER),
        (Numbers, Kind.NUMBERS),
        (click.IntRange, Kind.INTEGER),
        (click.FloatRange, Kind.NUMBER),
        (type(click.FLOAT), Kind.NUMBER),
        (type(click.INT), Kind.INTEGER),
        (Points, Kind.NUMBER_OR_TEXT),
    )
    return next((kind for cls, kind in by_type if isinstance(option.type, cls)), Kind.TEXT)
