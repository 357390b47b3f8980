"""How far a search has come."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from onnxq.calibration.progress import Progress


@dataclass(frozen=True, kw_only=True)
class SearchProgress(Progress):
    """How far a sensitivity analysis or a search has come; of Progress, `samples` and `expected_samples` count steps.

    Attributes:
        stage: What is going on, such as "measuring layers".
        best: The best model found so far, in words; empty before there is one.
    """

    stage: str
    best: str = ""


Callback = Callable[[Progress], None]


def report_to(callback: Callback | None, stage: str, done: int, expected: int | None, best: str = "") -> None:
    """Tell `callback`, if there is one."""
    if callback is not None:
        callback(
            SearchProgress(batches=done, samples=done, expected_samples=expected, elapsed_s=0.0, stage=stage, best=best)
        )
