"""Weights of 16 bits for QNN: which operators take them, and beside what (Q8)."""

from __future__ import annotations

from typing import Any

import pytest

import onnxq
from onnxq.errors import ConfigError
from onnxq.targets import TARGETS
from onnxq.targets.custom import target_from_table
from tests.graphs import model_of, normal

A16W16 = """(float[1,16,8,8] x) => (float[1,24] y, float[1,8,16,16] z) {
    [c] a = Conv<pads=[1,1,1,1]>(x, w, b) [r] r = Relu(a) [t] z = ConvTranspose<strides=[2,2]>(r, t)
    [p] p = GlobalAveragePool(r) [f] f = Flatten(p) [g] g = Gemm<transB=1>(f, u, k) [m] y = MatMul(g, m) }"""
WIDE: dict[str, Any] = {
    "w": normal(16, 16, 3, 3) / 12, "b": normal(16), "t": normal(16, 8, 2, 2) / 8, "u": normal(20, 16) / 4,
    "k": normal(20), "m": normal(20, 24) / 4,
}  # fmt: skip


def test_q8_weights_of_16_bits_for_qnn() -> None:
    model = model_of(A16W16, **WIDE)
    # So few samples serve both for calibration and for comparison: nothing clips.
    data = [{"x": normal(1, 16, 8, 8, seed=seed)} for seed in range(3)]
    narrow, wide = (
        onnxq.quantize(model, data, target="qnn", activations="uint16", weights=weights, method="max", recover="none")
        for weights in (None, "int16")
    )
    forms = {k: (t.spec.qtype.name, t.spec.axis) for k, t in wide.plan.tensors.items() if t.role.value == "weight"}
    assert forms == {"w": ("int16", 0), "t": ("int8", None), "u": ("int16", None), "m": ("int16", None)}
    assert all(t.spec.symmetric for t in wide.plan.tensors.values() if t.role.value == "weight")
    assert {t.spec.qtype.name for t in wide.plan.tensors.values() if t.role.value == "bias"} == {"int32"}
    assert not any("come with 8-bit weights" in note for note in wide.report.notes)
    db = {
        result is wide: {o.name: o.sqnr_db for o in result.report.outputs if o.sqnr_db is not None}
        for result in (narrow, wide)
    }
    # `z` comes from a ConvTranspose, whose weights have 8 bits in both.
    assert db[True]["y"] > db[False]["y"] + 12.0
    assert db[True]["z"] < db[False]["z"] + 3.0
    one = onnxq.plan(model, target="qnn", overrides=[{"nodes": "m", "activation": "uint16", "weight": "int16"}])
    assert {k: one.tensors[k].spec.qtype.name for k in "xgm"} == {"x": "uint8", "g": "uint16", "m": "int16"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"weights": "int16"},
            "qnn takes weights of type 'int16' with activations of type 'uint16' alone\n"
            "Hint: pass activations='uint16' (--activations uint16) as well, or leave weights= (--weights) out",
        ),
        (
            {"overrides": [{"nodes": "m", "weight": "int16"}]},
            "override of nodes 'm': qnn takes no weights of type 'int16'\n"
            "Hint: it takes int8; int16 with activation = 'uint16' in the same override",
        ),
        (
            {"activations": "uint16", "weights": "int16", "overrides": [{"nodes": "m", "activation": "uint8"}]},
            "MatMul 'm': its first input would be uint8 and its second int16; qnn takes int16 weights with wider "
            "activations only\nHint: give both in the override of the node: activation and weight (--override, "
            "[[override]]), and to all nodes that read the same tensor",
        ),
        (
            {"activations": "uint16", "overrides": [{"nodes": "t", "weight": "int16"}]},
            "ConvTranspose 't': its first input would be uint16 and its second int16; qnn takes int8 weights alone in "
            "a ConvTranspose\nHint: leave the node out of the override of weight",
        ),
    ],
    ids=["activations of 8 bits", "override of weights alone", "override of activations alone", "operator"],
)
def test_q8_types_that_do_not_go_together(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as error:
        onnxq.plan(model_of(A16W16, **WIDE), target="qnn", **options)
    assert str(error.value) == message


def test_a_table_may_hold_no_types_of_weights_that_there_are_not() -> None:
    table = {"base": "qnn", "name": "npu", "types": {"uint16": {"weight_types": ["int17"]}}}
    with pytest.raises(ConfigError, match=r"types\.uint16\.weight_types is 'int17', expected a type of weights"):
        target_from_table(table, TARGETS, "here")
