"""Scales and codes of every weight of a plan, one weight at a time, in parts of its rows."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto

from onnxq.calibration.solve import constant_values
from onnxq.graph.view import Graph
from onnxq.numerics.qparams import QuantParams
from onnxq.numerics.specs import QuantSpec
from onnxq.planning.plan import TensorPlan
from onnxq.planning.weight_form import GPTQ, MSE, NEED_DATA, WeightForm
from onnxq.weight_only.activation_aware import ChannelScales
from onnxq.weight_only.blocks import Blocks, Grid, Rounded
from onnxq.weight_only.kept import KeptWeight, KeptWeights, Quality
from onnxq.weight_only.moments import Moments
from onnxq.weight_only.planning import WeightPlan
from onnxq.weight_only.rewriting import as_rows
from onnxq.weight_only.rounding import WITHOUT_DATA
from onnxq.weight_only.second_order import SecondOrder
from onnxq.weight_only.sites import PRODUCT, WeightSite

_PART_ELEMENTS = 2**20
"""Values that are rounded at once: a few megabytes for each of the arrays that rounding needs."""


def rounded_weights(  # noqa: PLR0913 - a plan, and what rounding looks at
    graph: Graph,
    planned: WeightPlan,
    form: WeightForm,
    moments: Moments | None = None,
    scales: ChannelScales | None = None,
    *,
    kept: KeptWeights | None = None,
    path: str = "",
) -> Iterator[tuple[str, Rounded, Quality]]:
    """Every weight of a plan, in codes.

    Args:
        graph: The float graph of the plan.
        planned: The plan.
        form: How weights are stored.
        moments: For the methods that look at data.
        scales: What columns are multiplied with before they are rounded, of weights that "awq" looked at.
        kept: Weights that need not be rounded again; what is rounded is added.
        path: Path of the graph in it.

    Raises:
        ModelError: a weight holds NaN or Inf.
    """
    scales = scales or {}
    for key, tensor in planned.plan.tensors.items():
        site, scale = planned.sites[key][0], scales.get(key)
        known = None if kept is None else kept.known(f"{path}{key}", tensor.spec, scale)
        if known is not None:
            yield key, known.rounded, known.quality
            continue
        method = tensor.rounding or form.rounding
        matrix = moments(site.node) if moments is not None and method == GPTQ and site.kind == PRODUCT else None
        rounder = MSE if method in NEED_DATA and matrix is None else method
        named = method if matrix is not None or key in scales else rounder
        rounded, sqnr_db = _rounded(graph, tensor, site, rounder, matrix, scale)
        quality = Quality(sqnr_db=sqnr_db, method=named)
        if kept is not None:
            kept.weights[f"{path}{key}", tensor.spec] = KeptWeight(rounded=rounded, quality=quality, scale=scale)
        yield key, rounded, quality


def _rounded(  # noqa: PLR0913, PLR0917 - one weight, and how it is rounded
    graph: Graph,
    tensor: TensorPlan,
    site: WeightSite,
    method: str,
    matrix: NDArray[np.float64] | None,
    scale: NDArray[np.float32] | None,
) -> tuple[Rounded, float]:
    rows = as_rows(constant_values(graph, tensor.name), site)
    half = graph.dtype(tensor.name) == TensorProto.FLOAT16
    count = max(1, _PART_ELEMENTS // max(1, rows.shape[1]))
    second_order = None if matrix is None else SecondOrder(matrix)
    parts: list[Rounded] = []
    signal = noise = 0.0
    for start in range(0, rows.shape[0], count):
        part = rows[start : start + count].astype(np.float32)
        blocks = Blocks.of(part if scale is None else part * scale, tensor.spec, half=half)
        found = WITHOUT_DATA[method](blocks) if second_order is None else second_order.rounded(blocks)
        values = found.values() if scale is None else found.values() / scale
        error = (values - part).astype(np.float64)
        signal += float(np.vdot(part.astype(np.float64), part))
        noise += float(np.vdot(error, error))
        parts.append(found)
    sqnr = np.inf if noise == 0 else -np.inf if signal == 0 else 10 * np.log10(signal / noise)
    return _joined(parts), float(sqnr)


def _joined(parts: list[Rounded]) -> Rounded:
    if len(parts) == 1:
        return parts[0]
    grid = Grid(
        scale=np.concatenate([part.grid.scale for part in parts]),
        zero_point=np.concatenate([part.grid.zero_point for part in parts]),
    )
    return Rounded(codes=np.concatenate([part.codes for part in parts]), grid=grid, size=parts[0].size)


def qparams_of(rounded: Rounded, spec: QuantSpec, site: WeightSite) -> QuantParams:
    """Parameters in the shape that the weight has in the float model."""
    scale: NDArray[Any] = rounded.grid.scale
    zero_point: NDArray[Any] = rounded.grid.zero_point
    if spec.block_size is None:
        scale, zero_point = scale.reshape(-1), zero_point.reshape(-1)
    elif site.axis == 0:
        scale, zero_point = scale.T, zero_point.T
    return QuantParams(scale=scale, zero_point=zero_point.astype(spec.qtype.dtype), spec=replace(spec))
