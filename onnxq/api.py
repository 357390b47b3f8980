"""The public functions, and the one place that knows the order of the stages.

    load -> normalise -> plan -> collect -> solve -> rewrite -> verify

Each stage is a function of its own. Only loading and saving touch the disk, the caller's objects are never changed, and
an output file appears whole or not at all.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from onnx import ModelProto

from onnxq.calibration.checkpoint import Checkpointing
from onnxq.calibration.collection import collect_as_asked
from onnxq.calibration.images import ImageOptions
from onnxq.calibration.inputs import Layout
from onnxq.calibration.kept import keep_first
from onnxq.calibration.methods import method_from_name
from onnxq.calibration.progress import Progress
from onnxq.calibration.runner import CollectOptions, NonFinite
from onnxq.calibration.sharding import Shard, shard_from
from onnxq.calibration.solve import QParamsTable, solve_from_ranges
from onnxq.calibration.statistics import StatsTable
from onnxq.calibration.tensorrt_cache import load_tensorrt_cache
from onnxq.graph.model import (
    ModelSource,
    load_graph,
    save_model,
    set_metadata,
    size_bytes,
)
from onnxq.graph.saving import check_output, data_file, needs_data_file
from onnxq.planning.macs import plan_with_macs
from onnxq.planning.options import FAST, PlanOptions
from onnxq.planning.plan import Action, QuantPlan
from onnxq.recovery.bias_correction import correct_biases
from onnxq.report.build import RunFacts, build_report
from onnxq.report.report import DataFacts, Report
from onnxq.stages import (
    Clock,
    Counted,
    check_output_is_no_input,
    check_recovery,
    check_sources,
    checkpointing_from,
    expected_int8,
    find_ranges,
    incomplete,
    is_made_up,
    metadata_of,
    nothing_to_quantize,
    open_batches,
    origin_check,
    prepare,
    read_through,
    replaced_by_max,
    rewrite,
    source_name,
    uncorrected,
)
from onnxq.targets import ORT_CPU, resolve_target
from onnxq.tuned import check_tuning, tune_placement, widened
from onnxq.tuning.search import DEFAULT_SECONDS, Racing, Tuning
from onnxq.verification.verify import verify_model

DEFAULT_METHOD = "auto"

HELD_OUT_BATCHES = 8
"""Batches set aside from calibration, where the data allows it, to compare float and int8 on."""

Recovery = Literal["none", "fast"]

ProgressCallback = Callable[[Progress], None]


@dataclass(frozen=True, kw_only=True)
class QuantizeResult:
    """What `quantize` made.

    Attributes:
        model: The quantized model.
        plan: Where Q/DQ pairs went, and why.
        stats: Statistics of the activations; give them to another `quantize` of the same model to skip inference.
        qparams: Scale and zero-point of every quantized tensor.
        report: What was measured; truthy when every check passed.
        output: Where the model was written, if it was.
        tuning: What `tune` found.
    """

    model: ModelProto
    plan: QuantPlan
    stats: StatsTable
    qparams: QParamsTable
    report: Report
    output: Path | None = None
    tuning: Tuning | None = None


def quantize(  # noqa: PLR0913 - one keyword for each choice of the user
    model: ModelSource,
    data: Any = None,
    *,
    target: str = ORT_CPU,
    method: str = DEFAULT_METHOD,
    percentile: float | None = None,
    momentum: float | None = None,
    output: str | os.PathLike[str] | None = None,
    force: bool = False,
    stats: StatsTable | None = None,
    tensorrt_cache: str | os.PathLike[str] | None = None,
    recover: Recovery = "fast",
    batch_size: int | None = None,
    limit: int | None = None,
    layout: Layout | None = None,
    images: ImageOptions | str | None = None,
    exclude: Sequence[str] = (),
    exclude_ops: Sequence[str] = (),
    placement: str = FAST,
    tune: str | None = None,
    tune_seconds: float = DEFAULT_SECONDS,
    threads: int | None = None,
    providers: Sequence[str] | None = None,
    nonfinite: NonFinite = "error",
    full_histogram: bool = False,
    memory_limit: int | None = None,
    progress: ProgressCallback | None = None,
    tune_progress: Callable[[int, str], None] | None = None,
) -> QuantizeResult:
    """Quantize a float model to int8 for one target, and prove the result on the target's engine.

    Args:
        model: Path, bytes or ModelProto of a float model.
        data: Calibration data: a path (.npz, .npy, a folder of them or of images, ONNX test data, a Python file that
            defines `load_data()`), an iterable of `{input name: array}`, or an onnxruntime CalibrationDataReader. The
            last batches are set aside to compare float and int8 on. None takes synthetic inputs, which leave the
            accuracy unknown; the report and the model's metadata say so.
        target: Name of the target: ort-cpu, ort-x64-avx2, ort-x64-vnni, ort-arm64, tensorrt or openvino.
        method: How ranges are chosen from statistics: max, percentile, entropy, mse or auto; or moving-average, which
            follows the batches in their order as PyTorch's observer does.
        percentile: For method "percentile", the share of values inside the range, in percent (more than 50).
        momentum: For method "moving-average", the weight of the newest batch, 0.01 unless given.
        output: Where to write the model; None writes nothing.
        force: Overwrite an existing output.
        stats: Statistics from an earlier run; then nothing is calibrated, and `data` serves for recovery (its first
            samples) and the report (its last).
        tensorrt_cache: A calibration cache of TensorRT, for target "tensorrt": its scales are used, and nothing is
            calibrated.
        recover: What is done to win back accuracy: "fast" corrects the mean shift of rounded weights in the biases, on
            the first samples of `data` (so not where `stats` come without data); "none" does nothing.
        batch_size: Samples to feed at once, where the model leaves it open.
        limit: Most samples to use.
        layout: Where rank-4 data keeps its channels ("nchw" or "nhwc"), if not where the model does.
        images: How image files become arrays: "imagenet", "yolo", "paddleocr", or ImageOptions.
        exclude: Names or shell-style patterns of nodes to keep in float; a single one may be a plain string.
        exclude_ops: Operator types to keep in float, likewise.
        placement: "fast" also keeps nodes in float that are faster there, as far as the target's table tells (the ort
            targets for x64); "full" runs every node in int8 that can.
        tune: "latency" races placements under onnxruntime on this machine and keeps the fastest whose outputs are as
            close to the float model's, within 1 dB, as those of the default one. Interrupted, it goes on with the best
            so far.
        tune_seconds: How long that may take.
        threads: Threads for calibration inference; None leaves it to onnxruntime.
        providers: onnxruntime's execution providers for calibration in fall-back order, such as ("cuda", "cpu"); None
            means the CPU.
        nonfinite: NaN and Inf in a tensor are an "error", or "ignore" leaves them out of the statistics.
        full_histogram: Count every element of every tensor, not at most about 65536 of each sample's.
        memory_limit: Bytes that the tensors calibration looks at may take; where they do not fit, the data is read
            several times, with the same result.
        progress: Called now and then while calibrating.
        tune_progress: Called after each placement that was raced, with their number and what was changed.

    Raises:
        ModelError: the model cannot be read, is not valid, or is quantized already.
        DataError: the data does not fit the model, is empty, or holds NaN/Inf.
        ConfigError: an argument has an impossible value, or the output exists or is what is read.
        ArtifactError: `stats` or `tensorrt_cache` are damaged, belong to another model, or lack tensors.
    """
    check_recovery(recover)
    clock = Clock()
    chosen = method_from_name(method, percentile=percentile, momentum=momentum)
    cache = None if tensorrt_cache is None else load_tensorrt_cache(tensorrt_cache)
    check_sources(chosen, stats, cache)
    check_tuning(tune, tune_seconds, chosen, cache)
    options = CollectOptions(
        threads=threads,
        providers=providers,
        nonfinite=nonfinite,
        full_histogram=full_histogram,
        memory_limit=memory_limit,
    )
    check_output_is_no_input(output, data=data, tensorrt_cache=tensorrt_cache)
    if output is not None:
        check_output(Path(output), force=force)
    placing = PlanOptions.of(exclude, exclude_ops, placement)
    prepared = prepare(model, target, placing)
    if not any(d.action is Action.INT8 for d in prepared.plan.nodes):
        raise nothing_to_quantize(prepared.plan)
    clock.lap("plan")
    batches = open_batches(prepared.source, data, batch_size=batch_size, limit=limit, layout=layout, images=images)
    calibration, held_out = batches.hold_out(HELD_OUT_BATCHES)
    calibration, samples = keep_first(calibration)
    observed = prepared if tune is None else widened(prepared, placing)
    known = find_ranges(observed, calibration, chosen, options, stats=stats, cache=cache, progress=progress)
    if data is not None and (stats is not None or cache is not None):
        read_through(calibration)
    clock.lap("calibrate")
    tuning = None
    if tune is not None:
        racing = Racing(seconds=tune_seconds, threads=threads, progress=tune_progress)
        prepared, tuning = tune_placement(prepared, placing, known.ranges, held_out, racing)
        clock.lap("tune")
    qparams = solve_from_ranges(prepared.graph, prepared.plan, known.ranges, prepared.target)
    graph = prepared.graph
    if recover == "fast":
        graph = correct_biases(graph, prepared.plan, qparams, samples, options)
    clock.lap("recover")
    quantized = rewrite(graph, prepared.plan, qparams)
    result = quantized.to_model()
    set_metadata(result, metadata_of(prepared.plan, known, synthetic=is_made_up(data, stats, cache)))
    clock.lap("rewrite")
    path = None if output is None else Path(output)
    feeds = Counted(held_out)
    verification = verify_model(
        prepared.source, result, feeds, prepared.plan.target, expected_int8=expected_int8(prepared)
    )
    facts = RunFacts(
        method=known.label,
        size_before_bytes=size_bytes(prepared.source),
        size_after_bytes=size_bytes(quantized),
        data=DataFacts(
            source=source_name(data),
            samples=known.stats.samples,
            held_out_samples=feeds.samples,
            synthetic=is_made_up(data, stats, cache),
            synthetic_comparison=data is None,
            from_statistics=stats is not None,
        ),
        output_path=None if path is None else str(path),
        output_data_path=None if path is None or not needs_data_file(result) else str(data_file(path)),
        warnings=incomplete(known.stats),
        notes=(*prepared.plan.notes, *replaced_by_max(known), *batches.notes, *uncorrected(recover, samples)),
        seconds=clock.seconds,
    )
    plan = plan_with_macs(prepared.plan, prepared.graph, feeds.shapes)
    report = build_report(verification, facts, plan=plan, qparams=qparams)
    if path is not None:
        save_model(result, path, force=force, base_dir=quantized.base_dir)
    return QuantizeResult(
        model=result, plan=plan, stats=known.stats, qparams=qparams, report=report, output=path, tuning=tuning
    )


def calibrate(  # noqa: PLR0913 - one keyword for each choice of the user
    model: ModelSource,
    data: Any = None,
    *,
    target: str = ORT_CPU,
    batch_size: int | None = None,
    limit: int | None = None,
    layout: Layout | None = None,
    images: ImageOptions | str | None = None,
    exclude: Sequence[str] = (),
    exclude_ops: Sequence[str] = (),
    placement: str = FAST,
    threads: int | None = None,
    providers: Sequence[str] | None = None,
    nonfinite: NonFinite = "error",
    full_histogram: bool = False,
    range_only: bool = False,
    memory_limit: int | None = None,
    shard: Shard | str | tuple[int, int] | None = None,
    checkpoint: Checkpointing | str | os.PathLike[str] | None = None,
    resume: bool = False,
    ray: str | bool = False,
    progress: ProgressCallback | None = None,
) -> StatsTable:
    """Statistics of every activation that `target` quantizes, enough for every method.

    Args:
        model: As for `quantize`, and so are all arguments that are not listed here.
        data: Calibration data, all of which is used.
        range_only: Keep the extremes alone: less work, and enough for the method "max".
        shard: Take only one part of the data, as (3, 16) or "3/16": the third of sixteen. Merge the parts' statistics
            with `StatsTable.merge`.
        checkpoint: File in which the statistics so far are saved once a minute, and which is removed at the end.
        resume: Go on from the checkpoint of an interrupted run, where there is one.
        ray: Spread the batches over a Ray cluster: its address, or True for the one of this machine.

    Raises:
        ModelError: the model cannot be read, is not valid, or is quantized already.
        DataError: the data does not fit the model, is empty, or holds NaN/Inf.
        ConfigError: an argument has an impossible value, or a checkpoint exists and `resume` is not given.
        ArtifactError: the checkpoint is damaged, or belongs to another model, plan or data.
        InterruptedRunError: a signal that the given Checkpointing looks out for ended the run.
    """
    options = CollectOptions(
        threads=threads,
        providers=providers,
        nonfinite=nonfinite,
        full_histogram=full_histogram,
        range_only=range_only,
        memory_limit=memory_limit,
    )
    prepared = prepare(model, target, PlanOptions.of(exclude, exclude_ops, placement))
    part = None if shard is None else shard_from(shard)
    batches = open_batches(
        prepared.source, data, batch_size=batch_size, limit=limit, layout=layout, images=images, shard=part
    )
    return collect_as_asked(
        prepared.graph,
        prepared.plan.observed(),
        batches,
        digest=prepared.plan.digest,
        options=options,
        progress=progress,
        checkpointing=checkpointing_from(checkpoint, resume),
        ray=ray,
    )


def plan(
    model: ModelSource,
    *,
    target: str = ORT_CPU,
    exclude: Sequence[str] = (),
    exclude_ops: Sequence[str] = (),
    placement: str = FAST,
) -> QuantPlan:
    """What would be quantized for `target`, and why not, without any data. Arguments as for `quantize`."""
    return prepare(model, target, PlanOptions.of(exclude, exclude_ops, placement)).plan


def verify(  # noqa: PLR0913 - one keyword for each choice of the user
    float_model: ModelSource,
    quantized_model: ModelSource,
    data: Any = None,
    *,
    target: str = ORT_CPU,
    batch_size: int | None = None,
    limit: int | None = None,
    layout: Layout | None = None,
    images: ImageOptions | str | None = None,
) -> Report:
    """Ask the target's engine what it runs in int8, and compare outputs with the float model.

    Args:
        float_model: The float model.
        quantized_model: Any Q/DQ model of it, not only one that onnxq made.
        data: Inputs to compare on, as for `quantize`; None takes synthetic inputs.
        target: Name of the target.
        batch_size: As for `quantize`.
        limit: As for `quantize`.
        layout: As for `quantize`.
        images: As for `quantize`.

    Raises:
        ModelError: a model cannot be read or run.
        DataError: the data does not fit, or the models have different outputs.
        ConfigError: there is no such target.
    """
    table, _ = resolve_target(target)
    source, quantized = load_graph(float_model), load_graph(quantized_model)
    batches = open_batches(source, data, batch_size=batch_size, limit=limit, layout=layout, images=images)
    feeds = Counted(batches)
    # A message has no folder of its own; what `quantize` returns refers to files beside the float model.
    candidate = quantized.to_model() if quantized.base_dir is None else quantized
    verification = verify_model(source, candidate, feeds, table.name)
    facts = RunFacts(
        size_before_bytes=size_bytes(source),
        size_after_bytes=size_bytes(quantized),
        data=DataFacts(
            source=source_name(data),
            samples=0,
            held_out_samples=feeds.samples,
            synthetic=False,
            synthetic_comparison=data is None,
        ),
        notes=batches.notes,
    )
    return build_report(verification, facts, extra_checks=origin_check(source, quantized, verification.outputs))
