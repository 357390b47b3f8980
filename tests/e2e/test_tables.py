"""Embeddings on onnxruntime: rows are taken from codes and dequantized, never the table (C19)."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto

import onnxq
from onnxq.graph.view import Graph
from onnxq.report.quantized_model import explain_model
from onnxq.targets import TARGETS
from onnxq.verification.engines.onnxruntime import OrtModel, executed_precision
from tests.e2e.probes import Probe
from tests.graphs import model_of, normal

ROWS, WIDTH = 1000, 32
TABLE = normal(ROWS, WIDTH) * np.geomspace(1e-2, 1.0, ROWS, dtype=np.float32)[:, None]
LAYER = normal(WIDTH, WIDTH, seed=1) / 6
IDS = [{"i": np.random.default_rng(seed).integers(0, ROWS, (4, 12))} for seed in range(8)]
TEXT = "(int64[N,S] i) => (float[N,S,32] y) { [g] e = Gather(t, i) [m] y = MatMul(e, w) }"


def embedding(text: str = TEXT, **constants: Any) -> ModelProto:
    return model_of(text, **({"t": TABLE, "w": LAYER} | constants))


def outputs(model: ModelProto, feed: dict[str, NDArray[Any]]) -> list[NDArray[Any]]:
    return list(OrtModel(model)(feed).values())


def tables(model: ModelProto) -> list[tuple[int, ...]]:
    """Element type and sizes of what is as large as the table."""
    return [(t.data_type, *t.dims) for t in model.graph.initializer if np.prod(t.dims) >= ROWS * WIDTH]


@pytest.mark.parametrize("target", ["ort-x64-vnni", "ort-x64-avx2", "ort-arm64"])
def test_the_file_holds_codes_and_rows_are_taken_from_them(target: str) -> None:
    result = onnxq.quantize(embedding(), IDS, target=target)
    assert result.report, result.report.to_text()
    assert tables(result.model) == [(TensorProto.INT8, ROWS, WIDTH)]
    assert result.report.size_after_bytes < 0.35 * result.report.size_before_bytes
    engine = executed_precision(result.model)
    assert {n.node: n.precision.value for n in engine.nodes}["g"] == "int8"
    assert {n.rule for n in engine.nodes if n.node.startswith("g_")} == {"C19"}
    # The codes of the rows and the scales of the rows; one DQ, behind the Gather.
    assert (engine.engine_ops["Gather"], engine.engine_ops["DequantizeLinear"]) == (2, 1)


def test_small_rows_keep_their_digits() -> None:
    """One scale for all would leave rows of a hundredth of the size about one code: a few dB."""
    quantized = onnxq.quantize(embedding(), IDS).model
    quantized.graph.output.append(onnx.helper.make_tensor_value_info("e", TensorProto.FLOAT, None))
    feed = {"i": np.arange(ROWS).reshape(10, -1)}
    rows = outputs(quantized, feed)[1].reshape(ROWS, WIDTH)
    # Half a step of 127 in the largest value of the row, and float32 rounding.
    assert (np.abs(rows - TABLE) <= np.abs(TABLE).max(1, keepdims=True) / 254 * (1 + 1e-4)).all()


def test_excluded_it_is_the_float_table() -> None:
    result = onnxq.quantize(embedding(), IDS, exclude_ops="Gather")
    assert tables(result.model) == [(TensorProto.FLOAT, ROWS, WIDTH)]


@pytest.mark.parametrize("text", [
    "(int64[N,S] i) => (float[N,S,1000] y) "
    "{ [g] e = Gather(t, i) a = MatMul(e, w) u = Transpose<perm=[1,0]>(t) y = MatMul(a, u) }",
    "(int64[N] i) => (float[N,1000] y) { [g] e = Gather(t, i) a = MatMul(e, w) y = Gemm<transB=1>(a, t) }",
], ids=["Transpose", "transB"])  # fmt: skip
def test_tied_weights(text: str) -> None:
    """A table that is the last layer too. Where both want the same codes the file holds them once."""
    table = normal(ROWS, WIDTH) / 6
    rank = 1 if "Gemm" in text else 2
    data = [{"i": f["i"].reshape(-1) if rank == 1 else f["i"]} for f in IDS]
    # Targets without a guard of weights: both have the same scales.
    result = onnxq.quantize(embedding(text, t=table), data, target="ort-x64-vnni")
    assert result.report, result.report.to_text()
    # Two layers of uint8 activations give 35 to 40 dB; a table mixed up gives none.
    assert result.report.worst_sqnr_db is not None
    assert result.report.worst_sqnr_db > 30
    assert {kind for kind, *_ in tables(result.model)} == {TensorProto.INT8}
    assert len(tables(result.model)) == (1 if rank == 1 else 2)


def test_several_gathers_an_output_and_indices_from_the_end() -> None:
    text = """(int64[N,S] i) => (float[N,S,32] y, float[N,S,32] e) {
        [g] e = Gather(t, i) [h] f = Gather<axis=-2>(t, i) s = Add(e, f) y = MatMul(s, w) }"""
    float_model = embedding(text)
    result = onnxq.quantize(float_model, IDS)
    assert tables(result.model) == [(TensorProto.INT8, ROWS, WIDTH)]
    feed = {"i": -1 - IDS[0]["i"]}
    got, want = outputs(result.model, feed)[1], outputs(float_model, feed)[1]
    assert got.shape == want.shape
    assert np.abs(got - want).max() <= np.abs(TABLE).max() / 254 * (1 + 1e-4)


def test_strip_gives_a_float_table_back() -> None:
    quantized = onnxq.quantize(embedding(), IDS).model
    stripped = onnxq.strip(quantized).model
    assert [n.op_type for n in stripped.graph.node] == ["Gather", "MatMul"]
    assert tables(stripped) == [(TensorProto.FLOAT, ROWS, WIDTH)]
    (table,) = (onnx.numpy_helper.to_array(t) for t in stripped.graph.initializer if t.dims[0] == ROWS)
    assert (np.abs(table - TABLE) <= np.abs(TABLE).max(1, keepdims=True) / 254 * (1 + 1e-4)).all()


def test_inspect_shows_the_table() -> None:
    quantized = onnxq.quantize(embedding(), IDS, target="ort-x64-vnni").model
    shown = explain_model(Graph(quantized), TARGETS["ort-x64-vnni"])
    (row,) = (r for r in shown.tensors if r.role == "table")
    assert (row.dtype, row.axis, len(row.scale), row.rule, list(row.readers)) == ("int8", 0, ROWS, "C19", ["g"])


def test_c19_a_dq_in_front_of_the_gather_dequantizes_the_whole_table() -> None:
    """Also with a pair behind it: were onnxruntime to fuse that, one scale could do with fewer nodes."""
    p = Probe(4, 8)
    p.nodes.append(onnx.helper.make_node("Cast", [p.x], ["i"], to=TensorProto.INT64))
    codes = p.constant("q", np.ones((64, 8), np.int8))
    unit = [p.constant("s", np.float32(0.1)), p.constant("z", np.int8(0))]
    gathered = p.op("Gather", p.op("DequantizeLinear", codes, *unit), "i")
    model = p.finished(p.op("DequantizeLinear", p.op("QuantizeLinear", gathered, *unit), *unit))
    assert executed_precision(model).engine_ops["DequantizeLinear"] == 2


@settings(max_examples=15, deadline=None)
@given(rank=st.integers(2, 4), indices=st.integers(0, 2), from_end=st.booleans(), seed=st.integers(0, 99))
def test_any_shape(rank: int, indices: int, from_end: bool, seed: int) -> None:
    """Each value is within half a step of its row, whatever the ranks of table and indices; rows of zeros are zeros."""
    sizes = [256, 64, 2, 3][:rank]
    table = normal(*sizes, seed=seed)
    table[seed] = 0
    dims = ["N", "2"][:indices]
    behind = f"[{','.join([*dims, *map(str, sizes[1:])])}]"
    text = f"""(int64{f"[{','.join(dims)}]" if dims else ""} i, float[M,32] x) => (float{behind} e, float[M,32] y) {{
        e = Gather<axis={-rank if from_end else 0}>(t, i) y = MatMul(x, w) }}"""
    model = model_of(text, t=table, w=LAYER)
    rng = np.random.default_rng(seed)
    feed = {"i": rng.integers(-256, 256, (3, 2)[:indices]), "x": normal(4, 32)}
    got = outputs(onnxq.quantize(model, [feed]).model, feed)[0]
    want = table[feed["i"]]
    assert got.shape == want.shape
    largest = np.abs(want).max(tuple(range(indices, want.ndim)), keepdims=True)
    assert (np.abs(got - want) <= largest / 254 * (1 + 1e-4)).all()
