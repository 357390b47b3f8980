"""The rows of a report: one for each node, one for each quantized tensor."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Protocol

import numpy as np

from onnxq.numerics.qparams import QuantParams
from onnxq.planning.kept_reasons import KeptReasons
from onnxq.planning.plan import Action, Derived, Fixed, FromValues, Observed, QuantPlan, SharedWith, Source, TensorPlan
from onnxq.report.contents import LayerRow, TensorRow
from onnxq.report.details import Details
from onnxq.report.ranges import ends
from onnxq.verification.engines.result import EngineReport, NodeExecution

_LISTED_SCALES = 2**16
"""Scales of one tensor that a report lists."""


class WeightQuality(Protocol):
    """How near the codes of a weight are."""

    @property
    def sqnr_db(self) -> float: ...  # signal to noise of the weight itself

    @property
    def method(self) -> str: ...  # how its codes were chosen


def layer_rows(
    plan: QuantPlan | None,
    engine: EngineReport | None,
    account: Sequence[NodeExecution],
    details: Details,
    reasons: KeptReasons | None = None,
) -> tuple[LayerRow, ...]:
    """One row for each node: what was decided, what the engine did, and how near its output is.

    Args:
        plan: The plan; None for a model that was not quantized in this run.
        engine: The engine's account; None where it was not asked.
        account: How each node runs by the target's rules, where its engine tells nothing of nodes.
        details: What was measured of single tensors.
        reasons: Why the plan left nodes in float, where there is no plan and the model's metadata tell.
    """
    ran: dict[str, NodeExecution] = {n.node: n for n in engine.nodes} if engine is not None else {}
    if plan is not None:
        rows = [
            LayerRow(node=d.node, op=d.op, decision=d.action.value, reason=d.reason, rule=d.rule, macs=d.macs or 0)
            for d in plan.nodes
        ]
    elif ran:
        rows = [LayerRow(node=n.node, op=n.op, decision="", reason="", rule="") for n in ran.values()]
    else:
        rows = [LayerRow(node=n.node, op=n.op, decision=n.precision.value, reason=n.why, rule=n.rule) for n in account]
    whole = (_with_execution(row, ran.get(row.node)) for row in rows)
    kept = reasons or KeptReasons()
    return tuple(_with_error(row if plan is not None else _with_reason(row, kept), details) for row in whole)


def _with_reason(row: LayerRow, reasons: KeptReasons) -> LayerRow:
    """A row of a node in float with what the plan said of it."""
    found = reasons.of(row.node, row.op) if (row.executed or row.decision) == Action.FLOAT.value else None
    return row if found is None else replace(row, decision=Action.FLOAT.value, reason=found[0], rule=found[1])


def _with_execution(row: LayerRow, ran: NodeExecution | None) -> LayerRow:
    if ran is None:
        return row
    return replace(row, rule=row.rule or ran.rule, executed=ran.precision.value, engine_op=ran.engine_op, why=ran.why)


def _with_error(row: LayerRow, details: Details) -> LayerRow:
    output = details.outputs.get(row.node, "")
    error = details.errors.get(output)
    if error is None or error.sqnr_db is None:
        return replace(row, output=output)
    exact = error.is_sound and error.mismatch_share == 0.0
    return replace(row, output=output, sqnr_db=error.sqnr_db if math.isfinite(error.sqnr_db) else None, exact=exact)


def tensor_rows(
    plan: QuantPlan | None,
    qparams: Mapping[str, QuantParams],
    qualities: Mapping[str, WeightQuality],
    details: Details,
) -> tuple[TensorRow, ...]:
    """One row for each quantized tensor."""
    planned = plan.tensors if plan is not None else {}
    writers = {tensor: node for node, tensor in details.outputs.items()}
    rows = {name: _tensor_row(name, params, planned.get(name)) for name, params in qparams.items()}
    for name, quality in qualities.items():
        row = rows.get(name) or _without_parameters(name, planned[name])
        rows[name] = replace(row, sqnr_db=quality.sqnr_db, rounding=quality.method)
    return tuple(
        replace(row, values=details.ranges.get(name), writer=writers.get(name, "")) for name, row in rows.items()
    )


def _without_parameters(name: str, planned: TensorPlan) -> TensorRow:
    """The row of a weight that has too many scales to be kept."""
    spec = planned.spec
    return TensorRow(
        name=name,
        role=planned.role.value,
        dtype=spec.qtype.name,
        axis=spec.axis,
        scale=(),
        zero_point=(),
        rmin=math.nan,
        rmax=math.nan,
        source=origin_text(planned),
        readers=_readers(planned),
        block_size=spec.block_size,
    )


def _tensor_row(name: str, params: QuantParams, planned: TensorPlan | None) -> TensorRow:
    spec = params.spec
    scale = params.scale.astype(np.float64).reshape(-1)
    zero_point = params.zero_point.astype(np.int64).reshape(-1)
    rmin, rmax = ends(params)
    return TensorRow(
        name=name,
        role=planned.role.value if planned is not None else "",
        dtype=spec.qtype.name,
        axis=spec.axis,
        scale=tuple(scale.tolist()) if scale.size <= _LISTED_SCALES else (),
        zero_point=tuple(zero_point.tolist()) if scale.size <= _LISTED_SCALES else (),
        rmin=rmin,
        rmax=rmax,
        source=origin_text(planned) if planned is not None else "",
        group=planned.group if planned is not None else None,
        readers=() if planned is None else _readers(planned),
        block_size=spec.block_size,
    )


def _readers(planned: TensorPlan) -> tuple[str, ...]:
    return tuple(dict.fromkeys(use.node for use in planned.uses))


def origin_text(tensor: TensorPlan) -> str:
    """Where the parameters of a tensor come from, with a method of its own."""
    return source_text(tensor.source) + ("" if tensor.method is None else f", method {tensor.method.label}")


def _cut(source: Observed | Fixed) -> str:
    bounds = [f"{b:g}" for b in (source.lower, source.upper) if b is not None]
    return f", cut at {' and '.join(bounds)}" if bounds else ""


def source_text(source: Source) -> str:
    """Where parameters come from, in words."""
    if isinstance(source, Observed):
        reach = "" if source.reach is None else f", at least [{source.reach[0]:g}, {source.reach[1]:g}]"
        return "observed" + _cut(source) + reach
    if isinstance(source, Fixed):
        return f"fixed to [{source.rmin:g}, {source.rmax:g}]" + _cut(source)
    if isinstance(source, SharedWith):
        return f"shared with {source.tensor!r}"
    if isinstance(source, Derived):
        return f"derived from {source.data!r} and {source.weight!r}"
    if isinstance(source, FromValues) and source.amax is not None:
        return f"given: amax {source.amax:g}"
    if isinstance(source, FromValues):
        return "its own values"
    return type(source).__name__
