"""Figures of what is fed to an input, gathered batch by batch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxq.data.inputs import InputSpec

_SHAPES = 4
"""So many different shapes are listed."""


@dataclass(frozen=True, kw_only=True)
class ChannelFigures:
    """Figures of one channel: extremes, mean and standard deviation."""

    low: float
    high: float
    mean: float
    std: float


@dataclass(kw_only=True)
class Figures:
    """What was fed to one input.

    Attributes:
        spec: What the model expects.
        shapes: The different shapes, in the order in which they came, the first few of them.
        low: Smallest value; None where nothing was fed.
        high: Largest value.
        count: Elements.
        zeros: Of those, zeros.
    """

    spec: InputSpec
    shapes: list[tuple[int, ...]] = field(default_factory=list)
    more_shapes: bool = False
    low: float | None = None
    high: float | None = None
    count: int = 0
    zeros: int = 0
    _sums: list[NDArray[np.float64]] = field(default_factory=list)

    @property
    def name(self) -> str:
        return self.spec.name

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.spec.dtype

    @property
    def is_image(self) -> bool:
        """Whether it has the rank and the channels of pictures."""
        return self._channel_axis is not None

    @property
    def _channel_axis(self) -> int | None:
        if not self.shapes or len(self.shapes[0]) != 4 or 0 in self.shapes[0]:  # an empty cache is no picture
            return None
        axis = 3 if self.spec.layout == "nhwc" else 1
        return axis if self.shapes[0][axis] in (1, 3, 4) else None

    def add(self, array: NDArray[Any]) -> None:
        """Take one batch into account."""
        if array.shape not in self.shapes:
            if len(self.shapes) < _SHAPES:
                self.shapes.append(array.shape)
            else:
                self.more_shapes = True
        if not array.size:
            return
        low, high = float(array.min()), float(array.max())
        self.low = low if self.low is None else min(self.low, low)
        self.high = high if self.high is None else max(self.high, high)
        self.count += array.size
        self.zeros += array.size - int(np.count_nonzero(array))
        self._sums.append(self._moments(array))

    def _moments(self, array: NDArray[Any]) -> NDArray[np.float64]:
        """For each channel, or once: count, sum, sum of squares, smallest and largest value; shape (channels, 5)."""
        axis = self._channel_axis
        wide = array.astype(np.float64)
        rows = wide.reshape(1, -1) if axis is None else np.moveaxis(wide, axis, 0).reshape(array.shape[axis], -1)
        finite = np.where(np.isfinite(rows), rows, 0.0)  # masks hold -Inf
        count = np.full(len(rows), rows.shape[1], np.float64)
        return np.stack([count, finite.sum(1), (finite**2).sum(1), rows.min(1), rows.max(1)], axis=1)

    @property
    def total(self) -> ChannelFigures | None:
        """Figures of all channels together; None where nothing was fed."""
        return _figures([part for moments in self._sums for part in moments])

    @property
    def channels(self) -> tuple[ChannelFigures, ...] | None:
        """Figures of each channel of pictures."""
        if self._channel_axis is None or not self._sums:
            return None
        return tuple(f for i in range(len(self._sums[0])) if (f := _figures([m[i] for m in self._sums])) is not None)


def _figures(parts: Sequence[NDArray[np.float64]]) -> ChannelFigures | None:
    if not parts:
        return None
    whole = np.stack(parts)
    count, total, squares = (float(whole[:, i].sum()) for i in range(3))
    mean = total / count
    return ChannelFigures(
        low=float(whole[:, 3].min()),
        high=float(whole[:, 4].max()),
        mean=mean,
        std=math.sqrt(max(squares / count - mean * mean, 0.0)),
    )
