"""Costs of onnxruntime's CPU kernels, in nanoseconds on one thread.

Written from the output of `python -m benches.kernel_costs`: onnxruntime 1.32 on an AMD EPYC with AVX512-VNNI; stems,
activations, narrow filters and products of few rows on an Intel Xeon with AMX, where one row by a 256 x 256 weight
takes 5.0 us in int8 and 4.4 us in float, by a 512 x 512 weight 11 us and 25 us. What stands out: the depthwise int8
kernel works through channels 16 at a time and is slow for few of them. A dense one gathers its input row by row of the
filter, and rows of fewer than 16 codes slowly: a filter of 7 x 1 on 12 channels takes twice as long as in float. One in
groups gathers each tap of each group by itself: with 4 channels in a group it takes 3 times as long as in float, with 8
2.5 times, with 16 1.2 times, with one and two outputs for each input 10 to 25 times (`gather` was measured on an AMD
EPYC with AVX2 alone and is in proportion to a float MAC there; RegNet, ResNeXt and FastViT bear it out).
With VNNI the proportion is the same (measured with AVX-VNNI alone); with AVX512 the float kernel's blocks hold 16
channels, and groups of 8, which do not fill one, take as long in float as in int8: a ResNeXt-50 takes 0.51 of the float
model's time with them in float and 0.52 with them in int8. The int8 Mul by a gate starts anew at each pixel. The float
kernel for images of 1 to 7 channels reads them as they are, without the padding that an int8 one needs, in half the
time or less. The int8 one copies a row of the filter at once, so long rows of three channels pay: the first layers of
a network take 1.33 of the time with a stem of 3 x 3 to 32 channels in int8, 1.04 with 5 x 5, 0.65 with 7 x 7 to 64
(with AVX2 1.33, 1.19 and 0.82). A float Conv computes its activation, a HardSwish too, while its results are in
registers. Softmax, AveragePool and products of two activations are slower in int8 at every size that was measured, so
they are no candidates at all (C10, R28).
"""

from __future__ import annotations

from dataclasses import replace

from onnxq.targets.costs import CostTable, KernelCost

ORT_AVX2_COSTS = CostTable(
    float_kernels={
        "Conv": KernelCost(node=220, tap=1.45, gather=0.7, mac=0.0085, tail=0.8, weight=0.1),
        "StemConv": KernelCost(node=220, mac=0.0095, tail=0.2, element=0.16),
        "DepthwiseConv": KernelCost(node=1350, gather=0.7, mac=0.0118, tail=0.03, element=0.105),
        "MatMul": KernelCost(mac=0.0097, weight=0.045),
        "Gemm": KernelCost(mac=0.0097, weight=0.045),
        "GateMul": KernelCost(node=1000, element=0.15),
        "ChannelSoftmax": KernelCost(element=7.0),
    },
    int8_kernels={
        "Conv": KernelCost(node=1100, position=1.15, tap=1.9, run=5, gather=2.7, mac=0.0023, tail=0.26, weight=0.011),
        "StemConv": KernelCost(node=1100, position=1.15, tap=0.45, run=4.5, mac=0.0023, tail=0.26, weight=0.011),
        "DepthwiseConv": KernelCost(node=1450, position=3.6, tap=0.93, gather=2.7, mac=0.0122, tail=0.2, element=0.08),
        "MatMul": KernelCost(node=1100, position=9.2, mac=0.0024, weight=0.03, element=0.19),
        "Gemm": KernelCost(node=1100, position=9.2, mac=0.0024, weight=0.03, element=0.19),
        "GateMul": KernelCost(node=1000, position=15, element=0.1),
        "ChannelSoftmax": KernelCost(element=1.3),
    },
    absorbed={
        "HardSigmoid": KernelCost(node=600, element=0.1),
        "HardSwish": KernelCost(node=1200, element=0.25),  # two kernels
        "LeakyRelu": KernelCost(node=600, element=0.16),
        "Sigmoid": KernelCost(node=600, element=0.26),
        "Tanh": KernelCost(node=600, element=0.25),
    },
    quantize=KernelCost(node=600, element=0.09),
    dequantize=KernelCost(node=600, element=0.09),
    layout=KernelCost(node=600, element=0.25),
    margin=1.1,
    source="onnxruntime 1.32, x64 with AVX512-VNNI, one thread (benches/kernel_costs.py)",
    rule="C17",
)

ORT_VNNI_COSTS = replace(
    ORT_AVX2_COSTS,
    float_kernels={**ORT_AVX2_COSTS.float_kernels, "Conv": replace(ORT_AVX2_COSTS.float_kernels["Conv"], group=1000)},
    int8_kernels={**ORT_AVX2_COSTS.int8_kernels, "Conv": replace(ORT_AVX2_COSTS.int8_kernels["Conv"], gather=2.1)},
)
"""With AVX512. Stacks of three blocks (1 x 1, 3 x 3 in groups, 1 x 1) of int8 Convs, the middle ones in int8, by the
time with these in float, on an AMD EPYC with AVX512-VNNI: groups of 4 channels 2.27 (128 channels at 56 x 56) to 1.57
(512 at 14 x 14), of 8 1.30 (48 at 56 x 56), 1.18 (104 at 28 x 28), 1.01 (208 at 14 x 14) and 0.79 (440 at 7 x 7), of 12
0.83 (96 at 28 x 28), of 16 0.93 to 0.98. With AVX2, whose blocks hold 8 channels: of 8 1.17 to 1.35, of 12 0.98."""
