"""`onnxq.sensitivity`: which layers hurt."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from onnxq.calibration.methods import method_from_name
from onnxq.calibration.methods.solve import RangeKeywords
from onnxq.calibration.progress import Callback
from onnxq.calibration.runner import CollectOptions, RunningKeywords
from onnxq.calibration.solve import solve_from_ranges
from onnxq.calibration.statistics.file import stats_from
from onnxq.data.kept import keep_first
from onnxq.errors import ConfigError
from onnxq.graph.model import ModelSource
from onnxq.keywords import complete, takes
from onnxq.modes.arguments import check_mode
from onnxq.modes.dynamic import dynamic_subject
from onnxq.modes.finishing import Request
from onnxq.modes.weight_only import weight_subject
from onnxq.pipeline.facts import Clock
from onnxq.pipeline.nested import NestedRun, readable_for
from onnxq.pipeline.nested_plans import whole_plan
from onnxq.pipeline.reading import Reading, ReadingKeywords
from onnxq.pipeline.stages import (
    check_stats,
    known_from_stats,
    nothing_to_quantize,
    observe,
    prepare,
    read_through,
)
from onnxq.planning.modes import DYNAMIC, STATIC, WEIGHT_ONLY
from onnxq.planning.options import PlacementKeywords, PlanOptions, TypeKeywords
from onnxq.planning.weight_form import FormKeywords, WeightForm
from onnxq.recovery.registry import Recovery
from onnxq.search.candidates import Candidates
from onnxq.search.distance import Effect
from onnxq.search.expected import expected_harm
from onnxq.search.measuring import Measurement, Subject, effects_of
from onnxq.search.ranking import By, ExpectedLayer, Quantized, Sensitivity
from onnxq.targets import ORT_CPU, TargetSource, resolve_target

if TYPE_CHECKING:
    from typing_extensions import Unpack

SAMPLES = 32
"""Samples to measure on, unless the user says otherwise: enough to rank layers."""


class SensitivityKeywords(
    TypeKeywords, FormKeywords, RangeKeywords, PlacementKeywords, ReadingKeywords, RunningKeywords, total=False
):
    """What the layers are, and how data is read and models run."""


@takes(SensitivityKeywords)
def sensitivity(  # noqa: PLR0913 - one keyword for each choice of the user
    model: ModelSource,
    data: Any = None,
    *,
    target: TargetSource = ORT_CPU,
    mode: str = STATIC,
    samples: int = SAMPLES,
    quantize: Quantized = "only",
    by: By = "sqnr",
    seconds: float | None = None,
    progress: Callback | None = None,
    **options: Unpack[SensitivityKeywords],
) -> Sensitivity:
    """Rank layers by how much each alone moves the outputs of the model.

    A layer is a node that would run in int8, with the quantization of its input, weight, bias and output, and the
    activations fused into it; in mode "dynamic" a node with its weights and the rounding of its input, in mode
    "weight-only" a weight and the nodes that read it. Ctrl-C ends the measurement and gives what was found so far.

    Args:
        model: The float model.
        data: Samples; some are measured on, and in mode "static" all are calibrated on. None takes synthetic inputs.
        target: As for `quantize`.
        mode: What the model is turned into, as for `quantize`. Nodes inside If, Loop and Scan are layers too.
        samples: Samples to measure on, at most; they are spread over the data.
        quantize: "only" quantizes one layer at a time; "all-but" quantizes all layers but one at a time, and runs the
            whole model for each.
        by: What to rank by: "sqnr", "cosine", or "kl" of a classifier's output.
        seconds: Time after which no further layer is measured; calibration does not count. Layers are measured in the
            order in which they are expected to hurt, so those are left out that should matter least.
        progress: Called while calibrating, and then for each layer with a StageProgress.
        options: As for `quantize`: activations, weights, block_size, symmetric, rounding, weight_format,
            accuracy_level, method (but moving-average), percentile, stats, exclude, exclude_ops, exclude_between,
            include, include_ops, include_between, overrides, placement, batch_size, limit, layout, images, threads,
            providers.

    Raises:
        OnnxqError: as `quantize`.
    """
    check_mode(mode, SensitivityKeywords, options)
    _check(samples, seconds)
    clock = Clock()
    table, note = resolve_target(target, weights_alone=mode == WEIGHT_ONLY)
    request = Request(
        model=model,
        data=data,
        target=table,
        target_note=note,
        wanted=PlanOptions.of(options, with_types=mode == STATIC),
        reading=Reading.of(options),
        collecting=CollectOptions(**complete(RunningKeywords, options)),
        progress=progress,
    )
    if mode == STATIC:
        subject = _static_subject(request, complete(RangeKeywords, options), samples, clock)
    elif mode == DYNAMIC:
        subject = dynamic_subject(request, samples, clock)
    else:
        subject = weight_subject(request, WeightForm.of(options), samples, clock)
    space = subject.space
    expected = expected_harm(space.own_noise())
    # Where the time is over before the last one, those are missing that should matter least.
    in_turn = sorted(space.layers, key=lambda layer: -expected[layer.node])
    deadline = None if seconds is None else time.perf_counter() + seconds
    measurement = Measurement(subject=subject, options=request.collecting, deadline=deadline, progress=progress)
    found: dict[str, Effect] = {}
    interrupted = False
    try:
        if quantize == "only":
            measurement.each_alone(in_turn, found)
        else:
            measurement.all_but_each(in_turn, found)
    except KeyboardInterrupt:
        if not found:
            raise
        interrupted = True
    clock.lap("measure")
    return Sensitivity(
        target=space.target,
        method=subject.method,
        by=by,
        samples=sum(batch.samples for batch in subject.samples),
        layers=effects_of(space.layers, found),
        mode=mode,
        quantize=quantize,
        unmeasured=tuple(
            ExpectedLayer(
                node=layer.node, op=layer.op, macs=layer.macs, weights=layer.weights, expected=expected[layer.node]
            )
            for layer in in_turn
            if layer.node not in found
        ),
        digest=space.digest,
        seconds=clock.seconds,
        interrupted=interrupted,
    )


def _static_subject(request: Request, ranges: RangeKeywords, samples: int, clock: Clock) -> Subject:
    """The layers of a model in mode "static", to be measured on so many samples."""
    chosen, stats = method_from_name(ranges["method"], percentile=ranges["percentile"]), stats_from(ranges["stats"])
    prepared = prepare(request.model, request.target, request.wanted, note=request.target_note)
    batches, kept = keep_first(readable_for(prepared, request.feeds(prepared.source)), samples=samples)
    clock.lap("plan")
    if stats is None:
        known = observe(prepared, batches, chosen, request.collecting, request.progress)
    else:
        check_stats(prepared, stats)
        known = known_from_stats(prepared.plan, stats, chosen)
        read_through(batches)
    inside = NestedRun(
        prepared=prepared,
        method=chosen,
        options=request.collecting,
        stats=stats,
        recovery=Recovery.of("none"),
        data=request.data,
    ).solve(prepared.graph, batches)
    clock.lap("calibrate")
    qparams = solve_from_ranges(prepared.graph, prepared.plan, known.ranges, prepared.target)
    candidates = Candidates(
        prepared=prepared, options=request.wanted, qparams=qparams, recovered=prepared.graph, stats=known.stats
    )
    space = candidates.with_inside(inside.parts, inside.left).space(kept)
    if not space.layers:
        raise nothing_to_quantize(whole_plan(prepared.plan, prepared.nested))
    return Subject(space=space, samples=kept, method=known.label)


def _check(samples: int, seconds: float | None) -> None:
    if samples < 1:
        raise ConfigError(f"samples is {samples}", hint="samples= (--samples) is 1 or more.")
    if seconds is not None and seconds <= 0:
        raise ConfigError(f"seconds is {seconds:g}", hint="seconds= (--seconds) is a time limit above 0.")
