"""The search for the fastest placement, with models whose speed is known beforehand."""

from __future__ import annotations

import platform
import time
from typing import Any

import numpy as np
import pytest

import onnxq
from onnxq.errors import ConfigError, EngineMissingError, ModelError
from onnxq.graph.view import Graph
from onnxq.modes import tuned
from onnxq.planning.input_payoff import HANDS_ON_CODES
from onnxq.targets import TARGETS
from onnxq.tuning import latency
from onnxq.tuning import search as search_module
from onnxq.tuning.blocks import blocks
from onnxq.tuning.race import Feed, Race, race
from onnxq.tuning.search import Floats, Racing, Search
from onnxq.tuning.timers import ONNXRUNTIME, Model, Timer, loaded, timers_of
from onnxq.verification.engines import openvino
from tests.graphs import graph_of, model_of, normal
from tests.planned import planned

CONV = "(float[1,16,16,16] x) => (float[1,16,16,16] y) { [c] y = Conv<pads=[1,1,1,1]>(x, w) }"
FEED = {"x": normal(1, 16, 16, 16)}
CLOSE = (1 - 1e-3) * normal(16, 16, 3, 3)
FAR = 0.2 * normal(16, 16, 3, 3)


def conv() -> Graph:
    return graph_of(CONV, w=normal(16, 16, 3, 3))


def search(builds: dict[Floats, Graph], **racing: Any) -> Search:
    return Search(builds.get, conv(), [FEED], FEED, Racing(**racing))


A, B, NONE = frozenset("a"), frozenset("b"), frozenset[str]()


def test_a_race_tells_the_faster_one() -> None:
    def spin(milliseconds: float) -> Any:
        def run(_: Any) -> None:
            until = time.thread_time() + milliseconds / 1e3
            while time.thread_time() < until:
                pass

        return run

    found = race(spin(1.0), spin(2.0), {}, one_thread=True)
    # CPU time, measured in turns: a factor of two cannot be mistaken for one of 1.5.
    assert 1.5 < found.ratio < 2.7
    assert found.challenger_ms > found.champion_ms


def heavy(repeats: int, weight: Any = None) -> Graph:
    """A Conv whose branch of `repeats` Convs adds nothing: their weights are zero."""
    chain = " ".join(f"[z{i}] q{i + 1} = Conv<pads=[1,1,1,1]>(q{i}, zero)" for i in range(repeats))
    text = (
        f"(float[1,16,16,16] x) => (float[1,16,16,16] y) {{ [s] q0 = Relu(x) {chain} "
        f"[c] k = Conv<pads=[1,1,1,1]>(x, w) [zz] last = Conv<pads=[1,1,1,1]>(q{repeats}, zero) [a] y = Add(k, last) }}"
    )
    return graph_of(
        text, w=normal(16, 16, 3, 3) if weight is None else weight, zero=np.zeros((16, 16, 3, 3), np.float32)
    )


def test_the_fastest_placement_is_kept() -> None:
    builds = {A: heavy(24), NONE: heavy(0), A | B: heavy(23)}
    found = search(builds).run(A, NONE, lambda floats: [])
    assert found.floats == NONE
    assert not found.is_default
    assert found.best_ms < found.default_ms
    assert [t.kept for t in found.trials] == [True]
    assert "default placement" in found.summary()


def test_an_equally_fast_placement_is_not_kept() -> None:
    found = search({A: heavy(8, CLOSE), NONE: heavy(8, CLOSE)}).run(A, NONE, lambda floats: [])
    assert found.is_default
    assert [t.change for t in found.trials] == ["every node in int8 that can"]
    assert "none is faster than the default one" in found.summary()


def test_a_faster_placement_that_is_wrong_is_not_kept() -> None:
    builds = {A: heavy(24, CLOSE), NONE: heavy(0, FAR)}
    found = search(builds).run(A, NONE, lambda floats: [])
    assert found.floats == A
    assert not found.trials[0].kept
    assert found.trials[0].sqnr_db is not None


def test_blocks_that_help_are_put_together() -> None:
    builds = {NONE: heavy(30), A: heavy(20), B: heavy(20), A | B: heavy(0)}
    found = search(builds).run(NONE, NONE, lambda floats: [("a", A), ("b", B)])
    assert found.floats == A | B
    assert [t.change for t in found.trials] == ["a in float", "b in float", "the 2 changes together that helped most"]


def test_a_placement_that_cannot_be_built_is_passed_over() -> None:
    found = search({NONE: heavy(2)}).run(NONE, NONE, lambda floats: [("a", A)])
    assert found.trials == ()
    assert found.is_default


def test_the_time_limit_ends_the_search() -> None:
    found = search({NONE: heavy(2), A: heavy(0)}, seconds=1e-9).run(NONE, NONE, lambda floats: [("a", A)])
    assert found.stopped == "time limit"
    assert found.floats == NONE


def test_an_interrupt_keeps_the_best_so_far() -> None:
    def told(count: int, change: str) -> None:
        raise KeyboardInterrupt

    builds = {A: heavy(24), NONE: heavy(0)}
    found = search(builds, progress=told).run(A, NONE, lambda floats: [("b", B)])
    assert found.stopped == "interrupted"
    assert "interrupted" in found.summary()
    assert len(found.trials) == 1


def test_blocks_are_regions_then_nodes_then_dear_nodes() -> None:
    text = """(float[N,16,8,8] x) => (float[N,16,8,8] y) {
    [c1] a = Conv(x, w)
    [h] b = HardSigmoid(a)
    [c2] c = Conv(b, w)
    [c3] y = Conv(c, w)
    }"""
    graph = graph_of(text, w=normal(16, 16, 1, 1))
    found = list(blocks(graph, planned(graph), {"Conv"}, {"h"}))
    assert found == [
        ("'c1'", frozenset({"c1"})),
        ("'c2', 'c3'", frozenset({"c2", "c3"})),
        ("'c1'", frozenset({"c1"})),
        ("'c2'", frozenset({"c2"})),
        ("'c3'", frozenset({"c3"})),
    ]


NET = """(float[N,16,12,12] x) => (float[N,16,12,12] y) {
[c1] a = Conv<pads=[1,1,1,1]>(x, w)
[h] b = HardSigmoid(a)
[dw] c = Conv<pads=[2,2,2,2], group=16>(b, v)
[c3] y = Conv(c, u)
}"""


def test_quantize_tunes_and_tells() -> None:
    model = model_of(NET, w=normal(16, 16, 3, 3), v=normal(16, 1, 5, 5), u=normal(16, 16, 1, 1))
    data = [{"x": normal(2, 16, 12, 12, seed=i)} for i in range(6)]
    told: list[int] = []
    result = onnxq.quantize(
        model,
        data,
        target="ort-cpu",
        tune="latency",
        tune_seconds=20,
        tune_progress=lambda count, what: told.append(count),
    )
    assert result.report
    assert result.tuning is not None
    assert told == list(range(1, len(result.tuning.trials) + 1))
    assert any(note.startswith("tuned for latency on this machine") for note in result.report.notes)


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"tune": "size"}, "unknown aim 'size'"),
        ({"tune": "latency", "tune_seconds": 0.0}, "the time limit is 0.0 s"),
        ({"tune": "latency", "method": "moving-average"}, "tuning needs statistics of all tensors"),
        ({"tune": "latency", "target": "tensorrt"}, "TensorRT runs on a GPU, where onnxq times nothing"),
        ({"tune": "latency", "target": "qnn"}, "the engine of qnn does not run there"),
    ],
)
def test_what_cannot_be_tuned_is_refused(keywords: dict[str, Any], message: str) -> None:
    model = model_of(CONV, w=normal(16, 16, 3, 3))
    with pytest.raises(ConfigError, match=message) as error:
        onnxq.quantize(model, [FEED], **keywords)
    assert "--t" in str(error.value.hint)


def test_placements_for_other_machines_are_not_raced() -> None:
    other = "ort-x64-vnni" if platform.machine().lower() in ("aarch64", "arm64") else "ort-arm64"
    with pytest.raises(ConfigError, match=f"{other} is for machines of another kind"):
        onnxq.quantize("no such.onnx", target=other, tune="latency")


def test_an_engine_that_is_missing_is_told_before_any_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openvino, "is_installed", lambda: False)
    with pytest.raises(EngineMissingError, match="OpenVINO is not installed") as error:
        onnxq.quantize("no such.onnx", target="openvino", tune="latency")
    assert "pip install 'onnxq[openvino]'" in str(error.value.hint)
    assert timers_of(TARGETS["openvino"]) == ()


def test_where_an_engine_refuses_one_model_the_next_way_takes_all() -> None:
    """In bfloat16 OpenVINO refuses some models, and two of a race must not differ in that."""
    taken: list[str] = []

    def picky(graph: Graph, threads: int | None) -> Model:
        taken.append(f"picky {len(graph.nodes)}")
        if len(graph.nodes) > 1:
            raise ModelError("no suitable implementations")
        return ONNXRUNTIME.load(graph, threads)

    timers = [Timer(title="picky", load=picky), ONNXRUNTIME]
    graphs = [conv(), heavy(1)]
    timer, models = loaded(timers, graphs, 1)
    assert (timer, len(models)) == (ONNXRUNTIME, 2)
    assert taken == ["picky 1", f"picky {len(graphs[1].nodes)}"]
    assert loaded(timers, graphs[:1], 1)[0].title == "picky"
    with pytest.raises(ModelError, match="no suitable implementations"):
        loaded(timers[:1], graphs, 1)


def test_accuracy_is_that_of_the_engine_against_exact_floats() -> None:
    """An engine that computes float and the fast placement wrong, alike, and only the default placement right."""

    def load(graph: Graph, threads: int | None) -> Model:
        exact, wrong = ONNXRUNTIME.load(graph, threads), graph is not slow

        def run(feed: Feed) -> dict[str, Any]:
            return {name: value + wrong for name, value in exact(feed).items()}

        return run

    slow = heavy(24, CLOSE)
    racing = Racing(timers=(Timer(title="an engine", load=load),))
    found = Search({A: slow, NONE: heavy(0, CLOSE)}.get, conv(), [FEED], FEED, racing).run(A, NONE, lambda floats: [])
    assert found.floats == A
    assert found.trials[0].sqnr_db is not None
    assert found.trials[0].sqnr_db < 30.0  # the models themselves are 60 dB apart
    assert "under an engine" in found.summary()


def test_a_placement_that_fails_when_run_is_passed_over() -> None:
    def load(graph: Graph, threads: int | None) -> Model:
        model, broken = ONNXRUNTIME.load(graph, threads), graph is fast

        def run(feed: Feed) -> Any:
            if broken:
                raise ModelError("cannot be run")
            return model(feed)

        return run

    fast = heavy(0)
    racing = Racing(timers=(Timer(title="an engine", load=load),))
    found = Search({A: heavy(2), NONE: fast}.get, conv(), [FEED], FEED, racing).run(A, NONE, lambda floats: [])
    assert found.is_default
    assert found.trials == ()


def test_something_stays_in_int8_however_fast_float_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """Races that the model with fewer pairs always wins."""
    counts: dict[int, int] = {}

    def load(graph: Graph, threads: int | None) -> Model:
        model = ONNXRUNTIME.load(graph, threads)
        counts[id(model)] = sum(node.op_type == "QuantizeLinear" for node in graph.nodes)
        return model

    def by_pairs(champion: Any, challenger: Any, *_: Any, **__: Any) -> Race:
        ratio = 0.5 if counts[id(challenger)] < counts[id(champion)] else 2.0
        return Race(ratio=ratio, low_ratio=ratio, champion_ms=1.0, challenger_ms=ratio)

    monkeypatch.setattr(search_module, "race", by_pairs)
    monkeypatch.setattr(tuned, "timers_of", lambda _: (Timer(title="an engine", load=load),))
    model = model_of(NET, w=normal(16, 16, 3, 3), v=normal(16, 1, 5, 5), u=normal(16, 16, 1, 1))
    data = [{"x": normal(2, 16, 12, 12, seed=i)} for i in range(6)]
    result = onnxq.quantize(model, data, target="openvino", tune="latency", placement="full", recover="none")
    assert result.tuning is not None
    assert not result.tuning.is_default
    assert [d.node for d in result.plan.nodes if d.action.value == "int8"] != []


def test_blocks_where_pairs_stand_on_inputs_reach_over_what_hands_codes_on() -> None:
    text = """(float[N,16,8,8] x) => (float[N,16,8,8] y) {
    [c1] a = Conv(x, w)
    [h] b = HardSwish(a)
    [c2] c = Conv(b, w)
    [s] d = Softmax(c)
    [c3] y = Conv(d, w)
    }"""
    graph = graph_of(text, w=normal(16, 16, 1, 1))
    found = list(blocks(graph, planned(graph, target="openvino"), {"Conv"}, (), HANDS_ON_CODES))
    assert [names for _, names in found] == [{"c1", "c2"}, {"c3"}, {"c1"}, {"c2"}, {"c3"}]


def test_reports_time_on_one_thread_that_other_work_does_not_slow_down(monkeypatch: pytest.MonkeyPatch) -> None:
    threads, races = [], []

    def load(graph: Graph, count: int | None) -> Model:
        threads.append(count)
        return ONNXRUNTIME.load(graph, count)

    def watched(*given: Any, **options: Any) -> Race:
        races.append(options["one_thread"])
        return race(*given, **options)

    monkeypatch.setattr(latency, "race", watched)
    model = graph_of("(float[n, 64] x) => (float[n, 64] y) { y = MatMul(x, w) }", w=normal(64, 64))
    timers = [Timer(title="an engine", load=load)]
    found = latency.measure_latency(timers, model, model, {"x": normal(8, 64)}, seconds=0.01)
    assert found is not None
    assert found.engine == "an engine"
    assert (threads, races) == ([1, 1], [True])


def test_an_override_of_a_node_that_a_placement_keeps_in_float() -> None:
    """It is about the plan: a placement in which nothing is left of it is one like any other."""
    text = """(float[N,8,8,8] x) => (float[N,8,8,8] y) {
        [one] a = Conv<pads=[1,1,1,1]>(x, w) r = Relu(a) [two] y = Conv<pads=[1,1,1,1]>(r, v) }"""
    model = model_of(text, w=normal(8, 8, 3, 3), v=normal(8, 8, 3, 3, seed=1))
    data = [{"x": normal(1, 8, 8, 8, seed=seed)} for seed in range(8)]
    one = {"nodes": "two", "weight": "uint8"}
    made = onnxq.quantize(
        model, data, target="ort-cpu", tune="latency", tune_seconds=60.0, recover="none", overrides=[one]
    )
    assert made.tuning is not None and len(made.tuning.trials) > 1
