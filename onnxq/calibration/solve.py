"""From a plan and statistics to the scale and zero-point of every tensor. Pure: runs no inference.

Order matters once: weights may have to widen so that their node's bias fits into int32, and biases come last because

    bias scale = data scale * weight scale
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import reduce
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import NodeProto

from onnxq.calibration.concat_ranges import with_joined_concats
from onnxq.calibration.methods import Method, expected_sqnr_db, method_from_name, solve_range
from onnxq.calibration.methods.density import Density
from onnxq.calibration.methods.percentile import zeros_reach
from onnxq.calibration.statistics import StatsTable, TensorStats
from onnxq.errors import ArtifactError, InternalError, ModelError
from onnxq.graph.view import Graph, attribute
from onnxq.numerics.pair_guard import guard_pair_sums
from onnxq.numerics.qparams import QuantParams, Range, qparams_from_range
from onnxq.numerics.specs import QuantSpec
from onnxq.planning.plan import Derived, Fixed, FromValues, Observed, QuantPlan, Role, SharedWith, TensorPlan
from onnxq.targets.schema import Target, WeightGuard

QParamsTable = Mapping[str, QuantParams]
"""Parameters by key of `QuantPlan.tensors`."""

RangeTable = Mapping[str, Range]
"""Ranges by tensor name."""

_RUINED_SQNR_DB = 10.0
"""Below it a tensor has lost more than a tenth of its signal's power."""

_MILD_PERCENTILE = 99.0
"""From here on a percentile is meant to take off outliers alone."""

# Head room for the accumulator the bias is added to: |bias code| stays below 2^30.
_LARGEST_BIAS_CODE = 2.0**30


def solve(graph: Graph, plan: QuantPlan, stats: StatsTable, method: Method, target: Target) -> QParamsTable:
    """Parameters for every tensor of `plan`.

    Args:
        graph: The normalised float graph the plan was made for.
        plan: What to quantize.
        stats: Statistics of at least the tensors in `plan.observed()`.
        method: How ranges are chosen from statistics.
        target: The table the plan was made with.

    Raises:
        ArtifactError: the statistics lack a tensor, or hold ranges only while `method` needs histograms.
        ModelError: a weight holds NaN or Inf.
    """
    return solve_from_ranges(graph, plan, ranges_from_stats(plan, stats, method).ranges, target)


@dataclass(frozen=True, kw_only=True)
class FoundRanges:
    """Ranges found in statistics.

    Attributes:
        ranges: The range of each observed tensor.
        replaced: Names of the tensors whose signal the method would have cut off, and which got the range of `max`.
    """

    ranges: RangeTable
    replaced: tuple[str, ...] = ()


def ranges_from_stats(plan: QuantPlan, stats: StatsTable, method: Method) -> FoundRanges:
    """The range of each observed tensor; those of a group have one range, solved from their merged statistics.

    Where `method` would cut off most of a tensor's signal (see `_sound_range`), the tensor gets the range of `max`.

    Raises:
        ArtifactError: the statistics lack a tensor.
    """
    ranges, replaced = {}, []
    for name, found in _group_stats(plan, stats).items():
        tensor = plan.tensors[name]
        bounds = tensor.source if isinstance(tensor.source, Observed) else Observed()
        ranges[name], kept = _sound_range(found, tensor.spec, method, bounds)
        if not kept:
            replaced.append(name)
    return FoundRanges(ranges=ranges, replaced=tuple(replaced))


def _sound_range(stats: TensorStats, spec: QuantSpec, method: Method, bounds: Observed) -> tuple[Range, bool]:
    """The range by `method`, unless it ruins the tensor and `max` would not; and whether it is the method's own.

    The KL search of `entropy` looks at how values are distributed, not at what they weigh: for values in a narrow band
    away from zero (a gate, a background, features of one sign) it may end below the band and cut off everything. A
    percentile can do the same to a sparse tensor; below 99 % the user wants much cut off, and gets it.
    """
    found = solve_range(stats, spec, method, lower=bounds.lower, upper=bounds.upper)
    if method.name == "percentile":
        density = Density.of(stats, bounds.lower, bounds.upper)
        if density.nonzero and method.percentile < 100.0 and zeros_reach(density, method.percentile):
            return found, False  # it is the range of `max` already
    if method.name != "entropy" and not (method.name == "percentile" and method.percentile >= _MILD_PERCENTILE):
        return found, True

    def sqnr_db(candidate: Range) -> float:
        return expected_sqnr_db(stats, qparams_from_range(candidate, spec), bounds.lower, bounds.upper)

    if sqnr_db(found) >= _RUINED_SQNR_DB:
        return found, True
    whole = solve_range(stats, spec, method_from_name("max"), lower=bounds.lower, upper=bounds.upper)
    better = sqnr_db(whole) >= sqnr_db(found) + _RUINED_SQNR_DB
    return (whole, False) if better else (found, True)


def solve_from_ranges(graph: Graph, plan: QuantPlan, ranges: RangeTable, target: Target) -> QParamsTable:
    """Parameters for every tensor of `plan`, with the ranges of its activations known.

    Args:
        graph: The normalised float graph the plan was made for.
        plan: What to quantize.
        ranges: A scalar range for each tensor in `plan.observed()`; what the graph cannot let through is cut off.
            Tensors of one group must have equal ranges: see `share_ranges`.
        target: The table the plan was made with.

    Raises:
        ModelError: a weight holds NaN or Inf.
    """
    table: dict[str, QuantParams] = {}
    ranges = with_joined_concats(graph, plan, ranges)
    for key, tensor in plan.tensors.items():
        if isinstance(tensor.source, Observed):
            table[key] = _observed(ranges[key], tensor, tensor.source)
        elif isinstance(tensor.source, Fixed):
            table[key] = qparams_from_range(Range.of(tensor.source.rmin, tensor.source.rmax), tensor.spec)
        elif isinstance(tensor.source, FromValues):
            table[key] = _from_values(graph, tensor, target)
    for key, tensor in plan.tensors.items():
        if isinstance(tensor.source, SharedWith):
            table[key] = table[_root(plan, key)]
    biases = [(key, t, t.source) for key, t in plan.tensors.items() if isinstance(t.source, Derived)]
    for _, tensor, source in biases:
        table[source.weight] = _widened_for_bias(graph, tensor, table[source.data], table[source.weight])
    for key, tensor, source in biases:
        scale = table[source.data].scale.astype(np.float64) * table[source.weight].scale.astype(np.float64)
        spec = replace(tensor.spec, axis=0 if scale.ndim else None)
        table[key] = QuantParams(scale=scale.astype(np.float32), zero_point=np.zeros(scale.shape, np.int32), spec=spec)
    return {key: table[key] for key in plan.tensors}


def _group_stats(plan: QuantPlan, stats: StatsTable) -> dict[str, TensorStats]:
    """Statistics of each observed tensor; those of a group are merged, so that all its members get one range."""
    missing = [name for name in plan.observed() if name not in stats.tensors]
    if missing:
        raise ArtifactError(
            f"the statistics lack {len(missing)} of the tensors that {plan.target} quantizes, first {missing[0]!r}",
            hint="calibrate for the same target: onnxq.calibrate(..., target=...) (onnxq calibrate --target)",
        )
    groups: dict[str, list[TensorStats]] = {}
    for name in plan.observed():
        groups.setdefault(plan.tensors[name].group or name, []).append(stats.tensors[name])
    merged = {group: reduce(TensorStats.merge, members) for group, members in groups.items()}
    return {name: merged[plan.tensors[name].group or name] for name in plan.observed()}


def share_ranges(plan: QuantPlan, ranges: RangeTable) -> dict[str, Range]:
    """`ranges` of the observed tensors; those of a group get the smallest range that holds all of theirs."""
    members: dict[str, list[Range]] = {}
    for name in plan.observed():
        members.setdefault(plan.tensors[name].group or name, []).append(ranges[name])
    joint = {
        group: Range.of(min(float(r.rmin) for r in found), max(float(r.rmax) for r in found))
        for group, found in members.items()
    }
    return {name: joint[plan.tensors[name].group or name] for name in plan.observed()}


def _observed(found: Range, tensor: TensorPlan, bounds: Observed) -> QuantParams:
    rmin, rmax = float(found.rmin), float(found.rmax)
    cut = Range.of(
        rmin if bounds.lower is None else max(rmin, bounds.lower),
        rmax if bounds.upper is None else min(rmax, bounds.upper),
    )
    params = qparams_from_range(cut, tensor.spec)
    if tensor.spec.symmetric or bounds.lower != 0.0 or bounds.upper is None or bounds.upper <= 0.0:
        return params
    return _within(params, bounds.upper)


def _within(params: QuantParams, upper: float) -> QuantParams:
    """`params` whose largest code is not above `upper`, float rounding included: only then a Clip disappears (C5)."""
    steps = np.float32(params.spec.qmax - int(params.zero_point))
    scale = np.minimum(params.scale, np.float32(upper) / steps)
    while scale * steps > np.float32(upper):
        scale = np.nextafter(scale, np.float32(0))
    return replace(params, scale=scale)


def _from_values(graph: Graph, tensor: TensorPlan, target: Target) -> QuantParams:
    values = constant_values(graph, tensor.name)
    params = qparams_from_range(range_of_values(values, tensor.spec), tensor.spec)
    if tensor.role is Role.WEIGHT and target.guard is WeightGuard.PAIR_SUM:
        for use in tensor.uses:
            params = _guarded(graph.node(use.node), values, params)
    return params


def constant_values(graph: Graph, name: str) -> NDArray[Any]:
    """The values of an initializer, known to be finite.

    Raises:
        ModelError: it holds NaN or Inf.
    """
    values = graph.constant(name)
    if values is None:
        raise InternalError(f"{name!r} is not an initializer")
    if not np.isfinite(values).all():
        raise ModelError(
            "holds NaN or Inf, which no integer can stand for",
            where=f"initializer {name!r}",
            hint="keep the nodes that read it in float: exclude=(...) (--exclude NAME)",
        )
    return values


def range_of_values(values: NDArray[Any], spec: QuantSpec) -> Range:
    """Smallest range that holds all `values`, for each channel of `spec`."""
    if spec.axis is None:
        return Range.of(float(values.min(initial=0.0)), float(values.max(initial=0.0)))
    others = tuple(a for a in range(values.ndim) if a != spec.axis)
    return Range(rmin=values.min(axis=others, initial=0.0), rmax=values.max(axis=others, initial=0.0))


def _guarded(node: NodeProto, values: NDArray[Any], params: QuantParams) -> QuantParams:
    """`params` made safe for the order in which the kernel of `node` reduces (C14)."""
    if node.op_type == "Conv":
        if values.shape[1] == 1 and attribute(node, "group", 1) == values.shape[0]:
            return params  # the depthwise kernel multiplies in 32 bits
        # (M, C, kh, kw) is walked as (kh, kw, C).
        return guard_pair_sums(values, params, walk=[*range(2, values.ndim), 1], channel=0)
    if node.op_type == "Gemm" and attribute(node, "transB", 0):
        return guard_pair_sums(values, params, walk=[1], channel=0)
    return guard_pair_sums(values, params, walk=[values.ndim - 2], channel=values.ndim - 1)


def _widened_for_bias(graph: Graph, bias: TensorPlan, data: QuantParams, weight: QuantParams) -> QuantParams:
    """`weight`, with scales large enough that the bias codes stay inside int32."""
    magnitude = np.abs(constant_values(graph, bias.name).astype(np.float64)).reshape(-1)
    smallest = magnitude / (_LARGEST_BIAS_CODE * float(data.scale))
    if weight.spec.axis is None:
        smallest = smallest.max(initial=0.0)
    scale = np.maximum(weight.scale.astype(np.float64), smallest).astype(np.float32)
    return weight if np.array_equal(scale, weight.scale) else replace(weight, scale=scale)


def _root(plan: QuantPlan, key: str) -> str:
    seen = {key}
    source = plan.tensors[key].source
    while isinstance(source, SharedWith):
        key = source.tensor
        if key in seen:
            raise InternalError(f"tensor {key!r} shares its parameters with itself")
        seen.add(key)
        source = plan.tensors[key].source
    return key
