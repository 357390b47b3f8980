"""What a user may say about placement, and what it means for one graph.

A node is quantized unless the user keeps it in float. With `include`, `include_ops` or `include_between` only the nodes
that one of them names are; what is excluded stays float whether it is included or not. Activations, biases and residual
adds that disappear into a quantized node come along unless they are excluded themselves.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Annotated, Any, TypedDict

from onnx import NodeProto

from onnxq.errors import ConfigError
from onnxq.graph.messages import reads_of
from onnxq.graph.subgraphs import graphs_inside, nodes_inside
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
        float16: Whether what is not quantized computes in float16.
        slower: Names of nodes that were measured to be faster in float.
        path: Where the graph stands inside the model, as in "If_0/then_branch"; "" for the model's own graph. Names of
            its nodes and tensors then begin with it.
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
    float16: bool = False
    slower: frozenset[str] = frozenset()
    path: str = ""

    def inside(self, path: str, *, included: bool) -> PlanOptions:
        """The same wishes for a graph at `path` in this one.

        Args:
            path: Its path from here.
            included: Whether the node that holds it is included, and so everything in it.
        """
        whole = replace(self, path=f"{self.path}/{path}" if self.path else path, slower=frozenset())
        return replace(whole, include=(), include_ops=(), include_between=()) if included else whole

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

    def select(self, graph: Graph, source: Graph | None = None, *, checked: bool = True) -> Selection:
        """What the options mean for the nodes of `graph`.

        Args:
            graph: The normalised graph.
            source: The model as it was given, for names that are gone.
            checked: Whether what names nothing is an error. Inside a subgraph it is none: names are those of all graphs
                of the model.

        Raises:
            ConfigError: a pattern matches nothing, or there is no path between two tensors; the message suggests names.
        """
        finder = _Finder(graph, source, self.path, checked and not self.path)
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
    path: str
    checked: bool

    @cached_property
    def _inside(self) -> Mapping[str, str]:
        """Operator types of nodes in the subgraphs of a graph that is the model's own, by name with the path."""
        return {} if self.path else nodes_inside(self.graph)

    def nodes(
        self, patterns: Iterable[str], ops: Iterable[str], between: Iterable[Ends], argument: str
    ) -> frozenset[str]:
        """Names of the nodes that one of the given means."""
        nodes = self.graph.nodes
        own = {f"{self._prefix}{n.name}": n.name for n in nodes}
        found: set[str] = set()
        for pattern in patterns:
            where = f"{argument}=(...) (--{argument})"
            names = [*own, *self._inside]
            matching = selected(pattern, names, where=where)
            if not matching and self.checked:
                raise unmatched("node", pattern, names, where, gone=self._gone())
            found.update(own[name] for name in matching if name in own)
        for op in ops:
            of_type = {n.name for n in nodes if n.op_type == op}
            if not of_type and self.checked and op not in self._inside.values():
                types = {*(n.op_type for n in nodes), *self._inside.values()}
                where = f"{argument}_ops=(...) (--{argument}-op)"
                raise unmatched("operator", op, types, where, gone=self._gone().values())
            found |= of_type
        for ends in between:
            found |= self._between(ends, f"{argument}_between=[(FROM, TO)] (--{argument}-between FROM:TO)")
        return frozenset(found)

    @property
    def _prefix(self) -> str:
        return f"{self.path}/" if self.path else ""

    def _gone(self) -> Mapping[str, str]:
        """Operator types of the nodes of the model as it was given, by name."""
        if self.source is None:
            return {}
        return {**{n.name: n.op_type for n in self.source.nodes}, **nodes_inside(self.source)}

    def _between(self, ends: Ends, where: str) -> set[str]:
        """Names of the nodes on any path from one tensor to another."""
        pair = self._ends(ends, where)
        if pair is None:
            return set()
        start, end = pair
        found = _downstream(self.graph, start) & _upstream(self.graph, end)
        if found:
            return found
        back = _downstream(self.graph, end) & _upstream(self.graph, start)
        first, last = f"{self._prefix}{start}", f"{self._prefix}{end}"
        raise ConfigError(
            f"no path leads from tensor {first!r} to tensor {last!r}",
            where=where,
            hint=f"there is one from {last!r} to {first!r}: swap them" if back else "name tensors on one path of data",
        )

    def _ends(self, ends: Ends, where: str) -> tuple[str, str] | None:
        """The two tensors as they are called in this graph; None where they lie in another one."""
        if not isinstance(ends, str):
            splits = [(str(ends[0]), str(ends[1]))]
        else:
            # A tensor's name may hold ":" itself (TensorFlow's do): every place to split is tried.
            splits = [(ends[:i], ends[i + 1 :]) for i, letter in enumerate(ends) if letter == ":"]
        for start, end in splits:
            if self._is_own(start) and self._is_own(end):
                return start.removeprefix(self._prefix), end.removeprefix(self._prefix)
        if not self.checked:
            return None
        if not splits:
            raise ConfigError(f"{ends!r} does not name two tensors", where=where, hint="write them as FROM:TO")
        known = _all_tensors(self.graph)
        pair = max(splits, key=lambda split: sum(name in known for name in split))
        for name in pair:
            if name not in known:
                gone = {} if self.source is None else _all_tensors(self.source)
                raise unmatched("tensor", name, known, where, gone=gone)
        if known[pair[0]] != known[pair[1]]:
            raise ConfigError(
                f"tensors {pair[0]!r} and {pair[1]!r} lie in different graphs",
                where=where,
                hint="name two of one graph: both outside of If, Loop and Scan, or both in the same body",
            )
        return None

    def _is_own(self, name: str) -> bool:
        """Whether a tensor of this graph is called so in the model."""
        return name.startswith(self._prefix) and self.graph.exists(name.removeprefix(self._prefix))


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


def _all_tensors(graph: Graph) -> dict[str, str]:
    """The tensors of a model by name with the path, and the path of each, which ends in a slash or is empty."""
    return {f"{path}{name}": path for path, one in (("", graph), *graphs_inside(graph)) for name in _tensors(one)}


def _tensors(graph: Graph) -> list[str]:
    return [*graph.inputs, *(t for n in graph.nodes for t in n.output if t), *graph.initializers]


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
