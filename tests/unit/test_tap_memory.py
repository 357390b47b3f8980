"""Tapped tensors in one block of memory, in the model's layout and in blocks of channels."""

from __future__ import annotations

import math

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from onnxq.calibration import blocked, runner, sampling, tap_memory, tap_reader
from onnxq.calibration.blocked import block_size
from onnxq.calibration.blocked_layout import Blocked
from onnxq.calibration.inputs import InputSpecs
from onnxq.calibration.runner import CollectOptions, collect
from onnxq.calibration.sampling import extract
from onnxq.calibration.sources import open_data
from onnxq.calibration.tap_memory import Extremes, Geometry
from onnxq.calibration.taps import with_readable_outputs
from onnxq.graph.view import Graph

RNG = np.random.default_rng(0)


def in_blocks(plain, block, padding=np.nan):
    """A tensor (N, C, H, W) as onnxruntime lays it out, with values in the padding that would show."""
    samples, channels, height, width = plain.shape
    padded = -(-channels // block) * block
    wide = np.full((samples, padded, height, width), padding, plain.dtype)
    wide[:, :channels] = plain
    blocks = wide.reshape(samples, padded // block, block, height * width)
    return np.ascontiguousarray(np.swapaxes(blocks, 2, 3)).reshape(wide.shape)


def read(geometry, row):
    extremes = Extremes(len(geometry.places))
    for span in geometry.spans:
        extremes.see(row, span)
    for stretch in geometry.padded:
        extremes.see_padded(row, *stretch)
    return extremes


@settings(max_examples=150, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    shift=st.sampled_from([-9.0, 0.0, 9.0]),
    channels=st.integers(1, 40),
    block=st.sampled_from([8, 16]),
    span=st.sampled_from([16, 100, 10**6]),
)
def test_extremes_and_elements_are_those_of_the_plain_tensors(seed, shift, channels, block, span):
    rng = np.random.default_rng(seed)
    samples, height, width = (int(n) for n in rng.integers(1, 5, 3))
    plain = (rng.standard_normal((samples, channels, height, width)) + shift).astype(np.float32)
    other = (rng.standard_normal((samples, 7)) * 10.0 ** rng.integers(-40, 30)).astype(np.float32)
    blocks = in_blocks(plain, block)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sampling, "SAMPLE", 20)
        patch.setattr(tap_memory, "SPAN", span)
        geometry = Geometry([other.shape, blocks.shape], [None, samples], [None, Blocked(channels, block)])
        row = np.full(geometry.elements, np.inf, np.float32)  # gaps may hold anything
        for place, array in zip(geometry.places, (other, blocks), strict=True):
            row[place.start : place.stop] = array.ravel()
        extremes = read(geometry, row)
        expected = [extract(other), extract(plain, rows=samples)]
        taken = [row[geometry.taken[cut]] for cut in geometry.cuts]
        assert geometry.weights == [part.weight for part in expected]
    assert extremes.finite()
    assert extremes.low.tolist() == [min(part.rmin, 0.0) for part in expected]
    assert extremes.high.tolist() == [max(part.rmax, 0.0) for part in expected]
    assert geometry.counts == [other.size, plain.size]
    for elements, part in zip(taken, expected, strict=True):
        np.testing.assert_array_equal(np.sort(elements), np.sort(part.taken))


@pytest.mark.parametrize("wrong", [np.nan, -np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("channels", [16, 19])
def test_what_is_not_finite_shows(wrong, sign, channels):
    plain = sign * np.abs(RNG.standard_normal((1, channels, 2, 3))).astype(np.float32)
    geometry = Geometry([(1, 32 if channels == 19 else 16, 2, 3)], [1], [Blocked(channels, 16)])
    assert read(geometry, in_blocks(plain, 16).ravel()).finite()
    plain[0, channels - 1, 1, 1] = wrong
    assert not read(geometry, in_blocks(plain, 16).ravel()).finite()


def test_a_negative_zero_is_a_zero():
    geometry = Geometry([(3,)], [None], [None])
    row = np.zeros(geometry.elements, np.float32)
    row[:3] = [-0.0, 2.0, 0.0]
    extremes = read(geometry, row)
    assert (extremes.low.tolist(), extremes.high.tolist()) == [[0.0], [2.0]] or (
        extremes.low[0] == 0.0 and extremes.high[0] == 2.0
    )


@given(seed=st.integers(0, 2**32 - 1), channels=st.integers(1, 40), block=st.sampled_from([4, 8, 16]))
@settings(max_examples=50)
def test_blocks_and_back(seed, channels, block):
    rng = np.random.default_rng(seed)
    plain = rng.standard_normal((2, channels, 2, 3)).astype(np.float32)
    layout = Blocked(channels, block)
    blocks = in_blocks(plain, block)
    np.testing.assert_array_equal(layout.plain(blocks), plain)
    places = layout.places(np.arange(channels * 6), 6)
    for sample in range(2):
        np.testing.assert_array_equal(blocks[sample].ravel()[places], plain[sample].ravel())


# ---- in onnxruntime --------------------------------------------------------------------------------------------------

X = RNG.standard_normal((6, 3, 12, 12)).astype(np.float32)


def conv_net():
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
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3, "H", "W"])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 32, 1, 1])],
        weights,
    )
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return Graph(onnx.shape_inference.infer_shapes(model))


TAPS = ["x", "r0", "c1", "a1", "c2", "e2", "y"]


def data(graph, source=X, **options):
    return open_data(source, inputs=InputSpecs.from_graph(graph), **options)


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(sampling, "SAMPLE", 200)


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("batch_size", [1, 4, 6])
@pytest.mark.parametrize("range_only", [False, True])
def test_blocked_taps_give_what_plain_ones_give(monkeypatch, batch_size, range_only):
    graph = conv_net()
    options = CollectOptions(range_only=range_only)
    _, layouts = options.tapped_session(graph, TAPS[1:], TAPS[1:])
    if block_size():
        assert layouts[TAPS.index("r0") - 1] == Blocked(20, block_size())
    found = collect(graph, TAPS, data(graph, batch_size=batch_size), digest="d", options=options)
    monkeypatch.setattr(runner, "blocked_session", lambda *_, **__: None)
    assert collect(graph, TAPS, data(graph), digest="d", options=options) == found
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


@pytest.mark.usefixtures("small")
def test_a_batch_is_run_in_parts_that_fit(monkeypatch):
    graph = conv_net()
    whole = collect(graph, TAPS, data(graph, batch_size=6), digest="d")
    sizes = []
    run_into = runner.Session.run_into

    def seen(self, feed, binding, **options):
        sizes.append(len(feed["x"]))
        run_into(self, feed, binding, **options)

    monkeypatch.setattr(runner.Session, "run_into", seen)
    monkeypatch.setattr(tap_reader, "PART_ELEMENTS", 60000)
    assert collect(graph, TAPS, data(graph, batch_size=6), digest="d") == whole
    assert sizes == [2, 2, 2]  # a sample takes 16 416 elements


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

    monkeypatch.setattr(blocked.tempfile, "TemporaryDirectory", fail)
    assert collect(graph, TAPS, data(graph), digest="d") == expected
