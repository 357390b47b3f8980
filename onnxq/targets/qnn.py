"""Qualcomm NPUs (HTP) through ONNX Runtime's QNN execution provider. Not run here: rules come from documentation.

Sources: https://onnxruntime.ai/docs/execution-providers/QNN-ExecutionProvider.html, the configuration that
onnxruntime's quantization tool makes for it (execution_providers/qnn/quant_config.py), and the QNN SDK's table of
operators. Rules Q1 to Q8 are explained in docs/targets.md.
"""

from __future__ import annotations

from onnxq.numerics.qtypes import INT8, UINT8
from onnxq.numerics.specs import QuantSpec
from onnxq.targets.schema import (
    BiasForm,
    ChannelAxis,
    ComputeRule,
    ElementwiseRule,
    PassThroughRule,
    Placement,
    Target,
    TypeRule,
)

_BYTES = QuantSpec(qtype=UINT8, symmetric=True)
_CODES = QuantSpec(qtype=INT8, symmetric=True, narrow_range=True)

QNN = Target(
    name="qnn",
    title="QNN (HTP)",
    placement=Placement.REGIONS,
    activation=QuantSpec(qtype=UINT8, symmetric=False),
    weight=_CODES,
    activation_types=frozenset({"uint16"}),
    types={
        "uint16": TypeRule(
            # Scales of 1/65536 and 1/32768 with the zero-points 0 and 32768.
            outputs={"Sigmoid": (0.0, 65535 / 65536), "Tanh": (-1.0, 32767 / 32768)},
            weight_types=frozenset({"int16"}),
            note="16-bit activations come with 8-bit weights (A16W8); weights='int16' (--weights int16) gives 16 (Q8)",
            rules="Q1 Q5 Q8",
        )
    },
    compute={
        "Conv": ComputeRule(
            op="Conv", axis=ChannelAxis.FIRST, output_quantized=True, bias=BiasForm.INT32, rules="Q2 Q3 Q8"
        ),
        "ConvTranspose": ComputeRule(
            op="ConvTranspose",
            axis=ChannelAxis.SECOND,
            output_quantized=True,
            bias=BiasForm.INT32,
            per_channel_rank=0,
            weight=_CODES,
            keeps_weight=True,
            rules="Q2 Q3 Q8",
        ),
        "MatMul": ComputeRule(
            op="MatMul",
            axis=ChannelAxis.LAST,
            output_quantized=True,
            bias=BiasForm.INT32,
            per_channel_rank=0,
            weight=_BYTES,
            rules="Q2 Q3 Q8",
        ),
        "Gemm": ComputeRule(
            op="Gemm",
            axis=ChannelAxis.GEMM,
            output_quantized=True,
            bias=BiasForm.INT32,
            per_channel_rank=0,
            weight=_BYTES,
            rules="Q2 Q3 Q8",
        ),
    },
    elementwise={
        op: ElementwiseRule(op=op, rules="Q4")
        for op in (
            "Abs", "Add", "AveragePool", "Clip", "Concat", "Div", "Elu", "Exp", "Gelu", "GlobalAveragePool",
            "HardSwish", "LeakyRelu", "Log", "Max", "Min", "Mul", "Neg", "ReduceMean", "Relu", "Sigmoid", "Softmax",
            "Sqrt", "Sub", "Tanh",
        )
    },
    pass_through={
        **{
            op: PassThroughRule(op=op, rules="Q4")
            for op in (
                "DepthToSpace", "Expand", "Flatten", "Gather", "MaxPool", "Reshape", "Slice", "SpaceToDepth", "Split",
                "Squeeze", "Tile", "Transpose", "Unsqueeze",
            )
        },
        "Resize": PassThroughRule(op="Resize", attributes={"mode": "nearest"}, rules="Q4"),
    },
    everywhere=True,
    float_reasons={
        op: f"onnxq does not quantize {op} for QNN; it runs in fp16 there, where the chip has that (Q6)"
        for op in ("BatchNormalization", "InstanceNormalization", "LayerNormalization", "Pad", "Pow")
    },
    sources={
        **dict.fromkeys(("Q1", "Q2", "Q4"), "doc, not run"),
        "Q3": "src onnxruntime, not run",
        "Q5": "src onnxruntime, not run",
        "Q8": "src onnxruntime, ExecuTorch, not run",
        "R28": "doc, not measured",
        "R36": "simulated",
    },
)  # fmt: skip
