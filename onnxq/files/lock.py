"""Locks that tell a file in use from one that a killed process left: the system lets go of them with the process.

They are advisory (flock(2)). Windows and some network file systems have none; what cannot be
locked there is never taken for left.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path


def lock(descriptor: int, *, wait: bool = False) -> bool:
    """Lock an open file until it is closed; False where there is no such thing, or another one holds the lock and
    nobody waits for it."""
    if sys.platform == "win32":
        return False
    import fcntl  # noqa: PLC0415 - not on Windows

    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def lock_left(path: Path) -> int | None:
    """Lock a file of this user that no process holds.

    Returns:
        A descriptor to close; None where there is no such file or its lock is held.
    """
    if sys.platform == "win32":
        return None
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_NOFOLLOW)
    except OSError:
        return None
    if os.fstat(descriptor).st_uid == os.getuid() and lock(descriptor):
        return descriptor
    os.close(descriptor)
    return None


@contextlib.contextmanager
def turn_at(path: Path) -> Iterator[None]:
    """Wait for every other process and thread that has its turn at `path`, then have it.

    Args:
        path: A file that exists while somebody has a turn or waits for one, and is no file for anything else. One that
            a killed process left is no hindrance, and goes with the next turn.

    Raises:
        OSError: it cannot be made.
    """
    descriptor = _first_in_line(path)
    try:
        yield
    finally:
        if descriptor is not None:
            with contextlib.suppress(OSError):
                path.unlink()
            os.close(descriptor)


def _first_in_line(path: Path) -> int | None:
    """A descriptor of `path` with its lock held; None where there are no locks, and so no turns."""
    if sys.platform == "win32":
        return None
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
        try:
            locked = lock(descriptor, wait=True)
            # Whoever had the turn before removed the file: the next to come lock another one.
            if not locked or _is_at(descriptor, path):
                return descriptor
        except BaseException:  # Ctrl-C while waiting
            os.close(descriptor)
            raise
        os.close(descriptor)


def _is_at(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.lstat())
    except FileNotFoundError:
        return False
