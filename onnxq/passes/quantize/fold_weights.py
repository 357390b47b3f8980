"""Turns the float weights, biases and constants of the plan into integer initializers behind a DequantizeLinear.

Cases:
  1. A weight or constant becomes codes of its type, with `block_size` where scales belong to blocks; one initializer
     and one DequantizeLinear serve all its readers.
  2. A bias becomes int32 codes of rank 1 with the scale derived from its node's data and weight.
  3. The axis is always written with a vector of scales: TensorRT's parser and ONNX have different defaults (R7).
  4. A float copy that somebody else still reads stays; one that nobody reads leaves the graph.
  5. The reads are folded already: nothing happens.
  6. With a file for weights, codes go there as they are made, so that those of a large model are never in memory.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from onnxq.calibration.solve import constant_values
from onnxq.graph.code_tensors import code_tensor
from onnxq.graph.view import Graph
from onnxq.numerics.arrays import quantize
from onnxq.numerics.specs import QuantSpec
from onnxq.passes.quantize.folding import Fold
from onnxq.passes.quantize.insert_qdq import add_params
from onnxq.planning.plan import Role, TensorPlan


class FoldWeights(Fold):
    """See the module's docstring."""

    roles = frozenset(Role) - {Role.ACTIVATION, Role.TABLE}

    def fold(self, graph: Graph, key: str, tensor: TensorPlan, reads: Sequence[str]) -> None:
        """Put one DequantizeLinear behind the codes, for all readers (1)."""
        name, params = tensor.name, self._qparams[key]
        values = constant_values(graph, name, role=tensor.role)
        if tensor.role is Role.BIAS:
            # A bias that is one number for all columns gets a code for each: their scales differ.
            values = np.broadcast_to(values.reshape(-1), params.scale.shape or (values.size,))
        codes = graph.unique_name(f"{name}_quantized")
        graph.add_initializer(codes, self.stored(code_tensor(quantize(values, params), params.spec.qtype, codes)))
        scale, zero_point = add_params(graph, name, self._qparams, key)
        result = graph.unique_name(f"{name}_dequantized")
        graph.add_node(
            "DequantizeLinear",
            [codes, scale, zero_point],
            [result],
            name=f"{name}_DequantizeLinear",
            attributes=_attributes(params.spec),
        )
        graph.replace_uses(name, result, tensor.uses)


def _attributes(spec: QuantSpec) -> dict[str, int]:
    """What a DequantizeLinear says of the slices that have a scale."""
    axis = {} if spec.axis is None else {"axis": spec.axis}
    return axis if spec.block_size is None else {**axis, "block_size": spec.block_size}
