"""What no output depends on goes: dead nodes, and initializers that nobody reads."""

from __future__ import annotations

from onnxq.graph.view import Graph
from onnxq.passes.base import Pass, PassLog, PassResult


class RemoveUnused(Pass):
    """Drop what is not needed to compute the graph's outputs.

    1. A node none of whose outputs is needed goes.
    2. An initializer that no remaining node reads goes.
    3. Graph inputs stay, read or not: they are the model's interface.
    """

    def run(self, graph: Graph) -> PassResult:
        log = PassLog()
        before = set(graph.initializers)
        for name in graph.prune():
            log.edit("no output depends on it", name)
        for name in sorted(before - set(graph.initializers)):
            log.edit(f"initializer {name!r} is read by nobody")
        return log.result(graph)
