"""Layers inside If, Loop and Scan: ranked, and left in float where a demand needs that."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import onnxq
from onnxq.graph.view import bodies
from onnxq.planning.plan import Action
from tests.graphs import model_of, normal
from tests.unit.test_search_weights import nested

VNNI = "ort-x64-vnni"
STATIC: dict[str, Any] = {"target": VNNI, "method": "max", "recover": "none", "placement": "full"}
DYNAMIC: dict[str, Any] = {"target": VNNI, "mode": "dynamic"}

IMAGE = "float[1,16,8,8]"
_UNEVEN = normal(16, 16, 3, 3, seed=1) / 12
_UNEVEN[3] *= 80  # one channel reaches so far that the others have few codes left

# Two levels: `loud` lies in a branch of a branch.
MODEL = model_of(
    f"""({IMAGE} x, bool flag, bool other) => ({IMAGE} y) {{
    [outer] a = Conv<pads=[1,1,1,1]>(x, w)
    [choice] b = If (flag) <
        then_branch = t () => ({IMAGE} p) {{
            [mild] k = Conv<pads=[1,1,1,1]>(a, w2)
            [deep] p = If (other) <
                then_branch = t2 () => ({IMAGE} g) {{ [loud] h = Conv<pads=[1,1,1,1]>(k, v) g = Tanh(h) }},
                else_branch = e2 () => ({IMAGE} h2) {{ h2 = Neg(k) }}> }},
        else_branch = e () => ({IMAGE} q) {{ [else] q = Conv<pads=[1,1,1,1]>(x, w3) }}>
    y = Identity(b) }}""",
    w=normal(16, 16, 3, 3) / 12, w2=normal(16, 16, 3, 3, seed=2) / 12, w3=normal(16, 16, 3, 3, seed=3) / 12, v=_UNEVEN,
)  # fmt: skip
# So few samples serve both for calibration and for comparison.
FEEDS = [{"x": normal(1, 16, 8, 8, seed=s), "flag": np.array(s > 0), "other": np.array(s > 1)} for s in range(3)]
LAYERS = [
    "outer",
    "choice/then_branch/mild",
    "choice/then_branch/deep/then_branch/loud",
    "choice/else_branch/else",
]
BRANCHES = [{"x": normal(4, 64, seed=s), "flag": np.array(s % 2 == 0)} for s in range(6)]


def worst(**options: Any) -> float:
    found = onnxq.quantize(MODEL, FEEDS, **STATIC, **options).report.worst_sqnr_db
    assert found is not None
    return found


def test_static_layers_in_branches_are_ranked() -> None:
    """Each against the model that has it alone quantized."""
    found = onnxq.sensitivity(MODEL, FEEDS, target=VNNI, method="max", placement="full")
    assert [row.node for row in found.layers] == LAYERS
    for row in found.layers:
        made = onnxq.quantize(MODEL, FEEDS, **STATIC, include=[row.node])
        alone = made.report.worst_sqnr_db
        # `outer` is measured between Q and DQ as written, the others on the kernels: codes may differ by one.
        assert row.effect.sqnr_db == pytest.approx(alone, abs=0.5 if row.node == "outer" else 1e-3), row.node


def test_all_but_one_leaves_one_in_a_branch_in_float() -> None:
    found = onnxq.sensitivity(MODEL, FEEDS, target=VNNI, method="max", placement="full", quantize="all-but")
    assert [row.node for row in found.layers] == LAYERS
    for row in found.layers:
        made = onnxq.quantize(MODEL, FEEDS, **STATIC, exclude=[row.node])
        assert row.effect.sqnr_db == pytest.approx(made.report.worst_sqnr_db, abs=1e-3), row.node


def test_a_layer_in_a_branch_of_a_branch_stays_float_for_a_demand() -> None:
    goal = worst() + 2.0
    made = onnxq.quantize(MODEL, FEEDS, **STATIC, min_sqnr=goal)
    assert made.search is not None and made.search.met, made.report.to_text()
    assert made.report.worst_sqnr_db is not None and made.report.worst_sqnr_db >= goal - 1e-6
    left = set(made.search.float_layers)
    assert left and left <= set(LAYERS)
    kept = {d.node: d for d in made.plan.nodes if d.node in LAYERS}
    assert {name for name, d in kept.items() if d.action is Action.FLOAT and d.rule == "budget"} == left
    weights = {key for key in made.plan.tensors if key.endswith("/v")}
    assert bool(weights) == (LAYERS[2] not in left)
    again = onnxq.quantize(MODEL, FEEDS, **STATIC, exclude=sorted(left))
    assert again.report.worst_sqnr_db == pytest.approx(made.report.worst_sqnr_db, abs=1e-3)


def test_a_demand_out_of_reach_names_layers_in_branches() -> None:
    made = onnxq.quantize(MODEL, FEEDS, **STATIC, min_sqnr=200.0)
    assert made.search is not None and not made.search.met
    assert set(made.search.float_layers) & set(LAYERS[1:])


def test_a_ranking_of_a_model_with_branches_serves_its_search() -> None:
    ranking = onnxq.sensitivity(MODEL, FEEDS, target=VNNI, method="max", placement="full")
    made = onnxq.quantize(MODEL, FEEDS, **STATIC, min_sqnr=worst() + 2.0, ranking=ranking)
    assert made.search is not None and made.search.met
    assert made.search.unranked == ()


def test_dynamic_nodes_in_branches_stay_float_for_a_demand() -> None:
    plain = onnxq.quantize(nested(), BRANCHES, **DYNAMIC)
    outside = onnxq.quantize(nested(), BRANCHES, **DYNAMIC, exclude=["first", "once", "twice"])
    assert plain.report.worst_sqnr_db is not None and outside.report.worst_sqnr_db is not None
    # No choice of nodes outside of the branches is enough.
    made = onnxq.quantize(nested(), BRANCHES, **DYNAMIC, min_sqnr=outside.report.worst_sqnr_db + 1.0)
    assert made.search is not None and made.search.met, made.report.to_text()
    inside = {name for name in made.search.float_layers if name.startswith("choice/")}
    assert inside
    held = {n.name for node in made.model.graph.node for body in bodies(node) for n in body.node}
    assert {name.rpartition("/")[2] for name in inside} <= held
    assert {d.node for d in made.plan.nodes if d.rule == "budget"} == set(made.search.float_layers)


def test_a_model_with_layers_in_branches_alone_is_ranked() -> None:
    model = model_of(
        """(float[4, 64] x, bool flag) => (float[4, 64] y) {
           [choice] y = If (flag) <
               then_branch = t () => (float[4, 64] p) { [yes] p = MatMul(x, w) },
               else_branch = e () => (float[4, 64] q) { [no] q = MatMul(x, v) }> }""",
        w=normal(64, 64, seed=1), v=normal(64, 64, seed=2),
    )  # fmt: skip
    names = ["choice/then_branch/yes", "choice/else_branch/no"]
    for options in (DYNAMIC, {"target": VNNI, "placement": "full"}):
        found = onnxq.sensitivity(model, BRANCHES, **options)
        assert [row.node for row in found.layers] == names
        assert all(20 < row.effect.sqnr_db < 60 for row in found.layers)
