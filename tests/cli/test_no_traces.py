"""A run leaves its output and nothing else: nothing in the home folder, in the temporary one, in the environment."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
_RUN = """\
import os
before = dict(os.environ)
import onnxq
result = onnxq.quantize({model!r}, None, target="ort-cpu", output="out/int8.onnx")
assert dict(os.environ) == before
"""


def test_home_and_temporary_folder_stay_empty(tmp_path: Path) -> None:
    """onnxruntime's telemetry, where a build has it, would open a database in one and write `.ses` into the other."""
    home, temporary, out = (tmp_path / name for name in ("home", "temporary", "out"))
    for folder in (home, temporary, out):
        folder.mkdir()
    environment = {k: v for k, v in os.environ.items() if k not in ("ORT_DISABLE_TELEMETRY", "XDG_CACHE_HOME")}
    environment |= {"HOME": str(home), "TMPDIR": str(temporary), "PYTHONPATH": str(ROOT)}
    environment |= {"PYTHONDONTWRITEBYTECODE": "1"}
    script = _RUN.format(model=str(ROOT / "models" / "digits_resnet.onnx"))
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script],
        check=False,
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert [*home.rglob("*")] == []
    assert [*temporary.rglob("*")] == []
    assert [p.name for p in out.iterdir()] == ["int8.onnx"]
