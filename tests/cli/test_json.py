"""Every document that --json prints fits its schema, and every schema has a document here."""

from __future__ import annotations

import json
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest

from onnxq.report.checked_document import schema
from onnxq.report.run_options import command_options
from tests.cli.conftest import Run, samples
from tests.json_schemas import problems

VNNI = ("--target", "ort-x64-vnni")
DATA = ("--data", "data.npz")

COMMANDS = {
    "onnxq.report/1": [
        ("quantize", "model.onnx", *DATA, *VNNI, "--force"),
        ("verify", "model.onnx", "q.onnx", *DATA, *VNNI),
        ("verify", "model.onnx", "q.onnx", *DATA, "--target", "tensorrt"),
    ],
    "onnxq.plan/1": [("plan", "model.onnx", *VNNI), ("plan", "model.onnx", *VNNI, "--tensors", "--stats", "m.stats")],
    "onnxq.stats/1": [
        ("calibrate", "model.onnx", *DATA, *VNNI, "-o", "c.stats"),
        ("calibrate", "model.onnx", *DATA, *VNNI, "--shard", "1/2", "-o", "s.stats"),
        ("merge", "m.stats", "-o", "n.stats"),
        ("inspect", "m.stats"),
    ],
    "onnxq.evaluation/1": [
        ("evaluate", "model.onnx", "q.onnx", "--data", "labelled.npz", "--labels", "labels"),
        ("evaluate", "model.onnx", "q.onnx", *DATA),
        ("evaluate", "model.onnx", "q.onnx", *DATA, "--min-score", "300"),
    ],
    "onnxq.sensitivity/1": [
        ("sensitivity", "model.onnx", *DATA, *VNNI),
        ("sensitivity", "model.onnx", *DATA, *VNNI, "--mode", "dynamic", "--placement", "full"),
        ("sensitivity", "model.onnx", *DATA, *VNNI, "--mode", "weight-only", "--placement", "full"),
    ],
    "onnxq.model/1": [("inspect", "model.onnx"), ("inspect", "q.onnx")],
    "onnxq.data/1": [("data", "data.npz", "model.onnx")],
    "onnxq.strip/1": [("strip", "q.onnx", "-o", "stripped.onnx")],
    "onnxq.targets/1": [("targets",), ("targets", "tensorrt")],
    "onnxq.error/1": [("plan", "absent.onnx"), ("quantize", "model.onnx", "--method", "maks")],
}


@pytest.fixture
def made(run: Run, folder: Path) -> Path:
    np.savez(folder / "labelled.npz", x=samples(), labels=np.arange(20) % 16)
    assert run("quantize", "model.onnx", *DATA, *VNNI, "-o", "q.onnx", "--save-stats", "m.stats").exit_code == 0
    return folder


@pytest.mark.parametrize(
    ("name", "command"),
    [(name, command) for name, commands in COMMANDS.items() for command in commands],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_documents_fit_their_schema(run: Run, made: Path, name: str, command: tuple[str, ...]) -> None:
    document = json.loads(run(*command, "--json").stdout)
    assert document["schema"] == name
    assert problems(document) == []


def test_reports_in_files_fit_their_schema(run: Run, made: Path) -> None:
    made_as = ("--exclude", "pool", "--limit", "16", "--shuffle", "3")
    assert run("quantize", "model.onnx", *DATA, *VNNI, *made_as, "-o", "r.onnx", "--report", "r.json").exit_code == 0
    document = json.loads((made / "r.json").read_text())
    assert problems(document) == []
    assert command_options(document["options"]) == " --exclude pool --limit 16 --shuffle 3"
    assert document["graph"]["nodes"][0] == {"name": "x", "op": "Input", "runs": "input"}
    assert document["layers"][0]["sqnr_db"] > 10.0
    assert document["tensors"][0]["values"]["choices"][0]["method"] == "used"
    assert document["latency"]["float_ms"] > 0.0


def test_every_schema_is_tried() -> None:
    found = {
        f"onnxq.{path.name.removesuffix('.json').replace('-', '/')}" for path in (files("onnxq") / "schemas").iterdir()
    }
    # An engine takes TensorRT and a minute: tests/e2e/test_engine.py looks at its document.
    assert found == {*COMMANDS, "onnxq.engine/1"}


def test_a_schema_refuses_what_it_does_not_name() -> None:
    document = {"schema": "onnxq.strip/1", "path": "p", "pairs": 1, "holds": 0, "exact": True, "dequantized": []}
    assert problems({**document, "restored": [], "more": 1}) != []
    assert problems(document) != []
    assert schema("onnxq.strip/1")["$id"] == "onnxq.strip/1"
