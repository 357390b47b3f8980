"""Samples of a stream, kept while it passes: recovery runs them again after calibration.

Some samples (`keep_first`) are spread evenly over the stream, since data is often sorted (by class, by the width of a
line of text): every batch is kept, and once there are too many every other one of them is let go, then every other of
the rest. All of them (`KeptWhole`) are kept of small data that can be read only once.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain

from onnxq.data.batches import Batch, Batches

KEPT_SAMPLES = 32
KEPT_BYTES = 2**28
"""Largest size of what is kept, 256 MiB; the first batch is kept whatever its size."""

KEPT_WHOLE_BYTES = 2**25
"""Largest size of data that can be read only once and is kept whole, 32 MiB."""


class KeptWhole:
    """Data that may be read again after it was read.

    Args:
        batches: The data.
        size_bytes: What can be read only once is kept up to this size.
    """

    def __init__(self, batches: Batches, *, size_bytes: int = KEPT_WHOLE_BYTES) -> None:
        self._whole = batches
        self._most = size_bytes
        self._size = 0
        self._kept: list[Batch] = []
        self.batches = (
            batches
            if not batches.one_shot
            else Batches(
                self._read,
                inputs=batches.inputs,
                expected_samples=batches.expected_samples,
                one_shot=True,
                label=batches.label,
            )
        )

    def again(self) -> Batches | None:
        """All of it once more; None where it can be read only once and is too large, or was not read."""
        if not self._whole.one_shot:
            return self._whole
        if not self._kept:
            return None
        return Batches(lambda: iter(self._kept), inputs=self._whole.inputs, label=self._whole.label)

    def _read(self) -> Iterator[Batch]:
        for batch in self._whole.stream():
            self._size += sum(array.nbytes for array in batch.arrays.values())
            if self._size <= self._most:
                self._kept.append(batch)
            else:
                self._kept.clear()
            yield batch


def keep_first(
    batches: Batches, *, samples: int = KEPT_SAMPLES, size_bytes: int = KEPT_BYTES
) -> tuple[Batches, list[Batch]]:
    """The same batches, and a list that fills with some of them, the first among them, while they are read.

    Args:
        batches: The data.
        samples: No further batch is kept once there are so many samples.
        size_bytes: No further batch is kept that would exceed this.
    """
    kept: list[Batch] = []

    def read() -> Iterator[Batch]:
        kept.clear()
        stride, taken = 1, list[int]()
        for index, batch in enumerate(batches.stream()):
            while index % stride == 0 and kept and not _has_room(kept, batch, samples, size_bytes):
                stride *= 2
                kept[:] = [old for old, at in zip(kept, taken, strict=True) if at % stride == 0]
                taken = [at for at in taken if at % stride == 0]
            if index % stride == 0:
                kept.append(batch)
                taken.append(index)
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


def _has_room(kept: list[Batch], batch: Batch, samples: int, size_bytes: int) -> bool:
    size = sum(array.nbytes for one in (*kept, batch) for array in one.arrays.values())
    return sum(one.samples for one in kept) < samples and size <= size_bytes
