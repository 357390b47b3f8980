"""XNNPACK on mobile CPUs through ONNX Runtime's execution provider of that name. Not run here.

Source: onnxruntime's `core/providers/xnnpack` (which types its Conv and MaxPool take). Rules X1 to X3 are explained in
docs/targets.md.
"""

from __future__ import annotations

from onnxq.numerics.qtypes import INT8
from onnxq.numerics.specs import QuantSpec
from onnxq.targets.schema import BiasForm, ChannelAxis, ComputeRule, PassThroughRule, Placement, Target

XNNPACK = Target(
    name="xnnpack",
    title="XNNPACK",
    placement=Placement.REGIONS,
    activation=QuantSpec(qtype=INT8, symmetric=False),
    weight=QuantSpec(qtype=INT8, symmetric=True, narrow_range=True),
    compute={
        "Conv": ComputeRule(
            op="Conv", axis=ChannelAxis.FIRST, output_quantized=True, bias=BiasForm.INT32, ranks=(4,), rules="X1 X2"
        ),
        "ConvTranspose": ComputeRule(
            op="ConvTranspose",
            axis=ChannelAxis.SECOND,
            output_quantized=True,
            bias=BiasForm.INT32,
            ranks=(4,),
            per_channel_rank=0,
            rules="X1 X2",
        ),
    },
    pass_through={"MaxPool": PassThroughRule(op="MaxPool", rules="X3")},
    fused_activations=frozenset({"Relu", "Clip"}),
    float_reasons={
        **{op: f"XNNPACK's {op} is float (X3)" for op in ("Gemm", "MatMul")},
        **{op: f"XNNPACK's {op} takes uint8 alone, and its Conv with a scale for each channel int8 (X3)"
           for op in ("AveragePool", "GlobalAveragePool", "Softmax")},
    },
    sources=dict.fromkeys(("X1", "X2", "X3"), "src onnxruntime, not run"),
)  # fmt: skip
