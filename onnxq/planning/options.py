"""What a user may say about placement."""

from __future__ import annotations

import difflib
import fnmatch
from collections.abc import Iterable
from dataclasses import dataclass, replace

from onnx import NodeProto

from onnxq.errors import ConfigError
from onnxq.graph.subgraphs import nodes_inside
from onnxq.graph.view import Graph


@dataclass(frozen=True, kw_only=True)
class PlanOptions:
    """Nodes to keep in float.

    Attributes:
        exclude: Node names or shell-style patterns (`*`, `?`, `[...]`).
        exclude_ops: Operator types.
        path: Where the graph stands inside the model, as in "If_0/then_branch"; "" for the model's own graph.
    """

    exclude: tuple[str, ...] = ()
    exclude_ops: tuple[str, ...] = ()
    path: str = ""

    @classmethod
    def of(cls, exclude: str | Iterable[str], exclude_ops: str | Iterable[str]) -> PlanOptions:
        """The options from what a user gives, where one string is one pattern and not its letters."""
        return cls(exclude=_several(exclude), exclude_ops=_several(exclude_ops))

    def inside(self, path: str) -> PlanOptions:
        """The same wishes for a graph at `path` in this one."""
        return replace(self, path=f"{self.path}/{path}" if self.path else path)

    def excludes(self, node: NodeProto) -> bool:
        """Whether the user wants `node` kept in float."""
        name = f"{self.path}/{node.name}" if self.path else node.name
        if node.op_type in self.exclude_ops or name in self.exclude:
            return True
        return any(fnmatch.fnmatchcase(name, pattern) for pattern in self.exclude)

    def check(self, graph: Graph) -> None:
        """See that every pattern names something in `graph`, which is the model's own, or inside its subgraphs.

        Raises:
            ConfigError: a pattern matches no node; the message suggests names that are close.
        """
        if self.path:
            return
        nodes = graph.nodes
        inside = nodes_inside(graph)
        names = [*(n.name for n in nodes), *inside]
        for pattern in self.exclude:
            if not fnmatch.filter(names, pattern) and pattern not in names:
                raise _unmatched("node", pattern, names, "exclude=(...) (--exclude)")
        ops = {*(n.op_type for n in nodes), *inside.values()}
        for op in self.exclude_ops:
            if op not in ops:
                raise _unmatched("operator", op, ops, "exclude_ops=(...) (--exclude-op)")


def _several(given: str | Iterable[str]) -> tuple[str, ...]:
    return (given,) if isinstance(given, str) else tuple(given)


def _unmatched(kind: str, given: str, known: Iterable[str], where: str) -> ConfigError:
    close = difflib.get_close_matches(given, list(known), n=3)
    hint = f"did you mean {', '.join(map(repr, close))}?" if close else "`onnxq plan MODEL` lists all names"
    return ConfigError(f"no {kind} of the model matches {given!r}", where=where, hint=hint)
