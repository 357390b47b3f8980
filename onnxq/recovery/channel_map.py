"""Which channels of a network can be rescaled without changing what it computes, and which constants have to follow.

A class is a set of channels, of one or several tensors, that can only be scaled together. If every channel of class i
is divided by s[i] > 0, the network computes the same as long as each constant w that writes or reads the class
follows:

    w' = w * prod_k s[ids_k] ** power_k        power -1 where the constant writes the channels, +1 where it reads them

Conv -> Relu -> Conv is the simplest case: the rows of the first weight and its bias are divided by s, the columns of
the second are multiplied. A residual Add makes its operands' channels one class, Concat puts classes side by side, a
node that must see the values themselves (a Sigmoid, an output of the graph) pins its classes to s = 1.

The rules for each operator are in `channel_rules.py`. Source of the idea: arXiv 1906.04721, section 4.1; of its use in
front of a LayerNorm's readers: arXiv 2211.10438.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxq.errors import InternalError
from onnxq.graph.view import Graph

Ids = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True, eq=False)
class ChannelView:
    """Where a tensor keeps its channels.

    Attributes:
        axes: Axes of the tensor, ascending and not negative, that count channels.
        ids: int64, one dimension for each of the axes: the channel's number in the whole network.
    """

    axes: tuple[int, ...]
    ids: Ids

    def against(self, rank: int) -> Ids:
        """The ids shaped to broadcast against a tensor of `rank` axes."""
        shape = [1] * rank
        for axis, size in zip(self.axes, self.ids.shape, strict=True):
            shape[axis] = size
        return self.ids.reshape(shape)


@dataclass(frozen=True, kw_only=True, eq=False)
class Coefficient:
    """A constant that has to follow the scales of some channels.

    Attributes:
        node: The node that reads the constant.
        slot: In which input slot.
        ids: Channel numbers, of a shape that broadcasts against the constant's.
        power: +1 or -1, the power of the scales.
        is_weight: Whether the node multiplies by the constant (a bias only adds it).
    """

    node: str
    slot: int
    ids: Ids
    power: int
    is_weight: bool


@dataclass(frozen=True, kw_only=True, eq=False)
class Site:
    """Classes that are chosen together because they stand side by side in a tensor.

    Attributes:
        classes: int64, shape (K,): the classes, ascending.
        tensors: Names of the tensors that hold them, in graph order.
    """

    classes: Ids
    tensors: tuple[str, ...]


@dataclass
class ChannelMap:
    """Grows while the rules walk along the graph.

    Attributes:
        views: Where tensors keep their channels; a tensor without channels that can be scaled has no entry.
        coefficients: The constants that follow the scales.
        reasons: By channel that is pinned directly, why.
        floors: By channel behind a Clip, the smallest scale with which it stays below the limit, whatever the input.
        widens: Whether a single number that a tensor is multiplied by may become a number for each channel.
    """

    views: dict[str, ChannelView] = field(default_factory=dict)
    coefficients: list[Coefficient] = field(default_factory=list)
    reasons: dict[int, str] = field(default_factory=dict)
    floors: dict[int, float] = field(default_factory=dict)
    widens: bool = False
    _parent: list[int] = field(default_factory=list)
    _roots: Ids | None = None

    @property
    def channels(self) -> int:
        return len(self._parent)

    def new_channels(self, count: int) -> Ids:
        """Numbers for `count` channels that have just been written."""
        first, self._roots = len(self._parent), None
        self._parent.extend(range(first, first + count))
        return np.arange(first, first + count, dtype=np.int64)

    def unite(self, one: Ids, other: Ids) -> None:
        """Let channels of the same place be scaled together."""
        self._roots = None
        for a, b in zip(one.reshape(-1).tolist(), other.reshape(-1).tolist(), strict=True):
            low, high = sorted((self._root(a), self._root(b)))
            self._parent[high] = low

    def pin(self, tensor: str, reason: str) -> None:
        """Keep all channels of `tensor` as they are."""
        view = self.views.get(tensor)
        for channel in () if view is None else view.ids.reshape(-1).tolist():
            self.reasons.setdefault(channel, reason)

    def is_free(self, tensor: str) -> bool:
        """Whether some channel of `tensor` has not been pinned so far."""
        view = self.views.get(tensor)
        if view is None:
            return False
        pinned = {self._root(channel) for channel in self.reasons}
        return any(self._root(channel) not in pinned for channel in view.ids.reshape(-1).tolist())

    def roots(self) -> Ids:
        """int64, shape (channels,): the class of each channel, which is its smallest member."""
        if self._roots is None:
            self._roots = np.array([self._root(channel) for channel in range(self.channels)], np.int64)
        return self._roots

    def free(self) -> NDArray[np.bool_]:
        """bool, shape (channels,): whether the class of a channel may be scaled, and something reads it."""
        roots = self.roots()
        pinned = np.zeros(self.channels, bool)
        pinned[roots[list(self.reasons)]] = True
        read = np.zeros(self.channels, bool)
        for coefficient in self.coefficients:
            if coefficient.power > 0:
                read[roots[coefficient.ids.reshape(-1)]] = True
        return (read & ~pinned)[roots]

    def lower_limits(self) -> NDArray[np.float64]:
        """float64, shape (channels,): the smallest scale that a class may have, 0 where any will do."""
        limits = np.zeros(self.channels)
        for channel, floor in self.floors.items():
            root = self._root(channel)
            limits[root] = max(limits[root], floor)
        return limits[self.roots()]

    def sites(self) -> list[Site]:
        """The free classes, by the tensors that hold them."""
        roots, free = self.roots(), self.free()
        neighbours = ChannelMap()
        neighbours.new_channels(self.channels)
        held: dict[str, Ids] = {}
        for name, view in self.views.items():
            ids = view.ids.reshape(-1)
            classes = np.unique(roots[ids[free[ids]]])
            if classes.size:
                held[name] = classes
                neighbours.unite(classes[:-1], classes[1:])
        members: dict[int, list[str]] = {}
        for name, classes in held.items():
            members.setdefault(neighbours._root(int(classes[0])), []).append(name)
        return [
            Site(classes=np.unique(np.concatenate([held[n] for n in names])), tensors=tuple(names))
            for names in members.values()
        ]

    def _root(self, channel: int) -> int:
        parent = self._parent
        while parent[channel] != channel:
            parent[channel] = parent[parent[channel]]
            channel = parent[channel]
        return channel


def extremes(graph: Graph, channels: ChannelMap, power: int, scales: NDArray[np.float64]) -> NDArray[np.float64]:
    """Largest magnitude of the weights that write (`power` -1) or read (+1) each class, after rescaling.

    Args:
        graph: The graph of the map.
        channels: The map.
        power: Which side to look at.
        scales: float64, shape (channels,): the scale of each channel.

    Returns:
        float64, shape (channels,), the same for all channels of a class.
    """
    roots = channels.roots()
    largest = np.zeros(channels.channels)
    factors = _factors(channels, scales)
    for found in channels.coefficients:
        if found.power == power and found.is_weight:
            magnitude = np.abs(_value(graph, found.node, found.slot)) * factors[found.node, found.slot]
            others = _broadcast_axes(found.ids, magnitude)
            np.maximum.at(largest, roots[found.ids].reshape(-1), magnitude.max(axis=others, keepdims=True).reshape(-1))
    return np.asarray(largest[roots])


def rescaled(graph: Graph, channels: ChannelMap, scales: NDArray[np.float64]) -> Graph:
    """A graph that computes the same, with every channel divided by the scale of its class.

    Args:
        graph: The graph of the map; it is not changed.
        channels: The map.
        scales: float64, shape (channels,), > 0, equal within a class, 1 for those that are not free.

    The products are formed in float64 and rounded once, so the outputs differ by float32 rounding alone.
    """
    result = graph.copy()
    for (node, slot), factor in _factors(channels, scales).items():
        if (factor != 1.0).any():
            old = _value(graph, node, slot)
            result.add_initializer(graph.node(node).input[slot], (old.astype(np.float64) * factor).astype(old.dtype))
    return result


def _factors(channels: ChannelMap, scales: NDArray[np.float64]) -> dict[tuple[str, int], NDArray[np.float64]]:
    """What each constant is multiplied by, by node and slot."""
    factors: dict[tuple[str, int], NDArray[np.float64]] = {}
    for found in channels.coefficients:
        key = (found.node, found.slot)
        factors[key] = factors.get(key, np.ones(())) * scales[found.ids] ** found.power
    return factors


def _value(graph: Graph, node: str, slot: int) -> NDArray[Any]:
    value = graph.constant(graph.node(node).input[slot])
    if value is None:
        raise InternalError(f"input {slot} of {node!r} is not a constant")
    return value


def _broadcast_axes(ids: Ids, value: NDArray[Any]) -> tuple[int, ...]:
    """Axes of `value` along which all elements belong to one channel."""
    shape = (1,) * (value.ndim - ids.ndim) + ids.shape
    return tuple(axis for axis, (own, size) in enumerate(zip(shape, value.shape, strict=True)) if own == 1 != size)
