"""Constant nodes become initializers, so that every constant is found in one place.

Operator: https://onnx.ai/onnx/operators/onnx__Constant.html (the forms `value_*` since opset 12).
"""

from __future__ import annotations

import numpy as np
from onnx import NodeProto, TensorProto, helper, numpy_helper

from onnxq.graph.view import STANDARD_DOMAINS, Graph
from onnxq.passes.base import Pass, PassLog, PassResult


class LiftConstants(Pass):
    """Turn Constant nodes into initializers of the same name.

    1. `value` keeps its tensor message as it is, external data included.
    2. `value_float`, `value_floats`, `value_int`, `value_ints`, `value_string` and `value_strings` become float32,
       int64 and string tensors of rank 0 or 1.
    3. `sparse_value` stays a node.
    4. A Constant inside the body of If, Loop or Scan stays there.
    5. A Constant whose output is an output of the graph stays a node: not every runtime takes an initializer for one.
    """

    def run(self, graph: Graph) -> PassResult:
        log = PassLog()
        for node in graph.nodes:  # the main graph only: case 4
            if node.op_type != "Constant" or node.domain not in STANDARD_DOMAINS:
                continue
            tensor = constant_tensor(node)
            if tensor is None:
                log.miss("a sparse constant has no initializer form that the passes know", node.name)  # case 3
            elif graph.is_output(node.output[0]):
                log.miss("the constant is an output of the graph", node.name)  # case 5
            else:
                graph.remove_node(node)
                graph.add_initializer(node.output[0], tensor)
                log.edit("became an initializer", node.name)
        if log.edits:
            graph.prune()
        return log.result(graph)


def constant_tensor(node: NodeProto) -> TensorProto | None:
    """What a Constant node gives; None for a sparse one."""
    attr = node.attribute[0]
    if attr.name == "value":  # case 1
        tensor: TensorProto = attr.t
        return tensor
    name = node.output[0]
    match attr.name:  # case 2
        case "value_float":
            return numpy_helper.from_array(np.array(attr.f, np.float32), name)
        case "value_floats":
            return numpy_helper.from_array(np.array(attr.floats, np.float32), name)
        case "value_int":
            return numpy_helper.from_array(np.array(attr.i, np.int64), name)
        case "value_ints":
            return numpy_helper.from_array(np.array(attr.ints, np.int64), name)
        case "value_string":
            return helper.make_tensor(name, TensorProto.STRING, [], [attr.s])
        case "value_strings":
            return helper.make_tensor(name, TensorProto.STRING, [len(attr.strings)], list(attr.strings))
    return None
