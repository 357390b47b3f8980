"""What a preview says of one input and of one output."""

from __future__ import annotations

from dataclasses import dataclass

from onnxq.previews.figures import ChannelFigures


@dataclass(frozen=True, kw_only=True)
class InputView:
    """One input: what the model expects and what it would get.

    Attributes:
        name: Tensor name.
        dtype: Element type.
        expected: The shape that the model gives, as text; N stands for an open batch.
        shapes: Shapes that would be fed, the first few that differ.
        more_shapes: Whether there are others.
        low: Smallest value; None where nothing has elements.
        high: Largest value.
        mean: Mean of the values.
        std: Their standard deviation.
        zeros: Share of zeros, 0..1.
        channels: Figures of each channel of pictures.
    """

    name: str
    dtype: str
    expected: str
    shapes: tuple[tuple[int, ...], ...]
    more_shapes: bool
    low: float | None
    high: float | None
    mean: float | None
    std: float | None
    zeros: float
    channels: tuple[ChannelFigures, ...] | None


@dataclass(frozen=True, kw_only=True)
class OutputView:
    """One output of the float model on the first feeds: its shape there, smallest and largest value."""

    name: str
    shape: tuple[int, ...]
    low: float | None
    high: float | None
