"""How well a classifier tells pictures apart that are prepared in one way or another.

A wrong mean, scale or order of colours rarely fails, but a classifier then gives most pictures similar answers. So the
same pictures are fed in the usual ways, and the mutual information of picture and class is compared: the entropy of the
mean answer less the mean entropy of the answers. The largest probability itself tells nothing between preparations of
different scale, since larger inputs make larger logits, and these a probability near 1 whatever is on the picture; so
each picture's logits are brought to one standard deviation first. That is evidence, not proof: pictures of one class
are not to be told apart.
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
from onnxq.wording.plural import counted

NOTE = (
    "'told apart' compares preparations only where the pictures are of several classes, and proves nothing; "
    "'certainty' grows with the scale of the input, and does not compare preparations of different scale"
)

Color = Literal["rgb", "bgr"]

_PICTURES = 16
_SEED = 0
"""Files in folders of classes come class by class: in order, the first would be of one."""
_CLASSES = 10
"""With fewer classes too little is left to tell apart."""
_MUCH_BETTER = 0.1
"""Between preparations with which labelled classifiers of ImageNet, CIFAR and flowers are as often right, it differs by
less."""
_DEVIATION = 2.0
"""Standard deviation of a picture's logits over the classes, about that of trained classifiers."""

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
    """A way to prepare pictures, and what the model makes of them.

    Attributes:
        name: What it is called.
        mean: As in ImageOptions.
        std: Likewise.
        color: Likewise.
        certainty: Mean of the largest class probability, 0..1. It grows with the scale of the input, so it is not to be
            compared between preparations of different scale.
        separation: How well the model tells the pictures apart, 0..1, whatever the scale.
        given: Whether it is the one that the user chose.
    """

    name: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    color: str
    certainty: float
    separation: float
    given: bool

    @property
    def flags(self) -> str:
        """The options that choose it."""
        mean, std = (",".join(f"{v:.6g}" for v in values) for values in (self.mean, self.std))
        return f"--mean {mean} --std {std} --color {self.color}"


def compared_preparations(
    session: Session, inputs: InputSpecs, data: Any, images: ImageOptions | None, layout: Layout | None
) -> tuple[tuple[Preparation, ...], str]:
    """The usual preparations and the given one, those first with which the model tells the pictures apart best.

    Args:
        session: The float model.
        inputs: What it expects.
        data: Where the pictures come from.
        images: The given preparation.
        layout: As for `open_data`.

    Returns:
        The preparations; where there are none of pictures, why others were not tried ("" for data of another kind).
    """
    source = bare(data)
    if images is None or not isinstance(source, (str, Path)):
        return (), ""
    if len(session.output_names) != 1:
        return (), _untried(f"the model has {len(session.output_names)} outputs")
    given_shuffle = data.shuffle if isinstance(data, Data) else None
    shuffle = _SEED if given_shuffle is None else given_shuffle
    found = []
    for name, options in _ways(images):
        try:
            batches = open_data(
                Data(source, shuffle=shuffle), inputs=inputs, images=options, layout=layout, limit=_PICTURES
            )
            answers = [_log_probabilities(session.run(batch.arrays)[0]) for batch in batches.stream()]
        except OnnxqError as error:
            return (), _untried(f"prepared as {name} the pictures are refused ({error.message})")
        refused = next((answer for answer in answers if isinstance(answer, str)), None)
        if refused is not None:
            return (), _untried(refused)
        logs = np.concatenate([answer for answer in answers if not isinstance(answer, str)])
        found.append(
            Preparation(
                name=name,
                mean=options.mean,
                std=options.std,
                color=options.color,
                certainty=float(np.exp(logs.max(axis=1)).mean()),
                separation=_separation(logs),
                given=options == images,
            )
        )
    return tuple(sorted(found, key=lambda p: -p.separation)), ""


def _untried(why: str) -> str:
    return (
        f"other preparations were not tried: {why}; they are compared for classifiers of {_CLASSES} classes or more. "
        "Labels tell which is right: onnxq evaluate"
    )


def doubt_of_preparation(found: tuple[Preparation, ...]) -> str | None:
    """What to say where the model tells the pictures apart much better with another preparation than the given one."""
    given = next((p for p in found if p.given), None)
    if given is None or found[0].separation - given.separation < _MUCH_BETTER:
        return None
    best = found[0]
    return (
        f"prepared as {best.name} in {best.color} order, the model tells the same pictures apart better "
        f"({best.separation:.0%} against {given.separation:.0%}): {best.flags}. Only labels prove it: onnxq evaluate"
    )


def _ways(images: ImageOptions) -> list[tuple[str, ImageOptions]]:
    ways = [
        (name, replace(images, mean=mean, std=std, color=color))
        for name, (mean, std, colors) in USUAL.items()
        for color in colors
    ]
    return ways if images in [way for _, way in ways] else [("as given", images), *ways]


def _log_probabilities(output: NDArray[Any]) -> NDArray[np.float64] | str:
    """Logarithms of class probabilities, (pictures, classes); where the output is not one of classes, why not."""
    rows = output.reshape(output.shape[0], -1) if output.ndim and output.shape[0] else output.reshape(0, 0)
    if output.dtype.kind != "f" or not rows.size or rows.shape[1] != max(output.shape[1:], default=1):
        return f"its output of shape {output.shape} is not one of classes"
    if rows.shape[1] < _CLASSES:
        return f"with {counted(rows.shape[1], 'class', 'classes')} too little is left to tell apart"
    rows = rows.astype(np.float64)
    if (rows >= 0).all() and np.allclose(rows.sum(axis=1), 1, atol=1e-2):
        rows = np.log(np.maximum(rows, np.finfo(np.float32).tiny))
    return _log_softmax(rows)


def _separation(logs: NDArray[np.float64]) -> float:
    """Mutual information of picture and class, as a share of the largest possible one."""
    most = float(np.log(min(logs.shape)))
    if most == 0:
        return 0.0
    spread = logs.std(axis=1, keepdims=True)
    centred = logs - logs.mean(axis=1, keepdims=True)
    scaled = _log_softmax(_DEVIATION * np.divide(centred, spread, out=np.zeros_like(centred), where=spread > 0))
    p = np.exp(scaled)
    mean = p.mean(axis=0)
    own = -(p * scaled).sum(axis=1).mean()
    together = -(mean * np.log(np.maximum(mean, np.finfo(np.float64).tiny))).sum()
    return float(np.clip((together - own) / most, 0, 1))


def _log_softmax(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    shifted = rows - rows.max(axis=1, keepdims=True)
    logs: NDArray[np.float64] = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return logs
