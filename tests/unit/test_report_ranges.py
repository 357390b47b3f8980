"""Histograms and ranges that a report shows, against the values themselves."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnxq.calibration.methods import METHODS
from onnxq.calibration.statistics.table import StatsTable, TensorStats
from onnxq.graph.view import Graph, Use
from onnxq.numerics.arrays import fake_quantize
from onnxq.numerics.metrics import sqnr_db
from onnxq.numerics.qparams import QuantParams, Range, qparams_from_range
from onnxq.numerics.qtypes import INT8, UINT8
from onnxq.numerics.specs import QuantSpec
from onnxq.planning.plan import FromValues, Observed, QuantPlan, Role, TensorPlan
from onnxq.report.ranges import SHOWN_BINS, USED, TensorRanges, of_values, ranges_of
from tests.verify_models import float_conv

U8 = QuantSpec(qtype=UINT8, symmetric=False)
VALUES = np.random.default_rng(0).laplace(size=20000).astype(np.float32)


def ranges(values: np.ndarray, params: QuantParams, source: Observed | None = None) -> TensorRanges:
    tensor = TensorPlan(name="x", role=Role.ACTIVATION, spec=U8, source=source or Observed(), uses=(Use("Conv_c", 0),))
    plan = QuantPlan(target="t", opset=17, tensors={"x": tensor}, nodes=(), digest="d")
    stats = StatsTable(tensors={"x": TensorStats.of(values)}, digest="d", samples=1)
    return ranges_of(Graph(float_conv()), plan, stats, {"x": params})["x"]


@given(st.lists(st.floats(-1e6, 1e6, width=32), min_size=1, max_size=60))
def test_every_value_is_in_its_bar(values: list[float]) -> None:
    array = np.float32(values)
    found = ranges(array, qparams_from_range(Range.of(-1.0, 1.0), U8)).histogram
    assert found is not None
    assert len(found.counts) <= SHOWN_BINS + 2
    assert sum(found.counts) + found.zeros == array.size
    for i, count in enumerate(found.counts):
        low = found.low + i * found.width
        inside = (array >= np.float64(low)) & (array < np.float64(low) + found.width) & (array != 0)
        assert count == np.count_nonzero(inside)


def test_the_share_that_is_clipped_and_the_noise_are_those_of_the_values() -> None:
    params = qparams_from_range(Range.of(-2.0, 3.0), U8)
    used = ranges(VALUES, params).choices[0]
    step = float(params.scale)
    low, high = used.rmin - step / 2, used.rmax + step / 2
    clipped = np.mean((low > VALUES) | (high < VALUES))
    # Inside a bin, 1/2048 of the largest value wide, values count as evenly spread.
    assert used.clipped_share == pytest.approx(clipped, abs=2e-4)
    assert used.sqnr_db == pytest.approx(sqnr_db(VALUES, fake_quantize(VALUES, params)), abs=0.05)


def test_every_method_is_there_and_max_clips_nothing() -> None:
    found = ranges(VALUES, qparams_from_range(Range.of(-2.0, 3.0), U8))
    by_name = {choice.method: choice for choice in found.choices}
    assert list(by_name) == [USED, *METHODS]
    assert by_name["max"].clipped_share == 0.0
    assert by_name["max"].rmin == pytest.approx(float(VALUES.min()), rel=0.02)
    # To within 0.1 dB no range is better than the one that minimises the error.
    assert by_name["mse"].sqnr_db >= max(c.sqnr_db for c in found.choices) - 0.1


def test_what_the_graph_cuts_is_not_clipped() -> None:
    found = ranges(VALUES, qparams_from_range(Range.of(0.0, 20.0), U8), Observed(lower=0.0))
    assert (found.lower, found.upper) == (0.0, None)
    assert found.choices[0].clipped_share == 0.0


def test_a_tensor_of_zeros() -> None:
    found = ranges(np.zeros(10, np.float32), qparams_from_range(Range.of(0.0, 0.0), U8))
    assert found.histogram is not None
    assert (found.histogram.counts, found.histogram.zeros) == ((), 10)
    assert found.choices[0].sqnr_db is None


def test_values_at_the_end_of_the_range_are_not_clipped() -> None:
    """White pixels: many values at exactly 1, where the last code lies."""
    values = np.float32([1.0] * 50 + [0.5] * 50)
    assert ranges(values, qparams_from_range(Range.of(0.0, 1.0), U8)).choices[0].clipped_share == 0.0


def test_weights_per_channel() -> None:
    values = np.float32([[0.5, -1.0, 0.0], [10.0, 4.0, -30.0]])
    spec = QuantSpec(qtype=INT8, symmetric=True, axis=0, narrow_range=True)
    # Half of the second channel's range: -30 and nothing else is cut off.
    params = QuantParams(scale=np.float32([1.0 / 127, 15.0 / 127]), zero_point=np.zeros(2, np.int8), spec=spec)
    found = of_values(values, params)
    assert found.choices[0].clipped_share == pytest.approx(1 / 6)
    assert found.choices[0].sqnr_db == pytest.approx(sqnr_db(values, fake_quantize(values, params)))
    assert found.histogram is not None
    assert sum(found.histogram.counts) == 5
    assert found.histogram.zeros == 1


def test_constants_of_the_graph_are_looked_at() -> None:
    spec = QuantSpec(qtype=INT8, symmetric=True, axis=0, narrow_range=True)
    tensor = TensorPlan(name="w", role=Role.WEIGHT, spec=spec, source=FromValues(), uses=(Use("Conv_c", 1),))
    plan = QuantPlan(target="t", opset=17, tensors={"w": tensor}, nodes=(), digest="d")
    params = QuantParams(scale=np.full(8, 0.01, np.float32), zero_point=np.zeros(8, np.int8), spec=spec)
    found = ranges_of(Graph(float_conv()), plan, StatsTable(tensors={}, digest="d", samples=0), {"w": params})
    assert [choice.method for choice in found["w"].choices] == [USED]
