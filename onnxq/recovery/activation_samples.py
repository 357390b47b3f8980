"""Values of activations, channel by channel, on a few samples: what recovery chooses by.

Of each tensor at most ROWS positions are kept, fewer where it has more than 256 channels, spread evenly over the
samples and over each of them, and the extremes of each channel over all positions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

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


def _taken(values: NDArray[np.float32], axes: tuple[int, ...], batches: int) -> ChannelSamples:
    others = [axis for axis in range(values.ndim) if axis not in axes]
    channels = int(np.prod([values.shape[axis] for axis in axes]))
    share = max(1, min(ROWS, ELEMENTS // max(1, channels)) // batches)
    rows = values.transpose([*others, *axes]).reshape(-1, channels)
    # A prime-like step would do as well; evenly spaced positions are the same on every run.
    picked = np.unique(np.linspace(0, len(rows) - 1, min(share, len(rows))).astype(np.int64))
    everything = tuple(others)
    return ChannelSamples(
        rows=rows[picked],
        lowest=values.min(axis=everything).reshape(-1).astype(np.float64),
        highest=values.max(axis=everything).reshape(-1).astype(np.float64),
    )


def _joined(parts: Sequence[ChannelSamples]) -> ChannelSamples:
    return ChannelSamples(
        rows=np.concatenate([part.rows for part in parts]),
        lowest=np.min([part.lowest for part in parts], axis=0),
        highest=np.max([part.highest for part in parts], axis=0),
    )
