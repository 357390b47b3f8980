"""`onnxq.calibrate`: statistics alone."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from onnxq.calibration.checkpoint import Checkpointing
from onnxq.calibration.collection import collect_as_asked
from onnxq.calibration.progress import Progress
from onnxq.calibration.runner import CollectKeywords, CollectOptions
from onnxq.calibration.statistics.table import StatsTable
from onnxq.data.sharding import Shard, shard_from
from onnxq.graph.model import (
    ModelSource,
)
from onnxq.keywords import takes
from onnxq.passes.adapt.settle_types import runnable
from onnxq.pipeline.arguments import checkpointing_from
from onnxq.pipeline.nested import readable_for, with_inside
from onnxq.pipeline.reading import Reading, ReadingKeywords
from onnxq.pipeline.stages import prepare
from onnxq.planning.options import PlacementKeywords, PlanOptions, TypeKeywords
from onnxq.targets import ORT_CPU, TargetSource

if TYPE_CHECKING:
    from typing_extensions import Unpack

ProgressCallback = Callable[[Progress], None]


class CalibrateKeywords(TypeKeywords, PlacementKeywords, ReadingKeywords, CollectKeywords, total=False):
    """What is looked at, and how."""


@takes(CalibrateKeywords)
def calibrate(  # noqa: PLR0913 - one keyword for each choice of the user
    model: ModelSource,
    data: Any = None,
    *,
    target: TargetSource = ORT_CPU,
    range_only: bool = False,
    shard: Shard | str | tuple[int, int] | None = None,
    checkpoint: Checkpointing | str | os.PathLike[str] | None = None,
    resume: bool = False,
    ray: str | bool = False,
    progress: ProgressCallback | None = None,
    remark: Callable[[str], None] | None = None,
    **options: Unpack[CalibrateKeywords],
) -> StatsTable:
    """Statistics of every activation that `target` quantizes, enough for every method.

    Args:
        model: As for `quantize`.
        data: Calibration data, all of which is used.
        target: As for `quantize`.
        range_only: Keep the extremes alone: less work, and enough for the method "max".
        shard: Take only one part of the data, as (3, 16) or "3/16": the third of sixteen. Merge the parts' statistics
            with `StatsTable.merge`.
        checkpoint: File in which the statistics so far are saved once a minute, and which is removed at the end.
        resume: Go on from the checkpoint of an interrupted run, where there is one.
        ray: Spread the batches over a Ray cluster: its address, or True for the one of this machine.
        progress: Called now and then with a Progress.
        remark: Called at the end with each thing about the data that a person should read.
        options: As for `quantize`: activations, weights, exclude, exclude_ops, exclude_between, include, include_ops,
            include_between, overrides, placement, batch_size, limit, layout, images, threads, providers, nonfinite,
            full_histogram, memory_limit.

    Raises:
        ModelError: the model cannot be read, is not valid, or is quantized already.
        DataError: the data does not fit the model, is empty, or holds NaN/Inf.
        ConfigError: an argument has an impossible value, or a checkpoint exists and `resume` is not given.
        ArtifactError: the checkpoint is damaged, or belongs to another model, plan or data.
        InterruptedRunError: a signal that the given Checkpointing looks out for ended the run.
    """
    collecting = CollectOptions.from_keywords(options, range_only=range_only)
    prepared = prepare(model, target, PlanOptions.of(options))
    part = None if shard is None else shard_from(shard)
    batches = Reading.of(options).open(prepared.source, data, shard=part)
    batches = readable_for(prepared, batches)
    stats = collect_as_asked(
        runnable(prepared.graph),
        prepared.plan.observed(),
        batches,
        digest=prepared.plan.digest,
        options=collecting,
        progress=progress,
        checkpointing=checkpointing_from(checkpoint, resume),
        ray=ray,
    )
    stats = with_inside(stats, prepared, batches, collecting)
    if remark is not None:
        for text in (*batches.warnings, *batches.notes):
            remark(text)
    return stats
