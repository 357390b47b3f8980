"""Channels of very uneven reach made even, once ranges are known.

A tensor has one scale for all its channels. Where the largest channel reaches 15 times as far as most, those are left
with a few codes, and the layer that reads them gets more noise than all other layers together. Channels are divided by
the scales that smoothing finds (`smoothing.py`), the constants around them follow, and the network computes the same.
What is multiplied by one number, as behind a scaled hard swish, gets a number for each channel.

Only tensors that hurt are touched: noise of a share `LOUD` of what their readers compute, `NEEDED_GAIN_DB` of which
the scales take away. So nothing has to be tried out on the whole network, unlike in smoothing.

A channel that is seldom active may reach a small part of its way on a few samples, would be magnified, and cut off
where it is active. So where the samples ask for scales, all calibration data is read again for the reach of each
channel, unless it is large and can be read only once. Tensors that would reach more than `SURPRISE` times as far on it
are divided by what their channels reach there; of others the samples tell enough.

    range' = range of the divided tensor on the samples * max(1, reach over all data / reach on the samples)

Of the former the range covers half of what the divided channels reach over all data, with method max all of it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from onnxq.calibration.methods import METHODS, Method, method_from_name
from onnxq.calibration.progress import Callback, report_to
from onnxq.calibration.runner import CollectOptions, collect
from onnxq.calibration.solve import RangeTable, sound_range
from onnxq.calibration.statistics.table import StatsTable, TensorStats
from onnxq.data.batches import Batch, Batches
from onnxq.data.inputs import InputSpecs
from onnxq.graph.view import Graph
from onnxq.numerics.qparams import Range
from onnxq.passes.adapt.settle_types import runnable
from onnxq.planning.plan import Observed, QuantPlan, Role, SharedWith, TensorPlan
from onnxq.recovery.activation_samples import ChannelSamples, reaching, sample_channels
from onnxq.recovery.channel_map import ChannelMap, Site, rescaled
from onnxq.recovery.channel_rules import map_channels
from onnxq.recovery.dividers import Divided, with_dividers
from onnxq.recovery.site_noise import SiteNoise
from onnxq.recovery.sites import MOST_WEIGHTS_BYTES, weight_bytes
from onnxq.recovery.smoothing import ChannelFacts, best_scales
from onnxq.wording.plural import counted

STAGE = "levelling channels"

LOUD = 10.0**-2.5
"""Noise of this share of the signal (25 dB) at the outputs of a tensor's readers is more than 8 bits have to cost."""

NEEDED_GAIN_DB = 3.0

FEWEST_SAMPLES = 8
"""Of fewer, the reach of a channel is too little known: beyond it, a channel that is magnified is cut off."""

SURPRISE = 3.0
"""How much further all data may reach, once a tensor is divided, than the samples that its scales are chosen by."""

LEAST_COVERED = 0.5
"""Of what channels reach over all data, where that was a surprise. Wider ranges cost more than they save: with all of
it covered, kwt1 for TensorRT has 1.4 dB less (mean of three draws of samples)."""


@dataclass(frozen=True, kw_only=True)
class Levelled:
    """What levelling did.

    Attributes:
        graph: A graph that computes the same but for float32 rounding.
        plan: Its plan: that of the graph as it was, but for tensors that a Mul of their own divides (`dividers.py`).
        ranges: The range of each observed tensor.
        stats: Statistics of the tensors that were divided, on the samples.
    """

    graph: Graph
    plan: QuantPlan
    ranges: RangeTable
    stats: Mapping[str, TensorStats] = field(default_factory=dict)

    @property
    def notes(self) -> tuple[str, ...]:
        """What a person is told."""
        if not self.stats:
            return ()
        first = next(iter(self.stats))
        return (f"levelling: channels of {counted(len(self.stats), 'tensor')} made even, first {first!r}",)

    def stats_of_graph(self, stats: StatsTable) -> StatsTable:
        """`stats` of the graph as it was, with those of the divided tensors in place of theirs."""
        return replace(stats, tensors={**stats.tensors, **self.stats}) if self.stats else stats


def level_channels(  # noqa: PLR0913 - the parts of one run
    graph: Graph,
    plan: QuantPlan,
    ranges: RangeTable,
    *,
    stats: StatsTable,
    method: Method,
    samples: Sequence[Batch],
    calibration: Batches | None = None,
    options: CollectOptions,
    divides: bool = False,
    progress: Callback | None = None,
) -> Levelled:
    """Divide the channels of tensors that one scale serves badly.

    Args:
        graph: The float graph of the plan, in topological order, with shapes inferred; it is not changed.
        plan: What will be quantized.
        ranges: The range of each observed tensor.
        stats: What they were found in; may lack tensors.
        method: How ranges are chosen.
        samples: Batches to measure on; of fewer than `FEWEST_SAMPLES` samples nothing changes.
        calibration: The data that they are of, to be read again if channels are to be made even; None where it cannot.
        options: How to run them.
        divides: Whether a tensor may get a Mul of its own where nothing that writes it can divide its channels.
        progress: Told that it begins.

    Raises:
        DataError: onnxruntime fails on the samples.
        ModelError: onnxruntime cannot load the model.
    """
    unchanged = Levelled(graph=graph, plan=plan, ranges=ranges)
    if sum(batch.samples for batch in samples) < FEWEST_SAMPLES or weight_bytes(graph, plan) > MOST_WEIGHTS_BYTES:
        return unchanged
    report_to(progress, STAGE, 0, None)
    divided = _divided(graph, plan) if divides else Divided(graph=graph, plan=plan, origins={})
    channels = map_channels(divided.graph, widens=True)
    sites = _sites(divided.graph, divided.plan, channels)
    axes = {name: channels.views[name].axes for site in sites for name in _observed(divided.plan, site)}
    seen = sample_channels(runnable(divided.graph), axes, samples, options)
    scales, touched = _chosen(divided, channels, sites, seen)
    known = dict[str, ChannelSamples]()
    if touched and calibration is not None:
        known = reaching(runnable(divided.graph), touched, axes, calibration.stream(), options)
        by = {name: scales[channels.views[name].ids.reshape(-1)] for name in touched}
        known = {
            name: one for name, one in known.items() if _reach(one, by[name]) > SURPRISE * _reach(seen[name], by[name])
        }
    if known:
        scales, touched = _chosen(divided, channels, sites, {**seen, **known})
    if not touched:
        return unchanged
    result = divided.only(touched, plan, rescaled(divided.graph, channels, scales))
    batches = Batches(lambda: iter(samples), inputs=InputSpecs.from_graph(graph))
    found = collect(runnable(result.graph), list(touched), batches, digest=plan.digest, options=options).tensors
    own = {}
    for name, one in touched.items():
        own[name] = _range(result.plan.tensors[name], found[name], method)
        own[name] = _grown(own[name], one, stats.tensors.get(divided.origins.get(name, name)))
        if name in known:
            covered = 1.0 if (result.plan.tensors[name].method or method).name == "max" else LEAST_COVERED
            own[name] = _covering(own[name], known[name], scales[channels.views[name].ids.reshape(-1)], covered)
    return Levelled(graph=result.graph, plan=result.plan, ranges={**ranges, **own}, stats=found)


def _divided(graph: Graph, plan: QuantPlan) -> Divided:
    """The graph with a Mul wherever there is no other way to divide channels."""
    sites = _sites(graph, plan, map_channels(graph, widens=True))
    return with_dividers(graph, plan, [name for site in sites for name in site.tensors])


def _chosen(
    divided: Divided, channels: ChannelMap, sites: Sequence[Site], seen: Mapping[str, ChannelSamples]
) -> tuple[NDArray[np.float64], dict[str, ChannelSamples]]:
    """The scale of every channel, and the observed tensors that are divided, with what was seen of them."""
    graph, plan, facts = divided.graph, divided.plan, ChannelFacts.of(divided.graph, channels)
    scales, touched = np.ones(channels.channels), dict[str, ChannelSamples]()
    for site in sites:
        noise = SiteNoise.of(graph, plan, channels, site, seen)
        found = None if noise is None else _scales(facts, site, noise)
        if found is not None:
            scales = scales * found
            touched |= {name: seen[name] for name in _observed(plan, site)}
    return scales, touched


def _observed(plan: QuantPlan, site: Site) -> list[str]:
    return [t for t in site.tensors if t in plan.tensors and isinstance(plan.tensors[t].source, Observed)]


def _sites(graph: Graph, plan: QuantPlan, channels: ChannelMap) -> list[Site]:
    """The sites whose channels can be divided: all parameters that depend on them can follow."""
    roots = channels.roots()
    settled = set[int]()  # constants with codes of their own have one scale
    for coefficient in channels.coefficients:
        planned = plan.tensors.get(graph.node(coefficient.node).input[coefficient.slot])
        if planned is not None and planned.role is Role.CONSTANT:
            settled |= set(roots[coefficient.ids.reshape(-1)].tolist())
    return [
        site for site in channels.sites() if settled.isdisjoint(site.classes.tolist()) and _can_be_divided(plan, site)
    ]


def _can_be_divided(plan: QuantPlan, site: Site) -> bool:
    if not _observed(plan, site):
        return False
    for name in site.tensors:
        planned = plan.tensors.get(name)
        if planned is None:
            continue
        source = planned.source
        follows = isinstance(source, SharedWith) and source.tensor in site.tensors
        free = isinstance(source, Observed) and source.reach is None and planned.group is None
        if not (follows or free):
            return False
    return True


def _scales(facts: ChannelFacts, site: Site, noise: SiteNoise) -> NDArray[np.float64] | None:
    """The scale of every channel, 1 outside the site; None where there is little to be gained."""
    if noise.estimate(np.ones(facts.roots.size)) < LOUD:
        return None
    smoothed, scales = best_scales(facts, site, noise)
    return scales if smoothed.strength is not None and smoothed.estimated_db >= NEEDED_GAIN_DB else None


def _reach(one: ChannelSamples, scales: NDArray[np.float64]) -> float:
    """How far a tensor reaches once its channels are divided."""
    return float((np.maximum(-one.lowest, one.highest) / scales).max())


def _range(tensor: TensorPlan, stats: TensorStats, method: Method) -> Range:
    """The range of a divided tensor on the samples."""
    bounds = tensor.source if isinstance(tensor.source, Observed) else Observed()
    usable = tensor.method or method
    usable = usable if usable.name in METHODS else method_from_name("auto")
    return sound_range(stats, tensor.spec, usable, bounds)[0]


def _grown(found: Range, one: ChannelSamples, whole: TensorStats | None) -> Range:
    """`found`, as much wider as a tensor reaches further over all data than on what is known of its channels."""
    if whole is None:
        return found
    low, high = float(one.lowest.min()), float(one.highest.max())
    down = max(1.0, whole.rmin / low) if low < 0.0 else 1.0
    up = max(1.0, whole.rmax / high) if high > 0.0 else 1.0
    return replace(found, rmin=found.rmin * down, rmax=found.rmax * up)


def _covering(found: Range, known: ChannelSamples, scales: NDArray[np.float64], share: float) -> Range:
    """`found`, and at least `share` of what the divided channels reach."""
    low, high = share * float((known.lowest / scales).min()), share * float((known.highest / scales).max())
    return Range.of(min(float(found.rmin), low), max(float(found.rmax), high))
