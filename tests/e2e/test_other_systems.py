"""Windows and macOS, as far as Linux can stand for them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.skipif(sys.platform != "linux", reason="asks /proc which files are open")
@pytest.mark.parametrize("system", ["win32", "darwin"])
def test_files_are_written_and_replaced_as_other_systems_allow(system: str, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.other_systems", system, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=Path(__file__).parents[2])
    assert done.returncode == 0, done.stderr[-2000:]
