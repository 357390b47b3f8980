"""onnxruntime's own operators: shapes that are inferred against those that come out, and their arithmetic."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import QuantType, quantize_dynamic

import onnxq
from onnxq.graph.model import load_graph
from onnxq.graph.shapes import infer_shapes
from onnxq.graph.view import Graph
from onnxq.planning.macs import macs
from onnxq.report.quantized_model import explain_model
from tests.graphs import computed, model_of, normal

CODES = np.random.default_rng(1).integers(-100, 100, (16, 32)).astype(np.int8)
SCALE, ZERO = np.float32(0.01), np.int8(0)


def codes(*shape: int, dtype: Any = np.uint8) -> NDArray[Any]:
    return np.random.default_rng(2).integers(0, 100, shape).astype(dtype)


@dataclass(frozen=True, kw_only=True)
class Case:
    """One operator of com.microsoft on x of shape (2, 5, 16), or on what it reads instead, and its arithmetic."""

    op: str
    inputs: list[str]
    constants: dict[str, NDArray[Any]]
    macs: int
    attributes: dict[str, Any] = field(default_factory=dict)
    x: NDArray[Any] = field(default_factory=lambda: normal(2, 5, 16, seed=3))


CASES = {
    "MatMulNBits": Case(
        op="MatMulNBits", inputs=["x", "w", "s"], constants={"w": codes(32, 1, 8), "s": normal(32, seed=4)},
        attributes={"K": 16, "N": 32, "bits": 4, "block_size": 16}, macs=5 * 16 * 32,
    ),
    "DynamicQuantizeMatMul": Case(
        op="DynamicQuantizeMatMul", inputs=["x", "w", "s", "zw"], macs=5 * 16 * 32,
        constants={"w": CODES, "s": np.full(1, SCALE), "zw": np.full(1, ZERO)},
    ),
    "MatMulIntegerToFloat": Case(
        op="MatMulIntegerToFloat", inputs=["x", "w", "s", "s", "zx", "zw"], x=codes(2, 5, 16), macs=5 * 16 * 32,
        constants={"w": CODES, "s": np.full(1, SCALE), "zw": np.full(1, ZERO), "zx": np.zeros(1, np.uint8)},
    ),
    "FusedMatMul": Case(
        op="FusedMatMul", inputs=["x", "w"], constants={"w": normal(16, 32)}, attributes={"alpha": 2.0},
        macs=5 * 16 * 32,
    ),
    "Attention": Case(
        op="Attention", inputs=["x", "w", "b"], constants={"w": normal(16, 48), "b": normal(48)},
        attributes={"num_heads": 2}, macs=5 * 16 * 48,
    ),
    "QAttention": Case(
        op="QAttention", inputs=["x", "w", "b", "sx", "sw", "", "zx", "zw"], x=codes(2, 5, 16), macs=5 * 16 * 48,
        constants={"w": codes(16, 48, dtype=np.int8), "b": normal(48), "sx": np.asarray(SCALE),
                   "sw": np.asarray(SCALE), "zx": np.asarray(0, np.uint8), "zw": np.asarray(0, np.int8)},
        attributes={"num_heads": 2},
    ),
    "DynamicQuantizeLSTM": Case(
        op="DynamicQuantizeLSTM", inputs=["x", "w", "r", "", "", "", "", "", "sw", "zw", "sr", "zr"],
        constants={"w": codes(1, 16, 32, dtype=np.int8), "r": codes(1, 8, 32, dtype=np.int8),
                   "sw": np.full(1, SCALE), "zw": np.zeros(1, np.int8), "sr": np.full(1, SCALE),
                   "zr": np.zeros(1, np.int8)},
        attributes={"hidden_size": 8}, macs=2 * 32 * (16 + 8),
    ),
    "GatherBlockQuantized, bytes of two codes": Case(
        op="GatherBlockQuantized", inputs=["w", "x", "s"], x=codes(2, 3, dtype=np.int64) % 20, macs=0,
        constants={"w": codes(20, 16), "s": normal(20, 2)},
        attributes={"gather_axis": 0, "quantize_axis": 1, "block_size": 16, "bits": 4},
    ),
    "GatherBlockQuantized, 8 bits": Case(
        op="GatherBlockQuantized", inputs=["w", "x", "s"], x=codes(2, 3, dtype=np.int64) % 20, macs=0,
        constants={"w": codes(20, 32), "s": normal(20, 2)},
        attributes={"gather_axis": 0, "quantize_axis": 1, "block_size": 16, "bits": 8},
    ),
    "Gelu": Case(op="Gelu", inputs=["x"], constants={}, macs=0),
    "SkipLayerNormalization": Case(
        op="SkipLayerNormalization", inputs=["x", "x", "g"], constants={"g": normal(16)}, macs=0
    ),
}  # fmt: skip


def graph_around(case: Case) -> Graph:
    """The operator on an input of known sizes, with a Neg behind it whose output's shape follows."""
    node = helper.make_node(case.op, case.inputs, ["y"], name="n", domain="com.microsoft", **case.attributes)
    dtype = helper.np_dtype_to_tensor_dtype(case.x.dtype)
    graph = helper.make_graph(
        [node, helper.make_node("Neg", ["y"], ["z"], name="behind")], "g",
        [helper.make_tensor_value_info("x", dtype, case.x.shape)],
        [helper.make_tensor_value_info("z", TensorProto.FLOAT, [None] * (4 if case.op.endswith("LSTM") else 3))],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in case.constants.items()],
    )  # fmt: skip
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    return load_graph(helper.make_model(graph, opset_imports=opsets, ir_version=8))


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_shapes_are_those_that_come_out(case: Case) -> None:
    graph = graph_around(case)
    infer_shapes(graph)
    (found,) = computed(graph, {"x": case.x})
    assert graph.shape("y") == graph.shape("z") == found.shape
    assert graph.dtype("y") == TensorProto.FLOAT
    assert macs(graph, graph.node("n")) == case.macs


def test_operators_without_a_stand_in_leave_shapes_unknown() -> None:
    case = CASES["FusedMatMul"]
    turned = Case(
        op="FusedMatMul", inputs=["x", "w"], constants={"w": normal(32, 16)}, attributes={"transB": 1}, macs=0
    )
    graph = graph_around(turned)
    infer_shapes(graph)
    assert graph.shape("y") is None
    assert macs(graph, graph.node("n")) is None
    assert case.attributes == {"alpha": 2.0}


@pytest.mark.parametrize(
    ("text", "shapes", "expected"),
    [
        ("(uint8[N,5,16] x) => (int32[N,5,32] y) { [n] y = MatMulInteger(x, w) }", {"w": (16, 32)}, 5 * 16 * 32),
        (
            "(uint8[N,3,8,8] x) => (int32[N,16,8,8] y) { [n] y = ConvInteger<pads=[1,1,1,1]>(x, w) }",
            {"w": (16, 3, 3, 3)},
            8 * 8 * 16 * 27,
        ),
    ],
)
def test_integer_operators_are_counted(text: str, shapes: dict[str, tuple[int, ...]], expected: int) -> None:
    graph = load_graph(model_of(text, **{name: codes(*shape, dtype=np.int8) for name, shape in shapes.items()}))
    assert macs(graph, graph.node("n")) == expected


MODEL = model_of(
    """(int64[n, 8] ids, float[n, 8, 64] x) => (float[n, 8, 32] y) {
       [emb] e = Gather(table, ids)
       [first] a = MatMul(x, wa)
       [add] s = Add(a, e)
       [last] b = MatMul(s, wb)
       [turn] p = Transpose<perm = [0, 2, 1]>(b)
       [attend] q = MatMul(b, p)
       [out] y = MatMul(q, b)
    }""",
    table=normal(100, 64, seed=1), wa=normal(64, 64, seed=2), wb=normal(64, 32, seed=3),
)  # fmt: skip
PRODUCTS = 8 * 64 * (64 + 32)
ATTENTION = 2 * 8 * 8 * 32


def test_what_onnxruntime_quantized_dynamically_is_counted(tmp_path: Path) -> None:
    """Its integer products beside two float ones of activations: the same share as onnxq's own model."""
    source, other = tmp_path / "m.onnx", tmp_path / "q.onnx"
    source.write_bytes(MODEL.SerializeToString())
    quantize_dynamic(source, other, weight_type=QuantType.QInt8)
    own = onnxq.quantize(MODEL, mode="dynamic", target="ort-x64-vnni")
    for model in (other, own.model):
        found = explain_model(load_graph(model))
        assert found.int8_mac_share == pytest.approx(PRODUCTS / (PRODUCTS + ATTENTION))


@pytest.mark.parametrize(
    ("options", "shares"),
    [
        ({}, {"int4": 1.0}),
        ({"weights": "uint4"}, {"uint4": 1.0}),
        ({"weights": "int8"}, {"int8": 1.0}),
        ({"weight_format": "qdq"}, {"int4": 1.0}),
        ({"exclude": ["first"]}, {"int4": 1 - 64 * 64 / 12544, "float": 64 * 64 / 12544}),
        ({"overrides": [{"nodes": "emb", "weight": "int8"}]}, {"int4": 1 - 6400 / 12544, "int8": 6400 / 12544}),
    ],
    ids=str,
)
def test_shares_of_the_weights(options: dict[str, Any], shares: dict[str, float]) -> None:
    """Of 100 * 64 + 64 * 64 + 64 * 32 = 12544 weights, however they are packed; scales do not count."""
    made = onnxq.quantize(MODEL, mode="weight-only", target="ort-x64-vnni", **options)
    assert explain_model(load_graph(made.model)).weight_shares == pytest.approx(shares)


def test_open_sizes_are_counted_for_likely_ones() -> None:
    model = model_of("(float[n, t, 64] x) => (float[n, t, 64] y) { [fc] y = MatMul(x, w) }", w=normal(64, 64))
    made = onnxq.quantize(model, mode="dynamic", target="ort-x64-vnni")
    assert explain_model(load_graph(made.model)).int8_mac_share is None
    found = explain_model(load_graph(made.model), likely_sizes=True)
    assert found.int8_mac_share == 1.0
    length = found.sizes["x"][1]
    assert {row.node: row.macs for row in found.nodes if row.macs} == {"fc": length * 64 * 64}


@pytest.mark.parametrize(
    ("op", "dtype"),
    [("Scaler", TensorProto.DOUBLE), ("Normalizer", TensorProto.DOUBLE), ("Imputer", TensorProto.FLOAT)],
)
def test_shapes_go_through_what_prepares_inputs_of_scikit_learn(op: str, dtype: int) -> None:
    nodes = [
        helper.make_node(op, ["x"], ["prepared"], domain="ai.onnx.ml"),
        helper.make_node("MatMul", ["prepared", "w"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "mlp",
        [helper.make_tensor_value_info("x", dtype, ["n", 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.ones((4, 3), np.float32), "w")],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", 1)]
    view = Graph(helper.make_model(graph, opset_imports=opsets, ir_version=8))
    infer_shapes(view)
    assert view.shape("prepared") == ("n", 4)
    assert view.dtype("prepared") == TensorProto.FLOAT
    assert view.shape("y") == ("n", 3)
    assert [node.op_type for node in view.nodes] == [op, "MatMul"]
