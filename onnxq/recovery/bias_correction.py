"""Bias correction: takes back the mean shift that rounding causes in what a node computes.

A node computes y = W x + b, and once weights and activations are rounded, y' = W' Q(x) + b. Its mean is off, channel by
channel, and

    b' = b - E[y' - y]

removes that. The weights' part, (W' - W) E[x], is the correction of arXiv 1906.04721, section 4.2. The activations'
part is as large where much of an input is one value, such as the paper around a line of text: all of it is rounded the
same way. The expectation is measured on samples, padding, strides, groups and everything between two nodes with
weights included: the rounded form of the graph runs beside the float one (see `shadow`), each node starting from float
values, so that one run gives every node its own shift. Only means leave the session.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from onnx import NodeProto, ValueInfoProto

from onnxq.calibration.batches import Batch
from onnxq.calibration.runner import CollectOptions
from onnxq.calibration.solve import QParamsTable, constant_values
from onnxq.graph.float_types import float_tensor
from onnxq.graph.view import Graph
from onnxq.passes.settle_types import runnable
from onnxq.planning.plan import QuantPlan
from onnxq.recovery.shadow import rounded_form, with_shadow
from onnxq.recovery.sites import sites_of

_AXES_AS_INPUT_OPSET = 18
"""From this opset on ReduceMean takes its axes as an input."""


def correct_biases(  # noqa: PLR0913 - the parts of one run
    graph: Graph,
    plan: QuantPlan,
    qparams: QParamsTable,
    samples: Sequence[Batch],
    options: CollectOptions,
    *,
    chosen: Graph | None = None,
) -> Graph:
    """A graph with the same weights and corrected biases.

    Args:
        graph: The float graph of the plan, in which no two nodes share a bias; it is not changed.
        plan: What will be quantized.
        qparams: The parameters; what has none counts as not rounded.
        samples: Batches to measure the means on; 32 samples are plenty.
        options: How to run them.
        chosen: The graph whose weights will be quantized, where earlier steps have changed them; it is not changed.

    Raises:
        DataError: onnxruntime fails on the samples.
        ModelError: onnxruntime cannot load both graphs, or a weight holds NaN or Inf.
    """
    start = graph if chosen is None else chosen
    if not samples:
        return start
    shifts = _mean_shifts(graph, plan, rounded_form(start, plan, qparams), samples, options)
    if not shifts:
        return start
    corrected = start.copy()
    for name, shift in shifts.items():
        bias = constant_values(start, name)
        # One number for all columns becomes a number for each.
        shape = bias.shape if bias.size == shift.size else (*bias.shape[:-1], shift.size)
        value = np.broadcast_to(bias.astype(np.float64), shape) - shift.reshape(shape)
        corrected.add_initializer(name, float_tensor(value, start.initializers[name].data_type, name))
    return corrected


def _mean_shifts(
    graph: Graph, plan: QuantPlan, rounded: Graph, samples: Sequence[Batch], options: CollectOptions
) -> dict[str, NDArray[np.float64]]:
    """E[y' - y] by bias, float64, shape (C,)."""
    sites = sites_of(graph, plan)
    both, outputs = with_shadow(graph, rounded, sites)
    both.outputs.clear()
    means = {
        site.bias: _add_mean(both, graph, graph.node(site.node), outputs[site.node], graph.node(site.last).output[0])
        for site in sites
        if site.bias is not None
    }
    if not means:
        return {}
    both.prune()
    both.sort()
    session = options.session(runnable(both))
    totals: dict[str, NDArray[np.float64]] = {}
    for batch in samples:
        found = dict(zip(session.output_names, session.run(batch.arrays, where=batch.label), strict=True))
        for bias, mean in means.items():
            weighted = found[mean].astype(np.float64) * batch.samples
            totals[bias] = totals[bias] + weighted if bias in totals else weighted
    count = sum(batch.samples for batch in samples)
    return {bias: total / count for bias, total in totals.items()}


def _add_mean(both: Graph, graph: Graph, node: NodeProto, rounded: str, wanted: str) -> str:
    """Add the mean of rounded - wanted, the two outputs of `node`, and return its name."""
    shift = both.unique_name(f"{rounded}_shift")
    both.add_node("Sub", [rounded, wanted], [shift], name=shift)
    mean = both.unique_name(f"{shift}_mean")
    axes = _reduced_axes(graph, node)
    if both.opset >= _AXES_AS_INPUT_OPSET:
        axes_name = both.add_initializer(both.unique_name(f"{shift}_axes"), np.array(axes, np.int64))
        both.add_node("ReduceMean", [shift, axes_name], [mean], name=mean, attributes={"keepdims": 0})
    else:
        both.add_node("ReduceMean", [shift], [mean], name=mean, attributes={"keepdims": 0, "axes": axes})
    both.outputs[mean] = ValueInfoProto(name=mean)  # onnxruntime infers the type itself
    return mean


def _reduced_axes(graph: Graph, node: NodeProto) -> list[int]:
    """All axes of the output but the channels: the last of a MatMul, else axis 1."""
    rank = graph.rank(node.output[0]) or graph.rank(node.input[0]) or len(graph.initializers[node.input[1]].dims)
    channel = rank - 1 if node.op_type == "MatMul" else 1
    return [axis for axis in range(rank) if axis != channel]
