"""The places that recovery works on: nodes with a rounded weight, and the biases that belong to them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from onnx import NodeProto

from onnxq.calibration.solve import QParamsTable
from onnxq.graph.match import Miss, biased_matmul
from onnxq.graph.view import Graph, Use
from onnxq.numerics.arrays import fake_quantize
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
        codes: Key of the plan whose codes that bias has, where its Add is an operator of its own; None where a bias has
            32 bits or stays float.
    """

    node: str
    last: str
    weight: str
    bias: str | None
    codes: str | None = None

    def stored(self, bias: NDArray[np.floating], qparams: QParamsTable) -> NDArray[np.floating]:
        """What is left of values of the bias once the model stores them."""
        params = None if self.codes is None else qparams.get(self.codes)
        return bias if params is None else fake_quantize(bias, params)


def sites_of(graph: Graph, plan: QuantPlan) -> list[Site]:
    """Every node with a rounded weight, in the order of the plan."""
    coded = {use: key for key, tensor in plan.tensors.items() if tensor.role is Role.CONSTANT for use in tensor.uses}
    return [
        _site(graph, graph.node(use.node), tensor.name, coded)
        for tensor in plan.tensors.values()
        if tensor.role is Role.WEIGHT
        for use in tensor.uses
    ]


def weight_bytes(graph: Graph, plan: QuantPlan) -> int:
    """Size in float of the weights that will be rounded."""
    weights = {tensor.name for tensor in plan.tensors.values() if tensor.role is Role.WEIGHT}
    return sum(4 * math.prod(int(d) for d in graph.initializers[name].dims) for name in weights)


def _site(graph: Graph, node: NodeProto, weight: str, coded: Mapping[Use, str]) -> Site:
    last, bias = node, node.input[2] if len(node.input) > 2 else ""
    if node.op_type == "MatMul":
        found = biased_matmul(graph, node)
        if not isinstance(found, Miss):
            last, bias = graph.node(found.nodes[-1]), found.bindings["bias"]
    own = bool(bias) and graph.is_constant(bias) and len(graph.uses(bias)) == 1
    codes = coded.get(graph.uses(bias)[0]) if own else None
    return Site(node=node.name, last=last.name, weight=weight, bias=bias if own else None, codes=codes)
