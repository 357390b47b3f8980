"""Operators that move values, or sum over axes without channels: where their output keeps the channels of the input."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import numpy as np
from onnx import NodeProto

from onnxq.graph.constants import integers, integers_operand, operand, scalar
from onnxq.graph.view import Dim, Graph, attribute
from onnxq.recovery.channel_map import ChannelMap, ChannelView

Move = Callable[[Graph, NodeProto, ChannelView], "ChannelView | str"]
"""The channels of a node's output, or the reason why they cannot be told."""


def _moved(move: Move) -> Callable[[Graph, NodeProto, ChannelMap], str | None]:
    def rule(graph: Graph, node: NodeProto, channels: ChannelMap) -> str | None:
        view = channels.views.get(node.input[0])
        if view is None:
            return None
        found = move(graph, node, view)
        if isinstance(found, str):
            return found
        channels.views[node.output[0]] = found
        return None

    return rule


def _over_space(graph: Graph, node: NodeProto, view: ChannelView) -> ChannelView | str:
    """Pooling."""
    del graph
    return view if view.axes == (1,) and len(node.output) == 1 else "its channels are not on axis 1"


def _pad(graph: Graph, node: NodeProto, view: ChannelView) -> ChannelView | str:
    pads = integers_operand(graph, node, 1, "pads")
    rank = graph.rank(node.input[0])
    if pads is None or rank is None or len(pads) != 2 * rank or operand(node, 3):
        return "how much it pads is not known"
    value = attribute(node, "value", 0.0) if not operand(node, 2) else scalar(graph, node.input[2])
    if value != 0.0:
        return "it pads with another value than 0"
    return "it pads the channels" if any(pads[a] or pads[a + rank] for a in view.axes) else view


def _resize(graph: Graph, node: NodeProto, view: ChannelView) -> ChannelView | str:
    before, after = graph.shape(node.input[0]), graph.shape(node.output[0])
    if attribute(node, "coordinate_transformation_mode", b"") in (b"tf_crop_and_resize", "tf_crop_and_resize"):
        return "it extrapolates with a constant"
    if before is None or after is None or len(before) != len(after) or any(before[a] != after[a] for a in view.axes):
        return "it may resize the channels"
    return view


def _reduce(graph: Graph, node: NodeProto, view: ChannelView) -> ChannelView | str:
    axes = integers_operand(graph, node, 1, "axes")
    rank = graph.rank(node.input[0])
    if axes is None or rank is None:
        return "the axes it reduces are not known"
    reduced = {axis % rank for axis in axes}
    if not reduced or reduced.intersection(view.axes):
        return "it reduces over the channels"
    if attribute(node, "keepdims", 1):
        return view
    return ChannelView(axes=tuple(a - sum(r < a for r in reduced) for a in view.axes), ids=view.ids)


def _transpose(graph: Graph, node: NodeProto, view: ChannelView) -> ChannelView | str:
    rank = graph.rank(node.input[0])
    if rank is None:
        return "the rank of its input is not known"
    order = list(attribute(node, "perm", range(rank - 1, -1, -1)))
    placed = sorted((order.index(axis), i) for i, axis in enumerate(view.axes))
    return ChannelView(axes=tuple(axis for axis, _ in placed), ids=view.ids.transpose([i for _, i in placed]))


def _squeeze(graph: Graph, node: NodeProto, view: ChannelView) -> ChannelView | str:
    axes = integers_operand(graph, node, 1, "axes")
    rank = graph.rank(node.input[0])
    if axes is None or rank is None:
        return "the axes it removes are not known"
    gone = {axis % rank for axis in axes}
    if gone.intersection(view.axes):
        return "it removes the channels' axis"
    return ChannelView(axes=tuple(a - sum(g < a for g in gone) for a in view.axes), ids=view.ids)


def _unsqueeze(graph: Graph, node: NodeProto, view: ChannelView) -> ChannelView | str:
    axes = integers_operand(graph, node, 1, "axes")
    rank = graph.rank(node.input[0])
    if axes is None or rank is None:
        return "the axes it adds are not known"
    added = {axis % (rank + len(axes)) for axis in axes}
    kept = [axis for axis in range(rank + len(axes)) if axis not in added]
    return ChannelView(axes=tuple(kept[a] for a in view.axes), ids=view.ids)


def _gather(graph: Graph, node: NodeProto, view: ChannelView) -> ChannelView | str:
    rank, picked_rank = graph.rank(node.input[0]), graph.rank(node.input[1])
    if rank is None or picked_rank is None:
        return "the rank of its input is not known"
    axis = int(attribute(node, "axis", 0)) % rank
    if axis not in view.axes:
        return ChannelView(axes=tuple(a + picked_rank - 1 if a > axis else a for a in view.axes), ids=view.ids)
    picked = integers(graph, node.input[1])
    if picked is None or picked_rank > 1:
        return "which channels it takes is not known"
    taken = view.ids.take(picked, axis=view.axes.index(axis))
    if picked_rank == 1:
        return ChannelView(axes=view.axes, ids=taken)
    if len(view.axes) == 1:
        return "it takes a single channel"
    place = view.axes.index(axis)
    axes = tuple(a - (a > axis) for a in view.axes if a != axis)
    return ChannelView(axes=axes, ids=taken.squeeze(place))


def _slice(graph: Graph, node: NodeProto, view: ChannelView) -> ChannelView | str:
    rank = graph.rank(node.input[0])
    starts = integers_operand(graph, node, 1, "starts")
    ends = integers_operand(graph, node, 2, "ends")
    if rank is None or starts is None or ends is None:
        return "what it cuts out is not known"
    axes = integers_operand(graph, node, 3, "axes", tuple(range(len(starts))))
    steps = integers_operand(graph, node, 4, "steps", (1,) * len(starts))
    if axes is None or steps is None:
        return "what it cuts out is not known"
    ids = view.ids
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        if axis % rank in view.axes:
            if step < 1:
                return "it reverses the channels"
            place = view.axes.index(axis % rank)
            ids = ids[(slice(None),) * place + (slice(start, end, step),)]
    return ChannelView(axes=view.axes, ids=ids)


def _reshape(graph: Graph, node: NodeProto, view: ChannelView) -> ChannelView | str:
    """Channels stay together where dimensions before or behind them agree, and those between have the same product."""
    before, after = graph.shape(node.input[0]), graph.shape(node.output[0])
    if before is None or after is None:
        return "its shape is not known"
    declared = [before[axis] if axis < len(before) else 0 for axis in view.axes]
    if any(isinstance(size, int) and size != own for size, own in zip(declared, view.ids.shape, strict=True)):
        return "its declared shape is not that of its channels"
    for old, new in _blocks(before, after):
        if set(view.axes) <= set(old):
            sizes = [before[axis] for axis in old]
            wanted = [after[axis] for axis in new]
            if old == view.axes and not all(isinstance(d, int) for d in wanted):
                return ChannelView(axes=new, ids=view.ids)  # one open dimension that is handed on
            at = [axis - old[0] for axis in view.axes]
            local = ChannelView(axes=tuple(at), ids=view.ids).against(len(old))
            whole = np.broadcast_to(local, [int(s) for s in sizes if isinstance(s, int)])
            return ChannelView(axes=new, ids=whole.reshape([int(w) for w in wanted if isinstance(w, int)]))
    return "it mixes the channels with other axes"


def _blocks(before: tuple[Dim, ...], after: tuple[Dim, ...]) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    """Groups of neighbouring axes that become one another: equal sizes from the left, equal products from the right."""
    found: list[tuple[tuple[int, ...], tuple[int, ...]]] = []
    i = 0
    while i < min(len(before), len(after)) and before[i] is not None and before[i] == after[i]:
        found.append(((i,), (i,)))
        i += 1
    left, right = len(before), len(after)
    while left > i and right > i:
        start, end = left, right
        left, right = left - 1, right - 1
        old, new = _product(before[left:start]), _product(after[right:end])
        while old is not None and new is not None and old != new:
            if old < new and left > i:
                left -= 1
            elif old > new and right > i:
                right -= 1
            else:
                return found
            old, new = _product(before[left:start]), _product(after[right:end])
        if old is None or new is None:
            return found
        found.append((tuple(range(left, start)), tuple(range(right, end))))
    return found


def _product(dims: tuple[Dim, ...]) -> int | None:
    sizes = [d for d in dims if isinstance(d, int)]
    return math.prod(sizes) if len(sizes) == len(dims) else None


def _concat(graph: Graph, node: NodeProto, channels: ChannelMap) -> str | None:
    rank = graph.rank(node.input[0])
    if rank is None:
        return "the rank of its inputs is not known"
    axis = int(attribute(node, "axis", 0)) % rank
    views = [channels.views.get(t) or _fixed(graph, t, axis, channels) for t in node.input]
    known = [view for view in views if view is not None]
    if len(known) < len(views) or len({view.axes for view in known}) > 1:
        return "not all of its inputs can be scaled"
    view = known[0]
    if axis in view.axes:
        ids = np.concatenate([v.ids for v in known], axis=view.axes.index(axis))
        channels.views[node.output[0]] = ChannelView(axes=view.axes, ids=ids)
        return None
    for other in known[1:]:
        if other.ids.shape != view.ids.shape:
            return "its inputs have different channels"
        channels.unite(view.ids, other.ids)
    channels.views[node.output[0]] = view
    return None


def _fixed(graph: Graph, tensor: str, axis: int, channels: ChannelMap) -> ChannelView | None:
    """A tensor that cannot be scaled beside others that can: channels that are pinned."""
    shape = graph.shape(tensor)
    size = None if shape is None else shape[axis]
    if not isinstance(size, int):
        return None
    view = ChannelView(axes=(axis,), ids=channels.new_channels(size))
    for channel in view.ids.tolist():
        channels.reasons[channel] = f"{tensor!r} cannot be scaled"
    return view


def _split(graph: Graph, node: NodeProto, channels: ChannelMap) -> str | None:
    view, rank = channels.views.get(node.input[0]), graph.rank(node.input[0])
    if view is None:
        return None
    if rank is None:
        return "the rank of its input is not known"
    axis = int(attribute(node, "axis", 0)) % rank
    if axis not in view.axes:
        channels.views.update(dict.fromkeys(node.output, view))
        return None
    place, start = view.axes.index(axis), 0
    sizes = [(graph.shape(t) or {axis: None})[axis] for t in node.output]
    if any(not isinstance(size, int) for size in sizes):
        return "the sizes of its parts are not known"
    for tensor, size in zip(node.output, sizes, strict=True):
        if isinstance(size, int):
            ids = view.ids[(slice(None),) * place + (slice(start, start + size),)]
            channels.views[tensor] = ChannelView(axes=view.axes, ids=ids)
            start += size
    return None


MOVES: Mapping[str, Callable[[Graph, NodeProto, ChannelMap], str | None]] = {
    **dict.fromkeys(("MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool"), _moved(_over_space)),
    **dict.fromkeys(("ReduceMean", "ReduceSum", "ReduceMax"), _moved(_reduce)),
    **dict.fromkeys(("Reshape", "Flatten"), _moved(_reshape)),
    "Pad": _moved(_pad),
    "Resize": _moved(_resize),
    "Transpose": _moved(_transpose),
    "Squeeze": _moved(_squeeze),
    "Unsqueeze": _moved(_unsqueeze),
    "Gather": _moved(_gather),
    "Slice": _moved(_slice),
    "Concat": _concat,
    "Split": _split,
}
