"""Configuration files (https://toml.io): what would be typed as options, kept in a file.

target = "tensorrt"
data = "samples.npz"          paths are relative to the file's folder
exclude = ["/head/*"]

[[override]]                  how single nodes and tensors differ, see `planning/overrides.py`
tensors = "images"
range = [0.0, 1.0]

[evaluate]                    for this command alone, before what stands above
data = "labelled.npz"
"""

from __future__ import annotations

import difflib
import enum
import sys
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from onnxq.errors import ConfigError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


class Kind(enum.Enum):
    """What a key of the file may hold."""

    TEXT = "a string"
    PATH = "a path, as a string"
    INTEGER = "an integer"
    NUMBER = "a number"
    NUMBERS = "a list of numbers"
    NUMBER_OR_TEXT = 'a number, or a string such as "0.5%"'
    SIZE = 'a number of pixels, or a string such as "224x320"'
    SWITCH = "true or false"
    TEXTS = "a list of strings"
    TABLES = "a list of tables: [[override]]"
    NAME_OR_PATH = "a name, or the path of a file"


@dataclass(frozen=True, kw_only=True)
class Keys:
    """What a file may hold.

    Attributes:
        kinds: What each known key holds.
        tables: The keys of each table with a name: those of one command.
        arguments: Names that look like keys and are not, because they stand on the command line.
    """

    kinds: Mapping[str, Kind]
    tables: Mapping[str, Mapping[str, Kind]] = field(default_factory=dict)
    arguments: Collection[str] = ()


@dataclass(frozen=True, kw_only=True)
class Config:
    """What a file holds; paths in it are made absolute or relative to the working directory.

    Attributes:
        values: By key, for all commands.
        tables: By the name of a command and key.
    """

    values: Mapping[str, Any]
    tables: Mapping[str, Mapping[str, Any]]


def load_config(path: Path, keys: Keys) -> Config:
    """Read a configuration file.

    Args:
        path: A TOML file.
        keys: What may stand in it.

    Raises:
        ConfigError: the file cannot be read, is not TOML, or has an unknown key or a value of a wrong type.
    """
    values: dict[str, Any] = {}
    tables: dict[str, Mapping[str, Any]] = {}
    for key, value in read_toml(path, where=str(path), hint='lines look like: target = "tensorrt"').items():
        # `quantize` and `data` are commands and options: a table is the command's, any other value the option's.
        if key not in keys.tables or (key in keys.kinds and not isinstance(value, dict)):
            values[key] = _checked(str(path), path.parent, key, value, keys)
            continue
        where = f"{path}, [{key}]"
        if not isinstance(value, dict):
            raise ConfigError(
                f"{key} is {value!r}, expected a table",
                where=str(path),
                hint=f"what is for `onnxq {key}` alone stands below a line [{key}]",
            )
        own = replace(keys, kinds=keys.tables[key])
        tables[key] = {name: _checked(where, path.parent, name, item, own) for name, item in value.items()}
    return Config(values=values, tables=tables)


def read_toml(path: Path, *, where: str, hint: str) -> dict[str, Any]:
    """The content of a TOML file.

    Args:
        path: The file.
        where: What it is called in messages.
        hint: What its lines look like.

    Raises:
        ConfigError: it cannot be read, or is not TOML.
    """
    try:
        table = parse_toml(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(
            f"the file cannot be read: {error.strerror or error}", where=where, hint="check the path"
        ) from error
    except (ValueError, RecursionError) as error:  # wrong encoding, wrong TOML, lists in lists without end
        raise ConfigError(f"this is not TOML: {error}", where=where, hint=hint) from error
    return table


def parse_toml(text: str) -> dict[str, Any]:
    """The tables of a text.

    Raises:
        ValueError: it is not TOML.
        RecursionError: its lists are too deep.
    """
    table: dict[str, Any] = tomllib.loads(text)
    return table


def _checked(where: str, folder: Path, key: str, value: Any, keys: Keys) -> Any:
    if key not in keys.kinds:
        raise ConfigError(f"unknown key {key!r}", where=where, hint=_known_instead(key, keys))
    kind = keys.kinds[key]
    if not _fits(value, kind):
        raise ConfigError(
            f"{key} is {value!r}, expected {kind.value}", where=where, hint=f"the key means the same as --{key}"
        )
    is_path = kind is Kind.PATH or (kind is Kind.NAME_OR_PATH and _names_a_file(value))
    return str(folder / value) if is_path else value


def _names_a_file(value: str) -> bool:
    """Whether a text is a target's table or a function of a file, and not a name that onnxq knows."""
    return value.lower().endswith(".toml") or (".py:" in value and not value.startswith("python:"))


def _known_instead(key: str, keys: Keys) -> str:
    spelt = key.replace("_", "-")
    if spelt in keys.arguments:
        return f"{key} is no option: it stands on the command line, before or after --config"
    close = difflib.get_close_matches(spelt, keys.kinds, n=1)
    return f"did you mean {close[0]!r}?" if close else f"known keys: {', '.join(sorted(keys.kinds))}"


def _fits(value: Any, kind: Kind) -> bool:
    if isinstance(value, list):
        if kind is Kind.TABLES:
            return all(isinstance(item, dict) for item in value)
        inner = {Kind.TEXTS: Kind.TEXT, Kind.NUMBERS: Kind.NUMBER}.get(kind)
        return inner is not None and all(_fits(item, inner) for item in value)
    if isinstance(value, bool):
        return kind is Kind.SWITCH
    if isinstance(value, int):
        return kind in (Kind.INTEGER, Kind.NUMBER, Kind.NUMBER_OR_TEXT, Kind.SIZE)
    if isinstance(value, float):
        return kind in (Kind.NUMBER, Kind.NUMBER_OR_TEXT)
    texts = (Kind.TEXT, Kind.PATH, Kind.NAME_OR_PATH, Kind.NUMBER_OR_TEXT, Kind.SIZE)
    return isinstance(value, str) and kind in texts
