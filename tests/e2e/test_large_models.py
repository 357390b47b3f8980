"""Models whose weights are treated as large: the same result, by way of files.

What counts as large is set to a few kilobytes here; `python -m benches.large` does it with gigabytes.
"""

from __future__ import annotations

import gc
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, numpy_helper

import onnxq
from onnxq.errors import ConfigError, ModelError
from onnxq.graph import external_data
from onnxq.graph.external_data import DRAFT
from onnxq.graph.model import load_graph
from onnxq.verification.engines.onnxruntime import OrtModel
from tests.graphs import model_of, normal

FEEDS = [{"x": normal(2, 3, 8, 8, seed=seed)} for seed in range(8)]


def network() -> ModelProto:
    """Weights of every kind of node that recovery tells apart: Conv, MatMul with and without bias, Gemm."""
    return model_of(
        """(float[N,3,8,8] x) => (float[N,24] y, float[N,16,8,8] c) {
        c0 = Conv<pads=[1,1,1,1]>(x, w0, b0) c1 = Relu(c0) c2 = Conv<pads=[1,1,1,1]>(c1, w1) c = Add(c2, c1)
        p = GlobalAveragePool(c) f = Flatten(p) m = MatMul(f, w2) a = Add(m, b2) r = Relu(a)
        g = Gemm<transB=1, alpha=0.5>(r, w3, b3) s = Sigmoid(g) y = MatMul(s, w4) }""",
        w0=normal(16, 3, 3, 3), b0=normal(16), w1=normal(16, 16, 3, 3) / np.float32(12), w2=normal(16, 64),
        b2=normal(64), w3=normal(32, 64) / np.float32(8), b3=normal(32), w4=normal(32, 24),
    )  # fmt: skip


@pytest.fixture
def stored(tmp_path: Path) -> Path:
    """The network with its weights in a file beside it."""
    folder = tmp_path / "float"
    folder.mkdir()
    path = folder / "model.onnx"
    onnx.save(network(), path, save_as_external_data=True, location="w.bin", size_threshold=100)
    return path


@pytest.fixture
def large(monkeypatch: pytest.MonkeyPatch) -> None:
    make_large(monkeypatch)


def make_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(external_data, "LARGE_BYTES", 2000)
    monkeypatch.setattr(external_data, "SCRATCH_BYTES", 2000)


def constants(path: Path) -> dict[str, NDArray[Any]]:
    graph = load_graph(path)
    return {name: numpy_helper.to_array(onnx.TensorProto.FromString(proto.SerializeToString()), str(path.parent))
            for name, proto in graph.initializers.items()}  # fmt: skip


def outputs(path: Path) -> list[NDArray[Any]]:
    return [value for feed in FEEDS for value in OrtModel(path, optimised=False)(feed).values()]


@pytest.mark.parametrize("target", ["ort-x64-vnni", "ort-x64-avx2", "openvino"])
@pytest.mark.parametrize("recover", ["none", "fast", "best"])
def test_the_same_as_in_memory(
    tmp_path: Path, stored: Path, target: str, recover: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Codes and scales are equal. Biases may differ in the last codes: means are taken of inputs, not of outputs."""
    small = onnxq.quantize(stored, FEEDS, target=target, output=tmp_path / "small.onnx", recover=recover)
    make_large(monkeypatch)
    result = onnxq.quantize(stored, FEEDS, target=target, output=tmp_path / "large.onnx", recover=recover)
    assert result.report.failed_checks == small.report.failed_checks == ()
    assert not (tmp_path / "small.onnx.data").exists()
    assert (tmp_path / "large.onnx.data").stat().st_size > 16 * 16 * 9
    assert str(result.report.output_data_path) == str(tmp_path / "large.onnx.data")
    want, got = constants(tmp_path / "small.onnx"), constants(tmp_path / "large.onnx")
    assert want.keys() == got.keys()
    for name, value in want.items():
        if value.dtype != np.int32 and not name.startswith("b"):
            np.testing.assert_array_equal(got[name], value, err_msg=name)
    # One code of a bias is about 2^-14 of an output's range; a wrong bias is off by far more.
    for one, other in zip(outputs(tmp_path / "small.onnx"), outputs(tmp_path / "large.onnx"), strict=True):
        np.testing.assert_allclose(other, one, atol=0.02 * np.abs(one).max())
    assert sorted(p.name for p in tmp_path.iterdir()) == ["float", "large.onnx", "large.onnx.data", "small.onnx"]


def halves(folder: Path) -> Path:
    """The network in float16, with its weights in a file beside it."""
    model = network()
    for tensor in model.graph.initializer:
        tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float16), tensor.name))
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.elem_type = TensorProto.FLOAT16
    path = folder / "half.onnx"
    onnx.save(model, path, save_as_external_data=True, location="h.bin", size_threshold=100)
    return path


@pytest.mark.parametrize("mode", ["static", "dynamic", "weight-only"])
@pytest.mark.parametrize("written", [True, False])
def test_float16_models_are_widened_through_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: str, *, written: bool
) -> None:
    """Their weights in float32, too, may be more than memory or a message holds."""
    (tmp_path / "float").mkdir()
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    path = halves(tmp_path / "float")
    feeds = [{"x": feed["x"].astype(np.float16)} for feed in FEEDS]
    small = onnxq.quantize(path, feeds, mode=mode, target="ort-x64-vnni", output=tmp_path / "small.onnx")
    make_large(monkeypatch)
    large = onnxq.quantize(
        path, feeds, mode=mode, target="ort-x64-vnni", output=tmp_path / "large.onnx" if written else None
    )
    assert large.report.failed_checks == small.report.failed_checks == ()
    if written:
        assert {e.value for t in large.model.graph.initializer for e in t.external_data if e.key == "location"} == {
            "large.onnx.data"
        }
    else:
        onnx.save(large.model, tmp_path / "large.onnx")
    want, got = constants(tmp_path / "small.onnx"), constants(tmp_path / "large.onnx")
    assert want.keys() == got.keys()
    for name, value in want.items():
        if value.dtype != np.int32 and not name.startswith("b"):
            np.testing.assert_array_equal(got[name], value, err_msg=name)
    del large, small
    gc.collect()
    assert not list((tmp_path / "temporary").iterdir())


@pytest.mark.parametrize("recover", ["none", "fast", "best"])
@pytest.mark.parametrize("half", [False, True])
def test_the_same_bytes_through_a_temporary_file(
    tmp_path: Path, stored: Path, monkeypatch: pytest.MonkeyPatch, recover: str, *, half: bool
) -> None:
    """Of models that are not large, what passes make of the weights may lie in a file all the same."""
    path = halves(stored.parent) if half else stored
    feeds = [{"x": feed["x"].astype(np.float16)} for feed in FEEDS] if half else FEEDS
    for name, limit in (("memory", external_data.SCRATCH_BYTES), ("file", 2000)):
        monkeypatch.setattr(external_data, "SCRATCH_BYTES", limit)
        result = onnxq.quantize(path, feeds, recover=recover, target="ort-x64-vnni", output=tmp_path / f"{name}.onnx")
        assert not any(t.external_data for t in result.model.graph.initializer)
    assert (tmp_path / "file.onnx").read_bytes() == (tmp_path / "memory.onnx").read_bytes()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file.onnx", "float", "memory.onnx"]


@pytest.mark.usefixtures("large")
def test_the_result_refers_to_the_written_file(tmp_path: Path, stored: Path) -> None:
    result = onnxq.quantize(stored, FEEDS, output=tmp_path / "int8.onnx")
    written = onnx.load(tmp_path / "int8.onnx", load_external_data=False)
    for model in (result.model, written):
        places = {e.value for t in model.graph.initializer for e in t.external_data if e.key == "location"}
        assert places == {"int8.onnx.data"}
    again = OrtModel(result.model, optimised=False, base_dir=tmp_path)(FEEDS[0])
    for name, value in OrtModel(tmp_path / "int8.onnx", optimised=False)(FEEDS[0]).items():
        np.testing.assert_array_equal(again[name], value)
    assert onnxq.verify(stored, tmp_path / "int8.onnx", FEEDS)


@pytest.mark.usefixtures("large")
@pytest.mark.parametrize("mode", ["static", "dynamic"])
def test_without_an_output_all_stays_in_memory(tmp_path: Path, stored: Path, mode: str) -> None:
    result = onnxq.quantize(stored, FEEDS, mode=mode)
    assert [p.name for p in tmp_path.iterdir()] == ["float"]
    onnx.save(result.model, tmp_path / "elsewhere.onnx")
    assert onnxq.verify(stored, tmp_path / "elsewhere.onnx", FEEDS)


@pytest.mark.parametrize("mode", ["static", "dynamic"])
def test_what_is_given_back_refers_to_no_file(stored: Path, mode: str) -> None:
    """PyTorch's exporter writes weights of any size beside the model; the result can be saved in another folder."""
    result = onnxq.quantize(stored, FEEDS, mode=mode)
    assert not any(t.external_data for t in result.model.graph.initializer)
    onnx.checker.check_model(result.model, full_check=True)


@pytest.mark.usefixtures("large")
def test_dynamic_mode_writes_weights_beside_the_model(tmp_path: Path, stored: Path) -> None:
    result = onnxq.quantize(stored, FEEDS, mode="dynamic", output=tmp_path / "int8.onnx")
    assert result.report.failed_checks == ()
    assert (tmp_path / "int8.onnx.data").is_file()
    assert onnxq.verify(stored, tmp_path / "int8.onnx", FEEDS)


@pytest.mark.usefixtures("large")
def test_the_same_bytes_every_time(tmp_path: Path, stored: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        onnxq.quantize(stored, FEEDS, output=tmp_path / name / "m.onnx")
    for file in ("m.onnx", "m.onnx.data"):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()


@pytest.mark.usefixtures("large")
def test_a_failure_leaves_old_files(tmp_path: Path, stored: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    output = tmp_path / "int8.onnx"
    onnxq.quantize(stored, FEEDS, output=output)
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir() if p.is_file()}
    with monkeypatch.context() as patch:
        patch.setattr("onnxq.modes.finishing.verify_model", lambda *_, **__: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            onnxq.quantize(stored, FEEDS, output=output, force=True, method="max")
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir() if p.is_file()} == before


@pytest.mark.skipif(sys.platform == "win32", reason="Windows limits no open files")
def test_many_weights_take_few_open_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every mapping of a file holds a descriptor, and 1024 of them are what a process usually may have."""
    layers = 60
    steps = " ".join(f"h{n} = MatMul({f'h{n - 1}' if n else 'x'}, w{n})" for n in range(layers))
    text = f"(float[N,64] x) => (float[N,64] y) {{ {steps} y = Relu(h{layers - 1}) }}"
    weights = {f"w{n}": normal(64, 64, seed=n) / np.float32(8) for n in range(layers)}
    path = tmp_path / "deep.onnx"
    onnx.save(model_of(text, **weights), path, save_as_external_data=True, location="w.bin", size_threshold=100)
    make_large(monkeypatch)
    mapped: list[Path] = []
    memmap = np.memmap

    def count(file: Path, **options: Any) -> Any:
        mapped.append(file)
        return memmap(file, **options)

    monkeypatch.setattr(np, "memmap", count)
    onnxq.quantize(path, [{"x": normal(4, 64, seed=s)} for s in range(4)], recover="none", output=tmp_path / "q.onnx")
    assert 0 < len(mapped) < layers


FULL = """
import resource, sys
import numpy as np, onnxq
from onnxq.graph import external_data
external_data.LARGE_BYTES = external_data.SCRATCH_BYTES = 2000
resource.setrlimit(resource.RLIMIT_FSIZE, (9000, 9000))
import signal
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
feeds = [{"x": np.ones((2, 3, 8, 8), np.float32)}]
try:
    onnxq.quantize(sys.argv[1], feeds, output=sys.argv[2], force=True, recover="none")
except onnxq.OnnxqError as error:
    print(type(error).__name__, error)
"""


def test_a_file_that_may_not_grow(tmp_path: Path, stored: Path) -> None:
    """The system's limit on file sizes strikes while codes are written, in the middle of quantization.

    The temporary file stays below it.
    """
    (tmp_path / "int8.onnx").write_bytes(b"old")
    command = [sys.executable, "-c", FULL, str(stored), str(tmp_path / "int8.onnx")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("ConfigError")
    assert "the model cannot be written: File too large" in done.stdout
    assert {p.name for p in tmp_path.iterdir()} == {"float", "int8.onnx"}
    assert (tmp_path / "int8.onnx").read_bytes() == b"old"


@pytest.mark.parametrize("as_message", [False, True])
def test_nobody_else_may_refer_to_drafts(tmp_path: Path, as_message: bool) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(bytes(4 * 16 * 64))
    model = network()
    tensor = next(t for t in model.graph.initializer if t.name == "w2")
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=f"{DRAFT}{secret}")
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "model.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(ModelError, match=r"tensor 'w2'.*not a path inside the model's folder"):
        onnxq.quantize(model if as_message else tmp_path / "m" / "model.onnx", FEEDS)


@pytest.mark.usefixtures("large")
def test_no_room_for_weights_is_noticed_before_work_is_done(stored: Path, tmp_path: Path) -> None:
    (tmp_path / "int8.onnx.data").mkdir()
    with pytest.raises(ConfigError):
        onnxq.quantize(stored, FEEDS, output=tmp_path / "int8.onnx")
