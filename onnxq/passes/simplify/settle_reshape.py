"""A Reshape to sizes that are computed in each run gets constant ones where these say the same.

    Reshape(x, Concat(Shape(x)[0:2], -1))     ->  Reshape(x, (0, 0, -1))
    Reshape(x, Concat(Shape(z)[0], 4, 16))    ->  Reshape(x, (-1, 4, 16))

Exporters that are told to leave the batch open write the first forms. Behind them no shape is known, the sizes are
computed again in every run, and engines that build for shapes have more to find out. Operator:
https://onnx.ai/onnx/operators/onnx__Reshape.html
"""

from __future__ import annotations

import numpy as np
from onnx import NodeProto

from onnxq.graph.sizes import OpenSize, entries, is_size_of
from onnxq.graph.view import STANDARD_DOMAINS, Graph, attribute
from onnxq.passes.base import Pass, PassLog, PassResult

_FIRST_OPSET = 5
"""Before, the target is an attribute."""


class SettleReshape(Pass):
    """Give a Reshape a constant target.

    1. An entry that is the data's own size at the same place is 0; so is that of another tensor if it has the same name
       or if the data is made from that tensor without a change of this size (a product with a matrix, its bias ...).
    2. One other entry that is open is -1 if the target has none yet: the number of elements tells it.
    3. Left alone: more entries are open, or the length of the target is not known.
    4. Left alone: the target is constant, or holds a 0 that stands for no elements (allowzero).
    """

    def run(self, graph: Graph) -> PassResult:
        log = PassLog()
        if graph.opset < _FIRST_OPSET:
            return log.result(graph)
        for node in graph.nodes:
            if node.op_type != "Reshape" or node.domain not in STANDARD_DOMAINS or graph.is_constant(node.input[1]):
                continue
            target = _target(graph, node)
            if isinstance(target, str):
                log.miss(target, node.name)
                continue
            name = graph.add_initializer(graph.unique_name(f"{node.output[0]}_shape"), np.array(target, np.int64))
            graph.set_input(node, 1, name)
            graph.set_attributes(node, allowzero=None)
            log.edit("its target is constant", node.name)
        if log.edits:
            graph.prune()
        return log.result(graph)


def _target(graph: Graph, node: NodeProto) -> list[int] | str:
    """The constant target, or the reason why there is none."""
    asked = entries(graph, node.input[1])
    if asked is None:  # case 3
        return "the length of its target is not known"
    if attribute(node, "allowzero", 0) and 0 in asked:  # case 4
        return "a 0 in its target stands for no elements"
    settled = [  # case 1
        0 if isinstance(entry, OpenSize) and is_size_of(graph, entry, node.input[0], axis) else entry
        for axis, entry in enumerate(asked)
    ]
    still_open = [axis for axis, entry in enumerate(settled) if not isinstance(entry, int)]
    if len(still_open) == 1 and -1 not in settled:  # case 2
        settled[still_open.pop()] = -1
    if still_open:
        return "more than one size of its target is open"
    return [entry for entry in settled if isinstance(entry, int)]
