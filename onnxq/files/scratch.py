"""Folders in the system's temporary folder, and the error that names it where it is full.

    .onnxq-<random> -> a lock file inside, locked -> onnxq-<random> -> removed with its object

A process that is killed leaves its folders behind, and the next one that needs any removes them: nobody holds their
locks. Where files cannot be locked a folder has no lock file, and nobody takes it for left.

Engines read models from files and onnxruntime writes the graph that it runs into one. What they say of a full disk
blames the model; whether the disk is full is therefore asked here, by writing.
"""

from __future__ import annotations

import contextlib
import functools
import os
import shutil
import tempfile
import weakref
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

from onnxq.errors import ConfigError
from onnxq.files.lock import lock, lock_left

_PREFIX = "onnxq-"
_LOCK = ".onnxq-lock"
_PROBE_BYTES = 2**20
"""What a folder with room takes. An engine that ran out of room left less."""


class ScratchFolder:
    """A folder that is removed with its object; as a context, at the end.

    Attributes:
        name: Its path.
    """

    def __init__(self) -> None:
        """Make it.

        Raises:
            ConfigError: it cannot be made.
        """
        parent = Path(tempfile.gettempdir())
        _remove_left(parent)
        try:
            path, held = _made(parent)
        except OSError as error:
            raise _full(None, error) from error
        self.name = str(path)
        self._removed = weakref.finalize(self, _remove, path, held)

    def __enter__(self) -> str:
        return self.name

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.cleanup()

    def cleanup(self) -> None:
        """Remove the folder now."""
        self._removed()


@contextlib.contextmanager
def scratch_folder() -> Iterator[Path]:
    """A new folder, removed at the end.

    Raises:
        ConfigError: it cannot be made, or something failed inside while nothing more could be written there.
    """
    with ScratchFolder() as name, blamed_on_room(Path(name)):
        yield Path(name)


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


def remove_left_folders(parent: Path) -> None:
    """Remove from `parent` the folders of processes that ended without removing them."""
    for folder in parent.glob(f"{_PREFIX}*"):
        held = None if folder.is_symlink() else lock_left(folder / _LOCK)
        if held is not None:
            _remove(folder, held)


_remove_left = functools.cache(remove_left_folders)
"""Once in the life of a process."""


def _made(parent: Path) -> tuple[Path, int | None]:
    """A new folder and its lock. It gets its name when it is locked: nobody sees it without."""
    hidden = Path(tempfile.mkdtemp(prefix=f".{_PREFIX}", dir=parent))
    held = None
    try:
        held = os.open(hidden / _LOCK, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        if not lock(held):
            os.close(held)
            held = None
            (hidden / _LOCK).unlink()
        named = parent / hidden.name.removeprefix(".")
        hidden.rename(named)
    except OSError:
        _remove(hidden, held)
        raise
    return named, held


def _remove(folder: Path, held: int | None) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    if held is not None:
        os.close(held)


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
