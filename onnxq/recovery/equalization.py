"""Cross-layer equalization: neighbouring layers share the spread of their channels. Needs no data.

For each class of channels (see `channel_map.py`), with r1 the largest magnitude of the weights that write it and r2 of
those that read it, channels are divided by

    s = sqrt(r1 / r2),    after which both are sqrt(r1 r2)

Classes meet in depthwise convolutions and in residual sums, so this is repeated until no scale changes much.
Source: arXiv 1906.04721, section 4.1 and appendix A (there for pairs of layers).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from onnxq.graph.view import Graph
from onnxq.recovery.channel_map import ChannelMap, extremes, rescaled
from onnxq.recovery.channel_rules import map_channels

_MOST_SWEEPS = 50
_SETTLED = 0.01
"""A sweep that changes no scale by more than this share is the last."""

LARGEST_SCALE = 2.0**8
"""Scales stay within 1 / LARGEST_SCALE and LARGEST_SCALE: a channel that is nearly dead says nothing by its weights."""


@dataclass(frozen=True, kw_only=True)
class Equalized:
    """What equalization did.

    Attributes:
        graph: A graph that computes the same.
        channels: How many channels were rescaled.
        tensors: Names of the tensors that hold them, in graph order.
        left_alone: Why tensors of layers with weights were not rescaled: reasons, each with the number of channels.
    """

    graph: Graph
    channels: int = 0
    tensors: tuple[str, ...] = ()
    left_alone: tuple[tuple[str, int], ...] = ()

    @property
    def modified(self) -> bool:
        return self.channels > 0


def equalize(graph: Graph) -> Equalized:
    """Equalize the weights of neighbouring layers.

    Args:
        graph: A float graph in topological order, with shapes inferred; it is not changed.

    Returns:
        A graph that computes the same but for float32 rounding: products of weights and scales are rounded once.
    """
    channels = map_channels(graph)
    scales = _scales(graph, channels)
    changed = scales != 1.0
    return Equalized(
        graph=rescaled(graph, channels, scales) if changed.any() else graph,
        channels=int(changed.sum()),
        tensors=tuple(name for name, view in channels.views.items() if changed[view.ids].any()),
        left_alone=_left_alone(channels),
    )


def _scales(graph: Graph, channels: ChannelMap) -> NDArray[np.float64]:
    """float64, shape (channels,): the scale of each channel's class."""
    scales = np.ones(channels.channels)
    free, limits = channels.free(), channels.lower_limits()
    for _ in range(_MOST_SWEEPS):
        written, read = extremes(graph, channels, -1, scales), extremes(graph, channels, 1, scales)
        alive = free & (written > 0.0) & (read > 0.0)
        wanted = scales.copy()
        wanted[alive] *= np.sqrt(written[alive] / read[alive])
        wanted = np.clip(wanted, np.maximum(limits, 1.0 / LARGEST_SCALE), LARGEST_SCALE)
        settled = np.abs(np.log(wanted / scales)).max(initial=0.0) < _SETTLED
        scales = np.where(free, wanted, 1.0)
        if settled:
            break
    return scales


def _left_alone(channels: ChannelMap) -> tuple[tuple[str, int], ...]:
    counts: dict[str, int] = {}
    for reason in channels.reasons.values():
        counts[reason] = counts.get(reason, 0) + 1
    return tuple(sorted(counts.items(), key=lambda item: -item[1]))
