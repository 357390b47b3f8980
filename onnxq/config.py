"""Configuration files (https://toml.io): what would be typed as options, kept in a file.

target = "tensorrt"
data = "samples.npz"          paths are relative to the file's folder
exclude = ["/head/*"]

[[override]]                  how single nodes and tensors differ, see `planning/overrides.py`
tensors = "images"
range = [0.0, 1.0]
"""

from __future__ import annotations

import difflib
import enum
import sys
from collections.abc import Mapping
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
    SWITCH = "true or false"
    TEXTS = "a list of strings"
    TABLES = "a list of tables: [[override]]"
    NAME_OR_PATH = "a name, or the path of a .toml file"


def load_config(path: Path, kinds: Mapping[str, Kind]) -> dict[str, Any]:
    """Read a configuration file.

    Args:
        path: A TOML file.
        kinds: What each known key holds.

    Returns:
        The values by key; paths are made absolute or relative to the working directory.

    Raises:
        ConfigError: the file cannot be read, is not TOML, or has an unknown key or a value of a wrong type.
    """
    table = read_toml(path, where=str(path), hint='lines look like: target = "tensorrt"')
    return {key: _checked(path, key, value, kinds) for key, value in table.items()}


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


def _checked(path: Path, key: str, value: Any, kinds: Mapping[str, Kind]) -> Any:
    if key not in kinds:
        close = difflib.get_close_matches(key.replace("_", "-"), kinds, n=1)
        hint = f"did you mean {close[0]!r}?" if close else f"known keys: {', '.join(sorted(kinds))}"
        raise ConfigError(f"unknown key {key!r}", where=str(path), hint=hint)
    kind = kinds[key]
    if not _fits(value, kind):
        raise ConfigError(
            f"{key} is {value!r}, expected {kind.value}", where=str(path), hint=f"the key means the same as --{key}"
        )
    is_path = kind is Kind.PATH or (kind is Kind.NAME_OR_PATH and value.lower().endswith(".toml"))
    return str(path.parent / value) if is_path else value


def _fits(value: Any, kind: Kind) -> bool:
    if isinstance(value, list):
        if kind is Kind.TABLES:
            return all(isinstance(item, dict) for item in value)
        inner = {Kind.TEXTS: Kind.TEXT, Kind.NUMBERS: Kind.NUMBER}.get(kind)
        return inner is not None and all(_fits(item, inner) for item in value)
    if isinstance(value, bool):
        return kind is Kind.SWITCH
    if isinstance(value, int):
        return kind in (Kind.INTEGER, Kind.NUMBER, Kind.NUMBER_OR_TEXT)
    if isinstance(value, float):
        return kind in (Kind.NUMBER, Kind.NUMBER_OR_TEXT)
    return isinstance(value, str) and kind in (Kind.TEXT, Kind.PATH, Kind.NAME_OR_PATH, Kind.NUMBER_OR_TEXT)
