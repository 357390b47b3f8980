"""What the zoo knows of one model: its file, its data, and how to tell a right answer."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

Feed = dict[str, NDArray[Any]]
Outputs = list[NDArray[Any]]
Run = Callable[[Feed], Outputs]
Split = Literal["calib", "eval"]


class Batch(NamedTuple):
    """One feed, and what is in it.

    Attributes:
        feed: An array for each input.
        labels: One for each sample, in the form that the model's `decode` returns; None where nobody labelled them.
    """

    feed: Feed
    labels: Sequence[Any] | NDArray[Any] | None = None


def equal(prediction: Any, expected: Any) -> float:
    """The share of a prediction that is as expected: 0 or 1, unless it has several entries."""
    return float(np.mean(prediction == expected))


def overlap(prediction: NDArray[Any], expected: NDArray[Any]) -> float:
    """Intersection over union of two masks; 1 if both are empty."""
    union = np.count_nonzero(prediction | expected)
    return float(np.count_nonzero(prediction & expected) / union) if union else 1.0


def top1(outputs: Outputs) -> NDArray[Any]:
    """Class of each sample: the largest entry of the first output."""
    return np.asarray(outputs[0].argmax(-1))


@dataclass(frozen=True, kw_only=True)
class ZooModel:
    """A real model.

    Attributes:
        name: Its name in tables.
        source: Where it comes from, for a reader who lacks it.
        path: Finds its file; None when it is not installed.
        load: Batches of a split, at most so many samples (None: all). The calib split is for calibration and for every
            choice; numbers are reported on the eval split.
        decode: Outputs to one prediction a sample. None: the model is judged by SQNR alone.
        agree: How right a prediction is, 0..1.
        metric: What `evaluate` measures. Without labels the float model's own prediction is the expected one.
        opaque: Why a part of it is out of reach of quantization, if so.
    """

    name: str
    source: str
    path: Callable[[], Path | None]
    load: Callable[[Split, int | None], Iterator[Batch]]
    decode: Callable[[Outputs], Sequence[Any] | NDArray[Any]] | None = None
    agree: Callable[[Any, Any], float] = equal
    metric: str = "SQNR"
    opaque: str = ""

    def calib(self, limit: int | None = None) -> Iterator[Feed]:
        """Feeds to calibrate on."""
        return (batch.feed for batch in self.load("calib", limit))

    def held_out(self, limit: int | None = None) -> Iterator[Feed]:
        """Feeds that calibration never sees."""
        return (batch.feed for batch in self.load("eval", limit))


def samples_in(feed: Feed) -> int:
    """Number of samples of a feed: the first dimension of its first array."""
    return len(next(iter(feed.values())))


def evaluate(model: ZooModel, run: Run, batches: Iterator[Batch], reference: Run | None = None) -> float:
    """Share of right answers, 0..1.

    Args:
        model: The zoo model.
        run: The session to judge: takes a feed, returns its outputs in the model's order.
        batches: What to judge it on.
        reference: The float session; needed for batches without labels.
    """
    decode = model.decode
    if decode is None:
        raise ValueError(f"{model.name} has no labelled metric; compare its outputs")
    right: list[float] = []
    for feed, given in batches:
        labels = given
        if labels is None:
            if reference is None:
                raise ValueError(f"{model.name} has unlabelled batches: give the float session as reference")
            labels = decode(reference(feed))
        right += [model.agree(p, e) for p, e in zip(decode(run(feed)), labels, strict=True)]
    return float(np.mean(right))


def take(batches: Iterator[Batch], limit: int | None) -> Iterator[Batch]:
    """Batches until `limit` samples have been given; a batch is never split."""
    given = 0
    for batch in batches:
        if limit is not None and given >= limit:
            return
        given += samples_in(batch.feed)
        yield batch


def grouped(samples: Iterator[Any], size: int) -> Iterator[list[Any]]:
    """Lists of `size` samples, the last one perhaps shorter."""
    while group := list(itertools.islice(samples, size)):
        yield group
