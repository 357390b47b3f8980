"""`verify` of graphs that other tools made: every node in float is explained, by the rule and the neighbour."""

from __future__ import annotations

import functools
import platform
import tempfile
from pathlib import Path

import pytest
from onnx import ModelProto
from onnxruntime.quantization import QuantFormat, QuantType

import onnxq
from onnxq.report.contents import NodeCounts
from onnxq.verification.engines import openvino as openvino_engine
from onnxq.verification.engines import tensorrt as tensorrt_engine
from onnxq.verification.engines.ort_products import saturates
from tests.foreign import by_quantize_static, feeds, float_model, inputs_only, trained, unfolded

ORT = "ort-x64-vnni"
X64 = platform.machine().lower() in ("x86_64", "amd64")
needs_openvino = pytest.mark.skipif(not openvino_engine.is_installed(), reason="OpenVINO is not installed")
needs_tensorrt = pytest.mark.skipif(tensorrt_engine.installed_package() is None, reason="TensorRT is not installed")


@functools.cache
def foreign(name: str) -> ModelProto:
    with tempfile.TemporaryDirectory() as folder:
        if name == "u8s8":
            return by_quantize_static(Path(folder), QuantType.QUInt8, per_channel=True)
        if name == "s8s8":
            return by_quantize_static(Path(folder), QuantType.QInt8, per_channel=False)
        if name == "qoperator":
            return by_quantize_static(Path(folder), QuantType.QUInt8, per_channel=False, form=QuantFormat.QOperator)
    if name == "trained, unfolded":
        return unfolded(trained())
    return inputs_only() if name == "inputs only" else trained()


@functools.cache
def verified(name: str, target: str) -> onnxq.Report:
    return onnxq.verify(float_model(), foreign(name), feeds(), target=target)


def runs(report: onnxq.Report) -> dict[str, str]:
    """`int8`, `fused` or `float` by node, without constants."""
    found = {row.node: row.executed or row.decision for row in report.layers}
    return {node: kind for node, kind in found.items() if kind != "other"}


def why(report: onnxq.Report, node: str) -> str:
    row = next(r for r in report.layers if r.node == node)
    return row.why or row.reason


FOREIGN = ("u8s8", "s8s8", "inputs only", "trained")


@pytest.mark.parametrize("target", [ORT, "tensorrt", pytest.param("openvino", marks=needs_openvino)])
@pytest.mark.parametrize("name", FOREIGN)
def test_every_float_node_is_explained_by_a_rule_or_by_what_it_is_part_of(name: str, target: str) -> None:
    rows = [r for r in verified(name, target).layers if (r.executed or r.decision) == "float"]
    assert [r.node for r in rows if not (r.why or r.reason)] == []
    assert [r.node for r in rows if not r.rule and not (r.why or r.reason).startswith("part of ")] == []


@pytest.mark.parametrize(
    "target",
    [ORT, pytest.param("tensorrt", marks=needs_tensorrt), pytest.param("openvino", marks=needs_openvino)],
)
def test_constants_that_an_exporter_did_not_fold_change_no_answer(target: str) -> None:
    folded, exported = verified("trained", target), verified("trained, unfolded", target)
    assert runs(exported) == runs(folded)
    assert [why(exported, node) for node in runs(folded)] == [why(folded, node) for node in runs(folded)]
    assert [(c.name, c.passed) for c in exported.checks] == [(c.name, c.passed) for c in folded.checks]
    assert [(t.name, t.scale, t.zero_point) for t in exported.tensors] == [
        (t.name, t.scale, t.zero_point) for t in folded.tensors
    ]


@pytest.mark.parametrize("target", [ORT, "tensorrt"])
def test_a_training_is_taken_over_whose_constants_are_not_folded(target: str) -> None:
    folded, exported = (
        onnxq.quantize(foreign(name), feeds(), target=target, placement="full").model
        for name in ("trained", "trained, unfolded")
    )
    assert [n.op_type for n in exported.graph.node] == [n.op_type for n in folded.graph.node]
    for one, other in zip(
        *(sorted(m.graph.initializer, key=lambda t: t.name) for m in (folded, exported)), strict=True
    ):
        assert (one.name, one.raw_data) == (other.name, other.raw_data)


def test_onnxruntimes_own_uint8_graph_runs_whole() -> None:
    report = verified("u8s8", ORT)
    assert report.passed
    assert set(runs(report).values()) == {"int8"}


def test_operators_on_codes_are_nodes_meant_to_run_in_int8() -> None:
    report = verified("qoperator", ORT)
    assert report.passed
    assert set(runs(report).values()) == {"int8"}
    (check,) = [c for c in report.checks if c.name == "int8 nodes run in int8"]
    assert check.detail == "all 3 nodes meant to run in int8"


@pytest.mark.skipif(not X64, reason="C3 is about x64")
def test_onnxruntimes_own_int8_graph_stops_at_the_residual_block() -> None:
    report = verified("s8s8", ORT)
    assert {n: kind for n, kind in runs(report).items() if kind == "float"} == dict.fromkeys(
        ("c1", "c2", "add"), "float"
    )
    assert why(report, "c1") == (
        "'ar' has int8 codes and goes to Conv 'c2' and Add 'add' too; on x64 onnxruntime fuses that with uint8 codes "
        "only (C3)"
    )
    assert [c.name for c in report.failed_checks] == ["int8 nodes run in int8"]


@pytest.mark.parametrize("name", ["inputs only", "trained"])
def test_graphs_made_for_tensorrt_run_in_float_on_onnxruntime(name: str) -> None:
    report = verified(name, ORT)
    assert set(runs(report).values()) == {"float"}
    assert why(report, "Conv_a").startswith("Relu 'Relu_ar' stays behind it, because the zero-point after that is 0")
    assert why(report, "Conv_b") == "its output 'b' goes to Add 'Add_s' without QuantizeLinear (C1)"
    assert "its bias 'b3' is float" in why(report, "Gemm_y")
    assert why(report, "Add_s") == "part of Conv 'Conv_b', which runs in float"


@pytest.mark.parametrize("name", ["inputs only", "trained"])
def test_graphs_made_for_tensorrt_fuse_there_by_its_rules(name: str) -> None:
    report = verified(name, "tensorrt")
    assert runs(report) == {
        "Conv_a": "int8", "Relu_ar": "fused", "Conv_b": "int8", "Add_s": "fused", "Relu_sr": "fused",
        "GlobalAveragePool_p": "float", "Flatten_f": "float", "Gemm_y": "int8",
    }  # fmt: skip
    assert report.asked == NodeCounts(int8=3, fused=3, float=2)
    assert report.proven is None
    assert why(report, "Flatten_f").endswith("of GlobalAveragePool 'GlobalAveragePool_p' has no Q/DQ pair (R24)")


@needs_tensorrt
@pytest.mark.parametrize("name", ["inputs only", "trained"])
def test_graphs_made_for_tensorrt_build_there(name: str) -> None:
    assert {c.name: c.passed for c in verified(name, "tensorrt").checks}["engine builds"]


@pytest.mark.parametrize(
    ("name", "rules", "reason"),
    [
        ("u8s8", {"R1", "R2", "R8"}, "its codes are uint8; TensorRT takes int8 and fp8 only (R2)"),
        ("s8s8", {"R1", "R8"}, "TensorRT is symmetric, the zero-point must be 0 (R1)"),
    ],
)
def test_onnxruntimes_own_graphs_are_refused_by_tensorrt(name: str, rules: set[str], reason: str) -> None:
    report = verified(name, "tensorrt")
    assert {v.rule for v in report.violations} == rules
    assert why(report, "c2").startswith("TensorRT refuses the Q/DQ pair on its input 'ar': ")
    assert why(report, "c2").endswith(reason)
    assert set(runs(report).values()) == {"float"}
    detail = next(c.detail for c in report.failed_checks if c.name == "rules of TensorRT")
    assert all(f"{rule} in " in detail for rule in rules)


@needs_tensorrt
def test_the_float_model_is_built_to_see_whose_fault_it_is() -> None:
    detail = next(c.detail for c in verified("u8s8", "tensorrt").failed_checks if c.name == "engine builds")
    assert detail.endswith("(the float model builds)")
    assert "Cuda Runtime" not in detail  # the lack of a GPU is not why it fails


@needs_openvino
@pytest.mark.parametrize("name", FOREIGN)
def test_openvino_runs_every_weight_of_all_of_them_in_int8(name: str) -> None:
    report = verified(name, "openvino")
    # None of them was made for a CPU without VNNI, on which sums saturate.
    assert report.passed or {check.name for check in report.failed_checks} == {"engine as accurate as Q/DQ"}
    assert report.passed or saturates()
    assert {r.executed for r in report.layers if r.op in ("Conv", "Gemm")} == {"int8"}
