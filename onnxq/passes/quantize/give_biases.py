"""Every node with weights gets a bias that is its own, so that recovery can correct it.

A bias of zeros changes nothing. A bias that several nodes share is copied for each: their corrections differ.
"""

from __future__ import annotations

import numpy as np
from onnx import NodeProto, helper

from onnxq.graph.match import Miss, biased_matmul
from onnxq.graph.view import STANDARD_DOMAINS, Graph, Use, attribute
from onnxq.passes.base import Pass, PassLog, PassResult

_BIAS_SLOT = 2


class GiveBiases(Pass):
    """See the module's docstring.

    1. A Conv, ConvTranspose or Gemm with a constant weight and no bias gets one of zeros.
    2. A constant bias that is read elsewhere too is copied for this node; so is the one that an Add puts on a MatMul.
    3. Left alone: a bias or weight that is computed, and a MatMul that no Add follows (an Add would cost time).
    """

    def run(self, graph: Graph) -> PassResult:
        log = PassLog()
        for node in graph.nodes:
            if node.domain not in STANDARD_DOMAINS or len(node.input) < 2 or not graph.is_constant(node.input[1]):
                continue
            if node.op_type in ("Conv", "ConvTranspose", "Gemm"):
                _give(graph, node, log)
            elif node.op_type == "MatMul":
                found = biased_matmul(graph, node)
                if not isinstance(found, Miss):
                    add = graph.node(found.nodes[-1])
                    _own(graph, Use(add.name, list(add.input).index(found.bindings["bias"])), log)
        return log.result(graph)


def _give(graph: Graph, node: NodeProto, log: PassLog) -> None:
    if len(node.input) > _BIAS_SLOT and node.input[_BIAS_SLOT]:
        if graph.is_constant(node.input[_BIAS_SLOT]):
            _own(graph, Use(node.name, _BIAS_SLOT), log)
        return
    weight = graph.initializers[node.input[1]]
    zeros = np.zeros(output_channels(node, tuple(weight.dims)), helper.tensor_dtype_to_np_dtype(weight.data_type))
    bias = graph.add_initializer(graph.unique_name(f"{node.output[0]}_bias"), zeros)
    graph.set_inputs(node, [*node.input[:_BIAS_SLOT], bias])
    log.edit("a bias of zeros", node.name)


def output_channels(node: NodeProto, dims: tuple[int, ...]) -> int:
    """Number of output channels of a node whose weight has the shape `dims`."""
    if node.op_type == "Conv":
        return dims[0]
    if node.op_type == "ConvTranspose":
        return dims[1] * int(attribute(node, "group", 1))
    return dims[0] if attribute(node, "transB", 0) else dims[1]


def _own(graph: Graph, use: Use, log: PassLog) -> None:
    node = graph.node(use.node)
    bias = node.input[use.slot]
    if len(graph.uses(bias)) > 1 or graph.is_output(bias):
        copy = graph.add_initializer(graph.unique_name(f"{bias}_{use.node}"), graph.initializers[bias])
        graph.set_input(node, use.slot, copy)
        log.edit("its own copy of a shared bias", use.node)
