"""`onnxq.sensitivity`: which layers hurt."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any, get_args

from onnxq.calibration.methods import method_from_name
from onnxq.calibration.progress import Callback, report_to
from onnxq.calibration.runner import CollectOptions
from onnxq.calibration.solve import solve_from_ranges
from onnxq.calibration.statistics.table import StatsTable
from onnxq.data.batches import Batch
from onnxq.data.images import ImageOptions
from onnxq.data.inputs import Layout
from onnxq.data.kept import keep_first
from onnxq.errors import ConfigError
from onnxq.graph.model import ModelSource
from onnxq.passes.settle_types import runnable
from onnxq.pipeline.facts import Clock
from onnxq.pipeline.stages import (
    Prepared,
    check_stats,
    known_from_stats,
    nothing_to_quantize,
    observe,
    open_batches,
    prepare,
    read_through,
)
from onnxq.planning.macs import plan_with_macs
from onnxq.planning.options import FAST, Ends, PlanOptions
from onnxq.planning.overrides import Override
from onnxq.planning.plan import QuantPlan
from onnxq.search.candidates import Candidates
from onnxq.search.distance import Distance, Effect
from onnxq.search.effects import Bench, effects_alone
from onnxq.search.expected import expected_harm, expected_noise
from onnxq.search.layers import Layer, layers_of
from onnxq.search.ranking import By, ExpectedLayer, LayerEffect, Mode, Sensitivity
from onnxq.search.space import NotMadeError
from onnxq.targets import ORT_CPU, TargetSource

SAMPLES = 32
"""Samples to measure on, unless the user says otherwise: enough to rank layers."""

STAGE = "measuring layers"


def sensitivity(  # noqa: PLR0913 - one keyword for each choice of the user
    model: ModelSource,
    data: Any = None,
    *,
    target: TargetSource = ORT_CPU,
    activations: str | None = None,
    weights: str | None = None,
    method: str = "auto",
    percentile: float | None = None,
    stats: StatsTable | None = None,
    samples: int = SAMPLES,
    mode: Mode = "only",
    by: By = "sqnr",
    batch_size: int | None = None,
    limit: int | None = None,
    layout: Layout | None = None,
    images: ImageOptions | str | None = None,
    exclude: Sequence[str] = (),
    exclude_ops: Sequence[str] = (),
    exclude_between: Sequence[Ends] = (),
    include: Sequence[str] = (),
    include_ops: Sequence[str] = (),
    include_between: Sequence[Ends] = (),
    overrides: Sequence[Override | Mapping[str, Any]] = (),
    placement: str = FAST,
    threads: int | None = None,
    providers: Sequence[str] | None = None,
    seconds: float | None = None,
    progress: Callback | None = None,
) -> Sensitivity:
    """Rank layers by how much each alone moves the outputs of the model.

    A layer is a node that would run in int8, with the quantization of its input, weight, bias and output, and the
    activations fused into it. What is not listed here is as for `quantize`. Ctrl-C ends the measurement and gives what
    was found so far.

    Args:
        model: The float model.
        data: Calibration data; some `samples` are measured on. None takes synthetic inputs.
        stats: Statistics of an earlier calibration; then `data` is only measured on.
        samples: Samples to measure on, at most; they are spread over the data.
        mode: "only" quantizes one layer at a time; "all-but" quantizes all layers but one at a time, and runs the whole
            model for each.
        by: What to rank by: "sqnr", "cosine", or "kl" of a classifier's output.
        seconds: Time after which no further layer is measured; calibration does not count. Layers are measured in the
            order in which they are expected to hurt, so those are left out that should matter least.
        progress: Called while calibrating, and then for each layer with a StageProgress.

    Raises:
        OnnxqError: as `quantize`.
    """
    _check(mode, by, samples, seconds)
    clock = Clock()
    chosen = method_from_name(method, percentile=percentile)
    choices = (
        *(exclude, exclude_ops, exclude_between, include, include_ops, include_between, overrides, placement),
        *(activations, weights),
    )
    user = PlanOptions.of(*choices)
    prepared = prepare(model, target, user)
    options = CollectOptions(threads=threads, providers=providers)
    batches = open_batches(prepared.source, data, batch_size=batch_size, limit=limit, layout=layout, images=images)
    batches, kept = keep_first(batches, samples=samples)
    clock.lap("plan")
    if stats is None:
        known = observe(prepared, batches, chosen, options, progress)
    else:
        check_stats(prepared, stats)
        known = known_from_stats(prepared.plan, stats, chosen)
        read_through(batches)
    clock.lap("calibrate")
    qparams = solve_from_ranges(prepared.graph, prepared.plan, known.ranges, prepared.target)
    layers = layers_of(prepared.graph, counted_plan(prepared, kept), prepared.target)
    if not layers:
        raise nothing_to_quantize(prepared.plan)
    expected = expected_harm(expected_noise(prepared.graph, prepared.plan, qparams, known.stats, layers))
    # Where the time is over before the last one, those are missing that should matter least.
    in_turn = sorted(layers, key=lambda layer: -expected[layer.node])
    deadline = None if seconds is None else time.perf_counter() + seconds
    found: dict[str, Effect] = {}
    try:
        if mode == "only":
            bench = Bench(
                graph=runnable(prepared.graph), qparams=qparams, samples=kept, options=options, deadline=deadline
            )
            measure_alone(bench, in_turn, found, progress)
        else:
            candidates = Candidates(prepared=prepared, options=user, qparams=qparams, recovered=prepared.graph)
            _measure_all_but(candidates, in_turn, kept, options, deadline, found, progress)
    except KeyboardInterrupt:
        if not found:
            raise
    clock.lap("measure")
    return Sensitivity(
        target=prepared.plan.target,
        method=known.label,
        mode=mode,
        by=by,
        samples=sum(batch.samples for batch in kept),
        layers=effects_of(layers, found),
        unmeasured=tuple(
            ExpectedLayer(
                node=layer.node, op=layer.op, macs=layer.macs, weights=layer.weights, expected=expected[layer.node]
            )
            for layer in in_turn
            if layer.node not in found
        ),
        digest=prepared.plan.digest,
        seconds=clock.seconds,
    )


def counted_plan(prepared: Prepared, samples: Sequence[Batch]) -> QuantPlan:
    """The plan, its arithmetic counted for the shapes of the samples."""
    shapes = {name: array.shape for name, array in samples[0].arrays.items()}
    return plan_with_macs(prepared.plan, prepared.graph, shapes)


def effects_of(layers: Sequence[Layer], found: Mapping[str, Effect]) -> tuple[LayerEffect, ...]:
    """Layers with their effects; those without are left out."""
    return tuple(
        LayerEffect(node=layer.node, op=layer.op, macs=layer.macs, weights=layer.weights, effect=found[layer.node])
        for layer in layers
        if layer.node in found
    )


def measure_alone(bench: Bench, layers: Sequence[Layer], found: dict[str, Effect], progress: Callback | None) -> None:
    """Put the effect of each layer alone into `found`, by node: an interrupt leaves there what was measured."""
    report_to(progress, STAGE, 0, len(layers))
    for node, effect in effects_alone(bench, layers):
        found[node] = effect
        report_to(progress, STAGE, len(found), len(layers))


def _measure_all_but(  # noqa: PLR0913, PLR0917 - the parts of one measurement
    candidates: Candidates,
    layers: Sequence[Layer],
    samples: Sequence[Batch],
    options: CollectOptions,
    deadline: float | None,
    found: dict[str, Effect],
    progress: Callback | None,
) -> None:
    prepared = candidates.prepared
    outputs = list(prepared.graph.outputs)
    session = options.session(runnable(prepared.graph))
    truth = [dict(zip(outputs, session.run(b.arrays, where=b.label), strict=True)) for b in samples]
    report_to(progress, STAGE, 0, len(layers))
    for layer in layers:
        if deadline is not None and time.perf_counter() > deadline:
            break
        fused = prepared.target.name.startswith("ort-")
        try:
            candidate = candidates.make([layer.node])
        except NotMadeError:
            continue
        session = options.session(runnable(candidate.quantized()), optimise=fused)
        distance = Distance(prepared.graph)
        for want, batch in zip(truth, samples, strict=True):
            values = session.run(batch.arrays, where=batch.label)
            distance.add(want, dict(zip(session.output_names, values, strict=True)))
        found[layer.node] = distance.effect()
        report_to(progress, STAGE, len(found), len(layers))


def _check(mode: str, by: str, samples: int, seconds: float | None) -> None:
    for name, value, known in (("mode", mode, get_args(Mode)), ("by", by, get_args(By))):
        if value not in known:
            raise ConfigError(f"unknown {name} {value!r}", hint=f"{name}= (--{name}) is one of {', '.join(known)}.")
    if samples < 1:
        raise ConfigError(f"samples is {samples}", hint="samples= (--samples) is 1 or more.")
    if seconds is not None and seconds <= 0:
        raise ConfigError(f"seconds is {seconds:g}", hint="seconds= (--seconds) is a time limit above 0.")
