"""What a person at a terminal sees: progress with its pace, colours or none, completion."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import click
import pytest

from onnxq.calibration.progress import Progress, StageProgress
from onnxq.cli.main import cli
from onnxq.cli.progress import Pace

pty = pytest.importorskip("pty", reason="pseudo-terminals are POSIX")
COLOUR = re.compile(r"\x1b\[[0-9;]*3[0-7]")


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def stage(name: str, done: int, expected: int | None, **extra: str) -> StageProgress:
    return StageProgress(batches=done, samples=done, expected_samples=expected, elapsed_s=0.0, stage=name, **extra)


def lines(*moments: tuple[float, Progress]) -> list[str]:
    clock, found = Clock(), []
    pace = Pace(clock)
    for clock.now, now in moments:
        found.append(pace.facts(now))
    return found


def test_rate_and_time_left_are_those_of_the_stage() -> None:
    assert lines(
        (0.0, stage("comparing outputs", 0, 100, unit="sample")),
        (4.0, stage("comparing outputs", 20, 100, unit="sample")),
        # What was done before the first call of a stage took no time of it.
        (100.0, stage("measuring layers", 5, 10)),
    ) == ["0 of 100 samples", "20 of 100 samples, 5 a second, 16 s left", "5 of 10 steps"]


def test_calibration_tells_its_own_rate() -> None:
    now = Progress(batches=20, samples=20, expected_samples=100, elapsed_s=4.0)
    assert lines((0.0, now)) == ["20 of 100 samples, 5 a second, 16 s left"]


def test_without_a_total_there_is_a_rate_and_no_end() -> None:
    assert lines((0.0, stage("searching", 0, None)), (2.0, stage("searching", 60, None))) == [
        "",
        "60 steps, 30 a second",
    ]


def test_slow_steps_and_what_was_found() -> None:
    *_, last = lines((0.0, stage("searching", 0, 9)), (7200.0, stage("searching", 4, 9, best="best: 3 % in float")))
    assert last == "4 of 9 steps, 0.033 a minute, 2 h 30 min left, best: 3 % in float"


def on_a_terminal(folder: Path, *arguments: str, **environment: str) -> str:
    """Everything that a command prints on a terminal of 120 columns."""
    primary, secondary = pty.openpty()
    given = {**os.environ, "COLUMNS": "120", "TERM": "xterm-256color", **environment}
    process = subprocess.Popen(
        [sys.executable, "-m", "onnxq", *arguments], cwd=folder, stdin=secondary, stdout=secondary, stderr=secondary,
        env=given,
    )  # fmt: skip
    os.close(secondary)
    seen = b""
    while True:
        try:
            part = os.read(primary, 65536)
        except OSError:  # how a terminal ends on Linux
            break
        if not part:
            break
        seen += part
    os.close(primary)
    assert process.wait(60) == 0
    return seen.decode()


# On any CPU the target that nothing has to be said of.
QUANTIZE = ("quantize", "model.onnx", "--data", "data.npz", "--target", "ort-x64-avx2", "--force")


def test_every_long_stage_is_shown_on_a_terminal(folder: Path) -> None:
    seen = on_a_terminal(folder, *QUANTIZE, "--recover", "best", "--report", "r.json")
    for name in ("calibrating", "reconstructing layers", "comparing outputs", "asking the engine",
                 "measuring tensors", "measuring latency"):  # fmt: skip
        assert name in seen
    assert COLOUR.search(seen)
    assert "PASSED" in seen


def test_no_color_is_respected_on_a_terminal(folder: Path) -> None:
    assert not COLOUR.search(on_a_terminal(folder, *QUANTIZE, NO_COLOR="1"))


def test_quiet_shows_nothing_on_a_terminal(folder: Path) -> None:
    assert on_a_terminal(folder, *QUANTIZE, "--quiet") == ""


def complete(words: str, position: int) -> str:
    environment = {**os.environ, "_ONNXQ_COMPLETE": "bash_complete", "COMP_WORDS": words, "COMP_CWORD": str(position)}
    program = "from onnxq.cli.main import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=False, timeout=60
    )
    return done.stdout


def test_completion_of_commands_options_and_values() -> None:
    for name in cli.commands:
        assert f"plain,{name}" in complete(f"onnxq {name[:-1]}", 1)
    assert "plain,--recover" in complete("onnxq quantize --rec", 2)
    assert "plain,percentile" in complete("onnxq quantize --method per", 3)
    assert "plain,tensorrt" in complete("onnxq quantize --target ten", 3)
    assert complete("onnxq quantize mod", 2).strip() == "file,mod"


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_scripts_for_completion(shell: str) -> None:
    environment = {**os.environ, "_ONNXQ_COMPLETE": f"{shell}_source"}
    program = "from onnxq.cli.main import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=False, timeout=60
    )
    assert "_ONNXQ_COMPLETE" in done.stdout or "bash" in done.stderr  # click asks for bash 4.4


@pytest.mark.parametrize("name", sorted(cli.commands))
def test_every_command_has_examples_and_explains_every_option(name: str) -> None:
    command = cli.commands[name]
    assert f"onnxq {name}" in str(command.help).split("Example", 1)[1]
    assert all(option.help for option in command.params if isinstance(option, click.Option))
