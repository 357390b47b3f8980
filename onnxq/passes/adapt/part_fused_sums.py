"""An Add becomes a Sum of two operands where the engine would fuse it into a kernel slower than its parts.

    x + skip -> LayerNormalization        onnxruntime: SkipLayerNormalization
    x @ w + bias -> Gelu                  onnxruntime: BiasGelu
    DQ(x) @ DQ(w) + bias, rank 3          onnxruntime: Reshape, Gemm of a weight dequantized in every run, Reshape

The first two kernels of onnxruntime's CPU provider are not vectorized as those of the parts are. For 64 rows of 256
values, on one thread, the first takes 125 us, Add and LayerNormalization 33 us; for 128 of 768, 698 us and 129 us;
BiasGelu takes a quarter longer than Add and Gelu. The third is made where all sizes are known, before int8 kernels are
looked for; none takes codes with a float bias and no Q behind it. One token of a small GPT-2 takes 5.0 times as long as
in float so, and 0.42 as MatMulIntegerToFloat and Sum; with an int32 bias, and so a QGemm between two Reshapes, 0.46.
The fusions look for Add alone (core/optimizer/skip_layer_norm_fusion.cc, bias_gelu_fusion.cc, matmul_add_fusion.cc),
and a Sum computes the same at the same speed. https://onnx.ai/onnx/operators/onnx__Sum.html
"""

from __future__ import annotations

from math import prod

from onnx import NodeProto, TensorProto

from onnxq.graph.match import gelu_readers
from onnxq.graph.view import STANDARD_DOMAINS, Graph, attribute
from onnxq.passes.base import Pass, PassLog, PassResult

_PRODUCTS = frozenset({"MatMul", "MatMulNBits"})
_LEAST_RANK = 3
"""A product of two dimensions and its bias are one Gemm, which is worth more."""


class PartFusedSums(Pass):
    """See the module's docstring. Runs after the pairs are inserted, so that a Q counts as a reader.

    1. An Add of two activations, or of one and a constant that differs from row to row (positions), that a
       LayerNormalization reads, as one operator or as ReduceMean and Sub.
    2. The Add of a bias behind a product of rank 3 and more that a GELU with erf reads, and nothing else does.
    3. The Add of a constant behind a product of rank 3 and more whose operands both come from a DequantizeLinear. Where
       sizes are open as well: onnxruntime may know more of them, or be given them.
    4. Left alone: any other Add, one of a rank-2 product or of other types than float32 too, and that behind a product
       whose weight alone has codes, which MatMulNBits takes in.
    """

    def run(self, graph: Graph) -> PassResult:
        log = PassLog()
        for node in graph.nodes:
            if node.op_type != "Add" or node.domain not in STANDARD_DOMAINS:
                continue
            if graph.dtype(node.output[0]) in (TensorProto.FLOAT, None) and (
                _is_residual(graph, node) or _is_bias_of_gelu(graph, node) or _is_bias_of_codes(graph, node)
            ):
                node.op_type = "Sum"
                log.edit("Add written as Sum", node.name)
        return log.result(graph)


def _is_residual(graph: Graph, add: NodeProto) -> bool:  # case 1
    # A bias, one value for each column, has no part in the fusion; positions do.
    if any(graph.is_constant(tensor) and prod(graph.initializers[tensor].dims[:-1]) == 1 for tensor in add.input):
        return False
    readers = [graph.node(use.node) for use in graph.uses(add.output[0]) if use.slot == 0]
    kinds = {node.op_type for node in readers if node.domain in STANDARD_DOMAINS}
    return "LayerNormalization" in kinds or {"ReduceMean", "Sub"} <= kinds


def _is_bias_of_gelu(graph: Graph, add: NodeProto) -> bool:  # case 2
    if _biased_product(graph, add) is None:
        return False
    output = add.output[0]
    readers = graph.consumers(output)
    if [node.op_type for node in readers] == ["Gelu"]:
        return attribute(readers[0], "approximate", "none") == "none" and not graph.is_output(output)
    return bool(gelu_readers(graph, output))


def _is_bias_of_codes(graph: Graph, add: NodeProto) -> bool:  # case 3
    product = _biased_product(graph, add)
    operands = [] if product is None else [graph.producer(tensor) for tensor in product.input[:2]]
    return bool(operands) and all(node is not None and node.op_type == "DequantizeLinear" for node in operands)


def _biased_product(graph: Graph, add: NodeProto) -> NodeProto | None:
    """The product of rank 3 and more that `add` alone reads, and adds a constant to."""
    tensors = [tensor for tensor in add.input if not graph.is_constant(tensor)]
    if len(tensors) != 1 or (graph.rank(add.output[0]) or 0) < _LEAST_RANK:
        return None
    product = graph.producer(tensors[0])
    if product is None or product.op_type not in _PRODUCTS or graph.is_output(tensors[0]):
        return None
    if len(graph.uses(tensors[0])) > 1:
        return None
    return product
