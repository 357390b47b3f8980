"""Offsets of channels moved into the biases of the next layer, so that one range fits all channels more tightly.

With y = W t + b behind t = f(x), and a vector z with one value for each channel of t,

    t' = t - z,    b' = b + W z    (summed over the taps of a Conv)

computes the same y. z is taken out of what writes t: the bias of a layer, or the beta of a LayerNormalization.

    no activation in between     z = middle of each channel's range: exact for every input
    a Relu in between            z = 90 % of the smallest value of channels that were always above 0 on the samples, as
                                 Relu(x - z) = Relu(x) - z where x >= z; on an input with x < z, t' = 0 stands for z

Padding would have to be -z then, so that layers with padding are left alone. Source: arXiv 1906.04721, section 4.1.3,
which takes z from BatchNorm's statistics and absorbs what lies above three standard deviations.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto

from onnxq.calibration.runner import CollectOptions
from onnxq.data.batches import Batch
from onnxq.graph.constants import operand
from onnxq.graph.match import Miss, biased_matmul
from onnxq.graph.view import STANDARD_DOMAINS, Graph, Use, attribute
from onnxq.planning.plan import Observed, QuantPlan, Role
from onnxq.recovery.activation_samples import ChannelSamples, sample_channels
from onnxq.recovery.trial import Trial, decibels
from onnxq.targets.schema import Target

CONSIDERED_GAIN_DB = 0.5
"""A tensor is tried if its code steps shrink by this much."""

NEEDED_GAIN_DB = 0.25
"""Offsets are moved if, with the tensor and its readers quantized alone, the noise at the outputs falls by this."""

_MARGIN = 0.9

_UNPADDED = frozenset({"NOTSET", "VALID", b"NOTSET", b"VALID"})


@dataclass(frozen=True, kw_only=True)
class _Site:
    """A quantized tensor between a bias that can give and biases that can take.

    Attributes:
        tensor: The quantized tensor.
        axis: Its channel axis.
        giver: Where the bias is read that is part of the tensor.
        takers: Nodes with weights that read the tensor, and where their biases are read.
        rectified: Whether a Relu lies between.
    """

    tensor: str
    axis: int
    giver: Use
    takers: tuple[tuple[str, Use], ...]
    rectified: bool


@dataclass(frozen=True, kw_only=True)
class Absorbed:
    """One tensor whose offsets were moved on, or not.

    Attributes:
        tensor: Its name.
        exact: Whether this holds for every input; else for those that stay above what the samples showed.
        step_db: By how much its code steps shrink, in dB.
        measured_db: By how much the noise falls that it causes at the outputs; None where that was not tried.
        taken: Whether the offsets were moved.
    """

    tensor: str
    exact: bool
    step_db: float
    measured_db: float | None = None
    taken: bool = False


@dataclass(frozen=True, kw_only=True)
class AbsorptionResult:
    """What bias absorption did: the new graph, and every tensor that was looked at."""

    graph: Graph
    tensors: tuple[Absorbed, ...] = ()

    @property
    def modified(self) -> bool:
        return any(tensor.taken for tensor in self.tensors)


def absorb_biases(  # noqa: PLR0913 - the parts of one run
    graph: Graph,
    plan: QuantPlan,
    target: Target,
    samples: Sequence[Batch],
    options: CollectOptions,
    *,
    exact_only: bool = True,
) -> AbsorptionResult:
    """Move offsets of channels into the next layer wherever that lowers the noise at the outputs.

    Args:
        graph: The float graph of the plan, in which nodes with weights have biases of their own; it is not changed.
        plan: Which tensors will be quantized, and how. It holds for the new graph as well.
        target: The table the plan was made with.
        samples: Batches to measure on; 16 to 32 samples will do. Without any, nothing changes.
        options: How to run them.
        exact_only: Leave tensors behind a Relu alone, where the samples have to stand for all inputs.

    Raises:
        DataError: onnxruntime fails on the samples.
        ModelError: onnxruntime cannot load the model.
    """
    sites = [site for site in _sites(graph, plan) if not (exact_only and site.rectified)] if samples else []
    observed = sample_channels(graph, {site.tensor: (site.axis,) for site in sites}, samples, options)
    trial: Trial | None = None
    found = []
    for site in sites:
        seen, spec = observed[site.tensor], plan.tensors[site.tensor].spec
        offsets = _offsets(seen, site)
        step_db = 2 * decibels(_width(seen, np.zeros(1), spec.symmetric), _width(seen, offsets, spec.symmetric))
        if step_db < CONSIDERED_GAIN_DB:
            found.append(Absorbed(tensor=site.tensor, exact=not site.rectified, step_db=step_db))
            continue
        trial = trial or Trial(graph, plan, target, samples, options)
        names = [site.tensor, *(graph.node(node).input[1] for node, _ in site.takers)]
        moved = _moved(graph, site, offsets)
        measured_db = decibels(
            trial.noise(graph, trial.ranges(graph), names), trial.noise(moved, trial.ranges(moved), names)
        )
        taken = measured_db >= NEEDED_GAIN_DB
        graph = moved if taken else graph
        found.append(
            Absorbed(
                tensor=site.tensor, exact=not site.rectified, step_db=step_db, measured_db=measured_db, taken=taken
            )
        )
    return AbsorptionResult(graph=graph, tensors=tuple(found))


def _offsets(seen: ChannelSamples, site: _Site) -> NDArray[np.float64]:
    if site.rectified:
        return np.maximum(seen.lowest, 0.0) * _MARGIN
    return (seen.lowest + seen.highest) / 2


def _width(seen: ChannelSamples, offsets: NDArray[np.float64], symmetric: bool) -> float:
    """Width of the range that holds all channels, and 0."""
    low, high = min(0.0, float((seen.lowest - offsets).min())), max(0.0, float((seen.highest - offsets).max()))
    return 2 * max(-low, high) if symmetric else high - low


def _moved(graph: Graph, site: _Site, offsets: NDArray[np.float64]) -> Graph:
    result = graph.copy()
    _add(result, site.giver, -offsets)
    for node, bias in site.takers:
        _add(result, bias, _weighted(graph, graph.node(node), offsets))
    return result


def _add(graph: Graph, use: Use, change: NDArray[np.float64]) -> None:
    name = graph.node(use.node).input[use.slot]
    old = graph.constant(name)
    if old is not None:
        graph.add_initializer(name, (old.astype(np.float64) + change).astype(old.dtype))


def _weighted(graph: Graph, node: NodeProto, offsets: NDArray[np.float64]) -> NDArray[np.float64]:
    """W z, float64, one value for each output channel."""
    value = graph.constant(node.input[1])
    weight = np.zeros((0, 0)) if value is None else value.astype(np.float64)
    if node.op_type == "Conv":
        taps = weight.reshape(*weight.shape[:2], -1).sum(axis=2)
        groups = int(attribute(node, "group", 1))
        own = np.repeat(offsets.reshape(groups, -1), taps.shape[0] // groups, axis=0)
        return np.asarray((taps * own).sum(axis=1))
    if node.op_type == "Gemm" and attribute(node, "transB", 0):
        weight = weight.T
    return np.asarray(offsets @ weight)


# ---- where -------------------------------------------------------------------------------------------------------


def _sites(graph: Graph, plan: QuantPlan) -> list[_Site]:
    found = []
    for name, planned in plan.tensors.items():
        if planned.role is not Role.ACTIVATION or not isinstance(planned.source, Observed) or graph.is_output(name):
            continue
        written = _giver(graph, name)
        takers = [_taker(graph, use) for use in graph.uses(name)]
        known = tuple(taker for taker in takers if taker is not None)
        if written is None or not known or len(known) < len(takers):
            continue
        giver, axis, rectified = written
        found.append(_Site(tensor=name, axis=axis, giver=giver, takers=known, rectified=rectified))
    return found


def _giver(graph: Graph, tensor: str) -> tuple[Use, int, bool] | None:
    """Where the bias of `tensor` is read, the channel axis, and whether a Relu follows it."""
    node, rectified = graph.producer(tensor), False
    if node is not None and node.op_type == "Relu" and len(graph.uses(node.input[0])) == 1:
        if graph.is_output(node.input[0]):
            return None
        node, rectified = graph.producer(node.input[0]), True
    rank = graph.rank(tensor)
    if node is None or node.domain not in STANDARD_DOMAINS or rank is None:
        return None
    if node.op_type in ("Conv", "ConvTranspose") or (node.op_type == "Gemm" and attribute(node, "beta", 1.0) == 1.0):
        use, axis = Use(node.name, 2), 1
    elif node.op_type == "LayerNormalization" and attribute(node, "axis", -1) in (-1, rank - 1):
        use, axis = Use(node.name, 2), rank - 1
    elif node.op_type == "Add":
        use, axis = Use(node.name, 0 if graph.is_constant(node.input[0]) else 1), rank - 1
    else:
        return None
    shape = graph.shape(tensor) or ()
    return (use, axis, rectified) if _is_own_vector(graph, use, shape[axis]) else None


def _taker(graph: Graph, use: Use) -> tuple[str, Use] | None:
    """A node that multiplies by a constant and adds a bias, without padding; and where the bias is read."""
    if use.slot != 0:
        return None
    node = graph.node(use.node)
    weight = graph.shape(operand(node, 1)) if graph.is_constant(operand(node, 1)) else None
    if weight is None or node.domain not in STANDARD_DOMAINS:
        return None
    if node.op_type == "Conv":
        padded = any(attribute(node, "pads", ())) or attribute(node, "auto_pad", "NOTSET") not in _UNPADDED
        bias, size = Use(node.name, 2), weight[0]
        return (node.name, bias) if not padded and _is_own_vector(graph, bias, size) else None
    if node.op_type == "Gemm":
        plain = not attribute(node, "transA", 0) and all(attribute(node, key, 1.0) == 1.0 for key in ("alpha", "beta"))
        bias, size = Use(node.name, 2), weight[0 if attribute(node, "transB", 0) else 1]
        return (node.name, bias) if plain and _is_own_vector(graph, bias, size) else None
    if node.op_type == "MatMul" and len(weight) == 2:
        biased = biased_matmul(graph, node)
        if not isinstance(biased, Miss):
            add = graph.node(biased.nodes[-1])
            bias = Use(add.name, list(add.input).index(biased.bindings["bias"]))
            return (node.name, bias) if _is_own_vector(graph, bias, weight[1]) else None
    return None


def _is_own_vector(graph: Graph, use: Use, size: object) -> bool:
    """Whether a float32 constant with `size` values, along its last axis, is read there and nowhere else."""
    node = graph.node(use.node)
    proto = graph.initializers.get(operand(node, use.slot))
    if proto is None or proto.data_type != TensorProto.FLOAT or not proto.dims:
        return False
    return proto.dims[-1] == size == int(np.prod(proto.dims)) and len(graph.uses(proto.name)) == 1
