"""Range observers for people who come from PyTorch: moving-average and per-channel minima and maxima.

moving average    first batch: rmin = min x, rmax = max x
                  then:        rmin += c (min x - rmin),  rmax += c (max x - rmax)      in float32, c = momentum
per channel       rmin[k] = min over batches of min x[k],  rmax[k] likewise             k along the channel axis

These are another kind of statistics than a StatsTable: ranges, no histogram. A moving average depends on the order and
the size of the batches, so it cannot be merged, sharded or resumed. Per-channel ranges are plain extremes and merge
exactly, but per-tensor quantization has no use for them. Source: torch.ao.quantization.observer,
MovingAverageMinMaxObserver and PerChannelMinMaxObserver.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from onnxq.calibration.methods.solve import DEFAULT_MOMENTUM
from onnxq.calibration.runner import CollectOptions
from onnxq.calibration.statistics.seen_samples import EMPTY_FINGERPRINT, combine_fingerprints
from onnxq.calibration.taps.selection import in_graph_order
from onnxq.data.batches import Batch, Batches
from onnxq.errors import ArtifactError, ConfigError, DataError, PlanError
from onnxq.graph.view import Graph
from onnxq.inference.outputs import with_readable_outputs
from onnxq.numerics.qparams import Range
from onnxq.numerics.specs import QuantSpec
from onnxq.wording.plural import counted


class Observer(Protocol):
    """Watches one tensor, batch by batch."""

    def update(self, values: ArrayLike, *, where: str | None = None) -> None:
        """Take in one batch, all of it finite; `where` names it in errors."""


class MovingAverageMinMax:
    """Moving average of each batch's minimum and maximum.

    Attributes:
        momentum: Weight of the newest batch, in (0, 1].
        rmin: float32 scalar; None before the first batch with elements.
        rmax: Likewise.
    """

    def __init__(self, momentum: float = DEFAULT_MOMENTUM) -> None:
        self.momentum = momentum
        self.rmin: np.float32 | None = None
        self.rmax: np.float32 | None = None

    def update(self, values: ArrayLike, *, where: str | None = None) -> None:
        """Take in one batch; one without elements changes nothing."""
        values = np.asarray(values)
        if not values.size:
            return
        low, high = np.float32(values.min()), np.float32(values.max())
        if self.rmin is None or self.rmax is None:
            self.rmin, self.rmax = low, high
            return
        weight = np.float32(self.momentum)
        self.rmin = np.float32(self.rmin + weight * (low - self.rmin))
        self.rmax = np.float32(self.rmax + weight * (high - self.rmax))


class PerChannelMinMax:
    """Minimum and maximum of each channel.

    Attributes:
        axis: Channel axis, negative from the end.
        tensor: What the tensor is called in errors.
        rmin: float32, shape (C,); None before the first batch with elements.
        rmax: Likewise.
    """

    def __init__(self, axis: int = 1, *, tensor: str = "the tensor") -> None:
        self.axis = axis
        self.tensor = tensor
        self.rmin: NDArray[np.float32] | None = None
        self.rmax: NDArray[np.float32] | None = None

    def update(self, values: ArrayLike, *, where: str | None = None) -> None:
        """Take in one batch; one without elements changes nothing.

        Raises:
            ConfigError: it has no such axis.
            DataError: it has another number of channels than those before.
        """
        values = np.asarray(values)
        if not -values.ndim <= self.axis < values.ndim:
            raise ConfigError(
                f"{self.tensor} of shape {values.shape} has no axis {self.axis}",
                hint="axis= is the channel axis; leave out tensors that lack it with tensors=",
            )
        if not values.size:
            return
        others = tuple(a for a in range(values.ndim) if a != self.axis % values.ndim)
        low = np.asarray(values.min(axis=others), np.float32)
        high = np.asarray(values.max(axis=others), np.float32)
        if self.rmin is None or self.rmax is None:
            self.rmin, self.rmax = low, high
        elif low.shape != self.rmin.shape:
            raise DataError(
                f"axis {self.axis} of {self.tensor} has {counted(low.size, 'channel')}, "
                f"{self.rmin.size} in earlier batches",
                where=where,
                hint="axis= names an axis whose length does not change from batch to batch",
            )
        else:
            self.rmin, self.rmax = np.minimum(self.rmin, low), np.maximum(self.rmax, high)


@dataclass(frozen=True, kw_only=True)
class MovingAverageTable:
    """Moving-average ranges of a model's tensors.

    Attributes:
        ranges: A scalar range by tensor name; it includes zero.
        momentum: Weight of the newest batch.
        digest: Digest of the float model.
        samples: How many samples were run.
        data_fingerprint: Of the samples; their order, on which the ranges depend, is not in it.
    """

    ranges: Mapping[str, Range]
    momentum: float
    digest: str
    samples: int
    data_fingerprint: str = field(default=EMPTY_FINGERPRINT)

    def merge(self, other: MovingAverageTable) -> MovingAverageTable:
        """Always refused.

        Raises:
            ArtifactError: a moving average depends on the order of the batches.
        """
        raise ArtifactError(
            "moving averages cannot be merged: they depend on the order of the batches, "
            "and that of two runs is not known",
            hint="calibrate in one run, or use method='max' (--method max), whose statistics merge exactly",
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class ChannelTable:
    """Per-channel ranges of a model's activations.

    Attributes:
        rmin: float32, shape (C,), by tensor name: smallest value of each channel, exact.
        rmax: float32, shape (C,), by tensor name: largest value of each channel, exact.
        axis: Channel axis, negative from the end.
        digest: Digest of the float model.
        samples: How many samples were run.
        data_fingerprint: Of the samples.
    """

    rmin: Mapping[str, NDArray[np.float32]]
    rmax: Mapping[str, NDArray[np.float32]]
    axis: int
    digest: str
    samples: int
    data_fingerprint: str = field(default=EMPTY_FINGERPRINT)

    def __post_init__(self) -> None:
        for key in ("rmin", "rmax"):
            object.__setattr__(self, key, MappingProxyType(dict(getattr(self, key))))

    def range_for(self, name: str, spec: QuantSpec) -> Range:
        """The range of each channel, for a spec of the same axis.

        Raises:
            PlanError: `spec` quantizes per tensor, or along another axis.
        """
        if spec.axis is None:
            raise PlanError(
                "per-channel ranges cannot be used where the target quantizes activations per tensor",
                where=f"tensor {name!r}",
                hint="take per_tensor(name) of these statistics, or calibrate with onnxq.calibrate (onnxq calibrate)",
            )
        if spec.axis != self.axis:
            raise PlanError(f"ranges along axis {self.axis} do not fit axis {spec.axis}", where=f"tensor {name!r}")
        return Range(rmin=self.rmin[name].astype(np.float64), rmax=self.rmax[name].astype(np.float64))

    def per_tensor(self, name: str) -> Range:
        """The range of the whole tensor."""
        return Range.of(float(self.rmin[name].min()), float(self.rmax[name].max()))

    def merge(self, other: ChannelTable) -> ChannelTable:
        """The ranges over both data sets.

        Raises:
            ArtifactError: the tables are of different models, tensors, axes or numbers of channels.
        """
        shapes = [{name: array.shape for name, array in table.rmin.items()} for table in (self, other)]
        if (self.digest, self.axis) != (other.digest, other.axis) or shapes[0] != shapes[1]:
            raise ArtifactError(
                "per-channel ranges of different models, tensors or axes cannot be merged",
                hint="collect both with the same model, axis= and tensors=",
            )
        return ChannelTable(
            rmin={name: np.minimum(array, other.rmin[name]) for name, array in self.rmin.items()},
            rmax={name: np.maximum(array, other.rmax[name]) for name, array in self.rmax.items()},
            axis=self.axis,
            digest=self.digest,
            samples=self.samples + other.samples,
            data_fingerprint=combine_fingerprints(self.data_fingerprint, other.data_fingerprint),
        )


def observe_moving_average(  # noqa: PLR0913 - the parts of one run
    graph: Graph,
    taps: Sequence[str],
    batches: Batches,
    *,
    digest: str,
    momentum: float = DEFAULT_MOMENTUM,
    options: CollectOptions,
) -> MovingAverageTable:
    """Moving-average ranges of tensors, over `batches` in their order.

    Args:
        graph: The float model; it is not changed.
        taps: Names of the tensors.
        batches: The data.
        digest: Digest of the float model, stamped on the result.
        momentum: Weight of the newest batch, in (0, 1].
        options: Threads and execution providers.

    Raises:
        DataError: the data does not fit or is empty, or a tensor holds NaN or Inf or has no element.
    """
    observers = {name: MovingAverageMinMax(momentum) for name in taps}
    samples, fingerprint = _observe(graph, observers, batches, options)
    ranges = {}
    for name, observer in observers.items():
        if observer.rmin is None or observer.rmax is None:
            raise _no_element(name)
        ranges[name] = Range.of(float(observer.rmin), float(observer.rmax))
    return MovingAverageTable(
        ranges=ranges, momentum=float(momentum), digest=digest, samples=samples, data_fingerprint=fingerprint
    )


def observe_channels(  # noqa: PLR0913 - the parts of one run
    graph: Graph, taps: Sequence[str], batches: Batches, *, digest: str, axis: int = 1, options: CollectOptions
) -> ChannelTable:
    """Per-channel ranges of tensors. Arguments as for `observe_moving_average`; `axis` counts the channels.

    Raises:
        DataError: the data does not fit or is empty, a tensor holds NaN or Inf or has no element, or the number of its
            channels changes.
        ConfigError: a tensor has no such axis.
    """
    observers = {name: PerChannelMinMax(axis, tensor=f"tensor {name!r}") for name in taps}
    samples, fingerprint = _observe(graph, observers, batches, options)
    rmin, rmax = {}, {}
    for name, observer in observers.items():
        if observer.rmin is None or observer.rmax is None:
            raise _no_element(name)
        rmin[name], rmax[name] = observer.rmin, observer.rmax
    return ChannelTable(rmin=rmin, rmax=rmax, axis=axis, digest=digest, samples=samples, data_fingerprint=fingerprint)


def _observe(
    graph: Graph, observers: Mapping[str, Observer], batches: Batches, options: CollectOptions
) -> tuple[int, str]:
    """Show every batch to the observers, one after the other; the number of samples and their fingerprint."""
    inner = [name for name in in_graph_order(graph, observers) if not graph.is_input(name)]
    session = options.session(with_readable_outputs(graph, inner)) if inner else None
    samples, fingerprint = 0, EMPTY_FINGERPRINT
    for batch in batches.stream():
        values: dict[str, NDArray[Any]] = dict(batch.arrays)
        if session is not None:
            values |= zip(inner, session.run(batch.arrays, where=batch.label), strict=True)
        for name, observer in observers.items():
            _update(observer, name, values[name], batch)
        samples += batch.samples
        fingerprint = combine_fingerprints(fingerprint, batch.fingerprint())
    return samples, fingerprint


def _update(observer: Observer, name: str, values: NDArray[Any], batch: Batch) -> None:
    if not np.isfinite(values).all():
        raise DataError(
            f"tensor {name!r} holds NaN or Inf",
            where=batch.label,
            hint="remove this sample; `onnxq calibrate` (onnxq.calibrate) names the node that makes it",
        )
    observer.update(values, where=batch.label)


def _no_element(name: str) -> DataError:
    return DataError(f"tensor {name!r} had no element in any batch", hint="pass data= (--data) that fills it")
