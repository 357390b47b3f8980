"""The public functions, and the one place that knows the order of the stages.

    load -> normalise -> plan -> collect -> solve -> rewrite -> verify

Each stage is a function of its own. Only loading and saving touch the disk, the caller's objects are never changed, and
an output file appears whole or not at all.
"""

from __future__ import annotations

import difflib
import os
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from numpy.typing import NDArray
from onnx import ModelProto

from onnxq.calibration.batches import Batch, Batches
from onnxq.calibration.checkpoint import Checkpointing
from onnxq.calibration.collection import collect_as_asked
from onnxq.calibration.images import ImageOptions
from onnxq.calibration.inputs import InputSpecs, Layout
from onnxq.calibration.kept import keep_first
from onnxq.calibration.methods import MOVING_AVERAGE, Method, method_from_name
from onnxq.calibration.observers import ChannelTable, observe_channels, observe_moving_average
from onnxq.calibration.progress import Progress
from onnxq.calibration.runner import CollectOptions, NonFinite, collect
from onnxq.calibration.sharded_batches import ShardedBatches
from onnxq.calibration.sharding import Shard, shard_from
from onnxq.calibration.solve import QParamsTable, RangeTable, ranges_from_stats, share_ranges, solve_from_ranges
from onnxq.calibration.sources import open_data
from onnxq.calibration.statistics import StatsTable
from onnxq.calibration.synthetic import synthetic_batches
from onnxq.calibration.tensorrt_cache import TensorRTCache, load_tensorrt_cache
from onnxq.errors import ArtifactError, ConfigError, ModelError, UnsupportedModelError
from onnxq.graph.model import (
    ModelSource,
    load_graph,
    model_digest,
    quantized_nodes,
    save_model,
    set_metadata,
    size_bytes,
    upgrade_opset,
)
from onnxq.graph.saving import check_output
from onnxq.graph.view import Graph
from onnxq.passes.base import PassManager, PassResult
from onnxq.passes.fold_weights import FoldWeights
from onnxq.passes.give_biases import GiveBiases
from onnxq.passes.insert_qdq import InsertQDQ
from onnxq.passes.normalise import normalise_float
from onnxq.planning.macs import plan_with_macs
from onnxq.planning.options import PlanOptions
from onnxq.planning.plan import Action, QuantPlan
from onnxq.planning.planner import make_plan
from onnxq.recovery.bias_correction import correct_biases
from onnxq.report.build import RunFacts, build_report
from onnxq.report.report import DataFacts, Report
from onnxq.targets import ORT_CPU, resolve_target
from onnxq.targets.schema import Target
from onnxq.verification.verify import verify_model
from onnxq.version import VERSION

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
    """

    model: ModelProto
    plan: QuantPlan
    stats: StatsTable
    qparams: QParamsTable
    report: Report
    output: Path | None = None


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """A model ready for calibration.

    Attributes:
        source: The model as given.
        graph: The same function after the float passes, at the opset that the target needs.
        target: The resolved target.
        plan: The plan for it.
        passes: What the float passes did.
    """

    source: Graph
    graph: Graph
    target: Target
    plan: QuantPlan
    passes: PassResult


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
    threads: int | None = None,
    providers: Sequence[str] | None = None,
    nonfinite: NonFinite = "error",
    full_histogram: bool = False,
    memory_limit: int | None = None,
    progress: ProgressCallback | None = None,
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
        percentile: For method "percentile", the share of values inside the range, in percent.
        momentum: For method "moving-average", the weight of the newest batch, 0.01 unless given.
        output: Where to write the model; None writes nothing.
        force: Overwrite an existing output.
        stats: Statistics from an earlier run; then nothing is calibrated, and `data` serves only for the report.
        tensorrt_cache: A calibration cache of TensorRT, for target "tensorrt": its scales are used, and nothing is
            calibrated.
        recover: What is done to win back accuracy: "fast" corrects the mean shift of rounded weights in the biases, on
            the first samples of the calibration data (so not with `stats`); "none" does nothing.
        batch_size: Samples to feed at once, where the model leaves it open.
        limit: Most samples to use.
        layout: Where rank-4 data keeps its channels ("nchw" or "nhwc"), if not where the model does.
        images: How image files become arrays: "imagenet", "yolo", "paddleocr", or ImageOptions.
        exclude: Names or shell-style patterns of nodes to keep in float.
        exclude_ops: Operator types to keep in float.
        threads: Threads for calibration inference; None leaves it to onnxruntime.
        providers: onnxruntime's execution providers for calibration in fall-back order, such as ("cuda", "cpu"); None
            means the CPU.
        nonfinite: NaN and Inf in a tensor are an "error", or "ignore" leaves them out of the statistics.
        full_histogram: Count every element of every tensor, not at most about 16384 of each sample's.
        memory_limit: Bytes that the tensors calibration looks at may take; where they do not fit, the data is read
            several times, with the same result.
        progress: Called now and then while calibrating.

    Raises:
        ModelError: the model cannot be read, is not valid, or is quantized already.
        DataError: the data does not fit the model, is empty, or holds NaN/Inf.
        ConfigError: an argument has an impossible value, or the output exists.
        ArtifactError: `stats` or `tensorrt_cache` are damaged, belong to another model, or lack tensors.
    """
    clock = _Clock()
    chosen = method_from_name(method, percentile=percentile, momentum=momentum)
    cache = None if tensorrt_cache is None else load_tensorrt_cache(tensorrt_cache)
    _check_sources(chosen, stats, cache)
    options = CollectOptions(
        threads=threads,
        providers=providers,
        nonfinite=nonfinite,
        full_histogram=full_histogram,
        memory_limit=memory_limit,
    )
    if output is not None:
        check_output(Path(output), force=force)
    prepared = prepare(model, target, PlanOptions(exclude=tuple(exclude), exclude_ops=tuple(exclude_ops)))
    if not any(d.action is Action.INT8 for d in prepared.plan.nodes):
        raise _nothing_to_quantize(prepared.plan)
    clock.lap("plan")
    batches = _open(prepared.source, data, batch_size=batch_size, limit=limit, layout=layout, images=images)
    samples: list[Batch] = []
    if cache is not None:
        held_out = batches
        known = _Known(_no_stats(prepared), cache.ranges(prepared.plan), "TensorRT calibration cache")
    elif stats is None:
        calibration, held_out = batches.hold_out(HELD_OUT_BATCHES)
        calibration, samples = keep_first(calibration)
        known = _observe(prepared, calibration, chosen, options, progress)
    else:
        held_out = batches
        _check_stats(prepared, stats)
        known = _Known(stats, ranges_from_stats(prepared.plan, stats, chosen), chosen.label)
    clock.lap("calibrate")
    qparams = solve_from_ranges(prepared.graph, prepared.plan, known.ranges, prepared.target)
    graph = prepared.graph
    if recover == "fast":
        graph = correct_biases(graph, prepared.plan, qparams, samples, options)
    clock.lap("recover")
    quantized = rewrite(graph, prepared.plan, qparams)
    result = quantized.to_model()
    set_metadata(result, _metadata(prepared.plan, known, synthetic=_is_made_up(data, stats, cache)))
    clock.lap("rewrite")
    path = None if output is None else Path(output)
    feeds = _Counted(held_out)
    verification = verify_model(
        prepared.source, result, feeds, prepared.plan.target, expected_int8=_expected_int8(prepared)
    )
    facts = RunFacts(
        method=known.label,
        size_before_bytes=size_bytes(prepared.source),
        size_after_bytes=size_bytes(quantized),
        data=DataFacts(
            source=_source_name(data),
            samples=known.stats.samples,
            held_out_samples=feeds.samples,
            synthetic=_is_made_up(data, stats, cache),
            synthetic_comparison=data is None,
        ),
        output_path=None if path is None else str(path),
        warnings=_incomplete(known.stats),
        notes=(*prepared.plan.notes, *batches.notes),
        seconds=clock.seconds,
    )
    plan = plan_with_macs(prepared.plan, prepared.graph, feeds.shapes)
    report = build_report(verification, facts, plan=plan, qparams=qparams)
    if path is not None:
        save_model(result, path, force=force, base_dir=quantized.base_dir)
    return QuantizeResult(model=result, plan=plan, stats=known.stats, qparams=qparams, report=report, output=path)


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
    prepared = prepare(model, target, PlanOptions(exclude=tuple(exclude), exclude_ops=tuple(exclude_ops)))
    part = None if shard is None else shard_from(shard)
    batches = _open(prepared.source, data, batch_size=batch_size, limit=limit, layout=layout, images=images, shard=part)
    return collect_as_asked(
        prepared.graph,
        prepared.plan.observed(),
        batches,
        digest=prepared.plan.digest,
        options=options,
        progress=progress,
        checkpointing=_checkpointing(checkpoint, resume),
        ray=ray,
    )


def channel_ranges(  # noqa: PLR0913 - one keyword for each choice of the user
    model: ModelSource,
    data: Any = None,
    *,
    target: str = ORT_CPU,
    axis: int = 1,
    tensors: Sequence[str] | None = None,
    batch_size: int | None = None,
    limit: int | None = None,
    layout: Layout | None = None,
    images: ImageOptions | str | None = None,
    threads: int | None = None,
) -> ChannelTable:
    """Smallest and largest value of each channel of activations, for looking at a model. Arguments as for `quantize`.

    Args:
        model: As for `quantize`, and so are all arguments that are not listed here.
        data: Calibration data, all of which is used.
        target: The activations that this target quantizes are looked at.
        axis: Channel axis, negative from the end.
        tensors: Names of those to look at; None looks at all.

    Raises:
        ModelError: the model cannot be read, is not valid, or is quantized already.
        DataError: the data does not fit the model, is empty, or holds NaN/Inf.
        ConfigError: a tensor is not quantized, or has no such axis.
    """
    prepared = prepare(model, target, PlanOptions())
    known = prepared.plan.observed()
    for name in tensors or ():
        if name not in known:
            close = difflib.get_close_matches(name, known, n=1, cutoff=0.0)
            raise ConfigError(
                f"tensor {name!r} is none of those that {prepared.plan.target} quantizes",
                hint="tensors= takes names of onnxq.plan(...).observed()"
                + "".join(f"; did you mean {other!r}?" for other in close),
            )
    batches = _open(prepared.source, data, batch_size=batch_size, limit=limit, layout=layout, images=images)
    return observe_channels(
        prepared.graph,
        known if tensors is None else tensors,
        batches,
        digest=prepared.plan.digest,
        axis=axis,
        options=CollectOptions(threads=threads),
    )


def plan(
    model: ModelSource, *, target: str = ORT_CPU, exclude: Sequence[str] = (), exclude_ops: Sequence[str] = ()
) -> QuantPlan:
    """What would be quantized for `target`, and why not, without any data. Arguments as for `quantize`."""
    return prepare(model, target, PlanOptions(exclude=tuple(exclude), exclude_ops=tuple(exclude_ops))).plan


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
    batches = _open(source, data, batch_size=batch_size, limit=limit, layout=layout, images=images)
    feeds = _Counted(batches)
    verification = verify_model(source, quantized.to_model(), feeds, table.name)
    facts = RunFacts(
        size_before_bytes=size_bytes(source),
        size_after_bytes=size_bytes(quantized),
        data=DataFacts(
            source=_source_name(data),
            samples=0,
            held_out_samples=feeds.samples,
            synthetic=False,
            synthetic_comparison=data is None,
        ),
        notes=batches.notes,
    )
    return build_report(verification, facts)


# ---- stages ------------------------------------------------------------------------------------------------------


def prepare(model: ModelSource, target: str, options: PlanOptions) -> Prepared:
    """Load, normalise and plan.

    Raises:
        ModelError: the model cannot be read, is not valid, or is quantized already.
        ConfigError: there is no such target, or an option names a node that is not there.
    """
    table, note = resolve_target(target)
    source = load_graph(model)
    if done := quantized_nodes(source):
        raise ModelError(
            f"the model is quantized already: it has {len(done)} quantized nodes, first {done[0]!r}",
            hint="give the float model; to check a quantized one use onnxq.verify(...) (onnxq verify)",
        )
    graph = upgrade_opset(source.copy(), table.min_opset)
    passes = PassManager([normalise_float(), GiveBiases()], name="prepare").run(graph)
    made = make_plan(graph, table, options=options, digest=model_digest(source), notes=(note,) if note else ())
    return Prepared(source=source, graph=graph, target=table, plan=made, passes=passes)


def rewrite(graph: Graph, plan: QuantPlan, qparams: QParamsTable) -> Graph:
    """The quantized graph: pairs inserted, weights folded. `graph` is not changed."""
    quantized = graph.copy()
    PassManager([InsertQDQ(plan, qparams), FoldWeights(plan, qparams)], name="rewrite").run(quantized)
    return quantized


def _open(  # noqa: PLR0913 - what the public functions hand through
    graph: Graph,
    data: Any,
    *,
    batch_size: int | None,
    limit: int | None,
    layout: Layout | None,
    images: ImageOptions | str | None,
    shard: Shard | None = None,
) -> Batches:
    if data is None:
        batches = synthetic_batches(graph)
        return batches if shard is None else ShardedBatches(batches, shard)
    inputs = InputSpecs.from_graph(graph)
    return open_data(data, inputs=inputs, batch_size=batch_size, limit=limit, layout=layout, images=images, shard=shard)


@dataclass(frozen=True)
class _Known:
    """What is known of the activations: statistics, the ranges of those to quantize, and how they were found."""

    stats: StatsTable
    ranges: RangeTable
    label: str


def _observe(
    prepared: Prepared,
    batches: Batches,
    method: Method,
    options: CollectOptions,
    progress: ProgressCallback | None,
) -> _Known:
    graph, plan, digest = prepared.graph, prepared.plan, prepared.plan.digest
    if method.name == MOVING_AVERAGE:
        seen = observe_moving_average(
            graph, plan.observed(), batches, digest=digest, momentum=method.momentum, options=options
        )
        stats = replace(_no_stats(prepared), samples=seen.samples, data_fingerprint=seen.data_fingerprint)
        return _Known(stats, share_ranges(plan, seen.ranges), method.label)
    stats = collect(graph, plan.observed(), batches, digest=digest, options=options, progress=progress)
    return _Known(stats, ranges_from_stats(plan, stats, method), method.label)


def _no_stats(prepared: Prepared) -> StatsTable:
    """For ranges that come from elsewhere."""
    return StatsTable(tensors={}, digest=prepared.plan.digest, samples=0)


def _incomplete(stats: StatsTable) -> tuple[str, ...]:
    if stats.shards is None:
        return ()
    return (f"the statistics are of {stats.shards} only, not of all calibration data; merge the rest (onnxq merge)",)


def _is_made_up(data: Any, stats: StatsTable | None, cache: TensorRTCache | None) -> bool:
    """Whether the ranges come from synthetic inputs."""
    return data is None and stats is None and cache is None


def _check_sources(method: Method, stats: StatsTable | None, cache: TensorRTCache | None) -> None:
    if cache is not None and stats is not None:
        raise ConfigError(
            "ranges can come from statistics or from a TensorRT calibration cache, not from both",
            hint="leave out stats= (--stats) or tensorrt_cache= (--calibration-cache)",
        )
    if method.name == MOVING_AVERAGE and stats is not None:
        raise ConfigError(
            "a moving average follows the batches in their order, which statistics do not keep",
            hint="leave stats= (--stats) out and pass data= (--data), or choose another method= (--method)",
        )


def _checkpointing(given: Checkpointing | str | os.PathLike[str] | None, resume: bool) -> Checkpointing | None:
    if isinstance(given, Checkpointing):
        return replace(given, resume=given.resume or resume)
    if given is not None:
        return Checkpointing(path=Path(given), resume=resume)
    if resume:
        raise ConfigError(
            "there is no checkpoint to resume from", hint="name it with checkpoint= (--checkpoint) beside resume=True"
        )
    return None


def _check_stats(prepared: Prepared, stats: StatsTable) -> None:
    if stats.digest != prepared.plan.digest:
        raise ArtifactError(
            "the statistics were collected on another model",
            hint="calibrate this model: onnxq.calibrate(model, data) (onnxq calibrate)",
        )


def _nothing_to_quantize(plan: QuantPlan) -> UnsupportedModelError:
    reasons = Counter(d.reason for d in plan.nodes)
    listed = "; ".join(f"{reason} ({count} nodes)" for reason, count in reasons.most_common(3))
    return UnsupportedModelError(
        f"nothing in this model can run in int8 on {plan.target}: {listed}",
        hint="`onnxq plan MODEL` gives the reason for each node; onnxq.plan(model).nodes in Python",
    )


def _expected_int8(prepared: Prepared) -> list[str]:
    """Nodes that the engine must be seen to run in int8: those with weights."""
    return [d.node for d in prepared.plan.nodes if d.action is Action.INT8 and d.op in prepared.target.compute]


class _Clock:
    """Seconds by step."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._last = time.perf_counter()

    def lap(self, step: str) -> None:
        now = time.perf_counter()
        self.seconds[step] = now - self._last
        self._last = now


class _Counted:
    """Feeds of some batches; counts the samples that pass and keeps the shapes of the first feed."""

    def __init__(self, batches: Batches) -> None:
        self.samples = 0
        self.shapes: dict[str, tuple[int, ...]] = {}
        self._batches = batches

    def __iter__(self) -> Iterator[Mapping[str, NDArray[Any]]]:
        for batch in self._batches.stream():
            self.samples += batch.samples
            self.shapes = self.shapes or {name: array.shape for name, array in batch.arrays.items()}
            yield batch.arrays


def _source_name(data: Any) -> str:
    if data is None:
        return "synthetic inputs"
    return str(data) if isinstance(data, (str, os.PathLike)) else type(data).__name__


def _metadata(plan: QuantPlan, known: _Known, *, synthetic: bool) -> dict[str, str]:
    """What the file says about how it was made; nothing that changes from run to run."""
    return {
        "onnxq.version": VERSION,
        "onnxq.target": plan.target,
        "onnxq.method": known.label,
        "onnxq.data": "synthetic" if synthetic else known.stats.data_fingerprint,
        "onnxq.samples": str(known.stats.samples),
        "onnxq.float_digest": plan.digest,
    }
