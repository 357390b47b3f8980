"""AWQ (arXiv 2306.00978): channels with large inputs get finer codes.

    y = W x = (W diag(s)) (x / s),   s[k] = rms(x[k])^alpha, alpha from 0 to 1, the one of least output error

All products that read one tensor have one s. The division goes into the constants of the normalisation that computes x
where only these products read it, else into a Mul in front of them. The output error of a weight that is off by E is
tr(E H E^T), H = E[x x^T], so that nothing has to be run again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto

from onnxq.calibration.solve import constant_values
from onnxq.graph.constants import operand
from onnxq.graph.view import Graph, Use
from onnxq.passes.simplify.linear import replace_weight
from onnxq.planning.weight_form import AWQ, WeightForm
from onnxq.weight_only.blocks import Blocks
from onnxq.weight_only.kept import KeptWeights
from onnxq.weight_only.moments import Moments
from onnxq.weight_only.planning import WeightPlan
from onnxq.weight_only.rewriting import as_rows
from onnxq.weight_only.rounding import least_error
from onnxq.weight_only.sites import PRODUCT

ChannelScales = Mapping[str, NDArray[np.float32] | None]
"""By key of a weight that was looked at, what its K columns are multiplied with; None where they are left alone."""

_ALPHAS = np.linspace(0.0, 1.0, 11)
_ROWS = 512
"""Rows of a weight that the choice is made on, evenly spaced."""

_NORMALISATIONS = {"LayerNormalization": (1, 2), "SimplifiedLayerNormalization": (1,), "RMSNormalization": (1,)}
"""Slots of the constants that scale the output."""


def scale_channels(
    graph: Graph, planned: WeightPlan, form: WeightForm, moments: Moments, kept: KeptWeights | None = None
) -> dict[str, NDArray[np.float32] | None]:
    """Choose scales, and let `graph` divide by them, in place.

    Args:
        graph: The float graph of the plan.
        planned: The plan.
        form: How weights are stored.
        moments: What the products' inputs are like.
        kept: Scales that need not be chosen again; what is chosen is added.

    Returns:
        What the weights have to be multiplied with before they are rounded, of all whose inputs were seen.
    """
    found: dict[str, NDArray[np.float32] | None] = {}
    for data, keys in _groups(graph, planned, form).items():
        group = tuple((key, planned.plan.tensors[key].spec) for key in keys)
        if kept is not None and group in kept.scales:
            scale = kept.scales[group]
        else:
            matrix = moments(planned.sites[keys[0]][0].node)
            if matrix is None:
                continue
            scale = _chosen(graph, planned, keys, matrix)
            if kept is not None:
                kept.scales[group] = scale
        if scale is not None:
            _divide(graph, data, scale, [Use(planned.sites[key][0].node, 0) for key in keys])
        found |= dict.fromkeys(keys, scale)
    return found


def _groups(graph: Graph, planned: WeightPlan, form: WeightForm) -> dict[str, list[str]]:
    """Weights that are multiplied with the same tensor, by that tensor."""
    groups: dict[str, list[str]] = {}
    for key, sites in planned.sites.items():
        method = planned.plan.tensors[key].rounding or form.rounding
        if method == AWQ and sites[0].kind == PRODUCT and len(sites) == 1 and not sites[0].transpose:
            groups.setdefault(str(graph.node(sites[0].node).input[0]), []).append(key)
    return groups


def _chosen(
    graph: Graph, planned: WeightPlan, keys: Sequence[str], matrix: NDArray[np.float64]
) -> NDArray[np.float32] | None:
    """The scales of least error; None where leaving them out is best."""
    power = np.sqrt(np.maximum(np.diagonal(matrix), 0.0))
    if not power.any():
        return None
    size = np.maximum(power, power[power > 0].min())
    best, least = None, np.inf
    weights = {key: _some_rows(graph, planned, key) for key in keys}
    for alpha in _ALPHAS:
        scale = size**alpha
        scale = (scale / np.sqrt(scale.max() * scale.min())).astype(np.float32)
        error = 0.0
        for key, rows in weights.items():
            half = graph.dtype(planned.plan.tensors[key].name) == TensorProto.FLOAT16
            rounded = least_error(Blocks.of(rows * scale, planned.plan.tensors[key].spec, half=half))
            off = (rounded.values() / scale - rows).astype(np.float64)
            error += float(np.einsum("rk,rk->", off @ matrix, off))
        if error < least:
            best, least = (scale if alpha > 0 else None), error
    return best


def _some_rows(graph: Graph, planned: WeightPlan, key: str) -> NDArray[np.float32]:
    rows = as_rows(constant_values(graph, planned.plan.tensors[key].name), planned.sites[key][0])
    step = max(1, rows.shape[0] // _ROWS)
    return np.asarray(rows[::step], np.float32)


def _divide(graph: Graph, data: str, scale: NDArray[np.float32], uses: Sequence[Use]) -> None:
    """Let `uses` read `data` divided by `scale`."""
    producer = graph.producer(data)
    slots = _NORMALISATIONS.get(producer.op_type, ()) if producer is not None else ()
    alone = not graph.is_output(data) and set(graph.uses(data)) == set(uses)
    if producer is not None and slots and alone:
        names = [operand(producer, slot) for slot in slots]
        if all(not name or (graph.is_constant(name) and graph.shape(name) == scale.shape) for name in names):
            for slot, name in zip(slots, names, strict=True):
                if name:
                    value = constant_values(graph, name)
                    replace_weight(graph, producer, slot, (value / scale).astype(value.dtype))
            return
    half = graph.dtype(data) == TensorProto.FLOAT16
    factor = (1.0 / scale).astype(np.float16 if half else np.float32)
    name = graph.add_initializer(graph.unique_name(f"{data}_factor"), factor)
    divided = graph.unique_name(f"{data}_divided")
    graph.add_node("Mul", [data, name], [divided], name=f"{data}_divide")
    graph.replace_uses(data, divided, uses)
    graph.copy_value_info(data, divided)
    graph.sort()
