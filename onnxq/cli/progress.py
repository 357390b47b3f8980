"""A progress bar on stderr while a model is calibrated: only on a terminal, and never under --quiet."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from onnxq.plural import counted

if TYPE_CHECKING:
    from onnxq.calibration.progress import Progress

Callback = Callable[["Progress"], None]


@contextlib.contextmanager
def calibration_progress(*, quiet: bool, afterwards: str) -> Iterator[Callback | None]:
    """The callback for `progress=` of the Python API, None where nothing is to be shown.

    Args:
        quiet: Whether the user wants silence.
        afterwards: What goes on once all samples are through, and takes its own time.
    """
    from rich import progress as bars  # noqa: PLC0415 - keeps `--help` fast
    from rich.console import Console  # noqa: PLC0415

    console = Console(stderr=True)
    if quiet or not console.is_terminal:
        yield None
        return
    bar = bars.Progress(
        bars.TextColumn("{task.description}"),
        bars.BarColumn(),
        bars.TextColumn("{task.fields[counted]}"),
        bars.TimeElapsedColumn(),
        console=console,
        transient=True,
    )
    with bar:
        task = bar.add_task("preparing", total=None, counted="")

        def show(now: Progress) -> None:
            total = now.expected_samples
            stage = getattr(now, "stage", None)
            if stage is not None:  # SearchProgress, whose module costs numpy
                steps = f"{now.samples}" if total is None else f"{now.samples} of {total}"
                found = "  ".join(text for text in (steps, str(getattr(now, "best", ""))) if text)
                bar.update(task, total=total, completed=now.samples, description=stage, counted=found)
                return
            done = total is not None and now.samples >= total
            bar.update(
                task,
                total=None if done else total,
                completed=now.samples,
                description=afterwards if done else "calibrating",
                counted=counted(now.samples, "sample")
                if total is None
                else f"{now.samples} of {counted(total, 'sample')}",
            )

        yield show
