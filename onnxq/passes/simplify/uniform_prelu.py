"""A PRelu with one slope for all channels is a LeakyRelu, which engines have better kernels for.

Operators: https://onnx.ai/onnx/operators/onnx__PRelu.html and onnx__LeakyRelu.html
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from onnx import NodeProto

from onnxq.graph.view import STANDARD_DOMAINS, Graph
from onnxq.passes.base import Pass, PassLog, PassResult


class UniformPRelu(Pass):
    """See the module's docstring.

    1. Constant slopes that are all equal, whatever their shape.
    2. Left alone: slopes that differ.
    3. Left alone: slopes that are computed.
    """

    def run(self, graph: Graph) -> PassResult:
        log = PassLog()
        for node, slopes in prelus_of_constant_slopes(graph, log):  # case 3
            if not np.all(slopes == slopes.flat[0]):
                log.miss("its slopes differ", node.name)  # case 2
            else:
                name, tensor, result = node.name, node.input[0], node.output[0]
                graph.remove_node(node)
                graph.add_node("LeakyRelu", [tensor], [result], name=name, attributes={"alpha": float(slopes.flat[0])})
                log.edit("PRelu with one slope", name)
        if log.edits:
            graph.prune()
            graph.sort()
        return log.result(graph)


def prelus_of_constant_slopes(graph: Graph, log: PassLog) -> Iterator[tuple[NodeProto, NDArray[np.floating]]]:
    """Each PRelu with its slopes, while the graph may be changed; the log gets those whose slopes are computed."""
    for node in list(graph.nodes):
        if node.op_type != "PRelu" or node.domain not in STANDARD_DOMAINS:
            continue
        slopes = graph.constant(node.input[1])
        if slopes is None or not slopes.size:
            log.miss("its slopes are computed", node.name)
        else:
            yield node, slopes
