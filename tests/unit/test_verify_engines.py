"""TensorRT and OpenVINO asked for real where they are installed, and what is said where they are not."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest

from onnxq.errors import DataError, EngineMissingError, ModelError
from onnxq.graph.view import Graph
from onnxq.verification.engines import openvino as openvino_engine
from onnxq.verification.engines import tensorrt as tensorrt_engine
from onnxq.verification.engines.result import Precision
from onnxq.verification.engines.source import model_file
from tests.verify_models import ModelBuilder, float_conv, int8_conv, tensorrt_conv

SHAPES = {"x": ((1, 8, 6, 6), (1, 8, 6, 6), (2, 8, 6, 6))}
needs_tensorrt = pytest.mark.skipif(tensorrt_engine.installed_package() is None, reason="TensorRT is not installed")
needs_openvino = pytest.mark.skipif(not openvino_engine.is_installed(), reason="OpenVINO is not installed")


def test_shape_ranges_cover_every_batch_and_prefer_the_usual_one():
    seen = [{"x": (1, 8, 6, 6)}, {"x": (4, 8, 6, 6)}, {"x": (4, 8, 6, 6)}, {"x": (2, 8, 6, 6)}]
    expected = {"x": ((1, 8, 6, 6), (4, 8, 6, 6), (4, 8, 6, 6))}
    assert tensorrt_engine.shape_ranges(Graph(float_conv()), seen) == expected


def test_shape_ranges_leave_out_fixed_inputs():
    b = ModelBuilder()
    b.node("Relu", [b.input("x", [1, 4])], "y")
    b.output("y")
    assert tensorrt_engine.shape_ranges(Graph(b.model()), []) == {}


def test_shape_ranges_need_data_for_a_dynamic_input():
    with pytest.raises(DataError) as caught:
        tensorrt_engine.shape_ranges(Graph(float_conv()), [{"other": (1,)}])
    assert str(caught.value) == (
        "input 'x': it has dynamic dimensions ('N', 8, 6, 6), and no batch tells which sizes to build for\n"
        "Hint: pass data whose shapes are those the engine will see (data=, --data)"
    )


def test_tensorrt_not_installed(monkeypatch):
    monkeypatch.setattr(tensorrt_engine, "PACKAGES", ("no_such_tensorrt",))
    with pytest.raises(EngineMissingError) as caught:
        tensorrt_engine.build_engine(tensorrt_conv(), SHAPES)
    assert str(caught.value).startswith("TensorRT is not installed (looked for the packages no_such_tensorrt)")
    assert "pip install 'onnxq[tensorrt]' (from a clone: pip install '.[tensorrt]')" in str(caught.value)


def test_openvino_not_installed(monkeypatch):
    monkeypatch.setattr(openvino_engine, "is_installed", lambda: False)
    with pytest.raises(EngineMissingError, match="OpenVINO is not installed") as caught:
        openvino_engine.executed_precision(int8_conv())
    assert "pip install 'onnxq[openvino]' (from a clone: pip install '.[openvino]')" in str(caught.value)


@needs_tensorrt
def test_tensorrt_builds_what_is_made_for_it_and_keeps_the_engine(tmp_path):
    engine = tmp_path / "model.engine"
    report = tensorrt_engine.build_engine(tensorrt_conv(), SHAPES, engine_path=engine)
    assert report.problems == ()
    assert report.accepted
    assert report.size_bytes == engine.stat().st_size > 0
    assert report.engine_ops["DEQUANTIZE"] == 2


@needs_tensorrt
def test_tensorrt_refuses_what_is_made_for_onnxruntime_and_says_where():
    report = tensorrt_engine.build_engine(int8_conv(), SHAPES)
    assert not report.accepted
    assert report.size_bytes == 0
    assert report.problems[0].startswith("QuantizeLinear 'QuantizeLinear_x_q': ")
    assert "zero point" in report.problems[0]


@needs_tensorrt
def test_tensorrt_tells_why_a_build_fails():
    b = ModelBuilder()
    b.node("MatMul", [b.input("x", ["?", "?"]), b.constant("w", np.ones((4, 4), np.float32))], "y")
    b.output("y")
    report = tensorrt_engine.build_engine(b.model(), {"x": ((1, 4), (1, 4), (1, 4))})
    assert not report.accepted
    assert report.problems


def test_a_tensorrt_process_that_dies_is_a_problem_and_not_a_crash(monkeypatch):
    def die(command, **_kwargs):
        return subprocess.CompletedProcess(command, -11, b"", b"first line\nsegmentation fault")

    monkeypatch.setattr(tensorrt_engine, "installed_package", lambda: "tensorrt_rtx")
    monkeypatch.setattr(tensorrt_engine.subprocess, "run", die)
    report = tensorrt_engine.build_engine(tensorrt_conv(), SHAPES)
    assert not report.accepted
    assert report.problems == ("TensorRT's process ended with status -11: segmentation fault",)


def test_a_tensorrt_build_that_takes_too_long(monkeypatch):
    def hang(command, **_kwargs):
        raise subprocess.TimeoutExpired(command, 1.0)

    monkeypatch.setattr(tensorrt_engine, "installed_package", lambda: "tensorrt_rtx")
    monkeypatch.setattr(tensorrt_engine.subprocess, "run", hang)
    report = tensorrt_engine.build_engine(tensorrt_conv(), SHAPES, timeout_seconds=1.0)
    assert report.problems == ("TensorRT did not finish within 1 s",)


def test_the_answer_of_the_worker_is_read(monkeypatch):
    def answer(command, **_kwargs):
        said = {"version": "10", "accepted": True, "size_bytes": 5, "layers": {"CONVOLUTION": 1}}
        Path(command[-1]).write_text(json.dumps(said))
        return subprocess.CompletedProcess(command, 0, b"", b"")

    monkeypatch.setattr(tensorrt_engine, "installed_package", lambda: "tensorrt")
    monkeypatch.setattr(tensorrt_engine.subprocess, "run", answer)
    report = tensorrt_engine.build_engine(tensorrt_conv(), SHAPES)
    assert (report.engine, report.version, report.accepted, report.size_bytes) == ("tensorrt", "10", True, 5)


@needs_openvino
@pytest.mark.parametrize("model", [int8_conv(), tensorrt_conv()], ids=["u8", "s8"])
def test_openvino_runs_both_placements_in_int8(model):
    report = openvino_engine.executed_precision(model)
    conv = report.node("Conv_c")
    assert report.accepted
    assert conv is not None
    assert (conv.precision, conv.engine_op) == (Precision.INT8, "Convolution")


@needs_openvino
def test_openvino_runs_a_float_model_in_float(tmp_path):
    path = tmp_path / "m.onnx"
    onnx.save(float_conv(), path)
    conv = openvino_engine.executed_precision(path).node("Conv_c")
    assert conv is not None
    assert conv.precision is Precision.FLOAT
    assert conv.why == "its input 'x', an input of the model, has no Q/DQ pair (V1)"


@needs_openvino
def test_openvino_refuses_an_unknown_operator():
    b = ModelBuilder()
    b.node("NoSuchOp", [b.input("x", [1])], "y")
    b.output("y", [1])
    report = openvino_engine.executed_precision(b.model())
    assert not report.accepted
    assert report.problems


@needs_openvino
def test_signals_are_handled_after_openvino_was_asked():
    """A model of weight-only quantization is compiled twice; then what a Ctrl-C does."""
    code = """if True:
        import signal
        import onnxq
        from tests.graphs import model_of, normal
        model = model_of("(float[N, 64] x) => (float[N, 64] y) { [p] y = MatMul(x, w) }", w=normal(64, 64))
        options = {"mode": "weight-only", "target": "openvino"}
        assert onnxq.quantize(model, {"x": normal(4, 64)}, **options).report
        signal.signal(signal.SIGINT, lambda number, frame: print("handled"))
        signal.raise_signal(signal.SIGINT)
    """
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "handled\n"), done.stderr


def test_model_file_brings_external_data_along(tmp_path):
    onnx.save(float_conv(), tmp_path / "m.onnx", save_as_external_data=True, location="m.data", size_threshold=64)
    model = onnx.load(tmp_path / "m.onnx", load_external_data=False)
    folder = tmp_path / "out"
    folder.mkdir()
    written = onnx.load(model_file(model, folder, tmp_path))
    assert written.graph.initializer[0].raw_data == float_conv().graph.initializer[0].raw_data
    assert model.graph.initializer[0].data_location == onnx.TensorProto.EXTERNAL  # the caller's message is as it was


def test_model_file_splits_a_large_model(tmp_path, monkeypatch):
    monkeypatch.setattr("onnxq.graph.saving._INLINE_LIMIT_BYTES", 100)
    monkeypatch.setattr("onnxq.graph.weights_file._EXTERNAL_MIN_BYTES", 100)
    model = float_conv()
    path = model_file(model, tmp_path)
    assert (tmp_path / "model.onnx.data").exists()
    assert onnx.load(path).graph.initializer[0].raw_data == float_conv().graph.initializer[0].raw_data
    assert model.graph.initializer[0].raw_data  # the caller's message keeps its weights


def test_model_file_without_its_external_data(tmp_path):
    onnx.save(float_conv(), tmp_path / "m.onnx", save_as_external_data=True, location="m.data", size_threshold=64)
    model = onnx.load(tmp_path / "m.onnx", load_external_data=False)
    (tmp_path / "m.data").unlink()
    (tmp_path / "elsewhere").mkdir()
    with pytest.raises(ModelError, match="its external data cannot be read"):
        model_file(model, tmp_path / "elsewhere", tmp_path)
