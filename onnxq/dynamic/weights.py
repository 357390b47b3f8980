"""int8 codes of the weights of a dynamic plan, safe for the target's kernels.

The kernels of x64 without VNNI add two products of u8 and s8 in saturating int16 (rule C14 of docs/targets.md), and so
they do where the activations were quantized a moment ago. Weights are guarded in the order in which a kernel reduces.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxq.calibration.solve import constant_values, solve_without_data
from onnxq.graph.view import Graph
from onnxq.numerics.arrays import fake_quantize, quantize
from onnxq.numerics.blocks import range_of_values
from onnxq.numerics.pair_guard import guard_pair_sums
from onnxq.numerics.qparams import QuantParams, qparams_from_range
from onnxq.planning.plan import QuantPlan, TensorPlan
from onnxq.targets.schema import Target, WeightGuard


def solve_dynamic(graph: Graph, plan: QuantPlan, target: Target) -> dict[str, QuantParams]:
    """Parameters of the weights of `plan`, by key.

    Weights of an LSTM, of shape (directions, gates * hidden, K), have a scale for each direction and row: those of all
    directions end to end, along the axis of the rows.

    Raises:
        ModelError: a weight holds NaN or Inf.
    """
    special = {key for key, t in plan.tensors.items() if _reader(graph, t) in ("LSTM", "GRU", "Gather", "Attention")}
    plain = replace(plan, tensors={key: t for key, t in plan.tensors.items() if key not in special})
    found = dict(solve_without_data(graph, plain, target))
    for key in special:
        found[key] = _own(graph, plan.tensors[key], target)
    return {key: found[key] for key in plan.tensors}


def _reader(graph: Graph, tensor: TensorPlan) -> str:
    return str(graph.node(tensor.uses[0].node).op_type)


def _own(graph: Graph, tensor: TensorPlan, target: Target) -> QuantParams:
    values = constant_values(graph, tensor.name)
    reader = _reader(graph, tensor)
    guarded = target.guard is not WeightGuard.NONE and tensor.spec.qtype.signed
    if reader != "LSTM":
        params = qparams_from_range(range_of_values(values, tensor.spec), tensor.spec)
        return guard_pair_sums(values, params, walk=[0], channel=1) if guarded and reader == "Attention" else params
    rows = values.reshape(-1, values.shape[-1])
    spec = tensor.spec if tensor.spec.axis is None else replace(tensor.spec, axis=0)
    params = qparams_from_range(range_of_values(rows, spec), spec)
    if guarded:
        params = guard_pair_sums(rows, params, walk=[1], channel=0)
    return params if spec.axis is None else replace(params, spec=tensor.spec)


def codes_of(values: NDArray[Any], params: QuantParams) -> NDArray[np.generic]:
    """The codes of a weight, in its own shape.

    Args:
        values: The weight.
        params: From `solve_dynamic`.
    """
    if params.spec.axis is not None and params.scale.size != values.shape[params.spec.axis]:
        return quantize(values.reshape(-1, values.shape[-1]), _by_rows(params)).reshape(values.shape)
    return quantize(values, params)


def stored_values(values: NDArray[Any], params: QuantParams) -> NDArray[np.float32]:
    """What the codes of a weight stand for, in its own shape. Arguments as of `codes_of`."""
    if params.spec.axis is not None and params.scale.size != values.shape[params.spec.axis]:
        rows = values.reshape(-1, values.shape[-1])
        return np.asarray(fake_quantize(rows, _by_rows(params)), np.float32).reshape(values.shape)
    return np.asarray(fake_quantize(values, params), np.float32)


def _by_rows(params: QuantParams) -> QuantParams:
    return replace(params, spec=replace(params.spec, axis=0))


def row_scales(values: NDArray[Any], params: QuantParams) -> tuple[NDArray[np.float32], NDArray[np.generic]]:
    """Scales and zero-points of an LSTM's weight, in the kernel's form: (directions,) or (directions, rows)."""
    directions, rows = values.shape[:2]
    if params.spec.axis is None:
        return np.full((directions,), params.scale), np.full((directions,), params.zero_point)
    return params.scale.reshape(directions, rows), params.zero_point.reshape(directions, rows)


Params = Mapping[str, QuantParams]
