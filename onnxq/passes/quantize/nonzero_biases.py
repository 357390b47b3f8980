"""A quantized Conv that several nodes read gets a bias that is not zero, for OpenVINO (V9).

    x -> DQ -> Conv(W int8) -+-> GlobalAveragePool          Conv(W int8, b = 1.2e-38)
                             +-> Mul

OpenVINO (2026.4) takes the scale of such a Conv through a Relu, pool, Transpose or reduction to what follows, and
leaves it in the Conv as well, when sizes are open: values are too small by the scale, and nothing says so. An Add of
a bias behind the Conv stops the scale; a bias of zeros is optimised away. The smallest normal float32 is lost in any
other value that it is added to.
"""

from __future__ import annotations

import numpy as np
from onnx import NodeProto, TensorProto

from onnxq.graph.view import STANDARD_DOMAINS, Graph
from onnxq.passes.base import Pass, PassLog, PassResult
from onnxq.passes.quantize.give_biases import output_channels

_BIAS_SLOT = 2
_OPERATORS = ("Conv", "ConvTranspose")


class NonzeroBiases(Pass):
    """See the module's docstring. Runs after the weights are folded.

    1. A Conv or ConvTranspose whose weight comes out of a DQ, with several readers and no bias, gets one.
    2. A constant float32 bias of zeros alone is replaced.
    3. Left alone: other biases, and other types than float32.
    """

    def run(self, graph: Graph) -> PassResult:
        log = PassLog()
        for node in graph.nodes:
            if node.domain not in STANDARD_DOMAINS or node.op_type not in _OPERATORS:
                continue
            readers = len(graph.uses(node.output[0])) + graph.is_output(node.output[0])
            if readers > 1 and (channels := _channels_without_bias(graph, node)):
                tiny = np.full(channels, np.finfo(np.float32).tiny, np.float32)
                bias = graph.add_initializer(graph.unique_name(f"{node.output[0]}_bias"), tiny)
                zeros = node.input[_BIAS_SLOT] if len(node.input) > _BIAS_SLOT else ""
                graph.set_inputs(node, [*node.input[:_BIAS_SLOT], bias])
                if zeros and not graph.uses(zeros) and not graph.is_output(zeros):
                    graph.remove_initializer(zeros)
                log.edit("a bias that is not zero", node.name)
        return log.result(graph)


def _channels_without_bias(graph: Graph, node: NodeProto) -> int:
    """How many output channels `node` has; 0 where its weight is not quantized or it has a bias."""
    weight = graph.producer(node.input[1])
    if weight is None or weight.op_type != "DequantizeLinear" or graph.dtype(weight.input[1]) != TensorProto.FLOAT:
        return 0
    bias = node.input[_BIAS_SLOT] if len(node.input) > _BIAS_SLOT else ""
    if bias and ((value := graph.constant(bias)) is None or value.any()):
        return 0
    codes = graph.initializers.get(weight.input[0])
    return 0 if codes is None else output_channels(node, tuple(codes.dims))
