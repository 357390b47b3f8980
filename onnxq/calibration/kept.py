"""The first samples of a stream, kept while it passes: recovery runs them again after calibration."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain

from onnxq.calibration.batches import Batch, Batches

KEPT_SAMPLES = 32
KEPT_BYTES = 2**28
"""Largest size of what is kept, 256 MiB; the first batch is kept whatever its size."""


def keep_first(
    batches: Batches, *, samples: int = KEPT_SAMPLES, size_bytes: int = KEPT_BYTES
) -> tuple[Batches, list[Batch]]:
    """The same batches, and a list that fills with the first of them while they are read.

    Args:
        batches: The data.
        samples: No further batch is kept once there are so many samples.
        size_bytes: No further batch is kept that would exceed this.
    """
    kept: list[Batch] = []

    def read() -> Iterator[Batch]:
        kept.clear()
        room, count = size_bytes, 0
        for batch in batches.stream():
            size = sum(array.nbytes for array in batch.arrays.values())
            if count < samples and (not kept or size <= room):
                kept.append(batch)
                room -= size
                count += batch.samples
            yield batch

    reader = Batches(
        read,
        inputs=batches.inputs,
        expected_samples=batches.expected_samples,
        one_shot=batches.one_shot,
        label=batches.label,
    )
    return reader, kept


def read_ahead(
    batches: Batches, *, samples: int = KEPT_SAMPLES, size_bytes: int = KEPT_BYTES
) -> tuple[Batches, list[Batch]]:
    """The first samples, read now, and batches that begin with them, also where data can be read only once.

    Args:
        batches: The data, of which nothing has been read.
        samples: No further batch is read once there are so many samples.
        size_bytes: No further batch is read once this is exceeded.

    Raises:
        DataError: the data does not fit the model, or is empty.
    """
    stream = batches.stream()
    first: list[Batch] = []
    for batch in stream:
        first.append(batch)
        size = sum(array.nbytes for one in first for array in one.arrays.values())
        if sum(one.samples for one in first) >= samples or size > size_bytes:
            break
    pending: list[Iterator[Batch]] = [chain(list(first), stream)]

    def read() -> Iterator[Batch]:
        return pending.pop() if pending else batches.stream()

    reader = Batches(
        read,
        inputs=batches.inputs,
        expected_samples=batches.expected_samples,
        one_shot=batches.one_shot,
        label=batches.label,
    )
    return reader, first
