"""Passes that make work for each other, run until none finds any."""

from __future__ import annotations

from collections.abc import Sequence

from onnxq.errors import InternalError
from onnxq.graph.view import Graph
from onnxq.passes.base import Edit, Pass, PassManager, PassResult

# Each round shortens some chain; no model seen needs more than four.
_MAX_ROUNDS = 100


class UntilStable(Pass):
    """Run a sequence of passes again and again until a whole round makes no edits.

    1. A round with edits is followed by another one; the edits of all rounds are reported.
    2. Misses are those of the last round: what was missed before may have been done since.
    3. A sequence that never comes to rest is an internal error.
    """

    def __init__(self, passes: Sequence[Pass], *, name: str) -> None:
        self._round = PassManager(passes, name=name)

    @property
    def name(self) -> str:
        return self._round.name

    def run(self, graph: Graph) -> PassResult:
        edits: list[Edit] = []
        for _ in range(_MAX_ROUNDS):
            result = self._round.run(graph)
            edits += result.edits
            if not result.modified:
                return PassResult(graph, tuple(edits), result.misses)
        raise InternalError(f"passes {self.name} do not come to rest: {result.edits[0].what}")
