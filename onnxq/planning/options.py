"""What a user may say about placement, and what it means for one graph.

A node is quantized unless the user keeps it in float. With `include`, `include_ops` or `include_between` only the nodes
that one of them names are; what is excluded stays float whether it is included or not. Activations, biases and residual
adds that disappear into a quantized node come along unless they are excluded themselves.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, TypedDict

from onnx import NodeProto

from onnxq.errors import ConfigError
from onnxq.graph.messages import reads_of
from onnxq.graph.subgraphs import nodes_inside
from onnxq.graph.view import Graph
from onnxq.keywords import Keyword, complete
from onnxq.planning.names import selected, several, unmatched
from onnxq.planning.overrides import Override, override_of

Ends = tuple[str, str] | str
"""Two tensors, or both in one string: "FROM:TO"."""

FAST, FULL = "fast", "full"
PLACEMENTS = (FAST, FULL)
TUNE_RULE = "tune"
"""What plans give as the rule of a node that was measured to be faster in float."""


class TypeKeywords(TypedDict, total=False):
    """Types of codes."""

    activations: Annotated[
        str | None,
        Keyword(
            None,
            "Type of the activations' codes, one that the target takes: int8, uint8, int16, uint16 or fp8. The "
            'target\'s own unless given (docs/types.md); "none" stands for float, in mode "weight-only" alone.',
        ),
    ]
    weights: Annotated[
        str | None,
        Keyword(
            None,
            'Type of the weights: in mode "static" one that the target takes, and what goes with the activations '
            'unless given; in "weight-only" int4 (the default), uint4 or int8.',
        ),
    ]


class PlacementKeywords(TypedDict, total=False):
    """Which nodes are quantized, and how single ones differ, in every mode."""

    exclude: Annotated[
        str | Sequence[str],
        Keyword(
            (),
            'Names, shell-style patterns or regular expressions (behind "re:") of nodes to keep in float; a single one '
            "may be a plain string.",
        ),
    ]
    exclude_ops: Annotated[str | Sequence[str], Keyword((), "Operator types to keep in float, likewise.")]
    exclude_between: Annotated[
        Sequence[Ends],
        Keyword((), "Pairs of tensors: every node on a path from the first to the second stays float."),
    ]
    include: Annotated[
        str | Sequence[str],
        Keyword(
            (),
            "Patterns of the only nodes to quantize; what fuses into them comes along, what is excluded does not.",
        ),
    ]
    include_ops: Annotated[str | Sequence[str], Keyword((), "Operator types to quantize, besides `include`.")]
    include_between: Annotated[
        Sequence[Ends],
        Keyword((), "Pairs of tensors, between which nodes are quantized, besides `include`."),
    ]
    overrides: Annotated[
        Override | Mapping[str, Any] | Sequence[Override | Mapping[str, Any]],
        Keyword(
            (),
            "Types, methods and ranges of single nodes and tensors: onnxq.Override or a dict with its fields, one or "
            "several.",
        ),
    ]
    placement: Annotated[
        str,
        Keyword(
            FAST,
            '"fast" also keeps nodes in float that are faster there, as far as the target\'s table tells (openvino, '
            'the ort targets for x64); "full" runs every node in int8 that can.',
        ),
    ]


class PlanningKeywords(TypeKeywords, PlacementKeywords, total=False):
    """What a plan depends on beside the model and the target."""


@dataclass(frozen=True, kw_only=True)
class PlanOptions:
    """Which nodes may be quantized, and how single ones differ from the rest. Patterns as in `names`.

    Attributes:
        exclude: Names or patterns of nodes to keep in float.
        exclude_ops: Operator types to keep in float.
        exclude_between: Pairs of tensors: every node on a path from the first to the second stays float.
        include: Names or patterns of the only nodes to quantize, together with the next two.
        include_ops: Operator types to quantize.
        include_between: Pairs of tensors: every node on a path from the first to the second may be quantized.
        overrides: Types, methods and ranges of single nodes and tensors; later ones win.
        activations: Type of all activations; None for the target's own.
        weights: Type of all weights; None for what goes with the activations.
        steps: Types that a search may give the activations of single layers.
        placement: "fast" also keeps nodes in float that the target's table of costs says are faster there; "full" runs
            every node in int8 that can.
        slower: Names of nodes that were measured to be faster in float.
        path: Where the graph stands inside the model, as in "If_0/then_branch"; "" for the model's own graph. Names of
            nodes then begin with it; tensors, and overrides, are those of the model's own graph only.
    """

    exclude: tuple[str, ...] = ()
    exclude_ops: tuple[str, ...] = ()
    exclude_between: tuple[Ends, ...] = ()
    include: tuple[str, ...] = ()
    include_ops: tuple[str, ...] = ()
    include_between: tuple[Ends, ...] = ()
    overrides: tuple[Override, ...] = ()
    activations: str | None = None
    weights: str | None = None
    steps: tuple[str, ...] = ()
    placement: str = FAST
    slower: frozenset[str] = frozenset()
    path: str = ""

    def inside(self, path: str) -> PlanOptions:
        """The same wishes for a graph at `path` in this one."""
        whole = f"{self.path}/{path}" if self.path else path
        return replace(self, path=whole, exclude_between=(), include_between=(), overrides=(), slower=frozenset())

    @classmethod
    def of(cls, options: PlanningKeywords, *, with_types: bool = True) -> PlanOptions:
        """The options from what a user gives, where one string is one pattern and not its letters.

        Args:
            options: What was given.
            with_types: Whether types of codes are part of the plan, which they are in mode "static" alone.

        Raises:
            ConfigError: an override has an unknown key or an impossible value, or there is no such placement.
        """
        given = complete(PlanningKeywords, options)
        placement, overrides = given["placement"], given["overrides"]
        if isinstance(overrides, (Override, Mapping)):
            overrides = (overrides,)
        if placement not in PLACEMENTS:
            raise ConfigError(
                f"unknown placement {placement!r}; known: {', '.join(PLACEMENTS)}",
                hint="pass placement='fast' or placement='full' (--placement)",
            )
        return cls(
            exclude=several(given["exclude"]),
            exclude_ops=several(given["exclude_ops"]),
            exclude_between=_pairs(given["exclude_between"]),
            include=several(given["include"]),
            include_ops=several(given["include_ops"]),
            include_between=_pairs(given["include_between"]),
            overrides=tuple(override_of(one, number) for number, one in enumerate(overrides, start=1)),
            placement=placement,
            activations=given["activations"] if with_types else None,
            weights=given["weights"] if with_types else None,
        )

    def types(self) -> tuple[str, ...]:
        """Types of codes that single tensors may get: those that overrides ask for, and the steps of a search."""
        named = (name for one in self.overrides for name in (one.activation, one.weight))
        return tuple(dict.fromkeys([*(name for name in named if name is not None), *self.steps]))

    def select(self, graph: Graph, source: Graph | None = None) -> Selection:
        """What the options mean for the nodes of `graph`.

        Args:
            graph: The normalised graph.
            source: The model as it was given, for names that are gone.

        Raises:
            ConfigError: a pattern matches nothing, or there is no path between two tensors; the message suggests names.
        """
        finder = _Finder(graph, source, self.path)
        excluded = finder.nodes(self.exclude, self.exclude_ops, self.exclude_between, "exclude")
        included = finder.nodes(self.include, self.include_ops, self.include_between, "include")
        asked = self.include or self.include_ops or self.include_between
        return Selection(excluded=excluded | self.slower, included=included if asked else None)


@dataclass(frozen=True, kw_only=True)
class Selection:
    """Nodes of one graph that the user wants in float.

    Attributes:
        excluded: Names of those to keep in float whatever happens.
        included: Names of the only ones to quantize; None for no such limit.
    """

    excluded: frozenset[str] = frozenset()
    included: frozenset[str] | None = None

    def excludes(self, node: NodeProto) -> bool:
        """Whether the user wants `node` not to be quantized for its own sake."""
        return self.forbids(node) or (self.included is not None and node.name not in self.included)

    def names(self, node: NodeProto) -> bool:
        """Whether the user asked for `node` itself to be quantized."""
        return self.included is not None and node.name in self.included and not self.forbids(node)

    def forbids(self, node: NodeProto) -> bool:
        """Whether the user excluded `node`: it may not become part of a quantized one either."""
        return node.name in self.excluded


@dataclass(frozen=True)
class _Finder:
    graph: Graph
    source: Graph | None
    path: str = ""

    def nodes(
        self, patterns: Iterable[str], ops: Iterable[str], between: Iterable[Ends], argument: str
    ) -> frozenset[str]:
        """Names of the nodes that one of the given means."""
        nodes = self.graph.nodes
        own = {f"{self.path}/{n.name}" if self.path else n.name: n.name for n in nodes}
        inside = {} if self.path else nodes_inside(self.graph)
        names = [*own, *inside]
        found: set[str] = set()
        for pattern in patterns:
            where = f"{argument}=(...) (--{argument})"
            matching = selected(pattern, names, where=where)
            if not matching and not self.path:
                gone = [] if self.source is None else [n.name for n in self.source.nodes]
                raise unmatched("node", pattern, names, where, gone=gone)
            found.update(own[name] for name in matching if name in own)
        types = {*(n.op_type for n in nodes), *inside.values()}
        for op in ops:
            if op not in types and not self.path:
                gone = [] if self.source is None else [n.op_type for n in self.source.nodes]
                raise unmatched("operator", op, types, f"{argument}_ops=(...) (--{argument}-op)", gone=gone)
            found.update(n.name for n in nodes if n.op_type == op)
        for ends in between:
            found |= self._between(ends, f"{argument}_between=[(FROM, TO)] (--{argument}-between FROM:TO)")
        return frozenset(found)

    def _between(self, ends: Ends, where: str) -> set[str]:
        """Names of the nodes on any path from one tensor to another."""
        start, end = self._ends(ends, where)
        found = _downstream(self.graph, start) & _upstream(self.graph, end)
        if found:
            return found
        back = _downstream(self.graph, end) & _upstream(self.graph, start)
        raise ConfigError(
            f"no path leads from tensor {start!r} to tensor {end!r}",
            where=where,
            hint=f"there is one from {end!r} to {start!r}: swap them" if back else "name tensors on one path of data",
        )

    def _ends(self, ends: Ends, where: str) -> tuple[str, str]:
        if not isinstance(ends, str):
            start, end = ends
        else:
            # A tensor's name may hold ":" itself (TensorFlow's do): every place to split is tried.
            splits = [(ends[:i], ends[i + 1 :]) for i, letter in enumerate(ends) if letter == ":"]
            if not splits:
                raise ConfigError(f"{ends!r} does not name two tensors", where=where, hint="write them as FROM:TO")
            there = [pair for pair in splits if self.graph.exists(pair[0]) and self.graph.exists(pair[1])]
            start, end = there[0] if there else splits[0] if len(splits) == 1 else self._half_known(splits)
        for name in (start, end):
            if not isinstance(name, str) or not self.graph.exists(name):
                raise unmatched("tensor", str(name), _tensors(self.graph), where, gone=self._gone_tensors())
        return start, end

    def _half_known(self, splits: list[tuple[str, str]]) -> tuple[str, str]:
        known = [s for s in splits if self.graph.exists(s[0]) or self.graph.exists(s[1])]
        return (known or splits)[0]

    def _gone_tensors(self) -> Collection[str]:
        return [] if self.source is None else _tensors(self.source)


def _pairs(given: Iterable[Ends]) -> tuple[Ends, ...]:
    """Pairs of tensors; a single one may stand without a list around it."""
    listed = (given,) if isinstance(given, str) else tuple(given)
    for one in listed:
        if not isinstance(one, str) and len(one) != 2:
            raise ConfigError(
                f"{one!r} are not two tensors",
                where="exclude_between=, include_between= (--exclude-between, --include-between)",
                hint="pass pairs: exclude_between=[(FROM, TO)] (--exclude-between FROM:TO)",
            )
    return listed


def _tensors(graph: Graph) -> list[str]:
    return [*graph.inputs, *(t for n in graph.nodes for t in n.output if t)]


def _downstream(graph: Graph, tensor: str) -> set[str]:
    """Names of the nodes that `tensor` reaches."""
    found: set[str] = set()
    front = [use.node for use in graph.uses(tensor)]
    while front:
        name = front.pop()
        if name not in found:
            found.add(name)
            front += [use.node for output in graph.node(name).output for use in graph.uses(output)]
    return found


def _upstream(graph: Graph, tensor: str) -> set[str]:
    """Names of the nodes that `tensor` depends on, those that a body of control flow reads from included."""
    found: set[str] = set()
    front = [tensor]
    while front:
        node = graph.producer(front.pop())
        if node is not None and node.name not in found:
            found.add(node.name)
            front += [tensor for tensor, _ in reads_of(node)]
    return found
