"""What all modes begin and end with: the request, and metadata, verification, report and file of a quantized model."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from onnxq.calibration.progress import Progress
from onnxq.calibration.runner import CollectOptions
from onnxq.calibration.solve import QParamsTable
from onnxq.calibration.statistics.table import StatsTable, TensorStats
from onnxq.data.batches import Batches
from onnxq.graph.model import ModelSource, save_model, set_metadata, size_bytes
from onnxq.graph.saving import data_file, needs_data_file, self_contained
from onnxq.graph.view import Graph
from onnxq.graph.weights_file import WeightsFile, name_file
from onnxq.modes.details import Calibrated, details_of
from onnxq.modes.hardly import hardly_quantized
from onnxq.modes.recorded_options import OPTIONS_KEY
from onnxq.modes.result import QuantizeResult
from onnxq.modes.slower import slower_notes, ways_out
from onnxq.pipeline.facts import Clock, Counted, likeness_to_float, path_of, source_facts
from onnxq.pipeline.reading import Reading
from onnxq.planning.kept_reasons import REASONS_KEY, reasons_text
from onnxq.planning.macs import plan_with_macs
from onnxq.planning.modes import STATIC
from onnxq.planning.options import PlanOptions
from onnxq.planning.plan import Action, QuantPlan, Role
from onnxq.report.build import RunFacts, build_report
from onnxq.report.contents import DataFacts
from onnxq.report.details import Details
from onnxq.report.gates import Gates
from onnxq.search.budget import Budget
from onnxq.search.reading import Judged, judged_by, open_for
from onnxq.search.result import SearchResult
from onnxq.targets.schema import Engine, Target
from onnxq.tuning.search import Tuning
from onnxq.verification.check import Check
from onnxq.verification.verify import VerifyResult, verify_model
from onnxq.version import VERSION
from onnxq.weight_only.kept import Quality
from onnxq.wording.plural import counted

_MOST = 0.5
"""Share of the arithmetic above which a user hears of a mode that runs it in int8."""


@dataclass(frozen=True, kw_only=True)
class Request:
    """What a user asked for, in any mode.

    Attributes:
        model: The float model as it was given.
        data: The data as they were given.
        target: The resolved table.
        target_note: What is to be said about the choice of the target.
        wanted: Which nodes, and how single ones differ.
        reading: How the data are read.
        collecting: How onnxruntime runs the model.
        output: Where to write; None for nowhere.
        force: Whether a file there may be replaced.
        options: The options that shaped the model, for its metadata.
        progress: Called now and then.
        details: Whether to measure what a report shows of the model's inside.
        gates: What is demanded of the report beyond its own checks.
    """

    model: ModelSource
    data: Any
    target: Target
    target_note: str | None
    wanted: PlanOptions
    reading: Reading
    collecting: CollectOptions
    output: Path | None = None
    force: bool = False
    options: str = ""
    progress: Callable[[Progress], None] | None
    details: bool = False
    gates: Gates = field(default_factory=Gates)

    def feeds(self, graph: Graph, budget: Budget | None = None) -> Batches:
        """The data cut to batches for `graph`; synthetic ones where there are none. See `open_for`."""
        return open_for(budget, self.reading, graph, self.data)

    def judged(self, graph: Graph, batches: Batches, budget: Budget) -> Judged:
        """What a budget is judged on; `batches` are those of `feeds`. See `judged_by`."""
        return judged_by(budget, self.reading, graph, self.data, batches)


@dataclass(frozen=True, kw_only=True)
class Made:
    """A quantized model and how it came about.

    Attributes:
        source: The float model.
        planned: The graph of the plan.
        quantized: The quantized graph.
        plan: What was decided.
        qparams: Parameters by key of the plan.
        expected: Nodes that the engine must be seen to run on codes.
        expected_weights: Nodes whose weights it must be seen to read in few bits.
        metadata: Entries beside those that every model gets.
        label: What the report calls the method.
        recovery: Steps that won back accuracy; None in modes that have none.
        mode: How it was quantized.
        checks: Questions that were asked and answered already.
        warnings: What the user has to know.
        notes: Facts worth knowing.
        qualities: How near each weight's codes are, by key of the plan.
        held_out: Batches to compare both models on; None reads the data of the request.
        data: What the ranges come from; None where nothing was calibrated.
        stats: Statistics of its activations; None likewise.
        shown_stats: Those that a report shows, where `planned` is no longer what was calibrated.
        inner_stats: Those of the graphs inside it, by tensor.
        search: What the search for layers to leave in float found, if there was one.
        tuning: What racing placements found, if there was a race.
    """

    source: Graph
    planned: Graph
    quantized: Graph
    plan: QuantPlan
    qparams: QParamsTable
    expected: Sequence[str]
    expected_weights: Sequence[str] = ()
    metadata: Mapping[str, str]
    label: str
    recovery: tuple[str, ...] | None = None
    mode: str = STATIC
    checks: tuple[Check, ...] = ()
    warnings: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    qualities: Mapping[str, Quality] = field(default_factory=dict)
    held_out: Batches | None = None
    data: DataFacts | None = None
    stats: StatsTable | None = None
    shown_stats: StatsTable | None = None
    inner_stats: Mapping[str, TensorStats] = field(default_factory=dict)
    search: SearchResult | None = None
    tuning: Tuning | None = None

    def entries(self, request: Request) -> dict[str, str]:
        """What the model says of itself."""
        plan = self.plan
        known = {"onnxq.version": VERSION, "onnxq.target": plan.target, "onnxq.float_digest": plan.digest}
        reasons = reasons_text(plan, self.quantized)
        kept = {OPTIONS_KEY: request.options, **({REASONS_KEY: reasons} if reasons else {})}
        return {**known, **kept, **self.metadata}

    @property
    def known_stats(self) -> StatsTable:
        """Statistics of the activations; of none where nothing was calibrated."""
        if self.stats is not None:
            return self.stats
        return StatsTable(tensors={}, digest=self.plan.digest, samples=0)


def finish(made: Made, request: Request, clock: Clock, file: WeightsFile | None = None) -> QuantizeResult:
    """Verify a quantized model, write it, and say what came of it.

    Args:
        made: The model.
        request: What was asked for.
        clock: Its steps so far.
        file: Where part of its weights is written already.

    Raises:
        DataError: the data does not fit the model.
        ModelError: onnxruntime cannot run it.
        ConfigError: the output cannot be written.
    """
    plan = made.plan
    result = made.quantized.to_model()
    if file is not None:
        file.take(result.graph.initializer, made.quantized.base_dir)
    set_metadata(result, made.entries(request))
    clock.lap("rewrite")
    batches = request.feeds(made.source) if made.held_out is None else made.held_out
    feeds = Counted(batches, request.progress)
    verification = verify_model(
        made.source,
        Graph(result, made.quantized.base_dir),
        feeds,
        plan.target,
        expected_int8=made.expected,
        expected_weights=made.expected_weights,
        engine=request.target.engine,
        guard=request.target.guard,
    )
    clock.passed(verification.seconds)
    path = request.output
    beside = file is not None or needs_data_file(result)
    data = replace(_data_facts(made, request), held_out_samples=feeds.samples)
    facts = RunFacts(
        method=made.label,
        recovery=made.recovery,
        size_before_bytes=size_bytes(request.model, made.source),
        size_after_bytes=size_bytes(result, made.quantized),
        data=data,
        output_path=None if path is None else str(path),
        float_path=path_of(request.model),
        options=json.loads(request.options) if request.options else None,
        output_data_path=str(data_file(path)) if path is not None and beside else None,
        warnings=(*made.warnings, *batches.warnings),
        notes=(*plan.notes, *batches.notes, *made.notes),
    )
    measured = plan_with_macs(plan, made.planned, feeds.shapes)
    notes = (*_kept_twice(made), *_faster_elsewhere(made, measured, request), *_slower(made, request, verification))
    little = hardly_quantized(measured, made.quantized, made.mode)
    facts = replace(facts, notes=(*facts.notes, *notes), warnings=(*facts.warnings, *little))
    clock.lap("latency")
    details = _details(made, measured, request, verification) if request.details else None
    if details is not None:
        clock.lap("look inside")
    report = build_report(
        verification,
        facts,
        plan=measured,
        qparams=made.qparams,
        extra_checks=(*made.checks, *likeness_to_float(made.source, data, verification)),
        qualities=made.qualities,
        details=details,
    )
    if path is not None:
        written = save_model(result, path, force=request.force, base_dir=made.quantized.base_dir, weights=file)
        if file is not None:
            name_file(result.graph.initializer, data_file(path).name)
        report = replace(report, size_after_bytes=written)
    clock.lap("write")
    report = request.gates.applied(replace(report, seconds=clock.seconds), {d.node for d in measured.nodes})
    stats = made.known_stats
    return QuantizeResult(
        model=result if file is not None else self_contained(result, made.quantized.base_dir),
        plan=measured,
        stats=replace(stats, tensors={**stats.tensors, **made.inner_stats}) if made.inner_stats else stats,
        qparams=made.qparams,
        report=report,
        output=path,
        search=made.search,
        tuning=made.tuning,
    )


def _kept_twice(made: Made) -> list[str]:
    """What to say of weights that the file holds in float as well, because others read them so."""
    graph = made.quantized
    weights = {t.name for t in made.plan.tensors.values() if t.role in (Role.WEIGHT, Role.TABLE)}
    kept = [name for name in graph.initializers if name in weights and graph.is_float(name) and graph.uses(name)]
    if not kept:
        return []
    reader = graph.uses(kept[0])[0].node
    return [
        f"the file holds {counted(len(kept), 'quantized weight')} in float too, first {kept[0]!r}, which "
        f"{graph.node(reader).op_type} {reader!r} reads"
    ]


def _faster_elsewhere(made: Made, measured: QuantPlan, request: Request) -> list[str]:
    """What to say where another mode runs most of the arithmetic in int8, which this one leaves in float."""
    if made.mode != STATIC or request.target.engine is not Engine.ONNXRUNTIME:
        return []
    recurrent = sum(d.macs or 0 for d in measured.nodes if d.op == "LSTM" and d.action is Action.FLOAT)
    whole = sum(d.macs or 0 for d in measured.nodes)
    if recurrent <= _MOST * whole:
        return []
    return [
        f"{recurrent / whole:.0%} of the arithmetic is in LSTM, which stays float; mode='dynamic' (--mode dynamic) "
        "runs it in int8"
    ]


def _slower(made: Made, request: Request, verification: VerifyResult) -> tuple[str, ...]:
    """What to say of the speed, unless placements were raced, which tells more."""
    if made.tuning is not None:
        return ()
    helps = ways_out(made.mode, request.wanted.placement, request.target)
    return slower_notes(made.source, made.quantized, verification.kept, request.target, helps)


def _data_facts(made: Made, request: Request) -> DataFacts:
    """What the ranges come from; how many samples the errors are of is not known yet."""
    return made.data or DataFacts(
        samples=0,
        held_out_samples=0,
        synthetic=False,
        synthetic_comparison=request.data is None,
        **source_facts(request.data, images=request.reading.images, layout=request.reading.layout),
    )


def _details(made: Made, plan: QuantPlan, request: Request, verification: VerifyResult) -> Details:
    stats = made.known_stats if made.shown_stats is None else made.shown_stats
    known = Calibrated(plan=plan, stats=stats, qparams=made.qparams, search=made.search, method=made.label)
    return details_of(
        made.planned, made.quantized, verification, request.target, calibrated=known, progress=request.progress
    )
