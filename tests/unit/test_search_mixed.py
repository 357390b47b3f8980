"""Mixed precision: the search on models of accuracy, and on real ones."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from onnx import TensorProto, numpy_helper

import onnxq
from onnxq.errors import ConfigError, DataError
from onnxq.planning.options import PlanOptions
from onnxq.planning.plan import Action, SharedWith
from onnxq.search.candidates import Candidates
from onnxq.search.fewest import Excluded, Search, TimeIsUpError
from onnxq.search.referee import Judgement
from onnxq.search.space import NotMadeError
from tests.graphs import model_of, normal
from tests.unit.test_search_effects import EMBEDDING, FEEDS, RESIDUAL, TOKENS, prepared_with

MODELS = Path(__file__).parents[2] / "models"
DIGITS = MODELS / "digits_resnet.onnx"
VNNI = "ort-x64-vnni"


def searched(cost: dict[str, int], noise: dict[str, float], ask: Callable[[Excluded], Judgement]) -> Search:
    search = Search(cost=cost, noise=noise, ask=ask)
    search.run()
    return search


def additive(noise: dict[str, float], limit: float) -> Callable[[Excluded], Judgement]:
    """Noise adds up; met where what is left is below the limit."""

    def ask(excluded: Excluded) -> Judgement:
        left = sum(value for name, value in noise.items() if name not in excluded)
        return Judgement(shortfall=max(0.0, left - limit), details=())

    return ask


def in_decibels(noise: dict[str, float], less_db: float) -> Callable[[Excluded], Judgement]:
    """Noise adds up and has to fall by so much; answers say by how much more."""
    total = sum(noise.values())

    def ask(excluded: Excluded) -> Judgement:
        left = sum(value for name, value in noise.items() if name not in excluded)
        missing = float(less_db + 10.0 * np.log10(max(left, 1e-30) / total))
        return Judgement(shortfall=max(0.0, missing / 3.0), details=(), missing_db=missing)

    return ask


def cut_off(search: Search, *, after: int) -> Search:
    """The search when its time was up after so many questions."""
    answers = search.ask

    def ask(excluded: Excluded) -> Judgement:
        if len(search.judged) == after:
            raise TimeIsUpError
        return answers(excluded)

    search.ask = ask
    with pytest.raises(TimeIsUpError):
        search.run()
    return search


@pytest.mark.parametrize("seed", range(20))
def test_search_is_near_the_best_of_all_sets(seed: int) -> None:
    """Noise adds up and costs differ: a knapsack. Greedy orders and giving back stay within a third of the best."""
    rng = np.random.default_rng(seed)
    names = [f"l{i}" for i in range(9)]
    noise = dict(zip(names, rng.exponential(size=9) ** 2, strict=True))
    cost = dict(zip(names, rng.integers(1, 50, 9).tolist(), strict=True))
    ask = additive(noise, 0.3 * sum(noise.values()))
    search = searched(cost, noise, ask)
    sets = [frozenset(s) for n in range(9) for s in itertools.combinations(names, n)]
    best = min(search.total(s) for s in sets if ask(s).met)
    assert search.judged[search.best].met
    assert search.total(search.best) <= max(best * 4 / 3, best + 3)
    assert len(search.judged) < 30
    for name in search.best:
        assert not ask(search.best - {name}).met


def test_equal_costs_give_the_fewest_layers() -> None:
    noise = {f"l{i}": 2.0**i for i in range(12)}
    search = searched(dict.fromkeys(noise, 7), noise, additive(noise, 100.0))
    assert search.best == {"l11", "l10", "l9", "l8", "l7", "l6"}  # 63 of noise is left


def test_one_dear_layer_with_most_of_the_noise_goes_alone() -> None:
    """An embedding of a small encoder: by noise for each unit of cost it comes last, behind all the others."""
    noise = {"table": 100.0, **{f"l{i}": 1.0 for i in range(30)}}
    cost = {"table": 5000, **{f"l{i}": 10 for i in range(30)}}
    search = searched(cost, noise, additive(noise, 35.0))
    assert search.best == {"table"}
    assert len(search.judged) < 12


@pytest.mark.parametrize("disorder", [0.0, 0.4])
@pytest.mark.parametrize("seed", range(10))
def test_a_demand_of_noise_is_met_with_few_questions(seed: int, disorder: float) -> None:
    """Answers say how much noise is missing: four questions come within a tenth of all cost of the search's end."""
    rng = np.random.default_rng(seed)
    names = [f"l{i}" for i in range(60)]
    noise = dict(zip(names, rng.lognormal(sigma=1.5, size=60), strict=True))
    cost = dict(zip(names, rng.integers(20, 50, 60).tolist(), strict=True))
    true = {name: value * np.exp(disorder * rng.standard_normal()) for name, value in noise.items()}
    answers = in_decibels(true, less_db=8.0)
    search = cut_off(Search(cost=cost, noise=noise, ask=answers), after=5)
    assert search.judged[search.best].met
    end = Search(cost=cost, noise=noise, ask=answers)
    end.run()
    assert search.total(search.best) - end.total(end.best) < 0.1 * sum(cost.values())


def test_layers_that_there_is_no_room_for_are_given_back_last() -> None:
    """Each of the loud layers alone breaks the budget; they are dearer, and still the quiet ones are tried first."""
    noise = {"loud": 50.0, "louder": 60.0, "quiet": 0.2, "hushed": 0.1, "rest": 3.0}
    cost = {"loud": 90, "louder": 90, "quiet": 5, "hushed": 5, "rest": 5}
    asked = list[Excluded]()
    answers = in_decibels(noise, less_db=10.0 * np.log10(sum(noise.values()) / 3.25))

    def ask(excluded: Excluded) -> Judgement:
        asked.append(excluded)
        return answers(excluded)

    search = Search(cost=cost, noise=noise, ask=ask)
    search.best = frozenset(noise) - {"rest"}
    search.judged = {frozenset(): answers(frozenset()), search.best: answers(search.best)}
    search._give_back()
    assert search.best == {"loud", "louder", "quiet"}
    assert [sorted(frozenset(noise) - {"rest"} - one) for one in asked][:2] == [["hushed"], ["hushed", "quiet"]]
    assert len(asked) == 4


def test_noise_that_swallows_the_rest_does_not_stop_the_search() -> None:
    """A layer that breaks an output counts 1e30, beside which the sum of the others is nothing."""
    noise = {"broken": 1e30, "a": 3.0, "b": 2.0, "c": 1.0}
    search = searched(dict.fromkeys(noise, 1), noise, additive(noise, 3.5))
    assert search.best == {"broken", "a"}


def test_nothing_goes_to_float_without_need() -> None:
    search = searched({"a": 1}, {"a": 1.0}, additive({"a": 1.0}, 2.0))
    assert (search.best, len(search.judged)) == (frozenset(), 1)


def test_a_budget_out_of_reach_gives_the_closest() -> None:
    noise = {"a": 5.0, "b": 3.0, "c": 1.0}
    search = searched(dict.fromkeys(noise, 1), noise, additive(noise, -1.0))
    assert search.best == {"a", "b"}
    assert not search.judged[search.best].met


def test_what_does_not_follow_the_order_is_still_met() -> None:
    """The layer that looks harmless alone is the one that matters; a prefix of any order finds it at its end."""
    noise = {"a": 9.0, "b": 8.0, "c": 7.0, "quiet": 0.1, "d": 0.01}

    def ask(excluded: Excluded) -> Judgement:
        return Judgement(shortfall=0.0 if "quiet" in excluded else 1.0, details=())

    assert searched(dict.fromkeys(noise, 1), noise, ask).best == {"quiet"}


def test_time_that_is_up_keeps_the_best() -> None:
    noise = {f"l{i}": 1.0 for i in range(8)}
    answers = additive(noise, 2.5)
    search = cut_off(Search(cost=dict.fromkeys(noise, 1), noise=noise, ask=answers), after=5)
    assert search.judged[search.best].met
    assert len(search.judged) == 5


# ---- whole models ------------------------------------------------------------------------------------------------


def data_of_digits(count: int) -> dict[str, np.ndarray]:
    with np.load(DIGITS.with_suffix(".test.npz")) as data:
        return {name: data[name][:count] for name in data.files}


def test_quantize_meets_an_sqnr() -> None:
    plain = onnxq.quantize(RESIDUAL, FEEDS, target=VNNI, placement="full", recover="bias")  # as the search does
    assert plain.search is None
    worst = plain.report.worst_sqnr_db
    assert worst is not None
    made = onnxq.quantize(RESIDUAL, FEEDS, target=VNNI, placement="full", min_sqnr=worst + 2)
    assert made.search is not None
    assert made.search.met
    assert made.report.passed
    assert 0 < made.search.float_macs < made.search.macs
    assert set(made.search.float_layers) == {
        d.node for d in made.plan.nodes if d.reason == "left in float for the accuracy budget"
    }
    judged = onnxq.verify(RESIDUAL, made.model, FEEDS, target=VNNI)
    assert judged.worst_sqnr_db is not None
    assert judged.worst_sqnr_db >= worst + 2 - 1e-6  # the search judged on all samples, and so does this


@pytest.mark.parametrize("target", ["ort-x64-avx2", "tensorrt", "openvino"])
def test_every_target_is_searched(target: str) -> None:
    made = onnxq.quantize(RESIDUAL, FEEDS, target=target, placement="full", min_cosine=0.9995)
    assert made.search is not None
    assert made.search.met
    assert made.report.passed


def test_quantize_meets_a_drop_with_labels_beside_the_samples() -> None:
    made = onnxq.quantize(DIGITS, data_of_digits(200), target=VNNI, placement="full", max_drop="0.5%", batch_size=50)
    assert made.search is not None
    assert (made.search.met, made.search.judged, made.search.samples) == (True, 1, 200)
    assert "top1 changes by +0.00 points" in made.search.details[0]
    # One of 200 images is half a point already.
    assert made.search.doubts[0].startswith("on 200 samples a fall by 1.4 points is within chance")


def right(outputs, labels):
    return (outputs["logits"].argmax(1) == labels).astype(float)


def near(outputs, labels):
    return np.where(outputs["logits"].argmax(1) == labels, 0.75, 0.25)


@pytest.mark.parametrize(
    ("metric", "doubt"),
    [(right, "on 50 samples a fall by 5.3 points is within chance"), (near, "on 50 samples a larger fall is within")],
)
def test_metrics_of_the_user_are_doubted_like_others(metric, doubt: str) -> None:
    made = onnxq.quantize(
        DIGITS, data_of_digits(50), target=VNNI, placement="full", max_drop="0.5%", batch_size=50, metric=metric
    )
    assert made.search is not None
    assert (made.search.met, made.search.judged) == (True, 1)
    assert made.search.doubts[0].startswith(doubt)
    assert "inf" not in made.search.details[0]


def test_a_fall_that_was_measured_is_no_matter_of_chance() -> None:
    """Closeness to the float model's outputs falls with any quantization."""
    session = onnxruntime.InferenceSession(RESIDUAL.SerializeToString(), providers=["CPUExecutionProvider"])
    labels = np.concatenate([session.run(["y"], feed)[0].max(1) for feed in FEEDS])
    made = onnxq.quantize(
        RESIDUAL, FEEDS, target=VNNI, placement="full", labels=labels, max_drop=1e-6, search_seconds=1e-9,
        metric=lambda outputs, wanted: -np.abs(outputs["y"].max(1) - wanted),
    )  # fmt: skip
    assert made.search is not None
    assert not made.search.met
    assert not [doubt for doubt in made.search.doubts if "within chance" in doubt]


def test_a_metric_of_the_user_is_searched_for() -> None:
    """Closeness of the largest logit to what float gives: a drop of 100 points is a difference of 1."""
    session = onnxruntime.InferenceSession(RESIDUAL.SerializeToString(), providers=["CPUExecutionProvider"])
    labels = np.concatenate([session.run(["y"], feed)[0].max(1) for feed in FEEDS])

    def closeness(outputs, labels):
        return 1.0 - np.abs(outputs["y"].max(1) - labels)

    def found(max_drop: float):
        return onnxq.quantize(
            RESIDUAL, FEEDS, target=VNNI, placement="full", metric=closeness, labels=labels, max_drop=max_drop
        ).search

    loose, tight = found(20.0), found(2.0)
    assert (loose.met, loose.float_layers) == (True, ())
    assert tight.met
    assert tight.float_layers


def test_a_budget_that_cannot_be_met_fails_the_report() -> None:
    made = onnxq.quantize(RESIDUAL, FEEDS, target=VNNI, placement="full", min_sqnr=500.0)
    assert made.search is not None
    assert not made.search.met
    assert not made.report.passed
    assert "accuracy budget" in made.report.failed_checks[0].name
    assert any(d.action is Action.INT8 for d in made.plan.nodes)


def test_an_interrupt_gives_the_best_model_so_far() -> None:
    def stop(now) -> None:
        if getattr(now, "stage", "") == "searching" and now.samples >= 2:
            raise KeyboardInterrupt

    made = onnxq.quantize(RESIDUAL, FEEDS, target=VNNI, placement="full", min_sqnr=60.0, progress=stop)
    assert made.search is not None
    assert made.search.stopped == "interrupted"
    assert made.search.judged == 2
    told = "the search was not through (interrupted); a longer one may meet the demand: search_seconds="
    assert any(told in note for note in made.report.notes)


def test_a_time_limit_ends_the_search() -> None:
    made = onnxq.quantize(RESIDUAL, FEEDS, target=VNNI, placement="full", min_sqnr=60.0, search_seconds=1e-6)
    assert made.search is not None
    assert made.search.stopped == "the time was over"


def test_generators_and_other_samples_are_judged_on() -> None:
    made = onnxq.quantize(RESIDUAL, iter(FEEDS), target=VNNI, placement="full", min_cosine=0.9)
    assert made.search is not None
    assert made.search.samples == 12
    other = onnxq.quantize(RESIDUAL, FEEDS, target=VNNI, placement="full", min_cosine=0.9, eval_data=iter(FEEDS[:1]))
    assert other.search is not None
    assert other.search.samples == 4


def test_statistics_serve_a_search() -> None:
    stats = onnxq.calibrate(RESIDUAL, FEEDS, target=VNNI, placement="full")
    fresh = onnxq.quantize(RESIDUAL, FEEDS, target=VNNI, placement="full", min_sqnr=52.0, stats=stats)
    assert fresh.search is not None
    assert len(fresh.stats) == len(stats)


def test_layers_in_float_keep_their_weights_and_biases() -> None:
    """Bias correction makes up for rounded weights: a layer that stays float must not get it."""
    made = onnxq.quantize(RESIDUAL, FEEDS, target=VNNI, placement="full", min_sqnr=52.0)
    assert made.search is not None
    assert made.search.float_layers
    values = {t.name: numpy_helper.to_array(t) for t in made.model.graph.initializer}
    source = {t.name: numpy_helper.to_array(t) for t in RESIDUAL.graph.initializer}
    nodes = {n.name: n for n in made.model.graph.node}
    for name in made.search.float_layers:
        for tensor in nodes[name].input[1:]:
            # A bias that the layer was given for the correction is still zero.
            assert np.array_equal(values[tensor], source.get(tensor, np.zeros_like(values[tensor])))


def test_a_pool_behind_a_float_layer_keeps_the_range_of_its_input() -> None:
    """In the whole plan `p` shares the parameters of `e`; with c2 in float it stands alone, and has no statistics."""
    made = onnxq.quantize(RESIDUAL, FEEDS, target=VNNI, placement="full", min_sqnr=52.0)
    again = onnxq.quantize(RESIDUAL, FEEDS, target=VNNI, placement="full", exclude=["c2", "add", "r2"])
    assert "p" in again.qparams
    assert made.report.passed or made.search is not None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"labels": [1]}, r"labels= \(--labels\) serves a search, and there is nothing to search for"),
        ({"search_seconds": 5}, r"search_seconds= \(--search-seconds\) serves a search"),
        ({"max_drop": "much"}, "max_drop is 'much'"),
        ({"max_drop": -1}, "max_drop is -1"),
        ({"max_drop": 1}, r"top1 needs labels\nHint: .* without labels there are min_sqnr= and min_cosine= \("),
        ({"max_drop": 1, "metric": "top7"}, r"unknown metric 'top7'\nHint: .* is one of top1, top5 or FILE"),
        ({"max_drop": 1, "metric": "sqnr"}, "sqnr compares with the float model itself"),
        ({"min_cosine": 1.5}, r"min_cosine is 1\.5"),
        ({"min_sqnr": float("nan")}, "min_sqnr is nan"),
        ({"min_sqnr": 30, "search_seconds": 0}, "search_seconds is 0"),
        ({"min_sqnr": 30, "labels": [1]}, "a metric and labels are judged by how far they fall"),
        ({"min_sqnr": 30, "data": None}, "a search needs real samples"),
        ({"max_drop": 1, "labels": [0] * 12, "output_name": "q"}, r"no output 'q'.*\nHint: output_name= \("),
        ({"max_drop": 1, "labels": [0, 1], "output_name": "y"}, "2 labels for 4 samples|2 labels for 12 samples"),
        ({"max_drop": 1, "labels": [0] * 12}, "the model has 2 outputs"),
    ],
)
def test_what_cannot_be_searched_for_is_refused(arguments: dict, message: str) -> None:
    with pytest.raises((ConfigError, DataError), match=message):
        onnxq.quantize(**({"model": RESIDUAL, "data": FEEDS, "target": VNNI, "placement": "full"} | arguments))


def test_names_with_brackets_are_taken_literally() -> None:
    model = model_of(
        """(float[n, 32] x) => (float[n, 32] y) {
           [fc] a = MatMul(x, w)
           [r] b = Relu(a)
           [fc2] y = MatMul(b, v)
        }""",
        w=normal(32, 32, seed=1), v=normal(32, 32, seed=2),
    )  # fmt: skip
    model.graph.node[0].name = "fc[2]"
    made = onnxq.quantize(model, [{"x": normal(8, 32)}], target=VNNI, placement="full", min_sqnr=400.0)
    assert made.search is not None
    assert len(made.search.float_layers) == 1


def test_statistics_and_other_samples_are_enough_for_a_search() -> None:
    stats = onnxq.calibrate(RESIDUAL, FEEDS, target=VNNI, placement="full")
    made = onnxq.quantize(
        RESIDUAL, target=VNNI, placement="full", stats=stats, eval_data=FEEDS, min_sqnr=48.0, recover="none"
    )
    assert made.search is not None
    assert made.search.float_layers


def test_a_layer_with_an_override_can_go_to_float() -> None:
    """In 4 bits c2 is what hurts; in a plan of the user's an override of a node in float would be an error."""
    narrow = {"nodes": "c2", "weight_bits": 4}
    made = onnxq.quantize(RESIDUAL, FEEDS, target=VNNI, placement="full", overrides=[narrow], min_sqnr=40)
    assert made.search is not None and made.search.met
    assert "c2" in made.search.float_layers
    other = onnxq.quantize(
        RESIDUAL, FEEDS, target=VNNI, placement="full", overrides=[{"nodes": "mm", "weight_bits": 6}], min_cosine=0.999
    )
    assert other.search is not None and other.search.met
    assert "mm" not in other.search.float_layers
    assert other.plan.tensors["w4"].spec.bits == 6


def test_candidates_keep_the_parameters_of_the_whole_plan() -> None:
    """Recovery may have changed weights and their scales: a candidate that solved its own would lose that."""
    prepared, bench, _ = prepared_with(RESIDUAL, FEEDS, VNNI)
    doubled = {k: replace(p, scale=2 * p.scale) for k, p in bench.qparams.items()}
    candidates = Candidates(
        prepared=prepared, options=PlanOptions(placement="full"), qparams=doubled, recovered=prepared.graph
    )
    made = candidates.make(["c2"])
    assert {"w1", "b", "p"} <= set(made.qparams)
    assert "w2" not in made.qparams
    assert all(params.scale is doubled[key].scale for key, params in made.qparams.items())
    assert not isinstance(made.plan.tensors["p"].source, SharedWith)  # it shared with `e` in the whole plan
    assert isinstance(prepared.plan.tensors["p"].source, SharedWith)


def test_candidates_outside_of_the_whole_plan_are_not_made() -> None:
    prepared, bench, _ = prepared_with(RESIDUAL, FEEDS, VNNI)
    less = {key: tensor for key, tensor in prepared.plan.tensors.items() if key != "b"}
    part = replace(prepared, plan=replace(prepared.plan, tensors=less))
    candidates = Candidates(
        prepared=part, options=PlanOptions(placement="full"), qparams=bench.qparams, recovered=prepared.graph
    )
    with pytest.raises(NotMadeError, match="b"):
        candidates.make(["c3"])


def test_an_embedding_goes_to_float_where_the_budget_needs_it() -> None:
    made = onnxq.quantize(EMBEDDING, TOKENS, target=VNNI, placement="full", recover="none")
    assert made.report.worst_sqnr_db is not None and 40 < made.report.worst_sqnr_db < 55
    assert any(t.data_type == TensorProto.INT8 and t.dims == [600, 32] for t in made.model.graph.initializer)
    searched = onnxq.quantize(EMBEDDING, TOKENS, target=VNNI, placement="full", recover="none", min_sqnr=60)
    assert searched.search is not None and searched.search.met
    assert searched.search.float_layers == ("emb",)
    assert (searched.search.float_macs, searched.search.macs) == (0, 5 * 32**2)
    assert not any(t.data_type == TensorProto.INT8 and t.dims == [600, 32] for t in searched.model.graph.initializer)
    assert searched.report.worst_sqnr_db is not None and searched.report.worst_sqnr_db >= 60


def test_a_search_that_ends_without_meeting_the_demand_says_why() -> None:
    single = model_of("(float[N,64] x) => (float[N,64] y) { [fc] y = MatMul(x, w) }", w=normal(64, 64))
    options = {"target": "ort-x64-avx2", "placement": "full", "recover": "none", "min_sqnr": 200.0}
    made = onnxq.quantize(single, [{"x": normal(4, 64, seed=s)} for s in range(3)], **options)
    assert any("the search had nothing to choose: one layer can be quantized" in n for n in made.report.notes)
    double = model_of(
        "(float[N,64] x) => (float[N,64] y) { [one] a = MatMul(x, w) b = Relu(a) [two] y = MatMul(b, w) }",
        w=normal(64, 64),
    )
    made = onnxq.quantize(double, [{"x": normal(4, 64, seed=s)} for s in range(3)], **options)
    assert any("one layer at least of 2 stays quantized" in note for note in made.report.notes)
