"""Turns the float tables of the plan, from which a Gather takes rows, into int8 codes with a scale for each row.

    table -> Gather -> e          codes -> Gather -> DQ -+-> Mul -> e
                                  scales -> Gather ------+

The rows are dequantized, never the table: from a DequantizeLinear in front of the Gather onnxruntime computes the whole
table in each run, also where a pair stands behind the Gather.

Cases:
  1. One initializer of codes and one of scales serve all Gathers of the plan's tensor.
  2. What comes out keeps its name, so it may be an output of the graph.
  3. A float table that nobody else reads leaves the graph.
  4. The Gathers read codes already: nothing happens.
  5. With a file for weights, the codes go there as they are made.
  6. The table is the weight of another node too, and has the same codes there: they are in the file once.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxq.calibration.solve import constant_values
from onnxq.graph.code_tensors import code_tensor
from onnxq.graph.view import Graph, attribute
from onnxq.numerics.arrays import quantize
from onnxq.numerics.qtypes import QType
from onnxq.passes.quantize.folding import Fold
from onnxq.planning.plan import Role, TensorPlan


class FoldTables(Fold):
    """See the module's docstring. Runs after the pairs are inserted."""

    roles = frozenset({Role.TABLE})

    def fold(self, graph: Graph, key: str, tensor: TensorPlan, reads: Sequence[str]) -> None:
        """Let every Gather take codes and scales (1)."""
        name, params = tensor.name, self._qparams[key]
        values = constant_values(graph, name)
        codes = self._shared(graph, name, quantize(values, params), params.spec.qtype)
        rows = params.scale.astype(np.float32).reshape(-1, *[1] * (values.ndim - 1))
        scales = graph.add_initializer(graph.unique_name(f"{name}_scale"), rows)
        one = graph.add_initializer(graph.unique_name(f"{name}_one"), np.float32(1))
        zero = graph.unique_name(f"{name}_zero_point")
        zero_point = np.zeros((), params.spec.qtype.dtype)
        graph.add_initializer(zero, code_tensor(zero_point, params.spec.qtype, zero))
        for node in reads:
            _take_codes(graph, node, codes, scales, (one, zero))

    def _shared(self, graph: Graph, name: str, codes: NDArray[Any], qtype: QType) -> str:
        """The initializer with `codes`: that of a tied weight where it holds the same (6)."""
        stem = f"{name}_quantized"
        # What went to the file of weights is not read back.
        known = graph.initializers.get(stem) if self._weights is None else None
        alike = known is not None and known.data_type == qtype.onnx_type and tuple(known.dims) == codes.shape
        if alike and np.array_equal(np.asarray(graph.constant(stem)), codes):
            return stem
        own = graph.unique_name(stem)
        return graph.add_initializer(own, self.stored(code_tensor(codes, qtype, own)))


def _take_codes(graph: Graph, name: str, codes: str, scales: str, unit: tuple[str, str]) -> None:
    """Let Gather `name` take codes and scales, and their product be what it gave before."""
    node = graph.node(name)
    indices, output = node.input[1], node.output[0]
    taken, steps, rows = (graph.unique_name(f"{output}_{what}") for what in ("codes", "steps", "scale"))
    graph.set_input(node, 0, codes)
    graph.set_output(node, 0, taken)
    graph.add_node("DequantizeLinear", [taken, *unit], [steps], name=f"{name}_DequantizeLinear")
    # Scales have the rank of the table, so that the axis may count from the end.
    axis = int(attribute(node, "axis", 0))
    graph.add_node("Gather", [scales, indices], [rows], name=f"{name}_scales", attributes={"axis": axis})
    graph.add_node("Mul", [steps, rows], [output], name=f"{name}_scaled")
