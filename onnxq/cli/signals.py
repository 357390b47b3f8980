"""Ctrl-C and SIGTERM end a command as an error does: what was begun is taken back, and a line says what happened."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Any, NoReturn


class Terminated(BaseException):
    """SIGTERM arrived. Not an Exception, as KeyboardInterrupt is none: nothing may take it for a failure of its own."""


@contextlib.contextmanager
def sigterm_raises() -> Iterator[None]:
    """SIGTERM raises `Terminated` in the block; outside the main thread, where Python takes no signals, it does not."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous: Any = signal.signal(signal.SIGTERM, _terminate)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


def end_at_once_from_now_on() -> None:
    """Let a further Ctrl-C end the process without a traceback: by now there is nothing left to take back."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def _terminate(number: int, frame: FrameType | None) -> NoReturn:
    raise Terminated
