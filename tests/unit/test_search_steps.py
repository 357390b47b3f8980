"""The step of 16 bits between 8 bits and float: the search, the mixed models, and what they compute."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import onnxq
from onnxq.graph.view import Graph
from onnxq.numerics import UINT8, UINT16
from onnxq.passes.quantize.convert_widths import ConvertWidths
from onnxq.targets import TARGETS
from onnxq.targets.forms import step_type, with_types
from onnxq.targets.schema import Engine
from tests.graphs import computed, model_of, normal

QNN = TARGETS["qnn"]
NPU = replace(
    TARGETS["openvino"], name="npu", engine=Engine.NONE, activation_types=frozenset({"int16"}), types={}, costs=None
)

TEXT = """(float[1,8,8,8] x) => (float[1,8,8,8] y) {
    [a] p = Conv<pads=[1,1,1,1]>(x, u, b)
    [r] q = Relu(p)
    [m] s = MaxPool<kernel_shape=[3,3], pads=[1,1,1,1], strides=[1,1]>(q)
    [c] t = Conv<pads=[1,1,1,1]>(s, v, b)
    [k] k = Add(t, q)
    [e] y = Conv<pads=[1,1,1,1]>(k, w, b)
    }"""
CONSTANTS = {"u": normal(8, 8, 3, 3), "v": normal(8, 8, 3, 3, seed=1), "w": normal(8, 8, 3, 3, seed=2), "b": normal(8)}
# Values with a long tail: 8 bits are few for them, 16 are not.
DATA = [{"x": (normal(1, 8, 8, 8, seed=i) ** 5).astype(np.float32)} for i in range(8)]


def searched(target: object, **demand: Any) -> onnxq.QuantizeResult:
    return onnxq.quantize(model_of(TEXT, **CONSTANTS), DATA, target=target, method="max", **demand)


def judged_db(target: object, **demand: Any) -> float:
    """What the search measured on its samples."""
    found = searched(target, **(demand or {"min_sqnr": -50.0})).search
    return float(found.details[0].split()[1])


def widths(result: onnxq.QuantizeResult) -> dict[str, int]:
    return {k: t.spec.qtype.bits for k, t in result.plan.tensors.items() if t.role.value == "activation"}


# ---- which targets ---------------------------------------------------------------------------------------------------


def test_targets_with_a_step() -> None:
    steps = {name: step_type(target) for name, target in TARGETS.items()}
    assert {name: step for name, step in steps.items() if step} == {"qnn": "uint16"}
    assert step_type(NPU) == "int16"
    assert step_type(with_types(QNN, "uint16", None)[0]) is None


# ---- the search ------------------------------------------------------------------------------------------------------


def test_what_is_met_in_8_bits_stays_in_8_bits() -> None:
    result = searched("qnn", min_sqnr=5.0)
    assert set(widths(result).values()) == {8}
    assert result.search.wide_layers == result.search.float_layers == ()


@pytest.mark.parametrize("target", ["qnn", NPU], ids=["qnn", "npu"])
def test_layers_get_16_bits_before_any_goes_to_float(target: object) -> None:
    result = searched(target, min_sqnr=judged_db(target) + 2.0)
    assert result.search.met and result.search.wide_layers and not result.search.float_layers
    assert 8 in widths(result).values() and 16 in widths(result).values()
    assert result.report.outputs[0].sqnr_db > searched(target).report.outputs[0].sqnr_db
    reasons = {d.node: d.reason for d in result.plan.nodes}
    assert all("16 for the accuracy budget" in reasons[layer] for layer in result.search.wide_layers)
    assert any(note.startswith("activations are") and "budget" in note for note in result.report.notes)


def test_float_comes_last() -> None:
    sixteen = judged_db("qnn", min_sqnr=-50.0, activations="uint16")
    result = searched("qnn", min_sqnr=sixteen + 1.0)
    assert result.search.met and result.search.float_layers
    assert set(result.search.float_layers).isdisjoint(result.search.wide_layers)


def test_no_more_is_raised_than_is_needed() -> None:
    eight = judged_db("qnn")
    small, large = searched("qnn", min_sqnr=eight + 0.5).search, searched("qnn", min_sqnr=eight + 4.0).search
    assert small.wide_macs <= large.wide_macs


BETWEEN = """(float[1,8,8,8] x) => (float[1,8,8,8] z) {
    [a] p = Conv<pads=[1,1,1,1]>(x, u, b)
    [s] s = Sigmoid(p)
    [m] m = Mul(p, s)
    [k] k = Mul(m, half)
    [c] t = Conv<pads=[1,1,1,1]>(k, v, b)
    [e] e = Elu(t)
    [n] n = Add(e, m)
    [z] z = Mul(n, n)
    }"""


def test_what_stands_between_layers_gets_16_bits_with_them() -> None:
    """Sigmoid, Mul and Add read and write tensors that no Conv does: in 8 bits they would set the limit."""
    given = model_of(BETWEEN, u=0.1 * CONSTANTS["u"], v=0.1 * CONSTANTS["v"], b=CONSTANTS["b"], half=np.float32(0.5))
    options: dict[str, Any] = {"target": "qnn", "method": "max", "recover": "none"}
    sixteen = onnxq.quantize(given, DATA, **options, activations="uint16", min_sqnr=-50.0).search
    assert sixteen is not None
    goal = float(sixteen.details[0].split()[1]) - 0.5
    made = onnxq.quantize(given, DATA, **options, min_sqnr=goal)
    assert made.search is not None and made.search.met
    assert made.search.wide_layers and not made.search.float_layers
    assert set(widths(made).values()) == {16}


# ---- converting (Q7) -----------------------------------------------------------------------------------------------


def mixed() -> onnxq.QuantizeResult:
    override = {"tensors": "t", "activation": "uint16"}
    return onnxq.quantize(
        model_of(TEXT, **CONSTANTS), DATA, target="qnn", method="max", recover="none", overrides=[override]
    )


def activation_types(graph: Graph, node: str) -> set[int]:
    found = graph.node(node)
    slots = found.input[:1] if found.op_type == "Conv" else found.input
    read = {graph.dtype(graph.producer(tensor).input[2]) for tensor in slots}
    return read | {graph.dtype(n.input[2]) for n in graph.consumers(found.output[0]) if n.op_type == "QuantizeLinear"}


def test_q7_activations_of_a_node_have_one_width() -> None:
    graph = Graph(mixed().model)
    types = {name: activation_types(graph, name) for name in "armcke"}
    eight, sixteen = {UINT8.onnx_type}, {UINT16.onnx_type}
    assert types == {"a": eight, "r": eight, "m": eight, "c": sixteen, "k": sixteen, "e": eight}


def test_q7_wider_codes_hold_what_the_narrow_ones_hold() -> None:
    result = mixed()
    converted = computed(Graph(result.model), DATA[0])[0]
    graph = Graph(result.model)
    for node in [n for n in graph.nodes if "_wide" in n.name and n.op_type == "DequantizeLinear"]:
        before = graph.producer(node.input[0]).input[0]
        graph.replace_uses(node.output[0], before)
    plain = computed(graph, DATA[0])[0]
    # Within one step of the last tensor: a value on the edge between two codes may fall to the other side.
    assert np.abs(converted - plain).max() <= 1.01 * float(result.qparams["y"].scale)
    assert np.mean(converted != plain) < 0.01


def test_a_second_run_does_nothing() -> None:
    graph = Graph(mixed().model)
    assert not ConvertWidths().run(graph).modified


def test_one_width_throughout_needs_no_conversion() -> None:
    result = onnxq.quantize(model_of(TEXT, **CONSTANTS), DATA, target="qnn", method="max")
    assert not any("_wide" in n.name for n in result.model.graph.node)
