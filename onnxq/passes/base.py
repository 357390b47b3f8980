"""What a pass is, and how passes run one after another.

A pass takes a graph, edits it in place and says what it did: every rewrite is an `Edit`, every place where the rule
nearly applied is a `Miss` with its reason. Running a pass a second time makes no edits. A `PassManager` is itself a
pass; between its passes it checks the graph's invariants and names the pass that broke one.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from onnx import NodeProto

from onnxq.errors import InternalError
from onnxq.graph.view import STANDARD_DOMAINS, Graph
from onnxq.passes.invariants import broken_invariants


@dataclass(frozen=True)
class Edit:
    """One rewrite: the nodes it concerned and what became of them."""

    nodes: tuple[str, ...]
    what: str


@dataclass(frozen=True)
class Miss:
    """One place where a rule did not fire, and why."""

    nodes: tuple[str, ...]
    reason: str


@dataclass(frozen=True)
class PassResult:
    """What a pass did.

    Attributes:
        graph: The graph that was given, now edited.
        edits: The rewrites made, in order.
        misses: Places that looked like the pass's pattern and were left alone.
    """

    graph: Graph
    edits: tuple[Edit, ...] = ()
    misses: tuple[Miss, ...] = ()

    @property
    def modified(self) -> bool:
        return bool(self.edits)


class Pass(ABC):
    """A rewrite of a graph. Subclasses list their cases, numbered, in their docstring."""

    @property
    def name(self) -> str:
        return type(self).__name__

    @abstractmethod
    def run(self, graph: Graph) -> PassResult:
        """Apply the pass to `graph`, in place."""


@dataclass
class PassLog:
    """Collects edits and misses while a pass works."""

    edits: list[Edit] = field(default_factory=list)
    misses: list[Miss] = field(default_factory=list)

    def edit(self, what: str, *nodes: str) -> None:
        self.edits.append(Edit(nodes, what))

    def miss(self, reason: str, *nodes: str) -> None:
        self.misses.append(Miss(nodes, reason))

    def result(self, graph: Graph) -> PassResult:
        return PassResult(graph, tuple(self.edits), tuple(self.misses))


def rewrite_each(graph: Graph, op_type: str, rewrite: Callable[[Graph, NodeProto, PassLog], str | None]) -> PassResult:
    """Try a rewrite on every node of one of ONNX's own operators, and prune what it leaves unread.

    Args:
        graph: Edited in place.
        op_type: The operator.
        rewrite: Edits the graph around a node and logs that, or gives the reason why it left the node alone; None where
            there is nothing to say of it.
    """
    log = PassLog()
    for node in graph.nodes:
        if node.op_type == op_type and node.domain in STANDARD_DOMAINS:
            reason = rewrite(graph, node, log)
            if reason is not None:
                log.miss(reason, node.name)
    if log.edits:
        graph.prune()
    return log.result(graph)


class InvariantError(InternalError):
    """A pass left the graph in a state that no pass may leave it in."""


class PassManager(Pass):
    """Runs passes in order and checks the graph's invariants after each.

    Args:
        passes: The passes, which may be managers themselves.
        name: What to call the sequence.
    """

    def __init__(self, passes: Sequence[Pass], *, name: str) -> None:
        self._passes = tuple(passes)
        self._name = name

    @property
    def name(self) -> str:
        return self._name

    def run(self, graph: Graph) -> PassResult:
        """Run all passes.

        Raises:
            InvariantError: a pass broke an invariant; the message names it and the passes before it.
        """
        edits: list[Edit] = []
        misses: list[Miss] = []
        for index, one in enumerate(self._passes):
            result = one.run(graph)
            if result.modified:
                graph.sort()
                if broken := broken_invariants(graph):
                    before = ", ".join(p.name for p in self._passes[:index]) or "none"
                    raise InvariantError(f"pass {one.name} broke the graph: {broken[0]} (passes before it: {before})")
            edits += result.edits
            misses += result.misses
        return PassResult(graph, tuple(edits), tuple(misses))
