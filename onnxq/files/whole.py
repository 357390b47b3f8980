"""Files that appear whole or not at all, whatever happens to the process that writes them.

    draft -> write -> fsync -> name -> rename over the old file, or link where there must be none -> fsync the folder

On Linux a draft has no name until it is complete (open(2), O_TMPFILE; linkat(2)), so that a killed process leaves
nothing behind. Elsewhere, and on file systems without it, a draft is a hidden file `.<name>.<random>.tmp` in the same
folder, removed on every way out but a kill; then the next draft of the same file removes it.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import secrets
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from onnxq.errors import ConfigError
from onnxq.files.lock import lock, lock_left

# What open(2) and linkat(2) answer where the file system lacks O_TMPFILE or hard links.
_LACKING = frozenset({errno.EOPNOTSUPP, errno.ENOTSUP, errno.EISDIR, errno.EINVAL, errno.EPERM, errno.ENOSYS})
_OPEN_FILES = Path("/proc/self/fd")
_RANDOM_BYTES = 6


class Draft:
    """A file that is being written and nobody sees.

    Attributes:
        target: Where it will be.
        stream: Takes its content.
    """

    def __init__(self, target: Path, stream: BinaryIO, hidden: Path | None) -> None:
        self.target = target
        self.stream = stream
        self._hidden = hidden
        self._synced = False

    @property
    def readable_at(self) -> Path:
        """Where this process can read what was written so far (call `stream.flush` first)."""
        return self._hidden if self._hidden is not None else _OPEN_FILES / str(self.stream.fileno())

    def sync(self) -> None:
        """Bring everything written so far to the disk."""
        self.stream.flush()
        os.fsync(self.stream.fileno())
        self._synced = True

    def publish(self, *, replace: bool) -> None:
        """Let the file appear at `target`, complete.

        Args:
            replace: Whether a file that is there by now may be replaced.

        Raises:
            FileExistsError: there is one, and it may not.
            OSError: the file cannot be written or named.
        """
        if not self._synced:
            self.sync()
        if self._hidden is not None and sys.platform == "win32":
            self.stream.close()  # which renames no open file; elsewhere its lock is held until it has its name
        if replace:
            self._hidden_path().replace(self.target)
        else:
            self._link(self.target)
        _sync_folder(self.target.parent)

    def discard(self) -> None:
        """Remove what `publish` did not put into place."""
        with contextlib.suppress(OSError):  # on a full disk, what is left to write cannot be written, nor is it wanted
            self.stream.close()
        if self._hidden is not None:
            with contextlib.suppress(OSError):
                self._hidden.unlink(missing_ok=True)

    def _link(self, path: Path) -> None:
        """Give the file the name `path`, which must be free."""
        if self._hidden is None:
            with _folder(path.parent) as folder:
                source = str(_OPEN_FILES / str(self.stream.fileno()))
                os.link(source, path.name, src_dir_fd=folder, dst_dir_fd=folder, follow_symlinks=True)
            return
        try:
            os.link(self._hidden, path)
        except OSError as error:
            if error.errno not in _LACKING:
                raise
            if path.exists():  # without hard links there is a moment between this look and the rename
                raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path)) from error
            self._hidden.replace(path)

    def _hidden_path(self) -> Path:
        """The file under a hidden name."""
        if self._hidden is None:
            path = hidden_beside(self.target, "tmp")
            try:
                self._link(path)
            except OSError as error:
                if error.errno not in _LACKING:
                    raise
                nameless = self.stream
                self.stream, self._hidden = _hidden(self.target)
                _move(nameless, self.stream)
                return self._hidden
            self._hidden = path
        return self._hidden


@contextlib.contextmanager
def draft(target: Path) -> Iterator[Draft]:
    """A draft of `target`; without `publish` nothing of it remains.

    Raises:
        OSError: the folder cannot be written to.
    """
    for left in hidden_files(target, "tmp"):
        remove_left(left)
    stream, hidden = _nameless(target.parent), None
    if stream is None:
        stream, hidden = _hidden(target)
    made = Draft(target, stream, hidden)
    try:
        yield made
    finally:
        made.discard()


def write_whole(target: Path, content: bytes, *, replace: bool = True) -> None:
    """Write a file that appears whole or not at all.

    Args:
        target: Where to.
        content: All of it.
        replace: Whether an existing file may be replaced.

    Raises:
        FileExistsError: there is a file, and it may not be replaced.
        OSError: it cannot be written; an old file is as it was.
    """
    with draft(target) as made:
        made.stream.write(content)
        made.publish(replace=replace)


def write_kept(target: Path, content: bytes, *, what: str, hint: str, replace: bool = True) -> None:
    """`write_whole` for a file that a user asked for by name.

    Args:
        target: Where to.
        content: All of it.
        what: What it is, in the error.
        hint: The way out where the place cannot be written.
        replace: Whether an existing file may be replaced.

    Raises:
        ConfigError: it cannot be written, or exists and may not be replaced.
    """
    try:
        write_whole(target, content, replace=replace)
    except FileExistsError as error:
        raise ConfigError(
            "the file exists", where=str(target), hint="choose another place with --output, or pass --force"
        ) from error
    except OSError as error:
        raise ConfigError(f"cannot write {what}: {error.strerror or error}", where=str(target), hint=hint) from error


def try_folder(folder: Path) -> None:
    """See that files can be made in `folder`, by making one that never shows.

    Raises:
        OSError: they cannot.
    """
    with tempfile.TemporaryFile(dir=folder):
        pass


def hidden_beside(target: Path, kind: str) -> Path:
    """A free hidden name in the folder of `target`: `.<name>.<random>.<kind>`."""
    return target.with_name(f".{target.name}.{secrets.token_hex(_RANDOM_BYTES)}.{kind}")


def hidden_files(target: Path, kind: str) -> list[Path]:
    """What is there of names that `hidden_beside` gives."""
    name = re.compile(rf"\.{re.escape(target.name)}\.[0-9a-f]{{{2 * _RANDOM_BYTES}}}\.{kind}")
    with os.scandir(target.parent) as entries:
        return [Path(entry.path) for entry in entries if name.fullmatch(entry.name)]


def remove_left(path: Path) -> None:
    """Remove a file that no process is writing."""
    held = lock_left(path)
    if held is not None:
        with contextlib.suppress(OSError):
            path.unlink()
        os.close(held)


def _nameless(folder: Path) -> BinaryIO | None:
    """A file without a name in `folder`; None where there is no such thing."""
    flag = getattr(os, "O_TMPFILE", None)
    if flag is None or not _OPEN_FILES.is_dir():
        return None
    try:
        descriptor = os.open(folder, flag | os.O_RDWR, 0o666)
    except OSError as error:
        if error.errno in _LACKING:
            return None
        raise
    lock(descriptor)
    return os.fdopen(descriptor, "w+b")


def _hidden(target: Path) -> tuple[BinaryIO, Path]:
    """A hidden file beside `target`, locked, and its path."""
    while True:
        path = hidden_beside(target, "tmp")
        stream = path.open("xb")
        # Before it is locked another process may take it for left, lock and remove it.
        lock(stream.fileno(), wait=True)
        if path.exists():
            return stream, path
        stream.close()


def _move(source: BinaryIO, target: BinaryIO) -> None:
    with source:
        source.seek(0)
        shutil.copyfileobj(source, target)
    target.flush()
    os.fsync(target.fileno())


def _sync_folder(folder: Path) -> None:
    """Bring the names in `folder` to the disk. Where that is impossible (Windows), files are whole all the same."""
    with contextlib.suppress(OSError), _folder(folder) as descriptor:
        os.fsync(descriptor)


@contextlib.contextmanager
def _folder(path: Path) -> Iterator[int]:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        yield descriptor
    finally:
        os.close(descriptor)
