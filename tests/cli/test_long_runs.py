"""`onnxq calibrate` in parts: shards, and real processes that are stopped by real signals and go on."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.cli.conftest import Run

SLOW = """import pathlib, time, numpy as np
data = np.load("data.npz")["x"]
def load_data():
    for i, sample in enumerate(data):
        pathlib.Path("reached").write_text(str(i))
        while i >= {wait_at} and not pathlib.Path("go").exists():
            time.sleep(0.02)
        yield {{"x": sample[None]}}
"""
"""Samples of data.npz; from one on they are held back until the file `go` is there."""

COMMAND = ("calibrate", "model.onnx", "--target", "ort-x64-vnni", "--data")


def start(folder: Path, *arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "onnxq", *COMMAND, *map(str, arguments)]
    return subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_for_sample(folder: Path, number: int) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        reached = folder / "reached"
        if reached.exists() and reached.read_text() == str(number):
            return
        time.sleep(0.02)
    raise AssertionError(f"sample {number} was not reached")


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_killed_run_is_resumed_to_the_same_bytes(number: int, code: int, folder: Path, run: Run) -> None:
    (folder / "slow.py").write_text(SLOW.format(wait_at=13))
    process = start(folder, "slow.py", "-o", "m.stats")
    wait_for_sample(folder, 13)
    os.kill(process.pid, number)
    # The signal comes while sample 13 is being made; it is still counted, and the run ends before the next.
    (folder / "go").touch()
    stdout, stderr = process.communicate(timeout=60)
    assert (process.returncode, stdout) == (code, "")
    assert stderr == (
        f"error: interrupted by {signal.Signals(number).name}: 14 samples are done and saved in 'm.stats.checkpoint'\n"
        "hint: run the same with --resume (resume=True) to go on from there\n"
    )
    assert not (folder / "m.stats").exists()

    assert run(*COMMAND, "slow.py", "-o", "m.stats").exit_code == 2
    again = run(*COMMAND, "slow.py", "-o", "m.stats", "--resume")
    assert (again.exit_code, again.stderr) == (0, "statistics of 3 tensors over 20 samples written to m.stats\n")
    assert run(*COMMAND, "data.npz", "-o", "whole.stats").exit_code == 0
    assert (folder / "m.stats").read_bytes() == (folder / "whole.stats").read_bytes()
    assert not list(folder.glob("*.checkpoint"))
    assert not list(folder.glob(".*"))


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
def test_a_run_that_was_killed_outright_goes_on_from_its_last_checkpoint(folder: Path, run: Run) -> None:
    (folder / "slow.py").write_text(SLOW.format(wait_at=13))
    process = start(folder, "slow.py", "-o", "m.stats", "--checkpoint", "c", "--checkpoint-every", "0.000001")
    wait_for_sample(folder, 13)
    process.kill()
    process.communicate(timeout=60)
    assert (folder / "c").exists()
    (folder / "go").touch()
    again = run(*COMMAND, "slow.py", "-o", "m.stats", "--checkpoint", "c", "--resume")
    assert again.exit_code == 0, again.stderr
    run(*COMMAND, "data.npz", "-o", "whole.stats")
    assert (folder / "m.stats").read_bytes() == (folder / "whole.stats").read_bytes()


def test_resume_with_nothing_to_resume_says_so(run: Run) -> None:
    done = run(*COMMAND, "data.npz", "-o", "m.stats", "--resume")
    assert done.exit_code == 0
    assert done.stderr.startswith("no checkpoint 'm.stats.checkpoint': starting from the beginning\n")


def test_a_checkpoint_is_in_nobodys_way(folder: Path, run: Run) -> None:
    (folder / "m.stats.checkpoint").write_bytes(b"precious")
    refused = run(*COMMAND, "data.npz", "-o", "m.stats")
    assert refused.exit_code == 2
    assert "there is a checkpoint of an interrupted calibration" in refused.stderr
    damaged = run(*COMMAND, "data.npz", "-o", "m.stats", "--resume")
    assert damaged.exit_code == 3
    assert "m.stats.checkpoint: this is no checkpoint, or a damaged one" in damaged.stderr
    assert run(*COMMAND, "data.npz", "-o", "m.stats", "--force").exit_code == 0
    assert run(*COMMAND, "data.npz", "-o", "n.stats", "--checkpoint", "n.stats").exit_code == 2


def test_shards_merge_to_the_bytes_of_one_run(folder: Path, run: Run) -> None:
    run(*COMMAND, "data.npz", "-o", "whole.stats")
    for i in range(1, 5):
        done = run(*COMMAND, "data.npz", "-o", f"part-{i}.stats", "--shard", f"{i}/4")
        assert done.stderr == (f"statistics of 3 tensors over 5 samples (shard {i}/4) written to part-{i}.stats\n")
    assert run("merge", "part-3.stats", "part-1.stats", "part-4.stats", "-o", "three.stats").stderr == (
        "statistics of 3 tensors over 15 samples written to three.stats\n"
        "warning: this is not all of the data: of 4 shards, number 2 is missing; merge it too (onnxq merge)\n"
    )
    merged = run("merge", "three.stats", "part-2.stats", "-o", "all.stats", "--json")
    assert json.loads(merged.stdout)["shards"] is None
    assert (folder / "all.stats").read_bytes() == (folder / "whole.stats").read_bytes()
    twice = run("merge", "three.stats", "part-1.stats", "-o", "x.stats")
    assert twice.exit_code == 3
    assert (
        twice.stderr
        == "error: part-1.stats: shard 1/4 would be counted twice\nhint: give each shard's statistics once\n"
    )


def test_calibrate_merge_quantize(folder: Path, run: Run) -> None:
    for i in (1, 2):
        run(*COMMAND, "data.npz", "-o", f"{i}.stats", "--shard", f"{i}/2")
    run("merge", "1.stats", "2.stats", "-o", "m.stats")
    run(*COMMAND, "data.npz", "-o", "whole.stats")
    for stats in ("m", "whole"):
        done = run(
            "quantize",
            "model.onnx",
            "--data",
            "data.npz",
            "--stats",
            f"{stats}.stats",
            "-o",
            f"{stats}.onnx",
            "--target",
            "ort-x64-vnni",
            "--method",
            "entropy",
        )
        assert done.exit_code == 0, done.stderr
    assert (folder / "m.onnx").read_bytes() == (folder / "whole.onnx").read_bytes()


def test_bad_shard(run: Run) -> None:
    refused = run(*COMMAND, "data.npz", "-o", "m.stats", "--shard", "5/4")
    assert refused.exit_code == 2
    assert refused.stderr.startswith("error: there is no shard 5 of 4\nhint: --shard 3/16 (shard=(3, 16))")
