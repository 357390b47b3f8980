"""Moving-average and per-channel ranges: PyTorch's formulas, in a run of a model and on arrays."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import onnxq
from onnxq.calibration.methods import method_from_name
from onnxq.calibration.observers import (
    ChannelTable,
    MovingAverageMinMax,
    PerChannelMinMax,
    observe_channels,
    observe_moving_average,
)
from onnxq.calibration.runner import CollectOptions
from onnxq.data.inputs import InputSpecs
from onnxq.data.sources import open_data
from onnxq.errors import ArtifactError, ConfigError, DataError, PlanError
from onnxq.graph.view import Graph
from onnxq.numerics import INT8, QuantSpec
from tests.graphs import model_of, normal
from tests.planned import ORT

TEXT = """(float[N,16,8,8] x) => (float[N,16,8,8] y) {
    [c1] a = Conv<pads=[1,1,1,1]>(x, w)
    [r] ar = Relu(a)
    [c2] y = Conv<pads=[1,1,1,1]>(ar, v)
    }"""
MODEL = model_of(TEXT, w=normal(16, 16, 3, 3), v=normal(16, 16, 3, 3, seed=1))
DATA = normal(16, 16, 8, 8)
LINE = model_of("(float[N,C,L] x) => (float[N,C,L] y) { y = Neg(x) }")
OPTIONS = CollectOptions()


def batches(model: Any, data: Any, **options: Any) -> Any:
    return open_data(data, inputs=InputSpecs.from_graph(Graph(model)), **options)


def averaged(arrays: Any, c: float) -> tuple[np.float32, np.float32]:
    """x_min = x_min + c * (min(x) - x_min), step by step in float32, as MovingAverageMinMaxObserver.forward does."""
    low, high = arrays[0].min(), arrays[0].max()
    for array in arrays[1:]:
        low = np.float32(low + np.float32(c) * np.float32(array.min() - low))
        high = np.float32(high + np.float32(c) * np.float32(array.max() - high))
    return low, high


# ---- moving average --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("c", [0.01, 0.5, 1.0])
def test_moving_average_is_the_formula(c: float) -> None:
    arrays = [normal(7, 5, seed=i) * (i + 1) for i in range(20)]
    observer = MovingAverageMinMax(c)
    for array in arrays:
        observer.update(array)
    assert (observer.rmin, observer.rmax) == averaged(arrays, c)


@pytest.mark.parametrize(
    ("c", "rmin", "rmax"),
    [
        (0.01, "-0x1.890e4ap+2", "0x1.47b1eap+2"),
        (0.1, "-0x1.95cc12p+4", "0x1.977588p+4"),
        (0.5, "-0x1.09fe68p+5", "0x1.502b08p+5"),
    ],
)
def test_moving_average_gives_the_bits_of_pytorch(c: float, rmin: str, rmax: str) -> None:
    # Printed by torch 2's MovingAverageMinMaxObserver(averaging_constant=c) on these arrays.
    observer = MovingAverageMinMax(c)
    for i in range(20):
        observer.update(normal(7, 5, seed=i) * np.float32(i + 1))
    assert (observer.rmin, observer.rmax) == (float.fromhex(rmin), float.fromhex(rmax))


def test_moving_average_by_hand() -> None:
    observer = MovingAverageMinMax(0.25)
    for array in ([-4.0, 8.0], [], [-8.0, 4.0], [0.0, 0.0]):
        observer.update(np.float32(array))
    # -4 -> -5 -> -3.75; 8 -> 7 -> 5.25. An empty batch is no batch.
    assert (observer.rmin, observer.rmax) == (-3.75, 5.25)


def test_moving_average_of_a_model() -> None:
    table = observe_moving_average(
        Graph(LINE), ["x", "y"], batches(LINE, DATA[:, :, 0]), digest="d", momentum=0.1, options=OPTIONS
    )
    low, high = averaged(DATA[:, None, :, 0], 0.1)
    assert (float(table.ranges["x"].rmin), float(table.ranges["x"].rmax)) == (low, high)
    assert (float(table.ranges["y"].rmin), float(table.ranges["y"].rmax)) == (-high, -low)
    assert (table.digest, table.samples, table.momentum) == ("d", 16, 0.1)


def test_the_order_and_the_size_of_batches_matter() -> None:
    def run(data: Any, **options: Any) -> Any:
        found = observe_moving_average(
            Graph(LINE), ["x"], batches(LINE, data[:, :, 0], **options), digest="d", momentum=0.3, options=OPTIONS
        )
        return float(found.ranges["x"].rmin)

    assert len({run(DATA), run(DATA[::-1]), run(DATA, batch_size=4)}) == 3


def test_quantize_by_moving_average() -> None:
    result = onnxq.quantize(MODEL, DATA, target="tensorrt", method="moving-average", momentum=0.2)
    # A quarter of the 16 batches is held out.
    low, high = averaged(DATA[:12, None], 0.2)
    assert float(result.qparams["x"].scale) == np.float32(max(-float(low), float(high)) / 127)
    assert result.report.method == "moving-average 0.2"
    assert result.stats.samples == 12
    assert len(result.stats) == 0
    assert {p.key: p.value for p in result.model.metadata_props}["onnxq.data"] == result.stats.data_fingerprint


def test_bounds_of_the_graph_hold() -> None:
    result = onnxq.quantize(MODEL, DATA, target=ORT, method="moving-average")
    # Behind a Relu nothing is negative, so that code 0 of uint8 is 0.
    assert int(result.qparams["ar"].zero_point) == 0
    assert method_from_name("moving-average").label == "moving-average 0.01"


def test_moving_averages_do_not_merge() -> None:
    table = observe_moving_average(Graph(LINE), ["x"], batches(LINE, DATA[:, :, 0]), digest="d", options=OPTIONS)
    with pytest.raises(ArtifactError) as error:
        table.merge(table)
    assert str(error.value) == (
        "moving averages cannot be merged: they depend on the order of the batches, and that of two runs is not known\n"
        "Hint: calibrate in one run, or use method='max' (--method max), whose statistics merge exactly"
    )


def test_moving_average_cannot_come_from_statistics() -> None:
    stats = onnxq.calibrate(MODEL, DATA, target=ORT)
    with pytest.raises(ConfigError) as error:
        onnxq.quantize(MODEL, DATA, target=ORT, stats=stats, method="moving-average")
    assert str(error.value) == (
        "a moving average follows the batches in their order, which statistics do not keep\n"
        "Hint: leave stats= (--stats) out and pass data= (--data), or choose another method= (--method)"
    )


@pytest.mark.parametrize("momentum", [0.0, -1.0, 1.5, float("nan")])
def test_impossible_momentum(momentum: float) -> None:
    with pytest.raises(ConfigError) as error:
        method_from_name("moving-average", momentum=momentum)
    assert str(error.value) == (
        f"momentum is {momentum}, expected a number in (0, 1]\n"
        "Hint: momentum= (--momentum) is the weight of the newest batch, 0.01 in PyTorch"
    )


def test_momentum_of_another_method() -> None:
    with pytest.raises(ConfigError) as error:
        method_from_name("max", momentum=0.1)
    assert str(error.value) == (
        "momentum=0.1 (--momentum) has no meaning for the method 'max'\n"
        "Hint: pass method='moving-average' (--method moving-average), or leave momentum= (--momentum) out"
    )


def test_nonfinite_values_stop() -> None:
    model = model_of("(float[N,C,L] x) => (float[N,C,L] y) { y = Exp(x) }")
    bad = DATA[:, :, 0].copy()
    bad[2, 1, 1] = 1000.0
    for observe in (observe_moving_average, observe_channels):
        with pytest.raises(DataError) as error:
            observe(Graph(model), ["y"], batches(model, bad), digest="d", options=OPTIONS)
        assert str(error.value) == (
            "calibration batch 3: tensor 'y' holds NaN or Inf\n"
            "Hint: remove this sample; `onnxq calibrate` (onnxq.calibrate) names the node that makes it"
        )


def test_tensors_without_elements() -> None:
    empty = [{"x": np.zeros((1, 3, 0), np.float32)}]
    for observe in (observe_moving_average, observe_channels):
        with pytest.raises(DataError) as error:
            observe(Graph(LINE), ["y"], batches(LINE, empty), digest="d", options=OPTIONS)
        assert str(error.value) == ("tensor 'y' had no element in any batch\nHint: pass data= (--data) that fills it")


# ---- per channel -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("axis", [0, 1, 2, -1])
def test_per_channel_is_the_formula(axis: int) -> None:
    arrays = [normal(4, 4, 4, seed=i) for i in range(5)]
    observer = PerChannelMinMax(axis)
    for array in arrays:
        observer.update(array)
    # PerChannelMinMaxObserver: the channel axis to the front, the rest flattened, then min and max along it.
    flat = np.concatenate([np.moveaxis(a, axis, 0).reshape(4, -1) for a in arrays], axis=1)
    assert np.array_equal(observer.rmin, flat.min(axis=1))  # type: ignore[arg-type]
    assert np.array_equal(observer.rmax, flat.max(axis=1))  # type: ignore[arg-type]


def channels(data: Any = DATA, **options: Any) -> ChannelTable:
    return onnxq.channel_ranges(MODEL, data, target=ORT, **options)


def test_channels_of_a_model() -> None:
    table = channels(batch_size=4)
    assert np.array_equal(table.rmin["x"], DATA.min(axis=(0, 2, 3)))
    assert np.array_equal(table.rmax["x"], DATA.max(axis=(0, 2, 3)))
    assert set(table.rmin) == set(onnxq.plan(MODEL, target=ORT).observed())
    stats = onnxq.calibrate(MODEL, DATA, target=ORT)
    assert (table.samples, table.digest, table.data_fingerprint) == (16, stats.digest, stats.data_fingerprint)
    for name in table.rmax:
        assert float(table.per_tensor(name).rmax) == max(stats[name].rmax, 0.0)
        assert float(table.per_tensor(name).rmin) == min(stats[name].rmin, 0.0)


def test_channels_merge_exactly() -> None:
    whole, one, other = channels(), channels(DATA[:5]), channels(DATA[5:])
    for merged in (one.merge(other), other.merge(one)):
        assert all(np.array_equal(merged.rmin[n], whole.rmin[n]) for n in whole.rmin)
        assert all(np.array_equal(merged.rmax[n], whole.rmax[n]) for n in whole.rmax)
        assert (merged.samples, merged.data_fingerprint) == (whole.samples, whole.data_fingerprint)


def test_channels_of_other_things_do_not_merge() -> None:
    with pytest.raises(ArtifactError) as error:
        channels().merge(channels(axis=2))
    assert str(error.value) == (
        "per-channel ranges of different models, tensors or axes cannot be merged\n"
        "Hint: collect both with the same model, axis= and tensors="
    )


def test_channels_of_some_tensors() -> None:
    assert set(channels(tensors=["x"]).rmin) == {"x"}
    with pytest.raises(ConfigError) as error:
        channels(tensors=["xx"])
    assert str(error.value) == (
        "tensor 'xx' is none of those that ort-x64-vnni quantizes\n"
        "Hint: tensors= takes names of onnxq.plan(...).observed(); did you mean 'x'?"
    )


def test_per_tensor_quantization_has_no_use_for_channels() -> None:
    table = channels()
    with pytest.raises(PlanError) as error:
        table.range_for("x", QuantSpec(qtype=INT8, symmetric=True))
    assert str(error.value) == (
        "tensor 'x': per-channel ranges cannot be used where the target quantizes activations per tensor\n"
        "Hint: take per_tensor(name) of these statistics, or calibrate with onnxq.calibrate (onnxq calibrate)"
    )
    with pytest.raises(PlanError, match="tensor 'x': ranges along axis 1 do not fit axis 0"):
        table.range_for("x", QuantSpec(qtype=INT8, symmetric=True, axis=0))
    fitting = table.range_for("x", QuantSpec(qtype=INT8, symmetric=True, axis=1))
    assert np.array_equal(fitting.rmax, np.maximum(table.rmax["x"], 0))


def test_axis_that_is_not_there() -> None:
    with pytest.raises(ConfigError) as error:
        channels(axis=4)
    assert str(error.value) == (
        "tensor 'x' of shape (1, 16, 8, 8) has no axis 4\n"
        "Hint: axis= is the channel axis; leave out tensors that lack it with tensors="
    )


def test_number_of_channels_that_changes() -> None:
    feeds = [{"x": np.ones((1, c, 2), np.float32)} for c in (3, 4)]
    with pytest.raises(DataError) as error:
        observe_channels(Graph(LINE), ["y"], batches(LINE, feeds), digest="d", options=OPTIONS)
    assert str(error.value) == (
        "calibration batch 2: axis 1 of tensor 'y' has 4 channels, 3 in earlier batches\n"
        "Hint: axis= names an axis whose length does not change from batch to batch"
    )
