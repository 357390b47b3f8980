"""From plans and statistics to parameters, each expected value computed by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from onnxq.calibration.methods import method_from_name, solve_range
from onnxq.calibration.solve import constant_values, ranges_from_stats, solve, sound_range
from onnxq.calibration.statistics.table import StatsTable, TensorStats
from onnxq.errors import ArtifactError, DataError, InternalError, ModelError
from onnxq.graph.view import Graph, Use
from onnxq.numerics.arrays import quantize
from onnxq.numerics.blocks import range_of_values
from onnxq.numerics.qparams import QuantParams
from onnxq.numerics.qtypes import INT8, UINT8
from onnxq.numerics.specs import QuantSpec
from onnxq.planning.plan import Fixed, Observed, QuantPlan, Role, SharedWith, Source, TensorPlan
from onnxq.targets import TARGETS
from tests.graphs import graph_of, normal
from tests.planned import ORT, planned

MAX = method_from_name("max")


def solved(
    text: str, seen: dict[str, Any], *, target: str = ORT, method: str = "max", **constants: Any
) -> dict[str, QuantParams]:
    """Parameters of a graph given as text; `seen` are the values that calibration saw."""
    graph = graph_of(text, **constants)
    plan = planned(graph, target=target)
    stats = StatsTable(tensors={k: TensorStats.of(np.float32(v)) for k, v in seen.items()}, digest="test", samples=1)
    return dict(solve(graph, plan, stats, method_from_name(method), TARGETS[target]))


CHAIN = """(float[N,2,8,8] x) => (float[N,2,8,8] y) {
    [c1] a = Conv(x, w, b)
    [r] ar = Relu(a)
    [c2] y = Conv(ar, w)
    }"""
WEIGHT = np.float32([[1.27, -0.5], [0.0, 0.0]]).reshape(2, 2, 1, 1)


def test_scales_and_zero_points() -> None:
    table = solved(CHAIN, {"x": [-1.0, 1.55], "ar": [0.0, 5.1], "y": [-2.55, 0.0]}, w=WEIGHT, b=np.float32([0.5, 0.25]))
    assert list(table) == ["x", "ar", "y", "w", "b"]
    np.testing.assert_allclose(table["x"].scale, 0.01, rtol=1e-6)
    np.testing.assert_allclose(table["ar"].scale, 0.02, rtol=1e-6)
    assert [int(table[k].zero_point) for k in ("x", "ar", "y")] == [100, 0, 255]
    # A dead channel gets the scale 1, never 0 (R4, C14b), and its zero-point is that of all others.
    np.testing.assert_allclose(table["w"].scale, [0.01, 1.0], rtol=1e-6)
    assert table["w"].zero_point.tolist() == [0, 0]
    np.testing.assert_array_equal(table["b"].scale, table["x"].scale * table["w"].scale)
    assert table["b"].zero_point.tolist() == [0, 0]
    assert table["b"].spec.axis == 0


def test_relu_floor_holds_though_statistics_go_below() -> None:
    table = solved(CHAIN, {"x": [1.0], "ar": [-3.0, 5.1], "y": [1.0]}, w=WEIGHT, b=np.float32([0, 0]))
    assert int(table["ar"].zero_point) == 0
    np.testing.assert_allclose(table["ar"].scale, 0.02, rtol=1e-6)


RELU6 = """(float[N,2,8,8] x) => (float[N,2,8,8] y) {
    [c1] a = Conv(x, w)
    [clip] ac = Clip(a, zero, limit)
    [c2] y = Conv(ac, w)
    }"""


@pytest.mark.parametrize("limit", [6.0, 1.0, 0.7, 1e-3, 123.456, 3e38, np.inf])
@pytest.mark.parametrize("peak", [0.0, 0.3, 6.0, 50.0])
@pytest.mark.parametrize("method", ["max", "auto"])
def test_largest_code_is_never_above_the_clip(limit: float, peak: float, method: str) -> None:
    """C5: onnxruntime keeps the Clip, and its Conv in float, if 255 * scale exceeds the limit by one rounding.

    A dead tensor (peak 0) has the scale 1 by default, which is far above 6/255 and was walked down one float at a time.
    """
    seen = {"x": [1.0], "ac": [0.0, min(peak, limit)], "y": [1.0]}
    table = solved(RELU6, seen, method=method, w=WEIGHT, zero=np.float32(0), limit=np.float32(limit))
    assert np.float32(255) * table["ac"].scale <= np.float32(limit)
    assert int(table["ac"].zero_point) == 0
    if peak >= limit and method == "max":
        np.testing.assert_allclose(table["ac"].scale, limit / 255, rtol=1e-6)


@pytest.mark.parametrize(("low", "high"), [(-6.0, 0.0), (-6.0, -1.0), (0.0, 0.0), (-1.0, 6.0), (1.0, 2.0)])
@pytest.mark.parametrize("dead", [True, False])
def test_clips_that_no_code_range_replaces_are_solved_too(low: float, high: float, dead: bool) -> None:
    seen = {"x": [1.0], "a": [1.0], "ac": [0.0] if dead else [low, high], "y": [1.0]}
    table = solved(RELU6, seen, w=WEIGHT, zero=np.float32(low), limit=np.float32(high))
    assert float(table["ac"].scale) > 0


@pytest.mark.parametrize("method", ["auto", "max", "mse"])
def test_scores_that_calibration_never_saw_are_within_reach(method: str) -> None:
    text = """(float[N,2,8,8] x) => (float[N,2,8,8] y) {
        [c1] a = Conv(x, w)
        [c2] b = Conv(a, w)
        [s] y = Sigmoid(b)
        }"""
    seen = {"x": [-1.0, 1.0], "a": [-1.0, 1.0], "b": [-14.0, -2.0], "y": [0.0, 0.1]}
    codes = solved(text, seen, method=method, w=WEIGHT)["b"]
    step, zero = float(codes.scale), int(codes.zero_point)
    assert (255 - zero) * step >= 4.0 - step / 2


def test_pool_has_the_parameters_of_its_input() -> None:
    table = solved(
        """(float[N,2,8,8] x) => (float[N,2,2,2] y) {
        [c1] a = Conv(x, w)
        [p1] p = MaxPool<kernel_shape=[2,2],strides=[2,2]>(a)
        [p2] q = MaxPool<kernel_shape=[2,2],strides=[2,2]>(p)
        [c2] y = Conv(q, w)
        }""",
        {"x": [1.0], "a": [-1.0, 2.0], "y": [1.0]},
        w=WEIGHT,
    )
    assert table["a"] is table["p"] is table["q"]


CONCAT = """(float[N,16,8,8] x) => (float[N,16,8,8] y, float[N,16,8,8] z) {
    [c1] a = Conv<pads=[1,1,1,1]>(x, w)
    [r] ar = Relu(a)
    [c2] b = Conv<pads=[1,1,1,1]>(x, w)
    [cat] d = Concat<axis=1>(b, ar)
    [c3] y = Conv<pads=[1,1,1,1]>(d, v)
    [c4] z = Conv<pads=[1,1,1,1]>(ar, w)
    }"""


@pytest.mark.parametrize("method", ["max", "percentile", "entropy", "mse", "auto"])
def test_group_has_one_scale_from_merged_statistics(method: str) -> None:
    """R25, where the widest value is negative and one member of the group stands behind a Relu."""
    table = solved(
        CONCAT,
        {"x": [1.0], "ar": np.linspace(0, 1, 500), "d": np.linspace(-12.7, 1, 500)},
        target="tensorrt",
        method=method,
        w=normal(16, 16, 3, 3),
        v=normal(16, 32, 3, 3),
    )
    assert table["ar"].scale == table["d"].scale
    if method == "max":
        np.testing.assert_allclose(table["d"].scale, 0.1, rtol=1e-6)


def test_group_does_not_depend_on_which_member_saw_the_peak() -> None:
    seen = {"x": [1.0], "ar": [0.0, 12.7], "d": [-1.0, 1.0]}
    table = solved(CONCAT, seen, target="tensorrt", w=normal(16, 16, 3, 3), v=normal(16, 32, 3, 3))
    np.testing.assert_allclose([table["ar"].scale, table["d"].scale], 0.1, rtol=1e-6)


def test_bias_too_large_for_int32_widens_its_channel() -> None:
    """|bias| <= 2^30 * x_scale * w_scale; 2.0 needs w_scale = 0.0475, not 7.9e-10; 0.25 needs 0.006 and has 0.01."""
    weight = np.float32([[1e-7, 0], [1.27, 0.5]]).reshape(2, 2, 1, 1)
    bias = np.float32([2.0, 0.25])
    table = solved(CHAIN, {"x": [0.0, 1e-5], "ar": [1.0], "y": [1.0]}, w=weight, b=bias)
    x_scale = float(table["x"].scale)
    np.testing.assert_allclose(table["w"].scale, [2.0 / (2.0**30 * x_scale), 0.01], rtol=1e-5)
    codes = quantize(bias, table["b"])
    # Within one float32 rounding of 2^30, and far from int32's end.
    np.testing.assert_allclose(codes[0], 2.0**30, rtol=1e-6)
    np.testing.assert_allclose(codes * (x_scale * table["w"].scale.astype(np.float64)), bias, rtol=1e-6)


def test_bias_of_a_per_tensor_weight_widens_all_of_it() -> None:
    table = solved(
        "(float[4,2] x) => (float[4,2] y) { [m] y = Gemm(x, w, b) }",
        {"x": [0.0, 1e-5], "y": [0.0, 2.0]},
        target="qnn",
        w=np.full((2, 2), 1e-7, np.float32),
        b=np.float32([2.0, 0.5]),
    )
    assert table["w"].scale.shape == ()
    np.testing.assert_allclose(table["w"].scale, 2.0 / (2.0**30 * float(table["x"].scale)), rtol=1e-5)
    assert table["b"].spec.axis is None


def test_shared_bias_is_derived_for_each_node() -> None:
    table = solved(
        "(float[N,2,8,8] x) => (float[N,2,8,8] y) { [c1] a = Conv(x, w, b) [c2] y = Conv(a, w, b) }",
        {"x": [0.0, 2.55], "a": [0.0, 25.5], "y": [1.0]},
        w=WEIGHT,
        b=np.float32([1, 1]),
    )
    np.testing.assert_allclose(table["b@c2"].scale, 10 * table["b"].scale, rtol=1e-6)


def test_constant_operand_takes_its_own_range() -> None:
    table = solved(
        """(float[N,2,8,8] x) => (float[N,2,8,8] y) {
        [c1] a = Conv(x, w)
        [add] d = Add(a, three)
        [c2] y = Conv(d, w)
        }""",
        {"x": [1.0], "a": [1.0], "d": [1.0], "y": [1.0]},
        w=WEIGHT,
        three=np.float32(3),
    )
    np.testing.assert_allclose(table["three"].scale, 3 / 255, rtol=1e-6)
    assert int(quantize(np.float32(3), table["three"])) == 255


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", ["w", "b"])
def test_nonfinite_constant_is_refused(value: float, name: str) -> None:
    constants: dict[str, NDArray[Any]] = {"w": WEIGHT.copy(), "b": np.float32([1, 2])}
    constants[name].reshape(-1)[1] = value
    with pytest.raises(ModelError) as error:
        solved(CHAIN, {"x": [1.0], "ar": [1.0], "y": [1.0]}, **constants)
    assert str(error.value) == (
        f"initializer {name!r}: holds NaN or Inf, which no integer can stand for\n"
        "Hint: keep the nodes that read it in float: exclude=(...) (--exclude NAME)"
    )


def test_missing_statistics_are_refused() -> None:
    with pytest.raises(ArtifactError) as error:
        solved(CHAIN, {"y": [1.0]}, w=WEIGHT, b=np.float32([1, 2]))
    assert str(error.value) == (
        "the statistics lack 2 of the tensors that ort-x64-vnni quantizes, first 'x'\n"
        "Hint: calibrate for the same target: onnxq.calibrate(..., target=...) (onnxq calibrate --target)"
    )


def test_a_tensor_of_which_nothing_was_seen_is_named() -> None:
    """As a cache is that is empty in every sample."""
    with pytest.raises(DataError) as error:
        solved(CHAIN, {"x": [1.0], "ar": [], "y": [1.0]}, w=WEIGHT, b=np.float32([1, 2]))
    assert str(error.value) == (
        "tensor 'ar': no finite value was observed (0 elements seen), so no range can be solved\n"
        "Hint: give calibration data that reaches this tensor: data= (--data); or its range: overrides= "
        """(--override 'tensors = "ar", range = [-1, 1]')"""
    )


def test_statistics_of_more_tensors_are_welcome() -> None:
    seen = {"x": [1.0], "ar": [1.0], "y": [1.0], "other": [9.0]}
    assert "other" not in solved(CHAIN, seen, w=WEIGHT, b=np.float32([1, 2]))


def plan_of(**sources: Source) -> QuantPlan:
    spec = QuantSpec(qtype=UINT8, symmetric=False)
    tensors = {
        name: TensorPlan(name=name, role=Role.ACTIVATION, spec=spec, source=source, uses=(Use("n", 0),))
        for name, source in sources.items()
    }
    return QuantPlan(target=ORT, opset=13, tensors=tensors, nodes=(), digest="test")


def test_fixed_and_shared_sources() -> None:
    plan = plan_of(a=SharedWith("b"), b=SharedWith("c"), c=Fixed(-1.0, 1.55))
    table = solve(_graph(), plan, StatsTable(tensors={}, digest="test", samples=0), MAX, TARGETS[ORT])
    assert table["a"] is table["b"] is table["c"]
    assert int(table["c"].zero_point) == 100


def test_ring_of_shared_sources_is_a_bug() -> None:
    plan = plan_of(a=SharedWith("b"), b=SharedWith("a"))
    with pytest.raises(InternalError, match="tensor 'a' shares its parameters with itself"):
        solve(_graph(), plan, StatsTable(tensors={}, digest="test", samples=0), MAX, TARGETS[ORT])


def test_constant_values_of_an_activation_is_a_bug() -> None:
    with pytest.raises(InternalError, match="'x' is not an initializer"):
        constant_values(_graph(), "x")


def _graph() -> Graph:
    return graph_of("(float[2] x) => (float[2] y) { y = Relu(x) }")


def test_range_of_values_for_each_channel() -> None:
    values = np.float32([[1, -2], [3, 4], [0, 0]])
    found = range_of_values(values, QuantSpec(qtype=INT8, symmetric=True, axis=0))
    assert (found.rmin.tolist(), found.rmax.tolist()) == ([-2, 0, 0], [1, 4, 0])
    found = range_of_values(values, QuantSpec(qtype=INT8, symmetric=True, axis=1))
    assert (found.rmin.tolist(), found.rmax.tolist()) == ([0, -2], [3, 4])
    found = range_of_values(values, QuantSpec(qtype=INT8, symmetric=True))
    assert (found.rmin.tolist(), found.rmax.tolist()) == (-2, 4)


def test_observed_is_a_source_without_bounds_by_default() -> None:
    assert Observed() == Observed(lower=None, upper=None)


# ---- weights for kernels that add pairs in int16 (C14) ------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "shape", "channel", "walk"),
    [
        ("(float[N,6,8,8] x) => (float[N,5,6,6] y) { [n] y = Conv(x, w) }", (5, 6, 3, 3), 0, (2, 3, 1)),
        ("(float[N,5,8,8] x) => (float[N,4,6,6] y) { [n] y = Conv(x, w) }", (4, 5, 3, 3), 0, (2, 3, 1)),
        ("(float[N,6,8,8] x) => (float[N,6,6,6] y) { [n] y = Conv<group=2>(x, w) }", (6, 3, 3, 3), 0, (2, 3, 1)),
        ("(float[N,3,8,8] x) => (float[N,6,6,6] y) { [n] y = Conv<group=3>(x, w) }", (6, 1, 3, 3), 0, (2, 3, 1)),
        ("(float[N,6,8] x) => (float[N,5,6] y) { [n] y = Conv(x, w) }", (5, 6, 3), 0, (2, 1)),
        ("(float[N,7] x) => (float[N,5] y) { [n] y = Gemm(x, w) }", (7, 5), 1, (0,)),
        ("(float[N,7] x) => (float[N,5] y) { [n] y = Gemm<transB=1>(x, w) }", (5, 7), 0, (1,)),
        ("(float[N,4,8] x) => (float[N,4,5] y) { [n] y = MatMul(x, w) }", (8, 5), 1, (0,)),
    ],
)
def test_guarded_weights_never_saturate(text: str, shape: tuple[int, ...], channel: int, walk: tuple[int, ...]) -> None:
    """Simulates vpmaddubsw on activations of 255, the worst there are, in the order measured on the kernels."""
    weight = np.abs(normal(*shape)) * np.random.default_rng(3).choice([-1, 1], shape, p=[0.2, 0.8]).astype(np.float32)
    seen = {"x": [0.0, 1.0], "y": [0.0, 1.0]}
    plain = solved(text, seen, w=weight)["w"]
    guarded = solved(text, seen, target="ort-x64-avx2", w=weight)["w"]
    assert _saturates(quantize(weight, plain), channel, walk).any()
    assert not _saturates(quantize(weight, guarded), channel, walk).any()
    kept = ~_saturates(quantize(weight, plain), channel, walk)
    np.testing.assert_array_equal(guarded.scale[kept], plain.scale[kept])
    assert (guarded.scale <= 2 * plain.scale).all()


def test_depthwise_weights_are_not_touched() -> None:
    text = "(float[N,6,8,8] x) => (float[N,6,6,6] y) { [n] y = Conv<group=6>(x, w) }"
    weight, seen = np.ones((6, 1, 3, 3), np.float32), {"x": [1.0], "y": [1.0]}
    plain, guarded = solved(text, seen, w=weight)["w"], solved(text, seen, target="ort-x64-avx2", w=weight)["w"]
    np.testing.assert_array_equal(plain.scale, guarded.scale)


def test_rank_3_weight_is_guarded_in_every_matrix() -> None:
    text = "(float[2,4,4] x) => (float[2,4,3] y) { [n] y = MatMul(x, w) }"
    weight = normal(2, 4, 3) * np.float32(0.1)
    weight[1, 2:, 1] = 1.0
    guarded = solved(text, {"x": [1.0]}, target="ort-x64-avx2", w=weight)["w"]
    assert guarded.scale.shape == ()
    assert quantize(weight, guarded)[1, 2:, 1].tolist() == [64, 64]


def test_weight_shared_by_two_kernels_is_safe_for_both() -> None:
    text = "(float[N,4] x) => (float[N,4] y) { [g1] a = Gemm<transB=1>(x, w) [g2] y = Gemm(a, w) }"
    weight = np.eye(4, dtype=np.float32)
    weight[0, :2] = 1.0
    weight[2:, 3] = 0.9
    guarded = solved(text, {"x": [1.0], "a": [1.0]}, target="ort-x64-avx2", w=weight)["w"]
    codes = quantize(weight, guarded)
    assert not _saturates(codes, 0, (1,)).any()
    assert not _saturates(codes, 1, (0,)).any()


def _saturates(codes: NDArray[Any], channel: int, walk: tuple[int, ...]) -> NDArray[np.bool_]:
    """For each channel, whether 255 * w0 + 255 * w1 leaves int16 for some pair of neighbours, by brute force."""
    rows = np.moveaxis(codes, channel, 0)
    order = [a if a > channel else a + 1 for a in walk]  # axes of `rows`, where the channel has moved to the front
    flat = rows.transpose(0, *order).reshape(rows.shape[0], -1).astype(np.int64)
    found = np.zeros(rows.shape[0], bool)
    for row in range(flat.shape[0]):
        for k in range(0, flat.shape[1] - 1, 2):
            total = 255 * int(flat[row, k]) + 255 * int(flat[row, k + 1])
            found[row] |= not -(2**15) <= total < 2**15
    return found


def test_entropy_does_not_cut_off_what_carries_the_signal() -> None:
    """Values in a narrow band around -1.2: KL ends above all of them."""
    stats = TensorStats.of((0.1 * np.random.default_rng(0).standard_normal(100_000) - 1.2).astype(np.float32))
    spec = TARGETS["ort-x64-vnni"].activation
    entropy = method_from_name("entropy")
    assert float(solve_range(stats, spec, entropy).rmin) > -1
    sound, own = sound_range(stats, spec, entropy, Observed())
    assert (float(sound.rmin), own) == (stats.rmin, False)


@pytest.mark.parametrize("percentile", [60.0, 75.0, 80.0])
def test_a_low_percentile_is_what_the_user_gets(percentile: float) -> None:
    """Cutting off a quarter of the values leaves less than 10 dB, which once made `max` of it."""
    values = np.random.default_rng(0).standard_normal(100_000).astype(np.float32)
    spec = TARGETS["ort-x64-vnni"].activation
    sound, own = sound_range(
        TensorStats.of(values), spec, method_from_name("percentile", percentile=percentile), Observed()
    )
    assert own
    # Within a bin of the histogram: 2048 bins over about 9.
    tail = (100.0 - percentile) / 2
    assert float(sound.rmin) == pytest.approx(np.percentile(values, tail), abs=0.02)
    assert float(sound.rmax) == pytest.approx(np.percentile(values, 100.0 - tail), abs=0.02)


@pytest.mark.parametrize(("method", "replaced"), [("percentile", ("x",)), ("max", ()), ("entropy", ())])
def test_tensors_that_got_max_in_place_of_the_method_are_named(method: str, replaced: tuple[str, ...]) -> None:
    """One element in 100 000 is not zero: no percentile but 100 keeps it."""
    plan = planned(graph_of(CHAIN, w=WEIGHT, b=np.float32([0.5, 0.25])))
    values = np.zeros(100_000, np.float32)
    values[7] = 5.0
    stats = StatsTable(
        tensors={name: TensorStats.of(values if name == "x" else normal(1000)) for name in plan.observed()},
        digest="",
        samples=1,
    )
    found = ranges_from_stats(plan, stats, method_from_name(method))
    assert found.replaced == replaced
    assert float(found.ranges["x"].rmax) == 5.0


@pytest.mark.parametrize("largest", [2.0, 5.3, 9.7, 31.35, 200.0])
def test_what_a_hard_swish_takes_for_zero_stays_zero(largest: float) -> None:
    """The smallest code of its input stands for -3 or less, whatever the zero-point was rounded to."""
    text = """(float[N,16,8,8] x) => (float[N,16,8,8] y) {
        a = Conv(x, w)
        g = HardSigmoid<alpha=0.16666667>(a)
        m = Mul(a, g)
        y = Conv(m, w)
    }"""
    seen = {"x": [-1.0, 1.0], "a": [-20.0, largest], "m": [-0.375, largest], "y": [-1.0, 1.0]}
    params = solved(text, seen, w=normal(16, 16, 1, 1))["a"]
    smallest = np.float32(-int(params.zero_point)) * np.float32(params.scale)  # in float32, as DequantizeLinear
    assert smallest <= -3.0
    # At most half a step wider than asked for.
    assert smallest > -3.0 - 0.51 * params.scale
    assert (255 - int(params.zero_point)) * params.scale >= largest - 0.51 * params.scale


def test_both_ends_of_a_gate_are_reached() -> None:
    text = """(float[N,16,8,8] x) => (float[N,16,8,8] y) {
        a = Conv(x, w)
        g = HardSigmoid(a)
        y = Conv(g, w)
    }"""
    seen = {"x": [-1.0, 1.0], "a": [-20.0, 20.0], "g": [0.0, 1.0], "y": [-1.0, 1.0]}
    params = solved(text, seen, w=normal(16, 16, 1, 1))["a"]
    low, high = (float(np.float32(code - int(params.zero_point)) * np.float32(params.scale)) for code in (0, 255))
    assert low <= -2.5
    assert high >= 2.5
    assert high - low < 5.0 * (1 + 1 / 100)
