"""Summaries computed inside the model, of tensors in the model's layout and in blocks of channels."""

from __future__ import annotations

import math
import threading
import tracemalloc
import weakref
from typing import ClassVar
from unittest import mock

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from onnxq.calibration import runner
from onnxq.calibration.runner import CollectOptions, collect
from onnxq.calibration.statistics import sampling
from onnxq.calibration.statistics.blocked_layout import DOMAIN, Blocked
from onnxq.calibration.statistics.sampling import extract
from onnxq.calibration.taps import row_memory, run_queue, summarising_session
from onnxq.calibration.taps import shapes as tap_shapes
from onnxq.calibration.taps.blocked import block_size, optimised_graph, padding_is_not_negative
from onnxq.calibration.taps.blocked import in_blocks as in_blocks_of
from onnxq.calibration.taps.row_memory import Summarised, Target, WaitingRows
from onnxq.calibration.taps.selection import SampleAxis
from onnxq.calibration.taps.summaries import Tap, summarised
from onnxq.calibration.taps.summary_rows import RowLayout
from onnxq.data.inputs import InputSpecs
from onnxq.data.sources import open_data
from onnxq.errors import ConfigError, DataError
from onnxq.files import scratch
from onnxq.graph.model import load_graph
from onnxq.graph.view import Graph
from onnxq.inference.outputs import with_outputs, with_readable_outputs
from onnxq.inference.session import make_session
from tests.graphs import computed, model_of, normal

RNG = np.random.default_rng(0)


def in_blocks(plain, block, padding):
    """A tensor (N, C, H, W) as onnxruntime lays it out, with some value in the padding."""
    samples, channels, height, width = plain.shape
    padded = -(-channels // block) * block
    wide = np.full((samples, padded, height, width), padding, plain.dtype)
    wide[:, :channels] = plain
    blocks = wide.reshape(samples, padded // block, block, height * width)
    return np.ascontiguousarray(np.swapaxes(blocks, 2, 3)).reshape(wide.shape)


def summarise(arrays, layouts, *, rows, opset=17, nonnegative=False, runs=1, last_known=True, padding_known=False):
    """Run a model that does nothing but summarise its inputs: the layout, and its rows."""
    names = [f"x{i}" for i in range(len(arrays))]
    made = helper.make_graph(
        [helper.make_node("Identity", [name], [f"{name}_same"]) for name in names],
        "g",
        [helper.make_tensor_value_info(f"x{i}", TensorProto.FLOAT, [None] * a.ndim) for i, a in enumerate(arrays)],
        [helper.make_tensor_value_info(f"{name}_same", TensorProto.FLOAT, None) for name in names],
    )
    opsets = [helper.make_opsetid("", opset), helper.make_opsetid(DOMAIN, 1)]
    graph = Graph(helper.make_model(made, opset_imports=opsets, ir_version=8))
    taps = [
        Tap(
            name=name,
            tensor=name,
            rank=array.ndim,
            last=array.shape[-1] if last_known else None,
            blocked=blocked,
            nonnegative=nonnegative,
            padding_is_not_negative=padding_known,
        )
        for name, array, blocked in zip(names, arrays, layouts, strict=True)
    ]
    model, summaries = summarised(graph, taps, [])
    session = make_session(model, optimise=False, in_stored_order=True)
    layout = RowLayout(summaries, [array.shape for array in arrays], rows)
    values = np.full((runs, layout.elements), np.nan, np.float32)
    feed = {
        name: array if blocked is None else in_blocks(array, blocked.block, 0.5)
        for name, array, blocked in zip(names, arrays, layouts, strict=True)
    }
    for row in values:
        session.run_into(feed, session.bind(layout.arrays(row), layout.fed))
    return layout, values


def agree(part, expected, runs=1):
    """One part of a summary, and what reading the array itself gives."""
    assert (part.count, part.weight, part.nonfinite) == (expected.count * runs, expected.weight, 0)
    assert (min(part.rmin, 0.0), max(part.rmax, 0.0)) == (min(expected.rmin, 0.0), max(expected.rmax, 0.0))
    np.testing.assert_array_equal(np.sort(part.taken, axis=None), np.sort(np.tile(expected.taken, runs), axis=None))


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    shift=st.sampled_from([-9.0, 0.0, 9.0]),
    shape=st.lists(st.integers(1, 9), min_size=1, max_size=5)
    | st.tuples(st.integers(1, 3), st.sampled_from([1, 5, 67, 71, 79]), st.sampled_from([16, 48]))
    | st.tuples(st.integers(1, 3), st.sampled_from([16, 48])),
    opset=st.sampled_from([11, 13, 18, 21]),
    last_known=st.booleans(),
)
def test_a_summary_says_what_the_array_says(seed, shift, shape, opset, last_known):
    rng = np.random.default_rng(seed)
    first = (rng.standard_normal(shape) + shift).astype(np.float32)
    second = (rng.standard_normal((shape[0], 40)) * 10.0 ** rng.integers(-40, 30)).astype(np.float32)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sampling, "SAMPLE", 20)
        rows = [shape[0], shape[0]]
        layout, values = summarise([first, second], [None, None], rows=rows, opset=opset, runs=2, last_known=last_known)
        assert all(map(layout.finite, values))
        for part, array in zip(layout.extracts(values), (first, second), strict=True):
            agree(part, extract(array, rows=shape[0]), runs=2)


@pytest.mark.skipif(not block_size(), reason="onnxruntime computes in no blocks here")
@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    shift=st.sampled_from([-9.0, 0.0, 9.0]),
    channels=st.integers(1, 40),
    padding_known=st.booleans(),
)
def test_a_summary_of_blocks_says_what_the_array_says(seed, shift, channels, padding_known):
    rng = np.random.default_rng(seed)
    plain = (rng.standard_normal((2, channels, *rng.integers(1, 6, 2))) + shift).astype(np.float32)
    other = rng.standard_normal((2, 16, 3, 3)).astype(np.float32)
    layouts = [Blocked(16, block_size()), Blocked(channels, block_size()), None]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sampling, "SAMPLE", 20)
        layout, values = summarise([other, plain, other], layouts, rows=[2, 2, 2], runs=3, padding_known=padding_known)
        assert all(map(layout.finite, values))
        for part, array, blocked in zip(layout.extracts(values), (other, plain, other), layouts, strict=True):
            agree(part, extract(array, rows=2, blocked=blocked), runs=3)


@pytest.mark.parametrize("wrong", [np.nan, -np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("channels", [0, 16, 19])
def test_what_is_not_finite_shows(wrong, channels):
    """Wherever it stands: onnxruntime's own extremes pass over NaN."""
    if channels and not block_size():
        pytest.skip("onnxruntime computes in no blocks here")
    layouts = [Blocked(channels, block_size()) if channels else None]
    for _ in range(20):
        x = np.abs(RNG.standard_normal((1, channels or 7, 20, 20))).astype(np.float32)
        layout, values = summarise([x], layouts, rows=[1])
        assert layout.finite(values[0])
        x.ravel()[RNG.integers(x.size)] = wrong
        layout, values = summarise([x], layouts, rows=[1])
        assert not layout.finite(values[0])


def test_what_cannot_be_negative_is_not_searched_for_its_smallest():
    x = np.array([[3.0, -0.0, 2.0]], np.float32)
    layout, values = summarise([x], [None], rows=[1], nonnegative=True)
    (part,) = layout.extracts(values)
    assert (part.rmin, part.rmax, layout.elements) == (0.0, 3.0, 1 + 1 + 3)


@pytest.mark.skipif(not block_size(), reason="onnxruntime computes in no blocks here")
@pytest.mark.parametrize(("channels", "lanes"), [(1, 1), (5, 5), (block_size(), block_size()), (20, block_size())])
def test_padding_of_a_single_block_stays_in_the_model(channels, lanes):
    x = RNG.standard_normal((2, channels, 4, 5)).astype(np.float32)
    blocked = Blocked(channels, block_size())
    layout, values = summarise([x], [blocked], rows=[2])
    (choice,) = layout.choices
    assert (choice.lanes, choice.stride) == (lanes, 1)
    (place,) = layout._places["taken"].values()
    assert place.shape == (2, 20 * blocked.blocks, lanes)
    (part,) = layout.extracts(values)
    agree(part, extract(x, rows=2, blocked=blocked))


# ---- rows of runs ----------------------------------------------------------------------------------------------------


class Elements:
    """Stands in for a RowLayout of so many elements."""

    def __init__(self, elements):
        self.elements = elements

    def arrays(self, row):
        return {"y": row}

    fed: ClassVar = {}


def doubling():
    """A session with one output of the shape of its input."""
    made = helper.make_graph(
        [helper.make_node("Add", ["x", "x"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N"])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N"])],
    )
    return make_session(helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=8))


def test_rows_of_several_shapes_wait_until_there_are_enough():
    short, long = (Target(layout=Elements(n), shapes=()) for n in (10, 25))
    waiting = WaitingRows(100)
    taken = []
    for number, target in enumerate([short, long, short, long, short, long, short]):
        waiting.add(target, number)
        taken += waiting.enough()
    # 30 + 75 wait after the sixth.
    assert taken == [(long, [1, 3, 5])]
    assert list(waiting.rest()) == [(short, [0, 2, 4, 6])]
    assert list(waiting.rest()) == list(waiting.enough()) == []


def test_two_rows_of_about_half_of_what_may_wait_are_read_together():
    target, waiting = Target(layout=Elements(51), shapes=()), WaitingRows(100)
    waiting.add(target, 0)
    assert list(waiting.enough()) == []
    waiting.add(target, 1)
    assert list(waiting.enough()) == [(target, [0, 1])]


def test_reading_rows_copies_the_elements_of_one_tap_at_a_time():
    taps = [np.zeros((16, 3072), np.float32)] * 8
    layout, values = summarise(taps, [None] * len(taps), rows=[16] * len(taps), runs=2)
    copied = 2 * taps[0].nbytes
    tracemalloc.start()
    try:
        sizes = [part.taken.nbytes for part in layout.extracts(values)]
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert sizes == [copied] * len(taps)
    # The part that is read while the next one is made, and small change; all taps together would be 8.
    assert peak < 3 * copied


def test_a_row_longer_than_all_that_may_wait_is_read_at_once():
    target, waiting = Target(layout=Elements(200), shapes=()), WaitingRows(100)
    waiting.add(target, "row")
    assert list(waiting.enough()) == [(target, ["row"])]


def test_free_rows_of_other_shapes_make_room(monkeypatch):
    monkeypatch.setattr(row_memory, "LEAST_ELEMENTS", 1000)
    summarised = Summarised(session=doubling(), summaries=(), others=(), at_once=1)
    old, new = (Target(layout=Elements(n), shapes=()) for n in (600, 700))
    summarised.targets.update({((), 1): old, ((), 2): new})
    rows = [summarised.row(old) for _ in range(2)]
    old.free.extend(rows[:1])
    kept = summarised.row(new)
    assert (old.free, kept.values.shape) == (rows[:1], (700,))
    old.free.extend(rows[1:])
    summarised.row(new)
    assert old.free == []
    new.free.append(kept)
    assert summarised.row(new) is kept


def test_long_rows_share_memory_of_huge_pages():
    summarised = Summarised(session=doubling(), summaries=(), others=(), at_once=1)
    target = Target(layout=Elements(400_000), shapes=())
    summarised.targets[(), 1] = target
    row = summarised.row(target)
    assert len(target.free) == 2
    assert all(other.values.base is row.values.base for other in target.free)
    assert row.values.base.nbytes >= 1 << 22


def test_a_binding_lets_go_of_what_was_fed():
    session = doubling()
    out = np.zeros(3, np.float32)
    binding = session.bind({"y": out}, {})
    fed = np.arange(3, dtype=np.float32)
    seen = weakref.ref(fed)
    session.run_into({"x": fed}, binding)
    np.testing.assert_array_equal(out, [0.0, 2.0, 4.0])
    del fed
    assert seen() is None
    session.run_into({"x": np.ones(3, np.float32)}, binding)
    np.testing.assert_array_equal(out, [2.0, 2.0, 2.0])


# ---- in onnxruntime --------------------------------------------------------------------------------------------------

X = RNG.standard_normal((6, 3, 12, 12)).astype(np.float32)


def conv_net(batch="N"):
    """Convs whose channels fill blocks and do not, a fused Relu and Add, and an operator that computes in no blocks."""
    nodes = [
        helper.make_node("Conv", ["x", "w0"], ["c0"], name="c0", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c0"], ["r0"], name="r0"),
        helper.make_node("Conv", ["r0", "w1"], ["c1"], name="c1", pads=[1, 1, 1, 1]),
        helper.make_node("Add", ["c1", "r0"], ["a1"], name="a1"),
        helper.make_node("Conv", ["a1", "w2"], ["c2"], name="c2", pads=[1, 1, 1, 1]),
        helper.make_node("Erf", ["c2"], ["e2"], name="e2"),
        helper.make_node("GlobalAveragePool", ["e2"], ["y"], name="y"),
    ]
    shapes = {"w0": (20, 3, 3, 3), "w1": (20, 20, 3, 3), "w2": (32, 20, 3, 3)}
    weights = [numpy_helper.from_array(RNG.standard_normal(s).astype(np.float32), n) for n, s in shapes.items()]
    made = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [batch, 3, "H", "W"])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [batch, 32, 1, 1])],
        weights,
    )
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return Graph(onnx.shape_inference.infer_shapes(model))


TAPS = ["x", "r0", "c1", "a1", "c2", "e2", "y"]


@pytest.mark.skipif(not block_size(), reason="onnxruntime computes in no blocks here")
def test_padding_is_said_to_be_not_negative_where_it_is():
    """What really stands there is seen by reading a tensor in blocks as it lies in memory."""
    optimised = optimised_graph(with_readable_outputs(conv_net(), ["r0", "c1", "a1"]), threads=1)
    for name in ("r0", "c1", "a1"):
        tensor, blocked = in_blocks_of(optimised, name)
        assert blocked.channels == 20
        assert padding_is_not_negative(optimised, tensor, blocked)
        lying = make_session(with_outputs(optimised, [tensor]).to_model(), optimise=False).run({"x": X})[0]
        blocks = lying.reshape(len(X), blocked.blocks, -1, blocked.block)
        assert blocks[:, :-1].min() < 0.0 or name == "r0"
        assert blocks[:, -1, :, 20 % block_size() :].min() >= 0.0


@pytest.mark.skipif(not block_size(), reason="onnxruntime computes in no blocks here")
@pytest.mark.parametrize("what", ["filter", "bias", "activation", "sum", "operator"])
def test_padding_of_which_nothing_is_known(what):
    optimised = optimised_graph(with_readable_outputs(conv_net(), ["r0", "a1"]), threads=1)
    tensor, blocked = in_blocks_of(optimised, "r0")
    conv = optimised.producer(tensor)
    if what in ("filter", "bias"):
        values = optimised.constant(conv.input[1]).copy() if what == "filter" else np.zeros(32, np.float32)
        values.reshape(-1)[-1] = -1.0
        added = optimised.add_initializer(optimised.unique_name(what), values)
        conv.input[:] = [conv.input[0], added] if what == "filter" else [*conv.input, added]
    elif what == "activation":
        conv.attribute.append(helper.make_attribute("activation_params", [-2.0, -1.0]))
        next(a for a in conv.attribute if a.name == "activation").s = b"Clip"
    elif what == "sum":
        conv.input.extend(["", "x"])
    else:
        conv.op_type = "Unheard"
    assert not padding_is_not_negative(optimised, tensor, blocked)


def data(graph, source=X, **options):
    return open_data(source, inputs=InputSpecs.from_graph(graph), **options)


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(sampling, "SAMPLE", 200)


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("batch_size", [1, 4, 6])
@pytest.mark.parametrize("range_only", [False, True])
def test_summaries_give_what_arrays_give(monkeypatch, batch_size, range_only):
    graph = conv_net()
    options = CollectOptions(range_only=range_only)
    made = options.summarised(graph, TAPS[1:], TAPS[1:], SampleAxis(graph, next(data(graph).stream())), TAPS)
    if block_size():
        assert made.summaries[TAPS.index("r0") - 1].tap.blocked == Blocked(20, block_size())
    found = collect(graph, TAPS, data(graph, batch_size=batch_size), digest="d", options=options)
    monkeypatch.setattr(RowLayout, "finite", lambda *_: False)
    assert collect(graph, TAPS, data(graph), digest="d", options=options) == found
    # Samples are taken from other places then; extremes are not.
    monkeypatch.setattr(summarising_session, "in_blocks", lambda *_, **__: None)
    plain = collect(graph, TAPS, data(graph), digest="d", options=options)
    assert [(s.rmin, s.rmax, s.count) for s in plain.values()] == [(s.rmin, s.rmax, s.count) for s in found.values()]
    one = collect(graph, TAPS, data(graph, X[:1]), digest="d", options=options)
    values = options.session(with_readable_outputs(graph, TAPS[1:])).run({"x": X[:1]})
    for name, value in zip(TAPS[1:], values, strict=True):
        assert (one[name].rmin, one[name].rmax) == (min(float(value.min()), 0.0), max(float(value.max()), 0.0))
        assert one[name].count == value.size


@pytest.mark.usefixtures("small")
def test_groups_under_a_memory_limit_run_the_same_arithmetic():
    """c1 alone would be fused with the Add behind it, and be rounded otherwise."""
    graph = conv_net()
    expected = collect(graph, TAPS, data(graph), digest="d")
    options = CollectOptions(memory_limit=2 * 32 * 144 * 4)
    assert collect(graph, TAPS, data(graph), digest="d", options=options) == expected


def test_a_memory_limit_counts_what_is_kept(monkeypatch):
    """Tensors do not fit together, their summaries do; where tensors are needed, they come in groups."""
    x = RNG.standard_normal((2, 3, 80, 80)).astype(np.float32)
    graph = conv_net()
    expected = collect(graph, TAPS, data(graph, x), digest="d")
    limit = CollectOptions(memory_limit=2 * 32 * 80 * 80 * 4)
    seen = []
    assert collect(graph, TAPS, data(graph, x), digest="d", options=limit, progress=seen.append) == expected
    assert {p.passes for p in seen} == {1}
    groups = []
    tapped = CollectOptions.tapped_session
    monkeypatch.setattr(
        CollectOptions, "tapped_session", lambda self, g, t, group: groups.append(group) or tapped(self, g, t, group)
    )
    monkeypatch.setattr(RowLayout, "finite", lambda *_: False)
    assert collect(graph, TAPS, data(graph, x), digest="d", options=limit) == expected
    assert groups == [["r0"], ["c1"], ["a1"], ["c2"], ["e2"], ["y"]]
    with pytest.raises(ConfigError, match=r"^tensor 'r0' takes 1\.0 MB while it is calibrated"):
        collect(graph, TAPS, data(graph, x), digest="d", options=CollectOptions(memory_limit=900_000))


@pytest.mark.usefixtures("small")
def test_a_batch_is_run_in_parts_that_fit(monkeypatch):
    graph = conv_net()
    whole = collect(graph, TAPS, data(graph, batch_size=6), digest="d")
    sizes = []
    run_into = runner.Session.run_into

    def seen(self, feed, binding, **options):
        sizes.append(len(feed["x"]))
        return run_into(self, feed, binding, **options)

    monkeypatch.setattr(runner.Session, "run_into", seen)
    monkeypatch.setattr(tap_shapes, "PART_ELEMENTS", 50000)
    assert collect(graph, TAPS, data(graph, batch_size=6), digest="d") == whole
    assert sizes == [2, 2, 2]  # a sample takes 17 888 elements


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("task_seconds", [0.0, 10.0])
@pytest.mark.parametrize("batch_size", [1, 4])
def test_two_runs_at_a_time_change_nothing(monkeypatch, batch_size, task_seconds):
    graph = conv_net()
    one = collect(graph, TAPS, data(graph, batch_size=batch_size), digest="d", options=CollectOptions(threads=1))
    monkeypatch.setattr(run_queue, "TASK_SECONDS", task_seconds)
    two = CollectOptions(threads=2)
    assert collect(graph, TAPS, data(graph, batch_size=batch_size), digest="d", options=two) == one
    bad = X.copy()
    bad[2:5] = 3e38  # sums of it are beyond float32
    with pytest.raises(DataError, match=r"^calibration batch 3: tensor '\w0', computed by"):
        collect(graph, TAPS, data(graph, bad), digest="d", options=two)
    assert not [t.name for t in threading.enumerate() if t.name.startswith("onnxq-runs")]


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("wrong", [None, (2, 16, 12, 12)])
def test_shapes_that_inference_does_not_know_are_learnt_from_one_sample(monkeypatch, wrong):
    graph = conv_net()
    expected = collect(graph, TAPS, data(graph, batch_size=6), digest="d")
    shapes = None if wrong is None else (wrong,) * len(TAPS[1:])
    monkeypatch.setattr(runner.SampleAxis, "shapes", lambda *_: shapes)
    assert collect(graph, TAPS, data(graph, batch_size=6), digest="d") == expected
    assert collect(graph, TAPS, data(graph), digest="d") == expected


@pytest.mark.usefixtures("small")
def test_sizes_that_change_from_batch_to_batch():
    graph = conv_net()
    feeds = [{"x": RNG.standard_normal((n, 3, s, s)).astype(np.float32)} for n, s in ((1, 8), (2, 12), (1, 8), (3, 8))]
    table = collect(graph, TAPS, data(graph, feeds), digest="d")
    again = collect(graph, TAPS, data(graph, feeds[::-1]), digest="d")
    assert table == again
    assert table["x"].count == sum(math.prod(feed["x"].shape) for feed in feeds)


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("batch", ["N", 1])
def test_other_sizes_are_inferred_without_a_run_that_keeps_tensors(monkeypatch, batch):
    graph = conv_net(batch)
    feeds = [{"x": RNG.standard_normal((1, 3, s, s)).astype(np.float32)} for s in (8, 12, 8, 10)]
    expected = collect(graph, TAPS, data(graph, feeds), digest="d")
    monkeypatch.setattr(CollectOptions, "tapped_session", lambda *_: pytest.fail("tensors were kept"))
    assert collect(graph, TAPS, data(graph, feeds), digest="d") == expected


def test_shapes_that_depend_on_values():
    """NonZero writes as many columns as there are hits: memory of the first run's shape does not fit the next."""
    nodes = [
        helper.make_node("NonZero", ["x"], ["i"], name="i"),
        helper.make_node("Cast", ["i"], ["f"], name="f", to=TensorProto.FLOAT),
    ]
    made = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 5])],
        [helper.make_tensor_value_info("f", TensorProto.FLOAT, None)],
    )
    graph = Graph(helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=8))
    feeds = [{"x": np.array([row], np.float32)} for row in ([1, 0, 0, 0, 1], [1, 1, 1, 0, 0], [0, 0, 0, 0, 0])]
    table = collect(graph, ["f"], data(graph, feeds), digest="d")
    assert (table["f"].count, table["f"].rmax) == (2 * 5, 4.0)


def test_a_model_that_cannot_be_saved_is_tapped_as_it_is(monkeypatch):
    graph = conv_net()
    expected = collect(graph, TAPS, data(graph), digest="d")

    def fail(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(scratch.tempfile, "mkdtemp", fail)
    found = collect(graph, TAPS, data(graph), digest="d")
    # Without blocks, elements of other places are taken.
    assert [(s.rmin, s.rmax, s.count) for s in found.values()] == [(s.rmin, s.rmax, s.count) for s in expected.values()]


@settings(max_examples=25, deadline=None)
@mock.patch.object(sampling, "SAMPLE", 60)
@given(rng=st.randoms(use_true_random=False), threads=st.integers(1, 3), limit=st.sampled_from([None, 40000]))
def test_any_batches_order_split_and_threads_give_the_same(rng, threads, limit):
    """Bit for bit, for a model in which a sample's arithmetic does not depend on its batch."""
    graph = Graph(onnx.shape_inference.infer_shapes(POINTWISE))
    whole = collect(graph, ["x", "r", "s", "y"], data(graph), digest="d")
    rows = list(range(len(X)))
    rng.shuffle(rows)
    cut = rng.randrange(1, len(X))
    options = CollectOptions(threads=threads, memory_limit=limit)
    parts = [
        collect(graph, ["x", "r", "s", "y"], data(graph, X[part], batch_size=size), digest="d", options=options)
        for part, size in ((rows[:cut], rng.randrange(1, 7)), (rows[cut:], rng.randrange(1, 7)))
    ]
    assert parts[1].merge(parts[0]) == whole
    assert not whole["y"].complete


POINTWISE = helper.make_model(
    helper.make_graph(
        [
            helper.make_node("Relu", ["x"], ["r"], name="r"),
            helper.make_node("Neg", ["r"], ["n"], name="n"),
            helper.make_node("Sigmoid", ["n"], ["s"], name="s"),
            helper.make_node("Mul", ["x", "s"], ["y"], name="y"),
        ],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3, "H", "W"])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 3, "H", "W"])],
    ),
    opset_imports=[helper.make_opsetid("", 17)],
    ir_version=8,
)


def test_names_that_onnxruntime_gives_in_a_body_and_around_it():
    """It counts the tensors that it reorders in each graph anew, and does not load again what it saved then."""
    model = model_of(
        """(float[N,8,5,5] x) => (float[N,8,5,5] y) { m = ReduceMean<keepdims=0>(x) c = Greater(m, zero)
        b = If (c) < then_branch = t () => (float[N,8,5,5] p) { p = Conv<auto_pad="SAME_UPPER", group=8>(x, w) },
        else_branch = e () => (float[N,8,5,5] q) { q = Relu(x) } > y = Conv(b, v, bias) }""",
        w=normal(8, 1, 3, 3), v=normal(8, 8, 1, 1), bias=normal(8), zero=np.float32(0),
    )  # fmt: skip
    (branch,) = (a.g for n in model.graph.node for a in n.attribute if a.name == "then_branch")
    inside = next(t for t in model.graph.initializer if t.name == "w")
    branch.node.insert(0, helper.make_node("Constant", [], ["w"], value=inside))
    model.graph.initializer.remove(inside)
    data = [{"x": normal(2, 8, 5, 5, seed=seed)} for seed in range(3)]
    graph = load_graph(model)
    stats = collect(graph, ["b", "y"], open_data(data, inputs=InputSpecs.from_graph(graph)), digest="d")
    assert stats["y"].rmax == max(float(computed(graph, feed)[0].max()) for feed in data)
