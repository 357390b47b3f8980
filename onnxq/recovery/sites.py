"""The places that recovery works on: nodes with a rounded weight, and the biases that belong to them."""

from __future__ import annotations

import math
from dataclasses import dataclass

from onnx import NodeProto

from onnxq.graph.match import Miss, biased_matmul
from onnxq.graph.view import Graph
from onnxq.planning.plan import QuantPlan, Role

MOST_WEIGHTS_BYTES = 2**28
"""Models with more weights to quantize than this (256 MiB in float) get corrected biases alone: copies take room."""


@dataclass(frozen=True, kw_only=True)
class Site:
    """A node whose weight is rounded.

    Attributes:
        node: Its name.
        last: The node that computes its output, bias included: the Add behind a MatMul, else the node itself.
        weight: Name of the weight.
        bias: Name of the constant bias that nobody else reads; None where there is none.
    """

    node: str
    last: str
    weight: str
    bias: str | None


def sites_of(graph: Graph, plan: QuantPlan) -> list[Site]:
    """Every node with a rounded weight, in the order of the plan."""
    settled = {tensor.name for tensor in plan.tensors.values() if tensor.role is Role.CONSTANT}
    return [
        _site(graph, graph.node(use.node), tensor.name, settled)
        for tensor in plan.tensors.values()
        if tensor.role is Role.WEIGHT
        for use in tensor.uses
    ]


def weight_bytes(graph: Graph, plan: QuantPlan) -> int:
    """Size in float of the weights that will be rounded."""
    weights = {tensor.name for tensor in plan.tensors.values() if tensor.role is Role.WEIGHT}
    return sum(4 * math.prod(int(d) for d in graph.initializers[name].dims) for name in weights)


def _site(graph: Graph, node: NodeProto, weight: str, settled: set[str]) -> Site:
    last, bias = node.name, node.input[2] if len(node.input) > 2 else ""
    if node.op_type == "MatMul":
        found = biased_matmul(graph, node)
        # An Add whose constant has codes like an activation's is an operator of its own.
        if not isinstance(found, Miss) and found.bindings["bias"] not in settled:
            last, bias = found.nodes[-1], found.bindings["bias"]
    own = bool(bias) and graph.is_constant(bias) and len(graph.uses(bias)) == 1
    return Site(node=node.name, last=last, weight=weight, bias=bias if own else None)
