"""Temporary folders: removed with their object, and by the next process where theirs was killed."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from onnxq.errors import ConfigError
from onnxq.files.scratch import ScratchFolder, remove_left_folders, scratch_folder

posix = pytest.mark.skipif(sys.platform == "win32", reason="files are locked as POSIX systems do")

KILLED = """
import os, pathlib, signal
from onnxq.files.scratch import ScratchFolder

folder = ScratchFolder()
pathlib.Path(folder.name, "weights.bin").write_bytes(bytes(1000))
print(folder.name, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def killed(temporary: Path) -> Path:
    """The folder of a process that was killed while it had one."""
    environment = {**os.environ, "TMPDIR": str(temporary)}
    done = subprocess.run([sys.executable, "-c", KILLED], capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == -signal.SIGKILL, done.stderr
    return Path(done.stdout.strip())


def test_removed_at_the_end_and_with_the_object(temporary: Path) -> None:
    with scratch_folder() as folder:
        assert folder.parent == temporary
        (folder / "model.onnx").write_bytes(b"content")
    held = ScratchFolder()
    assert [path.name for path in temporary.iterdir()] == [Path(held.name).name]
    del held
    assert not list(temporary.iterdir())


@posix
def test_what_a_killed_process_left_is_removed_by_the_next(temporary: Path) -> None:
    left = killed(temporary)
    assert (left / "weights.bin").exists()
    environment = {**os.environ, "TMPDIR": str(temporary)}
    program = "from onnxq.files.scratch import ScratchFolder; ScratchFolder().cleanup()"
    subprocess.run([sys.executable, "-c", program], check=True, env=environment)
    assert not list(temporary.iterdir())


@posix
def test_what_is_in_use_or_is_not_ours_stays(temporary: Path) -> None:
    """Folders of this process, without a lock, of other names, and links."""
    left = killed(temporary)
    (temporary / "elsewhere").mkdir()
    left.rename(temporary / "elsewhere" / "kept")
    (temporary / "onnxq-link").symlink_to(temporary / "elsewhere" / "kept")
    (temporary / "onnxq-notes").mkdir()
    (temporary / "onnxq-file").touch()
    with ScratchFolder() as name:
        before = sorted(temporary.iterdir())
        remove_left_folders(temporary)
        assert sorted(temporary.iterdir()) == before
        assert Path(name) in before
        assert (temporary / "elsewhere" / "kept" / "weights.bin").exists()


@posix
def test_a_file_system_without_locks(temporary: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing tells there that a folder is in use: it gets no lock, and is not taken for left."""
    import fcntl  # noqa: PLC0415 - not on Windows

    def refused(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refused)
    with ScratchFolder() as name:
        assert not list(Path(name).iterdir())
        monkeypatch.undo()
        remove_left_folders(temporary)
        assert Path(name).is_dir()
    assert not Path(name).exists()


@posix
def test_a_folder_that_cannot_be_named_leaves_nothing(temporary: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "rename", refused)
    with pytest.raises(ConfigError, match="a temporary folder cannot be written: No space left on device"):
        ScratchFolder()
    assert not list(temporary.iterdir())
