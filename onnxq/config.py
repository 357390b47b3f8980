"""Configuration files (https://toml.io): what would be typed as options, kept in a file.

target = "tensorrt"
data = "samples.npz"          paths are relative to the file's folder
exclude = ["/head/*"]
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
    SWITCH = "true or false"
    TEXTS = "a list of strings"


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
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(
            f"the file cannot be read: {error.strerror or error}", where=str(path), hint="check the path in --config"
        ) from error
    except (ValueError, RecursionError) as error:  # wrong encoding, wrong TOML, lists in lists without end
        raise ConfigError(
            f"this is not TOML: {error}", where=str(path), hint='lines look like: target = "tensorrt"'
        ) from error
    return {key: _checked(path, key, value, kinds) for key, value in table.items()}


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
    return str(path.parent / value) if kind is Kind.PATH else value


def _fits(value: Any, kind: Kind) -> bool:
    if isinstance(value, list):
        inner = {Kind.TEXTS: Kind.TEXT, Kind.NUMBERS: Kind.NUMBER}.get(kind)
        return inner is not None and all(_fits(item, inner) for item in value)
    if isinstance(value, bool):
        return kind is Kind.SWITCH
    if isinstance(value, int):
        return kind in (Kind.INTEGER, Kind.NUMBER)
    if isinstance(value, float):
        return kind is Kind.NUMBER
    return isinstance(value, str) and kind in (Kind.TEXT, Kind.PATH)
