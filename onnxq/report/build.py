"""Puts a report together from a plan, the parameters and a verification."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import Any

from onnxq.numerics.qparams import QuantParams
from onnxq.planning.kept_reasons import KeptReasons
from onnxq.planning.plan import Action, QuantPlan
from onnxq.report.contents import DataFacts, NodeCounts, TensorRow
from onnxq.report.details import Details
from onnxq.report.differences import differences, executed_mac_share
from onnxq.report.report import Report
from onnxq.report.rows import WeightQuality, layer_rows, tensor_rows
from onnxq.verification.check import Check
from onnxq.verification.compare import OutputError
from onnxq.verification.engines.result import EngineReport, NodeExecution, Precision
from onnxq.verification.verify import VerifyResult
from onnxq.wording.plural import counted

TRAINING = "training"
"""How ranges were found that came with the model: the beginning of `RunFacts.method`."""

POOR_SQNR_DB = 10.0
"""Below it errors are a third of the signal: classifiers mostly survive 15 dB, regressions do not."""

_LAYERS = "eeping the first and last layers in float with exclude=... (--exclude)"

_TOO_FEW_SAMPLES = 8
"""Of fewer, the largest value seen says little about the largest that there is."""


@dataclass(frozen=True, kw_only=True)
class RunFacts:
    """What a report says about the run itself.

    Attributes:
        method: Calibration method; None where onnxq did not choose the ranges.
        recovery: Steps that won back accuracy; None where onnxq did not make the model, or the mode has no such steps.
        size_before_bytes: Size of the float model, external data included.
        size_after_bytes: Size of the quantized one.
        data: What was measured on.
        output_path: Where the quantized model lies.
        output_data_path: The file of its weights, where they do not fit into the model's own.
        model_name: What the quantized model is called; the name of its file unless given.
        quantized_path: Where the quantized model was read, if it was not made in this run.
        float_path: Where the float model lies; None where it came from memory.
        options: The options that shaped the model, with JSON's values; None where it was not made in this run.
        warnings: Plain sentences: what is wrong, and what to do.
        notes: Facts worth knowing (which target was picked, what of the data was left out).
        seconds: Time taken, by step.
    """

    method: str | None = None
    recovery: tuple[str, ...] | None = None
    size_before_bytes: int = 0
    size_after_bytes: int = 0
    data: DataFacts | None = None
    output_path: str | None = None
    output_data_path: str | None = None
    model_name: str = ""
    quantized_path: str | None = None
    float_path: str | None = None
    options: Mapping[str, Any] | None = None
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
    rows: tuple[TensorRow, ...] = (),
    reasons: KeptReasons | None = None,
    details: Details | None = None,
) -> Report:
    """The report of one run.

    Args:
        verification: What the engine and the comparison said.
        facts: The run itself.
        plan: The plan; None for a model that onnxq did not quantize.
        qparams: Parameters by tensor name.
        extra_checks: Gates that the user asked for.
        qualities: How near weights come out, by key of the plan.
        rows: Quantized tensors, of a model that onnxq did not quantize.
        reasons: Why nodes were left in float, by the metadata of a model that was not quantized in this run.
        details: What was measured for a report that is looked at.

    Returns:
        A report whose warnings begin with synthetic data, if the data was synthetic.
    """
    engine = verification.engine
    details = details or Details()
    layers = layer_rows(plan, engine, verification.account, details, reasons)
    planned_share = None if plan is None else int8_mac_share(plan)
    made_up = facts.data is not None and (facts.data.synthetic or facts.data.synthetic_comparison)
    warnings = (
        *_data_warnings(facts.data),
        *(() if made_up else verification.doubts),
        *_accuracy_warnings(verification.outputs, facts),
        *facts.warnings,
        *verification.warnings,
    )
    return Report(
        target=verification.target,
        method=facts.method,
        recovery=facts.recovery,
        checks=(*verification.checks, *extra_checks),
        planned=planned_counts(plan) if plan is not None else None,
        proven=proven_counts(engine),
        asked=_counted(verification.account) if plan is None and verification.account else None,
        violations=verification.violations,
        engine=engine,
        int8_mac_share=planned_share,
        proven_mac_share=None if plan is None or planned_share is None else executed_mac_share(layers, plan),
        differences=differences(plan, engine),
        size_before_bytes=facts.size_before_bytes,
        size_after_bytes=facts.size_after_bytes,
        outputs=verification.outputs,
        warnings=warnings,
        notes=facts.notes,
        data=facts.data,
        seconds=facts.seconds,
        output_path=facts.output_path,
        output_data_path=facts.output_data_path,
        layers=layers,
        tensors=tensor_rows(plan, qparams or {}, qualities or {}, details) or rows,
        model_name=facts.model_name or ("" if facts.output_path is None else PurePath(facts.output_path).name),
        quantized_path=facts.quantized_path,
        float_path=facts.float_path,
        options=facts.options,
        latency=details.latency,
        drawing=details.drawing,
        sensitivity=details.sensitivity,
    )


def planned_counts(plan: QuantPlan) -> NodeCounts:
    """Nodes by the plan's decisions."""
    count = {action: sum(d.action is action for d in plan.nodes) for action in Action}
    return NodeCounts(
        int8=count[Action.INT8],
        fused=count[Action.FUSED],
        weights=count[Action.WEIGHTS],
        float=count[Action.FLOAT],
        other=count[Action.OTHER],
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
    if data is not None and 0 < data.samples < _TOO_FEW_SAMPLES:
        return (
            f"The ranges come from {counted(data.samples, 'sample')}, and other inputs will lie outside. Calibrate "
            "with a few hundred: data=... (--data SRC), and limit= (--limit) if you set it.",
        )
    return ()


def _accuracy_warnings(outputs: tuple[OutputError, ...], facts: RunFacts) -> tuple[str, ...]:
    """Outputs so far from the float model's that a user should look at a metric of their own.

    Ranges of a training stay what they are, whatever samples and method.
    """
    poor = [o for o in outputs if o.sqnr_db is not None and o.sqnr_db < POOR_SQNR_DB]
    if not poor:
        return ()
    worst = min(poor, key=lambda o: o.sqnr_db if o.sqnr_db is not None else 0.0)
    trained = facts.method is not None and facts.method.startswith(TRAINING)
    known = trained or (facts.data is not None and facts.data.from_statistics)
    far = f"Output {worst.name!r} is far from the float model's ({worst.sqnr_db:.1f} dB SQNR)"
    if facts.data is not None and facts.data.synthetic_comparison and not facts.data.synthetic and known:
        return (f"{far}. Made-up inputs may reach beyond ranges that real ones gave, where codes end.",)
    ways = f"K{_LAYERS}" if trained else f"More samples, another method=... (--method) or k{_LAYERS}"
    return (f"{far}: check the accuracy on labelled data before deploying. {ways} may help.",)
