"""How sure a classifier is of pictures that are prepared in one way or another.

A wrong mean, scale or order of colours rarely fails, but makes a classifier less sure. So the same pictures are fed in
the usual ways, and the mean of the largest class probability is compared. That is evidence, not proof.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from onnxq.data.description import Data, bare
from onnxq.data.images import PRESETS, ImageOptions
from onnxq.data.inputs import InputSpecs, Layout
from onnxq.data.sources import open_data
from onnxq.errors import OnnxqError
from onnxq.inference.session import Session

Color = Literal["rgb", "bgr"]

_PICTURES = 16
_CLASSES = 10
"""With fewer classes a classifier is sure of anything."""
_MUCH_SURER = 0.08
"""Of 16 pictures the mean varies by some 0.05 on its own."""

_CAFFE = (104 / 255, 117 / 255, 123 / 255)
"""Mean of ImageNet's pixels in the order blue, green, red, as Caffe's models subtract it."""

_ANY: tuple[Color, ...] = ("rgb", "bgr")
USUAL: Mapping[str, tuple[tuple[float, ...], tuple[float, ...], tuple[Color, ...]]] = {
    "imagenet": (PRESETS["imagenet"].mean, PRESETS["imagenet"].std, _ANY),
    "-1..1": ((0.5,), (0.5,), _ANY),
    "0..1": ((0.0,), (1.0,), _ANY),
    "0..255": ((0.0,), (1 / 255,), _ANY),
    "caffe": (_CAFFE, (1 / 255,), ("bgr",)),
}
"""Mean, standard deviation and orders of colours of the usual preparations."""


@dataclass(frozen=True, kw_only=True)
class Preparation:
    """A way to prepare pictures, and how sure the model is of them.

    Attributes:
        name: What it is called.
        mean: As in ImageOptions.
        std: Likewise.
        color: Likewise.
        certainty: Mean of the largest class probability, 0..1.
        given: Whether it is the one that the user chose.
    """

    name: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    color: str
    certainty: float
    given: bool

    @property
    def flags(self) -> str:
        """The options that choose it."""
        mean, std = (",".join(f"{v:.6g}" for v in values) for values in (self.mean, self.std))
        return f"--mean {mean} --std {std} --color {self.color}"


def compared_preparations(
    session: Session, inputs: InputSpecs, data: Any, images: ImageOptions | None, layout: Layout | None
) -> tuple[Preparation, ...]:
    """The usual preparations and the given one, the surest first; none where it is no classifier of pictures.

    Args:
        session: The float model.
        inputs: What it expects.
        data: Where the pictures come from.
        images: The given preparation.
        layout: As for `open_data`.
    """
    source = bare(data)
    if images is None or not isinstance(source, (str, Path)) or len(session.output_names) != 1:
        return ()
    shuffle = data.shuffle if isinstance(data, Data) else None
    found = []
    for name, options in _ways(images):
        try:
            batches = open_data(
                Data(source, shuffle=shuffle), inputs=inputs, images=options, layout=layout, limit=_PICTURES
            )
            sure = [_certainty(session.run(batch.arrays)[0]) for batch in batches.stream()]
        except OnnxqError:
            return ()
        if not sure or None in sure:
            return ()
        found.append(
            Preparation(
                name=name,
                mean=options.mean,
                std=options.std,
                color=options.color,
                certainty=float(np.mean([s for s in sure if s is not None])),
                given=options == images,
            )
        )
    return tuple(sorted(found, key=lambda p: -p.certainty))


def doubt_of_preparation(found: tuple[Preparation, ...]) -> str | None:
    """What to say where another preparation makes the model much surer than the given one."""
    given = next((p for p in found if p.given), None)
    if given is None or found[0].certainty - given.certainty < _MUCH_SURER:
        return None
    best = found[0]
    return (
        f"prepared as {best.name} in {best.color} order, the model is surer of the same pictures "
        f"({best.certainty:.0%} against {given.certainty:.0%}): {best.flags}"
    )


def _ways(images: ImageOptions) -> list[tuple[str, ImageOptions]]:
    ways = [
        (name, replace(images, mean=mean, std=std, color=color))
        for name, (mean, std, colors) in USUAL.items()
        for color in colors
    ]
    return ways if images in [way for _, way in ways] else [("as given", images), *ways]


def _certainty(output: NDArray[Any]) -> float | None:
    """Mean of the largest class probability; None where the output is not one of classes."""
    if output.dtype.kind != "f" or not output.size or output.size // max(output.shape[0], 1) < _CLASSES:
        return None
    rows = output.reshape(output.shape[0], -1).astype(np.float64)
    if rows.shape[1] != max(output.shape[1:]):
        return None
    if not ((rows >= 0).all() and np.allclose(rows.sum(axis=1), 1, atol=1e-2)):
        rows = np.exp(rows - rows.max(axis=1, keepdims=True))
        rows /= rows.sum(axis=1, keepdims=True)
    return float(rows.max(axis=1).mean())
