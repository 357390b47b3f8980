"""How much noise quantization adds around channels that are scaled together, for any choice of their scales."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from onnxq.graph.view import Graph
from onnxq.numerics.arrays import fake_quantize
from onnxq.numerics.blocks import range_of_values
from onnxq.numerics.qparams import Range, qparams_from_range
from onnxq.numerics.specs import QuantSpec
from onnxq.planning.plan import QuantPlan, Role, root_of
from onnxq.recovery.activation_samples import ChannelSamples
from onnxq.recovery.channel_map import ChannelMap, Ids, Site

PERSISTENCE = 3.0
"""By how much rounded weights outweigh rounded activations at the output of the network, for equal noise at the output
of a layer. Chosen on the calibration data of SqueezeNet, by quantizing one site at a time."""

_SHARES = (1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3)
"""Ranges tried for a tensor, as shares of its whole range: all calibration methods but `max` cut outliers off."""


@dataclass(frozen=True, kw_only=True, eq=False)
class _Activation:
    """A quantized tensor that holds channels of the site: its samples, the channel of each column, its form."""

    samples: ChannelSamples
    ids: Ids
    spec: QuantSpec


@dataclass(frozen=True, kw_only=True, eq=False)
class _Reader:
    """A weight that reads the site's channels from a quantized tensor; `spec` is None where it stays float."""

    name: str
    tensor: str
    weight: NDArray[np.float64]
    ids: Ids
    spec: QuantSpec | None


@dataclass(frozen=True, kw_only=True, eq=False)
class SiteNoise:
    """The noise around one site.

    Attributes:
        magnitudes: float64, shape (channels,): largest magnitude of the activations of each class.
        quantized: Keys of the plan: the activations of the site and the weights that read them.
    """

    magnitudes: NDArray[np.float64]
    quantized: tuple[str, ...]
    _activations: Mapping[str, _Activation]
    _readers: tuple[_Reader, ...]

    @classmethod
    def of(
        cls,
        graph: Graph,
        plan: QuantPlan,
        channels: ChannelMap,
        site: Site,
        observed: Mapping[str, ChannelSamples],
    ) -> SiteNoise | None:
        """The noise around `site`; None where none of its tensors is quantized and observed."""
        roots = channels.roots()
        activations = {
            name: _Activation(
                samples=observed[name], ids=channels.views[name].ids.reshape(-1), spec=plan.tensors[name].spec
            )
            for name in site.tensors
            if name in observed
        }
        magnitudes = np.zeros(channels.channels)
        for one in activations.values():
            largest = np.maximum(-one.samples.lowest, one.samples.highest)
            np.maximum.at(magnitudes, roots[one.ids], largest)
        readers = tuple(_readers(graph, plan, channels, site, activations))
        if not activations:
            return None
        quantized = (*activations, *(reader.name for reader in readers if reader.spec is not None))
        return cls(magnitudes=magnitudes, quantized=quantized, _activations=activations, _readers=readers)

    def estimate(self, scales: NDArray[np.float64]) -> float:
        """Noise to signal, summed over the readers, and over quantized tensors of the site that no reader looks at.

        Args:
            scales: float64, shape (channels,): what each channel is divided by.
        """
        errors = {name: _error(one, scales[one.ids]) for name, one in self._activations.items()}
        total = 0.0
        for reader in self._readers:
            error, scale = np.zeros(scales.size), scales[reader.ids]
            variance = np.zeros(scales.size)
            one = self._activations[reader.tensor]
            error[one.ids], variance[one.ids] = errors[reader.tensor], one.samples.variance
            weight = reader.weight * scale
            noise = float(np.sum(weight**2 * error[reader.ids]))
            if reader.spec is not None:
                noise += PERSISTENCE * float(
                    np.sum(_rounding(weight, reader.spec) ** 2 * variance[reader.ids] / scale**2)
                )
            signal = float(np.sum(reader.weight**2 * variance[reader.ids]))
            total += noise / signal if signal > 0.0 else 0.0
        read = {reader.tensor for reader in self._readers}
        for name, one in self._activations.items():
            signal = float(one.samples.variance.sum())
            if name not in read and signal > 0.0:
                total += float(np.sum(errors[name] * scales[one.ids] ** 2)) / signal
        return total


def _readers(
    graph: Graph, plan: QuantPlan, channels: ChannelMap, site: Site, activations: Mapping[str, _Activation]
) -> list[_Reader]:
    roots, own = channels.roots(), set(site.classes.tolist())
    found = []
    for coefficient in channels.coefficients:
        node = graph.node(coefficient.node)
        if coefficient.power < 0 or not coefficient.is_weight:
            continue
        tensor = root_of(plan.tensors, node.input[0])
        if tensor not in activations:
            continue
        if own.isdisjoint(roots[coefficient.ids.reshape(-1)].tolist()):
            continue
        name = node.input[coefficient.slot]
        weight, planned = graph.constant(name), plan.tensors.get(name)
        if weight is not None:
            spec = planned.spec if planned is not None and planned.role is Role.WEIGHT else None
            found.append(
                _Reader(name=name, tensor=tensor, weight=weight.astype(np.float64), ids=coefficient.ids, spec=spec)
            )
    return found


def _error(one: _Activation, scales: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mean squared error of each channel of the divided tensor, with the range that has the least in all."""
    rows = (one.samples.rows / scales).astype(np.float32)
    low, high = float((one.samples.lowest / scales).min()), float((one.samples.highest / scales).max())
    best = np.zeros(0)
    for share in _SHARES:
        params = qparams_from_range(Range.of(share * low, share * high), one.spec)
        squared = np.square(fake_quantize(rows, params) - rows).mean(axis=0, dtype=np.float64)
        if not best.size or squared.sum() < best.sum():
            best = squared
    return best


def _rounding(weight: NDArray[np.float64], spec: QuantSpec) -> NDArray[np.float64]:
    with np.errstate(over="ignore"):
        values = weight.astype(np.float32)
    if not np.isfinite(values).all():
        return np.full_like(weight, np.inf)  # no scales for such a weight
    params = qparams_from_range(range_of_values(values, spec), spec)
    return fake_quantize(values, params).astype(np.float64) - weight
