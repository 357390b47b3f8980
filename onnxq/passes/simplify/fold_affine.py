"""Mul, Div, Add and Sub by a constant fold into the linear operator before them.

With a constant c that has one value for each output channel, or one for all, each of them is an affine map s * y + t:

    y * c: s = c      y / c: s = 1/c      y + c: t = c      y - c: t = -c      c - y: s = -1, t = c

which folds as `onnxq.passes.simplify.linear` says. So does the alpha and beta of a Gemm.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import NodeProto

from onnxq.graph.constants import operand
from onnxq.graph.view import STANDARD_DOMAINS, Graph, attribute
from onnxq.passes.base import Pass, PassLog, PassResult
from onnxq.passes.simplify.linear import (
    LINEAR_OPS,
    channel_axis,
    fold_affine_map,
    output_channels,
    replace_weight,
    sole_linear_producer,
    take_over_output,
)
from onnxq.wording.plural import counted

_OPS = ("Mul", "Div", "Add", "Sub")


class FoldAffine(Pass):
    """Fold arithmetic with a constant into the linear operator before it.

    1. Mul and Div by a constant of one element or one for each output channel.
    2. Add and Sub of such a constant, as bias, which is made where there is none; Sub from such a constant.
    3. Both behind a BatchNormalization that stands alone change its scale and bias.
    4. alpha and beta of a Gemm become 1; weights are scaled instead. A beta that scales nothing goes, and a bias of one
       value, which is added to all channels, gets one for each of them.
    5. A weight or bias that other nodes read is copied; they keep the old one.
    6. Left alone: the linear operator's output has another reader or is an output of the graph, or its weight or bias
       is not a constant.
    7. Left alone: the constant differs along another axis than the channels, or raises the rank or a size of the
       output.
    8. Left alone: a shift behind MatMul, which has no bias; a constant divided by the output.
    9. Left alone: folded weights that would not be finite (division by 0).
    """

    def run(self, graph: Graph) -> PassResult:
        log = PassLog()
        for node in graph.nodes:
            if node.domain not in STANDARD_DOMAINS:
                continue
            if node.op_type == "Gemm":
                _fold_gemm_factors(graph, node, log)
                _spread_gemm_bias(graph, node, log)
            elif node.op_type in _OPS and (reason := _fold(graph, node, log)) is not None:
                log.miss(reason, node.name)
        if log.edits:
            graph.prune()
        return log.result(graph)


def _fold(graph: Graph, node: NodeProto, log: PassLog) -> str | None:
    """Fold `node`, or give the reason; nothing is said of arithmetic far from any linear operator."""
    slot = next((i for i in (1, 0) if graph.is_constant(node.input[i])), None)
    producer = None if slot is None else graph.producer(node.input[1 - slot])
    if slot is None or producer is None or not _is_linear(producer) or graph.opset < 7:
        return None
    linear = sole_linear_producer(graph, node.input[1 - slot])
    if isinstance(linear, str):  # case 6
        return linear
    constant = _per_channel(graph, node.input[slot], linear)
    if isinstance(constant, str):  # case 7
        return constant
    mapped = _affine(node.op_type, constant, constant_first=slot == 0)
    if mapped is None:  # case 8
        return "a constant divided by the output is not linear in it"
    if (reason := fold_affine_map(graph, linear, *mapped)) is not None:  # cases 8, 9
        return reason
    take_over_output(graph, linear, node)
    log.edit(f"{node.op_type} folded into {linear.op_type}", node.name, linear.name)
    return None


def _is_linear(node: NodeProto) -> bool:
    return node.op_type in LINEAR_OPS and node.domain in STANDARD_DOMAINS


def _affine(op: str, c: NDArray[Any], *, constant_first: bool) -> tuple[NDArray[Any], NDArray[Any]] | None:
    one, zero = np.ones_like(c), np.zeros_like(c)
    if op == "Mul":
        return c, zero
    if op == "Add":
        return one, c
    if op == "Sub":
        return (-one, c) if constant_first else (one, -c)
    with np.errstate(divide="ignore"):  # what comes out not finite is refused where it is folded
        return None if constant_first else (one / c, zero)


def _per_channel(graph: Graph, tensor: str, linear: NodeProto) -> NDArray[Any] | str:
    """The constant as float64 (C,), or the reason why it is none."""
    channels, axis = output_channels(graph, linear), channel_axis(linear)
    if channels is None:
        return f"the weight of {linear.op_type} {linear.name!r} is a vector"
    dims = [int(d) for d in graph.initializers[tensor].dims]
    rank = _output_rank(graph, linear)
    if rank is None:
        return f"the rank of the output of {linear.op_type} {linear.name!r} is not known"
    if len(dims) > rank:
        return f"the constant has rank {len(dims)}, more than the output's {rank}"
    padded = [1] * (rank - len(dims)) + dims
    at_channels = padded.pop(axis) if padded else 1
    if any(d != 1 for d in padded):
        return f"the constant, of shape {tuple(dims)}, differs along other axes than the channels"
    if at_channels not in (1, channels):
        return f"the constant has {counted(at_channels, 'value')} for {counted(channels, 'channel')}"
    value = graph.constant(tensor)
    if value is None or value.dtype.kind != "f":
        return "the constant is not a float tensor"
    return np.broadcast_to(value.astype(np.float64).reshape(-1), (channels,))


def _output_rank(graph: Graph, linear: NodeProto) -> int | None:
    """Rank of the output; for a matrix product, whose channels come last, the lowest that it can have will do."""
    if linear.op_type == "BatchNormalization":
        return graph.rank(linear.output[0])
    weight_rank = len(graph.initializers[linear.input[1]].dims)
    if linear.op_type != "MatMul":
        return weight_rank
    rank = graph.rank(linear.output[0])
    # A vector on the left gives one axis less than the weight has.
    return weight_rank - 1 if rank is None else rank


def _fold_gemm_factors(graph: Graph, node: NodeProto, log: PassLog) -> None:
    for name, slot in (("alpha", 1), ("beta", 2)):  # case 4
        factor = float(attribute(node, name, 1.0))
        tensor = operand(node, slot)
        if factor == 1.0:
            continue
        if not tensor:
            graph.set_attributes(node, **{name: None})
            log.edit(f"{name} scales nothing", node.name)
            continue
        value = graph.constant(tensor)
        if value is None or value.dtype.kind != "f":
            log.miss(f"{name} is {factor:g}, and what it scales is not a constant", node.name)
            continue
        replace_weight(graph, node, slot, (value.astype(np.float64) * factor).astype(value.dtype))
        graph.set_attributes(node, **{name: None})
        log.edit(f"{name} folded into the weights", node.name)


def _spread_gemm_bias(graph: Graph, node: NodeProto, log: PassLog) -> None:
    value = graph.constant(operand(node, 2)) if operand(node, 2) else None
    channels = output_channels(graph, node) if graph.is_constant(node.input[1]) else None
    if value is None or value.size != 1 or channels in (None, 1):
        return
    replace_weight(graph, node, 2, np.full(channels, value.reshape(()), value.dtype))
    log.edit("its bias has a value for each channel", node.name)
