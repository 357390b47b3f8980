"""Collects statistics the way the user asked: here or on a cluster, saved now and then or not, of a shard or of all."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial

from onnxq.calibration.checkpoint import Checkpointing, Collect, ProgressCallback, collect_with_checkpoints
from onnxq.calibration.reused_sessions import ReusedSessions
from onnxq.calibration.runner import CollectOptions, collect
from onnxq.calibration.statistics.table import StatsTable
from onnxq.data.batches import Batches
from onnxq.data.sharded_batches import ShardedBatches
from onnxq.graph.view import Graph
from onnxq.inference.providers import full_names


def collect_as_asked(  # noqa: PLR0913 - the parts of one run
    graph: Graph,
    taps: Sequence[str],
    batches: Batches,
    *,
    digest: str,
    options: CollectOptions,
    progress: ProgressCallback | None = None,
    checkpointing: Checkpointing | None = None,
    ray: str | bool = False,
) -> StatsTable:
    """Statistics of tensors over all of `batches`; neither checkpoints nor a cluster change them.

    Args:
        graph: The float model; it is not changed.
        taps: Names of the tensors.
        batches: The data; of ShardedBatches the result says which shard it is.
        digest: Digest of the float model, stamped on the result.
        options: How to collect.
        progress: Called after each batch, or share of batches.
        checkpointing: Where and when to save; None saves nothing.
        ray: Whether to use a Ray cluster, or the address of one.

    Raises:
        OnnxqError: as `collect`, `collect_with_checkpoints` and `RayCluster`.
    """
    with ExitStack() as stack:
        run: Collect
        if ray is False:
            kept = options if checkpointing is None else ReusedSessions.of(options)
            run = partial(collect, graph, taps, digest=digest, options=kept)
        else:
            from onnxq.calibration.ray_cluster import RayCluster  # noqa: PLC0415 - only for those who ask for it

            address = ray if isinstance(ray, str) and ray else None
            cluster = RayCluster(graph, taps, digest=digest, options=options, address=address)
            run = stack.enter_context(cluster).collect
        if checkpointing is None:
            table = run(batches, progress=progress)
        else:
            table = collect_with_checkpoints(
                run, batches, checkpointing, digest=digest, taps=taps, options=_shown_by(options), progress=progress
            )
    return replace(table, shards=batches.shards) if isinstance(batches, ShardedBatches) else table


def _shown_by(options: CollectOptions) -> dict[str, str]:
    """The options that show in statistics, by keyword."""
    return {
        "nonfinite": options.nonfinite,
        "full_histogram": str(options.full_histogram),
        "range_only": str(options.range_only),
        "providers": ",".join(full_names(options.providers)),
    }
