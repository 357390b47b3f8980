"""What a user says about nodes and tensors inside If, Loop and Scan, by the paths that a plan prints."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import ModelProto

import onnxq
from onnxq.api.plan import explain
from onnxq.errors import ConfigError
from onnxq.planning.plan import Action, FromValues, QuantPlan
from tests.e2e.test_control_flow import BOTH, LOOP, NESTED, ORT, SCAN, SQUARE, W, feeds, model
from tests.graphs import model_of, normal

THEN, ELSE = "If_b/then_branch", "If_b/else_branch"
DEEP = f"{THEN}/If_p/then_branch"


def nested() -> ModelProto:
    return model_of(NESTED, w=W, v=normal(16, 16, 3, 3, seed=1) / 12)


def plan(given: ModelProto, **options: Any) -> QuantPlan:
    return onnxq.plan(given, target=ORT, placement="full", **options)


def int8_nodes(made: QuantPlan) -> set[str]:
    return {d.node for d in made.nodes if d.action is Action.INT8 and d.op in ("Conv", "MatMul")}


def changed(one: QuantPlan, other: QuantPlan) -> set[str]:
    """Tensors that two plans see differently."""
    return {key for key in one.tensors.keys() | other.tensors.keys() if one.tensors.get(key) != other.tensors.get(key)}


# ---- overrides -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("override", "tensors"),
    [
        ({"nodes": f"{THEN}/inner", "weight": "uint8"}, {f"{THEN}/v"}),
        ({"nodes": f"{THEN}/*", "weight": "uint8"}, {f"{THEN}/v", f"{THEN}/w"}),
        ({"nodes": r"re:If_b/.*/Conv_\w", "method": "mse"}, {f"{THEN}/l", f"{ELSE}/x"}),
        ({"tensors": f"{ELSE}/x", "range": [-3.0, 3.0]}, {f"{ELSE}/x"}),
        # `w`, `x` and `r` are names outside as well: without a path they mean what is outside.
        ({"tensors": "w", "weight": "uint8"}, {"w"}),
        ({"tensors": "*w", "weight": "uint8"}, {"w", f"{THEN}/w"}),
        ({"tensors": ["x", f"{THEN}/r"], "method": "max"}, {"x", f"{THEN}/r"}),
        ({"nodes": "*", "power_of_two": True, "weight": "uint8"}, None),
    ],
)
def test_an_override_reaches_what_it_names(override: dict[str, Any], tensors: set[str] | None) -> None:
    free, held = plan(model()), plan(model(), overrides=[override])
    expected = {key for key, t in free.tensors.items() if t.uses and t.role.value != "bias"}
    assert changed(free, held) == (expected if tensors is None else tensors)
    assert int8_nodes(held) == int8_nodes(free)


def test_bodies_in_bodies() -> None:
    free = plan(nested())
    held = plan(nested(), overrides=[{"nodes": f"{DEEP}/*", "weight": "uint8"}])
    assert changed(free, held) == {f"{DEEP}/v"}
    held = plan(
        nested(), overrides=[{"nodes": f"{THEN}/*", "weight": "uint8"}, {"tensors": f"{DEEP}/v", "weight": "int8"}]
    )
    assert changed(free, held) == {f"{THEN}/w"}, "`*` reaches deeper, and the later one wins"


def test_ranges_types_and_methods_in_branches_are_those_that_are_written() -> None:
    overrides: list[dict[str, Any]] = [
        {"tensors": f"{THEN}/r", "range": [0.0, 2.0]},
        {"nodes": f"{ELSE}/*", "method": "percentile", "percentile": 90.0},
        {"tensors": f"{THEN}/v", "weight": "uint8", "per_channel": False, "weight_amax": 0.5},
    ]
    result = onnxq.quantize(model(), BOTH, target=ORT, placement="full", method="max", overrides=overrides)
    plain = onnxq.quantize(model(), BOTH, target=ORT, placement="full", method="max")
    assert result.report.engine is not None
    assert {n.precision.value for n in result.report.engine.nodes if n.op == "Conv"} == {"int8"}
    assert f"{THEN}/r" not in result.stats.tensors and f"{THEN}/r" in plain.stats.tensors
    params = result.qparams
    assert float(params[f"{THEN}/r"].scale) == pytest.approx(2.0 / 255, rel=1e-6)  # float32
    assert params[f"{ELSE}/x"].scale < plain.qparams[f"{ELSE}/x"].scale
    assert params["x"].scale == plain.qparams["x"].scale
    assert (params[f"{THEN}/v"].scale.shape, params[f"{THEN}/v"].spec.qtype.name) == ((), "uint8")
    assert float(params[f"{THEN}/v"].scale) == pytest.approx(0.5 / 127, rel=1e-6)  # float32
    assert result.plan.tensors[f"{THEN}/v"].source == FromValues(0.5)


@pytest.mark.parametrize("which", ["loop", "scan"])
def test_bodies_that_are_run_again_and_again(which: str) -> None:
    if which == "loop":
        body, given = "Loop_y/body", model_of(LOOP, **SQUARE, bias=normal(32))
        data = [{"x": normal(2, 32, seed=i), "trips": np.array(2 + i % 3)} for i in range(12)]
    else:
        body, given = "Scan_y/body", model_of(SCAN, **SQUARE)
        data = [{"x": normal(2, 32, seed=i), "seq": normal(5, 2, 32, seed=i + 50)} for i in range(12)]
    result = onnxq.quantize(
        given,
        data,
        target=ORT,
        method="max",
        placement="full",
        overrides=[{"nodes": f"{body}/*", "weight": "uint8"}, {"tensors": f"{body}/h", "range": [-4.0, 4.0]}],
    )
    assert result.report.failed_checks == ()
    weights = {key: t.spec.qtype.name for key, t in result.plan.tensors.items() if t.role.value == "weight"}
    assert {key for key, name in weights.items() if name == "uint8"} == {key for key in weights if key.startswith(body)}
    assert float(result.qparams[f"{body}/h"].scale) == pytest.approx(8.0 / 255, rel=1e-6)  # float32


def test_statistics_serve_a_branch_whose_ranges_are_all_given() -> None:
    """No statistics are needed there, and none are a sign that nothing runs it."""
    overrides = [{"tensors": f"{ELSE}/*", "range": [-4.0, 4.0]}]
    stats = onnxq.calibrate(model(), BOTH, target=ORT, placement="full", overrides=overrides)
    assert not [name for name in stats.tensors if name.startswith(ELSE)]
    result = onnxq.quantize(model(), stats=stats, target=ORT, placement="full", overrides=overrides)
    assert f"{ELSE}/Conv_m" in int8_nodes(result.plan)


@pytest.mark.parametrize("mode", ["dynamic", "weight-only"])
def test_modes_without_calibration(mode: str) -> None:
    given = model_of(LOOP, **SQUARE, bias=normal(32))
    one = {"nodes": "Loop_y/body/*"} | ({"per_channel": False} if mode == "dynamic" else {"weight": "int8"})
    free, held = (onnxq.plan(given, target=ORT, mode=mode, overrides=given_) for given_ in ([], [one]))
    assert changed(free, held) == {"Loop_y/body/w", "Loop_y/body/v"}


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "node": (
        {"nodes": f"{THEN}/iner", "method": "max"},
        f"override of nodes '{THEN}/iner': no node of the model matches '{THEN}/iner'\n"
        f"Hint: did you mean '{THEN}/inner'",
    ),
    "tensor": (
        {"tensors": f"{ELSE}/xx", "method": "max"},
        f"override of tensors '{ELSE}/xx': no quantized tensor of the model matches '{ELSE}/xx'\n"
        f"Hint: did you mean '{ELSE}/x'",
    ),
    "tensor without a pair": (
        {"tensors": f"{THEN}/k", "method": "max"},
        f"override of tensors '{THEN}/k': tensor '{THEN}/k' is not quantized\nHint: `onnxq plan MODEL --tensors` lists "
        "what is; a tensor is quantized where a quantized node touches it",
    ),
    "range of a weight": (
        {"tensors": f"{THEN}/w", "range": [0.0, 1.0]},
        f"override of tensors '{THEN}/w': what it names holds no activation that {ORT} quantizes, so range changes "
        "nothing\nHint: `onnxq plan MODEL --tensors` lists what is quantized",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_names_that_mean_nothing(case: str) -> None:
    given, message = WRONG[case]
    with pytest.raises(ConfigError) as error:
        plan(model(), overrides=[given])
    assert str(error.value).startswith(message)


def test_a_form_that_a_weight_in_a_body_cannot_have() -> None:
    given = model_of(
        """(float[2,4,16] x, bool c) => (float[2,4,16] y) { y = If (c) <
        then_branch = a () => (float[2,4,16] p) { p = MatMul(x, w) },
        else_branch = b () => (float[2,4,16] q) { q = Neg(x) } > }""",
        w=normal(2, 16, 16),
    )
    with pytest.raises(ConfigError, match="cannot have a scale for each channel here") as error:
        plan(given, overrides=[{"tensors": "*w", "per_channel": True}])
    assert error.value.where == "override of tensors '*w', in If_y/then_branch"


# ---- which nodes ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "nodes"),
    [
        ({"include": [f"{THEN}/inner"]}, {f"{THEN}/inner"}),
        ({"include": ["If_b"]}, {f"{THEN}/inner", f"{THEN}/Conv_p", f"{ELSE}/Conv_m"}),
        ({"include": ["If_b"], "exclude": [f"{ELSE}/*"]}, {f"{THEN}/inner", f"{THEN}/Conv_p"}),
        ({"include_between": [("x", "r")]}, {"Conv_a"}),
        ({"include_between": [("r", "b")]}, {f"{THEN}/inner", f"{THEN}/Conv_p", f"{ELSE}/Conv_m"}),
        ({"include_between": [f"{THEN}/r:{THEN}/l"]}, {f"{THEN}/inner"}),
        ({"exclude_between": [f"{THEN}/r:{THEN}/l"]}, {"Conv_a", "Conv_y", f"{THEN}/Conv_p", f"{ELSE}/Conv_m"}),
        ({"exclude_between": [("r", "b")]}, {"Conv_a", "Conv_y"}),
        ({"include": ["Conv_a"]}, {"Conv_a"}),
    ],
)  # fmt: skip
def test_nodes_in_branches_are_chosen(options: dict[str, Any], nodes: set[str]) -> None:
    assert int8_nodes(plan(model(), **options)) == nodes


def test_what_is_between_must_lie_in_one_graph() -> None:
    with pytest.raises(ConfigError, match=f"tensors 'x' and '{THEN}/l' lie in different graphs"):
        plan(model(), exclude_between=[("x", f"{THEN}/l")])
    with pytest.raises(ConfigError, match=f"no path leads from tensor '{THEN}/l' to tensor '{THEN}/k'.*\n.*swap them"):
        plan(model(), exclude_between=[("If_b/then_branch/l", f"{THEN}/k")])
    with pytest.raises(ConfigError, match=f"no tensor of the model matches '{THEN}/z'"):
        plan(model(), exclude_between=[(f"{THEN}/l", f"{THEN}/z")])


def test_a_node_of_a_branch_that_was_folded_is_named_as_such() -> None:
    given = model_of(
        """(float[N,16,8,8] x, bool c) => (float[N,16,8,8] y) { y = If (c) <
        then_branch = a () => (float[N,16,8,8] p) { k = Conv<pads=[1,1,1,1]>(x, w)
            [norm] p = BatchNormalization(k, s, o, o, s) },
        else_branch = b () => (float[N,16,8,8] q) { q = Neg(x) } > }""",
        w=W, s=np.ones(16, np.float32), o=np.zeros(16, np.float32),
    )  # fmt: skip
    with pytest.raises(ConfigError, match="'If_y/then_branch/norm' is not there any more: it was folded"):
        plan(given, exclude=["If_y/then_branch/norm"])


def test_a_plan_lists_the_tensors_of_branches() -> None:
    _, rows = explain(nested(), target=ORT, placement="full")
    deep = next(row for row in rows.tensors if row.tensor == f"{DEEP}/v")
    assert (deep.readers, len(deep.scale)) == ((f"{DEEP}/Conv_g",), 16)
    bias = next(row for row in rows.tensors if row.role == "bias" and row.tensor.startswith(DEEP))
    assert bias.source == f"derived from '{DEEP}/k' and '{DEEP}/v'"


def test_scales_of_a_plan_come_from_statistics_in_branches_too() -> None:
    given = [row for flag in (True, False) for row in feeds(flag, other=True)]
    stats = onnxq.calibrate(nested(), given, target=ORT, placement="full")
    _, rows = explain(nested(), target=ORT, placement="full", stats=stats)
    assert {row.tensor: len(row.scale) for row in rows.tensors if row.role == "activation"}[f"{DEEP}/k"] == 1
