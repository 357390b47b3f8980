"""The parts of a placement that can change over on their own."""

from __future__ import annotations

from collections.abc import Collection, Iterator

from onnxq.graph.view import Graph
from onnxq.planning.groups import Groups
from onnxq.planning.plan import Action, QuantPlan

_MOST_NAMED = 2


def blocks(
    graph: Graph, plan: QuantPlan, kernels: Collection[str], dear: Collection[str], handing: Collection[str] = ()
) -> Iterator[tuple[str, frozenset[str]]]:
    """Sets of nodes to take from int8 to float together, or back.

    Args:
        graph: The float graph.
        plan: The placement to change.
        kernels: Operator types with weights.
        dear: Nodes that are in float because their costs say so.
        handing: Types of operators that hand codes on where the plan has them in float: where pairs stand on inputs,
            the engine sees to that.

    Yields:
        A name and the nodes: first the int8 regions, of which there may be one, then every int8 node with weights, then
        every node of `dear` with weights.
    """
    int8 = [d.node for d in plan.nodes if d.action is Action.INT8 and d.op in kernels]
    regions = _regions(graph, plan, handing)
    found: dict[str, list[str]] = {}
    for name in int8:
        found.setdefault(regions.group_of(name) or name, []).append(name)
    if len(found) > 1:
        for members in found.values():
            yield _title(members), frozenset(members)
    for name in int8:
        yield _title([name]), frozenset([name])
    for decision in plan.nodes:
        if decision.node in dear and decision.op in kernels:
            yield _title([decision.node]), frozenset([decision.node])


def _regions(graph: Graph, plan: QuantPlan, handing: Collection[str]) -> Groups:
    """Int8 nodes that hand codes to each other."""
    running = {
        d.node
        for d in plan.nodes
        if d.action not in (Action.FLOAT, Action.OTHER) or (d.action is Action.FLOAT and d.op in handing)
    }
    groups = Groups()
    for name in running:
        for tensor in graph.node(name).input:
            node = graph.producer(tensor) if tensor else None
            if node is not None and node.name in running:
                groups.union([node.name, name])
    return groups


def _title(members: list[str]) -> str:
    named = ", ".join(repr(name) for name in members[:_MOST_NAMED])
    return named if len(members) <= _MOST_NAMED else f"{named} and {len(members) - _MOST_NAMED} more"
