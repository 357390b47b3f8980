"""Tables that a Gather takes rows of codes from, as they stand in a quantized graph.

codes -> Gather -> DQ -+-> Mul -> e
scales -> Gather ------+
"""

from __future__ import annotations

from dataclasses import dataclass

from onnx import NodeProto

from onnxq.graph.view import STANDARD_DOMAINS, Graph


@dataclass(frozen=True, kw_only=True)
class TableRows:
    """The nodes that take rows of one table and dequantize them.

    Attributes:
        gather: Takes the codes.
        dequantize: Reads them.
        scales: Takes the scale of each row.
        product: Multiplies both.
    """

    gather: NodeProto
    dequantize: NodeProto
    scales: NodeProto
    product: NodeProto


def table_rows(graph: Graph, node: NodeProto) -> TableRows | None:
    """The rows of a table that `node` takes or dequantizes; None for a node that does neither."""
    if node.op_type == "Mul":
        return _of_product(graph, node)
    if node.op_type not in ("Gather", "DequantizeLinear") or not node.output:
        return None
    readers = graph.consumers(node.output[0])
    if len(readers) != 1:
        return None
    if readers[0].op_type == "DequantizeLinear" and node.op_type == "Gather":
        return table_rows(graph, readers[0])
    return _of_product(graph, readers[0])


def _of_product(graph: Graph, product: NodeProto) -> TableRows | None:
    if product.op_type != "Mul" or product.domain not in STANDARD_DOMAINS:
        return None
    writers = {n.op_type: n for t in product.input if (n := graph.producer(t)) is not None}
    scales, dequantize = writers.get("Gather"), writers.get("DequantizeLinear")
    if scales is None or dequantize is None:
        return None
    gather = graph.producer(dequantize.input[0])
    if gather is None or gather.op_type != "Gather" or gather.input[1] != scales.input[1]:
        return None
    if not (graph.is_constant(gather.input[0]) and graph.is_constant(scales.input[0])):
        return None
    return TableRows(gather=gather, dequantize=dequantize, scales=scales, product=product)
