"""The plan's reasons for float, kept in the metadata of a quantized model so that whoever reads it later can give them.

    onnxq.float    JSON list of {"reason", "rule", "ops": [..], "nodes": [..]}

Under "ops" stand operators of which every node in the model stays float for that reason; all others are named.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from onnxq.graph.messages import bodies, nodes_within
from onnxq.graph.view import Graph
from onnxq.planning.plan import Action, QuantPlan

REASONS_KEY = "onnxq.float"

Reason = tuple[str, str]
"""A sentence without full stop, and the rule behind it ("" for none)."""


@dataclass(frozen=True, kw_only=True)
class KeptReasons:
    """Why nodes of a quantized model were left in float.

    Attributes:
        nodes: By name, with the path of what is in subgraphs.
        ops: By operator type, of those whose nodes all were.
    """

    nodes: Mapping[str, Reason] = field(default_factory=dict)
    ops: Mapping[str, Reason] = field(default_factory=dict)

    def of(self, node: str, op: str) -> Reason | None:
        """The reason for one node; None where the model keeps none."""
        return self.nodes.get(node) or self.ops.get(op)

    def when_made_for(self, target: str) -> KeptReasons:
        """The same, said to be those of `target`: for a report on how another engine runs the model."""

        def told(reasons: Mapping[str, Reason]) -> dict[str, Reason]:
            return {name: (f"when made for {target}: {text}", rule) for name, (text, rule) in reasons.items()}

        return KeptReasons(nodes=told(self.nodes), ops=told(self.ops))


def reasons_text(plan: QuantPlan, quantized: Graph) -> str:
    """What the metadata hold: the reasons of `plan` for the nodes in float; "" where there are none.

    Args:
        plan: The whole plan, that of subgraphs included.
        quantized: The model made by it, whose nodes may be more than those of the plan.
    """
    decided = {d.node: (d.reason, d.rule) for d in plan.nodes if d.action is Action.FLOAT}
    whole = _whole_operators(quantized, decided)
    rows: dict[Reason, dict[str, list[str]]] = {}
    for op, reason in whole.items():
        rows.setdefault(reason, {}).setdefault("ops", []).append(op)
    for decision in plan.nodes:
        here = quantized.has_node(decision.node)
        if decision.node in decided and not (here and quantized.node(decision.node).op_type in whole):
            reason = decided[decision.node]
            rows.setdefault(reason, {}).setdefault("nodes", []).append(decision.node)
    listed = [{"reason": text, **({"rule": rule} if rule else {}), **names} for (text, rule), names in rows.items()]
    return json.dumps(listed, separators=(",", ":"), ensure_ascii=False) if listed else ""


def kept_reasons(metadata: Mapping[str, str]) -> KeptReasons:
    """What the metadata of a model hold; of damaged ones, nothing, for they explain and decide nothing."""
    try:
        rows = json.loads(metadata.get(REASONS_KEY, "[]"))
        nodes = {name: reason for reason, row in _read(rows) for name in row.get("nodes", ())}
        ops = {name: reason for reason, row in _read(rows) for name in row.get("ops", ())}
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return KeptReasons()
    return KeptReasons(nodes=nodes, ops=ops)


def _read(rows: Iterable[Mapping[str, Any]]) -> list[tuple[Reason, Mapping[str, Any]]]:
    return [((str(row["reason"]), str(row.get("rule", ""))), row) for row in rows]


def _whole_operators(quantized: Graph, decided: Mapping[str, Reason]) -> dict[str, Reason]:
    """Operators of which every node of the model was left in float for one reason."""
    reasons: dict[str, set[Reason | None]] = {}
    for node in quantized.nodes:
        reasons.setdefault(node.op_type, set()).add(decided.get(node.name))
        for body in bodies(node):
            for inner in nodes_within(body.node):  # their names are no paths
                reasons.setdefault(inner.op_type, set()).add(None)
    return {op: reason for op, found in reasons.items() if len(found) == 1 and (reason := next(iter(found)))}
