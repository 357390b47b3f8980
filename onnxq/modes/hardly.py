"""Tells a user whose model was hardly quantized, why, and what quantizes more of it."""

from __future__ import annotations

from collections import Counter

from onnxq.graph.view import Graph
from onnxq.planning.modes import DYNAMIC, STATIC, WEIGHT_ONLY
from onnxq.planning.plan import Action, QuantPlan
from onnxq.report.build import int8_mac_share
from onnxq.report.weight_shares import is_code, weight_shares
from onnxq.wording.plural import counted

_HARDLY = 0.01
"""Share of the arithmetic, or of the weights, below which nearly all of a model is as it was."""
_WAYS_OUT = {
    STATIC: "placement='full' (--placement full) quantizes whatever has a kernel, faster or not",
    DYNAMIC: "mode='static' (--mode static), with samples, has kernels for more operators",
    WEIGHT_ONLY: "placement='full' (--placement full) stores weights of Conv, LSTM and GRU as int8, too",
}
_CHOSEN = {
    "budget": "a looser demand, or the same one of a model that is quantized with more care: recover='best' (--recover "
    "best), more samples, another method= (--method)",
    "user": "include more nodes or exclude fewer (--include, --exclude and the like)",
}
"""The way out where a rule of this name keeps most of the arithmetic in float, whatever the mode."""


def hardly_quantized(plan: QuantPlan, quantized: Graph, mode: str) -> tuple[str, ...]:
    """A warning where next to nothing of a model was quantized; nothing elsewhere, or where that is not known.

    Args:
        plan: The whole plan, its arithmetic counted.
        quantized: The quantized model.
        mode: How it was quantized.
    """
    weights = mode == WEIGHT_ONLY
    what = "weights are stored in few bits" if weights else "arithmetic is in int8"
    share = _coded_share(quantized) if weights else _int8_share(plan)
    if share is None or share >= _HARDLY:
        return ()
    done = sum(d.action in (Action.INT8, Action.WEIGHTS) for d in plan.nodes)
    much = (
        "nothing was quantized"
        if not done
        else f"hardly anything was quantized ({done} of {counted(len(plan.nodes), 'node')})"
    )
    reasons = Counter[tuple[str, str]]()
    for decision in plan.nodes:
        if decision.action is Action.FLOAT:
            reasons[decision.reason, decision.rule] += decision.macs or 0
    # Where nothing is known of the arithmetic, the first reason stands for all.
    reason, rule = max(reasons, key=lambda key: reasons[key]) if reasons else ("", "")
    why = f" Most of the rest: {reason}." if reason else ""
    return (f"{much}: {share:.1%} of the {what}.{why} The way out: {_CHOSEN.get(rule, _WAYS_OUT[mode])}.",)


def _int8_share(plan: QuantPlan) -> float | None:
    """Share of the arithmetic in int8; none of it where no node is, whatever the sizes."""
    return int8_mac_share(plan) if any(d.action is Action.INT8 for d in plan.nodes) else 0.0


def _coded_share(quantized: Graph) -> float:
    """Share of the weights that are codes."""
    return sum(share for name, share in weight_shares(quantized.copy()).items() if is_code(name))
