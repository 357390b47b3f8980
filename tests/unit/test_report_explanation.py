"""Rows for nodes and tensors, of plans and of quantized models, and picking among them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import onnxq
from onnxq.api.plan import explain
from onnxq.errors import ArtifactError, ConfigError
from onnxq.graph.model import load_graph
from onnxq.planning.options import PlanOptions
from onnxq.planning.overrides import Override
from onnxq.report.explanation import Explanation, RowFilter, explain_plan
from onnxq.report.quantized_model import explain_model
from onnxq.targets import TARGETS
from tests import decoders
from tests.graphs import graph_of, model_of, normal
from tests.planned import planned

TEXT = """(float[1,16,8,8] x) => (float[1,10] y) {
    [conv] a = Conv<pads=[1,1,1,1]>(x, w) [relu] r = Relu(a) [pool] p = MaxPool<kernel_shape=[8,8]>(r)
    [flat] f = Flatten(p) [head] h = Gemm(f, m, b) [tanh] y = Tanh(h) }"""
CONSTANTS: dict[str, Any] = {"w": normal(16, 16, 3, 3), "m": normal(16, 10), "b": normal(10)}
MODEL = model_of(TEXT, **CONSTANTS)
DATA = [{"x": normal(1, 16, 8, 8, seed=seed)} for seed in range(8)]
ORT = "ort-x64-vnni"
CONV_MACS, GEMM_MACS = 8 * 8 * 16 * 16 * 9, 160


def rows(**options: Any) -> Explanation:
    return explain_plan(
        graph_of(TEXT, **CONSTANTS), planned(TEXT, options=PlanOptions(placement="full", **options), **CONSTANTS)
    )


# ---- plans ---------------------------------------------------------------------------------------------------------


def test_nodes_of_a_plan() -> None:
    found = rows()
    assert [(r.node, r.action, r.rule) for r in found.nodes] == [
        ("conv", "int8", "C4"), ("relu", "fused", "C5"), ("pool", "int8", "C12"), ("flat", "int8", "C12"),
        ("head", "int8", "C7"), ("tanh", "float", ""),
    ]  # fmt: skip
    assert [r.macs for r in found.nodes] == [CONV_MACS, 0, 0, 0, GEMM_MACS, 0]
    assert found.nodes[0].mac_share == CONV_MACS / (CONV_MACS + GEMM_MACS)
    assert found.int8_mac_share == 1.0
    without = rows(exclude=("head",))
    assert without.int8_mac_share == CONV_MACS / (CONV_MACS + GEMM_MACS)


def test_tensors_of_a_plan() -> None:
    found = {
        r.tensor: r for r in rows(overrides=(Override(tensors="x", method="percentile", percentile=99.0),)).tensors
    }
    assert list(found) == ["x", "r", "p", "f", "w", "m", "b"]
    assert (found["x"].role, found["x"].dtype, found["x"].axis) == ("activation", "uint8", None)
    assert found["x"].source == "observed, method percentile 99 %"
    assert (found["w"].role, found["w"].dtype, found["w"].axis) == ("weight", "int8", 0)
    assert found["b"].source == "derived from 'f' and 'm'"
    # What MaxPool and Flatten move has one set of parameters.
    assert [found[name].group for name in ("x", "r", "p", "f")] == ["", "r", "r", "r"]
    assert (found["f"].writer, found["f"].readers, found["f"].rule) == ("flat", ("head",), "C7 C12")
    assert not any(r.scale for r in found.values())


def test_scales_as_far_as_they_are_known_without_data() -> None:
    _, found = explain(MODEL, target=ORT, placement="full", overrides=[{"tensors": "r", "range": [0.0, 2.55]}])
    by_name = {r.tensor: r for r in found.tensors}
    assert by_name["x"].scale == ()
    assert by_name["r"].scale == by_name["f"].scale == (pytest.approx(0.01, rel=1e-6),)  # float32
    assert len(by_name["w"].scale) == 16
    want = np.abs(CONSTANTS["w"]).max(axis=(1, 2, 3)) / 127
    np.testing.assert_allclose(by_name["w"].scale, want, rtol=1e-6)
    assert by_name["b"].scale == ()


def test_scales_from_statistics_are_those_of_quantize() -> None:
    stats = onnxq.calibrate(MODEL, DATA, target=ORT, placement="full")
    _, found = explain(MODEL, target=ORT, placement="full", stats=stats, method="mse")
    result = onnxq.quantize(MODEL, DATA, target=ORT, placement="full", stats=stats, method="mse")
    assert {r.tensor: r.scale for r in found.tensors} == {
        key: tuple(p.scale.astype(np.float64).reshape(-1).tolist()) for key, p in result.qparams.items()
    }
    with pytest.raises(ArtifactError, match="the statistics were collected on another model"):
        explain(MODEL, target=ORT, placement="full", stats=replace(stats, digest="other"))


def test_arithmetic_of_open_sizes_is_counted_for_likely_ones() -> None:
    text = "(float[n,3,h,w] x) => (float[n,16,h,w] y) { [conv] y = Conv<pads=[1,1,1,1]>(x, k) }"
    model = model_of(text, k=normal(16, 3, 3, 3))
    made, found = explain(model, target=ORT, parameters=False)
    assert found.nodes[0].macs == 224 * 224 * 16 * 3 * 9
    assert made.notes[-1] == "the model leaves sizes open; arithmetic is counted for x (1, 3, 224, 224)"
    assert onnxq.plan(model, target=ORT).nodes[0].macs is None


# ---- quantized models ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("target", [ORT, "tensorrt", "openvino"])
def test_a_quantized_model_tells_what_was_planned(target: str) -> None:
    """Read from the graph alone, the decisions are those of the plan it was made by."""
    result = onnxq.quantize(MODEL, DATA, target=target, placement="full")
    found = explain_model(load_graph(result.model), TARGETS[target])
    planned_as = {d.node: d.action.value for d in result.plan.nodes}
    assert {r.node: r.action for r in found.nodes if not r.node.endswith("_hold")} == planned_as
    # The Gemm is too small for TensorRT.
    assert found.int8_mac_share == pytest.approx(1.0 if target != "tensorrt" else CONV_MACS / (CONV_MACS + GEMM_MACS))
    by_name = {r.tensor: r for r in found.tensors}
    assert by_name["x"].scale == (float(result.qparams["x"].scale),)
    assert by_name["x"].readers == ("conv",)
    assert by_name["x"].rule == TARGETS[target].compute["Conv"].rules


def test_what_was_shared_has_equal_parameters() -> None:
    found = explain_model(load_graph(onnxq.quantize(MODEL, DATA, target=ORT, placement="full").model))
    groups = {r.tensor: r.group for r in found.tensors if r.role == "activation"}
    assert groups == {"x": "", "r": "r", "p": "r", "f": "r"}
    assert all(r.rule == "" for r in found.nodes)  # no target, no rules


HAND_MADE = """(float[1,16,8,8] x, float[1,16,8,8] z) => (float[1,16,8,8] y, float[1,16,8,8] t) {
    q = QuantizeLinear(x, s) d = DequantizeLinear(q, s) wd = DequantizeLinear(w, s)
    [conv] y = Conv<pads=[1,1,1,1]>(d, wd)
    [mixed] u = Add(d, z) [both] v = Mul(d, d) [last] t = Add(u, v) }"""


def test_reasons_of_a_graph_by_hand() -> None:
    graph = graph_of(HAND_MADE, s=np.float32(0.1), w=np.ones((16, 16, 3, 3), np.uint8))
    without = {r.node: (r.action, r.reason) for r in explain_model(graph).nodes}
    assert without["conv"] == ("int8", "its data and weight are dequantized")
    assert without["mixed"] == ("float", "its input 'z' is not dequantized")
    assert without["both"] == ("float", "its inputs are dequantized, but its output 'v' goes to Add 'last' without "
                                        "QuantizeLinear")  # fmt: skip
    on_ort = {r.node: (r.action, r.reason) for r in explain_model(graph, TARGETS[ORT]).nodes}
    assert on_ort["conv"] == (
        "float",
        "its data and weight are dequantized, but its output 'y' is an output of the model in float",
    )


# ---- picking -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("picked", "nodes", "tensors"),
    [
        (RowFilter(), ["conv", "relu", "pool", "flat", "head", "tanh"], ["x", "r", "p", "f", "w", "m", "b"]),
        (RowFilter(nodes=["head"]), ["head"], ["f", "m", "b"]),
        (RowFilter(nodes=["re:[cr].*"]), ["conv", "relu"], ["x", "r", "w"]),
        (RowFilter(ops=["Gemm", "Tanh"]), ["head", "tanh"], ["f", "m", "b"]),
        (RowFilter(decisions=["float"]), ["tanh"], []),
        (RowFilter(tensors=["?"], nodes=["conv"]), ["conv"], ["x", "w"]),
        (RowFilter(tensors=["x"]), ["conv"], ["x"]),
        (RowFilter(words=["c12", "moves"]), ["pool", "flat"], []),
        (RowFilter(words=["WEIGHT"]), ["conv", "head"], ["w", "m"]),
        (RowFilter(nodes=["head"], decisions=["float"]), [], []),
    ],
)
def test_picking(picked: RowFilter, nodes: list[str], tensors: list[str]) -> None:
    found = picked.pick(rows())
    assert ([r.node for r in found.nodes], [r.tensor for r in found.tensors]) == (nodes, tensors)
    assert found.int8_mac_share == 1.0


@pytest.mark.parametrize(
    ("picked", "message"),
    [
        (RowFilter(nodes=["hed"]), "--node: no node of the model matches 'hed'\nHint: did you mean 'head'?"),
        (RowFilter(ops=["gemm"]), "--op: no operator of the model matches 'gemm'\nHint: did you mean 'Gemm'?"),
        (
            RowFilter(tensors=["zz"]),
            "--tensor: no quantized tensor of the model matches 'zz'\nHint: without --tensor all are listed",
        ),
        (RowFilter(decisions=["int4"]), "--decision: unknown decision 'int4'\nHint: int8, fused, weights or float"),
    ],
)
def test_picking_what_is_not_there(picked: RowFilter, message: str) -> None:
    with pytest.raises(ConfigError) as error:
        picked.pick(rows())
    assert str(error.value) == message


@pytest.mark.parametrize("mode", ["static", "dynamic", "weight-only"])
def test_a_model_says_of_its_subgraphs_what_the_plan_said(mode: str) -> None:
    """A merged decoder: every weight, in both branches, by the path of its reader."""
    feeds = [decoders.feed(4, past, seed=past, use_cache_branch=np.array([past > 0])) for past in (0, 3, 0, 3)]
    made = onnxq.quantize(decoders.merged_decoder(), feeds, mode=mode, target=ORT)
    found = explain_model(load_graph(made.model), TARGETS[ORT])
    wanted = {d.node: d.action.value for d in made.plan.nodes if d.op == "MatMul" and d.action.value != "float"}
    actions = {row.node: row.action for row in found.nodes if row.node in wanted or "/" not in row.node}
    by_reader = {reader for row in found.tensors if row.role in ("weight", "constant") for reader in row.readers}
    assert len(wanted) > 20
    if mode == "static":
        assert wanted.items() <= actions.items()
        assert set(wanted) <= by_reader
    else:  # the nodes have other types and names
        assert sum(row.action in ("int8", "weights") for row in found.nodes) >= len(wanted)
        assert len(by_reader) >= len(wanted)
    assert all(reader.startswith("cache/") for reader in by_reader)
