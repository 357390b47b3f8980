"""Something stands between the Cast of a float64 input and what is quantized behind it, for OpenVINO (V8).

    x (float64) -> Cast -> QuantizeLinear        x -> Cast -> Max(., lowest float32) -> QuantizeLinear

OpenVINO takes the Cast into the quantization and then finds no float64 kernel for that: the model does not compile.
Max with the lowest number changes no value and is not optimised away, as Identity, + 0 and * 1 are.
"""

from __future__ import annotations

import numpy as np
from onnx import TensorProto

from onnxq.graph.view import Graph
from onnxq.passes.base import Pass, PassLog, PassResult


class PartDoubleInputs(Pass):
    """See the module's docstring.

    1. Every Cast of a float64 input of the model to float32 gets a Max behind it; all readers read that.
    2. Left alone: a Cast that has one already, and one that is an output of the model.
    """

    def run(self, graph: Graph) -> PassResult:
        log = PassLog()
        for node in graph.nodes:
            if node.op_type != "Cast" or not graph.is_input(node.input[0]) or graph.is_output(node.output[0]):
                continue
            source, result = node.input[0], node.output[0]
            if graph.dtype(source) != TensorProto.DOUBLE or graph.dtype(result) != TensorProto.FLOAT:
                continue
            if [reader.op_type for reader in graph.consumers(result)] == ["Max"]:
                continue
            uses, parted = graph.uses(result), graph.unique_name(f"{result}_parted")
            lowest = graph.add_initializer(
                graph.unique_name(f"{result}_lowest"), np.array(np.finfo(np.float32).min, np.float32)
            )
            graph.copy_value_info(result, parted)
            graph.replace_uses(result, parted, uses)
            graph.add_node("Max", [result, lowest], [parted], name=f"{parted}_Max")
            log.edit("parted from the quantization behind it", node.name)
        graph.sort()
        return log.result(graph)
