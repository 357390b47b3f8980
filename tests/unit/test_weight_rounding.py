"""Codes chosen for the outputs: they are codes, obey the guard, and give smaller errors than rounding to nearest."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from onnxq.calibration.runner import CollectOptions
from onnxq.calibration.solve import solve_from_ranges
from onnxq.graph.view import Graph
from onnxq.numerics.arrays import fake_quantize, quantize
from onnxq.numerics.clipping import clipped_params
from onnxq.numerics.qparams import QuantParams, Range, qparams_from_range
from onnxq.numerics.qtypes import INT8
from onnxq.numerics.specs import QuantSpec
from onnxq.passes.simplify.infer_shapes import InferShapes
from onnxq.planning.options import PlanOptions
from onnxq.planning.plan import QuantPlan
from onnxq.planning.planner import make_plan
from onnxq.recovery.moments import Moments, gather_moments
from onnxq.recovery.patches import sampled_patches, walked, weight_from_rows, weight_rows
from onnxq.recovery.second_order import CodeLimits, round_second_order
from onnxq.recovery.weight_rounding import InputMoments, on_codes, round_weights
from onnxq.targets import TARGETS
from tests.graphs import computed, graph_of, normal
from tests.planned import known
from tests.unit.test_bias_correction import batches_of

CASES: dict[str, tuple[str, tuple[int, ...], tuple[int, ...]]] = {
    "conv": ("Conv<pads=[1,1,1,1]>(x, w, b)", (8, 16, 3, 3), (4, 16, 9, 9)),
    "strided, dilated": ("Conv<strides=[2,1],dilations=[1,2],pads=[0,2,1,1]>(x, w, b)", (8, 16, 3, 2), (4, 16, 9, 9)),
    "grouped": ("Conv<group=4>(x, w, b)", (16, 4, 3, 3), (4, 16, 9, 9)),
    "depthwise": ("Conv<group=16,pads=[1,1,1,1]>(x, w, b)", (16, 1, 3, 3), (4, 16, 9, 9)),
    "same upper": ('Conv<auto_pad="SAME_UPPER",strides=[2,2]>(x, w, b)', (8, 16, 3, 3), (4, 16, 9, 9)),
    "same lower": ('Conv<auto_pad="SAME_LOWER",strides=[2,2]>(x, w, b)', (8, 16, 2, 2), (4, 16, 9, 9)),
    "valid": ('Conv<auto_pad="VALID">(x, w, b)', (8, 16, 3, 3), (4, 16, 9, 9)),
    "1-d": ("Conv<pads=[1,0]>(x, w, b)", (8, 16, 3), (4, 16, 9)),
    "gemm": ("Gemm(x, w, b)", (48, 8), (60, 48)),
    "gemm transposed": ("Gemm<transB=1>(x, w, b)", (8, 48), (60, 48)),
    "matmul": ("MatMul(x, w)", (48, 8), (2, 30, 48)),
}


def case(name: str) -> tuple[Graph, NDArray[Any]]:
    op, weight, shape = CASES[name]
    dims = ",".join(map(str, shape))
    body = f"y = {op}" if op.startswith("Gemm") or "b)" in op else f"p = {op} y = Add(p, b)"
    text = f"(float[{dims}] x) => (float[{','.join('nopq'[: len(shape)])}] y) {{ {body} }}"
    outputs = 8 if "Conv" not in op else weight[0]
    graph = graph_of(text, w=normal(*weight), b=normal(outputs, seed=2))
    InferShapes().run(graph)
    # Inputs with strong correlation, as images and features have: that is what second order makes use of.
    x = normal(*shape, seed=3)
    common = x.mean(axis=tuple(range(1, x.ndim)), keepdims=True) * 20
    axes = (-1,) if "Conv" not in op else (-1, -2)[: x.ndim - 2]
    for axis in axes:
        x = np.cumsum(x, axis=axis) / np.float32(3)
    return graph, (x + common).astype(np.float32)


def planned(graph: Graph, target: str, *, coarse: float = 8.0) -> tuple[QuantPlan, dict[str, QuantParams]]:
    """The plan with 4-bit-like weights, so that rounding is what hurts."""
    plan = make_plan(graph, TARGETS[target], options=PlanOptions(), digest="")
    ranges = {name: Range.of(-100.0, 100.0) for name in plan.observed()}
    params = dict(solve_from_ranges(graph, plan, ranges, TARGETS[target]))
    spec = plan.tensors["w"].spec
    scale = (params["w"].scale * coarse).astype(np.float32)
    params["w"] = QuantParams(scale=scale, zero_point=params["w"].zero_point, spec=spec)
    return plan, params


@pytest.mark.parametrize("name", CASES)
def test_patches_times_weights_are_the_output(name: str) -> None:
    """All patches of the input, in order: W p + b is what onnxruntime computes."""
    graph, x = case(name)
    node = next(n for n in graph.nodes if n.op_type != "Add")
    weight, bias = graph.constant("w"), graph.constant("b")
    assert weight is not None
    assert bias is not None
    rows = weight_rows(node, weight)
    patches = sampled_patches(node, x, weight.shape, 10**9, np.random.default_rng(0))
    products = np.einsum("gmk,gnk->ngm", rows, patches).reshape(patches.shape[1], -1) + bias
    (wanted,) = computed(graph, {"x": x})
    if node.op_type == "Conv":
        wanted = np.moveaxis(wanted, 1, -1)
    # float32 sums of at most 150 products of size up to 100: some 1e-3 absolute; a wrong patch gives errors of 10.
    np.testing.assert_allclose(products, wanted.reshape(products.shape), rtol=1e-4, atol=1e-2)
    assert np.array_equal(weight_from_rows(node, rows, weight.shape), weight)


@pytest.mark.parametrize("name", CASES)
def test_output_error_is_smaller_than_with_rounding_to_nearest(name: str) -> None:
    graph, x = case(name)
    plan, params = planned(graph, "openvino")
    samples = batches_of(graph, x)
    rounded = round_weights(known(graph, plan, params, samples, TARGETS["openvino"]), graph, centred=True)
    nearest = graph.copy()
    nearest.add_initializer("w", fake_quantize(graph.constant("w"), params["w"]))  # type: ignore[arg-type]

    def error(other: Graph) -> float:
        """Of the output without the mean of each channel, which the bias takes."""
        (wanted,), (got,) = computed(graph, {"x": x}), computed(other, {"x": x})
        channel = 1 if CASES[name][0].startswith("Conv") else got.ndim - 1
        others = tuple(a for a in range(got.ndim) if a != channel)
        shift = got - wanted
        return float(((shift - shift.mean(axis=others, keepdims=True)) ** 2).mean())

    # Between 0.05 and 0.5 over these cases; without the compensation it would be 1.
    assert error(rounded) < 0.7 * error(nearest)


@pytest.mark.parametrize("name", CASES)
def test_weights_lie_on_codes_in_range(name: str) -> None:
    graph, x = case(name)
    plan, params = planned(graph, "openvino")
    rounded = round_weights(known(graph, plan, params, batches_of(graph, x), TARGETS["openvino"]), graph)
    values = rounded.constant("w")
    assert values is not None
    codes = quantize(values, params["w"])
    assert np.array_equal(fake_quantize(values, params["w"]), values)
    assert codes.min() >= params["w"].spec.qmin


def test_pairs_stay_inside_what_the_kernel_adds() -> None:
    """Full-size weights for AVX2: without limits, compensation pushes pairs over 128."""
    graph, x = case("conv")
    target = TARGETS["ort-x64-avx2"]
    plan, params = planned(graph, target.name, coarse=1.0)
    rounded = round_weights(known(graph, plan, params, batches_of(graph, x), target), graph)
    values = rounded.constant("w")
    assert values is not None
    codes = weight_rows(graph.nodes[0], quantize(values, params["w"]).astype(np.int32))
    pairs = codes[..., walked(graph.nodes[0], values.shape)].reshape(*codes.shape[:2], -1, 2)
    assert np.abs(pairs.sum(axis=-1)).max() <= 128


def test_limits_bind() -> None:
    """Four columns in two pairs whose sums of 200 are refused, in any order of the columns."""
    rows = np.full((1, 2, 4), 100.0)
    partner = np.array([2, 3, 0, 1])
    moments = np.diag([1.0, 5.0, 3.0, 2.0])[None]
    codes = round_second_order(rows, moments, np.ones((1, 2)), CodeLimits(-127, 127, partner))
    assert (codes[..., [0, 1]] + codes[..., [2, 3]] == 128).all()


def test_uncorrelated_inputs_are_rounded_to_nearest() -> None:
    rows = normal(1, 5, 7).astype(np.float64) * 10
    codes = round_second_order(rows, np.eye(7)[None], np.ones((1, 5)), CodeLimits(-127, 127))
    assert np.array_equal(codes, np.rint(rows))


def test_codes_that_serve_other_samples_no_better_are_not_taken() -> None:
    """Two batches of few patches, which look as if they varied alike, and of many that do."""
    graph, _ = case("gemm")
    node, weight = graph.nodes[0], graph.constant("w")
    assert weight is not None
    plan, params = planned(graph, "openvino")
    rng = np.random.default_rng(0)
    shape = rng.normal(size=(48, 48)) * np.geomspace(1.0, 0.05, 48)[:, None]

    def chosen(*patches: NDArray[Any]) -> NDArray[np.float32] | None:
        moments = Moments()
        for one in patches:
            moments.add(one[None])
        return on_codes(
            node, weight, InputMoments(moments, centred=True), params[plan.tensors["w"].name], TARGETS["openvino"]
        )

    assert chosen(*(rng.normal(size=(12, 48)) for _ in range(2))) is None
    assert chosen(*(rng.normal(size=(2000, 48)) @ shape for _ in range(2))) is not None


def test_alone_rounding_keeps_the_mean_as_well() -> None:
    """What nothing behind it takes back: inputs far from zero, of which the mean alone matters."""
    graph, _ = case("gemm")
    x = normal(60, 48, seed=3) + np.float32(100)
    plan, params = planned(graph, "openvino")
    model = known(graph, plan, params, batches_of(graph, x), TARGETS["openvino"])

    def shift(chosen: Graph) -> float:
        (wanted,), (got,) = computed(graph, {"x": x}), computed(chosen, {"x": x})
        return float(np.square((got - wanted).mean(axis=0)).sum())

    assert shift(round_weights(model, graph)) < 0.1 * shift(round_weights(model, graph, centred=True))


def test_dead_inputs_do_not_hurt() -> None:
    rows = normal(2, 5, 7).astype(np.float64) * 10
    codes = round_second_order(rows, np.zeros((2, 7, 7)), np.ones((2, 5)), CodeLimits(-127, 127))
    assert np.array_equal(codes, np.rint(rows))


def test_moments_are_those_of_the_patches(monkeypatch: pytest.MonkeyPatch) -> None:
    """numpy's own covariance; gathered in one pass or in one for each node."""
    graph, x = case("gemm")
    node = graph.nodes[0].name
    (part,) = gather_moments(graph, [node], batches_of(graph, x), CollectOptions())
    matrix = part[node].matrix(centred=True)
    assert matrix is not None
    np.testing.assert_allclose(matrix[0], np.cov(x.T.astype(np.float64), bias=True), rtol=1e-9, atol=1e-9)
    text = "(float[60,48] x) => (float[60,8] y) { a = Gemm(x, v) r = Relu(a) y = Gemm(r, w) }"
    two = graph_of(text, v=normal(48, 48), w=normal(48, 8))
    names = [n.name for n in two.nodes if n.op_type == "Gemm"]
    (whole,) = gather_moments(two, names, batches_of(two, x), CollectOptions())
    monkeypatch.setattr("onnxq.recovery.moments.GROUP_BYTES", 1)
    parts = list(gather_moments(two, names, batches_of(two, x), CollectOptions()))
    assert [list(p) for p in parts] == [[name] for name in names]
    for one in parts:
        for name, found in one.items():
            assert np.array_equal(found.matrix(centred=True), whole[name].matrix(centred=True))  # type: ignore[arg-type]


def test_moments_of_few_patches_are_drawn_to_the_identity_and_are_nearer_to_the_truth() -> None:
    """Samples of a known covariance: 20, where 40 columns leave half of the directions unseen, and 20,000."""
    rng = np.random.default_rng(0)
    shape = rng.normal(size=(40, 40)) * np.linspace(0.1, 1.0, 40)
    truth = shape @ shape.T

    def both(count: int) -> tuple[NDArray[Any], NDArray[Any]]:
        moments = Moments()
        moments.add((rng.normal(size=(count, 40)) @ shape.T)[None])
        plain, shrunk = moments.matrix(centred=True), moments.shrunk(centred=True)
        assert plain is not None
        assert shrunk is not None
        return plain[0], shrunk[0]

    plain, shrunk = both(20)
    assert np.linalg.norm(shrunk - truth) < 0.9 * np.linalg.norm(plain - truth)
    np.testing.assert_allclose(np.trace(shrunk), np.trace(plain), rtol=1e-12)
    assert np.linalg.eigvalsh(shrunk).min() > 0.01 * np.trace(plain) / 40
    plain, shrunk = both(20_000)
    assert np.linalg.norm(shrunk - plain) < 0.01 * np.linalg.norm(plain)


def test_patches_of_one_sample_count_as_what_they_add() -> None:
    """Forty patches that are all the same say as much as one; batches of independent ones are believed."""
    rng = np.random.default_rng(0)
    shape = rng.normal(size=(20, 20)) * np.linspace(0.1, 1.0, 20)

    def share(draws: int, copies: int) -> float:
        """How far the moments are drawn to the identity, by what is left of an entry off the diagonal."""
        moments = Moments()
        for _ in range(8):
            moments.add(np.repeat(rng.normal(size=(draws, 20)) @ shape.T, copies, axis=0)[None])
        plain, shrunk = moments.matrix(centred=True), moments.shrunk(centred=True)
        assert plain is not None
        assert shrunk is not None
        return 1.0 - float(shrunk[0, 0, 1] / plain[0, 0, 1])

    # 8 or 320 draws of 20 numbers: 0.34 to 0.81 and 0.02 to 0.033 over seeds.
    assert share(1, 40) > 0.25
    assert share(40, 1) < 0.06


@pytest.mark.parametrize("patches", [np.zeros((2, 5, 3)), np.ones((1, 5, 1)), np.arange(5.0).reshape(1, 5, 1)])
def test_moments_that_have_nothing_to_be_drawn_to_stay(patches: NDArray[np.float64]) -> None:
    moments = Moments()
    assert moments.shrunk(centred=True) is None
    moments.add(patches)
    np.testing.assert_array_equal(moments.shrunk(centred=True), moments.matrix(centred=True))  # type: ignore[arg-type]


def test_a_shared_weight_is_left_alone() -> None:
    text = "(float[60,48] x) => (float[60,48] y) { a = Gemm(x, w, b) y = Gemm(a, w, c) }"
    graph = graph_of(text, w=normal(48, 48), b=normal(48), c=normal(48))
    InferShapes().run(graph)
    plan, params = planned(graph, "openvino")
    samples = batches_of(graph, normal(60, 48))
    assert round_weights(known(graph, plan, params, samples, TARGETS["openvino"]), graph) is graph


def test_clipping_takes_the_scale_with_the_least_error() -> None:
    values = normal(2, 400)
    values[1, 0] = 6.0  # an outlier, though not one that is worth its range at 4 bits
    spec = QuantSpec(qtype=INT8, symmetric=True, axis=0, narrow_range=True)
    amax = np.abs(values).max(axis=1).astype(np.float64)
    whole = qparams_from_range(Range(rmin=-amax, rmax=amax), spec)
    clipped = clipped_params(values, whole)

    def errors(params: QuantParams) -> NDArray[Any]:
        return np.asarray(((fake_quantize(values, params) - values) ** 2).sum(axis=1))

    assert (clipped.scale <= whole.scale).all()
    assert (errors(clipped) <= errors(whole)).all()
    for factor in np.linspace(1.0, 0.6, 21):
        other = QuantParams(scale=(whole.scale * factor).astype(np.float32), zero_point=whole.zero_point, spec=spec)
        assert (errors(clipped) <= errors(other) * (1 + 1e-12)).all()
