"""Notices data that never varies: zeros from a broken loader, one sample many times over.

It is legal and gives ranges that mean nothing, so that the user has to be told. A state that starts at zero or a mask
of ones is in order where another input varies.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxq.data.batches import Batch, Notes


def watched(batches: Iterator[Batch], notes: Notes, *, label: str) -> Iterator[Batch]:
    """The same batches; at their end `notes` says which inputs never varied.

    The look at an input ends with the first difference that is found, so that sound data costs one comparison.

    Args:
        batches: The data.
        notes: Takes what was found.
        label: What the data is called in messages.
    """
    inputs: dict[str, _Seen] = {}
    samples = 0
    for batch in batches:
        samples += batch.samples
        for name, array in batch.arrays.items():
            inputs.setdefault(name, _Seen()).look(array, per_sample=name in batch.per_sample)
        yield batch
    for name, seen in inputs.items():
        # One that does not come with each sample is constant on purpose.
        if seen.per_sample and (said := seen.describe(samples)) is not None:
            notes.add(f"input {name!r} {said}")
    if inputs and all(seen.describe(samples) is not None for seen in inputs.values()):
        notes.warn(
            f"the {label} data never varies, so that ranges and errors mean little: check data= (--data) and how it "
            "was prepared"
        )


class _Seen:
    """What one input was so far."""

    def __init__(self) -> None:
        self.per_sample = False
        self._first: NDArray[Any] | None = None
        self._one_value = True
        self._one_sample = True

    def look(self, array: NDArray[Any], *, per_sample: bool) -> None:
        """Take one batch into account."""
        self.per_sample = self.per_sample or per_sample
        if not (self._one_value or self._one_sample) or not array.size:
            return
        if self._first is None:
            self._first = np.array(array[0] if per_sample else array)
        self._one_value = self._one_value and bool((array == self._first.flat[0]).all())
        if self._one_sample:
            samples = array if per_sample else array[None]
            self._one_sample = samples.shape[1:] == self._first.shape and bool((samples == self._first).all())

    def describe(self, samples: int) -> str | None:
        """What is wrong with the input; None for one that varies, or of which nothing can be told."""
        if self._first is None or (samples < 2 and self._first.size < 2):
            return None
        if self._one_value and self._first.size > 1:
            return f"is {self._first.flat[0]:g} everywhere" + (f" in all {samples} samples" if samples > 1 else "")
        return f"is the same in all {samples} samples" if self._one_sample and samples > 1 else None
