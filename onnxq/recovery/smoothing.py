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

The estimate proposes. What counts is the noise at the outputs of the network: each site is quantized alone, as it was
and rescaled, and stays rescaled only if that helps; so do all of them together.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from onnxq.calibration.runner import CollectOptions
from onnxq.data.batches import Batch
from onnxq.graph.view import Graph
from onnxq.planning.plan import Observed, QuantPlan, Role
from onnxq.recovery.activation_samples import sample_channels
from onnxq.recovery.channel_map import ChannelMap, Site, extremes, rescaled
from onnxq.recovery.channel_rules import map_channels
from onnxq.recovery.site_noise import SiteNoise
from onnxq.recovery.trial import Trial, decibels
from onnxq.targets.schema import Target

STRENGTHS = (0.25, 0.4, 0.5, 0.6, 0.75, 0.9, 1.0)
CONSIDERED_GAIN_DB = 0.5
"""A site is tried if its estimated noise falls by this much; less is within what the estimate can tell."""

NEEDED_GAIN_DB = 0.5
"""A site is rescaled if, quantized alone, the noise that it causes at the outputs falls by this much."""

NEEDED_WHOLE_DB = 0.25
"""All sites together have to lower the noise of the whole plan by this; other roundings alone move it by as much."""

NEEDED_SHARE = 1e-3
"""A site is tried only if it causes this share of the noise of the whole plan."""

LARGEST_RATIO = 2.0**5
"""No channel is magnified more than this against another: new data may leave the range that a few samples show."""


@dataclass(frozen=True, kw_only=True)
class Smoothed:
    """One site that was rescaled, or left alone.

    Attributes:
        tensors: Names of the tensors that hold its channels, in graph order.
        channels: How many classes of channels.
        strength: alpha, None where the site was left alone.
        estimated_db: By how much the estimated noise of its readers falls with the best strength, in dB.
        measured_db: By how much the noise falls that the site causes at the outputs; None where that was not tried.
    """

    tensors: tuple[str, ...]
    channels: int
    strength: float | None
    estimated_db: float
    measured_db: float | None = None


@dataclass(frozen=True, kw_only=True)
class SmoothingResult:
    """What smoothing did.

    Attributes:
        graph: A graph that computes the same but for float32 rounding.
        sites: Every site that was looked at.
        gain_db: By how much the noise of the whole plan falls at the outputs, on the samples; 0 if nothing changed.
    """

    graph: Graph
    sites: tuple[Smoothed, ...] = ()
    gain_db: float = 0.0

    @property
    def modified(self) -> bool:
        return any(site.strength is not None for site in self.sites)


def smooth(
    graph: Graph, plan: QuantPlan, target: Target, samples: Sequence[Batch], options: CollectOptions
) -> SmoothingResult:
    """Rescale channels wherever that lowers the noise at the outputs of the network.

    Args:
        graph: The float graph of the plan, in topological order, with shapes inferred; it is not changed.
        plan: Which tensors will be quantized, and how. It holds for the new graph as well.
        target: The table the plan was made with.
        samples: Batches to measure on; 16 to 32 samples will do. Without any, nothing changes.
        options: How to run them.

    Raises:
        DataError: onnxruntime fails on the samples.
        ModelError: onnxruntime cannot load the model.
    """
    channels = map_channels(graph)
    sites = [site for site in channels.sites() if _quantized(plan, site)] if samples else []
    if not sites:
        return SmoothingResult(graph=graph)
    axes = {name: channels.views[name].axes for site in sites for name in _quantized(plan, site)}
    observed = sample_channels(graph, axes, samples, options)
    facts = ChannelFacts.of(graph, channels)
    found: list[tuple[Smoothed, NDArray[np.float64], SiteNoise]] = []
    for site in sites:
        noise = SiteNoise.of(graph, plan, channels, site, observed)
        if noise is not None:
            smoothed, scales = best_scales(facts, site, noise)
            found.append((smoothed, scales, noise))
    if all(smoothed.strength is None for smoothed, _, _ in found):
        return SmoothingResult(graph=graph, sites=tuple(smoothed for smoothed, _, _ in found))
    return _accepted(graph, channels, found, Trial(graph, plan, target, samples, options))


def _quantized(plan: QuantPlan, site: Site) -> list[str]:
    """The tensors of a site whose ranges are observed."""
    found = []
    for name in site.tensors:
        planned = plan.tensors.get(name)
        if planned is not None and planned.role is Role.ACTIVATION and isinstance(planned.source, Observed):
            found.append(name)
    return found


def _accepted(
    graph: Graph,
    channels: ChannelMap,
    found: Sequence[tuple[Smoothed, NDArray[np.float64], SiteNoise]],
    trial: Trial,
) -> SmoothingResult:
    """Each site tried alone, and at last all that passed together."""
    before = trial.ranges(graph)
    whole = trial.noise(graph, before)
    candidates = np.prod([scales for smoothed, scales, _ in found if smoothed.strength is not None], axis=0)
    after = trial.ranges(rescaled(graph, channels, candidates))
    chosen = np.ones(channels.channels)
    sites = []
    for smoothed, scales, noise in found:
        kept = smoothed
        if smoothed.strength is not None:
            old = trial.noise(graph, before, noise.quantized)
            new = trial.noise(rescaled(graph, channels, scales), after, noise.quantized)
            gain_db = decibels(old, new)
            passed = gain_db >= NEEDED_GAIN_DB and old >= NEEDED_SHARE * whole
            kept = replace(smoothed, measured_db=gain_db, strength=smoothed.strength if passed else None)
            chosen = chosen * scales if passed else chosen
        sites.append(kept)
    if (chosen == 1.0).all():
        return SmoothingResult(graph=graph, sites=tuple(sites))
    result = rescaled(graph, channels, chosen)
    gain_db = decibels(whole, trial.noise(result, trial.ranges(result)))
    if gain_db < NEEDED_WHOLE_DB:
        return SmoothingResult(graph=graph, sites=tuple(replace(site, strength=None) for site in sites))
    return SmoothingResult(graph=result, sites=tuple(sites), gain_db=gain_db)


@dataclass(frozen=True, kw_only=True, eq=False)
class ChannelFacts:
    """What scales of a site depend on beside its activations; arrays of shape (channels,).

    Attributes:
        roots: int64, the class of each channel.
        weights: float64, largest magnitude of the weights that read each class.
        limits: float64, the smallest scale that each class may have.
    """

    roots: NDArray[np.int64]
    weights: NDArray[np.float64]
    limits: NDArray[np.float64]

    @classmethod
    def of(cls, graph: Graph, channels: ChannelMap) -> ChannelFacts:
        """The facts of a whole graph: found once, for all sites."""
        weights = extremes(graph, channels, 1, np.ones(channels.channels))
        return cls(roots=channels.roots(), weights=weights, limits=channels.lower_limits())


def best_scales(facts: ChannelFacts, site: Site, noise: SiteNoise) -> tuple[Smoothed, NDArray[np.float64]]:
    """The best strength, and the scale of every channel with it; 1 outside the site."""
    ones = np.ones(facts.roots.size)
    before = noise.estimate(ones)
    best, strength, chosen = before, None, ones
    for alpha in STRENGTHS:
        scales = _scales(facts, site, noise.magnitudes, alpha)
        now = noise.estimate(scales)
        if now < best:
            best, strength, chosen = now, alpha, scales
    estimated_db = decibels(before, best)
    return Smoothed(
        tensors=site.tensors,
        channels=len(site.classes),
        strength=strength if estimated_db >= CONSIDERED_GAIN_DB else None,
        estimated_db=estimated_db,
    ), chosen


def _scales(facts: ChannelFacts, site: Site, magnitudes: NDArray[np.float64], alpha: float) -> NDArray[np.float64]:
    """float64, shape (channels,): the scales of strength `alpha`.

    They are set so that the largest activation stays where it is: channels of the same tensors that cannot be scaled
    then lose nothing.
    """
    a, w = magnitudes[site.classes], facts.weights[site.classes]
    alive = (a > 0.0) & (w > 0.0)
    result = np.ones(facts.roots.size)
    if not alive.any():
        return result
    own = a[alive] ** alpha / w[alive] ** (1.0 - alpha)
    own *= np.max(a[alive] / own) / np.max(a[alive])
    own = np.maximum(own, own.max() / LARGEST_RATIO)
    by_class = np.ones(facts.roots.size)
    by_class[site.classes[alive]] = np.maximum(own, facts.limits[site.classes[alive]])
    return by_class[facts.roots]
