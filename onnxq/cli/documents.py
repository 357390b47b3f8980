"""JSON documents of commands whose results have no JSON form of their own. Keys are added, never renamed or removed.

onnxq.plan/1    {schema, mode, target, opset, digest, notes, counts: {int8, fused, weights, float},
                 int8_mac_share, nodes: [{node, op, action, reason, rule, macs, mac_share, codes}],
                 tensors (with --tensors): [{tensor, role, dtype, axis, block_size, scale: [..], zero_point: [..],
                 source, group, rule, writer, readers}]}
onnxq.data/1    {schema, source, samples, batches, inputs: [{name, dtype, expected, shapes, low, high, mean, std, zeros,
                 channels}], outputs: [{name, shape, low, high}], preparations, warnings, notes}
onnxq.engine/1  {schema, path, engine, version, size_bytes, seconds, notes,
                 profile: {input: {min: [..], opt: [..], max: [..]}}}
onnxq.stats/1   {schema, path, digest, samples, data_fingerprint, tensors,
                 shards: null or {count, total_samples, indices}}
onnxq.strip/1   {schema, path, pairs, holds, exact, dequantized: [initializer], restored: [node]}
"""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from onnxq.api.build_engine import EngineResult
    from onnxq.api.strip import StripResult
    from onnxq.calibration.statistics.table import StatsTable
    from onnxq.planning.plan import QuantPlan
    from onnxq.report.explanation import Explanation


def plan_document(
    plan: QuantPlan, rows: Explanation, int8_mac_share: float | None, *, mode: str, tensors: bool
) -> dict[str, Any]:
    """A plan, with the given rows; counts and share are those of the whole plan."""
    counts = Counter(d.action.value for d in plan.nodes)
    document = {
        "schema": "onnxq.plan/1",
        "mode": mode,
        "target": plan.target,
        "opset": plan.opset,
        "digest": plan.digest,
        "notes": list(plan.notes),
        "counts": {action: counts[action] for action in ("int8", "fused", "weights", "float", "other")},
        "int8_mac_share": int8_mac_share,
        "nodes": [asdict(row) for row in rows.nodes],
    }
    return {**document, "tensors": [asdict(row) for row in rows.tensors]} if tensors else document


def stats_document(stats: StatsTable, path: Path) -> dict[str, Any]:
    """What a statistics file holds, without the statistics."""
    return {
        "schema": "onnxq.stats/1",
        "path": str(path),
        "digest": stats.digest,
        "samples": stats.samples,
        "data_fingerprint": stats.data_fingerprint,
        "tensors": len(stats),
        "shards": None if stats.shards is None else stats.shards.to_json(),
    }


def strip_document(result: StripResult, path: Path) -> dict[str, Any]:
    """What stripping took out of a model."""
    return {
        "schema": "onnxq.strip/1",
        "path": str(path),
        "pairs": result.pairs,
        "holds": result.holds,
        "exact": result.exact,
        "dequantized": list(result.dequantized),
        "restored": list(result.restored),
    }


def engine_document(built: EngineResult) -> dict[str, Any]:
    """An engine that was built."""
    return {
        "schema": "onnxq.engine/1",
        "path": str(built.path),
        "engine": built.engine,
        "version": built.version,
        "size_bytes": built.size_bytes,
        "seconds": built.seconds,
        "notes": list(built.notes),
        "profile": {
            name: {bound: list(shape) for bound, shape in zip(("min", "opt", "max"), three, strict=True)}
            for name, three in built.profile.items()
        },
    }
