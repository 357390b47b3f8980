"""OpenVINO on CPU: Q/DQ on the inputs of Conv and MatMul, uint8 activations.

Measured on OpenVINO 2026.4: this placement runs every Conv in u8 and is faster than quantizing all operators.
"""

from __future__ import annotations

from dataclasses import replace

from onnxq.numerics.qtypes import INT8, UINT8
from onnxq.numerics.specs import QuantSpec
from onnxq.targets.openvino_costs import OPENVINO_AVX2_COSTS, OPENVINO_COSTS
from onnxq.targets.schema import (
    HARD_SWISH,
    BiasForm,
    ChannelAxis,
    ComputeRule,
    Engine,
    Placement,
    Target,
    TypeRule,
    WeightGuard,
)

OPENVINO = Target(
    name="openvino",
    title="OpenVINO",
    placement=Placement.INPUTS,
    activation=QuantSpec(qtype=UINT8, symmetric=False),
    weight=QuantSpec(qtype=INT8, symmetric=True, narrow_range=True),
    engine=Engine.OPENVINO,
    activation_types=frozenset({"int8", "int16", "uint16"}),
    weight_types=frozenset({"int16"}),
    types={name: TypeRule(simulated=True, rules="V6") for name in ("int16", "uint16")},
    compute={
        "Conv": ComputeRule(
            op="Conv",
            axis=ChannelAxis.FIRST,
            output_quantized=False,
            bias=BiasForm.FLOAT,
            longest_row=64,
            rules="V1",
        ),
        "ConvTranspose": ComputeRule(
            op="ConvTranspose",
            axis=ChannelAxis.SECOND,
            output_quantized=False,
            bias=BiasForm.FLOAT,
            grouped=False,
            signed=QuantSpec(qtype=INT8, symmetric=True),
            rules="V1 V2 V7",
        ),
        "MatMul": ComputeRule(
            op="MatMul",
            axis=ChannelAxis.LAST,
            output_quantized=False,
            bias=BiasForm.FLOAT,
            per_channel_rank=3,
            rules="V1",
        ),
        "Gemm": ComputeRule(op="Gemm", axis=ChannelAxis.GEMM, output_quantized=False, bias=BiasForm.FLOAT, rules="V1"),
    },
    sum_pairs=150_000,
    pool_pairs=True,
    moved_pairs=True,
    nonzero_biases=True,
    fused_activations=frozenset({"Relu", "Clip"}),
    fusion_rule="V1",
    whole_operators=frozenset({HARD_SWISH}),
    costs=OPENVINO_COSTS,
    sources={
        **dict.fromkeys(("V1", "V2", "V5", "V6", "V7", "V8", "V9", "V10", "V12", "V13", "V14", "V16", "V17"), "run"),
        "R28": "doc, not measured",
        "R35": "run on onnxruntime",
    },
)

OPENVINO_AVX2 = replace(
    OPENVINO,
    name="openvino-avx2",
    guard=WeightGuard.TAP_PAIR_SUM,
    costs=OPENVINO_AVX2_COSTS,
    sources={**OPENVINO.sources, "V15": "run"},
)
