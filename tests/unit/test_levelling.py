"""Tensors that one scale serves badly get even channels, without calibrating anew; others are left alone."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import onnxq
from onnxq.calibration.methods import method_from_name
from onnxq.calibration.runner import CollectOptions, collect
from onnxq.calibration.solve import ranges_from_stats, solve_from_ranges
from onnxq.calibration.statistics.table import StatsTable
from onnxq.data.batches import Batches
from onnxq.data.inputs import InputSpecs
from onnxq.data.sources import open_data
from onnxq.graph.shapes import infer_shapes
from onnxq.graph.view import Graph
from onnxq.inference.outputs import with_outputs
from onnxq.passes.quantize.give_biases import GiveBiases
from onnxq.planning.options import FULL, PlanOptions
from onnxq.planning.plan import Fixed, QuantPlan, Role
from onnxq.planning.planner import make_plan
from onnxq.recovery import levelling
from onnxq.recovery.levelling import Levelled, level_channels
from onnxq.targets import TARGETS
from tests.graphs import computed, graph_of, model_of, normal
from tests.unit.test_reconstruction import noise

OPTIONS = CollectOptions(threads=1)
METHOD = method_from_name("auto")
REACH = np.ones(16, np.float32)
REACH[3] = 30.0

SCALED = """(float[n,16,9,9] x) => (float[n,16,c,d] y) {
    h = HardSwish(x)  m = Mul(h, s)  r = Add(m, o)  y = Conv(r, w2, b2)
}"""
"""A scaled hard swish, as of PP-LCNetV3: nothing can be moved through it, but its two numbers can become vectors."""


def scaled(reach: Any = REACH, **constants: Any) -> dict[str, Any]:
    return {
        "s": np.full(1, 0.7, np.float32), "o": np.full(1, 0.1, np.float32),
        "w2": normal(16, 16, 1, 1, seed=2) / reach[:, None, None], "b2": normal(16, seed=3),
    } | constants  # fmt: skip


def planned(graph: Graph, target: str, **options: Any) -> QuantPlan:
    infer_shapes(graph)
    GiveBiases().run(graph)
    return make_plan(graph, TARGETS[target], options=PlanOptions(placement=FULL, **options), digest="")


def images(count: int, seed: int) -> Any:
    return normal(count, 16, 9, 9, seed=seed) * REACH[:, None, None]


def batches(graph: Graph, *seeds: int, size: float = 1.0) -> Batches:
    feeds = [{"x": images(2, seed) * np.float32(size)} for seed in seeds]
    return open_data(feeds, inputs=InputSpecs.from_graph(graph))


def seen(graph: Graph, plan: QuantPlan, data: Batches) -> StatsTable:
    return collect(graph, plan.observed(), data, digest="", options=OPTIONS)


def levelled(
    graph: Graph,
    plan: QuantPlan,
    stats: StatsTable | None = None,
    data: Batches | None = None,
    *,
    again: Batches | None = None,
    divides: bool = False,
) -> Levelled:
    data = batches(graph, *range(6)) if data is None else data
    stats = seen(graph, plan, data) if stats is None else stats
    ranges = ranges_from_stats(plan, stats, METHOD).ranges
    samples = list(data.stream())
    return level_channels(
        graph, plan, ranges, stats=stats, method=METHOD, samples=samples, calibration=again, options=OPTIONS,
        divides=divides,
    )  # fmt: skip


@pytest.mark.parametrize("target", ["ort-x64-vnni", "tensorrt"])
def test_a_channel_that_reaches_far_is_made_even(target: str) -> None:
    graph = graph_of(SCALED, **scaled())
    plan = planned(graph, target)
    result = levelled(graph, plan)
    assert list(result.stats) == ["r"]
    stats = seen(graph, plan, batches(graph, *range(6)))
    before = solve_from_ranges(graph, plan, ranges_from_stats(plan, stats, METHOD).ranges, TARGETS[target])
    after = solve_from_ranges(result.graph, plan, result.ranges, TARGETS[target])
    others = list(batches(graph, 100, 101).stream())
    # One channel of 16 leaves the others a thirtieth of the codes.
    assert noise(graph, result.graph, plan, after, others) < 0.2 * noise(graph, graph, plan, before, others)
    x = images(2, 200)
    (want,), (got,) = computed(graph, {"x": x}), computed(result.graph, {"x": x})
    # Each constant is rounded once more, 2^-24 of it.
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-5 * np.abs(want).max())


def test_a_depthwise_layer_loses_nothing() -> None:
    """Its weights have a scale for each of these channels: all of them come to fill the range."""
    text = SCALED.replace("Conv(r, w2, b2)", "Conv<group=16>(r, w2, b2)")
    graph = graph_of(text, **scaled(w2=normal(16, 1, 3, 3, seed=2) / REACH[:, None, None, None]))
    plan = planned(graph, "ort-x64-vnni")
    result = levelled(graph, plan)
    assert list(result.stats) == ["r"]
    x = images(8, 7)
    reach = [_reach(g, x) for g in (graph, result.graph)]
    assert reach[0].max() > 15 * np.median(reach[0])
    assert reach[1].max() < 3 * np.median(reach[1])


def _reach(graph: Graph, x: Any) -> Any:
    """Largest magnitude of each channel of `r`."""
    return np.abs(computed(with_outputs(graph, ["r"]), {"x": x})[0]).max(axis=(0, 2, 3))


def test_even_channels_are_left_alone() -> None:
    graph = graph_of(SCALED, **scaled())
    plan, even = planned(graph, "ort-x64-vnni"), [{"x": normal(2, 16, 9, 9, seed=seed)} for seed in range(6)]
    data = open_data(even, inputs=InputSpecs.from_graph(graph))
    assert levelled(graph, plan, data=data).graph is graph


def test_a_range_that_the_user_fixed_stays() -> None:
    graph = graph_of(SCALED, **scaled())
    plan = planned(graph, "ort-x64-vnni")
    fixed = replace(plan.tensors["r"], source=Fixed(rmin=-1.0, rmax=50.0))
    assert levelled(graph, replace(plan, tensors={**plan.tensors, "r": fixed})).graph is graph


def test_a_number_with_a_code_of_its_own_stays_one_number() -> None:
    """On a target that multiplies codes, the factor is quantized with one scale."""
    graph = graph_of(SCALED, **scaled())
    plan = planned(graph, "qnn")
    assert plan.tensors["s"].role is Role.CONSTANT
    assert levelled(graph, plan).graph is graph


def test_with_few_samples_or_very_large_weights_nothing_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    graph = graph_of(SCALED, **scaled())
    plan = planned(graph, "ort-x64-vnni")
    stats = seen(graph, plan, batches(graph, 0))
    ranges = ranges_from_stats(plan, stats, METHOD).ranges
    few = list(batches(graph, *range(3)).stream())
    result = level_channels(graph, plan, ranges, stats=stats, method=METHOD, samples=few, options=OPTIONS)
    assert (result.graph, result.ranges, result.notes) == (graph, ranges, ())
    monkeypatch.setattr(levelling, "MOST_WEIGHTS_BYTES", 4 * 16 * 16 - 1)
    assert levelled(graph, plan).graph is graph


def test_ranges_reach_as_far_as_all_data_did() -> None:
    """The samples are a part of the data: what reaches twice as far in all of it does so in the divided tensor."""
    graph = graph_of(SCALED, **scaled())
    plan = planned(graph, "ort-x64-vnni")
    alike, wide = levelled(graph, plan), levelled(graph, plan, seen(graph, plan, batches(graph, *range(6), size=2.0)))
    assert float(wide.ranges["r"].rmax) > 1.7 * float(alike.ranges["r"].rmax)


def test_quantize_says_so_and_takes_its_statistics_again() -> None:
    """Statistics are of the model as it came, so another run has the same bytes from them."""
    model = model_of(SCALED, **scaled())
    data = [{"x": images(1, i)} for i in range(16)]
    result = onnxq.quantize(model, data, target="tensorrt", details=True)
    assert "levelling: channels of 1 tensor made even, first 'r'" in result.report.notes
    again = onnxq.quantize(model, data, target="tensorrt", stats=result.stats)
    assert again.model.graph == result.model.graph
    plain = onnxq.quantize(model, data, target="tensorrt", recover="reconstruct")
    # 40 dB; with channel 3 setting the step of all others 23.
    assert result.report.worst_sqnr_db > plain.report.worst_sqnr_db + 6


def seldom(*seeds: int) -> list[dict[str, Any]]:
    """Images of which channel 5 is active in none, but in the last it reaches as far as channel 3."""
    feeds = [{"x": images(2, seed)} for seed in seeds]
    for feed in feeds:
        feed["x"][:, 5] *= 0.01
    feeds[-1]["x"][:, 5] = feeds[-1]["x"][:, 3]
    return feeds


def test_a_channel_that_is_seldom_active_is_not_cut_off_where_it_is() -> None:
    graph = graph_of(SCALED, **scaled())
    plan = planned(graph, "ort-x64-vnni")
    specs, feeds = InputSpecs.from_graph(graph), seldom(*range(7))
    few, whole = open_data(feeds[:6], inputs=specs), open_data(feeds, inputs=specs)
    stats = seen(graph, plan, whole)
    blind, told = levelled(graph, plan, stats, few), levelled(graph, plan, stats, few, again=whole)
    last = feeds[-1]["x"]
    reach = [_reach(result.graph, last)[5] / float(result.ranges["r"].rmax) for result in (blind, told)]
    assert reach[0] > 5
    assert reach[1] <= 1 / levelling.LEAST_COVERED + 1e-5  # float32 rounding


def test_max_covers_all_data() -> None:
    graph = graph_of(SCALED, **scaled())
    plan = planned(graph, "ort-x64-vnni")
    specs, feeds = InputSpecs.from_graph(graph), [{"x": images(2, seed)} for seed in range(7)]
    feeds[-1]["x"] = feeds[-1]["x"] * np.float32(3.0)
    stats, most = seen(graph, plan, open_data(feeds, inputs=specs)), method_from_name("max")
    made = level_channels(
        graph, plan, ranges_from_stats(plan, stats, most).ranges, stats=stats, method=most,
        samples=list(open_data(feeds[:6], inputs=specs).stream()), calibration=open_data(feeds, inputs=specs),
        options=OPTIONS,
    )  # fmt: skip
    (reached,) = computed(with_outputs(made.graph, ["r"]), {"x": feeds[-1]["x"]})
    assert float(reached.max()) <= float(made.ranges["r"].rmax) * (1 + 1e-6)  # float32 rounding
