"""Files that appear whole or not at all: full disks, folders that cannot be written to, killed processes, rivals."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import onnx
import pytest

from onnxq.errors import ConfigError
from onnxq.files import whole
from onnxq.files.whole import draft, try_folder, write_whole
from onnxq.graph import saving
from onnxq.graph.model import load_graph, save_model
from tests.graphs import model_of, normal

posix = pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals and limits")
linux = pytest.mark.skipif(not hasattr(os, "O_TMPFILE"), reason="files without a name are Linux's")

TEXT = "(float[N,300] x) => (float[N,40] y) { y = MatMul(x, w) }"


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture(params=["nameless", "hidden", "no links"])
def system(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Three kinds of file systems: with O_TMPFILE, without it, and without hard links too."""
    if request.param != "nameless":
        monkeypatch.setattr(whole, "_nameless", lambda _: None)
    if request.param == "no links":
        _forbid_links(monkeypatch)
    return str(request.param)


def _forbid_links(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: Any, **__: Any) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", refused)


@pytest.mark.usefixtures("system")
class TestEveryFileSystem:
    @pytest.mark.parametrize("replace", [True, False])
    def test_a_new_file(self, tmp_path: Path, *, replace: bool) -> None:
        write_whole(tmp_path / "f", b"new", replace=replace)
        assert contents(tmp_path) == {"f": b"new"}
        umask = os.umask(0)
        os.umask(umask)
        assert (tmp_path / "f").stat().st_mode & 0o777 == 0o666 & ~umask

    def test_replacing(self, tmp_path: Path) -> None:
        (tmp_path / "f").write_bytes(b"old")
        write_whole(tmp_path / "f", b"new")
        assert contents(tmp_path) == {"f": b"new"}

    def test_what_may_not_be_replaced(self, tmp_path: Path) -> None:
        """Also where the file came while the draft was written."""
        with draft(tmp_path / "f") as made:
            made.stream.write(b"new")
            (tmp_path / "f").write_bytes(b"rival")
            with pytest.raises(FileExistsError):
                made.publish(replace=False)
        assert contents(tmp_path) == {"f": b"rival"}

    def test_a_draft_that_is_given_up(self, tmp_path: Path) -> None:
        (tmp_path / "f").write_bytes(b"old")
        with pytest.raises(KeyboardInterrupt), draft(tmp_path / "f") as made:
            made.stream.write(b"new")
            raise KeyboardInterrupt
        assert contents(tmp_path) == {"f": b"old"}

    def test_many_writers_of_one_file(self, tmp_path: Path) -> None:
        whole = [bytes([n]) * 200_000 for n in range(8)]
        threads = [threading.Thread(target=write_whole, args=(tmp_path / "f", content)) for content in whole]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert list(contents(tmp_path)) == ["f"]
        assert (tmp_path / "f").read_bytes() in whole

    # Without hard links there is a moment between the look and the rename.
    @pytest.mark.parametrize("system", ["nameless", "hidden"], indirect=True)
    def test_one_writer_wins_where_nothing_may_be_replaced(self, tmp_path: Path) -> None:
        lost: list[int] = []

        def write(number: int) -> None:
            try:
                write_whole(tmp_path / "f", bytes([number]), replace=False)
            except FileExistsError:
                lost.append(number)

        threads = [threading.Thread(target=write, args=(n,)) for n in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(lost) == 7
        assert contents(tmp_path)["f"] == bytes([({*range(8)} - {*lost}).pop()])


@linux
class TestLinux:
    def test_a_draft_has_no_name(self, tmp_path: Path) -> None:
        with draft(tmp_path / "f") as made:
            made.stream.write(b"new")
            made.sync()
            assert contents(tmp_path) == {}
            made.publish(replace=False)
        assert contents(tmp_path) == {"f": b"new"}

    def test_names_that_cannot_be_given_later(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """O_TMPFILE works and linkat does not: the draft is copied to a hidden file."""
        _forbid_links(monkeypatch)
        write_whole(tmp_path / "f", b"new")
        assert contents(tmp_path) == {"f": b"new"}

    def test_folders_that_are_tried_do_not_change(self, tmp_path: Path) -> None:
        before = tmp_path.stat().st_mtime_ns
        try_folder(tmp_path)
        assert contents(tmp_path) == {}
        assert tmp_path.stat().st_mtime_ns == before
        with pytest.raises(FileNotFoundError):
            try_folder(tmp_path / "none")


# ---- by doing it -----------------------------------------------------------------------------------------------------

SAVE = """
import os, signal, sys
from onnxq.graph import saving
from onnxq.graph.model import save_model
from tests.graphs import model_of, normal
model = model_of({text!r}, w=normal(300, 40, seed=1))
{before}
save_model(model, sys.argv[1], force=True)
"""


def save_elsewhere(path: Path, before: str, **options: Any) -> subprocess.CompletedProcess[str]:
    """Save a model in another process, `before` having been run there."""
    command = [sys.executable, "-c", SAVE.format(text=TEXT, before=before), str(path)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120, **options)


@pytest.fixture
def old(tmp_path: Path) -> dict[str, bytes]:
    save_model(model_of(TEXT, w=normal(300, 40)), tmp_path / "m.onnx")
    return contents(tmp_path)


@pytest.fixture
def old_pair(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, bytes]:
    """A model and the file of its weights."""
    monkeypatch.setattr(saving, "_INLINE_LIMIT_BYTES", 1000)
    save_model(model_of(TEXT, w=normal(300, 40)), tmp_path / "m.onnx")
    return contents(tmp_path)


SPLIT = "saving._INLINE_LIMIT_BYTES = 1000\n"


@posix
@pytest.mark.parametrize("split", ["", SPLIT], ids=["one file", "two files"])
def test_a_full_disk(tmp_path: Path, old: dict[str, bytes], split: str) -> None:
    """A limit on the size of files fails at the same place as a full disk, with another number."""
    limit = "import resource\nresource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))"
    done = save_elsewhere(tmp_path / "m.onnx", split + limit)
    assert "the model cannot be written: File too large" in done.stderr
    assert contents(tmp_path) == old


@posix
def test_a_disk_that_is_really_full(old: dict[str, bytes], tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(small)]
    try:
        mounted = subprocess.run(mount, capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        mounted = False
    if not mounted:
        pytest.skip("only root can mount a small disk")
    try:
        model = model_of(TEXT, w=normal(300, 40))
        (small / "m.onnx").write_bytes(b"old")
        for limit in (saving._INLINE_LIMIT_BYTES, 1000):
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(saving, "_INLINE_LIMIT_BYTES", limit)
                big = model_of(TEXT.replace("40", "80"), w=normal(300, 80))
                with pytest.raises(ConfigError, match="the model cannot be written: No space left on device"):
                    save_model(big, small / "m.onnx", force=True)
            assert contents(small) == {"m.onnx": b"old"}
        save_model(model, small / "m.onnx", force=True)
        assert onnx.load(small / "m.onnx") == model
    finally:
        subprocess.run(["umount", str(small)], check=True)


@posix
def test_a_folder_that_cannot_be_written_to() -> None:
    with _folder_for_everybody() as folder:
        (folder / "m.onnx").write_bytes(b"old")
        folder.chmod(0o555)
        # Root may write everywhere, so that it becomes nobody.
        done = save_elsewhere(folder / "m.onnx", "if os.getuid() == 0: os.setuid(65534)")
        assert "the model cannot be written: Permission denied" in done.stderr
        assert "hint" in done.stderr.lower()
        assert contents(folder) == {"m.onnx": b"old"}


class _folder_for_everybody:  # noqa: N801 - reads as a function
    def __enter__(self) -> Path:
        self._folder = tempfile.TemporaryDirectory()
        path = Path(self._folder.name)
        path.chmod(0o755)
        return path

    def __exit__(self, *_: object) -> None:
        Path(self._folder.name).chmod(0o755)
        self._folder.cleanup()


KILLED_WHILE_WRITING = "os.fsync = lambda _: os.kill(os.getpid(), signal.SIGKILL)\n"


@linux
@pytest.mark.parametrize("split", ["", SPLIT], ids=["one file", "two files"])
def test_killed_while_writing(tmp_path: Path, old: dict[str, bytes], split: str) -> None:
    done = save_elsewhere(tmp_path / "m.onnx", split + KILLED_WHILE_WRITING)
    assert done.returncode == -signal.SIGKILL
    assert contents(tmp_path) == old


@posix
def test_terminated_while_writing_with_hidden_files(tmp_path: Path, old: dict[str, bytes]) -> None:
    """Without O_TMPFILE there is a hidden file, which every end but a kill removes."""
    before = (
        "from onnxq.files import whole\nwhole._nameless = lambda _: None\n"
        "def stop(*_): raise SystemExit(143)\nsignal.signal(signal.SIGTERM, stop)\n"
        "os.fsync = lambda _: os.kill(os.getpid(), signal.SIGTERM)\n"
    )
    assert save_elsewhere(tmp_path / "m.onnx", before).returncode == 143
    assert contents(tmp_path) == old


KILLED_BEFORE_PUBLISHING = (
    SPLIT
    + """
from onnxq.files.whole import Draft
publish, left = Draft.publish, [{left}]
def killed(self, **options):
    if not left[0]:
        os.kill(os.getpid(), signal.SIGKILL)
    left[0] -= 1
    publish(self, **options)
Draft.publish = killed
"""
)


@posix
@pytest.mark.usefixtures("old_pair")
@pytest.mark.parametrize("published", [0, 1])
def test_killed_between_the_two_files_of_a_model(tmp_path: Path, published: int) -> None:
    """Weights and model cannot be replaced in one step: then there is no model, rather than one with wrong weights."""
    done = save_elsewhere(tmp_path / "m.onnx", KILLED_BEFORE_PUBLISHING.format(left=published))
    assert done.returncode == -signal.SIGKILL
    assert not (tmp_path / "m.onnx").exists()
    # The old model is still there, under a hidden name.
    (kept,) = tmp_path.glob(".m.onnx.????????????.old")
    assert b"m.onnx.data" in kept.read_bytes()
    assert save_elsewhere(tmp_path / "m.onnx", SPLIT).returncode == 0
    assert (load_graph(tmp_path / "m.onnx").constant("w") == normal(300, 40, seed=1)).all()
    assert sorted(contents(tmp_path)) == ["m.onnx", "m.onnx.data"]


@posix
@pytest.mark.parametrize("published", [0, 1])
def test_the_next_one_puts_back_what_a_killed_one_took_away(
    tmp_path: Path, old_pair: dict[str, bytes], published: int
) -> None:
    save_elsewhere(tmp_path / "m.onnx", KILLED_BEFORE_PUBLISHING.format(left=published))
    assert contents(tmp_path) != old_pair
    with pytest.raises(ConfigError, match="the file exists"):
        saving.check_output(tmp_path / "m.onnx")
    assert contents(tmp_path) == old_pair


PAUSED_BETWEEN = (
    SPLIT
    + """
import time
from pathlib import Path
from onnxq.files.whole import Draft
publish, folder = Draft.publish, Path(sys.argv[1]).parent
def paused(self, **options):
    if self.target.suffix == ".onnx":
        (folder / "weights are there").touch()
        deadline = time.monotonic() + 2
        while time.monotonic() < deadline and not (folder / "the other has finished").exists():
            time.sleep(0.01)
    publish(self, **options)
Draft.publish = paused
"""
)


@posix
@pytest.mark.parametrize("before", ["nothing", "a pair"])
def test_two_processes_that_write_one_pair(tmp_path: Path, before: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """One has put its weights into place and not yet its model when the other comes."""
    monkeypatch.setattr(saving, "_INLINE_LIMIT_BYTES", 1000)
    path, own = tmp_path / "m.onnx", model_of(TEXT, w=normal(300, 40, seed=2))
    own.doc_string = "own"
    if before == "a pair":
        save_model(model_of(TEXT, w=normal(300, 40)), path)
    command = [sys.executable, "-c", SAVE.format(text=TEXT, before=PAUSED_BETWEEN), str(path)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as other:
        while other.poll() is None and not (tmp_path / "weights are there").exists():
            time.sleep(0.01)
        saving.check_output(path, force=True)  # nor does it put back what the other has just put aside
        save_model(own, path, force=True)
        (tmp_path / "the other has finished").touch()
        errors = other.communicate()[1]
    assert other.returncode == 0, errors
    # Its weights and model are of one process, that which came last, and nothing else is left.
    assert onnx.load(path, load_external_data=False).doc_string == "own"
    assert (load_graph(path).constant("w") == normal(300, 40, seed=2)).all()
    assert sorted(contents(tmp_path)) == ["m.onnx", "m.onnx.data", "the other has finished", "weights are there"]


@posix
def test_many_threads_that_write_one_pair(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(saving, "_INLINE_LIMIT_BYTES", 1000)

    def write(number: int) -> None:
        for _ in range(5):
            model = model_of(TEXT, w=normal(300, 40, seed=number))
            model.doc_string = str(number)
            save_model(model, tmp_path / "m.onnx", force=True)

    threads = [threading.Thread(target=write, args=(n,)) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    number = int(onnx.load(tmp_path / "m.onnx", load_external_data=False).doc_string)
    assert (load_graph(tmp_path / "m.onnx").constant("w") == normal(300, 40, seed=number)).all()
    assert sorted(contents(tmp_path)) == ["m.onnx", "m.onnx.data"]


@posix
def test_the_next_one_removes_hidden_files_that_nobody_writes(
    tmp_path: Path, old: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without O_TMPFILE a kill leaves the hidden file of the draft."""
    before = "from onnxq.files import whole\nwhole._nameless = lambda _: None\n" + KILLED_WHILE_WRITING
    assert save_elsewhere(tmp_path / "m.onnx", before).returncode == -signal.SIGKILL
    assert len(list(tmp_path.glob(".m.onnx.*.tmp"))) == 1
    assert (tmp_path / "m.onnx").read_bytes() == old["m.onnx"]
    (tmp_path / ".m.onnx.notes.tmp").touch()
    monkeypatch.setattr(whole, "_nameless", lambda _: None)
    with draft(tmp_path / "m.onnx") as first:
        first.stream.write(b"first")
        with draft(tmp_path / "m.onnx") as second:  # does not take the first for left
            second.stream.write(b"second")
            second.publish(replace=True)
        assert contents(tmp_path)["m.onnx"] == b"second"
        first.publish(replace=True)
    assert contents(tmp_path) == {"m.onnx": b"first", ".m.onnx.notes.tmp": b""}


@pytest.fixture(autouse=True)
def _import_path(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The other processes find the package and the tests where this one does."""
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    yield
