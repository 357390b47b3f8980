"""Which nodes with weights can run in int8, and along which axis their weights have channels."""

from __future__ import annotations

import math
from dataclasses import dataclass

from onnx import NodeProto

from onnxq.graph.float_types import is_quantizable, type_name
from onnxq.graph.match import Miss, biased_matmul
from onnxq.graph.view import STANDARD_DOMAINS, Graph, Use, attribute
from onnxq.targets.forms import type_rule
from onnxq.targets.schema import ChannelAxis, ComputeRule, Engine, Target, TypeRule

_DEEP_GROUP = 32
"""Channels of a group from which on OpenVINO's kernels for AMX read a filter tap by tap, not row by row (V14)."""

DATA, WEIGHT, BIAS = 0, 1, 2
"""Input slots of Conv, ConvTranspose, MatMul and Gemm."""


@dataclass(frozen=True, kw_only=True)
class ComputeSite:
    """A node that runs in int8.

    Attributes:
        node: Node name.
        rule: The target's rule for it.
        data: Name of the data input.
        weight: Name of the weight initializer.
        axis: Channel axis of the weight; None for per-tensor.
        bias: Name of the constant bias, if it has one.
        bias_use: Where the bias is read: by the node itself, or by the Add behind a MatMul.
        output: Name of the output tensor, behind the bias.
    """

    node: str
    rule: ComputeRule
    data: str
    weight: str
    axis: int | None
    bias: str | None
    bias_use: Use | None
    output: str


@dataclass(frozen=True, kw_only=True)
class ProductSite:
    """A product of two activations that is quantized: attention.

    Attributes:
        node: Node name.
        rule: The target's rule for it.
        operands: Names of both inputs.
    """

    node: str
    rule: ComputeRule
    operands: tuple[str, str]


@dataclass(frozen=True)
class Refusal:
    """Why a node stays float: the reason in the user's words, and the rule."""

    reason: str
    rule: str


def compute_site(graph: Graph, node: NodeProto, target: Target) -> ComputeSite | ProductSite | Refusal | None:
    """What `target` makes of `node`: a site, a refusal, or None for an operator without weights."""
    rule = target.compute.get(node.op_type)
    if rule is None or node.domain not in STANDARD_DOMAINS:
        return None
    data, weight = node.input[DATA], node.input[WEIGHT]
    typed = type_rule(target, target.activation)
    if typed.products and node.op_type == "MatMul" and (product := _product(graph, node, rule, target)) is not None:
        return product
    refusal = (
        _operand_refusal(graph, node, rule, target)
        or _size_refusal(graph, node, rule, target)
        or _kernel_refusal(graph, node, typed, target)
        or _row_refusal(graph, node, rule, target)
    )
    if refusal is not None:
        return refusal
    bias, bias_use, output = _bias(graph, node, target)
    return ComputeSite(
        node=node.name,
        rule=rule,
        data=data,
        weight=weight,
        axis=_weight_axis(graph, node, rule),
        bias=bias,
        bias_use=bias_use,
        output=output,
    )


def _misread_by_openvino(graph: Graph, node: NodeProto, rank: int | None) -> str:
    """Why the product of `node` comes out wrong on codes (V17); empty where it does not."""
    if node.op_type == "MatMul" and rank == 1:
        return "what it gives for a vector gets an axis more"
    if node.op_type != "Gemm" or not attribute(node, "transB", 0):
        return ""
    readers = (graph.node(use.node) for use in graph.uses(node.input[WEIGHT]) if use.slot == WEIGHT)
    other = next((n for n in readers if n.op_type in ("MatMul", "Gemm") and not attribute(n, "transB", 0)), None)
    if other is None:
        return ""
    return f"its weight is read untransposed by {other.op_type} {other.name!r}, and the codes are taken for those"


def _bias(graph: Graph, node: NodeProto, target: Target) -> tuple[str | None, Use | None, str]:
    """The constant bias of `node`, where it is read, and the tensor behind it."""
    output = node.output[0]
    if node.op_type != "MatMul":
        bias = node.input[BIAS] if len(node.input) > BIAS and node.input[BIAS] else None
        return bias, None if bias is None else Use(node.name, BIAS), output
    if target.everywhere:
        return None, None, output  # an Add is an operator of its own there
    found = biased_matmul(graph, node)
    if isinstance(found, Miss):
        return None, None, output
    add = graph.node(found.nodes[-1])
    bias = found.bindings["bias"]
    return bias, Use(add.name, list(add.input).index(bias)), add.output[0]


def _operand_refusal(graph: Graph, node: NodeProto, rule: ComputeRule, target: Target) -> Refusal | None:
    half_types = target.half_types
    data, weight = node.input[DATA], node.input[WEIGHT]
    if graph.is_constant(data):
        return Refusal("its data input is a constant and its weight is not the second input", rule.rules)
    if not graph.is_constant(weight):
        asked = target.full_products and node.op_type == "MatMul"
        way = f"{target.codes} on request, placement='full' (--placement full)" if asked else "such products stay float"
        return Refusal(f"both inputs are activations; {way}", "R28")
    for tensor in (data, weight):
        if not is_quantizable(graph, tensor, half_types=half_types):
            found = graph.dtype(tensor)
            kind = "of unknown type" if found is None else type_name(found)
            return Refusal(f"its input {tensor!r} is {kind}", rule.rules)
    rank = graph.rank(data)
    if rule.ranks and rank is not None and rank not in rule.ranks:
        return Refusal(f"its input has rank {rank}; the {target.codes} kernel takes {rule.ranks}", rule.rules)
    if not rule.grouped and attribute(node, "group", 1) != 1:
        return Refusal(f"{node.op_type} with groups has no {target.codes} kernel", rule.rules)
    if 0 in (graph.shape(weight) or ()):
        return Refusal("its weight is empty", rule.rules)
    if node.op_type == "MatMul" and (graph.rank(weight) or 0) < 2:
        return Refusal("its weight is a vector", rule.rules)
    if node.op_type == "MatMul" and rank == 1 and (graph.rank(weight) or 0) > 2:
        # OpenVINO reshapes it to a product that it computes in float.
        return Refusal("it multiplies a vector with several matrices", rule.rules)
    if target.engine is Engine.OPENVINO and (reason := _misread_by_openvino(graph, node, rank)):
        return Refusal(f"{target.title} computes it wrongly: {reason}", "V17")
    if node.op_type == "Gemm":
        return _gemm_refusal(graph, node, rule)
    bias = node.input[BIAS] if len(node.input) > BIAS else ""
    if bias and not graph.is_constant(bias):
        return Refusal(f"its bias {bias!r} is computed", rule.rules)
    return None


def _product(graph: Graph, node: NodeProto, rule: ComputeRule, target: Target) -> ProductSite | Refusal | None:
    """What becomes of a product of two activations; None where an operand is constant."""
    left, right = node.input[DATA], node.input[WEIGHT]
    if graph.is_constant(left) or graph.is_constant(right):
        return None
    for tensor in (left, right):
        if not is_quantizable(graph, tensor, half_types=target.half_types):
            return Refusal(f"its input {tensor!r} is not float", rule.rules)
        sizes = [d for d in (graph.shape(tensor) or ())[-2:] if isinstance(d, int)]
        # A vector times a matrix, or a product of few terms.
        if sizes and min(sizes) < rule.min_features:
            return Refusal(f"its input {tensor!r} has a size of {min(sizes)}, too small to pay", "R29")
    return ProductSite(node=node.name, rule=rule, operands=(left, right))


def _kernel_refusal(graph: Graph, node: NodeProto, typed: TypeRule, target: Target) -> Refusal | None:
    """What the kernels of a type do not cover, of the convolutions that those of the target's own type do."""
    if node.op_type not in ("Conv", "ConvTranspose"):
        return None
    if not typed.grouped and attribute(node, "group", 1) != 1:
        return Refusal(
            f"{target.title} has no fast {target.codes} kernels for convolutions with groups (depthwise ones too)",
            typed.rules,
        )
    taps = math.prod(int(d) for d in graph.initializers[node.input[WEIGHT]].dims[2:])
    if typed.max_taps and taps > typed.max_taps:
        return Refusal(f"its filter has {taps} taps; the engine has kernels for {typed.max_taps} at most", typed.rules)
    return None


def _row_refusal(graph: Graph, node: NodeProto, rule: ComputeRule, target: Target) -> Refusal | None:
    """What kernels compute wrongly that put all taps of a filter's row and all channels of a group in one."""
    if not rule.longest_row:
        return None
    dims = [int(d) for d in graph.initializers[node.input[WEIGHT]].dims]
    channels, row = dims[1], dims[1] * dims[-1]
    alone = attribute(node, "group", 1) == 1
    if not 1 < channels < _DEEP_GROUP or row <= rule.longest_row or (alone and row % rule.longest_row):
        return None
    return Refusal(
        f"{target.title} computes it wrongly on CPUs with AMX: a row of its filter holds {row} codes of {channels} "
        "channels",
        _known_rule(target, "V14", rule),
    )


def _gemm_refusal(graph: Graph, node: NodeProto, rule: ComputeRule) -> Refusal | None:
    if attribute(node, "transA", 0):
        return Refusal("transA is set", rule.rules)
    if attribute(node, "alpha", 1.0) != 1.0 or attribute(node, "beta", 1.0) != 1.0:
        return Refusal("alpha and beta must be 1", rule.rules)
    bias = node.input[BIAS] if len(node.input) > BIAS else ""
    if not bias:
        return None
    if not graph.is_constant(bias):
        return Refusal(f"its bias {bias!r} is computed", rule.rules)
    shape = graph.shape(node.input[WEIGHT]) or ()
    features = shape[0] if attribute(node, "transB", 0) else shape[1]
    bias_shape = graph.shape(bias) or ()
    if bias_shape not in ((features,), (1, features)):
        return Refusal(f"its bias has shape {bias_shape}, expected ({features},)", rule.rules)
    return None


def _size_refusal(graph: Graph, node: NodeProto, rule: ComputeRule, target: Target) -> Refusal | None:
    shape, codes = tuple(int(d) for d in graph.initializers[node.input[WEIGHT]].dims), target.codes
    if rule.min_channels:
        # (out, in / group, ...) for Conv and (in, out / group, ...) for ConvTranspose: the same product either way.
        channels = (shape[0], shape[1] * int(attribute(node, "group", 1)))
        if min(channels) < rule.min_channels:
            inputs, outputs = channels if rule.axis is ChannelAxis.SECOND else channels[::-1]
            return Refusal(
                f"{inputs} input and {outputs} output channels; fewer than {rule.min_channels} do not pay in {codes}",
                _known_rule(target, "R30", rule),
            )
    if rule.min_features:
        features = shape[-2:]
        if min(features) < rule.min_features:
            return Refusal(
                f"a {features[0]} x {features[1]} weight is too small to pay in {codes} (at least {rule.min_features})",
                _known_rule(target, "R29", rule),
            )
    return None


def _known_rule(target: Target, name: str, rule: ComputeRule) -> str:
    """`name` where the table has it; in a table of a user's own that does not, what its operator says."""
    return name if name in target.sources else rule.rules


def _weight_axis(graph: Graph, node: NodeProto, rule: ComputeRule) -> int | None:
    rank = len(graph.initializers[node.input[WEIGHT]].dims)
    if rule.per_channel_rank is not None and rank >= rule.per_channel_rank:
        return None
    if rule.axis is ChannelAxis.GEMM:
        return 0 if attribute(node, "transB", 0) else 1
    return {ChannelAxis.FIRST: 0, ChannelAxis.SECOND: 1, ChannelAxis.LAST: rank - 1}[rule.axis]


def reduced_axis(graph: Graph, node: NodeProto) -> int:
    """The axis of the weight of `node` along which products are summed, which is the one that blocks divide."""
    if node.op_type in ("Conv", "ConvTranspose"):
        return 1 if node.op_type == "Conv" else 0
    if node.op_type == "Gemm":
        return 1 if attribute(node, "transB", 0) else 0
    return max(len(graph.initializers[node.input[WEIGHT]].dims) - 2, 0)
