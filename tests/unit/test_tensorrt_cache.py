"""TensorRT's calibration cache: the published format, an exact round trip, and an error for everything else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import onnxq
from onnxq.calibration.methods import method_from_name
from onnxq.calibration.statistics.table import StatsTable, TensorStats
from onnxq.calibration.tensorrt_cache import (
    TensorRTCache,
    cache_from_stats,
    header_for,
    load_tensorrt_cache,
    save_tensorrt_cache,
)
from onnxq.errors import ArtifactError, ConfigError, InternalError
from tests.graphs import model_of, normal

TEXT = """(float[N,16,8,8] x) => (float[N,16,8,8] y) {
    [c1] a = Conv<pads=[1,1,1,1]>(x, w)
    [r] ar = Relu(a)
    [c2] y = Conv<pads=[1,1,1,1]>(ar, v)
    }"""
MODEL = model_of(TEXT, w=normal(16, 16, 3, 3), v=normal(16, 16, 3, 3, seed=1))
DATA = normal(12, 16, 8, 8)
MAX = method_from_name("max")

# The table of TensorRT's sampleINT8, as its README prints it.
PUBLISHED = """TRT-7000-EntropyCalibration2
data: 3c008912
conv1: 3c88edfc
pool1: 3c88edfc
conv2: 3ddc858b
pool2: 3ddc858b
ip1: 3db6bd6e
ip2: 3e691968
prob: 3c010a14
"""


def written(text: str | bytes, tmp_path: Path) -> Path:
    path = tmp_path / "t.cache"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


# ---- the format ------------------------------------------------------------------------------------------------------


def test_published_table(tmp_path: Path) -> None:
    cache = load_tensorrt_cache(written(PUBLISHED, tmp_path))
    assert cache.header == "TRT-7000-EntropyCalibration2"
    # Pixels up to 1 and probabilities up to 1: amax / 127 with amax within 1 % of 1. A byte order or a factor that is
    # wrong would be off by orders of magnitude.
    assert 127 * cache.scales["data"] == pytest.approx(1.0, rel=0.01)
    assert 127 * cache.scales["prob"] == pytest.approx(1.0, rel=0.01)
    assert cache.scales["conv2"] == np.frombuffer(bytes.fromhex("3ddc858b"), ">f4")[0]
    save_tensorrt_cache(cache, tmp_path / "again.cache")
    assert (tmp_path / "again.cache").read_text() == PUBLISHED


@pytest.mark.parametrize(
    ("line", "name", "scale"),
    [
        ("a: b: 3f800000", "a: b", 1.0),
        ("input:0: 3f800000", "input:0", 1.0),
        ("(Unnamed Layer* 50) [Shuffle]_output: 3F800000", "(Unnamed Layer* 50) [Shuffle]_output", 1.0),
        ("dead: 0", "dead", 0.0),
        ("größe/0: 3f000000", "größe/0", 0.5),
    ],
)
def test_lines(line: str, name: str, scale: float, tmp_path: Path) -> None:
    text = f"TRT-8601-MinMaxCalibration\r\n{line}\r\n\r\n"
    assert dict(load_tensorrt_cache(written(text, tmp_path)).scales) == {name: scale}


@pytest.mark.parametrize(
    ("version", "number"),
    [("7.0.0", 7000), ("8.6.1", 8601), ("8.6.1.6", 8601), ("10.3.0", 100300), ("10.13.2", 101302)],
)
def test_versions(version: str, number: int) -> None:
    assert header_for(version) == f"TRT-{number}-EntropyCalibration2"


# ---- both ways -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["max", "entropy", "mse", "percentile"])
def test_quantizing_by_an_exported_cache_is_quantizing_by_the_statistics(method: str, tmp_path: Path) -> None:
    stats = onnxq.calibrate(MODEL, DATA, target="tensorrt")
    save_tensorrt_cache(cache_from_stats(stats, method_from_name(method)), tmp_path / "m.cache")
    one = onnxq.quantize(MODEL, DATA, target="tensorrt", method=method, stats=stats)
    other = onnxq.quantize(MODEL, DATA, target="tensorrt", tensorrt_cache=tmp_path / "m.cache")
    assert one.qparams.keys() == other.qparams.keys()
    for name, params in one.qparams.items():
        assert np.array_equal(params.scale, other.qparams[name].scale), name
    assert one.model.graph == other.model.graph
    metadata = {p.key: p.value for p in other.model.metadata_props}
    assert metadata["onnxq.method"] == "TensorRT calibration cache"
    assert metadata["onnxq.samples"] == "0"


def test_the_scales_of_the_cache_are_those_of_the_model() -> None:
    rng = np.random.default_rng(0)
    scales = {"x": float(np.float32(rng.random())), "ar": float(np.float32(1e-30)), "unused": 1.0}
    cache = TensorRTCache(header=header_for("8.6.1"), scales=scales)
    plan = onnxq.plan(MODEL, target="tensorrt")
    for name, found in cache.ranges(plan).items():
        # / 127 in float64 gives back the 24-bit number that was multiplied by 127.
        assert np.float32(float(found.rmax) / 127.0) == np.float32(scales[name])


def test_without_data_nothing_is_called_synthetic(tmp_path: Path) -> None:
    path = written("TRT-8601-EntropyCalibration2\nx: 3d000000\nar: 3d000000\n", tmp_path)
    result = onnxq.quantize(MODEL, target="tensorrt", tensorrt_cache=path)
    assert {p.key: p.value for p in result.model.metadata_props}["onnxq.data"] != "synthetic"
    assert float(result.qparams["ar"].scale) == 0.03125


def test_tensors_that_share_a_scale_get_the_largest() -> None:
    text = """(float[N,16,8,8] x, float[N,16,8,8] z) => (float[N,16,8,8] y) {
        a = Relu(x)
        b = Relu(z)
        c = Concat<axis=1>(a, b)
        y = Conv<pads=[1,1,1,1]>(c, w)
        }"""
    plan = onnxq.plan(model_of(text, w=normal(16, 32, 3, 3)), target="tensorrt")
    groups = {plan.tensors[name].group for name in plan.observed()}
    assert len(groups) == 1
    names = plan.observed()
    cache = TensorRTCache(header="", scales={name: 2.0**i for i, name in enumerate(names)})
    assert {float(r.rmax) for r in cache.ranges(plan).values()} == {127 * 2.0 ** (len(names) - 1)}


def test_dead_tensor() -> None:
    stats = onnxq.StatsTable(
        tensors={"a": TensorStats.of(np.zeros(5)), "b": TensorStats.of([1.0])}, digest="", samples=1
    )
    cache = cache_from_stats(stats, MAX)
    assert cache.scales == {"a": 0.0, "b": float(np.float32(1 / 127))}


# ---- refusals --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ("", "its first line is '', not TRT-<version>-EntropyCalibration2"),
        ("x: 3f800000\n", "its first line is 'x: 3f800000', not TRT-<version>-EntropyCalibration2"),
        ("TRT-8601-EntropyCalibration2\n", "it holds no tensor"),
        ("TRT-8601-EntropyCalibration2\nx 3f800000\n", "line 2 is 'x 3f800000', not a name and hexadecimal digits"),
        ("TRT-8601-EntropyCalibration2\nx: 3f8000001\n", "line 2 is 'x: 3f8000001', not a name and hexadecimal digits"),
        ("TRT-8601-EntropyCalibration2\nx: 3f800000\ny: 3c72", "its end is missing: line 3 is 'y: 3c72'"),
        ("TRT-8601-EntropyCalibration2\nx: 3f80\ny: 3g\n", "line 3 is 'y: 3g', not a name and hexadecimal digits"),
        ("TRT-8601-EntropyCalibration2\nx: 7fc00000\n", "line 2 gives tensor 'x' the scale nan"),
        ("TRT-8601-EntropyCalibration2\nx: 7f800000\n", "line 2 gives tensor 'x' the scale inf"),
        ("TRT-8601-EntropyCalibration2\nx: bf800000\n", "line 2 gives tensor 'x' the scale -1"),
        ("TRT-8601-EntropyCalibration2\nx: 3f800000\nx: 3f800000\n", "line 3 names tensor 'x' again"),
        (b"TRT-8601-EntropyCalibration2\n\xff\xfe: 3f800000\n", "it is not UTF-8 text"),
    ],
)
def test_damaged_files(content: Any, why: str, tmp_path: Path) -> None:
    path = written(content, tmp_path)
    with pytest.raises(ArtifactError) as error:
        load_tensorrt_cache(path)
    assert str(error.value) == (
        f"{path}: this is no TensorRT calibration cache, or a damaged one: {why}\n"
        "Hint: pass the text file that TensorRT's calibrator or `onnxq cache` wrote"
    )


def test_missing_tensors_are_named(tmp_path: Path) -> None:
    path = written("TRT-8601-EntropyCalibration2\nx: 3d000000\nother: 3d000000\n", tmp_path)
    with pytest.raises(ArtifactError) as error:
        onnxq.quantize(MODEL, DATA, target="tensorrt", tensorrt_cache=path)
    assert str(error.value) == (
        "the calibration cache lacks 1 of 2 tensors to quantize: 'ar'\n"
        "Hint: was it made for this model? Keep what reads them in float with exclude= (--exclude), "
        "or calibrate on data= (--data) without tensorrt_cache= (--calibration-cache)"
    )


def test_other_targets_are_refused(tmp_path: Path) -> None:
    path = written(PUBLISHED, tmp_path)
    with pytest.raises(ConfigError) as error:
        onnxq.quantize(MODEL, DATA, target="ort-x64-vnni", tensorrt_cache=path)
    assert str(error.value) == (
        "a TensorRT calibration cache holds symmetric int8 scales; ort-x64-vnni needs other ranges\n"
        "Hint: pass target='tensorrt' (--target tensorrt), or data= (--data) instead of the cache"
    )


def test_two_sources_of_ranges_are_refused(tmp_path: Path) -> None:
    stats = onnxq.calibrate(MODEL, DATA, target="tensorrt")
    with pytest.raises(ConfigError) as error:
        onnxq.quantize(MODEL, DATA, target="tensorrt", stats=stats, tensorrt_cache=written(PUBLISHED, tmp_path))
    assert str(error.value) == (
        "ranges can come from statistics or from a TensorRT calibration cache, not from both\n"
        "Hint: leave out stats= (--stats) or tensorrt_cache= (--calibration-cache)"
    )


def test_statistics_of_nothing() -> None:
    with pytest.raises(ArtifactError) as error:
        cache_from_stats(onnxq.StatsTable(tensors={}, digest="", samples=1), MAX)
    assert str(error.value) == (
        "the statistics hold no tensor, so there is no scale to write\n"
        "Hint: calibrate for a target= (--target) that quantizes this model"
    )


def test_places_and_names_that_cannot_be_used(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="cannot read the calibration cache: No such file or directory\nHint: ch"):
        load_tensorrt_cache(tmp_path / "absent")
    cache = TensorRTCache(header=header_for("8.6.1"), scales={"x": 1.0})
    with pytest.raises(ConfigError, match="cannot write the calibration cache: No such file or directory\nHint: ch"):
        save_tensorrt_cache(cache, tmp_path / "absent" / "t.cache")
    for name in ("a\nb", " a", ""):
        with pytest.raises(ArtifactError, match=r"the name of tensor .* cannot be written to a calibration cache"):
            save_tensorrt_cache(TensorRTCache(header="", scales={name: 1.0}), tmp_path / "t.cache")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("version", ["8", "8.6", "ten", "8.6.x"])
def test_what_is_no_version(version: str) -> None:
    with pytest.raises(ConfigError) as error:
        header_for(version)
    assert str(error.value) == (
        f"{version!r} is no version of TensorRT\n"
        "Hint: tensorrt_version= (--tensorrt-version) looks like 8.6.1; `trtexec --help` prints it"
    )


@pytest.mark.parametrize("scale", [float("nan"), -1.0, 0.1])
def test_scales_are_float32(scale: float) -> None:
    with pytest.raises(InternalError, match="is not a finite float32 number >= 0"):
        TensorRTCache(header="", scales={"x": scale})


def test_a_method_does_not_ruin_a_tensor_in_the_cache_either() -> None:
    """One element in 100 000 is not zero: no percentile but 100 keeps it, and `quantize` takes max there."""
    values = np.zeros(100_000, np.float32)
    values[7] = 5.0
    tensors = {"sparse": TensorStats.of(values), "plain": TensorStats.of(normal(50_000))}
    stats = StatsTable(tensors=tensors, digest="d", samples=1)
    made = cache_from_stats(stats, method_from_name("percentile"))
    assert made.replaced == ("sparse",)
    assert 127 * made.scales["sparse"] == pytest.approx(5.0, rel=1e-6)
    assert cache_from_stats(stats, MAX).replaced == ()
