"""Static quantization from a float model to a verified one: `onnxq.quantize(mode="static")`.

prepare -> read data -> find ranges -> [race placements] -> solve -> [recover] -> [search] -> rewrite -> finish
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from onnxq.calibration.reach import reach_of_tensors
from onnxq.calibration.solve import QParamsTable, replaced_note, solve_from_ranges
from onnxq.calibration.statistics.seen_samples import combine_fingerprints
from onnxq.calibration.statistics.table import StatsTable
from onnxq.data.batches import CALIBRATED_ON, Batch, Batches, fingerprint_of
from onnxq.data.kept import KeptWhole, keep_first
from onnxq.graph.saving import file_for_weights
from onnxq.graph.view import Graph
from onnxq.inference.providers import provider_names
from onnxq.modes.choices import Choices
from onnxq.modes.finishing import Made, Request, finish
from onnxq.modes.result import QuantizeResult
from onnxq.modes.tuned import for_all_placements, timers_for_tuning, tune_placement
from onnxq.passes.adapt.settle_types import runnable
from onnxq.pipeline.arguments import check_collects, check_method_is_used, check_overrides, check_rewrites
from onnxq.pipeline.facts import (
    Clock,
    counted_share,
    float16_note,
    incomplete,
    is_made_up,
    metadata_of,
    source_facts,
    unrecovered,
)
from onnxq.pipeline.nested import InsideNested, NestedRun, check_plan, readable_for
from onnxq.pipeline.nested_plans import quantized, whole_plan
from onnxq.pipeline.stages import (
    Known,
    Prepared,
    expected_int8,
    find_ranges,
    of_rescaled,
    prepare,
    read_through,
    rescaled,
)
from onnxq.pipeline.training import known_from_training, refuse_other_scales, widened
from onnxq.previews.doubts import doubts_of_samples
from onnxq.recovery.finite_samples import finite_batches, finite_data
from onnxq.recovery.levelling import Levelled, level_channels
from onnxq.recovery.solved import Solved
from onnxq.report.build import TRAINING
from onnxq.report.contents import DataFacts
from onnxq.search.candidates import Candidate, Candidates
from onnxq.search.mixed import search_within
from onnxq.search.reading import Judged, first_samples
from onnxq.search.result import SearchResult, checks_of, notes_of
from onnxq.search.wider import wider_for, with_step
from onnxq.tuning.search import Racing
from onnxq.wording.plural import counted

HELD_OUT_BATCHES = 8
"""Batches set aside from calibration, where the data allows it, to compare float and int8 on."""


@dataclass(frozen=True, kw_only=True)
class _Supply:
    """The data of a run.

    Attributes:
        batches: All of it.
        calibration: What ranges are found on; fills `samples` while it is read.
        held_out: What both models are compared on.
        samples: Some batches of `calibration`, for recovery.
        whole: All batches of `calibration`, once it was read.
        rescalings: What was done to the float graph before calibration, in sentences.
    """

    batches: Batches
    calibration: Batches
    held_out: Batches
    samples: Sequence[Batch]
    whole: KeptWhole
    rescalings: tuple[str, ...]


def quantize_static(request: Request, choices: Choices) -> QuantizeResult:
    """Quantize weights and activations to codes, with ranges from calibration data.

    Raises:
        OnnxqError: as `onnxq.quantize`.
    """
    clock = Clock()
    timers = () if choices.tune is None else timers_for_tuning(request.target)
    wanted = replace(request.wanted, float16=choices.float16)
    request = replace(request, wanted=with_step(wanted, request.target, choices.budget))
    prepared = _planned(request, choices)
    clock.lap("plan")
    prepared, supply = _supplied(prepared, request, choices)
    budget = choices.budget
    judged = None if budget is None else request.judged(prepared.source, supply.batches, budget)
    known = _known(prepared, supply, request, choices)
    clock.lap("calibrate")
    tuning = None
    if timers:
        racing = Racing(
            seconds=choices.tune_seconds,
            threads=request.collecting.threads,
            progress=choices.tune_progress,
            timers=timers,
        )
        prepared, tuning = tune_placement(prepared, request.wanted, known.ranges, supply.held_out, racing)
        clock.lap("tune")
    known = of_rescaled(known, choices.recovery)
    supply = _with_finite_samples(prepared, supply, request)
    prepared, known, levelled = _levelled(prepared, known, supply, request, choices)
    prepared = _with_reach(prepared, known, supply, request)
    qparams = solve_from_ranges(
        prepared.graph,
        prepared.plan,
        known.ranges,
        prepared.target,
        None if prepared.trained is None else prepared.trained.params,
        clip_weights=choices.recovery.clips_weights,
    )
    recovered, inside = _recovered(prepared, qparams, supply, request, choices)
    clock.lap("recover")
    clips = choices.recovery.clips_weights
    stats = levelled.stats_of_graph(known.stats)
    wider = wider_for(prepared, request.wanted, stats, choices.method, clip_weights=clips)
    candidates = Candidates(
        prepared=prepared, options=request.wanted, qparams=qparams, recovered=recovered, wider=wider, stats=stats
    ).with_inside(inside.parts, inside.left)
    chosen, found = _searched(candidates, supply, judged, request, choices)
    if found is not None:
        clock.lap("search")
    with file_for_weights(request.output, prepared.graph.initializers.values()) as file:
        made = Made(
            source=prepared.source,
            planned=prepared.graph,
            quantized=chosen.quantized(file),
            plan=chosen.whole_plan,
            qparams=chosen.all_params,
            expected=expected_int8(prepared, chosen.whole_plan),
            metadata=metadata_of(chosen.plan, known, choices.recovery, synthetic=_made_up(known, request, choices)),
            label=known.label,
            recovery=_steps(prepared, supply, choices),
            checks=checks_of(found),
            warnings=(*incomplete(known.stats), *_doubts(prepared, supply, request)),
            notes=(*levelled.notes, *_notes(prepared, known, supply, qparams, inside, found, choices)),
            held_out=supply.held_out,
            data=_data_facts(known, request, choices),
            stats=known.stats,
            shown_stats=stats,
            inner_stats=inside.stats,
            search=found,
            tuning=tuning,
        )
        # Types that the engine computes in float for are in the table that was planned with: it is not asked then.
        return finish(made, replace(request, target=prepared.target), clock, file)


def _planned(request: Request, choices: Choices) -> Prepared:
    """The model, normalised and planned.

    Raises:
        OnnxqError: what was asked for does not go with this model.
    """
    prepared = prepare(request.model, request.target, request.wanted, choices.recovery, note=request.target_note)
    refuse_other_scales(prepared, choices.cache)
    check_overrides(whole_plan(prepared.plan, prepared.nested), choices.method, choices.cache)
    calibrates_inside = choices.cache is not None and bool(quantized(prepared.nested))
    if not calibrates_inside:
        check_method_is_used(choices.method, choices.cache)
    evens_out = choices.recovery.levels and choices.cache is None and request.data is not None
    if choices.are_given and not calibrates_inside and not evens_out:
        check_collects(request.collecting, choices.stats)
    check_plan(prepared)
    check_rewrites(choices.recovery, choices.stats, choices.cache, trained=prepared.trained is not None)
    return prepared


def _supplied(prepared: Prepared, request: Request, choices: Choices) -> tuple[Prepared, _Supply]:
    """The model, its float graph rewritten where recovery does so, and its data."""
    batches = request.feeds(prepared.source, choices.budget)
    calibration, held_out = batches.hold_out(HELD_OUT_BATCHES)
    calibration = readable_for(prepared, calibration)
    prepared, calibration, rescalings = rescaled(prepared, choices.recovery, calibration, request.collecting)
    whole = KeptWhole(calibration)
    calibration, samples = keep_first(whole.batches)
    supply = _Supply(
        batches=batches,
        calibration=calibration,
        held_out=held_out,
        samples=samples,
        whole=whole,
        rescalings=rescalings,
    )
    return prepared, supply


def _known(prepared: Prepared, supply: _Supply, request: Request, choices: Choices) -> Known:
    """Ranges of everything that any placement in question observes."""
    observed = prepared if choices.tune is None else for_all_placements(prepared, request.wanted)
    if prepared.trained is not None and not choices.are_given:
        return known_from_training(
            observed, request.data, supply.calibration, choices.method, request.collecting, request.progress
        )
    known = find_ranges(
        observed,
        supply.calibration,
        choices.method,
        request.collecting,
        stats=choices.stats,
        cache=choices.cache,
        progress=request.progress,
    )
    if request.data is not None and choices.are_given:
        _read_through(supply, choices.stats)
    return known


def _read_through(supply: _Supply, stats: StatsTable | None) -> None:
    """Read data that nothing is calibrated on in this run; it may be what was calibrated on before."""
    if stats is None:
        read_through(supply.calibration)
        return
    rest = combine_fingerprints(*(batch.fingerprint() for batch in supply.calibration.stream()))
    measured_on = [value for batch in supply.held_out.stream() for value in batch.hashes()]
    overlap = None if stats.seen is None else stats.seen.overlap(measured_on)
    if combine_fingerprints(rest, fingerprint_of(measured_on)) == stats.data_fingerprint:
        known = "The given statistics are of the same data"
    elif overlap is not None and overlap.shared:
        known = f"The given statistics hold {overlap} of the {counted(len(measured_on), 'sample')} measured on"
    else:
        return
    supply.held_out.warn(f"{known}: {CALIBRATED_ON}. Measure on others with onnxq verify --data SRC.")


def _with_finite_samples(prepared: Prepared, supply: _Supply, request: Request) -> _Supply:
    """Without samples of which statistics left something out: recovery would take NaN for a value."""
    graph, taps = runnable(prepared.graph), prepared.plan.observed()
    return replace(supply, samples=list(finite_batches(graph, taps, supply.samples, request.collecting)))


def _levelled(
    prepared: Prepared, known: Known, supply: _Supply, request: Request, choices: Choices
) -> tuple[Prepared, Known, Levelled]:
    """The model with channels of very uneven reach made even, and ranges that fit it."""
    # Scales that others have settled, a training or TensorRT, stay.
    settled = prepared.trained is not None or choices.cache is not None
    levelled = Levelled(graph=prepared.graph, plan=prepared.plan, ranges=known.ranges)
    if choices.recovery.levels and not settled:
        levelled = level_channels(
            prepared.graph,
            prepared.plan,
            known.ranges,
            stats=known.stats,
            method=choices.method,
            samples=supply.samples,
            calibration=finite_data(
                runnable(prepared.graph), prepared.plan.observed(), supply.whole.again(), request.collecting
            ),
            options=request.collecting,
            # Where everything is to be int8, a float Mul would stand alone.
            divides=not prepared.target.everywhere,
            progress=request.progress,
        )
    prepared = replace(prepared, graph=levelled.graph, plan=levelled.plan)
    return prepared, replace(known, ranges=levelled.ranges), levelled


def _with_reach(prepared: Prepared, known: Known, supply: _Supply, request: Request) -> Prepared:
    """The model with how far its tensors reach, where some of it may have to stay in float32."""
    if not prepared.plan.float16:
        return prepared
    graph = runnable(prepared.graph)
    return replace(prepared, reach=reach_of_tensors(graph, supply.samples, known.stats, request.collecting))


def _recovered(
    prepared: Prepared, qparams: QParamsTable, supply: _Supply, request: Request, choices: Choices
) -> tuple[Graph, InsideNested]:
    """The float graph with the constants that will be quantized, and what its subgraphs are quantized from."""
    # A training has settled its weights and biases itself.
    solved = Solved(
        graph=prepared.graph,
        plan=prepared.plan,
        qparams=qparams,
        samples=supply.samples if prepared.trained is None else (),
        options=request.collecting,
        target=prepared.target,
        progress=request.progress,
    )
    nested = NestedRun(
        prepared=prepared,
        method=choices.method,
        options=request.collecting,
        stats=choices.stats,
        recovery=choices.recovery,
        data=request.data,
    )
    recovered = choices.recovery.adjusted(solved)
    return recovered, nested.solve(recovered, supply.calibration)


def _steps(prepared: Prepared, supply: _Supply, choices: Choices) -> tuple[str, ...]:
    """The steps of recovery that had something to work on."""
    if prepared.trained is not None:
        return ()
    return tuple(step.name for step in choices.recovery.steps if supply.samples or step.adjust is None)


def _searched(
    candidates: Candidates, supply: _Supply, judged: Judged | None, request: Request, choices: Choices
) -> tuple[Candidate, SearchResult | None]:
    """The form that meets the budget; the whole plan, and no result, where there is none."""
    if choices.budget is None or judged is None:
        return candidates.whole(), None
    samples = supply.samples or first_samples(judged.batches)
    floats, wide, found = search_within(
        choices.budget,
        candidates.space(samples),
        judged,
        samples,
        options=request.collecting,
        progress=request.progress,
    )
    return candidates.make(floats, wide), found


def _made_up(known: Known, request: Request, choices: Choices) -> bool:
    """Whether the ranges come from synthetic inputs."""
    return is_made_up(request.data, choices.stats, choices.cache) and known.label != TRAINING


def _doubts(prepared: Prepared, supply: _Supply, request: Request) -> tuple[str, ...]:
    """What is probably wrong with the data; made-up data is no one's fault."""
    return () if request.data is None else doubts_of_samples(prepared.source, supply.samples)


def _data_facts(known: Known, request: Request, choices: Choices) -> DataFacts:
    providers = request.collecting.providers
    return DataFacts(
        samples=known.stats.samples,
        held_out_samples=0,
        synthetic=_made_up(known, request, choices),
        synthetic_comparison=request.data is None,
        from_statistics=choices.stats is not None,
        counted_share=counted_share(known.stats),
        providers=("cpu",) if providers is None or choices.stats is not None else provider_names(providers),
        **source_facts(request.data, images=request.reading.images, layout=request.reading.layout),
    )


def _notes(  # noqa: PLR0913, PLR0917 - every stage may have one
    prepared: Prepared,
    known: Known,
    supply: _Supply,
    qparams: QParamsTable,
    inside: InsideNested,
    found: SearchResult | None,
    choices: Choices,
) -> tuple[str, ...]:
    """Facts of the run that are worth knowing."""
    trained = prepared.trained
    return (
        *replaced_note(known.label, known.replaced),
        *supply.rescalings,
        *inside.notes(),
        *float16_note(prepared, supply.samples),
        *(
            unrecovered(choices.recovery, supply.samples)
            if trained is None
            else (*trained.notes, *widened(prepared, qparams))
        ),
        *notes_of(found),
    )
