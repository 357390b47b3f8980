"""Tables that a Gather takes rows of codes from become float: what `fold_tables` did, undone.

    codes -> Gather -> DQ -+-> Mul -> e              table -> Gather -> e
    scales -> Gather ------+

Cases:
  1. A DQ with one scale behind a Gather along axis 0 from codes in the file: the table becomes codes times scale, and
     readers of the DQ read the Gather.
  2. The Mul of both with scales that are gathered by the same indices: the scales are multiplied into the table too.
  3. Several Gathers from one table, dequantized alike: one float table.
  4. A Gather of codes that anything else reads, or whose scale is computed: left alone.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from onnx import NodeProto

from onnxq.graph.view import STANDARD_DOMAINS, Graph, attribute
from onnxq.passes.base import PassLog


class _Found(NamedTuple):
    """A table in codes: its readers, and what tells it from the same codes dequantized otherwise."""

    gather: NodeProto
    dequantize: NodeProto
    scaled: NodeProto | None
    key: tuple[str, bytes, bytes, str]
    scale: NDArray[Any]
    zero_point: NDArray[Any] | None


def float_tables(graph: Graph, log: PassLog) -> list[str]:
    """Make the tables of `graph` float; return the names of the initializers that were computed."""
    made: dict[tuple[str, bytes, bytes, str], str] = {}
    for node in [n for n in graph.nodes if n.op_type == "DequantizeLinear"]:
        found = _find(graph, node)
        if found is None:
            continue
        if found.key not in made:
            name = graph.unique_name(found.gather.input[0].removesuffix("_quantized"))
            made[found.key] = graph.add_initializer(name, _values(graph, found))
        last = node if found.scaled is None else found.scaled
        output = last.output[0]
        for gone in filter(None, (found.dequantize, found.scaled)):
            graph.remove_node(gone)
        graph.set_input(found.gather, 0, made[found.key])
        graph.forget_shape(found.gather.output[0])
        graph.set_output(found.gather, 0, output)
        log.edit(f"table {made[found.key]!r} dequantized", found.gather.name)
    return list(made.values())


def _find(graph: Graph, node: NodeProto) -> _Found | None:
    gather = graph.producer(node.input[0])
    if gather is None or not _takes_rows(graph, gather) or graph.is_output(node.input[0]):
        return None
    scale = graph.constant(node.input[1])
    zero_name = node.input[2] if len(node.input) > 2 else ""
    zero_point = graph.constant(zero_name) if zero_name else None
    if scale is None or scale.size != 1 or (zero_name and zero_point is None):
        return None
    if len(graph.uses(node.input[0])) != 1:
        return None
    scaled = _scaled(graph, node, gather)
    rows = "" if scaled is None else _rows(graph, scaled, node)
    zero = b"" if zero_point is None else zero_point.tobytes()
    return _Found(gather, node, scaled, (gather.input[0], scale.tobytes(), zero, rows), scale, zero_point)


def _takes_rows(graph: Graph, node: NodeProto) -> bool:
    if node.op_type != "Gather" or node.domain not in STANDARD_DOMAINS or not graph.is_constant(node.input[0]):
        return False
    return attribute(node, "axis", 0) in (0, -len(graph.initializers[node.input[0]].dims))


def _scaled(graph: Graph, node: NodeProto, gather: NodeProto) -> NodeProto | None:
    """The Mul behind `node` by scales that are gathered as the codes are (2)."""
    readers = graph.consumers(node.output[0])
    if len(readers) != 1 or readers[0].op_type != "Mul" or graph.is_output(node.output[0]):
        return None
    scales = [graph.producer(t) for t in readers[0].input if t != node.output[0]]
    if len(scales) != 1 or scales[0] is None or not _takes_rows(graph, scales[0]):
        return None
    codes, rows = (graph.initializers[n.input[0]].dims for n in (gather, scales[0]))
    fits = len(codes) == len(rows) and rows[0] == codes[0] and all(size == 1 for size in rows[1:])
    return readers[0] if fits and scales[0].input[1] == gather.input[1] else None


def _rows(graph: Graph, scaled: NodeProto, node: NodeProto) -> str:
    """The initializer of the scales that `scaled` multiplies by."""
    other = next(t for t in scaled.input if t != node.output[0])
    producer = graph.producer(other)
    return "" if producer is None else str(producer.input[0])


def _values(graph: Graph, found: _Found) -> NDArray[Any]:
    """The float table, computed in float32 as the nodes do, in the type of the scale."""
    codes = np.asarray(graph.constant(found.gather.input[0])).astype(np.int64)
    if found.zero_point is not None:
        codes -= found.zero_point.astype(np.int64).reshape(())
    values = codes.astype(np.float32) * found.scale.astype(np.float32).reshape(())
    rows = found.key[-1]
    if rows:
        values *= np.asarray(graph.constant(rows)).astype(np.float32)
    result: NDArray[Any] = values.astype(found.scale.dtype)
    return result
