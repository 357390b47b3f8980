"""Shape inference as a pass; the work is done in `onnxq.graph.shapes`."""

from __future__ import annotations

from onnxq.graph.shapes import infer_shapes
from onnxq.graph.view import Graph
from onnxq.passes.base import Pass, PassLog, PassResult
from onnxq.wording.plural import counted


class InferShapes(Pass):
    """Complete what is known of types and shapes.

    1. A tensor of which nothing or only a part is known gets what can be derived; named sizes keep their names.
    2. Where inference fails or adds nothing, what was known stays.
    """

    def run(self, graph: Graph) -> PassResult:
        log = PassLog()
        learned = infer_shapes(graph)
        if learned:
            log.edit(f"types or shapes of {counted(len(learned), 'tensor')}")
        return log.result(graph)
