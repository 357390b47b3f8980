"""Spread of activations migrated into weights, with a strength searched for each place, and only where it pays.

A tensor with one scale for all its channels wastes codes on those of a small range. Dividing channel k by

    s[k] = a[k] ** alpha / w[k] ** (1 - alpha)      a: largest magnitude of the activations, w: of the weights that
    read them

moves the spread into the weights, whose per-channel scales run along the other axis. alpha = 1 makes all activations
equally large, alpha = 0.5 shares the spread. Where the weights keep a scale for each of these channels (depthwise)
nothing is lost by alpha = 1. Source: arXiv 2211.10438, section 4; there with one strength for all layers, and behind
LayerNorm alone. Here the places are all that `channel_map.py` finds, and each strength is the one with the least
estimated noise:

    noise = sum over readers of  (|W'|^2 . e + P |Wq' - W'|^2 . v') / (|W|^2 . v)

with e the error of the quantized activations, per channel, measured on samples; Wq' - W' the rounding of the weights; v
the variance of the channels (a shift of the mean is bias correction's to take back). The rounding of activations
differs from position to position and averages out on the way to the output; that of weights does not and counts P
times.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from onnxq.calibration.batches import Batch
from onnxq.calibration.runner import CollectOptions
from onnxq.graph.view import Graph
from onnxq.planning.plan import Observed, QuantPlan, Role
from onnxq.recovery.activation_samples import sample_channels
from onnxq.recovery.channel_map import ChannelMap, Site, extremes, rescaled
from onnxq.recovery.channel_rules import map_channels
from onnxq.recovery.site_noise import SiteNoise

STRENGTHS = (0.25, 0.4, 0.5, 0.6, 0.75, 0.9, 1.0)
NEEDED_GAIN_DB = 0.5
"""A site is rescaled if its estimated noise falls by this much; less is within what the estimate can tell."""

LARGEST_RATIO = 2.0**5
"""No channel is magnified more than this against another: new data may leave the range that a few samples show."""


@dataclass(frozen=True, kw_only=True)
class Smoothed:
    """One site that was rescaled, or left alone.

    Attributes:
        tensors: Names of the tensors that hold its channels, in graph order.
        channels: How many classes of channels.
        strength: alpha, None where no strength gained enough.
        gain_db: By how much the estimated noise of its readers falls, in dB; the best found, taken or not.
    """

    tensors: tuple[str, ...]
    channels: int
    strength: float | None
    gain_db: float


@dataclass(frozen=True, kw_only=True)
class SmoothingResult:
    """What smoothing did.

    Attributes:
        graph: A graph that computes the same but for float32 rounding.
        sites: Every site that was looked at.
    """

    graph: Graph
    sites: tuple[Smoothed, ...] = ()

    @property
    def modified(self) -> bool:
        return any(site.strength is not None for site in self.sites)


def smooth(graph: Graph, plan: QuantPlan, samples: Sequence[Batch], options: CollectOptions) -> SmoothingResult:
    """Rescale channels wherever quantized readers gain by it.

    Args:
        graph: The float graph of the plan, in topological order, with shapes inferred; it is not changed.
        plan: Which tensors will be quantized, and how. It holds for the new graph as well.
        samples: Batches to measure on; 16 to 32 samples will do. Without any, nothing changes.
        options: How to run them.

    Raises:
        DataError: onnxruntime fails on the samples.
        ModelError: onnxruntime cannot load the model.
    """
    channels = map_channels(graph)
    axes = {
        name: view.axes
        for name, view in channels.views.items()
        if (found := plan.tensors.get(name)) is not None
        and found.role is Role.ACTIVATION
        and isinstance(found.source, Observed)
    }
    free = channels.free()
    axes = {name: where for name, where in axes.items() if free[channels.views[name].ids].any()}
    observed = sample_channels(graph, axes, samples, options)
    scales = np.ones(channels.channels)
    looked_at = []
    for site in channels.sites():
        noise = SiteNoise.of(graph, plan, channels, site, observed)
        if noise is None:
            continue
        smoothed, chosen = _search(graph, channels, site, noise)
        looked_at.append(smoothed)
        if smoothed.strength is not None:
            scales *= chosen
    changed = (scales != 1.0).any()
    return SmoothingResult(graph=rescaled(graph, channels, scales) if changed else graph, sites=tuple(looked_at))


def _search(graph: Graph, channels: ChannelMap, site: Site, noise: SiteNoise) -> tuple[Smoothed, NDArray[np.float64]]:
    """The best strength, and the scale of every channel with it; 1 outside the site."""
    before = noise.estimate(np.ones(channels.channels))
    best, strength, chosen = before, None, np.ones(channels.channels)
    weights = extremes(graph, channels, 1, np.ones(channels.channels))
    for alpha in STRENGTHS:
        scales = _scales(channels, site, noise.magnitudes, weights, alpha)
        now = noise.estimate(scales)
        if now < best:
            best, strength, chosen = now, alpha, scales
    gain_db = 10.0 * float(np.log10(before / best)) if best > 0.0 else 0.0
    return Smoothed(
        tensors=site.tensors,
        channels=len(site.classes),
        strength=strength if gain_db >= NEEDED_GAIN_DB else None,
        gain_db=gain_db,
    ), chosen


def _scales(
    channels: ChannelMap, site: Site, magnitudes: NDArray[np.float64], weights: NDArray[np.float64], alpha: float
) -> NDArray[np.float64]:
    """float64, shape (channels,): the scales of strength `alpha`.

    They are set so that the largest activation stays where it is: channels of the same tensors that cannot be scaled
    then lose nothing.
    """
    a, w = magnitudes[site.classes], weights[site.classes]
    alive = (a > 0.0) & (w > 0.0)
    result = np.ones(channels.channels)
    if not alive.any():
        return result
    own = a[alive] ** alpha / w[alive] ** (1.0 - alpha)
    own *= np.max(a[alive] / own) / np.max(a[alive])
    own = np.maximum(own, own.max() / LARGEST_RATIO)
    by_class = np.ones(channels.channels)
    by_class[site.classes[alive]] = np.maximum(own, channels.lower_limits()[site.classes[alive]])
    return by_class[channels.roots()]
