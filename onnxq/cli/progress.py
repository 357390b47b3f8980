"""How far a long run has come, on stderr: a bar on a terminal, elsewhere a line every so often. Never under --quiet."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from onnxq.plural import counted
from onnxq.sizes import size_text

if TYPE_CHECKING:
    from rich.console import Console

    from onnxq.calibration.progress import Progress

Callback = Callable[["Progress"], None]

FIRST_LINE_S = 10.0
"""Seconds to the first line of a log."""
_LINE_SHARE = 0.1
"""The next line comes after this share of the time taken so far, but not sooner than the first one did."""
_MINUTE_S, _HOUR_S = 60, 3600


@contextlib.contextmanager
def calibration_progress(*, quiet: bool, afterwards: str) -> Iterator[Callback | None]:
    """The callback for `progress=` of the Python API, None where nothing is to be shown.

    Args:
        quiet: Whether the user wants silence.
        afterwards: What goes on once all samples are through, and takes its own time.
    """
    from rich.console import Console  # noqa: PLC0415 - keeps `--help` fast

    console = Console(stderr=True)
    if quiet:
        yield None
    elif console.is_terminal:
        with _bar(console, afterwards) as show:
            yield show
    else:
        yield Log(lambda line: console.print(line, soft_wrap=True, markup=False, highlight=False))


@contextlib.contextmanager
def _bar(console: Console, afterwards: str) -> Iterator[Callback]:
    from rich import progress as bars  # noqa: PLC0415 - keeps `--help` fast

    bar = bars.Progress(
        bars.TextColumn("{task.description}"),
        bars.BarColumn(),
        bars.TextColumn("{task.fields[facts]}"),
        bars.TimeElapsedColumn(),
        console=console,
        transient=True,
    )
    with bar:
        task = bar.add_task("preparing", total=None, facts="")

        def show(now: Progress) -> None:
            total = now.expected_samples
            done = total is not None and now.samples >= total and now.pass_number == now.passes and not _stage(now)
            bar.update(
                task,
                total=None if done else total,
                completed=now.samples,
                description=afterwards if done else _stage(now) or "calibrating",
                facts=f"{now.samples} of {counted(now.samples, 'sample')}" if done else facts(now),
            )

        yield show


class Log:
    """Writes a line about the progress it is told of, at first every ten seconds and later more seldom.

    Args:
        write: Takes a line.
        clock: Seconds since any moment.
    """

    def __init__(self, write: Callable[[str], None], clock: Callable[[], float] = time.monotonic) -> None:
        self._write = write
        self._clock = clock
        self._started = clock()
        self._due = self._started + FIRST_LINE_S

    def __call__(self, now: Progress) -> None:
        moment = self._clock()
        if moment < self._due:
            return
        self._due = moment + max(FIRST_LINE_S, _LINE_SHARE * (moment - self._started))
        self._write(f"{_stage(now) or 'calibrating'}: {facts(now)}")


def facts(now: Progress) -> str:
    """What is known of the progress, in one line: '61 of 192 samples, 4.2 a second, 31 s left, 320.1 MB'."""
    if _stage(now):
        steps = f"{now.samples}" if now.expected_samples is None else f"{now.samples} of {now.expected_samples}"
        return ", ".join(text for text in (steps, str(getattr(now, "best", ""))) if text)
    total = now.expected_samples
    parts = [counted(now.samples, "sample") if total is None else f"{now.samples} of {counted(total, 'sample')}"]
    if now.passes > 1:
        parts[0] += f" in pass {now.pass_number} of {now.passes}"
    if now.samples_per_s:
        parts.append(f"{now.samples_per_s:.3g} a second")
    if now.left_s is not None:
        parts.append(f"{duration(now.left_s)} left")
    if now.memory_bytes is not None:
        parts.append(size_text(now.memory_bytes))
    return ", ".join(parts)


def duration(seconds: float) -> str:
    """Seconds as people read them.

    >>> duration(31.4), duration(312), duration(7500)
    ('31 s', '5 min 12 s', '2 h 5 min')
    """
    whole = round(seconds)
    if whole < _MINUTE_S:
        return f"{whole} s"
    if whole < _HOUR_S:
        return f"{whole // _MINUTE_S} min {whole % _MINUTE_S} s"
    return f"{whole // _HOUR_S} h {whole % _HOUR_S // _MINUTE_S} min"


def _stage(now: Progress) -> str:
    """What is going on, where that is no calibration."""
    return str(getattr(now, "stage", ""))  # of SearchProgress, whose module costs numpy
