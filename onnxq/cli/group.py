"""From an exception to what the user sees and the exit code.

0 done   1 a bug in onnxq   2 wrong usage or configuration, or a place that cannot be written   3 a bad model, bad data,
labels, statistics or cache   4 a check or gate not met   130 interrupted   143 terminated
"""

from __future__ import annotations

import contextlib
import json
import sys
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

import click
from click.core import ParameterSource

from onnxq.cli.signals import Terminated, sigterm_raises
from onnxq.errors import InternalError, InterruptedRunError, OnnxqError
from onnxq.wording.flags import flags_first

EXIT_USAGE = 2
EXIT_INPUT = 3
EXIT_GATE = 4
EXIT_INTERRUPTED = 130
"""128 + SIGINT, as shells count."""
EXIT_TERMINATED = 143
"""128 + SIGTERM."""

ERROR_SCHEMA = "onnxq.error/1"


@dataclass(frozen=True, kw_only=True)
class Failure:
    """An error as it is shown.

    Attributes:
        kind: Name of the error's class.
        message: What failed.
        where: The file, node or batch it belongs to.
        hint: The way out.
        exit_code: Exit code of the process.
    """

    kind: str
    message: str
    where: str | None = None
    hint: str | None = None
    exit_code: int

    def to_text(self) -> str:
        """Lines for stderr."""
        first = f"error: {self.where}: {self.message}" if self.where else f"error: {self.message}"
        return flags_first(f"{first}\nhint: {self.hint}" if self.hint else first)

    def to_json(self) -> str:
        """The document that stdout gets under `--json`."""
        return json.dumps({"schema": ERROR_SCHEMA, "error": self.__dict__}, indent=2)


class CommandLine(click.Group):
    """A group whose `main` renders every error; `--debug` adds the traceback, `--json` the error as JSON."""

    def main(self, args: Sequence[str] | None = None, *others: Any, **extra: Any) -> Any:
        """Run a command and leave the process with its exit code."""
        given = list(sys.argv[1:] if args is None else args)
        extra["standalone_mode"] = False
        try:
            with sigterm_raises():
                code = super().main(given, *others, **extra)
        # The outermost place: whatever was not foreseen is reported as a bug.
        except (Exception, KeyboardInterrupt, Terminated) as error:
            if "--debug" in given:
                traceback.print_exc()
            _leave(failure_of(error), as_json="--json" in given)
        sys.exit(code if isinstance(code, int) else 0)


def failure_of(error: BaseException) -> Failure:
    """What is shown for an exception."""
    error = _interruption(error) or error
    kind = type(error).__name__
    if isinstance(error, OnnxqError):
        code = 128 + error.signal_number if isinstance(error, InterruptedRunError) else error.exit_code
        return Failure(kind=kind, message=error.message, where=error.where, hint=error.hint, exit_code=code)
    if isinstance(error, Terminated):
        return Failure(kind="Terminated", message="terminated", exit_code=EXIT_TERMINATED)
    if isinstance(error, (click.Abort, KeyboardInterrupt)):
        return Failure(kind="Interrupted", message="interrupted", exit_code=EXIT_INTERRUPTED)
    if isinstance(error, click.ClickException):
        return _usage_failure(error)
    if isinstance(error, MemoryError):
        return Failure(
            kind=kind,
            message="not enough memory",
            hint="feed fewer samples at once with --batch-size 1, or run on a machine with more memory",
            exit_code=EXIT_INPUT,
        )
    described = str(error) if isinstance(error, InternalError) else f"{kind}: {error}"
    return Failure(
        kind="InternalError",
        message=f"this is a bug in onnxq, not a fault of your model or data: {described}",
        hint="please report it with the output of the same command with --debug",
        exit_code=InternalError.exit_code,
    )


def _interruption(error: BaseException) -> BaseException | None:
    """The signal that an exception was made of: a C extension that is interrupted while it loads says ImportError."""
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, (Terminated, KeyboardInterrupt)):
        cause = cause.__cause__
    return cause


def _usage_failure(error: click.ClickException) -> Failure:
    context = getattr(error, "ctx", None)
    parameter = getattr(error, "param", None)
    where = None
    if context is not None and parameter is not None and parameter.name:
        source = context.get_parameter_source(parameter.name)
        where = context.meta.get("onnxq.config") if source is ParameterSource.DEFAULT_MAP else None
    path = context.command_path if context is not None else "onnxq"
    return Failure(
        kind="UsageError",
        message=error.format_message().rstrip("."),
        where=where,
        hint=f"`{path} --help` explains every option",
        exit_code=EXIT_USAGE,
    )


def _leave(failure: Failure, *, as_json: bool) -> NoReturn:
    if as_json:
        with contextlib.suppress(OnnxqError):  # the failure may be that of standard output
            click.echo(failure.to_json())
    click.echo(failure.to_text(), err=True)
    sys.exit(failure.exit_code)
