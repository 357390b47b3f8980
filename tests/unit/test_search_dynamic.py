"""Mixed precision in mode "dynamic": nodes stay float until a demand is met."""

from __future__ import annotations

from typing import Any

import pytest

import onnxq
from onnxq.planning.plan import Action
from tests.graphs import model_of, normal
from tests.unit.test_search_weights import FEEDS, MODEL

ORT = "ort-x64-avx2"  # whose weights saturate nowhere
OPTIONS: dict[str, Any] = {"target": ORT, "mode": "dynamic"}
LAYERS = ["emb", "first", "turned", "loud", "last"]


def worst(**options: Any) -> float:
    made = onnxq.quantize(MODEL, FEEDS, **OPTIONS, **options)
    assert made.report.worst_sqnr_db is not None
    return made.report.worst_sqnr_db


def test_nodes_stay_in_float_until_the_demand_is_met() -> None:
    goal = worst() + 3.0
    made = onnxq.quantize(MODEL, FEEDS, **OPTIONS, min_sqnr=goal)
    assert made.search is not None and made.search.met
    assert made.report, made.report.to_text()
    assert made.report.worst_sqnr_db is not None and made.report.worst_sqnr_db >= goal - 1e-6
    assert 0 < len(made.search.float_layers) < len(LAYERS)
    assert {d.node for d in made.plan.nodes if d.rule == "budget"} == set(made.search.float_layers)
    assert {n.name for n in made.model.graph.node} >= set(made.search.float_layers)
    again = onnxq.quantize(MODEL, FEEDS, **OPTIONS, exclude=made.search.float_layers)
    assert again.report.worst_sqnr_db == made.report.worst_sqnr_db


def test_a_layer_alone_does_what_the_model_with_it_alone_does() -> None:
    """The product in float32 of rounded operands, or in int8 on the same codes: rounding in float32 apart."""
    made = onnxq.quantize(MODEL, FEEDS, **OPTIONS, min_sqnr=worst() + 3.0)
    assert made.search is not None
    assert [row.node for row in made.search.layers] == LAYERS
    for row in made.search.layers:
        assert row.effect.sqnr_db == pytest.approx(worst(include=[row.node]), abs=0.1), row.node


def test_a_bias_follows_its_product_into_float() -> None:
    model = model_of(
        """(float[n, 64] x) => (float[n, 64] y) {
           [fc] a = MatMul(x, w)
           [plus] b = Add(a, bias)
           [relu] c = Relu(b)
           [out] y = MatMul(c, v)
        }""",
        w=normal(64, 64, seed=1), v=normal(64, 64, seed=2), bias=normal(64, seed=3),
    )  # fmt: skip
    feeds = [{"x": normal(8, 64, seed=s)} for s in range(3)]
    made = onnxq.quantize(model, feeds, **OPTIONS, min_sqnr=200.0)
    assert made.search is not None and not made.search.met
    left = made.search.float_layers
    assert len(left) == 1
    actions = {d.node: d.action for d in made.plan.nodes}
    assert actions["plus"] is (Action.FLOAT if left == ("fc",) else Action.FUSED)
    assert made.report.passed is False
    assert [c.name for c in made.report.failed_checks] == ["accuracy budget"]


def test_an_lstm_is_searched_without_being_measured_alone() -> None:
    model = model_of(
        """(float[5, 2, 32] x) => (float[5, 1, 2, 32] h, float[5, 2, 64] p) {
           [lstm] h, hn, cn = LSTM<hidden_size = 32>(x, w, r)
           [fc] p = MatMul(x, v)
        }""",
        w=normal(1, 128, 32, seed=1) * 0.2, r=normal(1, 128, 32, seed=2) * 0.2, v=normal(32, 64, seed=3),
    )  # fmt: skip
    feeds = [{"x": normal(5, 2, 32, seed=s)} for s in range(3)]
    plain = onnxq.quantize(model, feeds, **OPTIONS)
    assert plain.report.worst_sqnr_db is not None
    made = onnxq.quantize(model, feeds, **OPTIONS, min_sqnr=plain.report.worst_sqnr_db + 1.0)
    assert made.search is not None and made.search.met
    assert made.search.unranked == ("lstm",)
    assert len(made.search.float_layers) == 1
