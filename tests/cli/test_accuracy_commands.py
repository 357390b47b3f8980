"""`onnxq evaluate`, `onnxq sensitivity` and the search of `onnxq quantize`, as a user runs them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, get_args
from xml.etree import ElementTree as Xml

import numpy as np
import pytest

import onnxq
from onnxq.api.sensitivity import SAMPLES
from onnxq.cli import parameters
from onnxq.cli.main import cli
from onnxq.evaluation.demands import Demands
from onnxq.evaluation.evaluation import Evaluation, ModelScore
from onnxq.evaluation.metrics import METRICS
from onnxq.search.ranking import By, Quantized
from tests.cli.conftest import Run, samples

TARGET = ("--target", "ort-x64-vnni")


@pytest.fixture
def int8(run: Run) -> str:
    assert run("quantize", "model.onnx", "--data", "data.npz", *TARGET).exit_code == 0
    return "model.int8.onnx"


def test_names_are_those_of_the_library() -> None:
    assert parameters.METRICS == METRICS
    assert get_args(Quantized) == parameters.QUANTIZED
    assert get_args(By) == parameters.RANK_BY
    defaults = {p.name: p.default for p in cli.commands["sensitivity"].params}
    assert (defaults["samples"], defaults["quantize"], defaults["by"]) == (SAMPLES, "only", "sqnr")


def test_evaluate_shows_a_table(run: Run, int8: str) -> None:
    result = run("evaluate", "model.onnx", int8, "--data", "data.npz")
    assert result.exit_code == 0
    assert "sqnr of output y on 20 samples, with 95% confidence intervals" in result.stdout
    assert f"{int8}" in result.stdout


def test_evaluate_writes_a_page(run: Run, int8: str, folder: Path) -> None:
    assert run("evaluate", "model.onnx", int8, "--data", "data.npz", "--report", "e.html").exit_code == 0
    assert '"evaluation":{"schema":"onnxq.evaluation/1"' in (folder / "e.html").read_text()


def test_evaluate_takes_labels_and_writes_json(run: Run, int8: str, folder: Path) -> None:
    np.savez(folder / "test.npz", x=samples(), truth=np.arange(20) % 16)
    result = run(
        "evaluate", "model.onnx", int8, "--data", "test.npz", "--labels", "truth", "--json", "--report", "e.json"
    )
    document: dict[str, Any] = json.loads(result.stdout)
    assert (document["schema"], document["metric"], document["samples"]) == ("onnxq.evaluation/1", "top1", 20)
    assert json.loads((folder / "e.json").read_text()) == document
    assert [m["name"] for m in document["models"]] == ["model.onnx", int8]
    assert document["comparisons"][0]["test"] == "McNemar, exact"


def test_evaluate_runs_a_function_of_the_user(run: Run, int8: str, folder: Path) -> None:
    (folder / "mine.py").write_text(
        "def f(outputs, labels):\n    return outputs['y'].reshape(len(outputs['y']), -1).max(1)\n"
    )
    result = run("evaluate", "model.onnx", int8, "--data", "data.npz", "--metric", "mine.py:f")
    assert result.exit_code == 0
    assert "model.int8.onnx against model.onnx" in result.stdout


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("--data", "data.npz", "--metric", "top3"), 2, "'top3' is none of top1, top5, cosine, sqnr"),
        (("--data", "data.npz", "--metric", "top1"), 2, "top1 needs labels"),
        (("--data", "data.npz", "--output", "z"), 2, "the model has no output 'z'; it has 'y'"),
        (("--data", "data.npz", "--labels", "absent.npy"), 3, "absent.npy: no such file"),
        (
            (
                "--data",
                "absent.npz",
            ),
            3,
            "no such file or folder",
        ),
        ((), 2, "there are no samples to judge on"),
    ],
)
def test_evaluate_says_what_is_wrong(run: Run, arguments: tuple[str, ...], code: int, message: str) -> None:
    result = run("evaluate", "model.onnx", *arguments)
    assert result.exit_code == code
    assert message in result.stderr
    assert result.stdout == ""


def test_sensitivity_shows_a_table_and_writes_a_plot(run: Run, folder: Path) -> None:
    result = run("sensitivity", "model.onnx", "--data", "data.npz", *TARGET, "--report", "layers.html")
    assert result.exit_code == 0
    assert "noise at the model's outputs with one layer quantized, measured on 20 samples" in result.stdout
    page = (folder / "layers.html").read_text()
    assert "noise" in page
    assert "conv" in page


def test_sensitivity_prints_json_alone(run: Run) -> None:
    result = run("sensitivity", "model.onnx", "--data", "data.npz", *TARGET, "--json", "--samples", "4")
    document = json.loads(result.stdout)
    assert document["schema"] == "onnxq.sensitivity/1"
    assert 2 <= document["samples"] <= 4  # spread over the data
    assert [layer["node"] for layer in document["layers"]] == ["conv"]


def test_sensitivity_takes_statistics(run: Run) -> None:
    assert run("calibrate", "model.onnx", "--data", "data.npz", *TARGET, "-o", "m.stats").exit_code == 0
    result = run(
        "sensitivity", "model.onnx", "--data", "data.npz", *TARGET, "--stats", "m.stats", "--quantize", "all-but"
    )
    assert result.exit_code == 0
    assert "noise at the model's outputs with all layers but one quantized" in result.stdout


def test_sensitivity_without_data_is_loud(run: Run) -> None:
    result = run("sensitivity", "model.onnx", *TARGET)
    assert result.exit_code == 0
    assert result.stderr.startswith("warning: NO DATA. Layers are measured on synthetic inputs")


def test_quantize_searches_and_says_what_it_found(run: Run, folder: Path) -> None:
    result = run("quantize", "model.onnx", "--data", "data.npz", *TARGET, "--min-cosine", "0.9")
    assert result.exit_code == 0
    assert "accuracy budget met: cosine" in " ".join(result.stdout.split())
    assert (folder / "model.int8.onnx").exists()


def test_a_budget_out_of_reach_leaves_with_4(run: Run, folder: Path) -> None:
    result = run("quantize", "model.onnx", "--data", "data.npz", *TARGET, "--search", "--min-sqnr", "300")
    assert result.exit_code == 4
    assert result.stderr.startswith("error: not passed: accuracy budget\n")  # the gate's own check is left out
    assert "accuracy budget" in result.stdout
    assert "300" in result.stdout
    said = " ".join(result.stderr.split())
    assert "--recover best" in said
    assert "--search" not in said, "it has searched"
    assert (folder / "model.int8.onnx").exists()


def test_min_sqnr_alone_is_a_gate(run: Run) -> None:
    result = run("quantize", "model.onnx", "--data", "data.npz", *TARGET, "--min-sqnr", "300")
    assert result.exit_code == 4
    assert "SQNR at least 300 dB" in result.stderr
    assert "--search leaves layers in float" in " ".join(result.stderr.split())
    assert "accuracy budget" not in result.stderr


def test_beside_another_goal_min_sqnr_is_searched_for_too(run: Run) -> None:
    result = run("quantize", "model.onnx", "--data", "data.npz", *TARGET, "--min-cosine", "0.9", "--min-sqnr", "300")
    assert result.exit_code == 4
    assert result.stderr.startswith("error: not passed: accuracy budget\n")


def test_without_a_search_goals_are_checked_alone(run: Run) -> None:
    goals = ("--min-cosine", "0.99999999", "--min-sqnr", "300", "--no-search")
    result = run("quantize", "model.onnx", "--data", "data.npz", *TARGET, *goals, "--json")
    assert result.exit_code == 4
    checks = {check["name"]: check for check in json.loads(result.stdout)["checks"]}
    assert not checks["SQNR at least 300 dB"]["passed"]
    assert "1 model judged" in checks["accuracy budget"]["detail"]


def test_a_share_that_tensorrt_does_not_tell_is_refused_before_the_work(run: Run, folder: Path) -> None:
    result = run("quantize", "model.onnx", "--data", "data.npz", "-t", "tensorrt", "--min-int8", "50")
    assert result.exit_code == 2
    assert (
        "no engine tells how single nodes run for tensorrt, so --min-int8 (min_int8=) could not be met" in result.stderr
    )
    assert not (folder / "model.int8.onnx").exists()
    verified = run("verify", "model.onnx", "model.onnx", "-t", "tensorrt", "--min-int8", "50")
    assert verified.exit_code == 2


def test_a_ranking_goes_from_one_command_to_the_next(run: Run, folder: Path) -> None:
    assert run("sensitivity", "model.onnx", "--data", "data.npz", *TARGET, "--report", "layers.json").exit_code == 0
    search = ("quantize", "model.onnx", "--data", "data.npz", *TARGET, "--search", "--min-sqnr", "60", "--force")
    result = run(*search, "--ranking", "layers.json")
    assert "a ranking measured for ort-x64-vnni" in " ".join(result.stdout.split())
    document = json.loads((folder / "layers.json").read_text())
    (folder / "layers.json").write_text(json.dumps({**document, "digest": "0" * 64}))
    other = run(*search, "--ranking", "layers.json")
    assert other.exit_code == 3
    assert "the ranking was measured on another model" in other.stderr
    assert run("quantize", "model.onnx", "--data", "data.npz", "--ranking", "layers.json").exit_code == 2


def test_weights_alone_are_searched(run: Run) -> None:
    mode = ("--mode", "weight-only", "--placement", "full")
    result = run("quantize", "model.onnx", "--data", "data.npz", *TARGET, *mode, "--search", "--min-sqnr", "300")
    assert result.exit_code == 4
    assert "accuracy budget: SQNR" in " ".join(result.stdout.split())
    gate = run("quantize", "model.onnx", "--data", "data.npz", *TARGET, *mode, "--force", "--min-sqnr", "300")
    assert "--search gives weights more bits until --min-sqnr is met" in " ".join(gate.stderr.split())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--search",), "--search has no goal"),
        (("--max-drop", "much"), "'much' is not a number of percentage points such as 0.5%"),
        (("--max-drop", "0.5%"), "without labels there are --min-sqnr with --search, --min-cosine"),
        (("--max-drop", "1", "--metric", "top7"), "'top7' is none of top1, top5, FILE.py:FUNCTION."),
        (("--max-drop", "1", "--metric", "sqnr"), "sqnr compares with the float model itself"),
        (("--labels", "labels"), "--labels (labels=) serves a search"),
        (("--min-cosine", "2"), "2.0 is not in the range"),
    ],
)
def test_searches_that_make_no_sense_are_refused(
    run: Run, folder: Path, arguments: tuple[str, ...], message: str
) -> None:
    result = run("quantize", "model.onnx", "--data", "data.npz", *TARGET, *arguments)
    assert result.exit_code == 2
    assert message in result.stderr
    assert not (folder / "model.int8.onnx").exists()


def test_a_configuration_file_holds_a_budget(run: Run, folder: Path) -> None:
    (folder / "c.toml").write_text('max-drop = "100"\n')
    assert run("quantize", "model.onnx", "--data", "data.npz", "--config", "c.toml").exit_code == 2
    np.savez(folder / "l.npz", x=samples(), labels=np.arange(20) % 16)
    (folder / "c.toml").write_text('max-drop = "50%"\ntarget = "ort-x64-vnni"\n')
    assert run("quantize", "model.onnx", "--data", "l.npz", "--config", "c.toml").exit_code == 0


def test_commands_and_functions_are_both_public() -> None:
    assert {"evaluate", "sensitivity"} <= set(cli.commands) & set(onnxq.__all__)


def test_evaluate_has_gates_and_writes_them_as_junit(run: Run, int8: str, folder: Path) -> None:
    np.savez(folder / "test.npz", x=samples(), truth=np.arange(20) % 16)
    command = ("evaluate", "model.onnx", int8, "--data", "test.npz", "--labels", "truth", "--force")
    met = run(*command, "--max-drop", "50%", "--min-score", "0", "--junit", "e.xml")
    assert met.exit_code == 0
    assert "passed: model.int8.onnx: top1 falls by at most 50 points" in met.stdout
    ambiguous = run(*command, "--min-score", "0.9")
    assert ambiguous.exit_code == 2
    assert "--min-score (min_score=) is in percent: '0.9%' or '90%'" in ambiguous.stderr
    missed = run(*command, "--min-score", "99%", "--junit", "e.xml")
    assert missed.exit_code == 4
    assert missed.stderr.startswith("error: not passed: model.int8.onnx: top1 at least 99.00 %")
    root = Xml.parse(folder / "e.xml").getroot()
    assert (root.get("tests"), root.get("failures")) == ("1", "1")


def test_a_drop_of_exactly_the_limit_is_allowed() -> None:
    scores = [ModelScore(name=n, score=s, low=0, high=1, run_as="") for n, s in (("float", 0.992), ("int8", 0.987))]
    found = Evaluation(metric="top1", unit="%", output=None, samples=1000, models=tuple(scores))
    assert Demands(max_drop=0.5).judged(found).passed  # 0.992 - 0.987 > 0.005 in floating point
    assert not Demands(max_drop=0.49).judged(found).passed
    assert Demands().judged(found).passed is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--max-drop", "1", "--metric", "cosine"), "cosine compares with the float model by itself"),
        (("--min-score", "many"), "min_score is 'many'"),
    ],
)
def test_demands_without_meaning_are_refused(run: Run, int8: str, arguments: tuple[str, ...], message: str) -> None:
    result = run("evaluate", "model.onnx", int8, "--data", "data.npz", *arguments)
    assert result.exit_code == 2
    assert message in result.stderr


def test_demands_need_a_quantized_model(run: Run) -> None:
    result = run("evaluate", "model.onnx", "--data", "data.npz", "--min-score", "1")
    assert result.exit_code == 2
    assert "there is no quantized model that could meet a demand" in result.stderr


@pytest.mark.parametrize("command", ["quantize", "verify"])
def test_checks_are_written_as_junit(run: Run, int8: str, folder: Path, command: str) -> None:
    models = ("model.onnx", int8) if command == "verify" else ("model.onnx", "-o", "again.onnx")
    result = run(command, *models, "--data", "data.npz", *TARGET, "--min-sqnr", "300", "--junit", "v.xml", "-q")
    assert result.exit_code == 4
    root = Xml.parse(folder / "v.xml").getroot()
    assert root.get("failures") == "1"
    assert [case.get("name") for case in root.iter("testcase") if len(case.findall("failure"))] == [
        "SQNR at least 300 dB"
    ]


@pytest.mark.parametrize("command", ["quantize", "verify", "evaluate"])
def test_an_error_is_a_test_case_too(run: Run, int8: str, folder: Path, command: str) -> None:
    """A file of an earlier run that passed must not be taken for this one's."""
    (folder / "v.xml").write_text("<testsuites failures='0'/>")
    models = ("model.onnx", "-o", "again.onnx") if command == "quantize" else ("model.onnx", int8)
    np.savez(folder / "bad.npz", x=np.full((2, 1), np.nan, np.float32))
    result = run(command, *models, "--data", "bad.npz", *TARGET, "--junit", "v.xml", "--force")
    assert result.exit_code == 3, result.stderr
    root = Xml.parse(folder / "v.xml").getroot()
    assert (root.get("tests"), root.get("errors"), root.get("failures")) == ("1", "1", "0")
    (case,) = root.iter("testcase")
    assert case.get("classname") == f"onnxq {command} {'model.int8.onnx' if command == 'verify' else 'model.onnx'}"
    (error,) = case.iter("error")
    assert error.get("type") == "DataError"
    assert error.text == result.stderr[result.stderr.index("error: ") :].rstrip()
    assert not (folder / "again.onnx").exists()


def test_missing_labels_are_told_before_any_work(run: Run) -> None:
    result = run("quantize", "model.onnx", "--data", "data.npz", "--max-drop", "1")
    assert result.exit_code == 2
    assert result.stderr.startswith("error: top1 needs labels\nhint: pass --labels (labels=)")
    assert "calibrating" not in result.stderr
