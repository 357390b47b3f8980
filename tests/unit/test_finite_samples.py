"""NaN and Inf that are left out of statistics: samples that make them teach recovery nothing, and may be fed."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest

import onnxq
from onnxq.calibration.runner import CollectOptions
from onnxq.data.inputs import InputSpecs
from onnxq.data.sources import open_data
from onnxq.errors import DataError
from onnxq.graph.view import Graph
from onnxq.recovery.finite_samples import finite_batches, finite_data
from tests.graphs import model_of, normal
from tests.planned import ORT

LOGARITHM = model_of(
    """(float[N,8,8,8] x) => (float[N,16,8,8] y) {
    l = Log(x)
    [c1] a = Conv<pads=[1,1,1,1]>(l, w)
    ar = Relu(a)
    [c2] y = Conv<pads=[1,1,1,1]>(ar, v)
    }""",
    w=normal(16, 8, 3, 3),
    v=normal(16, 16, 3, 3, seed=1),
)
DATA = np.exp(normal(24, 8, 8, 8))
DATA[5, 0, 0, 0], DATA[7, 1, 2, 3] = -1, 0
"""Of sample 5 the logarithm is NaN, of sample 7 it is -Inf."""

IGNORE = CollectOptions(nonfinite="ignore")


def opened(options: dict[str, Any] | None = None) -> Any:
    return open_data(DATA, inputs=InputSpecs.from_graph(Graph(LOGARITHM)), **(options or {}))


def test_samples_that_make_no_nan_or_inf_are_kept() -> None:
    graph = Graph(LOGARITHM)
    kept = [batch.label for batch in finite_batches(graph, ["ar"], opened().stream(), IGNORE)]
    assert kept == [f"calibration batch {i + 1}" for i in range(24) if i not in {5, 7}]
    whole = opened()
    again = finite_data(graph, ["ar"], whole, IGNORE)
    assert again is not None
    assert [sum(1 for _ in again.stream()) for _ in range(2)] == [22, 22]
    # Where they are an error they have been one by now: nothing is run.
    assert sum(1 for _ in finite_batches(graph, ["ar"], opened().stream(), CollectOptions())) == 24
    assert finite_data(graph, ["ar"], whole, CollectOptions()) is whole


@pytest.mark.parametrize("recover", ["fast", "best", "smooth", "bias"])
def test_recovery_passes_over_samples_that_are_left_out(recover: str) -> None:
    result = onnxq.quantize(LOGARITHM, DATA, target=ORT, nonfinite="ignore", recover=recover, placement="full")
    assert result.report
    assert result.stats is not None
    assert result.stats["l"].nonfinite == 2


MISSING = model_of(
    """(float[N,16] x, float[1] zero) => (float[N,8] y) {
    n = IsNaN(x)
    k = Where(n, zero, x)
    h = MatMul(k, w)
    y = MatMul(h, v)
    }""",
    zero=np.zeros(1, np.float32),
    w=normal(16, 16),
    v=normal(16, 8),
)


def test_a_model_that_knows_missing_values_by_nan() -> None:
    rows = normal(24, 16)
    rows[::3, 2] = np.nan
    with pytest.raises(DataError) as error:
        onnxq.quantize(MISSING, {"x": rows}, target=ORT)
    assert str(error.value).startswith("calibration batch 1: input 'x' holds NaN\nHint: remove this sample, or repair")
    assert str(error.value).endswith("knows missing values by it: nonfinite='ignore' (--nonfinite ignore)")
    result = onnxq.quantize(MISSING, {"x": rows}, target=ORT, nonfinite="ignore", placement="full")
    assert result.report
    assert result.stats is not None
    filled = onnxq.calibrate(MISSING, {"x": np.nan_to_num(rows)[:18]}, target=ORT, placement="full")
    assert result.stats["k"] == filled["k"]


def test_bfloat16_data() -> None:
    spec = InputSpecs.from_graph(Graph(model_of("(float[N,2] x) => (float[N,2] y) { y = Relu(x) }")))["x"]
    values = np.array([[1.5, -2.0]], ml_dtypes.bfloat16)
    np.testing.assert_array_equal(spec.convert(values, "here"), np.float32([[1.5, -2.0]]))
    values[0, 1] = np.nan
    with pytest.raises(DataError, match="here: input 'x' holds NaN"):
        spec.convert(values, "here")
    # What numpy reads from a file of it.
    with pytest.raises(DataError, match=r"float32\nHint: numpy's files do not say what bfloat16 is; save array"):
        spec.convert(values.view("V2"), "here")
