"""Tensors whose histograms follow from another one's: which those are, and that collecting them is exact."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from onnxq.calibration.runner import CollectOptions, collect
from onnxq.calibration.statistics import sampling
from onnxq.calibration.statistics.file import decode_stats, encode_stats
from onnxq.calibration.statistics.following import FollowingStats
from onnxq.calibration.taps import followers as search
from onnxq.calibration.taps.followers import followers_among
from onnxq.data.inputs import InputSpecs
from onnxq.data.sources import open_data
from onnxq.errors import ArtifactError
from onnxq.graph.view import Graph

RNG = np.random.default_rng(0)
X = (3 * RNG.standard_normal((8, 4, 6, 6))).astype(np.float32)

SILU = ("Mul", "x", ("Sigmoid", "x"))


def node(op, inputs, output, **attributes):
    return helper.make_node(op, inputs.split(), [output], name=f"make_{output}", **attributes)


def graph_of(*nodes, elem_type=TensorProto.FLOAT, **initializers):
    made = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("a", elem_type, ["N", 4, "H", "W"])],
        [helper.make_tensor_value_info(nodes[-1].output[0], elem_type, None)],
        [numpy_helper.from_array(np.asarray(v, np.float32), n) for n, v in initializers.items()],
    )
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    return Graph(onnx.shape_inference.infer_shapes(model))


def found_in(graph, *taps):
    return {name: (f.source, f.curve.expression) for name, f in followers_among(graph, taps).items()}


# ---- which tensors follow --------------------------------------------------------------------------------------------

NET = graph_of(
    node("Conv", "a w", "c"),
    node("Sigmoid", "c", "s"),
    node("Mul", "s c", "y"),
    node("Conv", "y w", "d"),
    node("Sigmoid", "d", "t"),
    node("Mul", "d t", "z"),
    w=RNG.standard_normal((4, 4, 1, 1)),
)


def test_a_silu_follows_the_tensor_in_front_of_it():
    assert found_in(NET, "c", "s", "y") == {"s": ("c", ("Sigmoid", "x")), "y": ("c", ("Mul", ("Sigmoid", "x"), "x"))}
    assert found_in(NET, "c", "y") == {"y": ("c", ("Mul", ("Sigmoid", "x"), "x"))}  # over a tensor that is not tapped
    assert found_in(NET, "s", "y") == {}
    assert found_in(NET, "y", "d", "z") == {"z": ("d", SILU)}
    assert found_in(NET) == {}


def test_inputs_are_followed_like_others():
    assert found_in(graph_of(node("Tanh", "a", "y")), "a", "y") == {"y": ("a", ("Tanh", "x"))}


def test_numbers_attributes_and_their_defaults():
    graph = graph_of(
        node("HardSigmoid", "a", "h", beta=0.25),
        node("Mul", "a h", "m"),
        node("Sub", "m k", "n"),
        node("LeakyRelu", "n", "l"),
        node("Gelu", "l", "g", approximate="tanh"),
        k=[[[[0.5]]]],
    )
    hard = ("Mul", "x", ("HardSigmoid", "x", pytest.approx(0.2), 0.25))
    found = found_in(graph, "a", "h", "n")
    assert found["n"] == ("a", ("Sub", hard, 0.5))
    leaky = ("LeakyRelu", "x", 0.01)
    assert found_in(graph, "n", "l", "g") == {"l": ("n", leaky), "g": ("n", ("GeluByTanh", leaky))}
    assert found_in(graph, "n", "g") == {"g": ("n", ("GeluByTanh", leaky))}


@pytest.mark.parametrize(
    ("nodes", "initializers"),
    [
        ([node("Add", "a k", "y")], {"k": np.ones((4, 1, 1))}),  # other numbers for other channels
        ([node("Add", "a k", "y")], {"k": [np.inf]}),
        ([node("Sqrt", "a", "y")], {}),  # steep at 0
        ([node("Softmax", "a", "y")], {}),  # of many elements each
        ([node("Relu", "a", "r"), node("Mul", "a r", "y")], {}),
    ],
)
def test_what_does_not_follow(nodes, initializers):
    assert found_in(graph_of(*nodes, **initializers), "a", "y") == {}


def test_operators_of_other_domains_are_unknown():
    graph = graph_of(node("Sigmoid", "a", "y"))
    graph.node("make_y").domain = "other"
    assert found_in(graph, "a", "y") == {}


def test_two_tensors_in_one_product():
    graph = graph_of(
        node("Conv", "a w", "c"), node("Sigmoid", "a", "s"), node("Mul", "c s", "y"), w=np.ones((4, 4, 1, 1))
    )
    assert found_in(graph, "a", "c", "y") == {}
    assert found_in(graph, "a", "c", "s", "y") == {"s": ("a", ("Sigmoid", "x"))}


def test_types_of_fewer_bits_are_counted():
    graph = graph_of(node("Sigmoid", "a", "y"), elem_type=TensorProto.FLOAT16)
    assert found_in(graph, "a", "y") == {}


def test_long_ways_are_counted(monkeypatch):
    nodes = [node("Neg", f"n{i}" if i else "a", f"n{i + 1}") for i in range(40)]
    graph = graph_of(*nodes)
    assert found_in(graph, "a", "n8")["n8"][0] == "a"
    assert found_in(graph, "a", "n9") == {}
    every = [f"n{i}" for i in range(1, 41)]
    found = found_in(graph, "a", *every)
    # Each tap adds a term to the one before; the first that is counted is followed in turn.
    assert [name for name in every if name not in found] == ["n32"]
    assert found["n33"] == ("n32", ("Neg", "x"))
    monkeypatch.setattr(search, "_MOST_STEPS", 0)
    assert found_in(graph, "a", "n1") == {}


# ---- collecting ------------------------------------------------------------------------------------------------------

TAPS = ["a", "c", "s", "y", "d", "z"]


def data(source=X, graph=NET, **options):
    return open_data(source, inputs=InputSpecs.from_graph(graph), **options)


@pytest.fixture
def small(monkeypatch):
    """At most 50 of a sample's 144 elements are counted."""
    monkeypatch.setattr(sampling, "SAMPLE", 50)


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("batch_size", [1, 3, 8])
@pytest.mark.parametrize("limited", [False, True])
def test_batches_order_threads_groups_and_shards_give_the_same_bytes(threads, batch_size, limited):
    """Under the limit, every tensor is in a group of its own, so what follows is in another than what it follows."""
    one = collect(NET, TAPS, data(), digest="d")
    assert [name for name in TAPS if one[name].follows] == ["s", "y", "z"]
    assert not one["y"].complete
    seen = []
    options = CollectOptions(threads=threads, memory_limit=2 * 144 * 4 * batch_size if limited else None)
    arguments = {"digest": "d", "options": options, "progress": seen.append}
    found = collect(NET, TAPS, data(X[::-1], batch_size=batch_size), **arguments)
    assert {p.passes for p in seen} == ({4} if limited else {1})
    parts = [collect(NET, TAPS, data(X[i::3], batch_size=batch_size), **arguments) for i in range(3)]
    merged = decode_stats(encode_stats(parts[2].merge(parts[0])), "x").merge(parts[1])
    assert encode_stats(merged) == encode_stats(found) == encode_stats(one)
    for name in TAPS:
        np.testing.assert_array_equal(merged[name].counts, one[name].counts)


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("nonfinite", ["error", "ignore"])
def test_extremes_are_of_all_elements_and_the_histogram_is_the_sources(nonfinite):
    options = CollectOptions(nonfinite=nonfinite)
    table = collect(NET, TAPS, data(), digest="d", options=options)
    every = collect(NET, TAPS, data(), digest="d", options=CollectOptions(full_histogram=True, nonfinite=nonfinite))
    assert not any(stats.follows for stats in every.values())
    for name in TAPS:
        assert table[name].count == every[name].count
        # A Sigmoid's extremes are computed from those of its input where nothing is left out: an ulp or two.
        np.testing.assert_allclose(
            [table[name].rmin, table[name].rmax], [every[name].rmin, every[name].rmax], rtol=2e-7 if name == "s" else 0
        )
    stats = table["y"]
    assert isinstance(stats, FollowingStats)
    assert stats.source == table["c"]
    assert (stats.counted, stats.own.counted) == (table["c"].counted, 0)
    assert stats.zeros + int(stats.counts.sum()) == table["c"].zeros + int(table["c"].counts.sum())


def test_what_is_not_finite_is_left_out():
    x = np.abs(X) + 0.1
    bad = x.copy()
    bad[0, 0, 0, 0], bad[1, 1, 1, 1] = 0.0, -1.0
    graph = graph_of(node("Log", "a", "c"), node("Sigmoid", "c", "s"), node("Mul", "c s", "y"))
    options = CollectOptions(nonfinite="ignore")
    table = collect(graph, ["c", "s", "y"], data(bad, graph), digest="d", options=options)
    # The logarithm of 0 is -Inf, of which the sigmoid is 0 and the product NaN.
    assert [(s.nonfinite, s.follows) for s in table.values()] == [(2, False), (1, True), (2, True)]
    assert [s.counted for s in table.values()] == [x.size - 2] * 3
    clean = collect(graph, ["c", "s", "y"], data(x, graph), digest="d", options=options)
    assert all((table[n].rmin, table[n].rmax) == (clean[n].rmin, clean[n].rmax) for n in table)
    counts = [s.zeros + int(s.counts.sum()) for s in table.values()]
    assert counts == [x.size - 2] * 3


def test_ranges_alone_follow_nothing():
    table = collect(NET, TAPS, data(), digest="d", options=CollectOptions(range_only=True))
    assert table.range_only
    assert not any(stats.follows for stats in table.values())


def test_counted_and_followed_statistics_are_not_merged():
    one = collect(NET, TAPS, data(), digest="d")
    every = collect(NET, TAPS, data(), digest="d", options=CollectOptions(full_histogram=True))
    with pytest.raises(ArtifactError, match=r"tensor 's' was counted cannot be merged"):
        one.merge(every)
