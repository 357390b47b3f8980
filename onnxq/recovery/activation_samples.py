"""Values of activations, channel by channel, on a few samples: what recovery chooses by.

Of each tensor at most ROWS positions are kept, fewer where it has more than 256 channels, spread evenly over the
samples and over each of them, and the extremes of each channel over all positions.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from onnxq.calibration.runner import CollectOptions
from onnxq.calibration.taps.selection import in_graph_order
from onnxq.data.batches import Batch
from onnxq.graph.view import Graph
from onnxq.inference.outputs import with_readable_outputs
from onnxq.passes.adapt.settle_types import runnable

ROWS = 1024
ELEMENTS = 2**18
"""Of wide tensors so many values tell as much, and every trial of scales quantizes them."""


@dataclass(frozen=True, kw_only=True, eq=False)
class ChannelSamples:
    """Some values of one tensor.

    Attributes:
        rows: float32, shape (N, C): N positions with a value for each channel.
        lowest: float64, shape (C,): the smallest value of each channel at any position.
        highest: float64, shape (C,): the largest value.
    """

    rows: NDArray[np.float32]
    lowest: NDArray[np.float64]
    highest: NDArray[np.float64]

    @property
    def variance(self) -> NDArray[np.float64]:
        """float64, shape (C,)."""
        return np.asarray(self.rows.var(axis=0, dtype=np.float64))


def sample_channels(
    graph: Graph, axes: Mapping[str, tuple[int, ...]], samples: Sequence[Batch], options: CollectOptions
) -> dict[str, ChannelSamples]:
    """Run `graph` over `samples` and keep some values of each tensor.

    Args:
        graph: The float graph; it is not changed.
        axes: The channel axes of each tensor to look at; several count as one, row-major.
        samples: What to run.
        options: How to run it.

    Raises:
        DataError: onnxruntime fails on the samples.
        ModelError: onnxruntime cannot load the model.
    """
    names = in_graph_order(graph, axes)
    if not names or not samples:
        return {}
    session = options.session(with_readable_outputs(runnable(graph), names))
    parts: dict[str, list[ChannelSamples]] = {name: [] for name in names}
    for batch in samples:
        for name, values in zip(names, session.run(batch.arrays, where=batch.label), strict=True):
            if values.size:
                parts[name].append(_taken(np.asarray(values, np.float32), axes[name], len(samples)))
    return {name: _joined(found) for name, found in parts.items() if found}


def reaching(
    graph: Graph,
    seen: Mapping[str, ChannelSamples],
    axes: Mapping[str, tuple[int, ...]],
    batches: Iterable[Batch],
    options: CollectOptions,
) -> dict[str, ChannelSamples]:
    """`seen` with the extremes of each channel over `batches` too, where they are finite.

    Args:
        graph: The float graph; it is not changed.
        seen: What was seen of each tensor on some samples.
        axes: As for `sample_channels`.
        batches: What to run.
        options: How to run it.

    Raises:
        DataError: the data cannot be read, or onnxruntime fails on it.
        ModelError: onnxruntime cannot load the model.
    """
    names = in_graph_order(graph, seen)
    session = options.session(with_readable_outputs(runnable(graph), names))
    found = {name: seen[name] for name in names}
    for batch in batches:
        for name, values in zip(names, session.run(batch.arrays, where=batch.label), strict=True):
            if values.size:
                one, ends = found[name], _extremes(np.asarray(values, np.float32), axes[name])
                lowest, highest = (np.where(np.isfinite(end), end, np.nan) for end in ends)
                found[name] = replace(one, lowest=np.fmin(one.lowest, lowest), highest=np.fmax(one.highest, highest))
    return found


def _taken(values: NDArray[np.float32], axes: tuple[int, ...], batches: int) -> ChannelSamples:
    others = [axis for axis in range(values.ndim) if axis not in axes]
    channels = int(np.prod([values.shape[axis] for axis in axes]))
    share = max(1, min(ROWS, ELEMENTS // max(1, channels)) // batches)
    rows = values.transpose([*others, *axes]).reshape(-1, channels)
    # A prime-like step would do as well; evenly spaced positions are the same on every run.
    picked = np.unique(np.linspace(0, len(rows) - 1, min(share, len(rows))).astype(np.int64))
    lowest, highest = _extremes(values, axes)
    return ChannelSamples(rows=rows[picked], lowest=lowest, highest=highest)


def _extremes(values: NDArray[np.float32], axes: tuple[int, ...]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Smallest and largest value of each channel, float64, shape (C,)."""
    others = tuple(axis for axis in range(values.ndim) if axis not in axes)
    return (
        values.min(axis=others).reshape(-1).astype(np.float64),
        values.max(axis=others).reshape(-1).astype(np.float64),
    )


def _joined(parts: Sequence[ChannelSamples]) -> ChannelSamples:
    return ChannelSamples(
        rows=np.concatenate([part.rows for part in parts]),
        lowest=np.min([part.lowest for part in parts], axis=0),
        highest=np.max([part.highest for part in parts], axis=0),
    )
