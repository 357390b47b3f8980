"""The float passes for a subgraph that reads something of unknown rank.

Such a subgraph is no valid graph of its own, so that nothing checks it between the passes, and only those run that do
not depend on shapes.

Cases:
  1. Constants become initializers, Identity goes, what constants alone determine is computed.
  2. There is nothing of these: nothing happens.
"""

from __future__ import annotations

from onnxq.graph.view import Graph
from onnxq.passes.base import Edit, Pass, PassResult
from onnxq.passes.simplify.fold_constants import FoldConstants
from onnxq.passes.simplify.lift_constants import LiftConstants
from onnxq.passes.simplify.remove_identity import RemoveIdentity

_ROUNDS = 4


class FoldFragment(Pass):
    """See the module's docstring."""

    def run(self, graph: Graph) -> PassResult:
        edits: list[Edit] = []
        for _ in range(_ROUNDS):
            found = [
                edit for one in (LiftConstants(), RemoveIdentity(), FoldConstants()) for edit in one.run(graph).edits
            ]
            edits += found
            if not found:
                break
        return PassResult(graph, tuple(edits))
