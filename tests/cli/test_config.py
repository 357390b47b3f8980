"""--config: files that stand in for options."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from onnxq.cli.commands.quantize import quantize
from onnxq.cli.configuration import config_kinds
from onnxq.config import Keys, Kind, load_config
from onnxq.errors import ConfigError
from tests.cli.conftest import Run

KINDS = {
    "target": Kind.TEXT, "data": Kind.PATH, "limit": Kind.INTEGER, "percentile": Kind.NUMBER, "mean": Kind.NUMBERS,
    "force": Kind.SWITCH, "exclude": Kind.TEXTS, "save-stats": Kind.PATH, "mode": Kind.TEXT, "image-size": Kind.SIZE,
}  # fmt: skip
KEYS = Keys(kinds=KINDS, tables={"verify": {"limit": Kind.INTEGER, "data": Kind.PATH}}, arguments=("model",))


def write(folder: Path, text: str) -> Path:
    path = folder / "onnxq.toml"
    path.write_text(text)
    return path


def test_values_of_every_kind(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        'target = "tensorrt"\ndata = "d.npz"\nlimit = 3\npercentile = 99\nmean = [0.5, 1]\nforce = true\n'
        'exclude = ["a", "b"]\n',
    )
    loaded = load_config(path, KEYS)
    assert loaded.tables == {}
    assert loaded.values == {
        "target": "tensorrt",
        "data": str(tmp_path / "d.npz"),
        "limit": 3,
        "percentile": 99,
        "mean": [0.5, 1],
        "force": True,
        "exclude": ["a", "b"],
    }


WRONG = {
    "tarfet = 1": ("unknown key 'tarfet'", "did you mean 'target'?"),
    "save_stats = 1": ("unknown key 'save_stats'", "did you mean 'save-stats'?"),
    "zzz = 1": ("unknown key 'zzz'", "known keys: data, exclude, force"),
    "limit = 1.5": ("limit is 1.5, expected an integer", "--limit"),
    "limit = true": ("limit is True, expected an integer", "--limit"),
    "target = 1": ("target is 1, expected a string", "--target"),
    "force = 1": ("force is 1, expected true or false", "--force"),
    "mean = ['a']": ("mean is ['a'], expected a list of numbers", "--mean"),
    "limit = [1]": ("limit is [1], expected an integer", "--limit"),
    "exclude = 'a'": ("exclude is 'a', expected a list of strings", "--exclude"),
    "target =": ("this is not TOML", "lines look like"),
    "model = 'm.onnx'": ("unknown key 'model'", "model is no option: it stands on the command line"),
    "modes = 'dynamic'": ("unknown key 'modes'", "did you mean 'mode'?"),
    "image-size = [1]": ('image-size is [1], expected a number of pixels, or a string such as "224x320"', "--image"),
    "verify = 1": ("verify is 1, expected a table", "below a line [verify]"),
}
WRONG_IN_A_TABLE = {
    "[verify]\nlimits = 1": ("unknown key 'limits'", "did you mean 'limit'?"),
    "[verify]\ntarget = 'tensorrt'": ("unknown key 'target'", "known keys: data, limit"),
    "[verify]\nlimit = '1'": ("limit is '1', expected an integer", "--limit"),
}


@pytest.mark.parametrize("text", [*WRONG, *WRONG_IN_A_TABLE])
def test_wrong_files(tmp_path: Path, text: str) -> None:
    path = write(tmp_path, text)
    with pytest.raises(ConfigError) as caught:
        load_config(path, KEYS)
    message, hint = (WRONG | WRONG_IN_A_TABLE)[text]
    assert caught.value.message.startswith(message)
    assert caught.value.where == (f"{path}, [verify]" if text in WRONG_IN_A_TABLE else str(path))
    assert hint in (caught.value.hint or "")


def test_tables_of_commands(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    path = write(tmp_path / "sub", 'limit = 3\nimage-size = 320\n[verify]\nlimit = 5\ndata = "d.npz"\n')
    loaded = load_config(path, KEYS)
    assert loaded.values == {"limit": 3, "image-size": 320}
    assert loaded.tables == {"verify": {"limit": 5, "data": str(tmp_path / "sub" / "d.npz")}}


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="the file cannot be read: No such file or directory"):
        load_config(tmp_path / "absent.toml", KEYS)


def test_keys_are_the_long_options_of_quantize() -> None:
    kinds = config_kinds(quantize)
    assert {"target", "data", "method", "output", "exclude-op", "image-size", "json"} <= kinds.keys()
    assert not kinds.keys() & {"config", "debug", "help", "as_json"}
    assert kinds["save-stats"] is Kind.PATH
    assert kinds["std"] is Kind.NUMBERS
    assert kinds["crop-share"] is Kind.NUMBER
    assert kinds["batch-size"] is Kind.INTEGER
    assert kinds["exclude"] is Kind.TEXTS


def test_options_win_over_the_file(run: Run, folder: Path) -> None:
    write(folder, 'target = "openvino-avx2"\ndata = "data.npz"\nlimit = 12\nmethod = "mse"\nforce = true\njson = true')
    document = json.loads(run("quantize", "model.onnx", "--config", "onnxq.toml", "--method", "max").stdout)
    assert (document["target"], document["method"]) == ("openvino-avx2", "max")
    # Of 12 batches a quarter is held out.
    assert document["data"]["samples"] == 9


def test_paths_are_relative_to_the_file(run: Run, folder: Path) -> None:
    (folder / "sub").mkdir()
    (folder / "data.npz").rename(folder / "sub" / "data.npz")
    (folder / "sub" / "c.toml").write_text('data = "data.npz"\noutput = "q.onnx"')
    assert run("quantize", "model.onnx", "--config", "sub/c.toml").exit_code == 0
    assert (folder / "sub" / "q.onnx").exists()


def test_a_bad_value_names_the_file(run: Run, folder: Path) -> None:
    write(folder, 'target = "tensorr"')
    result = run("quantize", "model.onnx", "--config", "onnxq.toml")
    assert result.exit_code == 2
    assert result.stderr.startswith("error: onnxq.toml: Invalid value for '--target'")
    assert "Did you mean 'tensorrt'?" in result.stderr


def test_gates_are_numbers(run: Run, folder: Path) -> None:
    (folder / "gates.toml").write_text('min-sqnr = 15\nmin-int8 = 50.0\nmax-drop = "1%"\nsearch-seconds = 5\n')
    result = run("quantize", "model.onnx", "--config", "gates.toml", "--data", "data.npz", "--metric", "top1")
    assert "expected" not in result.stderr, result.stderr
    (folder / "gates.toml").write_text('min-int8 = "0.9%"\n[evaluate]\nmin-score = 95\n')
    for command in ("quantize", "evaluate"):
        result = run(command, "model.onnx", "--config", "gates.toml", "--data", "data.npz", "--metric", "sqnr")
        assert "expected" not in result.stderr, result.stderr
    (folder / "gates.toml").write_text("max-drop = true\n")
    result = run("quantize", "model.onnx", "--config", "gates.toml")
    assert 'max-drop is True, expected a number, or a string such as "0.5%"' in result.stderr


def test_one_file_for_all_commands(run: Run, folder: Path) -> None:
    """`report` and `output` at the top are what quantize writes; each other command has its own, in its table."""
    write(
        folder,
        'target = "openvino-avx2"\ndata = "data.npz"\noutput = "q.onnx"\nreport = "q.json"\nmode = "static"\n'
        "json = true\n"
        "seconds = 20\n"
        '[verify]\nlimit = 3\n[evaluate]\ndata = "data.npz"\nmetric = "cosine"\nreport = "scores.json"\n'
        '[sensitivity]\nquantize = "all-but"\n',
    )
    config = ("--config", "onnxq.toml")
    (folder / "plain.toml").write_text(
        'target = "openvino-avx2"\ndata = "data.npz"\noutput = "q.onnx"\nreport = "q.json"\n'
    )
    assert run("quantize", "model.onnx", "--config", "plain.toml").exit_code == 0
    before = (folder / "q.json").read_bytes()

    verified = run("verify", "model.onnx", "q.onnx", *config)
    assert verified.exit_code == 0, verified.stderr
    assert json.loads(verified.stdout)["data"]["held_out_samples"] == 3
    evaluated = run("evaluate", "model.onnx", "q.onnx", *config)
    assert evaluated.exit_code == 0, evaluated.stderr
    assert json.loads((folder / "scores.json").read_text())["metric"] == "cosine"
    ranked = run("sensitivity", "model.onnx", *config)
    assert ranked.exit_code == 0, ranked.stderr
    assert json.loads(ranked.stdout)["quantize"] == "all-but"
    assert (folder / "q.json").read_bytes() == before


QUANTIZE_TABLE = """\
target = "openvino-avx2"
data = "data.npz"
[quantize]
method = "max"
output = "own.onnx"
[sensitivity]
quantize = "all-but"
"""


@pytest.mark.parametrize("command", ["quantize", "plan", "sensitivity"])
def test_a_table_belongs_to_the_command_of_its_name(run: Run, folder: Path, command: str) -> None:
    """`quantize` is an option of sensitivity, too: as a table it is the command's all the same."""
    write(folder, QUANTIZE_TABLE)
    result = run(command, "model.onnx", "--config", "onnxq.toml", "--json")
    assert result.exit_code == 0, result.stderr
    document = json.loads(result.stdout)
    assert document["target"] == "openvino-avx2"
    assert (folder / "own.onnx").exists() == (command == "quantize")
    if command == "quantize":
        assert document["method"] == "max"
    if command == "sensitivity":
        assert document["quantize"] == "all-but"


def test_a_command_s_name_without_a_table_is_the_option(run: Run, folder: Path) -> None:
    write(folder, 'quantize = "all-but"\nseconds = 20\n[data]\nlimit = 2\n')
    result = run("sensitivity", "model.onnx", "--data", "data.npz", "--config", "onnxq.toml", "--json")
    assert result.exit_code == 0, result.stderr
    assert json.loads(result.stdout)["quantize"] == "all-but"
    assert json.loads(run("data", "data.npz", "model.onnx", "--config", "onnxq.toml", "--json").stdout)["samples"] == 2


def test_calibrate_writes_no_statistics_over_the_model(run: Run, folder: Path) -> None:
    write(folder, 'data = "data.npz"\noutput = "model.int8.onnx"\nforce = true\n')
    result = run("calibrate", "model.onnx", "--config", "onnxq.toml")
    assert result.exit_code == 2
    assert "Missing option '--output'" in result.stderr
    assert not (folder / "model.int8.onnx").exists()


def test_engine_reads_the_file(run: Run, folder: Path) -> None:
    write(folder, 'data = "data.npz"\n[engine]\nopt-shape = ["x:1x2"]\n')
    result = run("engine", "model.onnx", "--config", "onnxq.toml", "--output", "model.onnx")
    assert "model.onnx" in result.stderr, "refused because of the output, so the file was read"
    write(folder, '[engine]\nopt-shapes = ["x:1x2"]\n')
    assert "did you mean 'opt-shape'?" in run("engine", "model.onnx", "--config", "onnxq.toml").stderr


def test_functions_of_files_are_beside_the_configuration(run: Run, folder: Path) -> None:
    (folder / "other").mkdir()
    (folder / "other" / "mine.py").write_text(
        "def f(outputs, labels):\n    return outputs['y'].reshape(len(outputs['y']), -1).max(1)\n"
        "def g(outputs):\n    return outputs['y'].reshape(len(outputs['y']), -1).argmax(1)\n"
    )
    for line in ('metric = "mine.py:f"', 'postprocess = "mine.py:g"'):
        (folder / "other" / "c.toml").write_text(f"[evaluate]\ndata = '../data.npz'\n{line}\n")
        result = run("evaluate", "model.onnx", "--config", "other/c.toml")
        assert result.exit_code == 0, result.stderr
    (folder / "other" / "c.toml").write_text('metric = "top9"\n')
    assert "'top9' is none of" in run("evaluate", "model.onnx", "--config", "other/c.toml").stderr
