"""Include, exclude and overrides, targets of one's own, strip, and the filters of plan and inspect."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import ModelProto

from onnxq.cli.main import cli
from onnxq.targets import TARGETS, resolve_target
from tests.cli.conftest import Run, samples

ORT = ("--target", "ort-x64-vnni")


def ops(path: Path) -> set[str]:
    return {node.op_type for node in onnx.load(str(path)).graph.node}


def planned(run: Run, *arguments: object) -> dict[str, str]:
    result = run("plan", "model.onnx", *ORT, *arguments, "--json")
    assert result.exit_code == 0, result.stderr
    return {n["node"]: n["action"] for n in json.loads(result.stdout)["nodes"]}


# ---- include and exclude -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "conv"),
    [
        ((), "int8"),
        (("--exclude", "re:co.v"), "float"),
        (("--exclude-between", "x:r"), "float"),
        (("--include", "conv"), "int8"),
        (("--include-op", "GlobalAveragePool"), "float"),
        (("--include-between", "x:y"), "int8"),
        (("--include", "conv", "--exclude-op", "Conv"), "float"),
    ],
)
def test_placement_options(run: Run, arguments: tuple[str, ...], conv: str) -> None:
    assert planned(run, *arguments)["conv"] == conv


@pytest.mark.parametrize("command", ["quantize", "calibrate", "plan"])
def test_unknown_names_are_usage_errors_with_suggestions(run: Run, command: str) -> None:
    output = ("-o", "m.stats") if command == "calibrate" else ()
    data = () if command == "plan" else ("--data", "data.npz")
    result = run(command, "model.onnx", *data, *output, "--include", "cnv")
    assert result.exit_code == 2
    assert result.stderr == (
        "error: --include (include=(...)): no node of the model matches 'cnv'\nhint: did you mean 'conv'?\n"
    )
    result = run(command, "model.onnx", *data, *output, "--exclude-between", "x:rr")
    assert result.exit_code == 2
    assert "no tensor of the model matches 'rr'\nhint: did you mean 'r'?" in result.stderr


# ---- overrides -----------------------------------------------------------------------------------------------------


def scale_of(model: ModelProto, name: str) -> np.ndarray:
    return next(onnx.numpy_helper.to_array(t) for t in model.graph.initializer if t.name == name)


def test_an_override_on_the_command_line(run: Run, folder: Path) -> None:
    override = 'tensors = "x", range = [0, 2.55]'
    result = run("quantize", "model.onnx", "--data", "data.npz", *ORT, "--override", override, "-q")
    assert result.exit_code == 0, result.stderr
    model = onnx.load(str(folder / "model.int8.onnx"))
    assert float(scale_of(model, "x_scale")) == pytest.approx(0.01, rel=1e-6)  # float32


def test_overrides_in_a_file_serve_every_command(run: Run, folder: Path) -> None:
    (folder / "int8.toml").write_text(
        'target = "ort-x64-vnni"\ndata = "data.npz"\nmethod = "max"\nforce = true\n'
        '[[override]]\ntensors = "x"\nrange = [0, 2.55]\n[[override]]\nnodes = ["conv"]\nper_channel = false\n'
    )
    assert run("quantize", "model.onnx", "--config", "int8.toml").exit_code == 0
    model = onnx.load(str(folder / "model.int8.onnx"))
    assert float(scale_of(model, "x_scale")) == pytest.approx(0.01, rel=1e-6)
    assert scale_of(model, "w_scale").shape == ()
    # Keys of other commands are passed over.
    assert run("calibrate", "model.onnx", "--config", "int8.toml", "-o", "m.stats").exit_code == 0
    shown = run("inspect", "m.stats").stdout
    assert "\nx " not in shown  # its range is known
    result = run("plan", "model.onnx", "--config", "int8.toml", "--tensors", "--tensor", "x")
    assert "fixed to [0, 2.55]" in result.stdout


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("nodes", "'nodes' is not a table such as 'nodes = \"/head/*\", method = \"max\"'"),
        ('nodes = "conv", metod = "max"', "error: override 1: unknown key 'metod'\nhint: did you mean 'method'?"),
        (
            'nodes = "cnv", method = "max"',
            "error: override of nodes 'cnv': no node of the model matches 'cnv'\nhint: did you mean 'conv'?",
        ),
        (
            'nodes = "conv", weight = "int4"',
            "ort-x64-vnni takes no weights of type 'int4'\nhint: it takes int8 or int16 or uint8",
        ),
    ],
)
def test_wrong_overrides(run: Run, folder: Path, text: str, message: str) -> None:
    result = run("quantize", "model.onnx", "--data", "data.npz", *ORT, "--override", text)
    assert result.exit_code == 2
    assert message in result.stderr
    assert not (folder / "model.int8.onnx").exists()


def test_wrong_overrides_in_a_file(run: Run, folder: Path) -> None:
    (folder / "c.toml").write_text("override = 3")
    result = run("plan", "model.onnx", "--config", "c.toml")
    assert result.exit_code == 2
    assert "c.toml: override is 3, expected a list of tables: [[override]]" in result.stderr
    (folder / "c.toml").write_text('[[override]]\nnodes = "conv"\nrnge = [0, 1]')
    assert "override 1: unknown key 'rnge'\nhint: did you mean 'range'?" in run(
        "plan", "model.onnx", "--config", "c.toml"
    ).stderr  # fmt: skip


# ---- targets -------------------------------------------------------------------------------------------------------


def test_targets_are_listed(run: Run) -> None:
    text = run("targets").stdout
    assert all(f"\n{name} " in text for name in TARGETS)
    assert "ort-cpu means ort-" in text
    document = json.loads(run("targets", "--json").stdout)
    assert document["schema"] == "onnxq.targets/1"
    assert [t["name"] for t in document["targets"]] == list(TARGETS)


@pytest.mark.parametrize("name", TARGETS)
def test_a_target_is_shown_with_the_source_of_each_rule(run: Run, name: str) -> None:
    lines = run("targets", name).stdout.splitlines()
    (conv,) = [line for line in lines if line.startswith("Conv ")]
    source = TARGETS[name].sources[TARGETS[name].compute["Conv"].rules.split()[0]]
    assert source in conv


@pytest.mark.parametrize("name", TARGETS)
def test_a_printed_table_can_be_used(monkeypatch: pytest.MonkeyPatch, run: Run, folder: Path, name: str) -> None:
    monkeypatch.setattr("onnxq.targets.cpu_has_vnni", lambda: True)  # else "openvino" is another
    (folder / "t.toml").write_text(run("targets", name, "--toml").stdout)
    assert resolve_target(folder / "t.toml")[0] == TARGETS[name]
    mine = run("plan", "model.onnx", "--target", "t.toml", "--json")
    built_in = run("plan", "model.onnx", "--target", name, "--json")
    assert json.loads(mine.stdout)["nodes"] == json.loads(built_in.stdout)["nodes"]


def test_targets_errors(run: Run, folder: Path) -> None:
    result = run("targets", "--toml")
    assert result.exit_code == 2
    assert "name a target: onnxq targets tensorrt --toml" in result.stderr
    assert "Did you mean 'tensorrt'?" in run("targets", "tensort").stderr
    (folder / "t.toml").write_text('name = "t"\nbase = "tensorrt"\nresidul_add = true')
    result = run("quantize", "model.onnx", "--data", "data.npz", "--target", "t.toml")
    assert result.exit_code == 2
    assert result.stderr == (
        "error: target 't.toml': unknown key 'residul_add'\nhint: did you mean 'residual_add'?\n"
    )  # fmt: skip
    assert "the file cannot be read" in run("plan", "model.onnx", "--target", "absent.toml").stderr


def test_a_target_in_a_configuration_lies_beside_it(run: Run, folder: Path) -> None:
    (folder / "sub").mkdir()
    (folder / "sub" / "t.toml").write_text('name = "mine"\nbase = "openvino"\nengine = "none"')
    (folder / "sub" / "c.toml").write_text('target = "t.toml"')
    assert run("plan", "model.onnx", "--config", "sub/c.toml").stdout.startswith("Plan for mine\n")


def test_a_target_without_an_engine_says_that_nobody_was_asked(run: Run, folder: Path) -> None:
    (folder / "t.toml").write_text('name = "mine"\nbase = "openvino"\nengine = "none"')
    arguments = ("quantize", "model.onnx", "--data", "data.npz", "--target", "t.toml", "--force")
    result = run(*arguments)
    assert result.exit_code == 0
    assert "WITHOUT ASKING ITS ENGINE" in result.stdout
    assert run(*arguments, "--require-engine").exit_code == 2
    result = run("verify", "model.onnx", "model.int8.onnx", "--data", "data.npz", "--target", "t.toml")
    assert result.exit_code == 0
    assert "No engine was asked" in " ".join(result.stdout.split())


# ---- plan and inspect ----------------------------------------------------------------------------------------------


def test_plan_shows_shares_of_the_arithmetic(run: Run) -> None:
    text = run("plan", "model.onnx", *ORT).stdout
    assert "100.0%" in text
    assert "100.0% of the arithmetic in int8" in text


def test_plan_filters(run: Run) -> None:
    def nodes(*arguments: str) -> list[str]:
        return [n["node"] for n in json.loads(run("plan", "model.onnx", *ORT, *arguments, "--json").stdout)["nodes"]]

    assert nodes("--node", "re:.*l.*") == ["relu", "pool"]
    assert nodes("--op", "Conv", "--op", "Relu") == ["conv", "relu"]
    assert nodes("--decision", "fused") == ["relu"]
    assert nodes("--filter", "C10") == ["pool"]
    result = run("plan", "model.onnx", "--decision", "int4")
    assert result.exit_code == 2
    assert "Did you mean 'int8'?" in result.stderr
    result = run("plan", "model.onnx", "--node", "cnv")
    assert result.exit_code == 2
    assert "did you mean 'conv'?" in result.stderr


def tensors(document: dict[str, Any]) -> dict[str, Any]:
    return {t["tensor"]: t for t in document["tensors"]}


def test_plan_shows_tensors(run: Run) -> None:
    document = json.loads(run("plan", "model.onnx", *ORT, "--tensors", "--json").stdout)
    assert (document["schema"], document["int8_mac_share"]) == ("onnxq.plan/1", 1.0)
    assert set(tensors(document)) == {"x", "r", "y", "w", "c_bias"}
    assert tensors(document)["x"]["scale"] == []
    assert len(tensors(document)["w"]["scale"]) == 16
    assert "tensors" not in json.loads(run("plan", "model.onnx", "--json").stdout)
    text = run("plan", "model.onnx", *ORT, "--tensor", "w").stdout
    assert " ".join(text.splitlines()[1].split()) == "tensor role type axis zero-point scale from rule read by"
    assert "(16 channels)" in text


def test_plan_shows_scales_from_statistics(run: Run, folder: Path) -> None:
    assert run("calibrate", "model.onnx", "--data", "data.npz", *ORT, "-o", "m.stats").exit_code == 0
    document = json.loads(run("plan", "model.onnx", *ORT, "--stats", "m.stats", "-m", "max", "--json").stdout)
    data = samples()
    assert tensors(document)["x"]["scale"] == [pytest.approx((data.max() - data.min()) / 255, rel=1e-6)]
    assert run("plan", "model.onnx", "--stats", "data.npz").exit_code == 3


def test_inspect_explains_a_quantized_model(run: Run, folder: Path) -> None:
    assert run("quantize", "model.onnx", "--data", "data.npz", *ORT, "-q").exit_code == 0
    text = run("inspect", "model.int8.onnx").stdout
    assert "rules of ort-x64-vnni" in text
    assert "100.0% of the arithmetic in int8" in text
    document = json.loads(run("inspect", "model.int8.onnx", "--json", "--node", "relu").stdout)
    assert [(n["node"], n["action"]) for n in document["nodes"]] == [("relu", "fused")]
    assert [p["tensor"] for p in document["pairs"]] == ["r"]
    assert document["pairs"][0]["readers"] == ["pool"]
    only = run("inspect", "model.int8.onnx", "--tensors", "--tensor", "x").stdout
    assert "1 quantized tensors" in only
    assert "runs as" not in only
    other = run("inspect", "model.int8.onnx", "--target", "tensorrt", "--op", "Conv").stdout
    assert "R20 R8" in other


def test_filters_that_have_nothing_to_pick_from_are_refused(run: Run, folder: Path) -> None:
    result = run("inspect", "model.onnx", "--node", "conv")
    assert result.exit_code == 2
    assert "the model is not quantized, so there are no rows to pick" in result.stderr
    assert run("calibrate", "model.onnx", "--data", "data.npz", *ORT, "-o", "m.stats").exit_code == 0
    result = run("inspect", "m.stats", "--op", "Conv")
    assert result.exit_code == 2
    assert "statistics know tensors alone, no nodes" in result.stderr


def test_inspect_shows_statistics(run: Run, folder: Path) -> None:
    assert run("calibrate", "model.onnx", "--data", "data.npz", *ORT, "-o", "m.stats").exit_code == 0
    result = run("inspect", "m.stats")
    assert result.exit_code == 0
    assert "3 tensors over 20 samples" in result.stdout
    document = json.loads(run("inspect", "m.stats", "--json").stdout)
    assert (document["schema"], document["tensors"]) == ("onnxq.stats/1", 3)
    rows = {row["tensor"]: row for row in document["rows"]}
    data = samples()
    assert (rows["x"]["rmin"], rows["x"]["rmax"]) == (float(data.min()), float(data.max()))
    assert rows["x"]["count"] == data.size
    # To the width of a bin, a few thousandths of the range.
    assert rows["x"]["p999"] == pytest.approx(np.quantile(np.abs(data), 0.999, method="inverted_cdf"), abs=0.02)
    assert rows["r"]["zeros"] == pytest.approx(0.5, abs=0.1)
    assert [r["tensor"] for r in json.loads(run("inspect", "m.stats", "--tensor", "x", "--json").stdout)["rows"]] == [
        "x"
    ]
    assert "did you mean 'x'?" in run("inspect", "m.stats", "--tensor", "xx").stderr
    assert run("calibrate", "model.onnx", "--data", "data.npz", "--range-only", "-o", "r.stats").exit_code == 0
    assert " ?" in run("inspect", "r.stats").stdout


# ---- strip ---------------------------------------------------------------------------------------------------------


def test_strip(run: Run, folder: Path) -> None:
    assert run("quantize", "model.onnx", "--data", "data.npz", *ORT, "-q").exit_code == 0
    result = run("strip", "model.int8.onnx", "-o", "float.onnx")
    assert result.exit_code == 0
    assert result.stderr == (
        "3 Q/DQ pairs removed; 2 tensors dequantized: the float values are no longer in the file, each is off by its "
        "rounding and by what was fitted to make up for that; written to float.onnx\n"
    )
    assert ops(folder / "float.onnx") == ops(folder / "model.onnx")
    assert not onnx.load(str(folder / "float.onnx")).metadata_props
    onnxruntime.InferenceSession(str(folder / "float.onnx"), providers=["CPUExecutionProvider"])


def test_strip_as_json_and_quietly(run: Run, folder: Path) -> None:
    assert run("quantize", "model.onnx", "--data", "data.npz", *ORT, "-q").exit_code == 0
    document = json.loads(run("strip", "model.int8.onnx", "-o", "float.onnx", "--json").stdout)
    assert document["schema"] == "onnxq.strip/1"
    assert (document["pairs"], document["exact"], len(document["dequantized"])) == (3, False, 2)
    result = run("strip", "model.int8.onnx", "-o", "float.onnx", "--quiet")
    assert (result.exit_code, result.stderr.count("the file exists")) == (2, 1)
    result = run("strip", "model.int8.onnx", "-o", "float.onnx", "--quiet", "--force")
    assert (result.exit_code, result.stdout, result.stderr) == (0, "", "")


def test_strip_refuses(run: Run, folder: Path) -> None:
    result = run("strip", "model.onnx", "-o", "float.onnx")
    assert result.exit_code == 3
    assert "the model has no QuantizeLinear or DequantizeLinear" in result.stderr
    result = run("strip", "model.onnx", "-o", "model.onnx", "--force")
    assert result.exit_code == 2
    assert "this is the quantized model" in result.stderr
    assert not (folder / "float.onnx").exists()


def test_new_commands_have_one_line_of_help() -> None:
    assert {"strip", "targets"} <= set(cli.commands)
    assert all(cli.commands[name].short_help for name in ("strip", "targets"))
