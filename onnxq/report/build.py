"""Puts a report together from a plan, the parameters and a verification."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

import numpy as np

from onnxq.numerics.qparams import QuantParams
from onnxq.planning.plan import Action, Derived, Fixed, FromValues, Observed, QuantPlan, SharedWith, Source, TensorPlan
from onnxq.report.report import DataFacts, LayerRow, NodeCounts, Report, TensorRow
from onnxq.verification.check import Check
from onnxq.verification.compare import OutputError
from onnxq.verification.engines.result import EngineReport, NodeExecution, Precision
from onnxq.verification.verify import VerifyResult

POOR_SQNR_DB = 10.0
"""Below it errors are a third of the signal: classifiers mostly survive 15 dB, regressions do not."""


_LISTED_SCALES = 2**16
"""Scales of one tensor that a report lists."""


class WeightQuality(Protocol):
    """How near the codes of a weight are."""

    @property
    def sqnr_db(self) -> float: ...  # signal to noise of the weight itself

    @property
    def method(self) -> str: ...  # how its codes were chosen


@dataclass(frozen=True, kw_only=True)
class RunFacts:
    """What a report says about the run itself.

    Attributes:
        method: Calibration method; None where onnxq did not choose the ranges.
        size_before_bytes: Size of the float model, external data included.
        size_after_bytes: Size of the quantized one.
        data: What was measured on.
        output_path: Where the quantized model lies.
        output_data_path: The file of its weights, where they do not fit into the model's own.
        warnings: Plain sentences: what is wrong, and what to do.
        notes: Facts worth knowing (which target was picked, what of the data was left out).
        seconds: Time taken, by step.
    """

    method: str | None = None
    size_before_bytes: int = 0
    size_after_bytes: int = 0
    data: DataFacts | None = None
    output_path: str | None = None
    output_data_path: str | None = None
    warnings: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    seconds: Mapping[str, float] = field(default_factory=dict)


def build_report(  # noqa: PLR0913 - what a report is put together from
    verification: VerifyResult,
    facts: RunFacts,
    *,
    plan: QuantPlan | None = None,
    qparams: Mapping[str, QuantParams] | None = None,
    extra_checks: tuple[Check, ...] = (),
    qualities: Mapping[str, WeightQuality] | None = None,
) -> Report:
    """The report of one run.

    Args:
        verification: What the engine and the comparison said.
        facts: The run itself.
        plan: The plan; None for a model that onnxq did not quantize.
        qparams: Parameters by tensor name.
        extra_checks: Gates that the user asked for.
        qualities: How near weights come out, by key of the plan.

    Returns:
        A report whose warnings begin with synthetic data, if the data was synthetic.
    """
    engine = verification.engine
    warnings = (
        *_data_warnings(facts.data),
        *_accuracy_warnings(verification.outputs),
        *facts.warnings,
        *verification.warnings,
    )
    return Report(
        target=verification.target,
        method=facts.method,
        checks=(*verification.checks, *extra_checks),
        planned=planned_counts(plan) if plan is not None else None,
        proven=proven_counts(engine),
        asked=_counted(verification.account) if plan is None and verification.account else None,
        violations=verification.violations,
        engine=engine,
        int8_mac_share=int8_mac_share(plan) if plan is not None else None,
        size_before_bytes=facts.size_before_bytes,
        size_after_bytes=facts.size_after_bytes,
        outputs=verification.outputs,
        warnings=warnings,
        notes=facts.notes,
        data=facts.data,
        seconds={**facts.seconds, **verification.seconds},
        output_path=facts.output_path,
        output_data_path=facts.output_data_path,
        layers=_layers(plan, engine, verification.account),
        tensors=_tensors(plan, qparams or {}, qualities or {}),
    )


def planned_counts(plan: QuantPlan) -> NodeCounts:
    """Nodes by the plan's decisions."""
    count = {action: sum(d.action is action for d in plan.nodes) for action in Action}
    return NodeCounts(
        int8=count[Action.INT8],
        fused=count[Action.FUSED],
        weights=count[Action.WEIGHTS],
        float=count[Action.FLOAT],
    )


def proven_counts(engine: EngineReport | None) -> NodeCounts | None:
    """Nodes as the engine runs them, without shape arithmetic and constants; None where it tells nothing of nodes."""
    if engine is None or not engine.nodes:
        return None
    return _counted(engine.nodes)


def _counted(nodes: Sequence[NodeExecution]) -> NodeCounts:
    count = Counter(n.precision for n in nodes)
    return NodeCounts(
        int8=count[Precision.INT8],
        fused=count[Precision.FUSED],
        weights=count[Precision.WEIGHTS],
        float=count[Precision.FLOAT],
    )


def int8_mac_share(plan: QuantPlan) -> float | None:
    """Share of the plan's multiply-accumulates in int8 nodes, 0 to 1; None where some are unknown."""
    if any(d.action is Action.WEIGHTS for d in plan.nodes) and not any(d.action is Action.INT8 for d in plan.nodes):
        return None  # nothing was to compute in int8
    known = [d.macs for d in plan.nodes if d.macs is not None]
    if len(known) < len(plan.nodes) or not any(known):
        return None
    return sum(d.macs or 0 for d in plan.nodes if d.action is Action.INT8) / sum(known)


def _data_warnings(data: DataFacts | None) -> tuple[str, ...]:
    if data is not None and data.synthetic:
        return (
            "The ranges come from SYNTHETIC inputs: accuracy on real inputs is unknown and probably poor. "
            "Calibrate with a few hundred real samples: data=... (--data SRC).",
        )
    if data is not None and data.synthetic_comparison:
        return ("The errors were measured on synthetic inputs; measure on real ones with data=... (--data SRC).",)
    return ()


def _accuracy_warnings(outputs: tuple[OutputError, ...]) -> tuple[str, ...]:
    """Outputs so far from the float model's that a user should look at a metric of their own."""
    poor = [o for o in outputs if o.sqnr_db is not None and o.sqnr_db < POOR_SQNR_DB]
    if not poor:
        return ()
    worst = min(poor, key=lambda o: o.sqnr_db if o.sqnr_db is not None else 0.0)
    return (
        f"Output {worst.name!r} is far from the float model's ({worst.sqnr_db:.1f} dB SQNR): check the accuracy on "
        "labelled data before deploying. More samples, another method=... (--method) or keeping the first and last "
        "layers in float with exclude=... (--exclude) may help.",
    )


def _layers(
    plan: QuantPlan | None, engine: EngineReport | None, account: Sequence[NodeExecution]
) -> tuple[LayerRow, ...]:
    ran: dict[str, NodeExecution] = {n.node: n for n in engine.nodes} if engine is not None else {}
    if plan is None and not ran:
        return tuple(
            LayerRow(node=n.node, op=n.op, decision=n.precision.value, reason=n.why, rule=n.rule) for n in account
        )
    if plan is None:
        return tuple(
            _with_execution(LayerRow(node=n.node, op=n.op, decision="", reason="", rule=""), n) for n in ran.values()
        )
    rows = (
        LayerRow(node=d.node, op=d.op, decision=d.action.value, reason=d.reason, rule=d.rule, macs=d.macs or 0)
        for d in plan.nodes
    )
    return tuple(_with_execution(row, ran.get(row.node)) for row in rows)


def _with_execution(row: LayerRow, ran: NodeExecution | None) -> LayerRow:
    if ran is None:
        return row
    return LayerRow(
        node=row.node, op=row.op, decision=row.decision, reason=row.reason, rule=row.rule or ran.rule, macs=row.macs,
        executed=ran.precision.value, engine_op=ran.engine_op, why=ran.why,
    )  # fmt: skip


def _tensors(
    plan: QuantPlan | None, qparams: Mapping[str, QuantParams], qualities: Mapping[str, WeightQuality]
) -> tuple[TensorRow, ...]:
    planned = plan.tensors if plan is not None else {}
    rows = {name: _tensor_row(name, params, planned.get(name)) for name, params in qparams.items()}
    for name, quality in qualities.items():
        row = rows.get(name) or _without_parameters(name, planned[name])
        rows[name] = replace(row, sqnr_db=quality.sqnr_db, rounding=quality.method)
    return tuple(rows.values())


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
        block_size=spec.block_size,
    )


def _tensor_row(name: str, params: QuantParams, planned: TensorPlan | None) -> TensorRow:
    spec = params.spec
    scale = params.scale.astype(np.float64).reshape(-1)
    zero_point = params.zero_point.astype(np.int64).reshape(-1)
    return TensorRow(
        name=name,
        role=planned.role.value if planned is not None else "",
        dtype=spec.qtype.name,
        axis=spec.axis,
        scale=tuple(scale.tolist()) if scale.size <= _LISTED_SCALES else (),
        zero_point=tuple(zero_point.tolist()) if scale.size <= _LISTED_SCALES else (),
        rmin=float(((spec.qmin - zero_point) * scale).min()),
        rmax=float(((spec.qmax - zero_point) * scale).max()),
        source=origin_text(planned) if planned is not None else "",
        group=planned.group if planned is not None else None,
        block_size=spec.block_size,
    )


def origin_text(tensor: TensorPlan) -> str:
    """Where the parameters of a tensor come from, with a method of its own."""
    return source_text(tensor.source) + ("" if tensor.method is None else f", method {tensor.method.label}")


def _cut(source: Observed | Fixed) -> str:
    bounds = [f"{b:g}" for b in (source.lower, source.upper) if b is not None]
    return f", cut at {' and '.join(bounds)}" if bounds else ""


def source_text(source: Source) -> str:
    """Where parameters come from, in words."""
    if isinstance(source, Observed):
        return "observed" + _cut(source)
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
