"""Parameters that a quantization-aware training chose, for the tensors that a target quantizes.

A plan may quantize other tensors than the training did. What can be said without data:

    the tensor had a pair                          its parameters
    it is a moved, pooled or rectified tensor      those of the tensor it comes from: the codes are the same
    it is moved or max-pooled into one that had    those of that one
    a weight                                       the training's scale, so that its codes are the training's

and everything else has to be calibrated. A target's form of codes may differ: int8 codes plus 128 are uint8 codes of
the same values, and back; from other asymmetric codes a symmetric target gets the smallest range that holds them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from onnxq.calibration.solve import within_limit
from onnxq.graph.view import STANDARD_DOMAINS, Graph, tensor_value
from onnxq.numerics.arrays import quantize
from onnxq.numerics.qparams import QuantParams, Range, qparams_from_range
from onnxq.numerics.specs import QuantSpec
from onnxq.passes.strip.strip_pairs import TrainedPairs
from onnxq.planning.plan import Observed, QuantPlan, Role, TensorPlan
from onnxq.wording.plural import counted

_KEEP_CODES = frozenset({
    "Flatten", "Gather", "Identity", "MaxPool", "Relu", "Clip", "Reshape", "Slice", "Split", "Squeeze", "Transpose",
    "Unsqueeze", "Expand", "Tile",
})  # fmt: skip
"""Behind these, codes of the input's parameters stand for exactly the values there are."""

_KEEP_RANGE = _KEEP_CODES | {"AveragePool", "GlobalAveragePool"}
"""Behind these, values stay within the input's range."""

_MOVED_BACK = frozenset({"Flatten", "Identity", "MaxPool", "Reshape", "Squeeze", "Transpose", "Unsqueeze"})
"""In front of these, the output's parameters do: rounding before them is rounding behind them."""

_SAME = 1e-4
"""Folding a factor into a weight rounds each value once more, in float32."""


@dataclass(frozen=True, kw_only=True)
class TrainedParams:
    """Parameters for a plan.

    Attributes:
        params: By key of `QuantPlan.tensors`: those that the training gives.
        missing: Names of the activations that have to be calibrated, in graph order.
        notes: What a user should read.
    """

    params: Mapping[str, QuantParams]
    missing: tuple[str, ...]
    notes: tuple[str, ...]


def trained_params(graph: Graph, plan: QuantPlan, pairs: TrainedPairs) -> TrainedParams:
    """What `pairs` says about the tensors of `plan`.

    Args:
        graph: The float graph of the plan, in which weights hold the values that their pairs let through, times a
            factor for each channel where a float pass folded one.
        plan: What will be quantized.
        pairs: What the training's pairs said.
    """
    params: dict[str, QuantParams] = {}
    coarser: list[str] = []
    missing = []
    for key, tensor in plan.tensors.items():
        if isinstance(tensor.source, Observed):
            found = _found(graph, pairs.activations, tensor.name)
            if found is None:
                missing.append(key)
                continue
            params[key], exact = _in_form(found, tensor.spec, tensor.source)
            coarser += [] if exact else [key]
    _share(plan, params, missing, coarser)
    anew = []
    for key, tensor in plan.tensors.items():
        if tensor.role in (Role.WEIGHT, Role.CONSTANT, Role.TABLE) and tensor.name in pairs.weights:
            weight = _weight(graph, tensor, pairs)
            if weight is None:
                anew.append(key)
            else:
                params[key] = weight
    return TrainedParams(params=params, missing=tuple(missing), notes=_notes(plan, pairs, missing, coarser, anew))


def _notes(
    plan: QuantPlan, pairs: TrainedPairs, missing: list[str], coarser: list[str], anew: list[str]
) -> tuple[str, ...]:
    notes = [f"the model was trained with {counted(pairs.pairs, 'Q/DQ pair')}, whose scales are kept where they fit"]
    for names, what in (
        (missing, "had no pair in training and got a calibrated range"),
        (coarser, f"got another scale than in training, in the form of codes that {plan.target} takes"),
        (anew, f"got another scale: {plan.target} does not take weights in the form of the training"),
        (pairs.conflicts, "had several pairs in training; the first one's scale is kept"),
        (pairs.narrowed, "had codes of a smaller range than their type in training, which a pair cannot say"),
    ):
        unique = list(dict.fromkeys(names))
        if unique:
            who = f"{counted(len(unique), 'tensor')}, first {unique[0]!r},"
            notes.append(f"{who} {what}")
    return tuple(notes)


# ---- activations -------------------------------------------------------------------------------------------------


def _found(graph: Graph, known: Mapping[str, QuantParams], tensor: str) -> QuantParams | None:
    """Per-tensor parameters for `tensor`, from its own pair or from one that says as much."""
    name = tensor
    while True:
        if name in known:
            return known[name] if known[name].spec.axis is None else None
        node = graph.producer(name)
        if node is None or node.op_type not in _KEEP_RANGE or node.domain not in STANDARD_DOMAINS:
            break
        name = node.input[0]
    name = tensor
    while len(readers := graph.uses(name)) == 1 and readers[0].slot == 0 and not graph.is_output(name):
        node = graph.node(readers[0].node)
        if node.op_type not in _MOVED_BACK or node.domain not in STANDARD_DOMAINS:
            break
        name = node.output[0]
        if name in known:
            return known[name] if known[name].spec.axis is None else None
    return None


def _in_form(found: QuantParams, spec: QuantSpec, bounds: Observed) -> tuple[QuantParams, bool]:
    """`found` as codes of `spec`, and whether they stand for all the values that they stood for in training.

    Where nothing is negative, an engine drops a Relu or Clip only if the smallest code stands for 0. Asymmetric codes
    then begin there, with the scale of the training: the same values, and larger ones beyond them.
    """
    own = found.spec
    zero_point = found.zero_point.astype(np.int64)
    # The full range of the type, as in training: a narrow one would saturate one code earlier.
    same = replace(spec, narrow_range=False)
    moved = zero_point - own.qtype.qmin + spec.qtype.qmin
    if not _alike(own, spec) or (spec.symmetric and moved != _middle(spec)):
        return qparams_from_range(_range(found), spec), False
    if spec.symmetric or bounds.lower != 0.0:
        return QuantParams(scale=found.scale, zero_point=moved.astype(spec.qtype.dtype), spec=same), True
    params = QuantParams(scale=found.scale, zero_point=np.array(spec.qmin, spec.qtype.dtype), spec=same)
    if bounds.upper is None or bounds.upper <= 0.0:
        return params, True
    cut = within_limit(params, bounds.upper)
    return cut, bool(np.isclose(cut.scale, params.scale, rtol=_SAME))


def _alike(own: QuantSpec, spec: QuantSpec) -> bool:
    """Whether codes of one form can be those of the other, moved."""
    if own.qtype.is_float or spec.qtype.is_float or spec.power_of_two:
        return False
    return own.qtype.bits == spec.effective_bits


def _middle(spec: QuantSpec) -> int:
    return 0 if spec.qtype.signed else (spec.qtype.qmax + 1) // 2


def _range(params: QuantParams) -> Range:
    zero_point, scale = params.zero_point.astype(np.float64), params.scale.astype(np.float64)
    return Range(rmin=(params.spec.qmin - zero_point) * scale, rmax=(params.spec.qmax - zero_point) * scale)


def _share(plan: QuantPlan, params: dict[str, QuantParams], missing: list[str], coarser: list[str]) -> None:
    """Give the tensors of a group one set of parameters: their own where they agree, else a range that holds all."""
    groups: dict[str, list[str]] = {}
    for key, tensor in plan.tensors.items():
        if tensor.group is not None and isinstance(tensor.source, Observed):
            groups.setdefault(tensor.group, []).append(key)
    for members in groups.values():
        known = [params[key] for key in members if key in params]
        if not known:
            continue
        joint, first = known[0], known[0]
        if any(not np.array_equal(p.scale, first.scale) or p.zero_point != first.zero_point for p in known):
            ranges = [_range(p) for p in known]
            hull = Range.of(min(float(r.rmin) for r in ranges), max(float(r.rmax) for r in ranges))
            joint = qparams_from_range(hull, plan.tensors[members[0]].spec)
            coarser += [key for key in members if key in params]
        for key in members:
            params[key] = joint
            if key in missing:
                missing.remove(key)


# ---- weights -----------------------------------------------------------------------------------------------------


def _weight(graph: Graph, tensor: TensorPlan, pairs: TrainedPairs) -> QuantParams | None:
    """Parameters with which the constant gets the codes of the training; None where the target's form has none."""
    found, spec = pairs.weights[tensor.name], tensor.spec
    value = graph.constant(tensor.name)
    if value is None or not _alike(found.spec, spec):
        return None
    trained = tensor_value(pairs.values[tensor.name], graph.base_dir)
    moved = found.zero_point.astype(np.int64) - found.spec.qtype.qmin + spec.qtype.qmin
    if (spec.symmetric and (moved != _middle(spec)).any()) or trained.shape != value.shape:
        return None
    axis = None if found.spec.axis is None else found.spec.axis % value.ndim
    if axis is not None and axis != spec.axis:
        return None
    factor = _factor(trained, value, spec.axis)
    if factor is None:
        return None
    scale = (found.scale.astype(np.float64) * factor).astype(np.float32)
    if not (np.isfinite(scale).all() and (scale > 0).all()):
        return None
    same = replace(spec, narrow_range=False)
    params = QuantParams(
        scale=scale, zero_point=np.broadcast_to(moved, scale.shape).astype(spec.qtype.dtype), spec=same
    )
    codes = quantize(value, params)
    return replace(params, spec=spec) if int(codes.min(initial=0)) >= spec.qmin else params


def _factor(before: NDArray[np.float32], after: NDArray[np.float32], axis: int | None) -> NDArray[np.float64] | None:
    """|f| with after = f * before along `axis` (float64, shape (C,) or ()); None where it is not so."""
    if axis is None:
        rows_before, rows_after = before.reshape(1, -1), after.reshape(1, -1)
    else:
        rows_before = np.moveaxis(before, axis, 0).reshape(before.shape[axis], -1)
        rows_after = np.moveaxis(after, axis, 0).reshape(after.shape[axis], -1)
    one, other = rows_before.astype(np.float64), rows_after.astype(np.float64)
    power = (one * one).sum(axis=1)
    factor = np.divide((one * other).sum(axis=1), power, out=np.ones(len(one)), where=power > 0.0)
    if np.abs(other - factor[:, None] * one).max(initial=0.0) > _SAME * np.abs(other).max(initial=0.0):
        return None
    magnitude = np.where(factor == 0.0, 1.0, np.abs(factor))
    return np.asarray(magnitude if axis is not None else magnitude.reshape(()))
