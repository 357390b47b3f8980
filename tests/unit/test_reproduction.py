"""A model says how it was made, and is made again from that."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, TypedDict

import numpy as np
import onnx
import pytest

import onnxq
from onnxq.api.reproduce import reproduce
from onnxq.calibration.methods import method_from_name
from onnxq.calibration.tensorrt_cache import cache_from_stats, save_tensorrt_cache
from onnxq.data.images import ImageOptions
from onnxq.errors import ArtifactError, ModelError
from onnxq.graph.model import get_metadata, set_metadata
from onnxq.keywords import Keyword
from onnxq.modes.recorded_options import OPTIONS_KEY, recall_options, record_options
from tests.cli.conftest import Run, folder, run, samples, tiny_model  # noqa: F401 - fixtures
from tests.graphs import model_of, normal

MODEL = model_of("(float[N,16] x) => (float[N,8] y) { a = MatMul(x, w) b = Relu(a) y = MatMul(b, v) }",
                 w=normal(16, 32), v=normal(32, 8, seed=1))  # fmt: skip
DATA = {"x": normal(20, 16)}

OPTIONS: list[dict[str, Any]] = [
    {},
    {"method": "percentile", "percentile": 99.5, "batch_size": 4, "limit": 12},
    {"method": "moving-average", "momentum": 0.1},
    {"recover": "none", "exclude_ops": ["Relu"], "full_histogram": True, "threads": 1, "memory_limit": 10**9},
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("target", ["ort-x64-vnni", "tensorrt"])
def test_made_again(options: dict[str, Any], target: str) -> None:
    made = onnxq.quantize(MODEL, DATA, target=target, **options).model
    check = reproduce(MODEL, made, DATA)
    assert check.passed, check.detail


def test_without_data() -> None:
    assert reproduce(MODEL, onnxq.quantize(MODEL, target="ort-x64-vnni").model).passed


def test_what_is_different_is_named() -> None:
    made = onnxq.quantize(MODEL, DATA, target="ort-x64-vnni").model
    assert reproduce(MODEL, made, {"x": normal(20, 16, seed=5)}).detail == "it was made with other data"
    fewer = reproduce(MODEL, made, {"x": DATA["x"][:12]})
    assert not fewer.passed
    assert fewer.detail == "it was made with other data; it was made with 15 samples, not 9"
    other = model_of("(float[N,16] x) => (float[N,32] y) { y = MatMul(x, w) }", w=normal(16, 32))
    assert reproduce(other, made, DATA).detail == "it was made from another float model"
    made.graph.initializer[0].raw_data = made.graph.initializer[0].raw_data[::-1]
    assert "another onnxruntime or CPU?" in reproduce(MODEL, made, DATA).detail
    searched = onnxq.quantize(MODEL, DATA, target="ort-x64-vnni", min_sqnr=45.0).model
    assert reproduce(MODEL, searched, DATA).passed
    searched.graph.initializer[0].raw_data = searched.graph.initializer[0].raw_data[::-1]
    assert (
        "a search under a time limit, which may have had more or less time" in reproduce(MODEL, searched, DATA).detail
    )
    set_metadata(made, {"onnxq.version": "0.0.1"})
    assert "it was made by onnxq 0.0.1, this is " in reproduce(MODEL, made, DATA).detail


def test_statistics_stand_for_their_data() -> None:
    stats = onnxq.quantize(MODEL, DATA, target="ort-x64-vnni").stats
    assert reproduce(MODEL, onnxq.quantize(MODEL, DATA, target="ort-x64-vnni", stats=stats).model, DATA).passed


def test_statistics_of_all_data_are_collected_again() -> None:
    """`quantize` holds some of the data out, `calibrate` does not."""
    stats = onnxq.calibrate(MODEL, DATA, target="ort-x64-vnni", limit=14)
    made = onnxq.quantize(MODEL, DATA, target="ort-x64-vnni", stats=stats, method="mse", limit=14).model
    assert reproduce(MODEL, made, DATA).passed
    assert reproduce(MODEL, made, {"x": normal(20, 16, seed=5)}).detail.startswith("it was made with other data; ")


def test_what_cannot_be_made_again(tmp_path: Path) -> None:
    stats = onnxq.calibrate(MODEL, DATA, target="tensorrt")
    save_tensorrt_cache(cache_from_stats(stats, method_from_name("max")), tmp_path / "t.cache")
    made = onnxq.quantize(MODEL, DATA, target="tensorrt", tensorrt_cache=tmp_path / "t.cache").model
    assert "t.cache" not in get_metadata(made)[OPTIONS_KEY]
    with pytest.raises(ArtifactError, match="the model was made with tensorrt_cache=, whose content it does not hold"):
        reproduce(MODEL, made, DATA)
    with pytest.raises(ModelError, match="the model was not made by onnxq"):
        reproduce(MODEL, MODEL, DATA)


def test_options_of_another_version_are_named() -> None:
    made = onnxq.quantize(MODEL, DATA, target="ort-x64-vnni").model
    set_metadata(made, {OPTIONS_KEY: '{"method":"max","softening":2}', "onnxq.version": "9.1"})
    with pytest.raises(ArtifactError, match=r"made with softening=, which this version .*\nHint: .* made it: 9\.1$"):
        reproduce(MODEL, made, DATA)


@pytest.mark.parametrize("text", ["", "[]", "{", "3", '{"images": {"what": 1}}', "[" * 100_000])
def test_damaged_records(text: str) -> None:
    with pytest.raises(ArtifactError, match="does not say with which options it was made"):
        recall_options({OPTIONS_KEY: text})


def test_records() -> None:
    class Group(TypedDict, total=False):
        method: Annotated[str, Keyword("auto", "")]
        images: Annotated[Any, Keyword(None, "")]
        exclude: Annotated[Any, Keyword((), "")]
        table: Annotated[Any, Keyword(None, "")]

    def recorded(**given: Any) -> str:
        return record_options(Group, given)

    assert recorded() == recorded(exclude=[]) == recorded(method="auto", images=None) == "{}"
    assert record_options(Group, {}, mode="dynamic") == '{"mode":"dynamic"}'
    assert recorded(exclude=("a",), method="max") == '{"exclude":["a"],"method":"max"}'
    images = ImageOptions(mean=(0.5,), size=(32, 48))
    assert recall_options({OPTIONS_KEY: recorded(images=images)}) == {"images": images}
    with pytest.raises(ArtifactError):
        recall_options({OPTIONS_KEY: recorded(table=object())})


def test_options_that_cannot_change_the_result_leave_no_trace() -> None:
    made = [
        onnxq.quantize(MODEL, DATA, target="ort-x64-vnni", **options).model
        for options in ({}, {"threads": 1}, {"memory_limit": 10**9}, {"force": True})
    ]
    assert len({model.SerializeToString(deterministic=True) for model in made}) == 1
    assert json.loads(get_metadata(made[0])[OPTIONS_KEY]) == {}


def test_on_the_command_line(run: Run, folder: Path) -> None:  # noqa: F811
    run("quantize", "model.onnx", "--data", "data.npz", "--method", "entropy", "--limit", "16", "-t", "ort-x64-vnni")
    arguments = ("verify", "model.onnx", "model.int8.onnx", "-t", "ort-x64-vnni", "--reproduce", "--json")
    result = run(*arguments, "--data", "data.npz")
    assert result.exit_code == 0
    checks = {check["name"]: check for check in json.loads(result.stdout)["checks"]}
    assert checks["made again from the float model"]["passed"]
    np.savez(folder / "other.npz", x=samples()[::-1] * 2)
    result = run(*arguments, "--data", "other.npz")
    assert result.exit_code == 4
    assert "made again from the float model: it was made with other data" in result.stderr
    onnx.save(tiny_model(), str(folder / "plain.onnx"))
    result = run("verify", "model.onnx", "plain.onnx", "--data", "data.npz", "--reproduce")
    assert result.exit_code == 3
    assert "the model was not made by onnxq" in result.stderr


def test_for_a_table_of_ones_own_on_the_command_line(run: Run, folder: Path) -> None:  # noqa: F811
    (folder / "npu.toml").write_text('name = "npu"\nbase = "xnnpack"\n')
    run("quantize", "model.onnx", "--data", "data.npz", "-t", "npu.toml")
    result = run("verify", "model.onnx", "model.int8.onnx", "--data", "data.npz", "--reproduce", "-t", "npu.toml")
    assert result.exit_code == 0, result.output
