"""`float_type="float16"`: what is not quantized computes in half precision; TensorRT-RTX parses and builds it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from onnx import TensorProto, numpy_helper

import onnxq
from onnxq.cli.main import cli
from onnxq.errors import ConfigError
from tests.graphs import model_of, normal
from tests.zoo import ZOO

MODELS = Path("models")


def quantized(name: str, **options: Any) -> onnxq.QuantizeResult:
    samples = str(MODELS / f"{name}.calib.npz")
    return onnxq.quantize(str(MODELS / f"{name}.onnx"), samples, target="tensorrt", **options)


@pytest.mark.parametrize("name", ["digits_resnet", "wordlang_transformer", "pydoc_lm"])
def test_as_near_to_float_as_with_float32(name: str) -> None:
    half, whole = quantized(name, float_type="float16"), quantized(name)
    assert half.report, half.report.failed_checks
    assert any("computes in float16" in note for note in half.report.notes)
    # float16 alone gives 45 dB and more; where codes are near the middle of two, they fall to another side than the
    # one that recovery saw, which costs up to 2 dB and is a matter of chance.
    assert half.report.worst_sqnr_db > whole.report.worst_sqnr_db - 4.0


def test_all_pairs_of_a_network_are_in_float16() -> None:
    model = quantized("digits_resnet", float_type="float16").model
    assert {o.version for o in model.opset_import if not o.domain} == {19}
    scales = {name for node in model.graph.node if node.op_type.endswith("eLinear") for name in node.input[1:2]}
    types = {tensor.data_type for tensor in model.graph.initializer if tensor.name in scales}
    assert types == {TensorProto.FLOAT16}
    assert not [t.name for t in model.graph.initializer if t.data_type == TensorProto.FLOAT]
    assert [value.type.tensor_type.elem_type for value in (*model.graph.input, *model.graph.output)] == [
        TensorProto.FLOAT
    ] * 2


def test_codes_are_those_of_the_scale_that_is_written() -> None:
    """Scales of 1e-5 are multiples of 6e-8 in float16: codes made for another one would be off by up to a step."""
    weights = normal(32, 64) * np.geomspace(1e-5, 1e-2, 64, dtype=np.float32)
    model = model_of("(float[n,32] x) => (float[n,64] y) { r = Relu(x) y = MatMul(r, w) }", w=weights)
    result = onnxq.quantize(model, normal(64, 32), target="tensorrt", float_type="float16", recover="none")
    tensors = {t.name: numpy_helper.to_array(t) for t in result.model.graph.initializer}
    (node,) = [n for n in result.model.graph.node if n.op_type == "DequantizeLinear" and n.input[0] in tensors]
    codes, scale = tensors[node.input[0]].astype(np.float64), tensors[node.input[1]]
    assert scale.dtype == np.float16
    off = np.abs(codes * scale.astype(np.float64) - weights) / scale
    assert off.max() <= 0.5 + 1e-3  # the quotient is rounded to float32, 24 bits of at most 127


def test_sound_after_other_options() -> None:
    for options in ({"activations": "fp8"}, {"recover": "best"}, {"search": True, "min_sqnr": 42.0}):
        result = quantized("digits_resnet", float_type="float16", **options)
        assert result.report, (options, result.report.failed_checks)


def test_a_training_keeps_its_codes_and_strip_gives_back_the_float_graph(tmp_path: Path) -> None:
    path = tmp_path / "half.onnx"
    result = quantized("digits_resnet", float_type="float16", output=path)
    again = onnxq.verify(str(MODELS / "digits_resnet.onnx"), path, str(MODELS / "digits_resnet.calib.npz"))
    assert again, again.failed_checks
    stripped = onnxq.strip(path)
    assert not [n for n in stripped.model.graph.node if n.op_type == "QuantizeLinear"]
    assert result.report.worst_sqnr_db > 30.0


@pytest.mark.parametrize("target", ["ort-cpu", "openvino", "qnn", "xnnpack"])
def test_other_engines_compute_in_float32(target: str) -> None:
    with pytest.raises(ConfigError, match="takes no pairs in float16") as raised:
        onnxq.quantize(str(MODELS / "digits_resnet.onnx"), target=target, float_type="float16")
    assert "--float-type" in str(raised.value.hint)


def test_an_unknown_type_is_refused() -> None:
    with pytest.raises(ConfigError, match="expected one of float32, float16"):
        quantized("digits_resnet", float_type="fp16")
    with pytest.raises(ConfigError, match="has no meaning in mode 'dynamic'"):
        onnxq.quantize(str(MODELS / "digits_resnet.onnx"), mode="dynamic", float_type="float16")


def test_on_the_command_line(tmp_path: Path) -> None:
    output = tmp_path / "half.onnx"
    command = ["quantize", str(MODELS / "digits_resnet.onnx"), "--target", "tensorrt", "--float-type", "float16"]
    done = CliRunner().invoke(cli, [*command, "-o", str(output)])
    assert done.exit_code == 0, done.output
    assert "what is float32 and not quantized computes in float16" in " ".join(done.output.split())


def test_large_numbers_stay_in_float32() -> None:
    """Pixels that a model squares: 255 * 255 is near the end of float16."""
    model = model_of(
        """(float[n,16,8,8] x) => (float[n,32,6,6] y) {
            big = Mul(x, x) c = Conv(big, w) r = Relu(c) s = Mul(r, small) y = Conv(s, v)
        }""",
        w=normal(32, 16, 3, 3),
        v=normal(32, 32, 1, 1),
        small=np.float32(1e-4),
    )
    data = np.random.default_rng(0).uniform(0, 255, (32, 16, 8, 8)).astype(np.float32)
    result = onnxq.quantize(model, data, target="tensorrt", float_type="float16")
    assert result.report, result.report.failed_checks
    assert any("float16 ends at 65504" in note for note in result.report.notes)
    assert result.report.worst_sqnr_db > 25.0  # two int8 Convs of random weights give 30


def test_statistics_alone_say_that_samples_are_missing() -> None:
    stats = onnxq.calibrate(
        str(MODELS / "digits_resnet.onnx"), str(MODELS / "digits_resnet.calib.npz"), target="tensorrt"
    )
    model = str(MODELS / "digits_resnet.onnx")
    alone = onnxq.quantize(model, target="tensorrt", stats=stats, float_type="float16")
    assert any("no samples were there to see" in note for note in alone.report.notes)
    with_data = quantized("digits_resnet", stats=stats, float_type="float16")
    assert not any("no samples were there" in note for note in with_data.report.notes)


@pytest.mark.parametrize("name", ["ppocrv4_rec", "yolov8n_320", "minilm_l6"])
def test_real_models(name: str) -> None:
    model = ZOO[name]
    if not model.path().exists():
        pytest.skip(f"{name} is not installed")
    feeds = list(model.calib(16))
    result = onnxq.quantize(str(model.path()), feeds, target="tensorrt", float_type="float16", recover="none")
    assert result.report, result.report.failed_checks
