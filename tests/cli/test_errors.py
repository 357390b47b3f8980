"""What commands do when something is wrong: a typed message with the way out, an exit code, and no file left."""

from __future__ import annotations

import builtins
import errno
import io
import json
import os
import re
from pathlib import Path
from typing import Any

import click
import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from onnxq.cli.group import failure_of
from onnxq.cli.main import cli
from onnxq.cli.signals import Terminated
from onnxq.errors import ConfigError, DataError, InternalError
from tests.cli.conftest import Run, samples, tiny_model

BUG = "this is a bug in onnxq, not a fault of your model or data"


def files(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


BAD_DATA = {
    "missing": ({"image": samples(), "z": samples()}, "no array for input 'x'", "the model's inputs are 'x'"),
    "extra": ({"x": samples(), "z": samples()}, "'z' is not an input of the model", "the model's inputs are 'x'"),
    "layout": (
        {"x": samples().transpose(0, 2, 3, 1)},
        "input 'x' has shape (20, 8, 8, 3), the model expects (n, 3, 8, 8)",
        "pass --layout nhwc (layout='nhwc')",
    ),
    "dtype": ({"x": samples().astype(np.int64)}, "input 'x' is int64, the model expects float32", "astype('float32')"),
    "empty": ({"x": samples()[:0]}, "no calibration data", "pass --data (data=)"),
    "nan": ({"x": np.where(samples() > 2.5, np.nan, samples())}, "input 'x' holds NaN", "remove this sample"),
}


@pytest.mark.parametrize("case", BAD_DATA)
def test_data_that_does_not_fit(run: Run, folder: Path, case: str) -> None:
    arrays, message, hint = BAD_DATA[case]
    np.savez(folder / "data.npz", **arrays)
    before = files(folder)
    result = run("quantize", "model.onnx", "--data", "data.npz", "--report", "r.html", "--save-stats", "s.stats")
    assert result.exit_code == 3
    error, _, way_out = result.stderr.partition("\nhint: ")
    assert error.startswith("error: ")
    assert message in error
    assert hint in way_out
    assert "Traceback" not in result.output
    assert files(folder) == before


def test_wrong_shape_without_a_known_way_out(run: Run, folder: Path) -> None:
    np.savez(folder / "data.npz", x=samples()[..., :7])
    result = run("quantize", "model.onnx", "--data", "data.npz")
    assert result.exit_code == 3
    assert "input 'x' has shape (20, 3, 8, 7), the model expects (n, 3, 8, 8)" in result.stderr


def test_activations_with_nan_are_named(run: Run, folder: Path) -> None:
    onnx.save(tiny_model(before="Sqrt"), str(folder / "model.onnx"))
    before = files(folder)
    result = run("quantize", "model.onnx", "--data", "data.npz")
    assert result.exit_code == 3
    assert "tensor 'b', computed by Sqrt node 'before', holds NaN" in result.stderr
    assert "hint: remove this sample or check the model on it" in result.stderr
    assert files(folder) == before


BAD_MODELS = {
    "absent.onnx": (None, "there is no such file"),
    "text.onnx": (b"hello", "this is not an ONNX model, or it is cut off"),
    "empty.onnx": (b"", "the file is empty"),
    "checkpoint.onnx": (b"PK\x03\x04rest", "this is a zip archive"),
    "cut.onnx": (tiny_model().SerializeToString()[:900], "this is not an ONNX model, or it is cut off"),
}


@pytest.mark.parametrize("name", BAD_MODELS)
@pytest.mark.parametrize("command", ["quantize", "plan", "inspect"])
def test_files_that_are_no_model(run: Run, folder: Path, command: str, name: str) -> None:
    content, message = BAD_MODELS[name]
    if content is not None:
        (folder / name).write_bytes(content)
    before = files(folder)
    result = run(command, name)
    assert result.exit_code == 3
    assert result.stderr.startswith(f"error: model '{name}': {message}")  # and no word of missing data before it
    assert "\nhint: " in result.stderr
    assert files(folder) == before


@pytest.mark.parametrize("place", [".", "/"])
@pytest.mark.parametrize("command", ["quantize", "plan", "inspect", "sensitivity", "engine", "report"])
def test_folders_without_a_name_are_no_models(run: Run, folder: Path, command: str, place: str) -> None:
    before = files(folder)
    result = run(command, place)
    assert result.exit_code == 3, result.stderr
    assert f"error: model '{place}': this is a folder, not a file\nhint: " in result.stderr
    assert files(folder) == before


def test_an_absent_model_is_told_before_what_is_wrong_with_options(run: Run, folder: Path) -> None:
    result = run("quantize", "absent.onnx", "--ranking", "r.json", "--junit", "r.xml")
    assert result.exit_code == 3
    assert result.stderr.startswith("error: model 'absent.onnx': there is no such file")
    assert "there is no such file" in (folder / "r.xml").read_text()


def test_a_model_that_is_quantized_already(run: Run, folder: Path) -> None:
    run("quantize", "model.onnx", "--data", "data.npz")
    result = run("quantize", "model.int8.onnx", "--data", "data.npz")
    assert result.exit_code == 3
    assert "the model is quantized already" in result.stderr
    assert "onnxq verify" in result.stderr
    assert not (folder / "model.int8.int8.onnx").exists()


def test_an_operator_that_nothing_here_can_run(run: Run, folder: Path) -> None:
    onnx.save(tiny_model(after="Magic", domain="com.acme"), str(folder / "model.onnx"))
    planned = run("plan", "model.onnx", "--filter", "Magic")
    assert planned.exit_code == 0
    assert "operator of domain 'com.acme' is not known to onnxq" in planned.stdout
    before = files(folder)
    result = run("quantize", "model.onnx", "--data", "data.npz")
    assert result.exit_code == 3
    assert "com.acme:Magic" in result.stderr
    assert files(folder) == before


def test_statistics_of_another_model(run: Run, folder: Path) -> None:
    run("calibrate", "model.onnx", "--data", "data.npz", "-o", "m.stats")
    other = tiny_model()
    weight = other.graph.initializer[0]
    weight.CopyFrom(numpy_helper.from_array(2 * numpy_helper.to_array(weight), "w"))
    onnx.save(other, str(folder / "other.onnx"))
    result = run("quantize", "other.onnx", "--stats", "m.stats", "--data", "data.npz")
    assert result.exit_code == 3
    assert "the statistics were collected on another model" in result.stderr
    run("calibrate", "other.onnx", "--data", "data.npz", "-o", "o.stats")
    result = run("merge", "m.stats", "o.stats", "-o", "both.stats")
    assert result.exit_code == 3
    assert "statistics of different models cannot be merged" in result.stderr
    assert not (folder / "both.stats").exists()


USAGE = {
    ("quantize", "model.onnx", "--target", "tensorr"): "Did you mean 'tensorrt'?",
    ("quantize", "model.onnx", "--method", "entropie"): "Did you mean 'entropy'?",
    ("quantize", "model.onnx", "--dta", "x"): "No such option",
    ("quantize", "model.onnx", "--mean", "a,b"): "'a,b' is not a list of numbers such as 0.485,0.456,0.406",
    ("quantize", "model.onnx", "--image-size", "224x"): "'224x' is not a size such as 224 or 224x320",
    ("quantize", "model.onnx", "--limit", "0"): "0 is not in the range x>=1",
    (
        "quantize",
        "model.onnx",
        "--percentile",
        "99",
    ): "(percentile=99.0) has no meaning for the method 'auto'",
    ("quantize", "model.onnx", "--exclude", "cnov"): "no node of the model matches 'cnov'",
    ("quantize", "model.onnx", "--report", "r.pdf"): "a report is written as .html or .json, not as .pdf",
    ("quantize", "model.onnx", "-o", "model.onnx", "--force"): "this is the input model",
    ("quantize", "model.onnx", "-o", "a.html", "--report", "a.html"): "--output names the same file",
    ("quantize", "model.onnx", "-o", "data.npz"): "the file exists",
    ("quantize", "model.onnx", "-o", "."): "this is not a regular file",
    ("quantize", "model.onnx", "-o", "-"): "models and reports are written to files, not to stdout",
    ("quantize", "model.onnx", "--report", "-"): "models and reports are written to files, not to stdout",
    ("quantize", "model.onnx", "-o", "q.bin"): "the name of a model ends in .onnx",
    ("quantize", "model.onnx", "-o", "nowhere/q.onnx"): "the folder 'nowhere' does not exist",
    ("quantize", "model.onnx", "--data", "data.npz", "--images", "yolo"): "the data is not a folder of images",
    ("quantize", "model.onnx", "--data", "data.npz", "--mean", "0.5"): "the data is not a folder of images",
    ("quantize", "model.onnx", "--mean", "0.5"): "images are described, but there is no data",
    ("verify", "model.onnx", "model.onnx", "--color", "bgr"): "images are described, but there is no data",
    ("calibrate", "model.onnx", "-o", "m.stats"): "there is no calibration data",
    ("quantize", ""): "the path is empty; where it comes from a variable of the shell, is that set?",
    ("quantize", "model.onnx", "--data", ""): "Invalid value for '--data': the path is empty",
    ("quantize",): "Missing argument 'MODEL'",
    ("quantise", "model.onnx"): "No such command 'quantise'",
}


@pytest.mark.parametrize("arguments", USAGE, ids=" ".join)
def test_wrong_usage(run: Run, folder: Path, arguments: tuple[str, ...]) -> None:
    before = files(folder)
    result = run(*arguments)
    assert result.exit_code == 2
    assert USAGE[arguments] in result.stderr
    assert "\nhint: " in result.stderr
    assert files(folder) == before


def test_without_a_command_the_help_is_shown(run: Run) -> None:
    result = run()
    assert result.exit_code == 2
    assert result.stderr.startswith("Usage: onnxq")


def test_existing_output_is_replaced_only_by_force(run: Run, folder: Path) -> None:
    (folder / "model.int8.onnx").write_text("mine")
    assert run("quantize", "model.onnx", "--data", "data.npz").exit_code == 2
    assert (folder / "model.int8.onnx").read_text() == "mine"
    assert run("quantize", "model.onnx", "--data", "data.npz", "--force").exit_code == 0
    assert onnx.load(str(folder / "model.int8.onnx")).graph.node


def test_gates_that_are_missed(run: Run, folder: Path) -> None:
    run("quantize", "model.onnx", "--data", "data.npz", "--target", "ort-x64-vnni")
    arguments = ("verify", "model.onnx", "model.int8.onnx", "--data", "data.npz", "--target", "ort-x64-vnni")
    result = run(*arguments, "--min-sqnr", "200")
    assert result.exit_code == 4
    assert re.search(r"failed: SQNR at least 200 dB: the worst output has \d+\.\d dB", result.stdout)
    assert "error: not passed: SQNR at least 200 dB\n" in result.stderr  # told once, with its details, on stdout
    result = run(*arguments, "--min-sqnr", "200", "--quiet")
    assert re.search(r"error: not passed: SQNR at least 200 dB: the worst output has \d+\.\d dB", result.stderr)
    result = run(*arguments, "--min-sqnr", "200", "--json")
    assert result.exit_code == 4
    assert json.loads(result.stdout)["passed"] is False


def test_int8_gate_is_refused_where_the_engine_tells_nothing(run: Run, folder: Path) -> None:
    onnx.save(tiny_model(), str(folder / "same.onnx"))
    result = run("verify", "model.onnx", "same.onnx", "--data", "data.npz", "-t", "tensorrt", "--min-int8", "5")
    assert result.exit_code == 2
    assert "--min-int8" in result.stderr
    assert result.stdout == ""


def test_errors_as_json(run: Run, folder: Path) -> None:
    result = run("plan", "absent.onnx", "--json")
    assert result.exit_code == 3
    document = json.loads(result.stdout)
    assert document["schema"] == "onnxq.error/1"
    assert document["error"]["kind"] == "ModelError"
    assert document["error"]["exit_code"] == 3
    assert document["error"]["message"] == "there is no such file"
    usage = json.loads(run("plan", "model.onnx", "--json", "--wrong").stdout)
    assert (usage["error"]["kind"], usage["error"]["exit_code"]) == ("UsageError", 2)


def test_debug_shows_the_traceback(run: Run) -> None:
    result = run("plan", "absent.onnx", "--debug")
    assert result.exit_code == 3
    assert "Traceback" in result.stderr
    assert "there is no such file" in result.stderr


def test_a_bug_asks_for_a_report(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise KeyError("tensor")

    monkeypatch.setattr("onnxq.api.plan.explain", broken)
    result = run("plan", "model.onnx")
    assert result.exit_code == 1
    assert f"{BUG}: KeyError: 'tensor'" in result.stderr
    assert "please report it with the output of the same command with --debug" in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize(
    ("error", "kind", "exit_code", "message"),
    [
        (DataError("empty", where="d.npz", hint="fill it"), "DataError", 3, "empty"),
        (ConfigError("wrong"), "ConfigError", 2, "wrong"),
        (
            InternalError("broken"),
            "InternalError",
            1,
            f"{BUG}: broken",
        ),
        (MemoryError(), "MemoryError", 3, "not enough memory"),
        (click.Abort(), "Interrupted", 130, "interrupted"),
        (KeyboardInterrupt(), "Interrupted", 130, "interrupted"),
        (Terminated(), "Terminated", 143, "terminated"),
    ],
)
def test_every_kind_of_failure(error: BaseException, kind: str, exit_code: int, message: str) -> None:
    failure = failure_of(error)
    assert (failure.kind, failure.exit_code, failure.message) == (kind, exit_code, message)


@pytest.mark.parametrize(("signal", "code"), [(Terminated(), 143), (KeyboardInterrupt(), 130)])
def test_a_signal_while_an_extension_loads_is_no_bug(signal: BaseException, code: int) -> None:
    # What pybind11 makes of an exception that arrives in a module's initialisation.
    error = ImportError("initialization failed")
    error.__cause__ = signal
    assert failure_of(error).exit_code == code


def test_interruption_leaves_no_file(run: Run, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("onnxq.modes.finishing.verify_model", interrupted)
    before = files(folder)
    result = run("quantize", "model.onnx", "--data", "data.npz")
    assert result.exit_code == 130
    assert "error: interrupted" in result.stderr
    assert files(folder) == before


def test_an_interruption_while_the_first_is_handled(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """click prints a line for the first Ctrl-C; a second one at that moment used to end in a traceback."""

    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("onnxq.api.plan.explain", interrupted)
    monkeypatch.setattr("click.core.echo", interrupted)
    result = run("plan", "model.onnx")
    assert result.exit_code == 130
    assert result.stderr == "error: interrupted\n"


def test_files_that_cannot_be_written_are_named(run: Run, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("onnxq.cli.files.write_whole", full)
    result = run("quantize", "model.onnx", "--data", "data.npz", "--report", "r.html")
    assert result.exit_code == 2
    assert "error: --report 'r.html': the file cannot be written: No space left on device" in result.stderr


def test_every_command_explains_itself_with_an_example(run: Run) -> None:
    for name in cli.commands:
        text = run(name, "--help").stdout
        assert f"onnxq {name} " in text.partition("Example")[2]


@pytest.mark.parametrize("command", ["quantize", "calibrate", "merge", "cache", "verify"])
def test_a_folder_that_cannot_be_written_to_is_noticed_at_once(
    run: Run, folder: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    def refused(_: Path) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("onnxq.cli.files.try_folder", refused)
    # Nothing that is read exists, so that any work would fail otherwise.
    reads = {"quantize": ("m.onnx",), "calibrate": ("m.onnx",), "verify": ("m.onnx", "q.onnx")}.get(
        command, ("m.stats",)
    )
    result = run(command, *reads, "--report" if command == "verify" else "-o", "out.html")
    assert result.exit_code == 2
    assert "'out.html': the file cannot be written: Permission denied\nhint: choose another place with" in result.stderr


@pytest.mark.parametrize("name", ["model.onnx", "data.npz"])
def test_a_file_without_permission_is_an_error_of_the_file(
    run: Run, folder: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Exit code 3, as for every other file that is read and cannot be. Rights are acted: root may read anything."""
    opened, access = io.open, os.access

    def refuse(file: Any, *args: Any, **options: Any) -> Any:
        if not isinstance(file, int) and Path(file).name == name:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(file))
        return opened(file, *args, **options)

    monkeypatch.setattr(io, "open", refuse)
    monkeypatch.setattr(Path, "open", refuse)  # which Python 3.10 opens files with in a way of its own
    monkeypatch.setattr(builtins, "open", refuse)
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path).name != name and access(path, mode))
    result = run("quantize", "model.onnx", "--data", "data.npz")
    assert result.exit_code == 3, result.stderr
    assert name in result.stderr
    assert "Permission denied" in result.stderr


def test_arrays_in_place_of_a_model_are_named(run: Run, folder: Path) -> None:
    (folder / "bad.npz").write_bytes(b"")
    result = run("inspect", "bad.npz")
    assert result.exit_code == 3
    assert "a file of arrays by its name, not an ONNX model" in result.stderr
    assert "--data" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (("quantize", "model.onnx", "--config", "absent.toml"), 2),
        (("quantize", "model.onnx", "--target", "absent.toml"), 2),
        (("evaluate", "model.onnx", "--data", "data.npz", "--metric", "absent.py:f"), 2),
        (("quantize", "model.onnx", "--data", "data.npz", "--preprocess", "absent.py:f"), 2),
        (("quantize", "model.onnx", "--data", "data.npz", "--custom-ops", "absent.so"), 2),
        (("quantize", "model.onnx", "--data", "data.npz", "--exclude", "*", "--include", "conv"), 2),
        (("quantize", "absent.onnx", "--data", "data.npz"), 3),
        (("quantize", "model.onnx", "--data", "absent.npz"), 3),
        (("evaluate", "model.onnx", "--data", "data.npz", "--labels", "absent.npy"), 3),
        (("quantize", "model.onnx", "--data", "data.npz", "--stats", "absent.stats"), 3),
        (("quantize", "model.onnx", "--data", "data.npz", "--max-drop", "1", "--ranking", "absent.json"), 3),
    ],
)
def test_files_that_say_how_to_work_are_configuration_and_others_are_input(
    run: Run, arguments: tuple[str, ...], code: int
) -> None:
    """As docs/terminal.md has it."""
    result = run(*arguments)
    assert result.exit_code == code, result.stderr
    assert "hint: " in result.stderr
