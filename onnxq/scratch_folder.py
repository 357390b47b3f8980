"""Folders in the system's temporary folder, and the error that names it where it is full.

Engines read models from files and onnxruntime writes the graph that it runs into one. What they say of a full disk
blames the model; whether the disk is full is therefore asked here, by writing.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path

from onnxq.errors import ConfigError

_PROBE_BYTES = 2**20
"""What a folder with room takes. An engine that ran out of room left less."""


@contextlib.contextmanager
def scratch_folder() -> Iterator[Path]:
    """A new folder, removed at the end.

    Raises:
        ConfigError: it cannot be made, or something failed inside while nothing more could be written there.
    """
    with new_scratch_folder() as name, blamed_on_room(Path(name)):
        yield Path(name)


def new_scratch_folder() -> tempfile.TemporaryDirectory[str]:
    """A new folder that is removed with the object.

    Raises:
        ConfigError: it cannot be made.
    """
    try:
        return tempfile.TemporaryDirectory(prefix="onnxq-", ignore_cleanup_errors=True)
    except OSError as error:
        raise _full(None, error) from error


@contextlib.contextmanager
def blamed_on_room(folder: Path) -> Iterator[None]:
    """Whatever fails inside while nothing more can be written to `folder` is a ConfigError that names the folder.

    Raises:
        ConfigError: see above.
    """
    try:
        yield
    except Exception as error:
        problem = _write_problem(folder)
        if problem is None:
            raise
        raise _full(folder.parent, problem) from error


def _write_problem(folder: Path) -> OSError | None:
    try:
        with tempfile.TemporaryFile(dir=folder) as probe:
            probe.write(bytes(_PROBE_BYTES))
            probe.flush()
    except OSError as error:
        return error
    return None


def _full(folder: Path | None, error: OSError) -> ConfigError:
    place = f"the temporary folder {str(folder)!r}" if folder is not None else "a temporary folder"
    return ConfigError(
        f"{place} cannot be written: {error.strerror or error}",
        hint="make room there, or let the environment variable TMPDIR name a folder that has some (about the model's "
        "size; without it Python takes /tmp)",
    )
