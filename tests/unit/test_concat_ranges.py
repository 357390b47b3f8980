"""Inputs of Concats that take over the output's range, and onnxruntime copying their codes."""

from __future__ import annotations

import numpy as np

from onnxq.calibration.concat_ranges import with_joined_concats
from onnxq.numerics.qparams import Range
from tests.graphs import graph_of, normal
from tests.planned import planned

TEXT = """(float[N,16,8,8] x) => (float[N,16,8,8] y) {
[c1] a = Conv(x, w)
[c2] b = Conv(x, w)
[c3] c = Conv(x, w)
[t] d = Tanh(c)
[cat] e = Concat<axis=1>(a, b, c)
[c4] y = Conv(e, v)
}"""
W, V = normal(16, 16, 1, 1), normal(16, 48, 1, 1)


def joined(**ranges: tuple[float, float]) -> dict[str, tuple[float, float]]:
    graph = graph_of(TEXT, w=W, v=V)
    plan = planned(graph)
    every = {name: Range.of(-1.0, 1.0) for name in plan.observed()}
    every |= {name: Range.of(*ends) for name, ends in ranges.items()}
    found = with_joined_concats(graph, plan, every)
    return {name: (float(np.asarray(r.rmin)), float(np.asarray(r.rmax))) for name, r in found.items()}


def test_wider_and_nearly_as_wide_inputs_take_the_outputs_range() -> None:
    found = joined(a=(-3.0, 2.5), b=(-1.9, 1.95), e=(-2.0, 2.0))
    assert found["a"] == found["b"] == found["e"] == (-2.0, 2.0)


def test_a_narrow_input_keeps_its_resolution() -> None:
    assert joined(a=(-1.0, 2.0), e=(-2.0, 2.0))["a"] == (-1.0, 2.0)


def test_an_input_that_is_read_elsewhere_keeps_its_range() -> None:
    assert joined(c=(-3.0, 3.0), e=(-2.0, 2.0))["c"] == (-3.0, 3.0)
