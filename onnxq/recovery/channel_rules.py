"""What each operator does to channels that are scaled (see `channel_map.py`).

Writers and readers: Conv, ConvTranspose, Gemm and MatMul with a constant weight, BatchNormalization, and Mul by a
constant vector read the channels of their input and write new ones. LayerNormalization writes new ones and pins its
input. (The last nodes of a LayerNormalization in single operators are a Mul by gamma and an Add of beta, so it needs
no pattern.)

Carriers, f(x / s) = f(x) / s for s > 0 along the channels: Relu, LeakyRelu, PRelu, Clip without an upper limit,
pooling and reductions over other axes, all that moves values, a product with something else, and a sum with a
constant, which follows. A Clip from 0 to an upper limit, as of a Relu6, would need another limit for each channel. It
carries those channels that no input lets reach the limit, as long as their scale is not smaller than the share of it
that they can reach; it pins the others.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto

from onnxq.graph.constants import operand
from onnxq.graph.view import CAPTURED, STANDARD_DOMAINS, Graph, attribute
from onnxq.passes.simplify.fold_batchnorm import in_training_mode
from onnxq.planning.bounds import clip_limits, known_bounds
from onnxq.recovery.channel_map import ChannelMap, ChannelView, Coefficient, Ids
from onnxq.recovery.channel_moves import MOVES

Rule = Callable[[Graph, NodeProto, ChannelMap], str | None]
"""Enters a node into the map; returns None, or the reason why its inputs have to stay as they are."""

_ROUNDING_ROOM = 1.0 + 2.0**-10
"""A float32 sum of a few thousand products stays this close to the exact one."""

_IMAGE_RANKS = (4, 5)
"""Axis 1 counts channels in tensors of these ranks; in one of rank 3 it may count tokens."""

_VALUES_UNSEEN = frozenset({"Shape", "Size"})


def map_channels(graph: Graph, *, widens: bool = False) -> ChannelMap:
    """The channels of `graph` that can be scaled.

    Args:
        graph: A float graph in topological order, with shapes inferred.
        widens: Whether a Mul of an image by one number writes channels too: the number then becomes one for each.
    """
    channels = ChannelMap(widens=widens)
    for node in graph.nodes:
        if node.op_type in _VALUES_UNSEEN:
            continue
        rule = _RULES.get(node.op_type) if node.domain in STANDARD_DOMAINS else None
        reason = f"{node.op_type} is not linear in its input" if rule is None else rule(graph, node, channels)
        if reason is not None:
            for tensor in node.input:
                channels.pin(tensor, f"{node.name!r}: {reason}")
    for tensor in channels.views:
        if graph.is_output(tensor):
            channels.pin(tensor, f"{tensor!r} is an output of the graph")
        if any(use.slot == CAPTURED for use in graph.uses(tensor)):
            channels.pin(tensor, f"{tensor!r} is read inside the body of another node")
    return channels


# ---- writers and readers -----------------------------------------------------------------------------------------


def _linear(graph: Graph, node: NodeProto, channels: ChannelMap) -> str | None:
    if not graph.is_constant(node.input[1]):
        return _product_of_activations(graph, node, channels) if node.op_type == "MatMul" else "its weight is computed"
    slots = [slot for slot in (1, 2) if operand(node, slot)]
    if any(not _is_own(graph, node.input[slot]) for slot in slots):
        return "its weight or bias is computed, shared with another node, or not float32"
    dims = tuple(int(d) for d in graph.initializers[node.input[1]].dims)
    placed = _weight_axes(graph, node, dims)
    if placed is None:
        return f"a weight of shape {dims} in this place is not supported"
    axis, read, write = placed
    written = channels.new_channels(int(write.max()) + 1)
    view = channels.views.get(node.input[0])
    if view is not None and (view.axes != (axis,) or view.ids.size != int(read.max()) + 1):
        channels.pin(node.input[0], f"{node.name!r}: its channels are not those that the weight sums over")
        view = None
    add = channels.coefficients.append
    add(Coefficient(node=node.name, slot=1, ids=written[write], power=-1, is_weight=True))
    if len(slots) > 1:
        add(Coefficient(node=node.name, slot=2, ids=written, power=-1, is_weight=False))
    if view is not None:
        add(Coefficient(node=node.name, slot=1, ids=view.ids[read], power=1, is_weight=True))
    channels.views[node.output[0]] = ChannelView(axes=(axis,), ids=written)
    return None


def summed_axis(graph: Graph, node: NodeProto) -> tuple[int, int] | None:
    """The axis of a node's data that its constant weight sums over, and its size; None where it is no such node."""
    slots = [slot for slot in (1, 2) if operand(node, slot)]
    if node.domain not in STANDARD_DOMAINS or _RULES.get(node.op_type) is not _linear or len(slots) < 1:
        return None
    if any(not _is_own(graph, node.input[slot]) for slot in slots):
        return None
    placed = _weight_axes(graph, node, tuple(int(d) for d in graph.initializers[node.input[1]].dims))
    return None if placed is None else (placed[0], int(placed[1].max()) + 1)


def _weight_axes(graph: Graph, node: NodeProto, dims: tuple[int, ...]) -> tuple[int, Ids, Ids] | None:
    """The channel axis of data and output, and for each element of the weight the input and the output channel.

    Both arrays have a shape that broadcasts against the weight's.
    """
    rank, space = len(dims), (1,) * (len(dims) - 2)
    groups = int(attribute(node, "group", 1))
    if rank < 2 or 0 in dims:
        return None
    if node.op_type in ("Conv", "ConvTranspose"):
        # The axis that counts all channels of its side, and the one that counts those of a single group.
        whole = np.arange(dims[0]).reshape(-1, 1, *space)
        inner = np.arange(dims[1]).reshape(1, -1, *space)
        other = inner + whole // (dims[0] // groups) * dims[1] if groups > 1 else inner
        return (1, other, whole) if node.op_type == "Conv" else (1, whole, other)
    if rank != 2:
        return None
    first, second = np.arange(dims[0])[:, None], np.arange(dims[1])[None, :]
    if node.op_type == "Gemm":
        if attribute(node, "transA", 0):
            return None
        return (1, second, first) if attribute(node, "transB", 0) else (1, first, second)
    data_rank = graph.rank(node.input[0])
    return None if data_rank is None or data_rank < 2 else (data_rank - 1, first, second)


def _product_of_activations(graph: Graph, node: NodeProto, channels: ChannelMap) -> str | None:
    """A V: the columns of V are those of the product (attention weights times values)."""
    left, right = node.input
    view, rank = channels.views.get(right), graph.rank(right)
    channels.pin(left, f"{node.name!r} sums over it")
    if view is None:
        return None
    if rank is None or graph.rank(left) != rank or rank - 2 in view.axes:
        return "it sums over the channels, or the ranks differ"
    channels.views[node.output[0]] = view
    return None


def _layer_normalization(graph: Graph, node: NodeProto, channels: ChannelMap) -> str | None:
    channels.pin(node.input[0], f"{node.name!r} normalizes over the channels")
    rank = graph.rank(node.input[0])
    slots = [slot for slot in (1, 2) if operand(node, slot)]
    if rank is None or attribute(node, "axis", -1) not in (-1, rank - 1):
        return None
    if any(not _is_own(graph, node.input[slot]) for slot in slots):
        return None
    written = channels.new_channels(int(graph.initializers[node.input[1]].dims[-1]))
    for slot in slots:
        channels.coefficients.append(Coefficient(node=node.name, slot=slot, ids=written, power=-1, is_weight=slot == 1))
    channels.views[node.output[0]] = ChannelView(axes=(rank - 1,), ids=written)
    return None


def _batch_normalization(graph: Graph, node: NodeProto, channels: ChannelMap) -> str | None:
    """y = gamma (x - mean) / sd + beta: gamma and mean follow x, gamma and beta follow y."""
    if in_training_mode(graph, node) or any(not _is_own(graph, t) for t in node.input[1:4]):
        return "its parameters are computed or shared"
    written = channels.new_channels(int(graph.initializers[node.input[1]].dims[0]))
    view = channels.views.get(node.input[0])
    follows = [(1, written, -1), (2, written, -1)]
    if view is not None and view.axes == (1,):
        follows += [(1, view.ids, 1), (3, view.ids, -1)]
    elif view is not None:
        channels.pin(node.input[0], f"{node.name!r} has other channels")
    for slot, ids, power in follows:
        channels.coefficients.append(Coefficient(node=node.name, slot=slot, ids=ids, power=power, is_weight=slot == 1))
    channels.views[node.output[0]] = ChannelView(axes=(1,), ids=written)
    return None


# ---- arithmetic --------------------------------------------------------------------------------------------------


def _sum(graph: Graph, node: NodeProto, channels: ChannelMap) -> str | None:
    left, right = node.input
    for slot, data in ((1, left), (0, right)):
        if graph.is_constant(node.input[slot]):
            return _sum_with_constant(graph, node, slot, data, channels)
    one, other = channels.views.get(left), channels.views.get(right)
    if one is None or other is None or one.axes != other.axes or one.ids.shape != other.ids.shape:
        return "its other operand cannot be scaled alike"
    if graph.rank(left) is None or graph.rank(left) != graph.rank(right):
        return "the ranks of its operands differ"
    channels.unite(one.ids, other.ids)
    channels.views[node.output[0]] = one
    return None


def _sum_with_constant(graph: Graph, node: NodeProto, slot: int, data: str, channels: ChannelMap) -> str | None:
    constant, view, rank = node.input[slot], channels.views.get(data), graph.rank(data)
    if view is None:
        return None
    if not _is_own(graph, constant) or rank is None:
        return "its constant operand is shared with another node"
    dims = graph.initializers[constant].dims
    ids = view.against(rank)
    if len(dims) > rank or any(d not in (1, n) and n != 1 for d, n in zip(dims[::-1], ids.shape[::-1], strict=False)):
        return "its constant operand widens the channels"
    ids = ids.reshape(ids.shape[min(view.axes) :] if len(dims) <= rank - min(view.axes) else ids.shape)
    channels.coefficients.append(Coefficient(node=node.name, slot=slot, ids=ids, power=-1, is_weight=False))
    channels.views[node.output[0]] = view
    return None


def _product(graph: Graph, node: NodeProto, channels: ChannelMap) -> str | None:
    left, right = node.input
    for slot, data in ((1, left), (0, right)):
        vector = _vector_axis(graph, node.input[slot], data)
        if vector is not None:
            return _product_with_vector(graph, node, slot, vector, channels)
    free = [t for t in (left, right) if channels.is_free(t)]
    if not free:
        if channels.widens:
            _widen_number(graph, node, channels)
        return None
    if len(free) > 1:
        return "both operands would scale its product"
    return _hand_on(graph, node, free[0], channels)


def _quotient(graph: Graph, node: NodeProto, channels: ChannelMap) -> str | None:
    channels.pin(node.input[1], f"{node.name!r} divides by it")
    return _hand_on(graph, node, node.input[0], channels)


def _vector_axis(graph: Graph, tensor: str, data: str) -> tuple[int, int] | None:
    """Axis of `data` along which a constant is a vector, and its length."""
    rank = graph.rank(data)
    if not graph.is_constant(tensor) or not _is_own(graph, tensor) or rank is None or graph.is_constant(data):
        return None
    dims = [int(d) for d in graph.initializers[tensor].dims]
    axes = [rank - len(dims) + i for i, d in enumerate(dims) if d != 1]
    return (axes[0], max(dims)) if len(axes) == 1 and len(dims) <= rank else None


def _product_with_vector(
    graph: Graph, node: NodeProto, slot: int, vector: tuple[int, int], channels: ChannelMap
) -> str | None:
    (axis, size), data = vector, node.input[1 - slot]
    dims = tuple(graph.initializers[node.input[slot]].dims)
    view = channels.views.get(data)
    written = channels.new_channels(size)
    add = channels.coefficients.append
    if view is not None and view.axes == (axis,) and view.ids.size == size:
        add(Coefficient(node=node.name, slot=slot, ids=view.ids.reshape(dims), power=1, is_weight=True))
    else:
        channels.pin(data, f"{node.name!r} multiplies along another axis")
    add(Coefficient(node=node.name, slot=slot, ids=written.reshape(dims), power=-1, is_weight=True))
    channels.views[node.output[0]] = ChannelView(axes=(axis,), ids=written)
    return None


def _widen_number(graph: Graph, node: NodeProto, channels: ChannelMap) -> None:
    """The affine part of a scaled activation: one number for the whole image, which may differ by channel as well."""
    shape = graph.shape(node.output[0])
    size = shape[1] if shape is not None and len(shape) in _IMAGE_RANKS else None
    if shape is None or not isinstance(size, int):
        return
    for slot, data in ((1, node.input[0]), (0, node.input[1])):
        constant = graph.initializers.get(node.input[slot])
        if constant is None or not _is_own(graph, node.input[slot]) or math.prod(constant.dims) != 1:
            continue
        if graph.is_constant(data) or graph.shape(data) != shape:
            continue
        ids = channels.new_channels(size)
        wide = ids.reshape(size, *[1] * (len(shape) - 2))
        channels.coefficients.append(Coefficient(node=node.name, slot=slot, ids=wide, power=-1, is_weight=True))
        channels.views[node.output[0]] = ChannelView(axes=(1,), ids=ids)


def _hand_on(graph: Graph, node: NodeProto, data: str, channels: ChannelMap) -> str | None:
    """The output has the channels of `data`, which the other operand does not widen."""
    view, rank, shape = channels.views.get(data), graph.rank(data), graph.shape(node.output[0])
    if view is None:
        return None
    if rank is None or shape is None or len(shape) < rank:
        return "its shape is not known"
    axes = tuple(axis + len(shape) - rank for axis in view.axes)
    if any(shape[axis] != size for axis, size in zip(axes, view.ids.shape, strict=True)):
        return "its other operand widens the channels"
    channels.views[node.output[0]] = ChannelView(axes=axes, ids=view.ids)
    return None


# ---- activations -------------------------------------------------------------------------------------------------


def _carry(graph: Graph, node: NodeProto, channels: ChannelMap) -> str | None:
    del graph
    for tensor in node.input[1:]:
        channels.pin(tensor, f"{node.name!r} takes it as a parameter")
    if (view := channels.views.get(node.input[0])) is not None:
        channels.views[node.output[0]] = view
    return None


def _clip(graph: Graph, node: NodeProto, channels: ChannelMap) -> str | None:
    lower, upper = clip_limits(graph, node)
    if lower != 0.0 or any(t and not graph.is_constant(t) for t in node.input[1:]):
        return "its limits would differ from channel to channel"
    view = channels.views.get(node.input[0])
    if upper is not None and upper != float("inf") and view is not None:
        largest = _largest_outputs(graph, node.input[0])
        if largest is None or upper <= 0.0 or view.ids.shape != largest.shape:
            return "its upper limit would differ from channel to channel"
        for channel, share in zip(view.ids.tolist(), (largest / upper).tolist(), strict=True):
            if share < 1.0:
                channels.floors[channel] = max(share, 0.0)
            else:
                channels.reasons.setdefault(channel, f"{node.name!r}: its upper limit is reached")
    return _carry(graph, node, channels)


def _largest_outputs(graph: Graph, tensor: str) -> NDArray[np.float64] | None:
    """What no value of each channel of a Conv's output exceeds, where the graph bounds the input of the Conv.

    b + sum over the taps of max(w lower, w upper), with room for the rounding of the sum; a padded 0 lies between the
    bounds.
    """
    conv = graph.producer(tensor)
    if conv is None or conv.op_type != "Conv" or conv.domain not in STANDARD_DOMAINS:
        return None
    bounds = known_bounds(graph, conv.input[0])
    weight, bias = graph.constant(conv.input[1]), graph.constant(operand(conv, 2))
    if bounds.lower is None or bounds.upper is None or weight is None or bounds.lower > 0.0 or bounds.upper < 0.0:
        return None
    wide = weight.astype(np.float64)
    reached = np.maximum(wide * bounds.lower, wide * bounds.upper).reshape(len(wide), -1).sum(axis=1)
    return np.asarray((reached if bias is None else reached + bias) * _ROUNDING_ROOM, np.float64)


def _is_own(graph: Graph, tensor: str) -> bool:
    """Whether `tensor` is a float32 constant with one reader."""
    proto = graph.initializers.get(tensor)
    return (
        proto is not None
        and proto.data_type == TensorProto.FLOAT
        and len(graph.uses(tensor)) == 1
        and not graph.is_output(tensor)
    )


_RULES: Mapping[str, Rule] = {
    **dict.fromkeys(("Conv", "ConvTranspose", "Gemm", "MatMul"), _linear),
    "LayerNormalization": _layer_normalization,
    "BatchNormalization": _batch_normalization,
    "Add": _sum,
    "Sub": _sum,
    "Mul": _product,
    "Div": _quotient,
    **dict.fromkeys(("Relu", "LeakyRelu", "PRelu", "Abs", "Neg", "Identity", "Dropout"), _carry),
    "Clip": _clip,
    **MOVES,
}
