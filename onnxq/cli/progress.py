"""How far a long run has come, on stderr: a bar on a terminal, elsewhere a line every so often. Never under --quiet."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from onnxq.wording.plural import counted
from onnxq.wording.sizes import size_text

if TYPE_CHECKING:
    from rich.console import Console

    from onnxq.calibration.progress import Progress

Callback = Callable[["Progress"], None]

FIRST_LINE_S = 10.0
"""Seconds to the first line of a log."""
_LINE_SHARE = 0.1
"""The next line comes after this share of the time taken so far, but not sooner than the first one did."""
_MINUTE_S, _HOUR_S = 60, 3600
_RATE_AFTER_S = 0.5
"""Before it, a rate says more about the start than about what is to come."""
_SLOW = 0.1
"""Steps a second below which they are counted by the minute."""
CALIBRATING = "calibrating"


@contextlib.contextmanager
def calibration_progress(*, quiet: bool, afterwards: str, waiting: str = "preparing") -> Iterator[Callback | None]:
    """The callback for `progress=` of the Python API, None where nothing is to be shown.

    Args:
        quiet: Whether the user wants silence.
        afterwards: What goes on once all samples are through, and takes its own time.
        waiting: What goes on before the first call.
    """
    from rich.console import Console  # noqa: PLC0415 - keeps `--help` fast

    console = Console(stderr=True)
    if quiet:
        yield None
    elif console.is_terminal:
        with _bar(console, afterwards, waiting) as show:
            yield show
    else:
        yield Log(lambda line: console.print(line, soft_wrap=True, markup=False, highlight=False))


@contextlib.contextmanager
def _bar(console: Console, afterwards: str, waiting: str) -> Iterator[Callback]:
    from rich import progress as bars  # noqa: PLC0415 - keeps `--help` fast
    from rich.table import Column  # noqa: PLC0415

    bar = bars.Progress(
        bars.SpinnerColumn(),
        bars.TextColumn("{task.description}"),
        bars.BarColumn(bar_width=24),
        bars.TextColumn("{task.fields[facts]}"),
        # On a narrow terminal it is the bar that gives way.
        bars.TimeElapsedColumn(table_column=Column(min_width=len("0:00:00"), no_wrap=True)),
        console=console,
        transient=True,
    )
    with bar:
        task = bar.add_task(waiting, total=None, facts="")
        pace = Pace()
        shown = ""

        def show(now: Progress) -> None:
            nonlocal shown
            total = now.expected_samples
            done = total is not None and now.samples >= total and now.pass_number == now.passes and not _stage(now)
            stage = afterwards if done else _stage(now) or CALIBRATING
            begins = stage != shown
            if begins:  # each stage has a clock of its own
                shown = stage
                bar.reset(task, total=None)
            bar.update(
                task,
                total=None if done else total,
                completed=now.samples,
                description=stage,
                facts=f"{now.samples} of {counted(now.samples, 'sample')}" if done else pace.facts(now),
                refresh=begins,  # so that a short stage is seen at all
            )

        yield show


@contextlib.contextmanager
def waiting(what: str, *, quiet: bool) -> Iterator[None]:
    """A line with the time passed, while something goes on that does not tell how far it is."""
    with calibration_progress(quiet=quiet, afterwards="", waiting=what):
        yield


def tuning_progress(progress: Callback | None) -> Callable[[int, str], None] | None:
    """The callback for `tune_progress=`, which tells that of `progress=`."""
    if progress is None:
        return None
    from onnxq.calibration.progress import report_to  # noqa: PLC0415 - keeps `--help` fast

    def tell(count: int, change: str) -> None:
        report_to(progress, "racing placements", count, None, f"last with {change}", "placement")

    return tell


class Pace:
    """What is known of the progress of any stage, in a line. Of stages other than calibration it takes the time itself.

    Args:
        clock: Seconds since any moment.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._stage = ""
        self._began = 0.0
        self._first = 0

    def facts(self, now: Progress) -> str:
        """As `facts`, with the rate of the present stage since it began and the time left."""
        if not (stage := _stage(now)):
            return facts(now)
        if stage != self._stage:
            self._stage, self._began, self._first = stage, self._clock(), now.samples
        seconds = self._clock() - self._began
        rate = (now.samples - self._first) / seconds if seconds >= _RATE_AFTER_S else 0.0
        total, unit = now.expected_samples, str(getattr(now, "unit", "step"))
        done = counted(now.samples, unit) if total is None else f"{now.samples} of {counted(total, unit)}"
        parts = [done if total is not None or now.samples else ""]
        if rate:
            parts.append(f"{rate:.3g} a second" if rate >= _SLOW else f"{_MINUTE_S * rate:.2g} a minute")
        if rate and total is not None:
            parts.append(f"{duration(max(total - now.samples, 0) / rate)} left")
        return ", ".join(text for text in (*parts, str(getattr(now, "best", ""))) if text)


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
        self._pace = Pace(clock)

    def __call__(self, now: Progress) -> None:
        moment = self._clock()
        line = self._pace.facts(now)
        if moment < self._due:
            return
        self._due = moment + max(FIRST_LINE_S, _LINE_SHARE * (moment - self._started))
        stage = _stage(now) or CALIBRATING
        self._write(f"{stage}: {line}" if line else stage)


def facts(now: Progress) -> str:
    """What is known of a calibration's progress, in a line: '61 of 192 samples, 4.2 a second, 31 s left, 320.1 MB'."""
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
    return str(getattr(now, "stage", ""))  # of StageProgress
