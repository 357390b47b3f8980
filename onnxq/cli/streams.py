"""Standard output that is written whole, or said not to be, and messages that nobody has to receive.

Under PYTHONUNBUFFERED, which containers like to set, Python hands each text to the system once and takes no notice
where it takes only a part of it: a disk that runs full gave a document that is cut off, and exit code 0.
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
from collections.abc import Iterator
from typing import TextIO

from onnxq.errors import ConfigError


class _Stream(io.TextIOWrapper):
    """A stream that writes everything it is given; where it cannot, that and what follows is thrown away."""

    def write(self, text: str, /) -> int:
        with self._checked():
            return super().write(text)
        return len(text)

    def flush(self) -> None:
        with self._checked():
            super().flush()

    @contextlib.contextmanager
    def _checked(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if error.errno == errno.EPIPE:  # a reader that has gone, which click knows
                raise
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self.fileno())
            os.close(nowhere)
            self._lost(error)

    def _lost(self, error: OSError) -> None:
        """What follows from text that could not be written."""


class Messages(_Stream):
    """Messages to the user: without them a command does its work all the same."""


class Output(_Stream):
    """What a command was called for.

    Raises:
        ConfigError: it cannot be written.
    """

    def _lost(self, error: OSError) -> None:
        raise ConfigError(
            f"what is printed cannot be written: {error.strerror or error}",
            where="standard output",
            hint="send it to another place: > FILE",
        ) from error


def whole(stream: TextIO | None, kind: type[_Stream]) -> TextIO:
    """`stream` as a `kind`; terminals and what is no file stay as they are.

    Args:
        stream: Standard output or error; None where it is closed.
        kind: What it is for.
    """
    if stream is None:
        return open(os.devnull, "w", encoding="utf-8")  # noqa: PTH123 - for as long as the process lives
    try:
        if stream.isatty():
            return stream
        descriptor = stream.fileno()
    except (AttributeError, OSError, ValueError):
        return stream
    buffer = open(descriptor, "wb", closefd=False)  # noqa: SIM115 - for as long as the process lives
    return kind(buffer, encoding=stream.encoding, errors=stream.errors, line_buffering=True)
