"""W6: forms of weights that OpenVINO and TensorRT-RTX take, on the engines themselves, for few rows and for many."""

from __future__ import annotations

from typing import Any

import pytest
from onnx import ModelProto, TensorProto

import onnxq
from onnxq.numerics import fake_quantize, sqnr_db
from onnxq.verification.engines import tensorrt as tensorrt_engine
from onnxq.verification.engines.openvino import is_installed
from onnxq.verification.engines.openvino_model import core
from tests.e2e.test_dynamic import text_model
from tests.e2e.test_weight_only import EXACT_DB, weight_only
from tests.graphs import normal

needs_openvino = pytest.mark.skipif(not is_installed(), reason="OpenVINO is not installed")
needs_tensorrt = pytest.mark.skipif(tensorrt_engine.installed_package() is None, reason="TensorRT is not installed")

FORMS: tuple[dict[str, Any], ...] = (
    {},
    {"weights": "uint4", "block_size": 16},
    {"weights": "int4", "block_size": 0},
    {"weights": "int8"},
    {"weights": "int8", "block_size": 64},
)


def product(k: int, n: int) -> ModelProto:
    return text_model(f"(float[N, {k}] x) => (y) {{ [product] y = MatMul(x, w) }}", w=normal(k, n))


@needs_openvino
@pytest.mark.parametrize("form", FORMS, ids=str)
@pytest.mark.parametrize("shape", [(344, 64), (97, 64), (100, 63), (48, 33), (256, 40)], ids=str)
def test_openvino_computes_with_the_values_that_were_chosen(shape: tuple[int, int], form: dict[str, Any]) -> None:
    """Its kernels differ by the number of rows."""
    x = normal(8, shape[0], seed=1)
    result = weight_only(product(*shape), {"x": x}, target="openvino", **form)
    assert result.report, result.report.to_text()
    (spec,) = (tensor.spec for tensor in result.plan.tensors.values())
    assert spec.block_size in (None, 16, 32, 64)
    assert spec.qtype.bits == 8 or shape[0] % 2 == 0
    values = fake_quantize(normal(*shape), result.qparams["w"])
    exact = {"INFERENCE_PRECISION_HINT": "f32", "DYNAMIC_QUANTIZATION_GROUP_SIZE": "0"}
    read = core().read_model(result.model.SerializeToString())
    compiled, as_it_is = core().compile_model(read, "CPU", exact), core().compile_model(read, "CPU")
    for rows in (1, 2, 3, 5, 8):
        want = x[:rows] @ values
        assert sqnr_db(want, compiled({"x": x[:rows]})[0]) > EXACT_DB
        # By default activations are rounded to 8 bits in groups, 36 dB and more.
        assert sqnr_db(want, as_it_is({"x": x[:rows]})[0]) > 30


@needs_tensorrt
@pytest.mark.parametrize("shape", [(344, 64), (97, 64), (100, 63), (66, 33), (66, 64)], ids=str)
def test_tensorrt_cuts_blocks_where_onnx_does(shape: tuple[int, int]) -> None:
    """It builds, and each scale belongs to as many codes as ONNX gives it."""
    result = weight_only(product(*shape), {"x": normal(4, shape[0], seed=1)}, target="tensorrt")
    assert result.report, result.report.to_text()
    spec = result.plan.tensors["w"].spec
    assert spec.block_size is None or shape[0] % spec.block_size == 0
    assert spec.qtype.bits == 8 or shape[1] % 2 == 0


def test_what_fits_is_left_as_asked_for_and_the_rest_is_said() -> None:
    plain = onnxq.plan(product(256, 64), target="openvino-avx2", mode="weight-only")
    assert plain.tensors["w"].spec.block_size == 32
    assert not any("W6" in note for note in plain.notes)
    other = onnxq.plan(product(344, 64), target="openvino-avx2", mode="weight-only")
    assert other.tensors["w"].spec.qtype.name == "int8"
    assert other.notes == (
        "1 weight in another form than asked for, first 'w' in int8 with a scale for each channel (W6)",
    )
    assert onnxq.plan(product(344, 64), target="tensorrt", mode="weight-only").tensors["w"].spec.block_size == 43
    assert onnxq.plan(product(344, 64), target="ort-x64-vnni", mode="weight-only").tensors["w"].spec.block_size == 32


@needs_openvino
def test_wrong_values_of_openvino_are_found() -> None:
    """Blocks of 43 codes, which OpenVINO 2026.4 takes and computes wrongly, fail the check of its outputs."""
    made = weight_only(product(344, 64), {"x": normal(4, 344, seed=1)}, target="tensorrt").model
    assert any(t.data_type == TensorProto.INT4 for t in made.graph.initializer)
    report = onnxq.verify(product(344, 64), made, [{"x": normal(4, 344, seed=1)}], target="openvino")
    failed = {check.name for check in report.failed_checks}
    assert failed & {"engine as accurate as Q/DQ", "engine's outputs are sound"}, report.to_text()
