"""Sensitivity in modes "dynamic" and "weight-only": each layer against a whole model that has it alone quantized."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import ModelProto

import onnxq
from onnxq.errors import ArtifactError, ConfigError, UnsupportedModelError
from tests.graphs import model_of, normal
from tests.unit.test_search_weights import FEEDS, LAYERS, MODEL, nested

VNNI = "ort-x64-vnni"
# Weights that saturate nowhere.
DYNAMIC: dict[str, Any] = {"target": "ort-x64-avx2", "mode": "dynamic"}
WEIGHTS: dict[str, Any] = {"target": VNNI, "mode": "weight-only", "accuracy_level": 0}

RECURRENT = model_of(
    """(float[5, 2, 32] x) => (float[5, 1, 2, 32] h, float[5, 2, 64] p) {
       [lstm] h, hn, cn = LSTM<hidden_size = 32>(x, w, r)
       [fc] p = MatMul(x, v)
    }""",
    w=normal(1, 128, 32, seed=1) * 0.2, r=normal(1, 128, 32, seed=2) * 0.2, v=normal(32, 64, seed=3),
)  # fmt: skip
STEPS = [{"x": normal(5, 2, 32, seed=s)} for s in range(3)]
BRANCHES = [{"x": normal(4, 64, seed=s), "flag": np.array(s % 2 == 0)} for s in range(6)]


def worst(model: ModelProto, feeds: Sequence[Mapping[str, Any]], **options: Any) -> float:
    """SQNR in dB on all samples; infinite where the outputs are equal."""
    made = onnxq.quantize(model, feeds, **options)
    found = made.report.worst_sqnr_db
    return math.inf if found is None else found


def effects(found: onnxq.Sensitivity) -> dict[str, float]:
    return {row.node: row.effect.sqnr_db for row in found.layers}


@pytest.mark.parametrize(
    ("options", "tolerance_db"),
    [
        (DYNAMIC, 0.1),  # the product in float32 of rounded operands, or in int8 on the same codes
        (WEIGHTS, 0.05),  # float32 sums in another order: noise at 120 dB beside that of 4 bits
        ({**WEIGHTS, "rounding": "gptq"}, 0.05),
        ({**WEIGHTS, "weights": "int8"}, 0.05),
        ({**WEIGHTS, "target": "openvino"}, 0.05),
    ],
    ids=str,
)
def test_a_layer_alone_does_what_the_model_with_it_alone_does(options: dict[str, Any], tolerance_db: float) -> None:
    if options["target"] == "openvino":
        options = {name: value for name, value in options.items() if name != "accuracy_level"}
    found = onnxq.sensitivity(MODEL, FEEDS, **options)
    assert [row.node for row in found.layers] == LAYERS
    assert (found.samples, found.missing, found.mode, found.quantize) == (32, 0, options["mode"], "only")
    for name, sqnr_db in effects(found).items():
        assert sqnr_db == pytest.approx(worst(MODEL, FEEDS, **options, include=[name]), abs=tolerance_db), name
    assert len({round(sqnr_db, 3) for sqnr_db in effects(found).values()}) > 3
    assert all(row.effect.kl is not None and row.effect.kl > 0 for row in found.layers)


@pytest.mark.parametrize("options", [DYNAMIC, WEIGHTS], ids=str)
def test_all_but_one_is_the_model_without_it(options: dict[str, Any]) -> None:
    found = onnxq.sensitivity(MODEL, FEEDS, **options, quantize="all-but")
    assert [row.node for row in found.layers] == LAYERS
    for name, sqnr_db in effects(found).items():
        assert sqnr_db == pytest.approx(worst(MODEL, FEEDS, **options, exclude=[name]), abs=1e-3), name
    ranked = [row.effect.sqnr_db for row in found.ranked()]
    assert ranked == sorted(ranked, reverse=True)


def test_an_lstm_is_measured_in_the_whole_model() -> None:
    """Its state is rounded at each step, which no cut of the float model shows: the kernel itself is run."""
    found = onnxq.sensitivity(RECURRENT, STEPS, **DYNAMIC)
    assert [row.node for row in found.layers] == ["lstm", "fc"]
    for name, sqnr_db in effects(found).items():
        assert sqnr_db == pytest.approx(worst(RECURRENT, STEPS, **DYNAMIC, include=[name]), abs=0.1), name


def test_weights_in_branches_and_of_several_nodes_are_measured_in_the_whole_model() -> None:
    found = onnxq.sensitivity(nested(), BRANCHES, **WEIGHTS)
    names = ["first", "once", "choice/then_branch/yes_product", "choice/else_branch/no_product"]
    assert [row.node for row in found.layers] == names
    for name, sqnr_db in effects(found).items():
        others = {*names, "twice"} - ({"once", "twice"} if name == "once" else {name})
        assert sqnr_db == pytest.approx(worst(nested(), BRANCHES, **WEIGHTS, exclude=sorted(others)), abs=0.05), name


def test_products_in_branches_are_measured_in_the_whole_model_in_dynamic_mode_too() -> None:
    found = onnxq.sensitivity(nested(), BRANCHES, **DYNAMIC)
    names = ["first", "once", "twice", "choice/then_branch/yes_product", "choice/else_branch/no_product"]
    assert [row.node for row in found.layers] == names
    for name, sqnr_db in effects(found).items():
        alone = worst(nested(), BRANCHES, **DYNAMIC, include=[name])
        assert sqnr_db == pytest.approx(alone, abs=0.1), name  # float32 sums in another order


@pytest.mark.parametrize("options", [DYNAMIC, WEIGHTS], ids=str)
def test_a_ranking_serves_searches_of_its_own_mode(tmp_path: Path, options: dict[str, Any]) -> None:
    ranking = onnxq.sensitivity(MODEL, FEEDS, **options)
    file = tmp_path / "layers.json"
    file.write_text(ranking.to_json())
    goal = worst(MODEL, FEEDS, **options) + 3.0
    stages = set()
    made = onnxq.quantize(
        MODEL, FEEDS, **options, min_sqnr=goal, ranking=file, progress=lambda now: stages.add(getattr(now, "stage", ""))
    )
    measured = onnxq.quantize(MODEL, FEEDS, **options, min_sqnr=goal)
    assert made.search is not None and measured.search is not None
    assert made.search.met
    assert made.search.unranked == ()
    assert (made.search.float_layers, made.search.wide_layers) == (
        measured.search.float_layers,
        measured.search.wide_layers,
    )
    assert "measuring layers" not in stages
    other = WEIGHTS if options is DYNAMIC else DYNAMIC
    message = f"the ranking was measured in mode '{options['mode']}', and this search is one of mode '{other['mode']}'"
    with pytest.raises(ArtifactError, match=message) as refused:
        onnxq.quantize(MODEL, FEEDS, **other, min_sqnr=goal, ranking=file)
    assert f"--mode {other['mode']}" in str(refused.value)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"mode": "dynamic", "method": "max"}, r"method='max' \(--method\) has no meaning in mode 'dynamic'"),
        ({"mode": "weight-only", "percentile": 99.0}, r"percentile=99.0 \(--percentile\) has no meaning in"),
        ({"mode": "static", "rounding": "mse"}, r"rounding='mse' \(--rounding\) has no meaning in mode 'static'"),
        ({"mode": "dynamic", "target": "tensorrt"}, "no dynamically quantized operators"),
        ({"mode": "weight-only", "rounding": "gptq", "data": None}, "rounding 'gptq' looks at what weights are"),
    ],
)
def test_arguments_that_mean_nothing_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        onnxq.sensitivity(MODEL, **{"data": FEEDS, "target": VNNI, **arguments})


@pytest.mark.parametrize("mode", ["dynamic", "weight-only"])
def test_models_without_weights_for_the_mode_are_refused(mode: str) -> None:
    model = model_of("(float[n, 4] x) => (float[n, 4] y) { [out] y = Tanh(x) }")
    with pytest.raises(UnsupportedModelError, match="nothing in this model can be quantized"):
        onnxq.sensitivity(model, [{"x": normal(2, 4, seed=1)}], target=VNNI, mode=mode)


def test_data_that_can_be_read_once_is_enough() -> None:
    found = onnxq.sensitivity(MODEL, iter(FEEDS), **WEIGHTS, rounding="gptq", samples=16)
    assert len(found.layers) == len(LAYERS)
    assert 8 <= found.samples <= 16


def test_arithmetic_is_counted_for_the_shapes_of_the_samples() -> None:
    for options in (DYNAMIC, WEIGHTS):
        found = onnxq.sensitivity(MODEL, FEEDS, **options)
        assert {row.node: row.macs for row in found.layers} == {"emb": 0} | dict.fromkeys(LAYERS[1:], 64 * 64)
    assert "mode weight-only (int4, mse): noise at the model's outputs with one layer quantized" in found.to_text()


def test_time_that_is_over_leaves_out_those_that_should_matter_least() -> None:
    found = onnxq.sensitivity(RECURRENT, STEPS, **DYNAMIC, seconds=1e-9)
    assert (found.layers, found.missing) == ((), 2)
    assert [row.expected for row in found.unmeasured] == sorted((r.expected for r in found.unmeasured), reverse=True)
