"""Measures what a report shows of a model's inside: each tensor's error, histograms, latency, the picture.

It is done only where a report is to be looked at, for it runs both models again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from onnxq.calibration.progress import Callback, report_to
from onnxq.calibration.statistics.table import StatsTable
from onnxq.graph.view import Graph
from onnxq.modes.slower import timers_for
from onnxq.numerics.qparams import QuantParams
from onnxq.planning.plan import Fixed, Observed, QuantPlan
from onnxq.report.details import Details, Latency
from onnxq.report.drawing import draw
from onnxq.report.ranges import TensorRanges, ranges_of
from onnxq.search.ranking import Sensitivity
from onnxq.search.result import SearchResult
from onnxq.targets.schema import Target
from onnxq.tuning.latency import measure_latency
from onnxq.verification.tensor_errors import tensor_errors
from onnxq.verification.verify import VerifyResult

Feed = Mapping[str, NDArray[Any]]

STAGE = "measuring tensors"

_FEEDS = 2
"""Batches that tensors are compared on: enough to tell where the noise comes from."""


@dataclass(frozen=True, kw_only=True)
class Calibrated:
    """What a quantization knows of its tensors.

    Attributes:
        plan: What is quantized.
        stats: Statistics of the activations.
        qparams: Parameters by key of the plan.
        search: What the search for layers to leave in float found, if there was one.
        method: How ranges were chosen.
    """

    plan: QuantPlan
    stats: StatsTable
    qparams: Mapping[str, QuantParams]
    search: SearchResult | None = None
    method: str = ""


def details_of(  # noqa: PLR0913 - both models, and what is known of them
    float_graph: Graph,
    quantized: Graph,
    verification: VerifyResult,
    target: Target,
    *,
    calibrated: Calibrated | None = None,
    progress: Callback | None = None,
) -> Details:
    """What a report shows of a quantized model.

    Args:
        float_graph: The float model with the tensor names of the quantized one.
        quantized: The quantized model.
        verification: What was found out about it, with the batches to run on.
        target: The target.
        calibrated: What its quantization knows; None for a model that others made.
        progress: Called for each run.
    """
    runs = {n.node: n.precision.value for n in verification.account}
    if calibrated is not None:
        runs |= {d.node: d.action.value for d in calibrated.plan.nodes}
    if verification.engine is not None:
        runs |= {n.node: n.precision.value for n in verification.engine.nodes}
    report_to(progress, STAGE, 0, None)
    known = calibrated
    return Details(
        outputs={n.name: str(n.output[0]) for n in float_graph.nodes if n.output},
        errors=tensor_errors(
            float_graph,
            quantized,
            verification.kept[:_FEEDS],
            bounds={} if known is None else _bounds(known.plan),
            progress=lambda done, expected: report_to(progress, STAGE, done, expected),
        ),
        ranges={} if known is None else _ranges(float_graph, known, progress),
        drawing=draw(quantized, runs),
        latency=_latency(float_graph, quantized, verification.kept, target, progress),
        sensitivity=None if known is None else _ranking(known, verification),
    )


def _ranges(graph: Graph, known: Calibrated, progress: Callback | None) -> dict[str, TensorRanges]:
    report_to(progress, "ranges by every method", 0, None)
    return ranges_of(graph, known.plan, known.stats, known.qparams)


def _bounds(plan: QuantPlan) -> dict[str, tuple[float | None, float | None]]:
    """Where ranges are cut because no reader tells apart what lies beyond (in front of a hard swish, say)."""
    sources = {t.name: t.source for t in plan.tensors.values() if isinstance(t.source, (Observed, Fixed))}
    return {n: (s.lower, s.upper) for n, s in sources.items() if s.lower is not None or s.upper is not None}


def _latency(
    float_graph: Graph, quantized: Graph, feeds: Sequence[Feed], target: Target, progress: Callback | None
) -> Latency | None:
    """Where the target's engine runs on this machine."""
    timers = timers_for(float_graph, quantized, target) if feeds else ()
    if not timers:
        return None
    report_to(progress, "measuring latency", 0, None)
    found = measure_latency(timers, float_graph, quantized, feeds[0])
    if found is None:
        return None
    sizes = [len(array) for array in feeds[0].values() if array.ndim]
    return Latency(
        float_ms=found.race.champion_ms,
        quantized_ms=found.race.challenger_ms,
        engine=f"{found.engine} on one thread of this machine's CPU",
        samples=sizes[0] if sizes else 1,
    )


def _ranking(known: Calibrated, verification: VerifyResult) -> dict[str, Any] | None:
    if known.search is None or not known.search.layers:
        return None
    ranking = Sensitivity(
        target=verification.target,
        method=known.method,
        by="sqnr",
        samples=known.search.ranked_samples,
        layers=known.search.layers,
    )
    return ranking.to_dict()
