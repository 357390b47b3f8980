"""Bias correction: takes back the mean shift that rounded weights cause.

A node computes y = W x + b, with rounded weights W' x + b. Its mean is off by (W' - W) E[x], channel by channel, and

    b' = b - E[(W' - W) x]

removes that. The expectation is measured: a twin of each node with the weights W' - W runs beside it on some samples,
padding, strides and groups included, and only its mean over everything but the channels leaves the session.
Source: arXiv 1906.04721, section 4.2 (there from BatchNorm's statistics; here from samples).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from onnx import NodeProto, ValueInfoProto

from onnxq.calibration.batches import Batch
from onnxq.calibration.runner import CollectOptions
from onnxq.calibration.solve import QParamsTable, constant_values
from onnxq.graph.float_types import float_tensor
from onnxq.graph.match import Miss, biased_matmul
from onnxq.graph.view import Graph
from onnxq.numerics.arrays import fake_quantize
from onnxq.passes.settle_types import runnable
from onnxq.planning.plan import QuantPlan, Role

_AXES_AS_INPUT_OPSET = 18
"""From this opset on ReduceMean takes its axes as an input."""


@dataclass(frozen=True)
class _Site:
    """A node whose weight is rounded, and the bias that can make up for it."""

    node: str
    weight: str
    bias: str


def correct_biases(
    graph: Graph, plan: QuantPlan, qparams: QParamsTable, samples: Sequence[Batch], options: CollectOptions
) -> Graph:
    """A graph with the same weights and corrected biases.

    Args:
        graph: The float graph of the plan, in which no two nodes share a bias; it is not changed.
        plan: What will be quantized.
        qparams: Parameters of the weights.
        samples: Batches to measure the means on; 32 samples are plenty.
        options: How to run them.

    Raises:
        DataError: onnxruntime fails on the samples.
        ModelError: onnxruntime cannot load the model with its twins, or a weight holds NaN or Inf.
    """
    sites = _sites(graph, plan)
    if not sites or not samples:
        return graph
    shifts = _mean_shifts(graph, qparams, sites, samples, options)
    corrected = graph.copy()
    for site, shift in zip(sites, shifts, strict=True):
        bias = constant_values(graph, site.bias)
        elem_type = graph.initializers[site.bias].data_type
        value = float_tensor(bias.astype(np.float64) - shift.reshape(bias.shape), elem_type, site.bias)
        corrected.add_initializer(site.bias, value)
    return corrected


def _sites(graph: Graph, plan: QuantPlan) -> list[_Site]:
    found: list[_Site] = []
    for tensor in plan.tensors.values():
        if tensor.role is not Role.WEIGHT:
            continue
        for use in tensor.uses:
            bias = _own_bias(graph, graph.node(use.node))
            if bias is not None:
                found.append(_Site(use.node, tensor.name, bias))
    return found


def _own_bias(graph: Graph, node: NodeProto) -> str | None:
    """The constant bias of `node` that nobody else reads."""
    if node.op_type == "MatMul":
        found = biased_matmul(graph, node)
        bias = None if isinstance(found, Miss) else found.bindings["bias"]
    else:
        bias = node.input[2] if len(node.input) > 2 else None
    return bias if bias and graph.is_constant(bias) and len(graph.uses(bias)) == 1 else None


def _mean_shifts(
    graph: Graph, qparams: QParamsTable, sites: list[_Site], samples: Sequence[Batch], options: CollectOptions
) -> list[NDArray[np.float64]]:
    """E[(W' - W) x] for each site, float64, shape (C,)."""
    twins = graph.copy()
    twins.outputs.clear()
    names = [_add_twin(twins, qparams, site) for site in sites]
    twins.prune()
    twins.sort()
    session = options.session(runnable(twins))
    order = [session.output_names.index(name) for name in names]
    totals = [np.zeros(0)] * len(sites)
    count = 0
    for batch in samples:
        means = session.run(batch.arrays, where=batch.label)
        for i, slot in enumerate(order):
            weighted = means[slot].astype(np.float64) * batch.samples
            totals[i] = weighted if count == 0 else totals[i] + weighted
        count += batch.samples
    return [total / count for total in totals]


def _add_twin(graph: Graph, qparams: QParamsTable, site: _Site) -> str:
    """Add a node with the weights W' - W and the mean of its output; return the mean's name."""
    node = graph.node(site.node)
    weight = constant_values(graph, site.weight)
    residue = fake_quantize(weight, qparams[site.weight]) - weight.astype(np.float32)
    name = graph.unique_name(f"{site.weight}_residue")
    twin_weight = graph.add_initializer(name, float_tensor(residue, graph.initializers[site.weight].data_type, name))
    product = graph.unique_name(f"{node.output[0]}_residue")
    twin = graph.add_node(node.op_type, [node.input[0], twin_weight], [product], name=f"{node.name}_residue")
    twin.attribute.extend(node.attribute)
    mean = graph.unique_name(f"{product}_mean")
    axes = _reduced_axes(graph, node)
    if graph.opset >= _AXES_AS_INPUT_OPSET:
        axes_name = graph.add_initializer(graph.unique_name(f"{product}_axes"), np.array(axes, np.int64))
        graph.add_node("ReduceMean", [product, axes_name], [mean], name=f"{product}_mean", attributes={"keepdims": 0})
    else:
        graph.add_node(
            "ReduceMean", [product], [mean], name=f"{product}_mean", attributes={"keepdims": 0, "axes": axes}
        )
    graph.outputs[mean] = ValueInfoProto(name=mean)  # onnxruntime infers the type itself
    return mean


def _reduced_axes(graph: Graph, node: NodeProto) -> list[int]:
    """All axes of the output but the channels: the last of a MatMul, else axis 1."""
    rank = graph.rank(node.output[0]) or graph.rank(node.input[0]) or len(graph.initializers[node.input[1]].dims)
    channel = rank - 1 if node.op_type == "MatMul" else 1
    return [axis for axis in range(rank) if axis != channel]
