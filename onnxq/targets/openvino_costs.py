"""Costs of OpenVINO's CPU kernels, in nanoseconds on one thread.

Kernels are written from the output of `python -m benches.openvino_costs`: OpenVINO 2026.4 on an Intel Xeon with AMX, in
float32, with and without AMX. What stands out: depthwise int8 kernels take 1.3 to 2 times as long as float ones,
whatever the size. A dense int8 kernel spends most of its time on writing its results, so few input channels (8 to 24)
gain nothing. An image of few channels is converted twice in front of an int8 Conv.

A filter in groups of 2 or 3 channels takes 1.4 to 4 times as long in int8 as in float, of 5 to 7 a fifth longer, of 10
the same. Of 4 it takes half as long without AMX and twice with it, in a chain; a ResNeXt-50 with such layers in float
takes 0.21 of the float model's time, with all in int8 0.16, so they run in int8.

Three things are read off OpenVINO's profile of whole models (kwt1, EfficientNet-Lite0), where they take several times
what they do in a chain, whose tensors stay in the cache: conversions, what a MatMul takes whatever its size, and how
much longer a GELU takes behind an int8 MatMul (0.35 ns for an element without AMX, 0.95 with it).

There is no margin: what costs as much in int8 stays float. With a tenth in favour of int8, kwt1's products of 98 x 64
by 64 x 64 ran in int8, and the whole model took 5 % longer, with AMX and without. Of 18 other models one changes by it,
PP-OCRv4's recogniser by two Convs, and gets no slower.

Without VNNI (`--target openvino-avx2`, on an AMD EPYC with AVX2 alone) an int8 Conv takes half the time of a float one,
a depthwise one nearly the same, but with two outputs for each channel 1.1 to 6 times as long, and an int8 MatMul longer
than a float one at every size: such products stay float. Filters in groups whose channels are no multiple of 4 have no
int8 kernel but a plain loop: 5 to 50 times the float kernel's time.
"""

from __future__ import annotations

from onnxq.targets.costs import CostTable, KernelCost

OPENVINO_COSTS = CostTable(
    float_kernels={
        "Conv": KernelCost(position=2.13, tap=0.856, ragged=1, mac=0.0136, weight=0.141, element=0.0618),
        "StemConv": KernelCost(node=13500, position=6.15, mac=0.0245, element=0.0989),
        "DepthwiseConv": KernelCost(node=397, position=1.53, mac=0.0214, tail=0.0147, weight=0.144, element=0.117),
        "MatMul": KernelCost(node=1000, position=4.12, mac=0.0151, tail=5.86, weight=0.0796, element=0.0542),
        "Gemm": KernelCost(node=1000, position=4.12, mac=0.0151, tail=5.86, weight=0.0796, element=0.0542),
    },
    int8_kernels={
        "Conv": KernelCost(
            node=1970, position=1.88, tap=0.645, ragged=2, mac=0.00207, tail=0.144, weight=0.0263, element=0.181
        ),
        "StemConv": KernelCost(node=25100, position=11.9, mac=0.00435, element=0.103),
        "DepthwiseConv": KernelCost(node=1280, mac=0.0344, tail=0.0561, weight=0.143, element=0.17),
        "MatMul": KernelCost(node=4000, position=14.2, mac=0.000926, tail=14.7, weight=0.0354, element=0.225),
        "Gemm": KernelCost(node=4000, position=14.2, mac=0.000926, tail=14.7, weight=0.0354, element=0.225),
    },
    absorbed={"Gelu": KernelCost(element=0.8)},
    quantize=KernelCost(node=1000, element=0.4),
    dequantize=KernelCost(element=0.1),
    margin=1.0,
    source="OpenVINO 2026.4, x64 with AVX512-VNNI and with AMX, float32, one thread (benches/openvino_costs.py)",
    rule="V12",
)

OPENVINO_AVX2_COSTS = CostTable(
    float_kernels={
        "Conv": KernelCost(position=1.01, tap=0.262, mac=0.0272, tail=0.169, weight=0.143, element=0.0888),
        "StemConv": KernelCost(tap=0.166, mac=0.029, weight=62.5, element=0.206),
        "DepthwiseConv": KernelCost(mac=0.0421, weight=0.955, element=0.444),
        "MatMul": KernelCost(node=220, position=26.3, mac=0.0322, weight=0.225),
        "Gemm": KernelCost(node=220, position=26.3, mac=0.0322, weight=0.225),
    },
    int8_kernels={
        "Conv": KernelCost(node=652, run=1.19, ragged=20, mac=0.0134, tail=0.165, weight=0.0363, element=0.238),
        "StemConv": KernelCost(mac=0.0143, element=0.59),
        "DepthwiseConv": KernelCost(node=1860, gather=1, mac=0.0374, weight=3.36, element=0.548),
        "MatMul": KernelCost(node=5730, position=225, mac=0.0341, weight=0.097),
        "Gemm": KernelCost(node=5730, position=225, mac=0.0341, weight=0.097),
    },
    quantize=KernelCost(node=1000, element=0.4),
    dequantize=KernelCost(element=0.1),
    margin=1.0,
    source="OpenVINO 2026.4, x64 with AVX2 alone, one thread (benches/openvino_costs.py)",
    rule="V12",
)
