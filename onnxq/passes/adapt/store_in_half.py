"""Constants that were widened from float16 to float32 are stored in float16 again, with a Cast behind them.

Embedding tables and other large constants that stay float would otherwise take twice the space of the model they come
from. Engines compute the Cast once, while loading.
"""

from __future__ import annotations

import math

import numpy as np
from onnx import TensorProto, numpy_helper

from onnxq.graph.view import Graph
from onnxq.passes.base import Pass, PassLog, PassResult

_WORTHWHILE_ELEMENTS = 1 << 14


class StoreInHalf(Pass):
    """Store large float32 constants in float16 where that loses nothing.

    1. A float32 initializer of at least 16384 elements, every value of which float16 holds exactly.
    2. Left alone: constants that are outputs of the graph.
    """

    def run(self, graph: Graph) -> PassResult:
        log = PassLog()
        for name, proto in list(graph.initializers.items()):
            large = math.prod(proto.dims) >= _WORTHWHILE_ELEMENTS
            if proto.data_type != TensorProto.FLOAT or not large or graph.is_output(name):
                continue
            values = np.asarray(graph.constant(name))
            with np.errstate(over="ignore"):
                half = values.astype(np.float16)
            if not np.array_equal(half.astype(np.float32), values):
                continue
            stored = graph.unique_name(f"{name}_float16")
            graph.add_initializer(stored, numpy_helper.from_array(half, stored))
            graph.remove_initializer(name)
            graph.add_node("Cast", [stored], [name], name=f"{name}_Cast", attributes={"to": int(TensorProto.FLOAT)})
            log.edit(f"{name!r} stored in float16", *(use.node for use in graph.uses(name)))
        return log.result(graph)
