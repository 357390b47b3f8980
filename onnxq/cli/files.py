"""Files that commands write besides models: checked before any work, then written whole or not at all."""

from __future__ import annotations

import contextlib
import secrets
from pathlib import Path

from onnxq.errors import ConfigError


def check_places(
    places: dict[str, Path | None],
    *,
    inputs: dict[str, Path | None],
    force: bool,
    kept: frozenset[Path] = frozenset(),
) -> None:
    """See that every file can be written, before any work is done for it.

    Args:
        places: The files by the option that named them; None where it was not given.
        inputs: The files that are read, by what they are called; they are never replaced, `force` or not.
        force: Whether existing files may be replaced.
        kept: Files that may exist all the same.

    Raises:
        ConfigError: a file is named twice, is one that is read, exists, or has no folder.
    """
    read = {path.resolve(): what for what, path in inputs.items() if path is not None}
    seen: dict[Path, str] = {}
    for option, path in places.items():
        if path is None:
            continue
        where = f"{option} {str(path)!r}"
        if (what_is_read := read.get(path.resolve())) is not None:
            raise ConfigError(f"this is {what_is_read}", where=where, hint=f"choose another file with {option}")
        if (other := seen.setdefault(path.resolve(), option)) != option:
            raise ConfigError(f"{other} names the same file", where=where, hint=f"choose another file with {option}")
        if not path.parent.is_dir():
            raise ConfigError(
                f"the folder {str(path.parent)!r} does not exist",
                where=where,
                hint=f"create it, or choose another place with {option}",
            )
        if path.exists() and not ((force or path in kept) and path.is_file()):
            what = "the file exists" if path.is_file() else "this is not a regular file"
            hint = f"choose another place with {option}" + (", or pass --force" if path.is_file() else "")
            raise ConfigError(what, where=where, hint=hint)


def write_text(path: Path, text: str, *, option: str) -> None:
    """Write a text file beside its place and rename it.

    Raises:
        ConfigError: it cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(path)
    except OSError as error:
        raise ConfigError(
            f"the file cannot be written: {error.strerror or error}",
            where=f"{option} {str(path)!r}",
            hint=f"choose another place with {option}",
        ) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()
