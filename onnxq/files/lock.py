"""Locks that tell a file in use from one that a killed process left: the system lets go of them with the process.

They are advisory (flock(2)). Windows and some network file systems have none; what cannot be
locked there is never taken for left.
"""

from __future__ import annotations

import os
import sys
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
