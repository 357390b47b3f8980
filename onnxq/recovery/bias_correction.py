"""Bias correction: takes back the mean shift that rounding causes in what a node computes.

A node computes y = W x + b, and once weights and activations are rounded, y' = W' Q(x) + b. Its mean is off, channel by
channel, and

    b' = b - E[y' - y]

removes that. The weights' part, (W' - W) E[x], is the correction of arXiv 1906.04721, section 4.2. The activations'
part is as large where much of an input is one value, such as the paper around a line of text: all of it is rounded the
same way. The expectation is measured on samples, padding, strides, groups and everything between two nodes with
weights included: the rounded form of the graph runs beside the float one (see `shadow`), each node starting from float
values, so that one run gives every node its own shift. Only means leave the session.

A large model gets no second copy of its weights. A matrix product is linear, so means of its inputs are enough:

    E[y' - y] = E[x'] W' - E[x] W

with one weight in memory at a time; other nodes with weights have their turn, some at a time.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray
from onnx import NodeProto, ValueInfoProto

from onnxq.calibration.runner import CollectOptions
from onnxq.calibration.solve import QParamsTable, constant_values
from onnxq.data.batches import Batch
from onnxq.errors import InternalError
from onnxq.graph.external_data import weights_are_large
from onnxq.graph.float_types import float_tensor
from onnxq.graph.view import Graph, attribute
from onnxq.numerics.arrays import fake_quantize
from onnxq.passes.adapt.settle_types import runnable
from onnxq.planning.plan import QuantPlan
from onnxq.recovery.shadow import rounded_form, with_shadow
from onnxq.recovery.sites import Site, sites_of

_AXES_AS_INPUT_OPSET = 18
"""From this opset on ReduceMean takes its axes as an input."""
_PART_BYTES = 2**27
"""Rounded weights of a large model that are in memory at a time, 128 MiB; at least those of one node."""
_ROWS = 1024
"""Rows of a weight that are taken to float64 at a time."""


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
    shifts: dict[str, NDArray[np.float64]] = {}
    every = sites_of(graph, plan)
    for linear, others in _parts(graph, [site for site in every if site.bias is not None]):
        left = {site.weight for site in every} - {site.weight for site in others}
        rounded = rounded_form(start, plan, {key: value for key, value in qparams.items() if key not in left})
        found, means = _mean_shifts(graph, plan, rounded, samples, options, others=others, linear=linear)
        shifts |= found
        for site in linear:
            shifts[site.bias or ""] = _linear_shift(graph, start, site, qparams, means[site.node])
    if not shifts:
        return start
    corrected = start.copy()
    sites = {site.bias: site for site in every}
    for name, shift in shifts.items():
        # The shift was measured with the bias as it is stored; a correction of less than half a code changes nothing.
        bias = sites[name].stored(constant_values(start, name), qparams)
        # One number for all columns becomes a number for each.
        shape = bias.shape if bias.size == shift.size else (*bias.shape[:-1], shift.size)
        value = np.broadcast_to(bias.astype(np.float64), shape) - shift.reshape(shape)
        corrected.add_initializer(name, float_tensor(value, start.initializers[name].data_type, name))
    return corrected


def _parts(graph: Graph, sites: Sequence[Site]) -> Iterator[tuple[list[Site], list[Site]]]:
    """Sites for one run each: those of which means of inputs are enough, and those whose outputs are needed."""
    if not weights_are_large(graph.initializers.values()):
        yield [], list(sites)
        return
    linear = [site for site in sites if _is_linear(graph, site)]
    part: list[Site] = []
    size = 0
    for site in (site for site in sites if site not in linear):
        need = 4 * math.prod(graph.initializers[site.weight].dims)
        if part and size + need > _PART_BYTES:
            yield linear, part
            linear, part, size = [], [], 0
        part.append(site)
        size += need
    if linear or part:
        yield linear, part


def _is_linear(graph: Graph, site: Site) -> bool:
    node = graph.node(site.node)
    plain = node.op_type == "MatMul" or (node.op_type == "Gemm" and not attribute(node, "transA", 0))
    return plain and len(graph.initializers[site.weight].dims) == 2 and bool(graph.rank(node.input[0]))


def _linear_shift(
    graph: Graph,
    start: Graph,
    site: Site,
    qparams: QParamsTable,
    means: tuple[NDArray[np.float64], NDArray[np.float64]],
) -> NDArray[np.float64]:
    """E[y' - y] of a matrix product and its bias from the means of its input, (rounded, float)."""
    node, params = graph.node(site.node), qparams[site.weight]
    weight = constant_values(graph, site.weight)
    chosen = weight if start.initializers[site.weight] is graph.initializers[site.weight] else None
    rounded = fake_quantize(constant_values(start, site.weight) if chosen is None else chosen, params)
    if node.op_type == "Gemm" and attribute(node, "transB", 0):
        weight, rounded = weight.T, rounded.T
    after, before = means
    shift = np.zeros(weight.shape[1])
    for first in range(0, weight.shape[0], _ROWS):
        rows = slice(first, first + _ROWS)
        shift += after[rows] @ rounded[rows].astype(np.float64) - before[rows] @ weight[rows].astype(np.float64)
    bias = constant_values(start, site.bias or "").astype(np.float64)
    own = (site.stored(bias, qparams) - bias).reshape(-1)
    return shift * float(attribute(node, "alpha", 1.0) if node.op_type == "Gemm" else 1.0) + own


def _mean_shifts(  # noqa: PLR0913 - the parts of one run
    graph: Graph,
    plan: QuantPlan,
    rounded: Graph,
    samples: Sequence[Batch],
    options: CollectOptions,
    *,
    others: Sequence[Site],
    linear: Sequence[Site],
) -> tuple[dict[str, NDArray[np.float64]], dict[str, tuple[NDArray[np.float64], NDArray[np.float64]]]]:
    """E[y' - y] of `others` by bias, float64, shape (C,); (E[x'], E[x]) of `linear` by node, float64, shape (K,)."""
    both, outputs = with_shadow(graph, rounded, sites_of(graph, plan))
    both.outputs.clear()
    shifts = {
        site.bias: _add_shift(both, graph, graph.node(site.node), outputs[site.node], graph.node(site.last).output[0])
        for site in others
        if site.bias is not None
    }
    inputs = {
        site.node: (
            _add_mean(both, _product_behind(both, outputs[site.node]).input[0], _all_but_last(graph, site)),
            _add_mean(both, graph.node(site.node).input[0], _all_but_last(graph, site)),
        )
        for site in linear
    }
    if not both.outputs:
        return {}, {}
    both.prune()
    both.sort()
    session = options.session(runnable(both))
    totals: dict[str, NDArray[np.float64]] = {}
    for batch in samples:
        found = session.run(batch.arrays, where=batch.label)
        for name, value in zip(session.output_names, found, strict=True):
            weighted = value.astype(np.float64) * batch.samples
            totals[name] = totals[name] + weighted if name in totals else weighted
    count = sum(batch.samples for batch in samples)
    mean = {name: total / count for name, total in totals.items()}
    return (
        {bias: mean[name] for bias, name in shifts.items()},
        {node: (mean[after], mean[before]) for node, (after, before) in inputs.items()},
    )


def _product_behind(both: Graph, tensor: str) -> NodeProto:
    """The matrix product that `tensor` is the result of, with or without a bias added."""
    node = both.producer(tensor)
    while node is not None and node.op_type not in ("MatMul", "Gemm"):
        node = next((found for name in node.input if (found := both.producer(name)) is not None), None)
    if node is None:
        raise InternalError(f"no matrix product computes {tensor!r}")
    return node


def _all_but_last(graph: Graph, site: Site) -> list[int]:
    return list(range((graph.rank(graph.node(site.node).input[0]) or 1) - 1))


def _add_shift(both: Graph, graph: Graph, node: NodeProto, rounded: str, wanted: str) -> str:
    """Add the mean of rounded - wanted, the two outputs of `node`, and return its name."""
    shift = both.unique_name(f"{rounded}_shift")
    both.add_node("Sub", [rounded, wanted], [shift], name=shift)
    return _add_mean(both, shift, _reduced_axes(graph, node))


def _add_mean(both: Graph, tensor: str, axes: Sequence[int]) -> str:
    """Add the mean of `tensor` over `axes` as an output and return its name."""
    mean = both.unique_name(f"{tensor}_mean")
    if not axes:
        both.add_node("Identity", [tensor], [mean], name=mean)
    elif both.opset >= _AXES_AS_INPUT_OPSET:
        axes_name = both.add_initializer(both.unique_name(f"{tensor}_axes"), np.array(axes, np.int64))
        both.add_node("ReduceMean", [tensor, axes_name], [mean], name=mean, attributes={"keepdims": 0})
    else:
        both.add_node("ReduceMean", [tensor], [mean], name=mean, attributes={"keepdims": 0, "axes": list(axes)})
    both.outputs[mean] = ValueInfoProto(name=mean)  # onnxruntime infers the type itself
    return mean


def _reduced_axes(graph: Graph, node: NodeProto) -> list[int]:
    """All axes of the output but the channels: the last of a MatMul, else axis 1."""
    rank = graph.rank(node.output[0]) or graph.rank(node.input[0]) or len(graph.initializers[node.input[1]].dims)
    channel = rank - 1 if node.op_type == "MatMul" else 1
    return [axis for axis in range(rank) if axis != channel]
