"""The plan's reasons for float in the metadata: verify, inspect and reports give them."""

from __future__ import annotations

import json
from pathlib import Path

import onnx
import pytest

import onnxq
from onnxq.cli.inspection import inspect_model
from onnxq.planning.kept_reasons import REASONS_KEY, KeptReasons, kept_reasons
from onnxq.planning.plan import Action
from onnxq.report.explanation import RowFilter
from tests.graphs import model_of, normal

MODEL = model_of(
    """(float[N,16,16,16] x) => (float[N,16,16,16] y) {
    [kept] a = Conv<pads=[1,1,1,1]>(x, w1) [bent] b = Relu(a) [conv] c = Conv<pads=[1,1,1,1]>(b, w2) [tanh] y = Tanh(c)
    }""",
    w1=normal(16, 16, 3, 3), w2=normal(16, 16, 3, 3, seed=1),
)  # fmt: skip
FEEDS = [{"x": normal(1, 16, 16, 16, seed=s)} for s in range(4)]


@pytest.mark.parametrize("target", ["ort-x64-avx2", "tensorrt"])
def test_verify_gives_the_reasons_of_the_plan(target: str) -> None:
    made = onnxq.quantize(MODEL, FEEDS, target=target, placement="full", recover="none", exclude="kept")
    planned = {d.node: (d.reason, d.rule) for d in made.plan.nodes if d.action is Action.FLOAT}
    assert planned["kept"] == ("excluded by the user", "user")
    report = onnxq.verify(MODEL, made.model, FEEDS)
    told = {row.node: (row.reason, row.rule) for row in report.layers if row.node in planned}
    assert told == planned
    assert "excluded by the user" in report.to_text()


def test_another_engine_is_told_whose_reasons_they_are() -> None:
    made = onnxq.quantize(MODEL, FEEDS, target="tensorrt", recover="none", exclude="kept")
    report = onnxq.verify(MODEL, made.model, FEEDS, target="ort-x64-vnni")
    told = {row.node: row.reason for row in report.layers}
    assert told["kept"] == "when made for tensorrt: excluded by the user"


def test_inspect_gives_them_too(tmp_path: Path) -> None:
    path = tmp_path / "q.onnx"
    onnxq.quantize(MODEL, FEEDS, target="ort-x64-avx2", placement="full", recover="none", exclude="kept", output=path)
    found = {row.node: row.reason for row in inspect_model(path, RowFilter()).facts.nodes}
    assert found["kept"] == "excluded by the user"


def test_operators_stand_for_their_nodes_only_where_all_are_alike() -> None:
    made = onnxq.quantize(MODEL, FEEDS, target="ort-x64-avx2", placement="full", recover="none", exclude="kept")
    kept = kept_reasons({p.key: p.value for p in made.model.metadata_props})
    assert "Conv" not in kept.ops and "Tanh" in kept.ops
    assert kept.of("conv", "Conv") is None
    assert kept.of("kept", "Conv") == ("excluded by the user", "user")


@pytest.mark.parametrize(
    "text", ["{", "3", "[3]", '[{"rule": "C1"}]', '[{"reason": "r", "nodes": [["x"]]}]', "[" * 100_000]
)
def test_damaged_ones_are_none(text: str) -> None:
    assert kept_reasons({REASONS_KEY: text}) == KeptReasons()


def test_models_of_other_tools_are_explained_by_the_rules() -> None:
    made = onnxq.quantize(MODEL, FEEDS, target="ort-x64-avx2", placement="full", recover="none", exclude="kept").model
    other = onnx.ModelProto.FromString(made.SerializeToString())
    del other.metadata_props[:]
    report = onnxq.verify(MODEL, other, FEEDS, target="ort-x64-avx2")
    (row,) = [row for row in report.layers if row.node == "kept"]
    assert (row.decision, row.reason) == ("", "") and "has no Q/DQ pair" in row.why
    assert json.loads(report.to_json())["differences"] == []
