"""onnxruntime's functions by onnxq: the same parameters, each honoured or told of."""

from __future__ import annotations

import inspect
import re
import warnings
from pathlib import Path

import numpy as np
import onnx
import onnxruntime.quantization as theirs
import pytest
from onnx import helper, numpy_helper

from onnxq import compat
from onnxq.compat import CompatWarning
from onnxq.compat.extra_options import read_extra_options
from onnxq.errors import ArtifactError, ConfigError
from onnxq.report.report import Report
from onnxq.verification.check import Check
from tests.cli.conftest import samples, tiny_model
from tests.graphs import model_of, normal

MODEL = tiny_model()


class Reader(theirs.CalibrationDataReader):
    """As scripts have it: no way back to the start."""

    def __init__(self):
        self.left = iter([{"x": one[None]} for one in samples()])

    def get_next(self):
        return next(self.left, None)


def quantize(folder, **options):
    """The result, and what was warned of."""
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always", CompatWarning)
        result = compat.quantize_static(MODEL, folder / "q.onnx", Reader(), **{"target": "ort-x64-vnni", **options})
    assert (folder / "q.onnx").exists()
    return result, [str(w.message) for w in told if issubclass(w.category, CompatWarning)]


@pytest.mark.parametrize("name", ["quantize_static", "quantize_dynamic"])
def test_parameters_are_those_of_onnxruntime(name):
    ours = list(inspect.signature(getattr(compat, name)).parameters.values())
    their = list(inspect.signature(getattr(theirs, name)).parameters)
    positional = [p.name for p in ours if p.kind is p.POSITIONAL_OR_KEYWORD]
    assert positional[: len(their)] == their  # an older onnxruntime lacks the last ones
    assert [p.name for p in ours if p.kind is p.KEYWORD_ONLY] == ["target"]


@pytest.mark.parametrize("name", ["QuantType", "QuantFormat", "CalibrationMethod"])
def test_members_are_those_of_onnxruntime(name):
    assert {m.name: m.value for m in getattr(theirs, name)}.items() <= {
        m.name: m.value for m in getattr(compat, name)
    }.items()


def test_keys_of_extra_options_are_those_of_onnxruntime():
    folder = Path(theirs.__file__).parent
    source = "".join(path.read_text(encoding="utf-8") for path in folder.glob("*.py"))
    documented = {"ActivationSymmetric", "MatMulConstBOnly", "CalibPercentile", "TensorQuantOverrides", "SmoothQuant"}
    used = set(re.findall(r'extra_options(?:\.get\(|\[)\s*"([A-Z]\w+)"', source))
    assert documented - {"CalibPercentile"} <= used
    for key in used | documented:
        read_extra_options({key: None})


def test_nothing_given_is_what_onnxq_does_by_itself(tmp_path):
    result, told = quantize(tmp_path)
    assert told == []
    assert result.report.passed
    assert onnx.load(tmp_path / "q.onnx").SerializeToString() == result.model.SerializeToString()
    axes = {p.spec.axis for n, p in result.qparams.items() if n == "w"}
    assert axes == {0}


@pytest.mark.parametrize("enums", [theirs, compat])
def test_members_of_either_are_taken(tmp_path, enums):
    result, told = quantize(
        tmp_path,
        quant_format=enums.QuantFormat.QDQ,
        activation_type=enums.QuantType.QUInt8,
        weight_type=enums.QuantType.QInt8,
        calibrate_method=enums.CalibrationMethod.MinMax,
        per_channel=True,
    )
    assert told == []
    x = result.qparams["x"]
    data = samples()[:12]  # the last quarter is held out
    assert float(x.scale) == pytest.approx((data.max() - data.min()) / 255, rel=0.2)


def test_per_tensor_weights_and_their_type(tmp_path):
    result, _ = quantize(tmp_path, per_channel=False, weight_type=compat.QuantType.QUInt8)
    assert (result.qparams["w"].spec.axis, result.qparams["w"].spec.qtype.name) == (None, "uint8")


def test_methods(tmp_path):
    method = compat.CalibrationMethod
    for given, extra, expected in (
        (method.MinMax, {}, "max"),
        (method.Entropy, {}, "entropy"),
        (method.Percentile, {}, "percentile 99.999"),
        (method.Percentile, {"CalibPercentile": 99.9}, "percentile 99.9"),
        (method.MinMax, {"CalibMovingAverage": True, "CalibMovingAverageConstant": 0.5}, "moving-average"),
        (None, {}, "auto"),
    ):
        result, _ = quantize(tmp_path, calibrate_method=given, extra_options=extra)
        assert expected in result.report.method, (given, result.report.method)
    with pytest.raises(ConfigError, match="calibrate_method=Distribution is for fp8"):
        quantize(tmp_path, calibrate_method=method.Distribution)


def test_symmetric_activations(tmp_path):
    for key in ("ActivationSymmetric", "CalibTensorRangeSymmetric"):
        result, _ = quantize(tmp_path, extra_options={key: True})
        assert int(result.qparams["x"].zero_point) == 128
        # Behind the Relu, where onnxruntime wants the lowest code to be 0: else the Conv would run in float.
        assert int(result.qparams["r"].zero_point) == 0
        assert result.report.passed, result.report.to_text()


def test_reduce_range_keeps_weights_from_overflowing(tmp_path):
    result, told = quantize(tmp_path, reduce_range=True)
    assert (result.plan.target, told) == ("ort-x64-avx2", [])
    _, told = quantize(tmp_path, reduce_range=True, target="openvino")
    assert told[0].startswith("reduce_range=True has no effect: int8 weights do not overflow on OpenVINO")


def test_selection(tmp_path):
    result, told = quantize(tmp_path, nodes_to_exclude=["pool", "gone"])
    assert {d.node: d.action.value for d in result.plan.nodes}["pool"] == "float"
    assert told == ["'gone' is not in the model, or was folded into a neighbour, and was passed over"]
    result, _ = quantize(tmp_path, nodes_to_quantize=["conv"], op_types_to_quantize=["Conv", "Gemm"])
    assert {d.node: d.action.value for d in result.plan.nodes} == {"conv": "int8", "relu": "fused", "pool": "float"}
    result, _ = quantize(tmp_path, op_types_to_quantize=["Conv"])
    assert {d.node: d.action.value for d in result.plan.nodes}["pool"] == "float"
    with pytest.raises(ConfigError, match=r"^none of 'LSTM' is in the model\nHint: `onnxq plan MODEL` lists"):
        quantize(tmp_path, op_types_to_quantize=["LSTM"])


def test_overrides_of_single_tensors(tmp_path):
    result, _ = quantize(tmp_path, extra_options={"TensorQuantOverrides": {"x": [{"rmin": -2.0, "rmax": 3.1}]}})
    assert float(result.qparams["x"].scale) == pytest.approx(5.1 / 255)
    given = {"x": [{"quant_type": theirs.QuantType.QUInt8, "scale": 0.5, "zero_point": 100}]}
    result, _ = quantize(tmp_path, extra_options={"TensorQuantOverrides": given})
    assert (float(result.qparams["x"].scale), int(result.qparams["x"].zero_point)) == (0.5, 100)
    for bad, message in (
        ([{"rmin": 0}, {"rmin": 1}], "channels with overrides of their own"),
        ([{"symmetric": True}], "'symmetric' cannot be overridden"),
        ([{"quant_type": compat.QuantType.QInt16}], "codes of type QInt16"),
    ):
        with pytest.raises(ConfigError, match=message):
            quantize(tmp_path, extra_options={"TensorQuantOverrides": {"x": bad}})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"extra_options": {"ActivationSymetric": True}}, "did you mean 'ActivationSymmetric'"),
        ({"extra_options": {"BlockSize": 32}}, r"extra_options\['BlockSize'\] is 32"),
        ({"activation_type": compat.QuantType.QInt16}, "activation_type=QInt16 is not what this function writes"),
        ({"weight_type": theirs.QuantType.QInt4}, "weight_type=QInt4 is not what this function writes"),
        ({"weight_type": "int8"}, r"weight_type is 'int8'\nHint: weight_type= is one of QuantType.QInt8"),
    ],
)
def test_what_cannot_be_had_is_an_error(tmp_path, options, message):
    with pytest.raises(ConfigError, match=message):
        quantize(tmp_path, **options)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"quant_format": compat.QuantFormat.QOperator}, "quant_format=QOperator: Q/DQ pairs are written"),
        ({"extra_options": {"WeightSymmetric": False}}, "extra_options['WeightSymmetric'] = False has no effect"),
        ({"extra_options": {"AddQDQPairToWeight": True}}, "extra_options['AddQDQPairToWeight'] = True has no effect"),
    ],
)
def test_what_is_done_otherwise_is_told(tmp_path, options, text):
    _, told = quantize(tmp_path, **options)
    assert len(told) == 1
    assert told[0].startswith(text)


def test_what_means_no_wish_is_not_told(tmp_path):
    no_wish = {"WeightSymmetric": True, "AddQDQPairToWeight": False, "CalibStridedMinMax": 4, "EnableSubgraph": False}
    _, told = quantize(tmp_path, extra_options=no_wish)
    assert told == []


def test_a_cache_of_statistics(tmp_path):
    cache = tmp_path / "stats"
    first, _ = quantize(tmp_path, calibration_cache_path=cache)
    assert cache.exists()
    again = compat.quantize_static(MODEL, tmp_path / "r.onnx", calibration_cache_path=cache, target="ort-x64-vnni")
    assert float(again.qparams["x"].scale) == float(first.qparams["x"].scale)
    cache.write_text('{"CLS": "TensorsData"}')
    with pytest.raises(ArtifactError, match="this cache was written by onnxruntime"):
        quantize(tmp_path, calibration_cache_path=cache)
    for options in ({}, {"calibration_cache_path": tmp_path / "none"}):
        with pytest.raises(ConfigError, match="there is neither calibration data nor a cache of it"):
            compat.quantize_static(MODEL, tmp_path / "r.onnx", **options)


def test_weights_in_a_file_of_their_own(tmp_path):
    models = Path(__file__).parents[2] / "models"
    place = tmp_path / "q.onnx"
    digits = (models / "digits_resnet.onnx", place, dict(np.load(models / "digits_resnet.calib.npz")))
    compat.quantize_static(*digits, use_external_data_format=True, target="ort-x64-vnni")
    assert (tmp_path / "q.onnx.data").stat().st_size > place.stat().st_size / 2
    kept = onnx.load(place, load_external_data=False).graph.initializer
    assert any(tensor.data_location == onnx.TensorProto.EXTERNAL for tensor in kept)
    onnx.checker.check_model(str(place))


def test_a_model_replaced_by_its_quantized_form_is_told(tmp_path):
    place = tmp_path / "model.onnx"
    given = onnx.ModelProto.FromString(MODEL.SerializeToString())
    onnx.save(given, place, save_as_external_data=True, location="model.onnx.data", size_threshold=0)
    with pytest.warns(CompatWarning, match="the float model is replaced by the quantized one"):
        result = compat.quantize_static(place, str(place), Reader(), target="ort-x64-vnni")
    assert onnx.load(place) == result.model


def test_failed_checks_are_told(tmp_path, monkeypatch):
    monkeypatch.setattr(Report, "failed_checks", (Check(name="outputs", passed=False, detail="they differ"),))
    _, told = quantize(tmp_path)
    assert told == ["not passed: outputs: they differ"]


def test_preprocessing_writes_the_model(tmp_path):
    compat.quant_pre_process(MODEL, tmp_path / "p.onnx", skip_symbolic_shape=True)
    assert onnx.load(tmp_path / "p.onnx").graph.node[0].name == "conv"
    with pytest.raises(ConfigError, match="quant_pre_process needs a model and a place"):
        compat.quant_pre_process()


def test_dynamic(tmp_path):
    weight = numpy_helper.from_array(np.random.default_rng(0).standard_normal((64, 64)).astype(np.float32), "w")
    node = helper.make_node("MatMul", ["x", "w"], ["y"], name="matmul")
    values = [helper.make_tensor_value_info(n, 1, ["n", 64]) for n in "xy"]
    graph = helper.make_graph([node], "g", values[:1], values[1:], [weight])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    place, vnni = tmp_path / "d.onnx", "ort-x64-vnni"
    result = compat.quantize_dynamic(model, place, weight_type=theirs.QuantType.QInt8, target=vnni)
    assert result.report.passed
    assert place.stat().st_size < len(model.SerializeToString())
    with pytest.warns(CompatWarning, match="weight_type=QUInt8: weights are symmetric int8"):
        compat.quantize_dynamic(model, place, weight_type=compat.QuantType.QUInt8, target=vnni)
    onnx.save(model, place)
    with pytest.warns(CompatWarning, match="the float model is replaced by the quantized one"):
        compat.quantize_dynamic(str(place), place, target=vnni)
    with pytest.raises(ConfigError, match="weight_type=QInt4 in dynamic mode"):
        compat.quantize_dynamic(model, place, weight_type=compat.QuantType.QInt4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"extra_options": {"CalibPercentile": 90}}, "'CalibPercentile'] has no effect without calibrate_method="),
        (
            {"extra_options": {"CalibPercentile": 90, "CalibMovingAverage": True}},
            "'CalibPercentile'] has no effect with a moving average",
        ),
        ({"extra_options": {"CalibMovingAverageConstant": 0.1}}, "has no effect without CalibMovingAverage"),
    ],
)
def test_a_setting_of_another_method_is_told(tmp_path, options, message):
    _, told = quantize(tmp_path, **options)
    assert [message in one for one in told] == [True]


def test_a_percentile_for_its_own_method_is_not_told(tmp_path):
    options = {"calibrate_method": compat.CalibrationMethod.Percentile, "extra_options": {"CalibPercentile": 99}}
    assert quantize(tmp_path, **options)[1] == []


def test_settings_of_calibration_are_told_in_dynamic_mode(tmp_path):
    model = model_of("(float[n, 32] x) => (float[n, 8] y) { y = MatMul(x, w) }", w=normal(32, 8))
    with pytest.warns(CompatWarning, match="dynamic mode calibrates nothing"):
        compat.quantize_dynamic(model, tmp_path / "q.onnx", extra_options={"CalibPercentile": 90})


@pytest.mark.parametrize("options", [{"nodes_to_exclude": ["absent"]}, {"extra_options": {"WeightSymmetric": False}}])
def test_warnings_point_at_the_line_of_the_script(tmp_path, options):
    with pytest.warns(CompatWarning) as told:
        compat.quantize_static(MODEL, tmp_path / "q.onnx", Reader(), target="ort-x64-vnni", **options)
    assert {warning.filename for warning in told} == {__file__}
