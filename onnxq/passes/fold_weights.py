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

import numpy as np
from onnx import TensorProto

from onnxq.calibration.solve import QParamsTable, constant_values
from onnxq.graph.code_tensors import code_tensor
from onnxq.graph.view import Graph
from onnxq.graph.weights_file import WeightsFile
from onnxq.numerics.arrays import quantize
from onnxq.numerics.specs import QuantSpec
from onnxq.passes.base import Pass, PassLog, PassResult
from onnxq.passes.insert_qdq import add_params
from onnxq.planning.plan import QuantPlan, Role, TensorPlan


class FoldWeights(Pass):
    """See the module's docstring.

    Args:
        plan: What to fold.
        qparams: The parameters.
        weights: Takes the codes; None leaves them in the graph.
    """

    def __init__(self, plan: QuantPlan, qparams: QParamsTable, weights: WeightsFile | None = None) -> None:
        self._plan = plan
        self._qparams = qparams
        self._weights = weights

    def run(self, graph: Graph) -> PassResult:
        log = PassLog()
        for key, tensor in self._plan.tensors.items():
            if tensor.role in (Role.ACTIVATION, Role.TABLE):
                continue
            reads = [use for use in tensor.uses if graph.node(use.node).input[use.slot] == tensor.name]
            if reads:
                self._fold(graph, key, tensor)
                log.edit(f"{tensor.role.value} {tensor.name!r} to {tensor.spec.qtype.name}", *(u.node for u in reads))
        return log.result(graph)

    def _fold(self, graph: Graph, key: str, tensor: TensorPlan) -> None:
        name, params = tensor.name, self._qparams[key]
        values = constant_values(graph, name)
        if tensor.role is Role.BIAS:
            # A bias that is one number for all columns gets a code for each: their scales differ.
            values = np.broadcast_to(values.reshape(-1), params.scale.shape or (values.size,))
        codes = graph.unique_name(f"{name}_quantized")
        graph.add_initializer(codes, self._stored(code_tensor(quantize(values, params), params.spec.qtype, codes)))
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
        if not graph.uses(name) and not graph.is_output(name):
            graph.remove_initializer(name)

    def _stored(self, codes: TensorProto) -> TensorProto:
        if self._weights is not None:
            self._weights.move(codes, codes, None)
        return codes


def _attributes(spec: QuantSpec) -> dict[str, int]:
    """What a DequantizeLinear says of the slices that have a scale."""
    axis = {} if spec.axis is None else {"axis": spec.axis}
    return axis if spec.block_size is None else {**axis, "block_size": spec.block_size}
