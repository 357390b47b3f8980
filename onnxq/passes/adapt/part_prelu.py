"""A PRelu becomes the few fast operators that compute the same, for engines whose kernel for it is slow.

    PRelu(x, s) = max(x, s x)                    for slopes between 0 and 1
                = max(x, 0) + s min(x, 0)        for all others

Both are exact: of the two terms of the second one, one is zero. onnxruntime's kernel decides element by element (2.5
to 5 ns each with slopes by channel, where Mul and Max take 0.25 to 0.5 ns) and takes no blocks of channels, so the
layout of images changes on both sides of it. Operator: https://onnx.ai/onnx/operators/onnx__PRelu.html
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from onnx import NodeProto

from onnxq.graph.view import Graph
from onnxq.passes.base import Pass, PassLog, PassResult
from onnxq.passes.simplify.uniform_prelu import prelus_of_constant_slopes


class PartPRelu(Pass):
    """See the module's docstring. The last of the operators has the name of the PRelu.

    1. Slopes above 0 and up to 1: Mul and Max.
    2. Other slopes: Relu, Min, Mul and Add.
    3. Left alone: slopes that are computed.
    """

    def run(self, graph: Graph) -> PassResult:
        log = PassLog()
        for node, slopes in prelus_of_constant_slopes(graph, log):  # case 3
            _part(graph, node, slopes)
            log.edit("PRelu of fast operators", node.name)
        if log.edits:
            graph.prune()
            graph.sort()
        return log.result(graph)


def _part(graph: Graph, node: NodeProto, slopes: NDArray[np.floating]) -> None:
    name, (x, slope), y = node.name, node.input, node.output[0]
    graph.remove_node(node)
    if np.all((slopes > 0.0) & (slopes <= 1.0)):  # case 1
        steep = _step(graph, "Mul", [x, slope], like=y)
        graph.add_node("Max", [x, steep], [y], name=name)
        return
    zero = graph.add_initializer(graph.unique_name(f"{y}_zero"), np.zeros((), slopes.dtype))  # case 2
    above, below = _step(graph, "Relu", [x], like=y), _step(graph, "Min", [x, zero], like=y)
    graph.add_node("Add", [above, _step(graph, "Mul", [below, slope], like=y)], [y], name=name)


def _step(graph: Graph, op: str, inputs: list[str], *, like: str) -> str:
    """The output of a new node in front of tensor `like`, of the same shape."""
    result = graph.unique_name(f"{like}_{op}")
    graph.add_node(op, inputs, [result], name=result)
    graph.copy_value_info(like, result)
    return result
