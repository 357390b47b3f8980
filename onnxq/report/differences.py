"""Why the counts of a plan and those of the engine differ, in sentences.

A plan counts the nodes of the float model, an engine those of the quantized one, as it runs them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from onnxq.graph.subgraphs import BODIES
from onnxq.planning.plan import Action, QuantPlan
from onnxq.report.contents import LayerRow
from onnxq.verification.engines.result import EngineReport, NodeExecution, Precision
from onnxq.wording.plural import counted

_CALLED = {"int8": "on codes", "fused": "fused", "weights": "in float with weights in few bits", "float": "in float"}
_ON_CODES = frozenset({"int8", "fused"})


def executed_mac_share(rows: Sequence[LayerRow], plan: QuantPlan) -> float | None:
    """Share of the multiply-accumulates that the engine runs in int8, 0 to 1; None where that is not known.

    Args:
        rows: The plan's nodes with what the engine made of them.
        plan: The plan, its arithmetic counted.
    """
    whole = sum(d.macs or 0 for d in plan.nodes)
    if not whole or any(d.macs is None for d in plan.nodes) or not any(row.executed for row in rows):
        return None
    return sum(row.macs for row in rows if row.executed == "int8") / whole


def differences(plan: QuantPlan | None, engine: EngineReport | None) -> tuple[str, ...]:
    """What makes the engine's counts others than the plan's; nothing where both agree or one of them is missing."""
    if plan is None or engine is None or not engine.nodes:
        return ()
    ran = {n.node: n for n in engine.nodes}
    planned = {d.node for d in plan.nodes}
    return (
        *_other_kind(plan, ran),
        *_uncounted(plan, ran),
        *_added([n for n in engine.nodes if n.node not in planned and n.precision is not Precision.OTHER]),
    )


def _other_kind(plan: QuantPlan, ran: Mapping[str, NodeExecution]) -> Iterable[str]:
    """Nodes that run in another way than planned."""
    found: dict[tuple[str, str], list[NodeExecution]] = {}
    for decision in plan.nodes:
        one = ran.get(decision.node)
        if one is None or one.precision is Precision.OTHER or decision.action is Action.OTHER:
            continue
        if decision.action.value != one.precision.value:
            found.setdefault((decision.action.value, one.precision.value), []).append(one)
    for (meant, does), nodes in found.items():
        first = nodes[0]
        why = f": {first.why}" if first.why else ""
        if not why and meant == "float" and does in _ON_CODES:
            why = ": it stands between nodes on codes, and the engine moved the conversion past it"
        yield (
            f"{counted(len(nodes), 'node')} planned {_CALLED[meant]} {'runs' if len(nodes) == 1 else 'run'} "
            f"{_CALLED[does]}, like {first.op} {first.node!r}{why}"
        )


def _uncounted(plan: QuantPlan, ran: Mapping[str, NodeExecution]) -> Iterable[str]:
    """Nodes of the plan that no engine's count holds."""
    idle = {name for name, one in ran.items() if one.precision is Precision.OTHER}
    without = sum(d.action is Action.OTHER and (d.node in idle or d.node not in ran) for d in plan.nodes)
    gone = [d for d in plan.nodes if d.action is not Action.OTHER and (d.node in idle or d.node not in ran)]
    bodies = [f"{d.node}/{name}/" for d in plan.nodes for name in BODIES.get(d.op, ())]
    asked = {_home(name, bodies) for name in ran} | {""}
    unasked = [d for d in gone if _home(d.node, bodies) not in asked]
    gone = [d for d in gone if d not in unasked]
    if unasked:
        yield (
            f"{counted(len(unasked), 'node')} inside If, Loop or Scan where nothing is quantized "
            f"{'is' if len(unasked) == 1 else 'are'} not counted there, like {unasked[0].op} {unasked[0].node!r}"
        )
    if without:
        yield f"{counted(without, 'node')} without float values {'is' if without == 1 else 'are'} not counted there"
    if gone:
        yield (
            f"{counted(len(gone), 'node')} {'is' if len(gone) == 1 else 'are'} gone when the engine runs, computed "
            f"while loading or needless, like {gone[0].op} {gone[0].node!r}"
        )


def _home(node: str, bodies: Iterable[str]) -> str:
    """The body that a node lies in, of those at the paths `bodies`; "" for the model's own graph."""
    return max((path for path in bodies if node.startswith(path)), key=len, default="")


def _added(nodes: Sequence[NodeExecution]) -> Iterable[str]:
    """Nodes of the quantized model that the float model does not have."""
    if not nodes:
        return
    kinds = [(kind, sum(n.precision is kind for n in nodes)) for kind in Precision]
    parts = ", ".join(f"{count} {_CALLED[kind.value]}" for kind, count in kinds if count)
    yield (
        f"{counted(len(nodes), 'node')} more: what quantizing wrote beside the plan's nodes ({parts}), like "
        f"{nodes[0].op} {nodes[0].node!r}"
    )
