"""One test for each numbered case of FoldPad."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from onnxq.graph.view import Graph, attribute
from onnxq.passes.simplify.fold_pad import FoldPad
from tests.graphs import apply, graph_of, normal, ops, reasons

# Begin and end differ on each axis, so that an exchange of any two shows.
PADS = np.array([0, 0, 1, 2, 0, 0, 3, 0])


def padded(reader: str, pad: str = "Pad(x, p)", *, opset: int = 18, **constants: Any) -> Graph:
    text = f"(float[1,2,6,6] x) => (float[a,b,c,d] y) {{ t = {pad} y = {reader} }}"
    known = {"p": PADS, "w": normal(3, 2, 3, 3), **constants}
    return graph_of(
        text,
        opset=opset,
        **{
            k: v
            for k, v in known.items()
            if k in (reader + pad).replace("(", " ").replace(")", " ").replace(",", " ").split()
        },
    )


@pytest.mark.parametrize(
    ("conv", "pads"),
    [
        ("Conv(t, w)", [1, 2, 3, 0]),
        ("Conv<pads=[1,0,0,2]>(t, w)", [2, 2, 3, 2]),
        ('Conv<auto_pad="VALID">(t, w)', [1, 2, 3, 0]),
    ],
)
def test_case_1_conv(conv: str, pads: list[int]) -> None:
    graph = padded(conv)
    apply(graph, FoldPad())
    assert ops(graph) == {"Conv": 1}
    assert attribute(graph.producer("y"), "pads") == pads


def test_case_1_pads_as_attribute() -> None:
    graph = padded("Conv(t, w)", "Pad<pads=[0,0,1,2,0,0,3,0]>(x)", opset=10)
    apply(graph, FoldPad())
    assert ops(graph) == {"Conv": 1}


def test_case_1_pads_of_some_axes() -> None:
    graph = padded("Conv(t, w)", "Pad(x, q, , axes)", q=np.array([2, 1, 0, 3]), axes=np.array([-1, 2]))
    apply(graph, FoldPad())
    assert attribute(graph.producer("y"), "pads") == [1, 2, 3, 0]


@pytest.mark.parametrize("own", ["", ", pads=[1,0,0,1], count_include_pad=1"])
def test_case_2_average_pool(own: str) -> None:
    graph = padded(f"AveragePool<kernel_shape=[5,5]{own}>(t)")
    apply(graph, FoldPad())
    assert ops(graph) == {"AveragePool": 1}


@pytest.mark.parametrize(
    ("pad", "reason"),
    [('Pad<mode="reflect">(x, p)', "it pads in mode reflect"), ("Pad(x, p, v)", "it pads with another value than 0")],
)
def test_case_3_other_padding(pad: str, reason: str) -> None:
    assert reasons(apply(padded("Conv(t, w)", pad, v=np.float32(1)), FoldPad())) == reason


@pytest.mark.parametrize(
    ("pads", "reason"),
    [
        ([0, 0, -1, 0, 0, 0, 0, 0], "its sizes are not constant or below 0"),
        ([0, 1, 1, 1, 0, 0, 1, 1], "it pads batch or channels"),
        ([1, 0, 1, 1, 0, 0, 1, 1], "it pads batch or channels"),
    ],
)
def test_case_4_sizes(pads: list[int], reason: str) -> None:
    graph = padded("Conv(t, w)", p=np.array(pads), w=normal(3, 3 if pads[1] else 2, 3, 3))
    assert reasons(apply(graph, FoldPad())) == reason


def test_case_4_sizes_come_in() -> None:
    text = "(float[1,2,6,6] x, int64[8] p) => (float[a,b,c,d] y) { t = Pad(x, p) y = Conv(t, w) }"
    assert reasons(FoldPad().run(graph_of(text, w=normal(3, 2, 3, 3)))) == "its sizes are not constant or below 0"


def test_case_4_axes_come_in() -> None:
    text = "(float[1,2,6,6] x, int64[4] a) => (float[a,b,c,d] y) { t = Pad(x, p, , a) y = Conv(t, w) }"
    result = FoldPad().run(graph_of(text, opset=18, w=normal(3, 2, 3, 3), p=PADS))
    assert reasons(result) == "its axes are not constant or the rank is not known"


def test_case_5_read_twice() -> None:
    text = "(float[1,2,6,6] x) => (float[a,b,c,d] y, float[a,b,e,f] z) { t = Pad(x, p) y = Conv(t, w) z = Relu(t) }"
    graph = graph_of(text, w=normal(3, 2, 3, 3), p=PADS)
    assert reasons(apply(graph, FoldPad())) == "the padded tensor has another reader or is an output of the graph"


def test_case_6_max_pool() -> None:
    graph = padded("MaxPool<kernel_shape=[5,5]>(t)")
    assert reasons(apply(graph, FoldPad())) == "MaxPool does not pad with zeros itself"


@pytest.mark.parametrize(
    ("reader", "reason"),
    [
        ('Conv<auto_pad="SAME_UPPER">(t, w)', "auto_pad is SAME_UPPER: the pads depend on the size of the input"),
        ("AveragePool<kernel_shape=[5,5], pads=[1,1,1,1]>(t)", "the AveragePool does not count its own pads"),
        ("AveragePool<kernel_shape=[5,5], ceil_mode=1>(t)", "the AveragePool rounds its size up"),
        ("AveragePool<kernel_shape=[3,3]>(t)", "the pads are not narrower than the window of the AveragePool"),
    ],
)
def test_case_7_readers_that_cannot(reader: str, reason: str) -> None:
    assert reasons(apply(padded(reader), FoldPad())) == reason
