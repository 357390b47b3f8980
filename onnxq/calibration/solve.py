"""From a plan and statistics to the scale and zero-point of every tensor. Pure: runs no inference.

Order matters once: weights may have to widen so that their node's bias fits into int32, and biases come last because

    bias scale = data scale * weight scale
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto

from onnxq.calibration.concat_ranges import with_joined_concats
from onnxq.calibration.mask_ranges import with_mask_ends
from onnxq.calibration.methods import Method, expected_sqnr_db, method_from_name, solve_range
from onnxq.calibration.methods.density import Density, seen
from onnxq.calibration.methods.percentile import zeros_reach
from onnxq.calibration.pool_ranges import with_pooled_ranges
from onnxq.calibration.statistics.table import StatsTable, TensorStats
from onnxq.errors import ArtifactError, InternalError, ModelError
from onnxq.graph.view import Graph, attribute
from onnxq.numerics.blocks import range_of_values, scale_shape
from onnxq.numerics.clipping import clipped_params, nearest_power_of_two
from onnxq.numerics.pair_guard import guard_pair_sums
from onnxq.numerics.qparams import QuantParams, Range, next_power_of_two, qparams_from_range
from onnxq.numerics.scale_types import with_scale_in, with_scale_in_float16_if_it_fits
from onnxq.numerics.specs import QuantSpec
from onnxq.planning.plan import Derived, Fixed, FromValues, Observed, QuantPlan, Role, SharedWith, TensorPlan
from onnxq.targets.schema import Target, WeightGuard
from onnxq.wording.plural import counted

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

    Where `method` would cut off most of a tensor's signal (see `sound_range`), the tensor gets the range of `max`.

    Raises:
        OnnxqError: the statistics lack a tensor, or hold nothing of one.
    """
    ranges, replaced = {}, []
    for name, found in group_stats(plan, stats).items():
        tensor = plan.tensors[name]
        bounds = tensor.source if isinstance(tensor.source, Observed) else Observed()
        ranges[name], kept = sound_range(seen(found, name), tensor.spec, tensor.method or method, bounds)
        if not kept:
            replaced.append(name)
    return FoundRanges(ranges=ranges, replaced=tuple(replaced))


def replaced_note(label: str, replaced: Sequence[str]) -> tuple[str, ...]:
    """What a person is told where tensors did not get the range of the method that was asked for."""
    if not replaced:
        return ()
    first = f"{counted(len(replaced), 'tensor')}, first {replaced[0]!r}"
    got = "it got" if len(replaced) == 1 else "they got"
    return (f"method {label} would have cut off the signal of {first}; {got} max",)


def sound_range(
    stats: TensorStats, spec: QuantSpec, method: Method, bounds: Observed | None = None
) -> tuple[Range, bool]:
    """The range by `method`, unless it ruins the tensor and `max` would not; and whether it is the method's own.

    The KL search of `entropy` looks at how values are distributed, not at what they weigh: for values in a narrow band
    away from zero (a gate, a background, features of one sign) it may end below the band and cut off everything. A
    percentile can do the same to a sparse tensor; below 99 % the user wants much cut off, and gets it.
    """
    bounds = bounds or Observed()
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


def solve_from_ranges(  # noqa: PLR0913 - what parameters depend on
    graph: Graph,
    plan: QuantPlan,
    ranges: RangeTable,
    target: Target,
    known: QParamsTable | None = None,
    *,
    clip_weights: bool = False,
) -> QParamsTable:
    """Parameters for every tensor of `plan`, with the ranges of its activations known.

    Args:
        graph: The normalised float graph the plan was made for.
        plan: What to quantize.
        ranges: A scalar range for each tensor in `plan.observed()`; what the graph cannot let through is cut off.
            Tensors of one group must have equal ranges: see `share_ranges`.
        target: The table the plan was made with.
        known: Parameters that are settled already, by key of the plan; weights still widen where the target's kernels
            or their bias would overflow.
        clip_weights: Whether weights get the range with the least squared error in place of all they hold.

    Raises:
        ModelError: a weight holds NaN or Inf.
    """
    table: dict[str, QuantParams] = {}
    known = known or {}
    ranges = with_joined_concats(graph, plan, with_mask_ends(graph, plan, _with_reach(plan, ranges)))
    ranges = with_pooled_ranges(graph, plan, ranges)
    for key, tensor in plan.tensors.items():
        if key in known:
            table[key] = safe_params(graph, tensor, known[key], target)
        elif isinstance(tensor.source, Observed):
            table[key] = _observed(ranges[key], tensor, tensor.source)
        elif isinstance(tensor.source, Fixed):
            found, bounds = Range.of(tensor.source.rmin, tensor.source.rmax), tensor.source
            table[key] = _observed(found, tensor, Observed(bounds.lower, bounds.upper))
        elif key in ranges:
            table[key] = qparams_from_range(ranges[key], tensor.spec)  # a mask
        elif isinstance(tensor.source, FromValues):
            table[key] = _from_values(graph, tensor, target, clip_weights=clip_weights)
    for key in list(table):
        table[key] = _in_type_of(graph, plan, key, table[key])
    for key, tensor in plan.tensors.items():
        if isinstance(tensor.source, SharedWith):
            table[key] = table[_root(plan, key)]
    biases = [(key, t, t.source) for key, t in plan.tensors.items() if isinstance(t.source, Derived)]
    for _, tensor, source in biases:
        table[source.weight] = _widened_for_bias(graph, tensor, table[source.data], table[source.weight])
    for key, tensor, source in biases:
        scale = _scale_of_bias(tensor, source, table)
        spec = replace(tensor.spec, axis=0 if scale.ndim else None)
        table[key] = QuantParams(scale=scale, zero_point=np.zeros(scale.shape, np.int32), spec=spec)
    return {key: table[key] for key in plan.tensors}


def solve_without_data(graph: Graph, plan: QuantPlan, target: Target) -> QParamsTable:
    """Parameters of the tensors of `plan` that need no data: constants, and ranges that a user fixed.

    Weights are shown as they are before their node's bias is looked at, which can widen them in rare cases.

    Raises:
        ModelError: a weight holds NaN or Inf.
    """
    known = {key: t for key, t in plan.tensors.items() if isinstance(t.source, (Fixed, FromValues))}
    shared = {
        key: t
        for key, t in plan.tensors.items()
        if isinstance(t.source, SharedWith) and isinstance(plan.tensors[_root(plan, key)].source, Fixed)
    }
    return solve_from_ranges(graph, replace(plan, tensors={**known, **shared}), {}, target)


def _in_type_of(graph: Graph, plan: QuantPlan, key: str, params: QuantParams) -> QuantParams:
    """`params` with a scale that the type of the tensor holds, which is the type it will be written in."""
    elem_type = graph.dtype(plan.tensors[key].name)
    if plan.float16 and elem_type == TensorProto.FLOAT:
        return with_scale_in_float16_if_it_fits(params)
    return with_scale_in(params, elem_type)


def group_stats(plan: QuantPlan, stats: StatsTable) -> dict[str, TensorStats]:
    """Statistics of each observed tensor; those of a group are merged, so that all its members get one range."""
    missing = [name for name in plan.observed() if name not in stats.tensors]
    if missing:
        raise ArtifactError(
            f"the statistics lack {len(missing)} of the tensors that {plan.target} quantizes, first {missing[0]!r}",
            hint="calibrate for the same target: onnxq.calibrate(..., target=...) (onnxq calibrate --target)",
        )
    groups: dict[str, list[TensorStats]] = {}
    for name in plan.observed():
        groups.setdefault(plan.tensors[name].group or name, []).append(stats[name].itself())
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


def _with_reach(plan: QuantPlan, ranges: RangeTable) -> dict[str, Range]:
    """`ranges`, wide enough for what each tensor has to hold whatever the data shows."""
    reached = dict(ranges)
    for name in reached:
        planned = plan.tensors.get(name)
        if planned is not None and isinstance(planned.source, Observed) and planned.source.reach is not None:
            low, high = planned.source.reach
            reached[name] = Range.of(min(float(ranges[name].rmin), low), max(float(ranges[name].rmax), high))
    return reached


def _observed(found: Range, tensor: TensorPlan, bounds: Observed) -> QuantParams:
    rmin, rmax = float(found.rmin), float(found.rmax)
    cut = Range.of(
        rmin if bounds.lower is None else max(rmin, bounds.lower),
        rmax if bounds.upper is None else min(rmax, bounds.upper),
    )
    params = qparams_from_range(cut, tensor.spec)
    if tensor.spec.symmetric or tensor.spec.power_of_two:
        return params
    if bounds.lower != 0.0:
        return _reaching(params, rmin <= cut.rmin == bounds.lower, rmax >= cut.rmax == bounds.upper, cut)
    return params if bounds.upper is None or bounds.upper <= 0.0 else within_limit(params, bounds.upper)


def _reaching(params: QuantParams, low: bool, high: bool, ends: Range) -> QuantParams:
    """`params` whose smallest (largest) code is not inside `ends` where that end is a bound.

    A hard swish gives 0 from -3 down. If rounding the zero-point left -2.98 as the smallest value, everything below
    would give -0.01: an error in one direction, for as much of the tensor as lies there.
    """
    scale, zero_point = float(params.scale), int(params.zero_point)
    below, above = zero_point - params.spec.qmin, params.spec.qmax - zero_point
    if low and below > 0:
        scale = max(scale, -float(ends.rmin) / below)
    if high and above > 0:
        scale = max(scale, float(ends.rmax) / above)
    return (
        params
        if scale == float(params.scale)
        else replace(params, scale=np.nextafter(np.float32(scale), np.float32(np.inf)))
    )


def within_limit(params: QuantParams, upper: float) -> QuantParams:
    """`params`, asymmetric, with a largest code not above `upper`, float rounding included: then a Clip goes (C5)."""
    steps = np.float32(params.spec.qmax - int(params.zero_point))
    scale = np.minimum(params.scale, np.float32(upper) / steps)
    while scale * steps > np.float32(upper):
        scale = np.nextafter(scale, np.float32(0))
    return replace(params, scale=scale)


def _from_values(graph: Graph, tensor: TensorPlan, target: Target, *, clip_weights: bool) -> QuantParams:
    values = constant_values(graph, tensor.name)
    if isinstance(tensor.source, FromValues) and tensor.source.amax is not None:
        ends = np.full(scale_shape(values.shape, tensor.spec), tensor.source.amax)
        return safe_params(graph, tensor, qparams_from_range(Range(rmin=-ends, rmax=ends), tensor.spec), target)
    params = qparams_from_range(range_of_values(values, tensor.spec), tensor.spec)
    if tensor.spec.power_of_two:
        params = nearest_power_of_two(values, params)
    elif clip_weights and tensor.role is Role.WEIGHT:
        params = clipped_params(values, params)
    return safe_params(graph, tensor, params, target)


def safe_params(graph: Graph, tensor: TensorPlan, params: QuantParams, target: Target) -> QuantParams:
    """`params`, widened where the target's kernels would overflow with the codes of a weight."""
    # Products of two unsigned types are added in 32 bits.
    plain = tensor.spec.qtype.name == "int8"
    if tensor.role is Role.WEIGHT and target.guard is not WeightGuard.NONE and plain:
        values = constant_values(graph, tensor.name)
        for use in tensor.uses:
            params = _guarded(graph.node(use.node), values, params, target)
    return params


def constant_values(graph: Graph, name: str, *, role: Role = Role.WEIGHT) -> NDArray[Any]:
    """The values of an initializer, known to be finite.

    Args:
        graph: The graph.
        name: Name of the initializer.
        role: What it is. In an operand whose range is solved, -Inf is that of a mask, and becomes the lowest number.

    Raises:
        ModelError: it holds NaN or Inf.
    """
    values = graph.constant(name)
    if values is None:
        raise InternalError(f"{name!r} is not an initializer")
    if role is Role.CONSTANT and values.dtype.kind == "f":
        values = np.where(np.isneginf(values), np.finfo(values.dtype).min, values)
    if not np.isfinite(values).all():
        raise ModelError(
            "holds NaN or Inf, which no integer can stand for",
            where=f"initializer {name!r}",
            hint="keep the nodes that read it in float: exclude=(...) (--exclude NAME)",
        )
    return values


def _guarded(node: NodeProto, values: NDArray[Any], params: QuantParams, target: Target) -> QuantParams:
    """`params` made safe for the order in which the kernel of `node` reduces (C14, V15)."""
    if node.op_type == "Conv":
        if values.shape[1] == 1 and attribute(node, "group", 1) == values.shape[0]:
            return params  # the depthwise kernel multiplies in 32 bits
        # (M, C, kh, kw) is walked as (kh, kw, C).
        taps = [] if target.guard is WeightGuard.TAP_PAIR_SUM else range(2, values.ndim)
        return guard_pair_sums(values, params, walk=[*taps, 1], channel=0)
    if node.op_type == "ConvTranspose":
        return params  # OpenVINO's kernel does not saturate, and onnxruntime has none
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
    scale = next_power_of_two(scale) if weight.spec.power_of_two else scale
    return weight if np.array_equal(scale, weight.scale) else replace(weight, scale=scale)


def _scale_of_bias(bias: TensorPlan, source: Derived, table: QParamsTable) -> NDArray[np.float32]:
    """The product of the two scales that a bias follows, no smaller than a normal number of float32.

    Raises:
        ModelError: it is larger than float32 holds.
    """
    scale = table[source.data].scale.astype(np.float64) * table[source.weight].scale.astype(np.float64)
    if np.any(scale > np.finfo(np.float32).max):
        raise ModelError(
            f"the scales of {source.data!r} and of the weight {source.weight!r} are so large that their product, the "
            f"scale of the bias {bias.name!r}, is beyond float32",
            where=f"node {bias.uses[0].node!r}",
            hint="leave it in float: exclude= (--exclude) with its name as `onnxq plan MODEL` prints it",
        )
    return np.asarray(np.maximum(scale, np.finfo(np.float32).tiny), np.float32)


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
