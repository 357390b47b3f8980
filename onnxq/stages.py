"""The stages that the public functions put together: loading and planning, data, ranges, rewriting, and their facts."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from onnxq.calibration.batches import Batch, Batches
from onnxq.calibration.checkpoint import Checkpointing
from onnxq.calibration.images import ImageOptions
from onnxq.calibration.inputs import InputSpecs, Layout
from onnxq.calibration.methods import MOVING_AVERAGE, Method
from onnxq.calibration.observers import observe_moving_average
from onnxq.calibration.progress import Progress
from onnxq.calibration.runner import CollectOptions, collect
from onnxq.calibration.sharded_batches import ShardedBatches
from onnxq.calibration.sharding import Shard
from onnxq.calibration.solve import QParamsTable, RangeTable, ranges_from_stats, share_ranges
from onnxq.calibration.sources import open_data
from onnxq.calibration.statistics import StatsTable
from onnxq.calibration.synthetic import synthetic_batches
from onnxq.calibration.tensorrt_cache import TensorRTCache
from onnxq.errors import ArtifactError, ConfigError, ModelError, UnsupportedModelError
from onnxq.graph.model import (
    ModelSource,
    get_metadata,
    load_graph,
    model_digest,
    quantized_nodes,
    upgrade_opset,
)
from onnxq.graph.view import Graph
from onnxq.passes.base import PassManager, PassResult
from onnxq.passes.fold_weights import FoldWeights
from onnxq.passes.give_biases import GiveBiases
from onnxq.passes.hold_float import HoldFloat
from onnxq.passes.insert_qdq import InsertQDQ
from onnxq.passes.normalise import normalise_float
from onnxq.planning.options import PlanOptions
from onnxq.planning.plan import Action, QuantPlan
from onnxq.planning.planner import make_plan
from onnxq.plural import counted
from onnxq.report.build import POOR_SQNR_DB
from onnxq.targets import resolve_target
from onnxq.targets.schema import Target
from onnxq.verification.check import Check
from onnxq.verification.compare import OutputError
from onnxq.version import VERSION

ProgressCallback = Callable[[Progress], None]

RECOVERIES = ("none", "fast")


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
            f"the model is quantized already: it has {counted(len(done), 'quantized node')}, first {done[0]!r}",
            hint="give the float model; to check a quantized one use onnxq.verify(...) (onnxq verify)",
        )
    graph = upgrade_opset(source.copy(), table.min_opset)
    passes = PassManager([normalise_float(), GiveBiases()], name="prepare").run(graph)
    made = make_plan(graph, table, options=options, digest=model_digest(source), notes=(note,) if note else ())
    return Prepared(source=source, graph=graph, target=table, plan=made, passes=passes)


def rewrite(graph: Graph, plan: QuantPlan, qparams: QParamsTable) -> Graph:
    """The quantized graph: pairs inserted, weights folded. `graph` is not changed."""
    quantized = graph.copy()
    PassManager([InsertQDQ(plan, qparams), FoldWeights(plan, qparams), HoldFloat(plan)], name="rewrite").run(quantized)
    return quantized


def open_batches(  # noqa: PLR0913 - what the public functions hand through
    graph: Graph,
    data: Any,
    *,
    batch_size: int | None,
    limit: int | None,
    layout: Layout | None,
    images: ImageOptions | str | None,
    shard: Shard | None = None,
) -> Batches:
    """The data cut to batches for `graph`; None gives synthetic ones. Arguments and errors as for `open_data`."""
    if data is None:
        batches = synthetic_batches(graph)
        return batches if shard is None else ShardedBatches(batches, shard)
    inputs = InputSpecs.from_graph(graph)
    return open_data(data, inputs=inputs, batch_size=batch_size, limit=limit, layout=layout, images=images, shard=shard)


@dataclass(frozen=True)
class Known:
    """What is known of the activations.

    Attributes:
        stats: Their statistics.
        ranges: The ranges of those to quantize.
        label: How the ranges were found.
        replaced: Tensors that got the range of `max` in place of the method's, which would have ruined them.
    """

    stats: StatsTable
    ranges: RangeTable
    label: str
    replaced: tuple[str, ...] = ()


def observe(
    prepared: Prepared,
    batches: Batches,
    method: Method,
    options: CollectOptions,
    progress: ProgressCallback | None,
) -> Known:
    """Run the model over `batches` and find the ranges that `method` gives.

    Raises:
        DataError: the data does not fit the model, is empty, or holds NaN/Inf.
    """
    graph, plan, digest = prepared.graph, prepared.plan, prepared.plan.digest
    if method.name == MOVING_AVERAGE:
        seen = observe_moving_average(
            graph, plan.observed(), batches, digest=digest, momentum=method.momentum, options=options
        )
        stats = replace(no_stats(prepared), samples=seen.samples, data_fingerprint=seen.data_fingerprint)
        return Known(stats, share_ranges(plan, seen.ranges), method.label)
    stats = collect(graph, plan.observed(), batches, digest=digest, options=options, progress=progress)
    return known_from_stats(plan, stats, method)


def find_ranges(  # noqa: PLR0913 - what `quantize` hands through
    prepared: Prepared,
    batches: Batches,
    method: Method,
    options: CollectOptions,
    *,
    stats: StatsTable | None,
    cache: TensorRTCache | None,
    progress: ProgressCallback | None,
) -> Known:
    """The ranges of the plan's tensors: from a cache, from statistics, or from running the model over `batches`.

    Raises:
        ArtifactError: `stats` or `cache` belong to another model, or lack tensors.
        DataError: the data does not fit the model, is empty, or holds NaN/Inf.
    """
    if cache is not None:
        return Known(no_stats(prepared), cache.ranges(prepared.plan), "TensorRT calibration cache")
    if stats is None:
        return observe(prepared, batches, method, options, progress)
    check_stats(prepared, stats)
    return known_from_stats(prepared.plan, stats, method)


def known_from_stats(plan: QuantPlan, stats: StatsTable, method: Method) -> Known:
    """What `method` makes of statistics.

    Raises:
        ArtifactError: the statistics lack a tensor, or hold ranges only while `method` needs histograms.
    """
    found = ranges_from_stats(plan, stats, method)
    return Known(stats, found.ranges, method.label, found.replaced)


def replaced_by_max(known: Known) -> tuple[str, ...]:
    """A note where tensors did not get the range of the method that was asked for."""
    if not known.replaced:
        return ()
    first = f"{counted(len(known.replaced), 'tensor')}, first {known.replaced[0]!r}"
    got = "it got" if len(known.replaced) == 1 else "they got"
    return (f"method {known.label} would have cut off the signal of {first}; {got} max",)


def no_stats(prepared: Prepared) -> StatsTable:
    """For ranges that come from elsewhere."""
    return StatsTable(tensors={}, digest=prepared.plan.digest, samples=0)


def incomplete(stats: StatsTable) -> tuple[str, ...]:
    """What a report says of statistics that lack shards of the data."""
    if stats.shards is None:
        return ()
    return (f"the statistics are of {stats.shards} only, not of all calibration data; merge the rest (onnxq merge)",)


def is_made_up(data: Any, stats: StatsTable | None, cache: TensorRTCache | None) -> bool:
    """Whether the ranges come from synthetic inputs."""
    return data is None and stats is None and cache is None


def check_sources(method: Method, stats: StatsTable | None, cache: TensorRTCache | None) -> None:
    """See that ranges come from one place, and from one that the method can use.

    Raises:
        ConfigError: they do not.
    """
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


def checkpointing_from(given: Checkpointing | str | os.PathLike[str] | None, resume: bool) -> Checkpointing | None:
    """The checkpointing that `checkpoint=` and `resume=` ask for.

    Raises:
        ConfigError: there is no place to resume from.
    """
    if isinstance(given, Checkpointing):
        return replace(given, resume=given.resume or resume)
    if given is not None:
        return Checkpointing(path=Path(given), resume=resume)
    if resume:
        raise ConfigError(
            "there is no checkpoint to resume from", hint="name it with checkpoint= (--checkpoint) beside resume=True"
        )
    return None


def check_recovery(recover: str) -> None:
    """Refuse a kind of recovery that there is not."""
    if recover not in RECOVERIES:
        raise ConfigError(
            f"unknown recovery {recover!r}; known: {', '.join(RECOVERIES)}",
            hint="pass recover='fast' or recover='none' (--recover)",
        )


def uncorrected(recover: str, samples: Sequence[Batch]) -> tuple[str, ...]:
    """A note where recovery was wanted and had nothing to work on."""
    if recover == "none" or samples:
        return ()
    return ("biases were not corrected: that takes a few samples, data= (--data)",)


def read_through(batches: Batches) -> None:
    """Read data that nothing is calibrated on, for what is kept of it."""
    for _ in batches.stream():
        pass


def check_stats(prepared: Prepared, stats: StatsTable) -> None:
    """See that statistics belong to the model.

    Raises:
        ArtifactError: they do not.
    """
    if stats.digest != prepared.plan.digest:
        raise ArtifactError(
            "the statistics were collected on another model",
            hint="calibrate this model: onnxq.calibrate(model, data) (onnxq calibrate)",
        )


def nothing_to_quantize(plan: QuantPlan) -> UnsupportedModelError:
    """The error for a plan that leaves every node in float, with the most common reasons."""
    reasons = Counter(d.reason for d in plan.nodes)
    listed = "; ".join(f"{reason} ({counted(count, 'node')})" for reason, count in reasons.most_common(3))
    return UnsupportedModelError(
        f"nothing in this model can run in int8 on {plan.target}: {listed}",
        hint="`onnxq plan MODEL` gives the reason for each node; onnxq.plan(model).nodes in Python",
    )


def expected_int8(prepared: Prepared) -> list[str]:
    """Nodes that the engine must be seen to run in int8: those with weights."""
    return [d.node for d in prepared.plan.nodes if d.action is Action.INT8 and d.op in prepared.target.compute]


class Clock:
    """Seconds by step."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._last = time.perf_counter()

    def lap(self, step: str) -> None:
        now = time.perf_counter()
        self.seconds[step] = now - self._last
        self._last = now


class Counted:
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


def origin_check(source: Graph, quantized: Graph, outputs: Sequence[OutputError]) -> tuple[Check, ...]:
    """Whether a quantized model was made from `source`, where its metadata tells.

    Another digest alone proves little: the same model, saved again with other metadata, has one. Where the outputs have
    nothing in common either, it is another model.
    """
    made_from = get_metadata(quantized.frame).get("onnxq.float_digest")
    if made_from is None:
        return ()
    digest = model_digest(source)
    detail = f"the file names the same digest, {digest[:12]}"
    if made_from != digest:
        detail = f"the file says it was made from another float model: digest {made_from[:12]}, not {digest[:12]}"
    unlike = any(o.sqnr_db is not None and o.sqnr_db < POOR_SQNR_DB for o in outputs)
    return (Check(name="made from this float model", passed=made_from == digest or not unlike, detail=detail),)


def check_output_is_no_input(output: str | os.PathLike[str] | None, **inputs: Any) -> None:
    """Refuse to write over what is read, whatever `force` says.

    Args:
        output: Where to write.
        inputs: What is read, by the name of its argument; only paths count.

    Raises:
        ConfigError: they are one file.
    """
    for name, given in inputs.items():
        if output is None or not isinstance(given, (str, os.PathLike)):
            continue
        if Path(output).resolve() == Path(given).resolve():
            raise ConfigError(
                f"this is the file given as {name}=, which is read",
                where=f"output {os.fspath(output)!r}",
                hint="choose another place with output= (-o)",
            )


def source_name(data: Any) -> str:
    """What the data is called in the report."""
    if data is None:
        return "synthetic inputs"
    return str(data) if isinstance(data, (str, os.PathLike)) else type(data).__name__


def metadata_of(plan: QuantPlan, known: Known, *, synthetic: bool) -> dict[str, str]:
    """What the file says about how it was made; nothing that changes from run to run."""
    return {
        "onnxq.version": VERSION,
        "onnxq.target": plan.target,
        "onnxq.method": known.label,
        "onnxq.data": "synthetic" if synthetic else known.stats.data_fingerprint,
        "onnxq.samples": str(known.stats.samples),
        "onnxq.float_digest": plan.digest,
    }
