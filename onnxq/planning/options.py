"""What a user may say about placement."""

from __future__ import annotations

import difflib
import fnmatch
from collections.abc import Iterable
from dataclasses import dataclass

from onnx import NodeProto

from onnxq.errors import ConfigError
from onnxq.graph.view import Graph

FAST, FULL = "fast", "full"
PLACEMENTS = (FAST, FULL)


@dataclass(frozen=True, kw_only=True)
class PlanOptions:
    """Nodes to keep in float.

    Attributes:
        exclude: Node names or shell-style patterns (`*`, `?`, `[...]`).
        exclude_ops: Operator types.
        placement: "fast" also keeps nodes in float that the target's table of costs says are faster there; "full" runs
            every node in int8 that can.
        slower: Names of nodes that were measured to be faster in float.
    """

    exclude: tuple[str, ...] = ()
    exclude_ops: tuple[str, ...] = ()
    placement: str = FAST
    slower: frozenset[str] = frozenset()

    @classmethod
    def of(cls, exclude: str | Iterable[str], exclude_ops: str | Iterable[str], placement: str = FAST) -> PlanOptions:
        """The options from what a user gives, where one string is one pattern and not its letters.

        Raises:
            ConfigError: there is no such placement.
        """
        if placement not in PLACEMENTS:
            raise ConfigError(
                f"unknown placement {placement!r}; known: {', '.join(PLACEMENTS)}",
                hint="pass placement='fast' or placement='full' (--placement)",
            )
        return cls(exclude=_several(exclude), exclude_ops=_several(exclude_ops), placement=placement)

    def excludes(self, node: NodeProto) -> bool:
        """Whether the user wants `node` kept in float."""
        if node.op_type in self.exclude_ops or node.name in self.exclude or node.name in self.slower:
            return True
        return any(fnmatch.fnmatchcase(node.name, pattern) for pattern in self.exclude)

    def check(self, graph: Graph) -> None:
        """See that every pattern names something in `graph`.

        Raises:
            ConfigError: a pattern matches no node; the message suggests names that are close.
        """
        nodes = graph.nodes
        names = [n.name for n in nodes]
        for pattern in self.exclude:
            if not fnmatch.filter(names, pattern) and pattern not in names:
                raise _unmatched("node", pattern, names, "exclude=(...) (--exclude)")
        ops = {n.op_type for n in nodes}
        for op in self.exclude_ops:
            if op not in ops:
                raise _unmatched("operator", op, ops, "exclude_ops=(...) (--exclude-op)")


def _several(given: str | Iterable[str]) -> tuple[str, ...]:
    return (given,) if isinstance(given, str) else tuple(given)


def _unmatched(kind: str, given: str, known: Iterable[str], where: str) -> ConfigError:
    close = difflib.get_close_matches(given, list(known), n=3)
    hint = f"did you mean {', '.join(map(repr, close))}?" if close else "`onnxq plan MODEL` lists all names"
    return ConfigError(f"no {kind} of the model matches {given!r}", where=where, hint=hint)
