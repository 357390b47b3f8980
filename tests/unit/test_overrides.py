"""Types, methods and ranges of single nodes and tensors."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import onnxq
from onnxq.calibration.methods import method_from_name
from onnxq.calibration.solve import ranges_from_stats, solve
from onnxq.calibration.statistics.table import StatsTable, TensorStats
from onnxq.errors import ConfigError
from onnxq.planning.options import PlanOptions
from onnxq.planning.overrides import Override, override_of
from onnxq.planning.plan import Fixed, Observed, QuantPlan
from onnxq.targets import TARGETS
from tests.graphs import graph_of, model_of, normal
from tests.planned import planned, tensors

W = normal(16, 16, 3, 3)
MAX = method_from_name("max")

CHAIN = """(float[N,16,8,8] x) => (float[N,16,4,4] y) {
    [one] a = Conv<pads=[1,1,1,1]>(x, w, b)
    [relu] r = Relu(a)
    [pool] p = MaxPool<kernel_shape=[2,2], strides=[2,2]>(r)
    [two] y = Conv<pads=[1,1,1,1]>(p, v, b)
    }"""
FORK = """(float[N,16,8,8] x) => (float[N,16,8,8] y, float[N,16,8,8] z) {
    [left] a = Conv<pads=[1,1,1,1]>(x, w)
    [right] b = Conv<pads=[1,1,1,1]>(x, w)
    [join] c = Concat<axis=1>(a, b)
    [use] y = Conv<pads=[1,1,1,1]>(c, v)
    [again] z = Conv<pads=[1,1,1,1]>(a, u)
    }"""
CONSTANTS: dict[str, Any] = {"w": W, "v": normal(16, 16, 3, 3, seed=1), "b": normal(16, seed=2)}
FORK_CONSTANTS: dict[str, Any] = {"w": W, "v": normal(16, 32, 3, 3, seed=1), "u": normal(16, 16, 3, 3, seed=3)}


def chain(*overrides: Override, target: str = "ort-x64-vnni") -> QuantPlan:
    return planned(CHAIN, target=target, options=PlanOptions(placement="full", overrides=overrides), **CONSTANTS)


# ---- what an override changes --------------------------------------------------------------------------------------


def test_a_range_takes_the_place_of_statistics() -> None:
    plan = chain(Override(tensors="x", range=[-1.0, 2.0]))
    assert plan.tensors["x"].source == Fixed(-1.0, 2.0)
    assert "x" not in plan.observed()
    assert "x u8 fixed[-1,2] -> one.0" in tensors(plan)


def test_a_range_is_cut_to_what_the_graph_lets_through() -> None:
    """Codes below zero behind a Relu would keep onnxruntime from taking the Relu into the Conv (C5)."""
    plan = chain(Override(tensors="r", range=[-3.0, 6.0]))
    stats = StatsTable(tensors={"x": TensorStats.of([1.0]), "y": TensorStats.of([1.0])}, digest="test", samples=1)
    params = solve(graph_of(CHAIN, **CONSTANTS), plan, stats, MAX, TARGETS["ort-x64-vnni"])
    assert int(params["r"].zero_point) == 0
    assert float(params["r"].scale) == pytest.approx(6.0 / 255, rel=1e-6)  # float32


def test_a_method_of_its_own() -> None:
    plan = chain(Override(tensors="x", method="percentile", percentile=90.0))
    assert plan.tensors["x"].method == method_from_name("percentile", percentile=90.0)
    values = np.linspace(0.0, 1.0, 10_001)
    stats = StatsTable(tensors={name: TensorStats.of(values) for name in plan.observed()}, digest="test", samples=1)
    ranges = ranges_from_stats(plan, stats, MAX).ranges
    assert float(ranges["x"].rmax) == pytest.approx(0.9, abs=1e-3)  # a bin is 2^-10 wide
    assert float(ranges["y"].rmax) == 1.0


def test_a_node_means_what_it_reads() -> None:
    plan = chain(Override(nodes="two", method="mse", per_channel=False))
    assert [name for name, t in plan.tensors.items() if t.method is not None] == ["r"]
    assert plan.tensors["v"].spec.axis is None
    assert plan.tensors["w"].spec.axis == 0
    # Its bias has one scale then, too.
    assert plan.tensors["b@two"].spec.axis is None
    assert plan.tensors["b"].spec.axis == 0


def test_types_that_the_target_takes() -> None:
    plan = chain(Override(nodes="*", weight="uint8"))
    assert {t.spec.qtype.name for t in plan.tensors.values() if t.role.value == "weight"} == {"uint8"}
    plan = chain(Override(tensors="x", activation="int8"), target="openvino")
    assert plan.tensors["x"].spec.qtype.name == "int8"
    assert plan.tensors["p"].spec.qtype.name == "uint8"


def test_later_overrides_win() -> None:
    first, second = Override(nodes="*", method="mse"), Override(tensors="x", range=[0.0, 1.0])
    assert isinstance(chain(first, second).tensors["x"].source, Fixed)
    assert isinstance(chain(second, first).tensors["x"].source, Observed)
    everywhere, except_one = Override(nodes="*", per_channel=False), Override(nodes="one", per_channel=True)
    plan = chain(everywhere, except_one)
    assert (plan.tensors["w"].spec.axis, plan.tensors["v"].spec.axis) == (0, None)


# ---- sharing -------------------------------------------------------------------------------------------------------


def test_what_only_moves_codes_shares_an_override() -> None:
    plan = chain(Override(tensors="p", range=[0.0, 2.0]))
    assert tensors(plan)[1:3] == ["r u8 fixed[0,2] -> pool.0", "p u8 =r -> two.0"]
    assert plan.notes == ("the override of tensors 'p' also holds for 1 tensor that must share parameters, first 'r'",)


def test_a_group_shares_an_override() -> None:
    options = PlanOptions(placement="full", overrides=(Override(tensors="a", range=[-1.0, 1.0]),))
    plan = planned(FORK, target="tensorrt", options=options, **FORK_CONSTANTS)
    assert [t.source for name, t in plan.tensors.items() if name in ("a", "c")] == [Fixed(-1.0, 1.0)] * 2
    assert plan.notes == ("the override of tensors 'a' also holds for 1 tensor that must share parameters, first 'c'",)
    assert plan.families() == {"a": "c", "c": "c"} or plan.families() == {"a": "a", "c": "a"}


def test_a_weight_of_two_nodes_shares_an_override() -> None:
    options = PlanOptions(placement="full", overrides=(Override(nodes="left", per_channel=False),))
    plan = planned(FORK, target="tensorrt", options=options, **FORK_CONSTANTS)
    assert plan.tensors["w"].spec.axis is None
    assert plan.notes == ("the override of nodes 'left' also holds for node 'right', which reads weight 'w' too",)


def test_two_overrides_of_one_group_leave_one_range() -> None:
    options = PlanOptions(
        placement="full", overrides=(Override(tensors="a", range=[-1.0, 1.0]), Override(tensors="c", range=[-2.0, 2.0]))
    )
    plan = planned(FORK, target="tensorrt", options=options, **FORK_CONSTANTS)
    assert {plan.tensors[name].source for name in ("a", "c")} == {Fixed(-2.0, 2.0)}


# ---- what is refused -----------------------------------------------------------------------------------------------

WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "unknown key": (
        {"nodes": "*", "metod": "max"},
        "override 1: unknown key 'metod'\nHint: did you mean 'method'?",
    ),
    "strange key": (
        {"nodes": "*", "zzz": 1},
        "override 1: unknown key 'zzz'\nHint: known keys: nodes, tensors, activation, weight, per_channel, method, "
        "percentile, range, amax, weight_amax, activation_bits, weight_bits, symmetric, narrow_range, power_of_two, "
        "block_size, rounding",
    ),
    "about nothing": (
        {"method": "max"},
        "override 1: it says neither nodes nor tensors\nHint: add nodes = \"/head/*\"",
    ),
    "changes nothing": (
        {"nodes": "*"},
        "override 1 (override of nodes '*'): it changes nothing\nHint: add one of activation, weight, per_channel, "
        "method, percentile, range, amax, weight_amax, activation_bits, weight_bits, symmetric, narrow_range, "
        "power_of_two, block_size, rounding",
    ),
    "method": (
        {"nodes": "*", "method": "maxx"},
        "override 1 (override of nodes '*'): unknown calibration method 'maxx'; known: auto, entropy, max, mse, "
        "percentile, moving-average\nHint: did you mean 'max'? pass method= (--method)",
    ),
    "moving average": (
        {"nodes": "*", "method": "moving-average"},
        "override 1 (override of nodes '*'): a moving average is the method of a whole run, not of one tensor\n"
        "Hint: choose max, percentile, entropy, mse or auto",
    ),
    "percentile of another method": (
        {"nodes": "*", "method": "max", "percentile": 99.0},
        "override 1 (override of nodes '*'): percentile=99.0 (--percentile) has no meaning for the method 'max'\n"
        "Hint: pass method='percentile' (--method percentile), or leave percentile= (--percentile) out",
    ),
    "range and method": (
        {"nodes": "*", "range": [0, 1], "method": "max"},
        "override 1 (override of nodes '*'): range leaves nothing for a method to choose\nHint: drop one",
    ),
    "range the wrong way round": (
        {"tensors": ["x"], "range": [1, 0]},
        "override 1 (override of tensors 'x'): range is [1, 0], expected two finite numbers, the smaller first\n"
        "Hint: write range = [-1.0, 1.0]",
    ),
    "range of text": (
        {"tensors": ["x"], "range": "01"},
        "override 1 (override of tensors 'x'): range is '01', expected two finite numbers, the smaller first\n"
        "Hint: write range = [-1.0, 1.0]",
    ),
    "nodes that are none": (
        {"nodes": 3, "method": "max"},
        "override 1: nodes is 3, expected a pattern or a list of them",
    ),
    "per channel": (
        {"nodes": "*", "per_channel": 1},
        "override 1 (override of nodes '*'): per_channel is 1, expected true or false",
    ),
    "type that is none": (
        {"nodes": "*", "weight": 8},
        "override 1 (override of nodes '*'): weight is 8, expected a type such as 'int8'",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_tables_that_say_nothing_sensible(case: str) -> None:
    given, message = WRONG[case]
    with pytest.raises(ConfigError) as error:
        override_of(given, 1)
    assert str(error.value) == message


def test_what_is_no_table() -> None:
    with pytest.raises(ConfigError, match="override 2: it is 'x', expected a table"):
        override_of("x", 2)  # type: ignore[arg-type]


def test_dashes_are_underscores() -> None:
    assert override_of({"nodes": "a", "per-channel": False}, 1) == Override(nodes="a", per_channel=False)


MISPLACED: dict[str, tuple[Override, str, str]] = {
    "type": (
        Override(nodes="*", weight="int4"),
        "ort-x64-vnni",
        "override of nodes '*': ort-x64-vnni takes no weights of type 'int4'\nHint: it takes int8 or int16 or uint8",
    ),
    "type of activations": (
        Override(nodes="*", activation="uint8"),
        "tensorrt",
        "override of nodes '*': tensorrt takes no activations of type 'uint8'\nHint: it takes int8 or float8e4m3fn",
    ),
    "node": (
        Override(nodes="tow", method="max"),
        "ort-x64-vnni",
        "override of nodes 'tow': no node of the model matches 'tow'\nHint: did you mean 'two'?",
    ),
    "tensor": (
        Override(tensors="xx*", method="max"),
        "ort-x64-vnni",
        "override of tensors 'xx*': no quantized tensor of the model matches 'xx*'\n"
        "Hint: `onnxq plan MODEL --tensors` lists them",
    ),
    "tensor without a pair": (
        Override(tensors="a", method="max"),
        "ort-x64-vnni",
        "override of tensors 'a': tensor 'a' is not quantized\nHint: `onnxq plan MODEL --tensors` lists what is; a "
        "tensor is quantized where a quantized node touches it",
    ),
    "range of a weight": (
        Override(tensors="w", range=[0, 1]),
        "ort-x64-vnni",
        "override of tensors 'w': what it names holds no activation that ort-x64-vnni quantizes, so range changes "
        "nothing\nHint: `onnxq plan MODEL --tensors` lists what is quantized",
    ),
    "type of what is no weight": (
        Override(tensors="x", weight="uint8"),
        "ort-x64-vnni",
        "override of tensors 'x': what it names holds no weight that ort-x64-vnni quantizes, so weight changes "
        "nothing\nHint: `onnxq plan MODEL --tensors` lists what is quantized",
    ),
}


@pytest.mark.parametrize("case", MISPLACED)
def test_overrides_that_do_not_fit_the_plan(case: str) -> None:
    override, target, message = MISPLACED[case]
    with pytest.raises(ConfigError) as error:
        chain(override, target=target)
    assert str(error.value) == message


def test_channels_where_there_can_be_none() -> None:
    text = "(float[N,4,16] x) => (float[N,4,16] y) { [mm] y = MatMul(x, w) }"
    options = PlanOptions(placement="full", overrides=(Override(tensors="w", per_channel=True),))
    with pytest.raises(ConfigError, match="weight 'w' cannot have a scale for each channel here"):
        planned(text, options=options, w=normal(4, 16, 16))


# ---- through the public functions ----------------------------------------------------------------------------------

MODEL = model_of(CHAIN, **CONSTANTS)
DATA = [{"x": normal(1, 16, 8, 8, seed=seed)} for seed in range(8)]


@pytest.mark.parametrize("target", ["ort-x64-vnni", "ort-x64-avx2", "tensorrt", "openvino"])
def test_quantize_with_overrides_passes_its_checks(target: str) -> None:
    result = onnxq.quantize(
        MODEL,
        DATA,
        target=target,
        placement="full",
        overrides=[
            {"tensors": "x", "range": [-2.0, 2.0]},
            onnxq.Override(nodes="two", method="mse", per_channel=False),
        ],
    )
    assert result.report, result.report.to_text()
    sources = {row.name: row.source for row in result.report.tensors}
    assert sources["x"] == "fixed to [-2, 2]"
    assert "x" not in result.stats.tensors
    # int8 symmetric: 2 / 127 or 2 / 127 (255 codes over [-2, 2] less one); uint8: 4 / 255.
    assert float(result.qparams["x"].scale) == pytest.approx(4.0 / 255, rel=0.01)
    assert result.qparams["v"].scale.shape == ()


@pytest.mark.parametrize(
    ("target", "change"),
    [
        ("ort-x64-vnni", {"weight": "uint8"}),
        ("ort-x64-avx2", {"weight": "uint8"}),
        ("openvino", {"activation": "int8"}),
    ],
)
def test_types_that_tables_offer_run_in_int8(target: str, change: dict[str, str]) -> None:
    """Asks the engine: a type that kept nodes in float would not belong into the table."""
    if target == "openvino":
        pytest.importorskip("openvino")
    result = onnxq.quantize(MODEL, DATA, target=target, placement="full", overrides=[{"nodes": "*", **change}])
    assert result.report.engine is not None
    assert {n.precision.value for n in result.report.engine.nodes if n.op == "Conv"} == {"int8"}
    assert result.report, result.report.to_text()


def test_ranges_alone_need_no_statistics() -> None:
    plan = onnxq.plan(MODEL, target="ort-x64-vnni", overrides=[{"tensors": "*", "range": [-3.0, 3.0]}])
    assert plan.observed() == ()
    result = onnxq.quantize(MODEL, DATA, target="ort-x64-vnni", overrides=[{"tensors": "re:[xrpy]", "range": [-9, 9]}])
    assert len(result.stats) == 0
    # Most of y lies outside: that is what fails, and nothing else.
    assert [check.name for check in result.report.failed_checks] == ["outputs follow the float model's"]


def test_a_method_of_its_own_needs_statistics() -> None:
    with pytest.raises(
        ConfigError, match="tensor 'x' has a method of its own, but the ranges come from a moving average"
    ):
        onnxq.quantize(MODEL, DATA, method="moving-average", overrides=[{"tensors": "x", "method": "max"}])


def test_statistics_serve_any_overrides_of_methods() -> None:
    stats = onnxq.calibrate(MODEL, DATA, target="ort-x64-vnni")
    one = onnxq.quantize(MODEL, DATA, stats=stats, target="ort-x64-vnni", method="max")
    other = onnxq.quantize(
        MODEL, DATA, stats=stats, target="ort-x64-vnni", overrides=[{"nodes": "*", "method": "max"}], method="entropy"
    )
    # The output of the last Conv is read by no node: it keeps the run's method.
    assert float(one.qparams["x"].scale) == float(other.qparams["x"].scale)
    assert float(one.qparams["y"].scale) != float(other.qparams["y"].scale)


def test_symmetric_behind_a_relu_is_told_to_keep_onnxruntime_from_int8() -> None:
    one = {"nodes": "*", "symmetric": True}
    told = "symmetric behind a Relu or Clip, first "
    result = onnxq.quantize(MODEL, DATA, target="ort-x64-vnni", overrides=[one])
    assert any(told in note for note in result.report.notes), result.report.notes
    assert not result.report.passed, "the engine says so, too"
    assert not any(told in note for note in onnxq.plan(MODEL, target="tensorrt", overrides=[one]).notes)


def test_one_override_needs_no_list() -> None:
    one = {"tensors": "x", "amax": 2.0}
    assert PlanOptions.of({"overrides": one}) == PlanOptions.of({"overrides": [one]})
    assert PlanOptions.of({"overrides": Override(**one)}) == PlanOptions.of({"overrides": [one]})
