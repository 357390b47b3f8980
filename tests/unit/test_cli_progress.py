"""What a log says of a long calibration, and how often."""

from __future__ import annotations

from onnxq.calibration.progress import Progress, StageProgress
from onnxq.cli.progress import Log, Pace, duration, facts


def at(samples: int, **more: int) -> Progress:
    fields: dict[str, int] = {"expected_samples": 192, "memory_bytes": 320_100_000, **more}
    return Progress(batches=samples, samples=samples, elapsed_s=samples / 4, **fields)


def test_samples_rate_time_left_and_memory() -> None:
    assert facts(at(60)) == "60 of 192 samples, 4 a second, 33 s left, 320.1 MB"


def test_what_is_not_known_is_left_out() -> None:
    now = Progress(batches=0, samples=0, expected_samples=None, elapsed_s=0.0)
    assert facts(now) == "0 samples"


def test_several_passes() -> None:
    text = facts(at(64, pass_number=2, passes=3, earlier_samples=192))
    assert text.startswith("64 of 192 samples in pass 2 of 3, ")


def test_a_search_tells_its_own_steps() -> None:
    now = StageProgress(batches=3, samples=3, expected_samples=9, elapsed_s=0.0, stage="measuring layers", best="x")
    assert Pace().facts(now) == "3 of 9 steps, x"


def test_lines_come_every_ten_seconds_and_later_more_seldom() -> None:
    moment = 0.0
    lines: list[tuple[float, str]] = []
    log = Log(lambda line: lines.append((moment, line)), clock=lambda: moment)
    for second in range(1, 401):
        moment = float(second)
        log(at(second))
    moments = [when for when, _ in lines]
    assert moments[:3] == [10.0, 20.0, 30.0]
    assert moments[-1] - moments[-2] > 30
    assert lines[0][1] == "calibrating: 10 of 192 samples, 4 a second, 46 s left, 320.1 MB"


def test_durations() -> None:
    assert [duration(s) for s in (0.4, 59.4, 312, 7500)] == ["0 s", "59 s", "5 min 12 s", "2 h 5 min"]
