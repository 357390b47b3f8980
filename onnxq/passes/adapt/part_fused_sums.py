"""An Add becomes a Sum of two operands where the engine would fuse it into a kernel slower than its parts.

    x + skip -> LayerNormalization        onnxruntime: SkipLayerNormalization
    x @ w + bias -> Gelu                  onnxruntime: BiasGelu

Neither kernel of onnxruntime's CPU provider is vectorized as those of the parts are. For 64 rows of 256 values, on one
thread, the first takes 125 us, Add and LayerNormalization 33 us; for 128 of 768, 698 us and 129 us; BiasGelu takes a
quarter longer than Add and Gelu. Its fusions look for Add alone (core/optimizer/skip_layer_norm_fusion.cc,
bias_gelu_fusion.cc), and a Sum computes the same at the same speed. https://onnx.ai/onnx/operators/onnx__Sum.html
"""

from __future__ import annotations

from onnx import NodeProto, TensorProto

from onnxq.graph.match import gelu_readers
from onnxq.graph.view import STANDARD_DOMAINS, Graph, attribute
from onnxq.passes.base import Pass, PassLog, PassResult

_PRODUCTS = frozenset({"MatMul", "MatMulNBits"})
_LEAST_RANK = 3
"""A product of two dimensions and its bias are one Gemm, which is worth more."""


class PartFusedSums(Pass):
    """See the module's docstring. Runs after the pairs are inserted, so that a Q counts as a reader.

    1. An Add of two activations that a LayerNormalization reads, as one operator or as ReduceMean and Sub.
    2. The Add of a bias behind a product of rank 3 and more that a GELU with erf reads, and nothing else does.
    3. Left alone: any other Add, one of a rank-2 product or of other types than float32 too.
    """

    def run(self, graph: Graph) -> PassResult:
        log = PassLog()
        for node in graph.nodes:
            if node.op_type != "Add" or node.domain not in STANDARD_DOMAINS:
                continue
            if graph.dtype(node.output[0]) in (TensorProto.FLOAT, None) and (
                _is_residual(graph, node) or _is_bias_of_gelu(graph, node)
            ):
                node.op_type = "Sum"
                log.edit("Add written as Sum", node.name)
        return log.result(graph)


def _is_residual(graph: Graph, add: NodeProto) -> bool:  # case 1
    if any(graph.is_constant(tensor) for tensor in add.input):
        return False
    readers = [graph.node(use.node) for use in graph.uses(add.output[0]) if use.slot == 0]
    kinds = {node.op_type for node in readers if node.domain in STANDARD_DOMAINS}
    return "LayerNormalization" in kinds or {"ReduceMean", "Sub"} <= kinds


def _is_bias_of_gelu(graph: Graph, add: NodeProto) -> bool:  # case 2
    tensors = [tensor for tensor in add.input if not graph.is_constant(tensor)]
    if len(tensors) != 1 or (graph.rank(add.output[0]) or 0) < _LEAST_RANK:
        return False
    product = graph.producer(tensors[0])
    if product is None or product.op_type not in _PRODUCTS or len(graph.uses(tensors[0])) > 1:
        return False
    output = add.output[0]
    readers = graph.consumers(output)
    if [node.op_type for node in readers] == ["Gelu"]:
        return attribute(readers[0], "approximate", "none") == "none" and not graph.is_output(output)
    return bool(gelu_readers(graph, output))
