"""TensorRT and TensorRT-RTX, explicit quantization. Rules R1 to R33 are explained in docs/targets.md.

Sources: NVIDIA TensorRT developer guide, "Working with Quantized Types"; the onnx-tensorrt parser; each hard rule run
on TensorRT-RTX's parser and builder (tests/e2e/test_tensorrt_rules.py).
"""

from __future__ import annotations

from onnxq.numerics.qtypes import INT8
from onnxq.numerics.specs import QuantSpec
from onnxq.targets.schema import (
    BiasForm,
    ChannelAxis,
    ComputeRule,
    Engine,
    PassThroughRule,
    Placement,
    Target,
    TypeRule,
)

TENSORRT = Target(
    name="tensorrt",
    title="TensorRT",
    placement=Placement.INPUTS,
    activation=QuantSpec(qtype=INT8, symmetric=True),
    weight=QuantSpec(qtype=INT8, symmetric=True, narrow_range=True),
    engine=Engine.TENSORRT,
    activation_types=frozenset({"float8e4m3fn"}),
    weight_types=frozenset({"float8e4m3fn"}),
    types={
        "float8e4m3fn": TypeRule(
            weights="float8e4m3fn",
            products=True,
            max_taps=31,
            grouped=False,
            note="fp8 needs a GPU of compute capability 8.9 or newer (Ada, Hopper, Blackwell)",
            rules="R34",
        )
    },
    like_types=True,
    full_products=True,
    compute={
        "Conv": ComputeRule(
            op="Conv",
            axis=ChannelAxis.FIRST,
            output_quantized=False,
            bias=BiasForm.FLOAT,
            min_channels=16,
            rules="R20 R8",
        ),
        "ConvTranspose": ComputeRule(
            op="ConvTranspose",
            axis=ChannelAxis.SECOND,
            output_quantized=False,
            bias=BiasForm.FLOAT,
            min_channels=16,
            rules="R20 R8",
        ),
        "MatMul": ComputeRule(
            op="MatMul",
            axis=ChannelAxis.LAST,
            output_quantized=False,
            bias=BiasForm.FLOAT,
            per_channel_rank=3,
            min_features=16,
            rules="R20",
        ),
        "Gemm": ComputeRule(
            op="Gemm",
            axis=ChannelAxis.GEMM,
            output_quantized=False,
            bias=BiasForm.FLOAT,
            min_features=16,
            rules="R20",
        ),
    },
    pass_through={
        op: PassThroughRule(op=op, rules="R24")
        for op in ("Concat", "Gather", "MaxPool", "Pad", "Relu", "Reshape", "Slice", "Split", "Squeeze", "Transpose")
    },
    fused_activations=frozenset({"Relu", "Clip", "LeakyRelu", "Sigmoid", "Tanh", "HardSigmoid", "HardSwish"}),
    fusion_rule="R21",
    residual_add=True,
    concat_shares=True,
    half_types=True,
    float_reasons={
        "LayerNormalization": "LayerNorm, Softmax and GELU stay in higher precision (R27)",
        "Softmax": "LayerNorm, Softmax and GELU stay in higher precision (R27)",
        "Erf": "LayerNorm, Softmax and GELU stay in higher precision (R27)",
        "Gelu": "LayerNorm, Softmax and GELU stay in higher precision (R27)",
    },
    sources={
        "R2": "run",
        "R8": "run",
        "R13": "run",
        "R34": "doc, src ModelOpt, not measured",
        "R35": "run on onnxruntime",
        **dict.fromkeys(("R20", "R21", "R22", "R27", "R28", "R29", "R30"), "doc, not measured"),
        "R24": "doc; run",
    },
)
