"""Layers that make up for the errors before them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from onnxq.calibration.runner import CollectOptions
from onnxq.calibration.solve import QParamsTable, safe_params, solve_from_ranges
from onnxq.data.batches import Batch
from onnxq.data.inputs import InputSpecs
from onnxq.data.sources import open_data
from onnxq.graph.shapes import infer_shapes
from onnxq.graph.view import Graph
from onnxq.numerics.arrays import fake_quantize
from onnxq.numerics.qparams import Range
from onnxq.passes.quantize.give_biases import GiveBiases
from onnxq.planning.options import FULL, PlanOptions
from onnxq.planning.plan import QuantPlan, Role
from onnxq.planning.planner import make_plan
from onnxq.recovery import reconstruction
from onnxq.recovery.bias_correction import correct_biases
from onnxq.recovery.reconstruction import reconstruct
from onnxq.recovery.shadow import rounded_form
from onnxq.recovery.walk import Walk
from onnxq.recovery.weight_rounding import round_weights
from onnxq.targets import TARGETS
from tests.graphs import computed, graph_of, normal
from tests.planned import known

OPTIONS = CollectOptions(threads=1)
CHAIN = """(float[N,16,8,8] x) => (float[N,16,8,8] y) {
    a = Conv<pads=[1,1,1,1]>(x, w1)  b = Relu(a)  c = Conv(b, w2)  d = Relu(c)  y = Conv(d, w3)
}"""


def chain(text: str = CHAIN) -> Graph:
    graph = graph_of(text, w1=normal(16, 16, 3, 3), w2=normal(16, 16, 1, 1, seed=2), w3=normal(16, 16, 1, 1, seed=3))
    infer_shapes(graph)
    GiveBiases().run(graph)
    return graph


def solved(graph: Graph, target: str, reach: float = 300.0) -> tuple[QuantPlan, QParamsTable]:
    """A plan, and ranges five times too wide: the errors are large and lie in a few directions."""
    plan = make_plan(graph, TARGETS[target], options=PlanOptions(placement=FULL), digest="")
    ranges = {name: Range.of(-reach, reach) for name in plan.observed()}
    return plan, solve_from_ranges(graph, plan, ranges, TARGETS[target])


def batches(graph: Graph, *seeds: int) -> list[Batch]:
    # Half of each image is one value, as paper is around a line of text.
    arrays = [np.abs(normal(4, 16, 8, 8, seed=seed)) for seed in seeds]
    for array in arrays:
        array[..., 4:] = np.linspace(0.1, 0.9, 16, dtype=np.float32)[:, None, None]
    return list(open_data([{"x": array} for array in arrays], inputs=InputSpecs.from_graph(graph)).stream())


def smooth(graph: Graph, *seeds: int) -> list[Batch]:
    """Images whose neighbouring pixels and whose channels are alike, as rounding of second order makes use of."""
    arrays = [np.cumsum(np.cumsum(normal(4, 16, 8, 8, seed=seed), axis=-1), axis=-2) for seed in seeds]
    alike = [((a + 4 * a.mean(axis=1, keepdims=True)) / 8).astype(np.float32) for a in arrays]
    return list(open_data([{"x": array} for array in alike], inputs=InputSpecs.from_graph(graph)).stream())


def noise(graph: Graph, chosen: Graph, plan: QuantPlan, params: QParamsTable, data: list[Batch]) -> float:
    """Noise to signal at the output, each channel's mean included."""
    total = signal = 0.0
    rounded = rounded_form(chosen, plan, params)
    for batch in data:
        want: Any = computed(graph, batch.arrays)[0]
        total += float(np.square(computed(rounded, batch.arrays)[0] - want).sum())
        signal += float(np.square(want).sum())
    return total / signal


@pytest.mark.parametrize("target", ["ort-x64-vnni", "tensorrt"])
def test_the_output_is_nearer_to_float_than_with_corrected_biases_on_other_samples(target: str) -> None:
    graph = chain()
    plan, params = solved(graph, target)
    samples, others = batches(graph, *range(8)), batches(graph, 100, 101)
    fitted = reconstruct(known(graph, plan, params, samples, TARGETS[target]), graph)
    biased = correct_biases(graph, plan, params, samples, OPTIONS)
    # 1 dB at least: the fit is of the systematic part alone.
    assert noise(graph, fitted, plan, params, others) < 0.8 * noise(graph, biased, plan, params, others)


@pytest.mark.parametrize("target", ["ort-x64-vnni", "tensorrt"])
def test_a_product_without_a_bias_is_fitted_with_its_mean(target: str) -> None:
    """As in language models, where no layer has a bias: what a fit makes of the mean of its inputs stays."""
    text = """(float[N,32,64] x) => (float[N,32,48] y) {
        a = MatMul(x, w1) b = Relu(a) c = MatMul(b, w2) d = Relu(c) y = MatMul(d, w3) }"""
    graph = graph_of(text, w1=normal(64, 64), w2=normal(64, 64, seed=2), w3=normal(64, 48, seed=3))
    infer_shapes(graph)
    plan, params = solved(graph, target)

    def data(*seeds: int) -> list[Batch]:
        feeds = [{"x": np.abs(normal(4, 32, 64, seed=seed))} for seed in seeds]
        return list(open_data(feeds, inputs=InputSpecs.from_graph(graph)).stream())

    fitted = reconstruct(known(graph, plan, params, data(1, 2, 3, 4), TARGETS[target]), graph)
    others = data(11, 12)
    # About 0.4; fits that leave means to biases that are not there gain a seventh.
    assert noise(graph, fitted, plan, params, others) < 0.6 * noise(graph, graph, plan, params, others)


def test_in_front_of_a_mean_outputs_keep_their_spread_on_other_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    """A least-squares fit to inputs with errors draws its outputs to their mean, and what is behind adds that up."""
    pooled = CHAIN.replace("y = Conv(d, w3)", "e = Conv(d, w3)  y = GlobalAveragePool(e)").replace(
        "16,8,8] y", "16,1,1] y"
    )
    graph = chain(pooled)
    plan, params = solved(graph, "tensorrt", reach=80.0)
    data, other = batches(graph, *range(8)), batches(graph, *range(100, 108))

    def slope() -> float:
        rounded = rounded_form(reconstruct(known(graph, plan, params, data, TARGETS["tensorrt"]), graph), plan, params)
        pairs = [(computed(rounded, b.arrays)[0], computed(graph, b.arrays)[0]) for b in other]
        got, want = (np.concatenate(arrays).reshape(-1, 16) for arrays in zip(*pairs, strict=True))
        want = want - want.mean(axis=0)
        return float((got * want).sum() / np.square(want).sum())

    kept = slope()
    monkeypatch.setattr(reconstruction, "averaged_later", lambda _: frozenset())
    drawn = slope()
    assert drawn < 0.98
    assert abs(kept - 1.0) < 0.7 * abs(drawn - 1.0)  # what is left is of other samples


def with_few_steps(plan: QuantPlan, params: QParamsTable) -> QParamsTable:
    """Weights of eight steps, so that their rounding is felt beside that of the activations."""
    weights = {key for key, tensor in plan.tensors.items() if tensor.role is Role.WEIGHT}
    return {key: replace(p, scale=p.scale * np.float32(32)) if key in weights else p for key, p in params.items()}


@pytest.mark.parametrize("target", ["ort-x64-vnni", "ort-x64-avx2", "tensorrt"])
def test_rounding_within_the_walk_gains_on_other_samples_over_each_of_the_two(target: str) -> None:
    graph = chain()
    plan, params = solved(graph, target, reach=100.0)
    params = with_few_steps(plan, params)
    model = known(graph, plan, params, smooth(graph, *range(8)), TARGETS[target])
    others = smooth(graph, 100, 101)
    together = noise(graph, reconstruct(model, graph, rounding=True), plan, params, others)
    # 0.56 to 0.73 of the one, 0.65 to 0.76 of the other.
    assert together < 0.9 * noise(graph, reconstruct(model, graph), plan, params, others)
    assert together < 0.9 * noise(graph, reconstruct(model, round_weights(model, graph)), plan, params, others)


def test_rounding_within_the_walk_chooses_codes() -> None:
    """The weights lie on codes of their parameters, and not all on the nearest ones."""
    graph = chain()
    plan, params = solved(graph, "ort-x64-avx2", reach=100.0)
    params = with_few_steps(plan, params)
    model = known(graph, plan, params, smooth(graph, *range(8)), TARGETS["ort-x64-avx2"])
    found = reconstruct(model, graph, rounding=True)
    for key in (key for key, t in plan.tensors.items() if t.role is Role.WEIGHT):
        values, before = found.constant(key), graph.constant(key)
        assert values is not None
        assert before is not None
        np.testing.assert_array_equal(fake_quantize(values, params[key]), values)
        assert not np.array_equal(fake_quantize(before, params[key]), values)
        scale = safe_params(found, plan.tensors[key], params[key], TARGETS["ort-x64-avx2"]).scale
        np.testing.assert_array_equal(scale, params[key].scale)


def test_rounding_leaves_weights_alone_where_activations_bring_the_error() -> None:
    """Weights of 254 steps behind ranges ten times too wide: what codes could take away is less than half a decibel."""
    graph = chain()
    plan, params = solved(graph, "ort-x64-vnni", reach=1000.0)
    model = known(graph, plan, params, smooth(graph, *range(8)), TARGETS["ort-x64-vnni"])
    rounded, fitted = reconstruct(model, graph, rounding=True), reconstruct(model, graph)
    for name, proto in fitted.initializers.items():
        assert rounded.initializers[name] == proto


def test_the_mean_of_each_channel_of_the_output_is_floats() -> None:
    graph = chain()
    plan, params = solved(graph, "tensorrt")
    samples = batches(graph, *range(4))
    fitted = rounded_form(reconstruct(known(graph, plan, params, samples, TARGETS["tensorrt"]), graph), plan, params)
    gaps = [computed(fitted, b.arrays)[0] - computed(graph, b.arrays)[0] for b in samples]
    scale = max(float(np.abs(computed(graph, b.arrays)[0]).max()) for b in samples)
    # Float32 sums over 64 positions; without the last bias the shift is a hundred times as large.
    assert float(np.abs(np.mean(gaps, axis=(0, 1, 3, 4))).max()) < 1e-5 * scale


def test_new_weights_keep_what_the_kernel_can_add() -> None:
    """On x64 without VNNI a pair of codes that grew too large would saturate."""
    graph, target = chain(), TARGETS["ort-x64-avx2"]
    plan, params = solved(graph, "ort-x64-avx2")
    fitted = reconstruct(known(graph, plan, params, batches(graph, *range(4)), target), graph)
    weights = {key: t for key, t in plan.tensors.items() if t.role is Role.WEIGHT}
    changed = [key for key in weights if not np.array_equal(fitted.constant(key), graph.constant(key))]  # type: ignore[arg-type]
    assert changed
    for key, tensor in weights.items():
        np.testing.assert_array_equal(safe_params(fitted, tensor, params[key], target).scale, params[key].scale)


def test_channels_whose_pairs_are_at_the_limit_are_fitted_like_others() -> None:
    """In each channel the two largest weights are alike and neighbours: any larger ones would saturate."""
    weights = [normal(16, 16, 3, 3), normal(16, 16, 1, 1, seed=2), normal(16, 16, 1, 1, seed=3)]
    for weight in weights:
        weight[:, [0, 1]] = np.abs(weight).max(axis=(1, 2, 3), keepdims=True)
        weight[::2, [0, 1]] *= -1
    graph = graph_of(CHAIN, w1=weights[0], w2=weights[1], w3=weights[2])
    infer_shapes(graph)
    GiveBiases().run(graph)
    left = {}
    for name in ("ort-x64-avx2", "ort-x64-vnni"):
        plan, params = solved(graph, name, reach=20.0)
        fitted = reconstruct(known(graph, plan, params, batches(graph, *range(8)), TARGETS[name]), graph)
        left[name] = noise(graph, fitted, plan, params, batches(graph, 100, 101))
        for key, tensor in plan.tensors.items():
            if tensor.role is Role.WEIGHT:
                scale = safe_params(fitted, tensor, params[key], TARGETS[name]).scale
                np.testing.assert_array_equal(scale, params[key].scale)
    # 1.08; 1.57 where a channel keeps its weights as soon as one pair of the fitted ones would saturate.
    assert left["ort-x64-avx2"] < 1.2 * left["ort-x64-vnni"]


def test_probabilities_behind_the_last_layer_are_floats_in_total() -> None:
    """The bias in front of a Softmax takes what the probabilities miss, not the mean error of the logits."""
    text = """(float[N,16,8,8] x) => (float[N,8,8,16] p) {
        a = Conv<pads=[1,1,1,1]>(x, w1)  b = Relu(a)  t = Transpose<perm=[0,2,3,1]>(b)
        m = MatMul(t, w2)  l = Add(m, c)  p = Softmax<axis=-1>(l) }"""
    graph = graph_of(text, w1=normal(16, 16, 3, 3), w2=normal(16, 16, seed=2) / 4, c=normal(16, seed=3))
    infer_shapes(graph)
    GiveBiases().run(graph)
    plan, params = solved(graph, "ort-x64-vnni", reach=20.0)
    samples = batches(graph, *range(8))
    fitted = reconstruct(known(graph, plan, params, samples, TARGETS["ort-x64-vnni"]), graph)
    rounded = rounded_form(fitted, plan, params)

    def total(of: Graph) -> Any:
        return sum(computed(of, batch.arrays)[0].sum(axis=(0, 1, 2), dtype=np.float64) for batch in samples)

    sought = total(graph)
    often = sought > 20
    assert often.sum() > 2
    # 0.0009, for the mean has some weight; 0.027 where the mean error of the logits is taken off.
    assert np.abs(total(rounded) / sought - 1)[often].max() < 0.005


def test_the_float_graph_is_not_changed_and_nothing_happens_without_samples() -> None:
    graph = chain()
    plan, params = solved(graph, "tensorrt")
    before = graph.to_model().SerializeToString(deterministic=True)
    reconstruct(known(graph, plan, params, batches(graph, 1), TARGETS["tensorrt"]), graph)
    assert graph.to_model().SerializeToString(deterministic=True) == before
    assert reconstruct(known(graph, plan, params, [], TARGETS["tensorrt"]), graph) is graph


def test_batches_are_let_go_where_the_walks_keep_too_much(monkeypatch: pytest.MonkeyPatch) -> None:
    graph = chain()
    plan, params = solved(graph, "tensorrt")
    left = []
    thin_out = Walk.thin_out

    def counted(walk: Walk) -> None:
        thin_out(walk)
        left.append(len(walk.samples))

    monkeypatch.setattr(Walk, "thin_out", counted)
    monkeypatch.setattr(reconstruction, "KEPT_BYTES", 1)
    reconstruct(known(graph, plan, params, batches(graph, *range(4)), TARGETS["tensorrt"]), graph)
    assert left == [2, 2, 1, 1]


def test_batches_are_let_go_before_a_layer_would_take_too_much(monkeypatch: pytest.MonkeyPatch) -> None:
    """While the first piece runs: what comes out is what the batches that are left give alone."""
    graph = chain()
    plan, params = solved(graph, "tensorrt")
    samples = batches(graph, *range(4))
    alone = reconstruct(known(graph, plan, params, samples[:1], TARGETS["tensorrt"]), graph)
    all_of_them = reconstruct(known(graph, plan, params, samples, TARGETS["tensorrt"]), graph)
    monkeypatch.setattr(reconstruction, "PEAK_BYTES", 1)
    found = reconstruct(known(graph, plan, params, samples, TARGETS["tensorrt"]), graph)
    content = [g.to_model().SerializeToString(deterministic=True) for g in (found, alone, all_of_them)]
    assert content[0] == content[1] != content[2]


def test_batches_that_go_between_two_tensors_of_a_layer_go_from_both(monkeypatch: pytest.MonkeyPatch) -> None:
    graph = chain()
    plan, params = solved(graph, "tensorrt")
    samples = batches(graph, *range(8))
    size = sum(array.nbytes for batch in samples for array in batch.arrays.values())
    for share in (1, 1.5, 2, 2.5, 3, 4, 5, 6):
        monkeypatch.setattr(reconstruction, "PEAK_BYTES", int(share * size))
        reconstruct(known(graph, plan, params, samples, TARGETS["tensorrt"]), graph)  # lists of other lengths raise


def test_a_walk_runs_each_node_once_and_keeps_only_what_is_read_later() -> None:
    graph = chain()
    walk = Walk(graph, batches(graph, 1), OPTIONS)
    (got,) = walk.advance("b")
    assert got.min() == 0.0
    assert walk.size_bytes == got.nbytes
    walk.replace("b", [np.zeros_like(got)])
    (end,) = walk.advance("y")
    assert float(np.abs(end).max()) == 0.0


def test_models_with_many_weights_get_corrected_biases_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    graph = chain()
    plan, params = solved(graph, "tensorrt")
    samples = batches(graph, *range(4))
    monkeypatch.setattr(reconstruction, "MOST_WEIGHTS_BYTES", 4 * (16 * 16 * 11) - 1)
    model = known(graph, plan, params, samples, TARGETS["tensorrt"])
    for rounding in (False, True):
        found = reconstruct(model, graph, rounding=rounding)
        chosen = round_weights(model, graph, centred=True) if rounding else graph
        wanted = correct_biases(graph, plan, params, samples, OPTIONS, chosen=chosen)
        for name, proto in wanted.initializers.items():
            assert found.initializers[name] == proto
