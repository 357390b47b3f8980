"""What a node costs on an engine, as far as placement must know: a linear law for each kind of kernel.

    ns = node + position * P + tap * P * kh * kw + run * R + gather * G + ragged * U + group * B + mac * MACs
         + tail * T + weight * W + element * E

P counts output positions (pixels or rows), T the output channels beyond a multiple of 16, once for each position (for a
depthwise kernel once for each tap), W the elements of the weight, E those of the output. R counts the rows of a dense
filter that read fewer than 16 values (columns times input channels), once for each position: int8 kernels gather such
short runs slowly. G counts the taps of a filter in groups, once for each position and group: what a group reads is
gathered on its own; depthwise kernels of one output channel for each input channel gather nothing. U counts the same
where the channels of a group do not fill the four bytes that one instruction multiplies. B counts the groups, once for
each sample, whose channels are no multiple of 16: AVX512's float kernels hold channels in blocks of 16, and multiply
such groups one by one. The numbers are
fitted to measured kernels by `benches/kernel_costs.py`; they have to tell what costs more from what costs less, not
predict latency.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

_LANES = 16
"""Channels that a kernel handles at once; what is left over is slow in int8 and padded in float."""
_BYTES = 4
"""Of 8 bits, multiplied by one instruction and summed in 32."""


@dataclass(frozen=True, kw_only=True)
class Work:
    """How much of everything a node does; see the module's formula."""

    positions: int = 0
    taps: int = 0
    runs: int = 0
    gathers: int = 0
    ragged: int = 0
    groups: int = 0
    macs: int = 0
    tails: int = 0
    weights: int = 0
    elements: int = 0


@dataclass(frozen=True, kw_only=True)
class KernelCost:
    """Nanoseconds for a node and for each unit of its work; see the module's formula."""

    node: float = 0.0
    position: float = 0.0
    tap: float = 0.0
    run: float = 0.0
    gather: float = 0.0
    ragged: float = 0.0
    group: float = 0.0
    mac: float = 0.0
    tail: float = 0.0
    weight: float = 0.0
    element: float = 0.0

    def ns(self, work: Work) -> float:
        """Nanoseconds for `work`."""
        return (
            self.node
            + self.position * work.positions
            + self.tap * work.taps
            + self.run * work.runs
            + self.gather * work.gathers
            + self.ragged * work.ragged
            + self.group * work.groups
            + self.mac * work.macs
            + self.tail * work.tails
            + self.weight * work.weights
            + self.element * work.elements
        )


@dataclass(frozen=True, kw_only=True)
class CostTable:
    """Costs of one engine.

    Attributes:
        float_kernels: By operator type; "DepthwiseConv" for a Conv with one input channel in each group, "StemConv" for
            one of an image with fewer than 8 channels, "GateMul" for a Mul by one value for each channel,
            "ChannelSoftmax" for the Softmax over channels that a Conv reads.
        int8_kernels: Likewise; an operator that is missing in either costs the same in both.
        absorbed: Activations that become part of a float Conv before them: what each costs on its own, as it stands
            behind an int8 Conv (REGIONS only).
        quantize: A QuantizeLinear.
        dequantize: A DequantizeLinear, once for each float reader (onnxruntime gives each its own); with pairs on
            inputs, what it costs that an int8 kernel's result is wanted as floats.
        layout: A change between the layouts of float and int8 image kernels, where a float Conv borders on codes
            (REGIONS only).
        margin: By what factor a node must be slower in int8, with its conversions, before it is left in float.
        source: Where the numbers come from.
        rule: Identifier of the rule, as listed in the target's documentation.
    """

    float_kernels: Mapping[str, KernelCost]
    int8_kernels: Mapping[str, KernelCost]
    absorbed: Mapping[str, KernelCost] = field(default_factory=dict)
    quantize: KernelCost
    dequantize: KernelCost
    layout: KernelCost = KernelCost()
    margin: float
    source: str
    rule: str


def conv_work(output: Sequence[int], weight: Sequence[int], group: int) -> Work:
    """Work of a Conv.

    Args:
        output: Its shape, (N, M, ...).
        weight: Its shape, (M, C / group, ...).
        group: Number of groups.
    """
    positions = output[0] * math.prod(output[2:])
    taps = positions * math.prod(weight[2:])
    depthwise = group > 1 and weight[1] == 1
    gathered = group > 1 and not (depthwise and weight[0] == group)
    gathers = taps * group if gathered else 0
    short = group == 1 and weight[1] * weight[-1] < _LANES
    return Work(
        positions=positions,
        taps=taps,
        runs=positions * math.prod(weight[2:-1]) if short else 0,
        gathers=gathers,
        ragged=gathers if weight[1] % _BYTES else 0,
        groups=output[0] * group if gathered and (weight[1] % _LANES or weight[0] // group % _LANES) else 0,
        macs=positions * math.prod(weight),
        tails=(taps if depthwise else positions) * (output[1] % _LANES),
        weights=math.prod(weight),
        elements=positions * output[1],
    )


def matmul_work(data: Sequence[int], reduced: int, features: int) -> Work:
    """Work of a MatMul or Gemm by a (reduced, features) weight; `data` is the shape of its data."""
    rows = math.prod(data[:-1])
    return Work(
        positions=rows,
        macs=rows * reduced * features,
        tails=rows * (features % _LANES),
        weights=reduced * features,
        elements=rows * features,
    )
