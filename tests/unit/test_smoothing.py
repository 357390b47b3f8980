"""Smoothing rescales where that lowers the noise at the outputs, and nowhere else."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from onnxq.calibration.runner import CollectOptions
from onnxq.data.batches import Batch
from onnxq.data.inputs import InputSpecs
from onnxq.data.kept import read_ahead
from onnxq.data.sources import open_data
from onnxq.errors import DataError
from onnxq.graph.shapes import infer_shapes
from onnxq.graph.view import Graph
from onnxq.passes.quantize.give_biases import GiveBiases
from onnxq.planning.options import PlanOptions
from onnxq.planning.plan import QuantPlan
from onnxq.planning.planner import make_plan
from onnxq.recovery.activation_samples import ROWS, sample_channels
from onnxq.recovery.float_rewrites import FLOAT_REWRITES
from onnxq.recovery.smoothing import LARGEST_RATIO, SmoothingResult, smooth
from onnxq.recovery.trial import Trial
from onnxq.targets import TARGETS
from tests.graphs import computed, graph_of, normal

OPTIONS = CollectOptions(threads=1)
OUTLIER = np.ones(16, np.float32)
OUTLIER[3] = 40.0


def planned(graph: Graph, target: str) -> QuantPlan:
    infer_shapes(graph)
    GiveBiases().run(graph)
    return make_plan(graph, TARGETS[target], options=PlanOptions(placement="full"), digest="")


def batches(graph: Graph, count: int = 8) -> list[Batch]:
    name, shape = next((n, graph.shape(n)) for n in graph.inputs)
    sizes = [d if isinstance(d, int) else 1 for d in shape or ()]
    return list(
        open_data([{name: normal(*sizes, seed=i)} for i in range(count)], inputs=InputSpecs.from_graph(graph)).stream()
    )


def smoothed(graph: Graph, target: str = "openvino") -> tuple[QuantPlan, SmoothingResult]:
    plan = planned(graph, target)
    return plan, smooth(graph, plan, TARGETS[target], batches(graph), OPTIONS)


def behind_layer_norm(gamma: Any = OUTLIER, beta: Any = 1.0) -> Graph:
    return graph_of(
        "(float[n,10,16] x) => (float[n,10,24] y) { n = LayerNormalization(x, g, b) p = MatMul(n, w) y = Add(p, c) }",
        g=gamma, b=normal(16) * np.float32(beta), w=normal(16, 24, seed=1) / gamma[:, None], c=normal(24, seed=2),
    )  # fmt: skip


def behind_values() -> Graph:
    """V projection, attention weights, output projection."""
    return graph_of(
        "(float[1,10,16] x) => (float[1,10,24] y) { v = MatMul(x, wv) b = Add(v, bv) s = MatMul(x, wk) "
        "a = Softmax<axis=-1>(s) o = MatMul(a, b) y = MatMul(o, wo) }",
        wv=normal(16, 16) * OUTLIER, bv=normal(16, seed=1) * OUTLIER, wk=normal(16, 10, seed=2),
        wo=normal(16, 24, seed=3) / OUTLIER[:, None],
    )  # fmt: skip


def behind_conv() -> Graph:
    return graph_of(
        "(float[n,4,9,9] x) => (float[n,5,c,d] y) { a = Conv(x, w1, b1) r = Relu(a) y = Conv(r, w2) }",
        w1=normal(16, 4, 3, 3) * OUTLIER[:, None, None, None], b1=normal(16, seed=1) * OUTLIER,
        w2=normal(5, 16, 1, 1, seed=2) / OUTLIER[:, None, None],
    )  # fmt: skip


@pytest.mark.parametrize("target", ["openvino", "tensorrt", "ort-x64-vnni"])
@pytest.mark.parametrize("build", [behind_layer_norm, behind_values, behind_conv])
def test_an_outlier_channel_is_smoothed(build: Any, target: str) -> None:
    graph = build()
    if build is behind_conv and target == "tensorrt":
        graph = graph_of(
            "(float[n,16,9,9] x) => (float[n,16,c,d] y) { a = Conv(x, w1, b1) r = Relu(a) y = Conv(r, w2) }",
            w1=normal(16, 16, 3, 3) * OUTLIER[:, None, None, None], b1=normal(16, seed=1) * OUTLIER,
            w2=normal(16, 16, 1, 1, seed=2) / OUTLIER[:, None, None],
        )  # fmt: skip
    plan, result = smoothed(graph, target)
    assert result.modified
    taken = [site for site in result.sites if site.strength is not None]
    assert all(site.measured_db is not None and site.measured_db >= 0.5 for site in taken)
    # One channel 40 times as large as the others leaves them 6 of 255 codes; smoothed they get nearly all.
    assert result.gain_db > 5
    # On samples that it never saw, too.
    fresh = batches(graph, 24)[8:]
    trial = Trial(graph, plan, TARGETS[target], fresh, OPTIONS)
    before = trial.noise(graph, trial.ranges(graph))
    after = trial.noise(result.graph, trial.ranges(result.graph))
    assert after < before / 2


def test_function_is_kept() -> None:
    graph = behind_values()
    _, result = smoothed(graph)
    x = normal(1, 10, 16, seed=9)
    (before,), (after,) = computed(graph, {"x": x}), computed(result.graph, {"x": x})
    # Each weight is rounded once more, 2^-24 of it.
    np.testing.assert_allclose(after, before, rtol=0, atol=1e-5 * np.abs(before).max())


def test_even_channels_are_left_alone() -> None:
    graph = behind_layer_norm(np.ones(16, np.float32), beta=0.0)
    _, result = smoothed(graph)
    assert not result.modified
    assert result.graph is graph
    assert [site.strength for site in result.sites] == [None]


def test_a_site_that_does_not_matter_at_the_output_is_left_alone() -> None:
    """The outlier's reader ends in a branch that is scaled down to a millionth of the output."""
    graph = graph_of(
        "(float[n,10,16] x) => (float[n,10,24] y) { n = LayerNormalization(x, g, b) p = MatMul(n, w) q = MatMul(x, u) "
        "r = Mul(p, small) y = Add(q, r) }",
        g=OUTLIER, b=normal(16), w=normal(16, 24, seed=1) / OUTLIER[:, None], u=normal(16, 24, seed=2),
        small=np.float32(1e-6),
    )  # fmt: skip
    _, result = smoothed(graph)
    (site,) = result.sites
    assert site.estimated_db > 3
    assert site.measured_db is not None
    assert site.strength is None


def test_without_samples_nothing_changes() -> None:
    graph = behind_layer_norm()
    plan = planned(graph, "openvino")
    assert smooth(graph, plan, TARGETS["openvino"], [], OPTIONS).graph is graph


def test_scales_stay_within_a_ratio() -> None:
    """A channel that samples show as nearly dead is not blown up."""
    gamma = OUTLIER.copy()
    gamma[5] = 1e-6
    graph = behind_layer_norm(gamma)
    _, result = smoothed(graph)
    old, new = graph.constant("g"), result.graph.constant("g")
    assert old is not None
    assert new is not None
    ratio = old / new
    assert ratio.max() / ratio.min() <= LARGEST_RATIO * 1.0001


def test_the_same_input_gives_the_same_bytes() -> None:
    one, other = (smoothed(behind_values())[1].graph.to_model() for _ in range(2))
    assert one.SerializeToString(deterministic=True) == other.SerializeToString(deterministic=True)


def test_samples_of_channels() -> None:
    """Extremes are of all positions, rows of at most ROWS; several axes count row-major."""
    graph = graph_of("(float[n,40,6,30] x) => (float[n,40,6,30] y) { y = Relu(x) }")
    data = batches(graph, 4)
    found = sample_channels(graph, {"y": (1, 2)}, data, OPTIONS)["y"]
    values = np.maximum(np.concatenate([b.arrays["x"] for b in data]), 0).transpose(0, 3, 1, 2).reshape(-1, 240)
    assert found.rows.shape == (120, 240)
    np.testing.assert_array_equal(found.highest, values.max(axis=0))
    np.testing.assert_array_equal(found.lowest, np.zeros(240))
    np.testing.assert_array_equal(found.rows, values)
    large = graph_of("(float[n,2,100,100] x) => (float[n,2,100,100] y) { y = Relu(x) }")
    assert len(sample_channels(large, {"y": (1,)}, batches(large, 4), OPTIONS)["y"].rows) == ROWS


def test_rewrites_by_name_say_what_they_did() -> None:
    graph = behind_conv()
    plan = planned(graph, "openvino")
    said = {}
    for name, rewrite in FLOAT_REWRITES.items():
        _, facts = rewrite(graph, plan, TARGETS["openvino"], batches(graph), OPTIONS)
        (said[name],) = facts
    assert said["equalize"] == "equalization: 16 channels of 2 tensors rescaled"
    assert said["smooth"].startswith("smoothing: 1 of 1 place rescaled, which lowers the noise at the outputs by ")
    assert said["absorb"] == "bias absorption: offsets of 0 of 0 tensors moved into the next biases"


def test_rewrites_that_find_nothing_return_the_graph() -> None:
    graph = graph_of("(float[n,16] x) => (float[n,16] y) { y = MatMul(x, w) }", w=normal(16, 16))
    plan = planned(graph, "openvino")
    for rewrite in FLOAT_REWRITES.values():
        result, facts = rewrite(graph, plan, TARGETS["openvino"], batches(graph), OPTIONS)
        assert result is graph
        assert len(facts) == 1


@pytest.mark.parametrize("once", [False, True])
def test_read_ahead_gives_the_first_samples_and_loses_none(once: bool) -> None:
    graph = graph_of("(float[n,6] x) => (float[n,6] y) { y = Relu(x) }")
    feeds = [{"x": normal(2, 6, seed=i)} for i in range(10)]
    data = open_data(iter(feeds) if once else feeds, inputs=InputSpecs.from_graph(graph))
    reader, first = read_ahead(data, samples=5)
    assert [batch.samples for batch in first] == [2, 2, 2]
    seen = [batch.arrays["x"] for batch in reader.stream()]
    np.testing.assert_array_equal(np.concatenate(seen), np.concatenate([feed["x"] for feed in feeds]))
    if once:
        with pytest.raises(DataError, match="it can be read only once"):
            list(reader.stream())
    else:
        assert len(list(reader.stream())) == 10
