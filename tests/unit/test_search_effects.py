"""Sensitivity: cut models against the whole model, distances against their definitions."""

from __future__ import annotations

import math
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from onnx import ModelProto, numpy_helper

import onnxq
from onnxq.calibration.methods import method_from_name
from onnxq.calibration.runner import CollectOptions
from onnxq.calibration.solve import solve_from_ranges
from onnxq.errors import ConfigError
from onnxq.graph.view import Graph, Use
from onnxq.numerics import fake_quantize
from onnxq.numerics import metrics as whole
from onnxq.passes.quantize.fold_weights import FoldWeights
from onnxq.passes.quantize.insert_qdq import InsertQDQ
from onnxq.pipeline.reading import Reading
from onnxq.pipeline.stages import Prepared, observe, prepare
from onnxq.planning.options import PlanOptions
from onnxq.search import effects
from onnxq.search.distance import Distance, Effect
from onnxq.search.effects import Bench, effects_alone
from onnxq.search.layers import Layer, layers_of
from tests.graphs import computed, graph_of, model_of, normal

DIGITS = Path(__file__).parents[2] / "models" / "digits_resnet.onnx"

RESIDUAL = model_of(
    """(float[n, 16, 8, 8] x) => (float[n, 10] y, float[n, 16, 1, 1] z) {
       [c1] a = Conv<pads = [1, 1, 1, 1]>(x, w1, b1)
       [r1] b = Relu(a)
       [c2] c = Conv<pads = [1, 1, 1, 1]>(b, w2)
       [add] d = Add(c, x)
       [r2] e = Relu(d)
       [pool] p = MaxPool<kernel_shape = [2, 2], strides = [2, 2]>(e)
       [c3] f = Conv(p, w3, b3)
       [sig] g = Sigmoid(f)
       [mul] h = Mul(f, g)
       [cat] i = Concat<axis = 1>(h, p)
       [gap] j = GlobalAveragePool(i)
       [flat] k = Flatten(j)
       [mm] l = MatMul(k, w4)
       [bias] y = Add(l, b4)
       [out] z = GlobalAveragePool(b)
    }""",
    w1=normal(16, 16, 3, 3, seed=1) * 0.1, b1=normal(16, seed=2),
    w2=normal(16, 16, 3, 3, seed=3) * 0.1,
    w3=normal(16, 16, 1, 1, seed=4) * 0.3, b3=normal(16, seed=5),
    w4=normal(32, 10, seed=6), b4=normal(10, seed=7),
)  # fmt: skip
FEEDS = [{"x": normal(4, 16, 8, 8, seed=s)} for s in (10, 11, 12)]
TARGETS = ("ort-x64-vnni", "ort-x64-avx2", "tensorrt", "openvino")


def prepared_with(model: ModelProto | Path, feeds: list, target: str) -> tuple[Prepared, Bench, list[Layer]]:
    prepared = prepare(model, target, PlanOptions(placement="full"))
    batches = Reading().open(prepared.source, feeds)
    known = observe(prepared, batches, method_from_name("max"), CollectOptions(), None)
    qparams = solve_from_ranges(prepared.graph, prepared.plan, known.ranges, prepared.target)
    bench = Bench(
        graph=prepared.graph, qparams=qparams, samples=list(batches.stream()), options=CollectOptions(), optimise=False
    )
    return prepared, bench, layers_of(prepared.graph, prepared.plan, prepared.target)


def only(prepared: Prepared, bench: Bench, layer: Layer) -> Graph:
    """The whole model with one layer quantized, made by the passes that make every quantized model."""
    plan, tensors = prepared.plan, {}
    for key, tensor in plan.tensors.items():
        uses = tuple(use for use in tensor.uses if use.node in layer.nodes)
        if key == layer.end_key:
            tensors[key] = tensor
        elif uses:
            tensors[key] = replace(tensor, uses=uses, covers_output=False)
    part = replace(plan, tensors=tensors, holds=())
    graph = prepared.graph.copy()
    InsertQDQ(part, bench.qparams).run(graph)
    FoldWeights(part, bench.qparams).run(graph)
    graph.sort()
    return graph


def naive(prepared: Prepared, bench: Bench, layer: Layer) -> Effect:
    distance, names = Distance(prepared.graph), list(prepared.graph.outputs)
    quantized = only(prepared, bench, layer)
    for batch in bench.samples:
        want, got = (dict(zip(names, computed(g, batch.arrays), strict=True)) for g in (prepared.graph, quantized))
        distance.add(want, got)
    return distance.effect()


@pytest.mark.parametrize("target", TARGETS)
def test_cut_models_agree_exactly_with_the_whole_model(target: str) -> None:
    """Without optimisations every node gets the same inputs, so it gives the same bits."""
    prepared, bench, layers = prepared_with(RESIDUAL, FEEDS, target)
    found = dict(effects_alone(bench, layers))
    assert [layer.node for layer in layers] == (
        ["c1", "c2", "c3", "mm"] if target != "tensorrt" else ["c1", "c2", "c3"]
    )
    for layer in layers:
        assert found[layer.node] == naive(prepared, bench, layer), layer
        assert 5 < found[layer.node].sqnr_db < 80


@pytest.mark.parametrize("target", ["ort-x64-vnni", "tensorrt"])
def test_cut_models_agree_exactly_on_a_trained_model(target: str) -> None:
    with np.load(DIGITS.with_suffix(".calib.npz")) as data:
        feeds = [{name: data[name][:8] for name in data.files}]
    prepared, bench, layers = prepared_with(DIGITS, feeds, target)
    found = dict(effects_alone(bench, layers))
    assert len(layers) > 15
    for layer in layers[::3]:
        assert found[layer.node] == naive(prepared, bench, layer), layer


def test_optimised_parts_agree_closely() -> None:
    """float32 sums in another order: noise at 120 dB, beside quantization noise at 10 to 80 dB."""
    _, bench, layers = prepared_with(RESIDUAL, FEEDS, "ort-x64-vnni")
    plain = dict(effects_alone(bench, layers))
    for node, effect in effects_alone(replace(bench, optimise=True), layers):
        assert effect.sqnr_db == pytest.approx(plain[node].sqnr_db, abs=0.5)


def test_groups_do_not_change_the_result(monkeypatch: pytest.MonkeyPatch) -> None:
    _, bench, layers = prepared_with(RESIDUAL, FEEDS, "ort-x64-vnni")
    together = dict(effects_alone(bench, layers))
    passes = []

    kept = effects._kept
    monkeypatch.setattr(effects, "_kept", lambda *a: passes.append(len(a[1])) or kept(*a))
    assert dict(effects_alone(replace(bench, cache_bytes=1), layers)) == together
    assert passes == [1, 1, 1, 1]
    passes.clear()
    assert dict(effects_alone(bench, layers)) == together
    assert passes == [4]


def test_only_what_follows_a_layer_is_run_again() -> None:
    prepared, _, layers = prepared_with(RESIDUAL, FEEDS, "ort-x64-vnni")
    cuts = {layer.node: effects._Cut(prepared.graph, layer, None) for layer in layers}
    assert cuts["mm"].rest == []
    assert set(cuts["c3"].rest) == {"sig", "mul", "cat", "gap", "flat", "mm", "bias"}
    assert cuts["c3"].rest_reads == ["p"]
    assert cuts["c3"].outputs == ["y"]
    assert len(cuts["c1"].rest) == len(prepared.graph.nodes) - 2


def test_layers_hold_what_is_fused_into_them() -> None:
    prepared, _, layers = prepared_with(RESIDUAL, FEEDS, "ort-x64-vnni")
    by_name = {layer.node: layer for layer in layers}
    assert by_name["c1"].nodes == ("c1", "r1")
    assert (by_name["c1"].end, by_name["c1"].end_key) == ("b", "b")
    assert by_name["mm"].nodes == ("mm", "bias")
    assert by_name["mm"].weights == 320
    prepared, _, layers = prepared_with(RESIDUAL, FEEDS, "tensorrt")
    by_name = {layer.node: layer for layer in layers}
    assert by_name["c2"].nodes == ("c2", "add", "r2")
    assert Use("add", 1) in by_name["c2"].rounded
    assert by_name["c2"].end_key is None
    assert prepared.plan.target == "tensorrt"


def test_a_deadline_leaves_layers_out() -> None:
    _, bench, layers = prepared_with(RESIDUAL, FEEDS, "ort-x64-vnni")
    assert dict(effects_alone(replace(bench, deadline=time.perf_counter() - 1), layers)) == {}


# ---- distances ---------------------------------------------------------------------------------------------------


def distance(*pairs: tuple[np.ndarray, np.ndarray], graph: Graph | None = None) -> Effect:
    found = Distance(graph or graph_of("(float[N] x) => (float[N] y) { y = Neg(x) }"))
    for want, got in pairs:
        found.add({"y": want}, {"y": got})
    return found.effect()


def test_a_part_that_is_lost_is_the_distance() -> None:
    """Boxes of 200 with scores of 1/2 behind them: half of the scores gone is 6 dB, of the whole 58 dB."""
    both = graph_of("(float[N,4] a, float[N,2] b) => (float[N,6] y) { y = Concat<axis=1>(a, b) }")
    want = np.float32([[200, 200, 200, 200, 0.5, 0.5]])
    got = want * np.float32([1, 1, 1, 1, 0.5, 0.5])
    assert distance((want, got)).sqnr_db > 50
    assert distance((want, got), graph=both).sqnr_db == pytest.approx(20 * np.log10(2))


def test_distances_are_those_of_the_numerics(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("onnxq.search.distance._PIECE", 50)
    want, got = normal(37, 5, seed=1), normal(37, 5, seed=2) + normal(37, 5, seed=1)
    effect = distance((want[:20], got[:20]), (want[20:], got[20:]))
    assert effect.sqnr_db == pytest.approx(whole.sqnr_db(want, got), abs=1e-9)
    assert effect.cosine == pytest.approx(whole.cosine(want, got), abs=1e-12)


def test_kl_is_its_definition() -> None:
    want, got = normal(9, 6, seed=1), normal(9, 6, seed=2)
    p, q = (np.exp(a.astype(float)) / np.exp(a.astype(float)).sum(1, keepdims=True) for a in (want, got))
    expected = (p * np.log(p / q)).sum(1).mean()
    assert distance((want, got)).kl == pytest.approx(expected, rel=1e-6)
    # Probabilities are taken as they are, of any rank.
    assert distance((p.reshape(3, 3, 6), q.reshape(3, 3, 6))).kl == pytest.approx(expected, rel=1e-6)
    assert distance((normal(3, 3, 6), normal(3, 3, 6))).kl is None


def test_equal_broken_and_missing_outputs() -> None:
    one = normal(3, 4)
    bad = one.copy()
    bad[1, 1] = np.nan
    masked = np.where(one > 1, -np.inf, one).astype(np.float32)
    assert distance((one, one)) == Effect(sqnr_db=math.inf, cosine=pytest.approx(1.0), kl=0.0)
    assert distance((one, bad)).sqnr_db == -math.inf
    assert distance((one, one[:2])).sqnr_db == -math.inf
    assert distance((masked, masked)).sqnr_db == math.inf
    assert distance((np.zeros((2, 2)), np.zeros((2, 2)))).cosine == 1.0
    assert distance((np.array([1, 2]), np.array([3, 4]))) == Effect(sqnr_db=math.inf, cosine=1.0, kl=None)


# ---- the public function -----------------------------------------------------------------------------------------


def with_a_bad_layer() -> ModelProto:
    """RESIDUAL, where one channel of `b` dwarfs the others, which round to nothing; c2 takes it down again."""
    bad = ModelProto()
    bad.CopyFrom(RESIDUAL)
    for name, index in (("w1", np.s_[0]), ("b1", np.s_[0]), ("w2", np.s_[:, 0])):
        (proto,) = (t for t in bad.graph.initializer if t.name == name)
        values = numpy_helper.to_array(proto).copy()
        values[index] *= 1 / 300 if name == "w2" else 300
        proto.CopyFrom(numpy_helper.from_array(values, name))
    return bad


def test_a_layer_that_is_made_bad_comes_first() -> None:
    found = onnxq.sensitivity(with_a_bad_layer(), FEEDS, placement="full", target="ort-x64-vnni", method="max")
    assert {row.node for row in found.ranked()[:2]} == {"c1", "c2"}
    assert found.ranked()[1].effect.sqnr_db < 25 < found.ranked()[2].effect.sqnr_db
    assert (found.samples, found.missing, len(found.layers)) == (12, 0, 4)
    assert found.to_text(top=1).count("\n") == 5
    assert "and 3 more layers that matter less" in found.to_text(top=1)
    assert found.to_dict()["layers"][0]["node"] == found.ranked()[0].node
    assert '"kind":"part"' in found.to_html()


def test_all_but_one_runs_the_whole_model() -> None:
    found = onnxq.sensitivity(RESIDUAL, FEEDS, placement="full", target="ort-x64-vnni", quantize="all-but", samples=4)
    assert [row.node for row in found.layers] == ["c1", "c2", "c3", "mm"]
    ranked = [row.effect.sqnr_db for row in found.ranked()]
    assert ranked == sorted(ranked, reverse=True)
    assert found.samples == 4


def test_an_interrupt_gives_what_was_measured() -> None:
    def stop(now) -> None:
        if getattr(now, "stage", "") and now.samples == 2:
            raise KeyboardInterrupt

    found = onnxq.sensitivity(RESIDUAL, FEEDS, placement="full", target="ort-x64-vnni", progress=stop)
    assert (len(found.layers), found.missing) == (2, 2)
    assert [row.node for row in found.unmeasured] == [row["node"] for row in found.to_dict()["unmeasured"]]
    assert [row["rank"] for row in found.to_dict()["unmeasured"]] == [3, 4]
    (warning,) = found.warnings
    assert warning.startswith("2 layers not measured: interrupted. They come last")
    assert found.to_text().splitlines()[6].split() == ["4", found.unmeasured[1].node, "MatMul", "0.0", "?"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"mode": "some"}, "unknown mode 'some'"),
        ({"quantize": "some"}, "quantize is 'some', expected 'only' or 'all-but'"),
        ({"by": "size"}, "by is 'size', expected 'sqnr' or 'cosine' or 'kl'"),
        ({"samples": 0}, "samples is 0"),
        ({"seconds": 0}, "seconds is 0"),
    ],
)
def test_impossible_arguments_are_refused(arguments: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        onnxq.sensitivity(RESIDUAL, FEEDS, **arguments)


EMBEDDING = model_of(
    """(int64[n, 5] ids, float[n, 5, 32] x) => (float[n, 5, 32] y) {
       [emb] e = Gather(table, ids)
       [mm] m = MatMul(x, w)
       [add] y = Add(e, m)
    }""",
    table=normal(600, 32, seed=1), w=normal(32, 32, seed=2) * 1e-3,
)  # fmt: skip
TOKENS = [
    {"ids": np.random.default_rng(s).integers(0, 600, (4, 5)), "x": normal(4, 5, 32, seed=s)} for s in (20, 21, 22)
]


def test_an_embedding_is_a_layer() -> None:
    """Its noise is that of its own codes, without arithmetic; its cost in float is what the file then holds."""
    prepared, bench, layers = prepared_with(EMBEDDING, TOKENS, "ort-x64-vnni")
    assert [(layer.node, layer.macs, layer.weights) for layer in layers] == [("emb", 0, 19200), ("mm", 5 * 32**2, 1024)]
    assert [(layer.arithmetic, layer.cost) for layer in layers] == [(0, 19200), (5 * 32**2, 5 * 32**2)]
    found = dict(effects_alone(bench, layers))
    table = numpy_helper.to_array(prepared.graph.initializers["table"])
    rounded = fake_quantize(table, bench.qparams["table"])
    distance = Distance(prepared.graph)
    for feed in TOKENS:
        (want,) = computed(prepared.graph, feed)
        distance.add({"y": want}, {"y": want - table[feed["ids"]] + rounded[feed["ids"]]})
    # The sum is rounded once more than in the model: 2^-24 of it beside noise of 2^-9.
    assert found["emb"].sqnr_db == pytest.approx(distance.effect().sqnr_db, abs=0.01)
    assert found["mm"].sqnr_db > found["emb"].sqnr_db + 10
