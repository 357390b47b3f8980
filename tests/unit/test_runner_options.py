"""The runner's options, and what it takes from the model: groups of taps, derived taps, samples inside a batch."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

import onnxq
from onnxq.calibration import progress
from onnxq.calibration.progress import Progress
from onnxq.calibration.runner import CollectOptions, collect
from onnxq.calibration.statistics import sampling
from onnxq.calibration.statistics.blocked_layout import Blocked
from onnxq.calibration.statistics.table import TensorStats
from onnxq.calibration.taps import memory
from onnxq.calibration.taps.selection import SampleAxis, derived_taps
from onnxq.data.inputs import InputSpecs
from onnxq.data.sources import open_data
from onnxq.errors import ArtifactError, ConfigError, DataError
from onnxq.graph.view import Graph
from onnxq.inference.session import make_session
from tests.graphs import model_of, normal

RNG = np.random.default_rng(0)
X = RNG.standard_normal((12, 4, 6, 6)).astype(np.float32)


def node(op, inputs, outputs, **attributes):
    return helper.make_node(op, inputs.split(), outputs.split(), name=f"{op.lower()}_{outputs}", **attributes)


def graph_of(nodes, *, shape=("N", 4, 6, 6), elem_type=TensorProto.FLOAT, initializers=None, out=None):
    made = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", elem_type, shape)],
        [helper.make_tensor_value_info(nodes[-1].output[0], out or elem_type, None)],
        [numpy_helper.from_array(np.asarray(v), n) for n, v in (initializers or {}).items()],
    )
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return Graph(onnx.shape_inference.infer_shapes(model))


def data(graph, source=X, **options):
    return open_data(source, inputs=InputSpecs.from_graph(graph), **options)


# All of it is the same arithmetic for a sample alone and in a batch.
CHAIN = [node("Relu", "x", "r"), node("Neg", "r", "n"), node("Sigmoid", "n", "s"), node("Mul", "n s", "y")]
TAPS = ["x", "r", "n", "s", "y"]


# ---- the same result by any way --------------------------------------------------------------------------------------


@pytest.fixture
def small_limit(monkeypatch):
    """At most 50 of a sample's 144 elements are counted."""
    monkeypatch.setattr(sampling, "SAMPLE", 50)


@pytest.mark.usefixtures("small_limit")
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("batch_size", [1, 5, 12])
@pytest.mark.parametrize("memory_limit", [None, 144 * 4 * 12 * 3, 144 * 4 * 12 * 7])
def test_any_batches_order_threads_and_groups_give_the_same(threads, batch_size, memory_limit):
    graph = graph_of(CHAIN)
    one = collect(graph, TAPS, data(graph), digest="d")
    options = CollectOptions(threads=threads, memory_limit=memory_limit)
    assert collect(graph, TAPS, data(graph, X[::-1], batch_size=batch_size), digest="d", options=options) == one
    assert not one["y"].complete
    halves = [collect(graph, TAPS, data(graph, part), digest="d") for part in (X[:3], X[3:])]
    assert halves[1].merge(halves[0]) == one


@pytest.mark.usefixtures("small_limit")
def test_full_histogram_counts_every_element():
    graph = graph_of(CHAIN)
    table = collect(graph, TAPS, data(graph), digest="d", options=CollectOptions(full_histogram=True))
    assert table["x"] == TensorStats.of(X)
    assert all(stats.complete for stats in table.values())
    sampled = collect(graph, TAPS, data(graph), digest="d")
    assert [(s.rmin, s.rmax, s.count) for s in sampled.values()] == [(s.rmin, s.rmax, s.count) for s in table.values()]


def test_range_only():
    graph = graph_of(CHAIN)
    table = collect(graph, TAPS, data(graph), digest="d", options=CollectOptions(range_only=True))
    full = collect(graph, TAPS, data(graph), digest="d")
    assert table.range_only
    assert not full.range_only
    assert [(s.rmin, s.rmax, s.counted) for s in table.values()] == [(s.rmin, s.rmax, 0) for s in full.values()]
    with pytest.raises(ArtifactError, match=r"ranges only cannot be merged .* histograms\nHint: .*--range-only"):
        table.merge(full)
    assert table.merge(table).range_only


# ---- taps ------------------------------------------------------------------------------------------------------------


def test_a_sigmoid_follows_from_its_input():
    graph = graph_of(CHAIN)
    assert {name: source for name, (source, _) in derived_taps(graph, TAPS).items()} == {"s": "n"}
    assert derived_taps(graph, ["x", "s"]) == {}
    table = collect(graph, ["n", "s"], data(graph, X * 100), digest="d")
    with np.errstate(over="ignore"):
        inner = np.float32(1) / (np.float32(1) + np.exp(np.maximum(X * 100, 0)))
    # float32's exp is good to an ulp or two; onnxruntime's own sigmoid is another such formula.
    assert table["s"].rmin == pytest.approx(float(inner.min()), rel=1e-6)
    assert (table["s"].rmax, table["s"].count) == (0.5, X.size)


def test_bfloat16_is_cast_inside_the_model():
    graph = graph_of([node("Cast", "x", "b", to=TensorProto.BFLOAT16), node("Cast", "b", "y", to=TensorProto.FLOAT)])
    table = collect(graph, ["b"], data(graph), digest="d")
    assert table["b"] == TensorStats.of(X.astype(ml_dtypes.bfloat16))


def test_float16():
    graph = graph_of([node("Neg", "x", "y")], elem_type=TensorProto.FLOAT16)
    half = X.astype(np.float16)
    assert collect(graph, ["y"], data(graph, half), digest="d")["y"] == TensorStats.of(-half)


@pytest.mark.usefixtures("small_limit")
def test_where_samples_cannot_be_told_apart_every_element_counts():
    graph = graph_of([node("Transpose", "x", "t", perm=[1, 0, 2, 3]), node("Relu", "t", "y")])
    table = collect(graph, ["t", "x"], data(graph, batch_size=4), digest="d")
    assert table["t"].complete
    assert not table["x"].complete
    assert collect(graph, ["t", "x"], data(graph), digest="d") == table


def test_rows_of_a_sample():
    graph = graph_of(CHAIN)
    batch = next(data(graph, batch_size=5).stream())
    axis = SampleAxis(graph, batch)
    assert axis.rows("y", (5, 4, 6, 6), batch) == 5
    assert axis.rows("y", (1, 4), batch) is None
    fixed = graph_of(CHAIN, shape=(1, 4, 6, 6))
    single = next(data(fixed).stream())
    assert SampleAxis(fixed, single).rows("anything", (7,), single) == 1
    triple = graph_of(CHAIN, shape=(3, 4, 6, 6))
    three = next(data(triple).stream())
    assert SampleAxis(triple, three).rows("y", (3, 4, 6, 6), three) is None


def test_a_fixed_batch_of_one_takes_larger_arrays():
    graph, fixed = graph_of(CHAIN), graph_of(CHAIN, shape=(1, 4, 6, 6))
    assert collect(fixed, TAPS, data(fixed), digest="d") == collect(graph, TAPS, data(graph), digest="d")


# ---- memory ----------------------------------------------------------------------------------------------------------


def test_a_tensor_beyond_the_limit():
    graph = graph_of(CHAIN)
    with pytest.raises(ConfigError) as caught:
        collect(graph, ["r"], data(graph), digest="d", options=CollectOptions(memory_limit=1000))
    assert str(caught.value) == (
        "tensor 'r' takes 1.2 kB while it is calibrated, more than the memory limit of 1.0 kB\n"
        "Hint: raise memory_limit= (--memory-limit), or feed fewer samples at once: batch_size= (--batch-size)"
    )


def test_groups_are_filled_in_order():
    sizes = {"a": 10, "b": 20, "c": 5, "d": 30}
    assert memory.grouped_taps(sizes, 30) == [["a", "b"], ["c"], ["d"]]


def test_several_passes_need_data_that_can_be_read_again():
    graph = graph_of(CHAIN)
    one_shot = ({"x": X[i : i + 1]} for i in range(3))
    with pytest.raises(DataError, match=r"need 3 passes under the memory limit, but .* only once\nHint: pass a func"):
        collect(graph, TAPS, data(graph, one_shot), digest="d", options=CollectOptions(memory_limit=144 * 4 * 3))


def test_data_that_changes_between_passes():
    graph = graph_of(CHAIN)
    rng = np.random.default_rng(0)

    def feeds():
        yield {"x": rng.standard_normal((1, 4, 6, 6)).astype(np.float32)}

    options = CollectOptions(memory_limit=144 * 4 * 3)
    with pytest.raises(DataError, match=r"not the same in every pass over it\nHint: make the data repeatable"):
        collect(graph, TAPS, data(graph, feeds), digest="d", options=options)


MEASURED = """
import sys, re
import numpy as np
from onnxq.data.inputs import InputSpecs
from onnxq.calibration.runner import collect
from onnxq.data.sources import open_data
from onnxq.graph.view import Graph
from tests.unit.test_runner_options import CHAIN, TAPS, graph_of
graph = graph_of(CHAIN, shape=("N", 4, 96, 96))
rng = np.random.default_rng(0)
feeds = lambda: ({"x": rng.standard_normal((1, 4, 96, 96), np.float32)} for _ in range(int(sys.argv[1])))
table = collect(graph, TAPS, open_data(feeds, inputs=InputSpecs.from_graph(graph)), digest="d")
print(table.samples, re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1])
"""


@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="peak memory is read from /proc")
def test_memory_does_not_grow_with_the_number_of_samples():
    def peak(samples):
        command = [sys.executable, "-c", MEASURED, str(samples)]
        done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2])
        count, kilobytes = done.stdout.split()
        assert int(count) == samples
        return int(kilobytes)

    # One float32 tensor of a sample is 147 kB: keeping any of a sample would show at once.
    assert peak(1000) <= 1.05 * peak(50)


# ---- providers and progress ------------------------------------------------------------------------------------------


def test_another_provider_counts_the_same_elements(monkeypatch):
    """What leaves the model whole is counted at the places that the CPU's layout of channels gives."""
    text = """(float[N,3,20,20] x) => (float[N,8,20,20] y) {
        a = Conv<pads=[1,1,1,1]>(x, w)
        r = Relu(a)
        y = Conv(r, v)
        }"""
    model = model_of(text, w=normal(40, 3, 3, 3), v=normal(8, 40, 1, 1))
    graph = Graph(onnx.shape_inference.infer_shapes(model))
    fed = {"x": normal(3, 3, 20, 20)}
    here = collect(graph, ["r", "y"], data(graph, fed), digest="")
    assert here["r"].counted < here["r"].count  # of 16,000 elements of a sample
    monkeypatch.setattr(CollectOptions, "on_cpu", False)
    assert collect(graph, ["r", "y"], data(graph, fed), digest="") == here


def test_providers_by_name():
    graph = graph_of(CHAIN)
    assert make_session(graph.to_model(), providers=["cpu", "CPUExecutionProvider"]).providers == (
        "CPUExecutionProvider",
    )
    table = collect(graph, TAPS, data(graph), digest="d", options=CollectOptions(providers=["CPU"]))
    assert table == collect(graph, TAPS, data(graph), digest="d")
    for joined in ("cpu, CPUExecutionProvider", ["cpu,cpu"]):
        assert make_session(graph.to_model(), providers=joined).providers == ("CPUExecutionProvider",)
    with pytest.raises(ConfigError) as caught:
        make_session(graph.to_model(), providers=["cpu", "warp"])
    text = str(caught.value)
    assert text.startswith("onnxruntime has no execution provider 'warp' here\nHint: providers= (--ep) can name ")
    assert "cpu" in text.split("can name ")[1]
    with pytest.raises(ConfigError, match=r"^no execution provider is named\nHint: "):
        make_session(graph.to_model(), providers=[])


def test_progress_knows_rate_time_left_and_memory():
    graph = graph_of(CHAIN)
    seen = []
    options = CollectOptions(memory_limit=144 * 4 * 3 * 4)
    collect(graph, TAPS, data(graph, batch_size=4), digest="d", options=options, progress=seen.append)
    assert [(p.pass_number, p.samples, p.batches) for p in seen][:4] == [(1, 4, 1), (1, 8, 2), (1, 12, 3), (2, 4, 4)]
    assert seen[-1].left_s == 0
    assert seen[-1].passes == 3
    assert seen[-1].samples_per_s == pytest.approx(36 / seen[-1].elapsed_s)
    assert seen[0].left_s == pytest.approx(32 / 4 * seen[0].elapsed_s)
    assert seen[-1].memory_bytes is None or seen[-1].memory_bytes > 2**20


def test_progress_where_little_is_known(monkeypatch, tmp_path):
    now = Progress(batches=1, samples=1, expected_samples=None, elapsed_s=0.0)
    assert (now.samples_per_s, now.left_s) == (None, None)
    monkeypatch.setattr(progress, "_STATM", tmp_path / "none")
    assert progress.resident_bytes() is None


def test_the_first_bad_batch_of_a_window_is_named():
    """In batch 9 a tensor that the model computes earlier is bad, but batch 8 comes first."""
    graph = graph_of([node("Sqrt", "x", "a"), node("Log", "x", "b"), node("Add", "a b", "y")])
    bad = np.abs(X) + 1
    bad[7, 0, 0, 0] = 0
    bad[8, 0, 0, 0] = -1
    with pytest.raises(DataError, match=r"^calibration batch 8: tensor 'b', computed by Log node 'log_b', holds Inf"):
        collect(graph, ["a", "b"], data(graph, bad), digest="d")


@pytest.mark.usefixtures("small_limit")
def test_ignored_values_leave_the_choice_of_elements_alone():
    graph = graph_of([node("Sqrt", "x", "y")])
    ignore = CollectOptions(nonfinite="ignore")
    table = collect(graph, ["y"], data(graph), digest="d", options=ignore)
    assert table["y"].nonfinite == int((X < 0).sum())
    assert collect(graph, ["y"], data(graph, X[::-1], batch_size=5), digest="d", options=ignore) == table


def test_ranges_alone_serve_the_method_max_alone():
    weights = {"w": RNG.standard_normal((4, 4, 1, 1)).astype(np.float32)}
    model = graph_of([node("Conv", "x w", "c"), node("Relu", "c", "y")], initializers=weights).to_model()
    feeds = [{"x": X[i : i + 1]} for i in range(12)]
    stats = onnxq.calibrate(model, feeds, range_only=True)
    full = onnxq.calibrate(model, feeds)
    made, expected = (onnxq.quantize(model, feeds, stats=s, method="max").qparams for s in (stats, full))
    assert {k: float(v.scale.max()) for k, v in made.items()} == {k: float(v.scale.max()) for k, v in expected.items()}
    with pytest.raises(ArtifactError) as caught:
        onnxq.quantize(model, feeds, stats=stats, method="mse")
    assert str(caught.value) == (
        "the statistics hold ranges only, but the method 'mse' needs histograms\n"
        "Hint: use method='max' (--method max), or calibrate without range_only= (--range-only)"
    )


def test_the_elements_taken_are_those_of_the_definition(monkeypatch):
    monkeypatch.setattr(sampling, "SAMPLE", 50)
    x = RNG.standard_normal((3, 7, 44)).astype(np.float32)
    part = sampling.extract(x, rows=3)
    # 308 elements at 7 rows of 11 places of 4; 308 / 50 is 6.2.
    assert (part.weight, part.count) == (6, 924)
    np.testing.assert_array_equal(part.taken, np.concatenate([row.reshape(77, 4)[3::6].ravel() for row in x]))
    assert (part.rmin, part.rmax) == (float(x.min()), float(x.max()))
    one = sampling.extract(x[0], rows=1)
    np.testing.assert_array_equal(one.taken, part.taken[: one.taken.size])
    images = RNG.standard_normal((2, 10, 3, 5)).astype(np.float32)
    part = sampling.extract(images, rows=2)
    # 150 elements in 10 rows of 15 pixels; 3 and 15 have a divisor in common.
    assert part.weight == 4
    np.testing.assert_array_equal(part.taken, images.reshape(2, 150)[:, 2::4].ravel())
    # In two blocks, of 8 channels and of 2 with 6 of padding: at 30 places.
    part = sampling.extract(images, rows=2, blocked=Blocked(channels=10, block=8))
    blocks = [
        (channel, place) for start in (0, 8) for place in range(15) for channel in range(start, min(start + 8, 10))
    ]
    taken = [(c, p) for c, p in blocks if ((c // 8) * 15 + p) % 4 == 2]
    np.testing.assert_array_equal(part.taken[: len(taken)], [images[0].reshape(10, 15)[c, p] for c, p in taken])


@given(shape=st.lists(st.integers(1, 70), max_size=4))
def test_every_tensor_has_its_share_of_elements_taken(shape):
    choice = sampling.Choice.of(shape)
    size = math.prod(shape)
    assert choice.places * choice.lanes == size
    taken = choice.taken * choice.lanes
    wanted = max(sampling.SAMPLE, size // sampling.SHARE)
    assert taken == size if size <= sampling.SAMPLE else taken > 0
    # Strides without a common divisor are never far; where there are few places, whole pixels are taken.
    assert taken >= min(wanted, size) * 0.3
    # (40, 3, 70): of strides near 4, all but 1 have a divisor in common with 3 x 70.
    assert taken <= wanted * 5
