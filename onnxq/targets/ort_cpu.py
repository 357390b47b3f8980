"""ONNX Runtime's CPU execution provider. Rules C1 to C19 are explained in docs/targets.md.

Sources: the QDQ selectors and kernels of onnxruntime 1.31, each rule run on it (tests/e2e/test_ort_rules.py).
"""

from __future__ import annotations

from dataclasses import replace

from onnxq.numerics.qtypes import INT8, UINT8
from onnxq.numerics.specs import QuantSpec
from onnxq.targets.ort_costs import ORT_AVX2_COSTS, ORT_VNNI_COSTS
from onnxq.targets.schema import (
    BiasForm,
    ChannelAxis,
    ComputeRule,
    ElementwiseRule,
    Engine,
    PassThroughRule,
    Placement,
    Target,
    TypeRule,
    WeightGuard,
)

_COMPUTE = (
    ComputeRule(
        op="Conv", axis=ChannelAxis.FIRST, output_quantized=True, bias=BiasForm.INT32, ranks=(3, 4, 5), rules="C4"
    ),
    ComputeRule(
        op="MatMul",
        axis=ChannelAxis.LAST,
        output_quantized=False,
        bias=BiasForm.INT32,
        added_bias_ranks=(2,),
        per_channel_rank=3,
        rules="C6 C8",
    ),
    ComputeRule(op="Gemm", axis=ChannelAxis.GEMM, output_quantized=False, bias=BiasForm.INT32, ranks=(2,), rules="C7"),
)

_ELEMENTWISE = (
    ElementwiseRule(op="Add", rules="C9"),
    ElementwiseRule(op="Mul", rules="C9"),
    ElementwiseRule(op="GlobalAveragePool", shrinks=True, rules="C10"),
    ElementwiseRule(op="LeakyRelu", rules="C10"),
    ElementwiseRule(op="Sigmoid", rules="C10"),
    ElementwiseRule(op="Concat", rules="C11"),
)

_PASS_THROUGH = (
    *(
        PassThroughRule(op=op, rules="C12")
        for op in (
            "DepthToSpace",
            "Expand",
            "Flatten",
            "Gather",
            "MaxPool",
            "Reshape",
            "Slice",
            "Split",
            "Squeeze",
            "Tile",
            "Transpose",
            "Unsqueeze",
        )
    ),
    PassThroughRule(op="Resize", attributes={"mode": "nearest"}, rules="C12"),
)

_FLOAT_REASONS = {
    "ConvTranspose": "ONNX Runtime has no int8 kernel for ConvTranspose on CPU (C4)",
    **{
        op: f"ONNX Runtime has no int8 kernel for {op} on CPU (C10)"
        for op in (
            "BatchNormalization", "Elu", "Erf", "Exp", "Gelu", "GlobalMaxPool", "HardSigmoid", "HardSwish",
            "InstanceNormalization", "LayerNormalization", "Mish", "Pad", "ReduceMean", "SpaceToDepth", "Softplus",
            "Sqrt", "Tanh",
        )
    },
    **{
        op: f"ONNX Runtime has no int8 kernel for {op} on CPU (C9)"
        for op in ("Div", "Max", "Min", "PRelu", "Pow", "Sub", "Sum")
    },
    "LSTM": "ONNX Runtime's int8 LSTM quantizes while it runs: mode='dynamic' (--mode dynamic) (C10)",
    "AveragePool": "kept float: the int8 kernel of AveragePool is many times slower than the float one (C10)",
    "Softmax": "kept float: the int8 kernel of Softmax is slower than the float one (C10)",
    "Where": "kept float: the int8 kernel of Where is slower than the float one (C10)",
}  # fmt: skip

ORT_X64_VNNI = Target(
    name="ort-x64-vnni",
    title="ONNX Runtime on CPU",
    placement=Placement.REGIONS,
    activation=QuantSpec(qtype=UINT8, symmetric=False),
    weight=QuantSpec(qtype=INT8, symmetric=True, narrow_range=True),
    engine=Engine.ONNXRUNTIME,
    activation_types=frozenset({"int16", "uint16"}),
    weight_types=frozenset({"uint8", "int16"}),
    types={name: TypeRule(simulated=True, rules="C18") for name in ("int16", "uint16")},
    compute={rule.op: rule for rule in _COMPUTE},
    elementwise={rule.op: rule for rule in _ELEMENTWISE},
    pass_through={rule.op: rule for rule in _PASS_THROUGH},
    taken=frozenset({"AveragePool", "ConvTranspose", "Softmax", "Where"}),
    fused_activations=frozenset({"Relu", "Clip"}),
    slow_prelu=True,
    slow_sums=True,
    tables="C19",
    costs=ORT_VNNI_COSTS,
    float_reasons=_FLOAT_REASONS,
    sources={
        **dict.fromkeys(("C4", "C5", "C6", "C7", "C8", "C9", "C10", "C11", "C12", "C18", "C19"), "run"),
        "R28": "doc, not measured",
        "R35": "run on onnxruntime",
    },
)

ORT_X64_AVX2 = replace(
    ORT_X64_VNNI,
    name="ort-x64-avx2",
    costs=ORT_AVX2_COSTS,
    guard=WeightGuard.PAIR_SUM,
)

ORT_ARM64 = replace(ORT_X64_VNNI, name="ort-arm64", costs=None)
