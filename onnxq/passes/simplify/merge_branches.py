"""The sum of two Convs of one tensor is one Conv, as is the sum of a Conv and an affine map of what it reads.

    Add(Conv(x; W, b), Conv(x; V, c))               ->  Conv(x; W + V', b + c)
    Add(Conv(x; W, b), BatchNormalization(x))       ->  Conv(x; W + diag(s), b + t), where that computes s * x + t
    BatchNormalization(Add(Conv(x; W, b), x))       ->  BatchNormalization(Conv(x; W + diag(1), b))

V' is V with zeros around it, as wide as W. Tap i of a filter reads x at stride * position + dilation * i - pad, so a
filter with begin pads p stands (P - p) / dilation taps into one with begin pads P. Networks such as RepVGG, MobileOne,
FastViT and RepViT are trained with such branches and often exported with them; as one Conv they take a fraction of the
time, and int8 rounds their sum once (X. Ding et al., arXiv:2101.03697, section 3.3). Operator:
https://onnx.ai/onnx/operators/onnx__Conv.html
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import NodeProto

from onnxq.graph.constants import operand
from onnxq.graph.view import STANDARD_DOMAINS, Graph, attribute
from onnxq.passes.base import Pass, PassLog, PassResult, rewrite_each
from onnxq.passes.simplify.fold_batchnorm import constant_affine
from onnxq.passes.simplify.linear import replace_weight, sole_linear_producer

_FIRST_SPATIAL = 2


class MergeBranches(Pass):
    """Merge the branches of an Add into one Conv. Runs after what folds a BatchNormalization into the node before it.

    1. Two Convs with the same groups, strides and dilations, of which one filter lies within the other; along an axis
       on which it has one tap the inner filter may have any dilation.
    2. A Conv and a BatchNormalization of what the Conv reads, for as many channels as it writes.
    3. Likewise the tensor itself, where a BatchNormalization alone reads the sum, which then folds.
    4. Left alone: branches of different tensors; a branch that has another reader or is an output of the graph.
    5. Left alone: filters of which none lies within the other, or whose groups, strides or dilations differ.
    6. Left alone: auto_pad SAME; weights that are not constant, of different types, or not finite once added.
    """

    def run(self, graph: Graph) -> PassResult:
        return rewrite_each(graph, "Add", _merge)


@dataclass(frozen=True, kw_only=True)
class _Branch:
    """A Conv as numbers: weight (M, C / group, k...), bias (M,), both float64, and how the filter steps."""

    weight: NDArray[Any]
    bias: NDArray[Any]
    group: int
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    pads: tuple[int, ...]


def _merge(graph: Graph, node: NodeProto, log: PassLog) -> str | None:
    convs = [_conv_before(graph, tensor) for tensor in node.input]
    first = next((conv for conv in convs if conv is not None), None)
    if first is None or not all(_reads(graph, tensor, first.input[0]) for tensor in node.input):
        return None  # case 4: an Add like most
    branches = [_branch(graph, tensor, first, node) for tensor in node.input]
    if (reason := next((b for b in branches if isinstance(b, str)), None)) is not None:
        return reason
    one, other = (b for b in branches if isinstance(b, _Branch))
    for conv, outer, inner in ((convs[0], one, other), (convs[1], other, one)):
        merged = None if conv is None else _sum(outer, inner)
        if conv is not None and merged is not None:
            return _rewrite(graph, node, conv, merged, log)
    return "neither filter lies within the other, or they step differently"  # case 5


def _conv_before(graph: Graph, tensor: str) -> NodeProto | None:
    producer = graph.producer(tensor)
    is_conv = producer is not None and producer.op_type == "Conv" and producer.domain in STANDARD_DOMAINS
    return producer if is_conv else None


def _reads(graph: Graph, tensor: str, data: str) -> bool:
    """Whether `tensor` is `data`, or a Conv or BatchNormalization of it."""
    producer = graph.producer(tensor)
    return tensor == data or (
        producer is not None
        and producer.op_type in ("Conv", "BatchNormalization")
        and producer.domain in STANDARD_DOMAINS
        and producer.input[0] == data
    )


def _branch(graph: Graph, tensor: str, conv: NodeProto, add: NodeProto) -> _Branch | str:
    """What `tensor` is of the input of `conv`, beside which it stands in `add`, or the reason why it stays."""
    if tensor == conv.input[0]:
        readers = graph.consumers(add.output[0])
        if graph.is_output(add.output[0]) or [n.op_type for n in readers] != ["BatchNormalization"]:
            return "the tensor itself is added, and no BatchNormalization reads the sum alone"  # case 3
        return _diagonal(graph, conv, np.ones(1), np.zeros(1))
    node = sole_linear_producer(graph, tensor, ("Conv", "BatchNormalization"))
    if isinstance(node, str):  # cases 4, 6
        return node
    if node.op_type == "BatchNormalization":
        affine = constant_affine(graph, node)
        return affine if isinstance(affine, str) else _diagonal(graph, conv, *affine)
    return _conv_branch(graph, node)


def _conv_branch(graph: Graph, node: NodeProto) -> _Branch | str:
    weight, bias = graph.constant(node.input[1]), graph.constant(operand(node, 2))
    if weight is None or weight.ndim <= _FIRST_SPATIAL:
        return f"the weight of Conv {node.name!r} is not a constant"
    if attribute(node, "auto_pad", "NOTSET") not in ("NOTSET", "VALID"):
        return f"auto_pad of Conv {node.name!r} depends on the size of its input"
    axes = weight.ndim - _FIRST_SPATIAL
    return _Branch(
        weight=weight.astype(np.float64),
        bias=np.zeros(weight.shape[0]) if bias is None else bias.astype(np.float64),
        group=int(attribute(node, "group", 1)),
        strides=tuple(attribute(node, "strides") or (1,) * axes),
        dilations=tuple(attribute(node, "dilations") or (1,) * axes),
        pads=tuple(attribute(node, "pads") or (0,) * (2 * axes)),
    )


def _diagonal(graph: Graph, conv: NodeProto, scale: NDArray[Any], shift: NDArray[Any]) -> _Branch | str:
    """scale * x + shift as a Conv of one tap with the groups of `conv`."""
    like = _conv_branch(graph, conv)
    if isinstance(like, str):
        return like
    outputs, inputs = like.weight.shape[:2]
    if outputs != inputs * like.group or scale.size not in (1, outputs):
        return f"Conv {conv.name!r} has not as many output as input channels"
    axes = like.weight.ndim - _FIRST_SPATIAL
    weight = np.zeros((outputs, inputs, *[1] * axes))
    channels = np.arange(outputs)
    weight[channels, channels % inputs] = np.broadcast_to(scale, outputs).reshape(outputs, *[1] * axes)
    return _Branch(
        weight=weight,
        bias=np.broadcast_to(shift, outputs),
        group=like.group,
        strides=(1,) * axes,
        dilations=(1,) * axes,
        pads=(0,) * (2 * axes),
    )


def _sum(outer: _Branch, inner: _Branch) -> _Branch | None:
    """Both as one filter, as wide as `outer`; None where `inner` does not lie within it (5)."""
    if (outer.group, outer.strides) != (inner.group, inner.strides):
        return None
    if outer.weight.shape[:_FIRST_SPATIAL] != inner.weight.shape[:_FIRST_SPATIAL]:
        return None
    margins = []
    axes = len(outer.strides)
    for axis, (wide, narrow) in enumerate(zip(outer.weight.shape[2:], inner.weight.shape[2:], strict=True)):
        step = outer.dilations[axis]
        before, after = (outer.pads[i] - inner.pads[i] for i in (axis, axis + axes))
        if before % step or after % step or min(before, after) < 0:
            return None
        if narrow > 1 and inner.dilations[axis] != step:
            return None
        if before // step + narrow + after // step != wide:
            return None
        margins.append((before // step, after // step))
    weight = outer.weight + np.pad(inner.weight, [(0, 0), (0, 0), *margins])
    return replace(outer, weight=weight, bias=outer.bias + inner.bias)


def _rewrite(graph: Graph, add: NodeProto, conv: NodeProto, merged: _Branch, log: PassLog) -> str | None:
    """Let `conv` compute what `add` did."""
    kind = graph.initializers[conv.input[1]].data_type
    if any(graph.dtype(tensor) not in (kind, None) for tensor in add.input):
        return "the branches have different types"
    old = graph.constant(conv.input[1])
    dtype = merged.weight.dtype if old is None else old.dtype
    with np.errstate(over="ignore"):
        weight, bias = merged.weight.astype(dtype), merged.bias.astype(dtype)
    if not np.isfinite(weight).all() or not np.isfinite(bias).all():  # case 6
        return "the merged weights would not be finite"
    replace_weight(graph, conv, 1, weight)
    if bias.any() or operand(conv, 2):
        replace_weight(graph, conv, 2, bias)
    freed, output = conv.output[0], add.output[0]
    graph.remove_node(add)
    graph.set_output(conv, 0, output)
    graph.forget_shape(freed)
    log.edit("a sum of branches is one Conv", add.name, conv.name)
    return None
