"""Reports that are read back are compared with their schema first."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

import onnxq
from onnxq.cli.main import cli
from onnxq.report.checked_document import parse_document, problem_of
from tests.graphs import model_of, normal


@pytest.fixture(scope="module")
def report() -> dict[str, Any]:
    model = model_of("(float[N,16] x) => (float[N,8] y) { y = MatMul(x, w) }", w=normal(16, 8))
    made = onnxq.quantize(model, {"x": normal(8, 16)}, target="ort-x64-vnni", details=True, placement="full").report
    document: dict[str, Any] = json.loads(made.to_json())
    return document


def test_a_report_is_as_its_schema_says(report: dict[str, Any]) -> None:
    assert problem_of(report, "onnxq.report/1") is None


@pytest.mark.parametrize(
    ("path", "value", "problem"),
    [
        ("passed", 1, "passed: 1 is not of type 'boolean'"),
        ("checks", 0.5, "checks: 0.5 is not of type 'array'"),
        ("checks.0", [], "checks[0]: [] is not of type 'object'"),
        ("checks.0.name", None, "checks[0].name: None is not of type 'string'"),
        ("proven.int8", True, "proven.int8: True is not of type 'integer'"),
        ("proven", "x" * 90, f"proven: ...{'x' * 75}' is not valid under any of the given schemas"),
        ("data.samples", "8", "data.samples: '8' is not of type 'integer'"),
        ("schema", "onnxq.report/2", "schema: 'onnxq.report/1' was expected"),
    ],
)
def test_what_is_otherwise_is_named(report: dict[str, Any], path: str, value: Any, problem: str) -> None:
    document = copy.deepcopy(report)
    place: Any = document
    *way, last = path.split(".")
    for step in way:
        place = place[int(step) if step.isdigit() else step]
    place[int(last) if last.isdigit() else last] = value
    assert problem_of(document, "onnxq.report/1") == problem


def test_what_is_missing_is_named(report: dict[str, Any]) -> None:
    document = copy.deepcopy(report)
    del document["checks"][0]["detail"]
    assert problem_of(document, "onnxq.report/1") == "checks[0]: 'detail' is a required property"
    assert problem_of([], "onnxq.report/1") == "it: [] is not of type 'object'"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[NaN]", "NaN is no number of JSON"),
        ("[-Infinity]", "-Infinity is no number of JSON"),
        ("[1e999]", "1e999 is no number of JSON"),
        (f"[{10**30}]", "a number of 31 digits"),
        ('["\\ud800"]', "surrogates not allowed"),
        ("[", "Expecting value"),
    ],
)
def test_what_is_no_json(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_document(text)
    assert parse_document('[1.5, -3, "\\ud83d\\ude00"]') == [1.5, -3, "\U0001f600"]


@pytest.mark.parametrize("damage", [lambda d: d["checks"].insert(0, 5), lambda d: d.update(seconds=float("nan"))])
def test_damaged_reports_are_refused(tmp_path: Path, report: dict[str, Any], damage: Any) -> None:
    document = copy.deepcopy(report)
    damage(document)
    (tmp_path / "r.json").write_text(json.dumps(document))
    result = CliRunner().invoke(cli, ["report", str(tmp_path / "r.json"), "-o", str(tmp_path / "r.html")])
    assert result.exit_code == 3
    assert not (tmp_path / "r.html").exists()
