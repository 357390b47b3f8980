"""Puts a QuantizeLinear/DequantizeLinear pair behind every activation of the plan.

Cases:
  1. Reads listed in the plan get the dequantized tensor; every other read keeps the float one.
  2. A tensor that is also a graph output, and whose output the plan covers: the output is the dequantized tensor, under
     its own name.
  3. The pair is there already: nothing happens.
  4. Codes of fewer bits than their type has (or without the smallest one): a Clip in front, for QuantizeLinear
     saturates at the ends of the type alone. Not where the smallest code alone is left out and nothing is negative.
"""

from __future__ import annotations

import numpy as np
from onnx import TensorProto

from onnxq.calibration.solve import QParamsTable
from onnxq.errors import InternalError
from onnxq.graph.code_tensors import code_tensor
from onnxq.graph.float_types import HALF_TYPES, float_tensor
from onnxq.graph.view import CAPTURED, Graph, Use
from onnxq.passes.base import Pass, PassLog, PassResult
from onnxq.planning.bounds import needs_clip
from onnxq.planning.plan import QuantPlan, Role, TensorPlan


class InsertQDQ(Pass):
    """See the module's docstring.

    Args:
        plan: Where pairs go.
        qparams: Their parameters.
    """

    def __init__(self, plan: QuantPlan, qparams: QParamsTable) -> None:
        self._plan = plan
        self._qparams = qparams

    def run(self, graph: Graph) -> PassResult:
        log = PassLog()
        for key, tensor in self._plan.tensors.items():
            if tensor.role is Role.ACTIVATION and not _done(graph, tensor):
                self._insert(graph, key, tensor)
                log.edit(f"pair behind {tensor.name!r}", *dict.fromkeys(use.node for use in tensor.uses))
        return log.result(graph)

    def _insert(self, graph: Graph, key: str, tensor: TensorPlan) -> None:
        name = tensor.name
        scale, zero_point = add_params(graph, name, self._qparams, key)
        source, result = name, graph.unique_name(f"{name}_dequantized")
        if tensor.covers_output:
            source, result = _free_output_name(graph, name), name
        codes = graph.unique_name(f"{name}_quantized")
        graph.replace_uses(name, result, tensor.uses)
        source = self._saturated(graph, source, key, name)
        graph.add_node("QuantizeLinear", [source, scale, zero_point], [codes], name=f"{name}_QuantizeLinear")
        graph.add_node("DequantizeLinear", [codes, scale, zero_point], [result], name=f"{name}_DequantizeLinear")
        graph.copy_value_info(name, result)

    def _saturated(self, graph: Graph, source: str, key: str, name: str) -> str:
        """`source` cut to the values that codes of the form stand for (case 4); itself where none is beyond them."""
        params = self._qparams[key]
        if not needs_clip(graph, source, params.spec):
            return source
        elem_type = graph.dtype(name)
        half = elem_type if elem_type in HALF_TYPES else TensorProto.FLOAT
        steps = np.array([params.spec.qmin, params.spec.qmax]) - params.zero_point.astype(np.int64)
        limits = []
        for end, value in zip(("lowest", "highest"), steps.astype(np.float32) * params.scale, strict=True):
            limit = graph.unique_name(f"{name}_{end}")
            limits.append(graph.add_initializer(limit, float_tensor(np.asarray(value), half, limit)))
        cut = graph.unique_name(f"{name}_saturated")
        graph.add_node("Clip", [source, *limits], [cut], name=f"{name}_Clip")
        graph.copy_value_info(name, cut)
        return cut


def add_params(graph: Graph, stem: str, qparams: QParamsTable, key: str) -> tuple[str, str]:
    """Add the scale, in the type of tensor `stem`, and zero-point of `key` as initializers and return their names."""
    params = qparams[key]
    name, elem_type = graph.unique_name(f"{stem}_scale"), graph.dtype(stem)
    half = elem_type if elem_type in HALF_TYPES else TensorProto.FLOAT
    scale = graph.add_initializer(name, float_tensor(params.scale, half, name))
    name = graph.unique_name(f"{stem}_zero_point")
    zero_point = graph.add_initializer(name, code_tensor(params.zero_point, params.spec.qtype, name))
    return scale, zero_point


def _free_output_name(graph: Graph, name: str) -> str:
    """Rename what computes graph output `name`, so that the dequantized tensor can carry the name."""
    node = graph.producer(name)
    if node is None:
        raise InternalError(f"graph output {name!r} is not computed by a node")
    inner = graph.unique_name(f"{name}_float")
    graph.set_output(node, list(node.output).index(name), inner)
    return inner


def _done(graph: Graph, tensor: TensorPlan) -> bool:
    if tensor.covers_output:
        node = graph.producer(tensor.name)
        return node is not None and node.op_type == "DequantizeLinear"
    return not any(_reads(graph, use, tensor.name) for use in tensor.uses)


def _reads(graph: Graph, use: Use, name: str) -> bool:
    if use.slot == CAPTURED:
        return use in graph.uses(name)
    return str(graph.node(use.node).input[use.slot]) == name
