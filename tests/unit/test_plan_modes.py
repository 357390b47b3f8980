"""`onnxq.plan` and `onnxq inspect` in the modes without calibration say what `onnxq.quantize` then does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper, parser

import onnxq
from onnxq.api.plan import explain
from onnxq.errors import ConfigError
from onnxq.graph.model import load_graph
from onnxq.report.quantized_model import explain_model

FORMS: tuple[dict[str, Any], ...] = (
    {"mode": "dynamic"},
    {"mode": "dynamic", "placement": "full"},
    {"mode": "weight-only"},
    {"mode": "weight-only", "weights": "uint4", "block_size": 16, "target": "openvino"},
    {"mode": "weight-only", "weights": "int8", "weight_format": "qdq"},
    {"mode": "weight-only", "overrides": [{"nodes": "second", "weight": "int8", "block_size": 0}]},
)


@pytest.fixture(scope="module")
def model() -> onnx.ModelProto:
    """A product with a bias, a Gemm, and a product of two activations."""
    made = parser.parse_model("""
        <ir_version: 8, opset_import: ["" : 17]>
        agraph (float[N, 64] x) => (float[N, 48] y)
        <float[64, 96] a, float[96] b, float[48, 96] c, float[48] d>
        {
            [first] p = MatMul(x, a)
            [bias] q = Add(p, b)
            [act] r = Relu(q)
            [second] y = Gemm <transB: int = 1> (r, c, d)
        }
    """)
    rng = np.random.default_rng(0)
    shapes = {"a": (64, 96), "b": (96,), "c": (48, 96), "d": (48,)}
    values = [numpy_helper.from_array(rng.normal(size=s).astype(np.float32), n) for n, s in shapes.items()]
    made.graph.initializer.extend(values)
    return made


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_the_plan_is_that_of_quantize(model: onnx.ModelProto, form: dict[str, Any]) -> None:
    planned = onnxq.plan(model, **form)
    made = onnxq.quantize(model, {"x": np.ones((4, 64), np.float32)}, **form)
    assert planned.tensors == made.plan.tensors
    assert [(d.node, d.action, d.reason, d.rule) for d in planned.nodes] == [
        (d.node, d.action, d.reason, d.rule) for d in made.plan.nodes
    ]


def test_no_type_of_activations_stands_for_float_ones(model: onnx.ModelProto) -> None:
    given = {"x": np.ones((4, 64), np.float32)}
    without = onnxq.quantize(model, given, mode="weight-only")
    assert onnxq.quantize(model, given, mode="weight-only", activations="none").model.graph == without.model.graph
    for mode, message in (("static", "that is mode 'weight-only'"), ("dynamic", "has no meaning in mode 'dynamic'")):
        with pytest.raises(ConfigError, match=message):
            onnxq.plan(model, mode=mode, activations="none")


def test_rows_name_the_type_of_codes(model: onnx.ModelProto) -> None:
    _, dynamic = explain(model, mode="dynamic")
    assert {row.node: row.runs for row in dynamic.nodes} == {
        "first": "int8", "bias": "fused", "act": "float", "second": "int8",
    }  # fmt: skip
    assert all(len(row.scale) in (48, 96) for row in dynamic.tensors)
    _, stored = explain(model, mode="weight-only", weights="uint4", block_size=16)
    assert {row.node: row.runs for row in stored.nodes}["second"] == "uint4 weights"
    assert [(row.dtype, row.axis, row.block_size) for row in stored.tensors] == [("uint4", 0, 16), ("uint4", 1, 16)]
    _, float8 = explain(model, target="tensorrt", activations="fp8")
    assert {row.node: row.runs for row in float8.nodes}["first"] == "fp8"


def test_what_has_no_meaning_in_a_mode_is_refused(model: onnx.ModelProto) -> None:
    with pytest.raises(ConfigError, match="no meaning in mode 'dynamic'"):
        onnxq.plan(model, mode="dynamic", rounding="mse")
    with pytest.raises(ConfigError, match="calibrates nothing"):
        explain(model, mode="weight-only", method="entropy")
    with pytest.raises(ConfigError, match="no dynamically quantized operators"):
        onnxq.plan(model, mode="dynamic", target="tensorrt")


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_inspect_finds_every_weight(model: onnx.ModelProto, form: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "quantized.onnx"
    made = onnxq.quantize(model, {"x": np.ones((4, 64), np.float32)}, output=path, **form)
    found = explain_model(load_graph(path))
    assert len(found.tensors) == 2
    rows = {row.readers: row for row in found.tensors}
    for key, params in made.qparams.items():
        readers = tuple(use.node for use in made.plan.tensors[key].uses)
        row = rows[readers]
        np.testing.assert_array_equal(np.unique(row.scale), np.unique(params.scale.astype(np.float64)))
        if made.plan.tensors[key].spec.block_size:
            assert row.block_size == made.plan.tensors[key].spec.block_size
    runs = {row.node: row.runs for row in found.nodes}
    for planned in explain(model, **form)[1].nodes:
        if planned.node in runs:  # a bias may have become part of a product
            assert runs[planned.node] == planned.runs
    assert {"first", "second"} <= set(runs)
