"""Real processes: what only shows there."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.cli.conftest import Run

HEAVY = ("numpy", "onnx", "onnxruntime", "onnx_graphsurgeon", "rich", "PIL")


def onnxq(*arguments: object, **options: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "onnxq", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120, **options)  # type: ignore[call-overload,no-any-return]


@pytest.mark.parametrize("arguments", [(), ("--help",), ("--version",), ("quantize", "--help"), ("plan", "--wrong")])
def test_help_imports_nothing_heavy(arguments: tuple[str, ...]) -> None:
    program = (
        "import sys\n"
        "from onnxq.cli.main import main\n"
        f"sys.argv = ['onnxq', *{list(arguments)!r}]\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        f"print('heavy:', *[m for m in {HEAVY!r} if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.splitlines()[-1] == "heavy:"


def test_version() -> None:
    import onnxq as package  # noqa: PLC0415 - the name is taken by the runner above

    assert onnxq("--version").stdout == f"onnxq {package.__version__}\n"


def test_exit_code_and_streams_of_a_user_error(folder: Path) -> None:
    done = onnxq("quantize", "absent.onnx", cwd=folder)
    assert done.returncode == 3
    assert done.stdout == ""
    assert done.stderr.splitlines()[-2] == "error: model 'absent.onnx': there is no such file"


@pytest.mark.skipif(sys.platform == "win32", reason="Windows limits no file sizes")
@pytest.mark.parametrize(
    ("target", "engine"), [("ort-cpu", "onnxruntime"), ("openvino", "openvino"), ("tensorrt", "tensorrt_rtx")]
)
def test_a_full_temporary_folder_is_not_blamed_on_the_model(folder: Path, target: str, engine: str) -> None:
    """Engines themselves say that the model cannot be loaded, or is refused."""
    import resource  # noqa: PLC0415 - not on Windows

    pytest.importorskip(engine)
    model = Path(__file__).parents[2] / "models" / "digits_resnet.onnx"
    made = onnxq("quantize", model, "--target", target, "--recover", "none", "-o", "int8.onnx", cwd=folder)
    assert made.returncode == 0, made.stderr

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (400, 400))

    done = onnxq("verify", model, "int8.onnx", "--target", target, cwd=folder, preexec_fn=limit)
    assert done.returncode == 2, done.stderr
    assert "error: the temporary folder '" in done.stderr
    assert "TMPDIR" in done.stderr


def test_no_control_codes_reach_a_file(folder: Path) -> None:
    done = onnxq("quantize", "model.onnx", "--data", "data.npz", cwd=folder)
    assert done.returncode == 0
    assert "\x1b" not in done.stdout + done.stderr
    assert done.stderr == ""


def test_output_cut_short_by_the_reader(folder: Path) -> None:
    command = f"{sys.executable} -m onnxq plan model.onnx | head -1"
    done = subprocess.run(command, shell=True, capture_output=True, text=True, check=False, cwd=folder, timeout=60)
    assert done.stdout.startswith("Plan for ")
    assert "Traceback" not in done.stderr


full = pytest.mark.skipif(not Path("/dev/full").exists(), reason="a device that is always full")


@full
@pytest.mark.parametrize("command", [("plan", "model.onnx"), ("plan", "model.onnx", "--json"), ("--help",)])
def test_output_that_cannot_be_written(folder: Path, command: tuple[str, ...]) -> None:
    with Path("/dev/full").open("w") as stream:
        given = [sys.executable, "-m", "onnxq", *command]
        done = subprocess.run(
            given, stdout=stream, stderr=subprocess.PIPE, text=True, check=False, cwd=folder, timeout=60
        )
    assert done.returncode == 2
    assert done.stderr == (
        "error: standard output: what is printed cannot be written: No space left on device\n"
        "hint: send it to another place: > FILE\n"
    )


@pytest.mark.skipif(sys.platform == "win32", reason="Windows limits no file sizes")
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_output_that_is_cut_off_is_no_success(folder: Path, unbuffered: str) -> None:
    """The system takes the first part of the document. Unbuffered, Python itself does not notice."""
    import resource  # noqa: PLC0415 - not on Windows

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (500, 500))

    with (folder / "plan.json").open("w") as stream:
        done = subprocess.run(
            [sys.executable, "-m", "onnxq", "plan", "model.onnx", "--json"],
            stdout=stream, stderr=subprocess.PIPE, text=True, check=False, cwd=folder, timeout=60, preexec_fn=limit,
            env={**os.environ, "PYTHONUNBUFFERED": unbuffered},
        )  # fmt: skip
    assert (folder / "plan.json").stat().st_size == 500
    assert done.returncode == 2
    assert "what is printed cannot be written: File too large" in done.stderr


@full
def test_messages_that_cannot_be_written_end_nothing(folder: Path) -> None:
    with Path("/dev/full").open("w") as stream:
        given = [sys.executable, "-m", "onnxq", "quantize", "model.onnx", "-o", "q.onnx"]
        done = subprocess.run(
            given, stdout=subprocess.PIPE, stderr=stream, text=True, check=False, cwd=folder, timeout=60
        )
        given[4], given[6] = "absent.onnx", "other.onnx"
        wrong = subprocess.run(given, stdout=subprocess.PIPE, stderr=stream, check=False, cwd=folder, timeout=60)
    assert (done.returncode, wrong.returncode) == (0, 3)
    assert done.stdout.startswith("PASSED")
    assert (folder / "q.onnx").is_file()


@pytest.mark.skipif(sys.platform == "win32", reason="the shell's way to close a stream")
def test_closed_streams(folder: Path) -> None:
    for command, code in (("plan model.onnx >&-", 0), ("plan absent.onnx 2>&-", 3)):
        given = f"{sys.executable} -m onnxq {command}"
        done = subprocess.run(given, shell=True, capture_output=True, text=True, check=False, cwd=folder, timeout=60)
        assert done.returncode == code, done.stderr


posix = pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")

SLOW = (
    "import time, pathlib, numpy as np\n"
    "def load_data():\n"
    "    for i in range(1000):\n"
    "        pathlib.Path('started').touch()\n"
    "        time.sleep({pause})\n"
    "        yield {{'x': np.zeros((1, 3, 8, 8), np.float32)}}\n"
)


def started(folder: Path, pause: float = 0.05, command: tuple[str, ...] = ("quantize",)) -> subprocess.Popen[str]:
    """A process that is in the middle of its calibration."""
    (folder / "slow.py").write_text(SLOW.format(pause=pause))
    given = [sys.executable, "-m", "onnxq", *command, "model.onnx", "--data", "slow.py", "-o", "q.onnx"]
    process = subprocess.Popen(given, cwd=folder, stderr=subprocess.PIPE, text=True)
    for _ in range(1200):
        if (folder / "started").exists():
            return process
        time.sleep(0.05)
    raise TimeoutError


@posix
@pytest.mark.parametrize(
    ("number", "code", "said"), [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "terminated")]
)
def test_a_calibration_that_is_ended_leaves_nothing(folder: Path, number: int, code: int, said: str) -> None:
    process = started(folder)
    os.kill(process.pid, number)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == code
    assert stderr.splitlines()[-1] == f"error: {said}"
    assert not (folder / "q.onnx").exists()
    assert not list(folder.glob(".*"))


@posix
@pytest.mark.parametrize("command", ["quantize", "calibrate"])
def test_an_impatient_person(folder: Path, command: str) -> None:
    """Ctrl-C again and again, while the first is still being handled and after that."""
    process = started(folder, pause=2.0, command=(command,))
    while process.poll() is None:
        os.kill(process.pid, signal.SIGINT)
        time.sleep(0.03)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode in (130, -signal.SIGINT)
    assert "Traceback" not in stderr
    assert "Exception ignored" not in stderr
    assert not (folder / "q.onnx").exists()


@pytest.mark.parametrize(("columns", "longest"), [("", 100), ("60", 60), ("200", 200), ("nonsense", 100), ("0", 100)])
def test_the_width_of_pages_that_are_piped(
    run: Run, monkeypatch: pytest.MonkeyPatch, columns: str, longest: int
) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    arguments = ("quantize", "model.onnx", "--data", "data.npz", "--force", "--exclude-op", "NoSuchOp" * 0 or "Relu")
    lines = run(*arguments).stdout.splitlines()
    assert max(map(len, lines)) <= longest
    assert max(map(len, lines)) > longest - 40 or longest == 200


def test_progress_is_shown_on_a_terminal(run: Run, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # FORCE_COLOR makes rich take any stream for a terminal.
    monkeypatch.setenv("FORCE_COLOR", "1")
    result = run("quantize", "model.onnx", "--data", "data.npz")
    assert result.exit_code == 0
    assert "quantizing and verifying" in result.stderr
    assert "of 15 samples" in result.stderr
    assert run("quantize", "model.onnx", "--data", "data.npz", "--force", "--quiet").stderr == ""
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b[3" not in run("quantize", "model.onnx", "--data", "data.npz", "--force").stderr
