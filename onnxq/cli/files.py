"""Files that commands write besides models: checked before any work, then written whole or not at all."""

from __future__ import annotations

from pathlib import Path

from onnxq.errors import ConfigError
from onnxq.files.whole import try_folder, write_whole


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
        ConfigError: a file is named twice, is one that is read, exists, or has no folder that can be written to.
    """
    read = {path.resolve(): what for what, path in inputs.items() if path is not None}
    seen: dict[Path, str] = {}
    for option, path in places.items():
        if path is None:
            continue
        where = f"{option} {str(path)!r}"
        if str(path) == "-":
            raise ConfigError(
                "models and reports are written to files, not to stdout", where=where, hint=f"name a file with {option}"
            )
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
        try:
            try_folder(path.parent)
        except OSError as error:
            raise _unwritable(path, option, error) from error


def write_text(path: Path, text: str, *, option: str) -> None:
    """Write a text file, which appears whole or not at all.

    Raises:
        ConfigError: it cannot be written.
    """
    try:
        write_whole(path, text.encode())
    except OSError as error:
        raise _unwritable(path, option, error) from error


def _unwritable(path: Path, option: str, error: OSError) -> ConfigError:
    return ConfigError(
        f"the file cannot be written: {error.strerror or error}",
        where=f"{option} {str(path)!r}",
        hint=f"choose another place with {option}",
    )
