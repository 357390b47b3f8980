"""How far calibration has come, and how much memory the process takes."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

_STATM = Path("/proc/self/statm")


@dataclass(frozen=True, kw_only=True)
class Progress:
    """How far calibration has come.

    Attributes:
        batches: Batches run, in all passes so far.
        samples: Samples run in the present pass.
        expected_samples: Samples in one pass, None where unknown.
        elapsed_s: Seconds since the first batch began.
        pass_number: Which pass over the data this is, from 1.
        passes: Passes in all; more than one only under a memory limit.
        memory_bytes: Resident memory of the process, None where the system does not tell.
    """

    batches: int
    samples: int
    expected_samples: int | None
    elapsed_s: float
    pass_number: int = 1
    passes: int = 1
    memory_bytes: int | None = None
    earlier_samples: int = 0

    @property
    def samples_per_s(self) -> float | None:
        """Samples run a second, None before the clock has moved."""
        return (self.earlier_samples + self.samples) / self.elapsed_s if self.elapsed_s > 0 else None

    @property
    def left_s(self) -> float | None:
        """Seconds left at that rate, None where the number of samples is unknown."""
        rate = self.samples_per_s
        if self.expected_samples is None or not rate:
            return None
        left = self.expected_samples * (self.passes - self.pass_number + 1) - self.samples
        return max(left, 0) / rate


@dataclass(frozen=True, kw_only=True)
class StageProgress(Progress):
    """How far a stage other than calibration has come.

    Attributes:
        stage: What is going on, such as "measuring layers".
        unit: What `samples` and `expected_samples` count.
        best: What was found so far, in words; empty before there is anything.
    """

    stage: str
    unit: str = "step"
    best: str = ""


Callback = Callable[[Progress], None]


def report_to(  # noqa: PLR0913, PLR0917 - the fields of a value
    callback: Callback | None, stage: str, done: int, expected: int | None, best: str = "", unit: str = "step"
) -> None:
    """Tell `callback`, if there is one, how far a stage has come."""
    if callback is not None:
        callback(
            StageProgress(
                batches=done, samples=done, expected_samples=expected, elapsed_s=0.0, stage=stage, best=best, unit=unit
            )
        )


def resident_bytes() -> int | None:
    """Resident memory of this process, None where the system does not tell."""
    try:
        return int(_STATM.read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError, AttributeError):
        return None
