"""`onnxq.calibrate`: statistics alone."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from onnxq.calibration.checkpoint import Checkpointing
from onnxq.calibration.collection import collect_as_asked
from onnxq.calibration.progress import Progress
from onnxq.calibration.runner import CollectOptions, NonFinite
from onnxq.calibration.statistics.table import StatsTable
from onnxq.data.images import ImageOptions
from onnxq.data.inputs import Layout
from onnxq.data.sharding import Shard, shard_from
from onnxq.graph.model import (
    ModelSource,
)
from onnxq.passes.settle_types import runnable
from onnxq.pipeline.arguments import checkpointing_from
from onnxq.pipeline.nested import readable_for, with_inside
from onnxq.pipeline.stages import open_batches, prepare
from onnxq.planning.options import FAST, Ends, PlanOptions
from onnxq.planning.overrides import Override
from onnxq.targets import ORT_CPU, TargetSource

ProgressCallback = Callable[[Progress], None]


def calibrate(  # noqa: PLR0913 - one keyword for each choice of the user
    model: ModelSource,
    data: Any = None,
    *,
    target: TargetSource = ORT_CPU,
    activations: str | None = None,
    weights: str | None = None,
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
    providers: Sequence[str] | str | None = None,
    nonfinite: NonFinite = "error",
    full_histogram: bool = False,
    range_only: bool = False,
    memory_limit: int | None = None,
    shard: Shard | str | tuple[int, int] | None = None,
    checkpoint: Checkpointing | str | os.PathLike[str] | None = None,
    resume: bool = False,
    ray: str | bool = False,
    progress: ProgressCallback | None = None,
    remark: Callable[[str], None] | None = None,
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
        remark: Called at the end with each thing about the data that a person should read.

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
    choices = (
        *(exclude, exclude_ops, exclude_between, include, include_ops, include_between, overrides, placement),
        *(activations, weights),
    )
    prepared = prepare(model, target, PlanOptions.of(*choices))
    part = None if shard is None else shard_from(shard)
    batches = open_batches(
        prepared.source, data, batch_size=batch_size, limit=limit, layout=layout, images=images, shard=part
    )
    batches = readable_for(prepared, batches)
    stats = collect_as_asked(
        runnable(prepared.graph),
        prepared.plan.observed(),
        batches,
        digest=prepared.plan.digest,
        options=options,
        progress=progress,
        checkpointing=checkpointing_from(checkpoint, resume),
        ray=ray,
    )
    stats = with_inside(stats, prepared, batches, options)
    if remark is not None:
        for text in (*batches.warnings, *batches.notes):
            remark(text)
    return stats
