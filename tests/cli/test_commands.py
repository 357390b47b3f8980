"""What commands do when all is well."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest

from tests.cli.conftest import Run, samples, tiny_model
from tests.graphs import model_of, normal

MODELS = Path(__file__).parents[2] / "models"
TRAINED = ("digits_resnet", "wordlang_transformer")


def test_quantize_writes_beside_the_model_and_prints_a_summary(run: Run, folder: Path) -> None:
    result = run("quantize", "model.onnx", "--data", "data.npz", "--target", "ort-x64-vnni")
    assert result.exit_code == 0
    assert (folder / "model.int8.onnx").exists()
    assert "PASSED" in result.stdout
    assert "written to model.int8.onnx" in " ".join(result.stdout.split())
    assert "15 samples from data.npz, errors measured on 5 held out" in result.stdout
    assert result.stderr == ""


def test_quantize_takes_data_that_lies_beside_the_model(run: Run, folder: Path) -> None:
    (folder / "data.npz").rename(folder / "model.calib.npz")
    result = run("quantize", "model.onnx")
    assert result.exit_code == 0
    assert result.stderr == "data: model.calib.npz, found beside the model\n"
    assert "from model.calib.npz" in result.stdout


def test_quantize_without_data_is_loud(run: Run, folder: Path) -> None:
    result = run("quantize", "model.onnx")
    assert result.exit_code == 0
    assert result.stderr == (
        "data: NONE; --data SRC was not given, and there is no model.calib.npz beside the model: inputs are made up\n"
    )
    assert result.stdout.count("warning: ") == 1
    assert "warning: The ranges come from SYNTHETIC inputs" in result.stdout
    json_run = run("quantize", "model.onnx", "--force", "--json")
    assert json_run.stderr.count("warning: The ranges come from SYNTHETIC inputs") == 1
    metadata = {p.key: p.value for p in onnx.load(str(folder / "model.int8.onnx")).metadata_props}
    assert metadata["onnxq.data"] == "synthetic"


def test_json_is_all_that_is_on_stdout(run: Run) -> None:
    result = run("quantize", "model.onnx", "--data", "data.npz", "--json")
    document = json.loads(result.stdout)
    assert document["schema"] == "onnxq.report/1"
    assert document["passed"] is True
    assert document["output_path"] == "model.int8.onnx"


def test_quiet_prints_nothing(run: Run, folder: Path) -> None:
    result = run("quantize", "model.onnx", "--data", "data.npz", "--quiet")
    assert (result.exit_code, result.stdout, result.stderr) == (0, "", "")
    assert (folder / "model.int8.onnx").exists()


@pytest.mark.parametrize("json_too", [False, True])
def test_quiet_keeps_warnings(run: Run, json_too: bool) -> None:
    result = run("quantize", "model.onnx", "--quiet", *["--json"] * json_too)
    assert result.exit_code == 0
    assert bool(result.stdout) is json_too
    assert result.stderr.startswith("warning: The ranges come from SYNTHETIC inputs: ")
    assert result.stderr.count("warning:") == 1


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        (("quantize", "model.onnx", "-o", "data.npz"), "error: --output 'data.npz': this is the calibration data"),
        (("quantize", "model.onnx", "--save-stats", "data.npz"), "this is the calibration data"),
        (("quantize", "model.onnx", "--stats", "s", "-o", "s"), "this is the file of --stats"),
        (("quantize", "model.onnx", "--calibration-cache", "c", "-o", "c"), "this is the file of --calibration-cache"),
        (("calibrate", "model.onnx", "-o", "data.npz"), "error: --output 'data.npz': this is the calibration data"),
        (("calibrate", "model.onnx", "-o", "model.onnx"), "this is the input model"),
        (("verify", "model.onnx", "q.onnx", "--report", "model.onnx"), "this is the float model"),
        (("verify", "model.onnx", "q.onnx", "--report", "q.onnx"), "this is the quantized model"),
        (("verify", "model.onnx", "q.onnx", "--report", "data.npz"), "this is the data"),
    ],
)
def test_what_is_read_is_never_written_over(run: Run, folder: Path, arguments: tuple[str, ...], what: str) -> None:
    before = (folder / "data.npz").read_bytes()
    result = run(*arguments, "--data", "data.npz", "--force")
    assert result.exit_code == 2
    assert what in result.stderr
    assert (folder / "data.npz").read_bytes() == before


def test_a_share_in_place_of_percent_is_refused(run: Run) -> None:
    result = run("quantize", "model.onnx", "--data", "data.npz", "--method", "percentile", "--percentile", "0.999")
    assert result.exit_code == 2
    assert result.stderr.endswith("hint: --percentile (percentile=) is in percent: 99.9, not 0.999\n")


@pytest.mark.parametrize(("name", "start"), [("r.html", "<!doctype html>"), ("r.json", '{\n  "schema"')])
def test_report_is_written_as_its_name_says(run: Run, folder: Path, name: str, start: str) -> None:
    assert run("quantize", "model.onnx", "--data", "data.npz", "--report", name).exit_code == 0
    assert (folder / name).read_text().startswith(start)


def test_statistics_make_calibration_unnecessary_and_the_result_the_same(run: Run, folder: Path) -> None:
    first = run(
        "quantize",
        "model.onnx",
        "--data",
        "data.npz",
        "--save-stats",
        "m.stats",
        "-o",
        "a.onnx",
        "-m",
        "entropy",
        "--recover",
        "none",
    )
    second = run(
        "quantize",
        "model.onnx",
        "--data",
        "data.npz",
        "--stats",
        "m.stats",
        "-o",
        "b.onnx",
        "-m",
        "entropy",
        "--recover",
        "none",
    )
    assert (first.exit_code, second.exit_code) == (0, 0)
    assert (folder / "a.onnx").read_bytes() == (folder / "b.onnx").read_bytes()


def test_calibrated_shards_merge_to_the_whole(run: Run, folder: Path) -> None:
    data = samples()
    np.savez(folder / "one.npz", x=data[:7])
    np.savez(folder / "two.npz", x=data[7:])
    for name in ("data", "one", "two"):
        assert run("calibrate", "model.onnx", "--data", f"{name}.npz", "-o", f"{name}.stats").exit_code == 0
    result = run("merge", "two.stats", "one.stats", "-o", "merged.stats")
    assert result.stderr == "statistics of 3 tensors over 20 samples written to merged.stats\n"
    assert (folder / "merged.stats").read_bytes() == (folder / "data.stats").read_bytes()


def test_samples_that_count_twice_are_warned_of(run: Run, folder: Path) -> None:
    data = samples()
    for name, part in (("one", data[:7]), ("two", data[5:])):
        np.savez(folder / f"{name}.npz", x=part)
        assert run("calibrate", "model.onnx", "--data", f"{name}.npz", "-o", f"{name}.stats").exit_code == 0
    result = run("merge", "one.stats", "two.stats", "-o", "merged.stats")
    assert result.exit_code == 0
    assert result.stderr.startswith(
        "warning: two.stats: counted twice: 2 of its 15 samples, which the files before it hold, too\n"
    )


def test_samples_of_a_file_count_once(run: Run, folder: Path) -> None:
    assert run("calibrate", "model.onnx", "--data", "data.npz", "-o", "m.stats").exit_code == 0
    result = run("merge", "m.stats", str(folder / "m.stats"), "-o", "two.stats")
    assert result.exit_code == 2
    assert "m.stats: these statistics are given twice" in result.stderr
    assert not (folder / "two.stats").exists()


def test_calibrate_and_merge_say_in_json_what_they_wrote(run: Run) -> None:
    calibrated = json.loads(run("calibrate", "model.onnx", "--data", "data.npz", "-o", "m.stats", "--json").stdout)
    shutil.copy("m.stats", "again.stats")
    merged = json.loads(run("merge", "m.stats", "again.stats", "-o", "two.stats", "--json").stdout)
    assert calibrated["schema"] == merged["schema"] == "onnxq.stats/1"
    assert (calibrated["samples"], merged["samples"]) == (20, 40)
    assert (calibrated["path"], merged["path"]) == ("m.stats", "two.stats")


def test_plan_shows_every_node_with_its_reason(run: Run) -> None:
    result = run("plan", "model.onnx", "--target", "tensorrt")
    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    assert lines[0] == "Plan for tensorrt"
    assert [line.split()[0] for line in lines[2:5]] == ["conv", "relu", "pool"]
    assert "fewer than 16" in lines[2]
    assert lines[5] == "3 nodes: 0 int8, 0 fused, 3 float; 0.0% of the arithmetic in int8"
    assert lines[6].startswith("left in float: 2 x only operators with weights are quantized for TensorRT")
    assert lines[7].startswith("               1 x ")
    assert "fewer than 16" in lines[7]


def test_plan_filter_keeps_rows_that_hold_every_word(run: Run) -> None:
    document = json.loads(
        run("plan", "model.onnx", "-t", "ort-x64-vnni", "--filter", "INT8", "--filter", "conv", "--json").stdout
    )
    assert document["schema"] == "onnxq.plan/1"
    assert [node["node"] for node in document["nodes"]] == ["conv"]
    assert sum(document["counts"].values()) == 3


def test_verify_meets_gates(run: Run) -> None:
    run("quantize", "model.onnx", "--data", "data.npz", "--target", "ort-x64-vnni")
    arguments = ("verify", "model.onnx", "model.int8.onnx", "--data", "data.npz", "--target", "ort-x64-vnni")
    result = run(*arguments, "--min-sqnr", "20", "--min-int8", "90")
    assert result.exit_code == 0
    assert "PASSED  8 checks" in result.stdout
    document = json.loads(run(*arguments, "--min-sqnr", "20", "--json").stdout)
    gate = next(check for check in document["checks"] if check["name"] == "SQNR at least 20 dB")
    assert gate["passed"] is True


def test_verify_without_data_says_so(run: Run) -> None:
    run("quantize", "model.onnx", "--data", "data.npz", "--target", "ort-x64-vnni")
    result = run("verify", "model.onnx", "model.int8.onnx", "--target", "ort-x64-vnni", "--report", "v.html")
    assert result.exit_code == 0
    assert result.stderr == (
        "data: NONE; --data SRC was not given: inputs are made up\nthe report was written to v.html\n"
    )


def test_inspect_counts_values_of_constant_nodes(run: Run, folder: Path) -> None:
    model = onnx.load(str(folder / "model.onnx"))
    (weight,) = model.graph.initializer
    node = onnx.helper.make_node("Constant", [], ["w"], value=weight)
    model.graph.node.insert(0, node)
    del model.graph.initializer[:]
    onnx.save(model, str(folder / "constants.onnx"))
    for name in ("model.onnx", "constants.onnx"):
        assert "432 values in initializers and Constant nodes" in run("inspect", name).stdout


def test_inspect_shows_a_float_model(run: Run) -> None:
    text = run("inspect", "model.onnx").stdout
    assert "opset      ai.onnx 17 (IR version 8)" in text
    assert "input      x: float (n, 3, 8, 8)" in text
    assert "operators  1 Conv, 1 GlobalAveragePool, 1 Relu" in text
    assert "432 values in initializers" in text
    assert "quantized tensors" not in text


def test_inspect_shows_scales_and_zero_points_of_a_quantized_model(run: Run) -> None:
    run("quantize", "model.onnx", "--data", "data.npz", "--target", "ort-x64-vnni", "--method", "max")
    assert "metadata   onnxq.target = ort-x64-vnni" in run("inspect", "model.int8.onnx").stdout
    document = json.loads(run("inspect", "model.int8.onnx", "--json").stdout)
    assert document["schema"] == "onnxq.model/1"
    assert document["metadata"]["onnxq.method"] == "max"
    pairs = {pair["tensor"]: pair for pair in document["pairs"]}
    weight = next(pair for pair in pairs.values() if pair["dtype"] == "int8")
    assert (pairs["x"]["kind"], pairs["x"]["dtype"], pairs["x"]["axis"]) == ("activation", "uint8", None)
    # The kernel is made for Relu's range: all of uint8 stands for values of 0 and above.
    assert pairs["r"]["zero_point"] == [0]
    assert (weight["kind"], weight["axis"], len(weight["scale"])) == ("constant", 0, 16)
    # Per-channel symmetric, narrow range: scale = max |w| / 127 (float32 rounding).
    values = onnx.numpy_helper.to_array(tiny_model().graph.initializer[0])
    np.testing.assert_allclose(weight["scale"], abs(values).max(axis=(1, 2, 3)) / 127, rtol=1e-6)


def test_operators_of_unknown_domains_stay_float_and_that_is_said(run: Run, folder: Path) -> None:
    onnx.save(tiny_model(after="Gelu", domain="com.microsoft"), str(folder / "custom.onnx"))
    result = run("quantize", "custom.onnx", "--data", "data.npz")
    assert result.exit_code == 0
    said = " ".join(result.stdout.split())
    assert "operator of domain 'com.microsoft' is not known to onnxq" in said
    assert "onnxruntime's optimizer made it of others: give the model as it was before that" in said


@pytest.mark.parametrize("mode", ["static", "dynamic", "weight-only"])
def test_a_model_that_onnxruntime_has_optimised_is_told_from_one_as_it_was_exported(run: Run, mode: str) -> None:
    text = "(float[4,64] x) => (float[4,64] y) { a = MatMul(x, w) b = com.microsoft.BiasGelu(a, c) y = MatMul(b, v) }"
    model = model_of(text, w=normal(64, 64), v=normal(64, 64), c=normal(64))
    model.opset_import.append(onnx.helper.make_opsetid("com.microsoft", 1))
    onnx.save(model, "optimised.onnx")
    result = run("plan", "optimised.onnx", "--mode", mode, "--placement", "full")
    assert "onnxruntime's optimizer made it of others" in " ".join(result.stdout.split())


def test_an_operator_that_onnxruntime_alone_has_under_the_name_of_onnx_is_told(run: Run) -> None:
    text = "(float[4,64] x) => (float[4,64] y) { a = MatMul(x, w) y = SimplifiedLayerNormalization(a, c) }"
    onnx.save(model_of(text, w=normal(64, 64), c=normal(64)), "optimised.onnx")
    result = run("plan", "optimised.onnx")
    assert result.exit_code == 3
    hint = (
        "optimizer wrote SimplifiedLayerNormalization, which ONNX does not have: give the model as it was before that"
    )
    assert hint in " ".join(result.stderr.split())


@pytest.mark.parametrize("name", TRAINED)
@pytest.mark.parametrize("target", ["ort-x64-vnni", "openvino"])
def test_trained_models_quantize_with_the_data_beside_them(run: Run, folder: Path, name: str, target: str) -> None:
    arguments = ("-t", target, "-o", "q.onnx", "--limit", 32, "--placement", "full", "--json")
    result = run("quantize", MODELS / f"{name}.onnx", *arguments)
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    assert report["passed"] is True
    assert report["size_after_bytes"] < 0.5 * report["size_before_bytes"]


def test_quantize_under_gates(run: Run, folder: Path) -> None:
    arguments = ("quantize", "model.onnx", "--data", "data.npz", "-t", "ort-x64-vnni", "--force")
    assert run(*arguments, "--min-sqnr", "15", "--min-int8", "50", "--require-engine").exit_code == 0
    result = run(*arguments, "--min-sqnr", "200")
    assert result.exit_code == 4
    assert "SQNR at least 200 dB" in result.stdout
    assert (folder / "model.int8.onnx").exists()


def test_a_missing_engine_is_told_and_can_be_required(run: Run, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("onnxq.verification.engines.openvino.is_installed", lambda: False)
    arguments = ("quantize", "model.onnx", "--data", "data.npz", "-t", "openvino", "--force")
    result = run(*arguments)
    assert result.exit_code == 0
    assert "WITHOUT ASKING ITS ENGINE" in result.stdout
    result = run(*arguments, "--require-engine")
    assert result.exit_code == 4
    assert (
        "OpenVINO is not installed here, and --require-engine (require_engine=) wants it to be asked" in result.stderr
    )
    assert "pip install 'onnxq[openvino]'" in result.stderr


def test_a_page_is_no_report(run: Run, folder: Path) -> None:
    (folder / "run.html").write_text("<!doctype html>")
    result = run("report", "run.html")
    assert result.exit_code == 3
    assert result.stderr.startswith(
        "error: report 'run.html': this is a page already, and no report is read from one\nhint: "
    )
