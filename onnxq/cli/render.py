"""What commands print. Results go to stdout, everything else to stderr."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from onnxq.cli.files import write_text
from onnxq.cli.group import EXIT_GATE, Failure, failure_of
from onnxq.errors import ConfigError, OnnxqError
from onnxq.wording.flags import flags_first

if TYPE_CHECKING:
    from rich.console import RenderableType

    from onnxq.evaluation.evaluation import Evaluation
    from onnxq.report.report import Report

_PAGE_COLUMNS = 100
_LEAST_COLUMNS = 40
_UNFOLDED_COLUMNS = 1000
"""A table that goes to a file or another program is not folded: one row, one line."""

_REPORT_SUFFIXES = (".html", ".json")


def say(text: str, *, quiet: bool) -> None:
    """A remark for the person at the terminal."""
    if not quiet:
        click.echo(flags_first(text), err=True)


def warn(text: str) -> None:
    """A warning for the person at the terminal, who gets it under --quiet too."""
    click.echo(flags_first(f"warning: {text}"), err=True)


def print_json(document: Any) -> None:
    """One JSON document on stdout."""
    click.echo(json.dumps(document, indent=2, allow_nan=False))


def show(renderable: RenderableType, *, table: bool = False) -> None:
    """Print for a person: in colour on a terminal, as plain text elsewhere; NO_COLOR is respected.

    Args:
        renderable: What to print.
        table: Whether lines may be longer than a page where they are not printed on a terminal. Elsewhere they are as
            long as COLUMNS says, or a page wide.
    """
    if sys.stdout.isatty():
        from rich.console import Console  # noqa: PLC0415 - keeps `--help` fast

        Console().print(renderable)
        return
    from onnxq.report.text import plain  # noqa: PLC0415

    click.echo(plain(renderable, width=_UNFOLDED_COLUMNS if table else _page_columns()), nl=False)


def _page_columns() -> int:
    """COLUMNS, as programs of POSIX respect it, where it is a sensible number."""
    given = os.environ.get("COLUMNS", "")
    return max(int(given), _LEAST_COLUMNS) if given.isdecimal() and int(given) else _PAGE_COLUMNS


def show_report(report: Report, *, as_json: bool, quiet: bool) -> None:
    """A report on stdout; under --quiet and --json its warnings on stderr, since the summary with them is not shown."""
    from onnxq.report.text import summary  # noqa: PLC0415

    if as_json:
        click.echo(report.to_json())
    elif not quiet:
        show(summary(report, said=flags_first))
    if quiet or as_json:
        for text in report.warnings:
            warn(text)


def check_report_suffix(path: Path | None) -> None:
    """See that a report can be rendered as its name says.

    Raises:
        ConfigError: the suffix is neither .html nor .json.
    """
    if path is not None and path.suffix.lower() not in _REPORT_SUFFIXES:
        raise ConfigError(
            f"a report is written as {' or '.join(_REPORT_SUFFIXES)}, not as {path.suffix or 'a file without suffix'}",
            where=f"--report {str(path)!r}",
            hint=f"pass --report {path.with_suffix('.html')}",
        )


def write_junit(report: Report, path: Path | None) -> None:
    """A report's checks in a file, for CI servers."""
    if path is not None:
        write_text(path, report.to_junit(), option="--junit")


@contextmanager
def errors_in_junit(path: Path | None, suite: str) -> Iterator[None]:
    """Around the work of a command: an error is also the one test case of its JUnit file, if it was to write one."""
    try:
        yield
    except Exception as error:
        if path is not None:
            from onnxq.report.junit import error_junit  # noqa: PLC0415 - only where it is needed

            failure = failure_of(error)
            with suppress(OnnxqError):  # the error that is on its way says more than that this file cannot be written
                write_text(path, error_junit(suite, failure.kind, failure.to_text()), option="--junit")
        raise


def write_report(report: Report, path: Path | None, *, quiet: bool) -> None:
    """A report in a file, as its suffix says."""
    if path is not None:
        text = report.to_json() if path.suffix.lower() == ".json" else report.to_html()
        write_text(path, text, option="--report")
        say(f"the report was written to {path}", quiet=quiet)


def leave_on_failed_checks(report: Report | Evaluation, *, remark: str = "", shown: bool = False) -> None:
    """End the command with exit code 4 where a check of the report failed, naming the checks on stderr.

    Args:
        report: The report, or scores.
        remark: The way out, if there is one to name.
        shown: Whether stdout has shown the checks' details to a person already.
    """
    if report.passed is not False:  # an evaluation of which nothing was demanded has not failed
        return
    said = [check.name if shown else f"{check.name}: {check.detail}" for check in report.failed_checks]
    failed = "; ".join(said) or "nothing was checked"
    failure = Failure(kind="GateError", message=f"not passed: {failed}", hint=remark or None, exit_code=EXIT_GATE)
    click.echo(failure.to_text(), err=True)
    click.get_current_context().exit(EXIT_GATE)
