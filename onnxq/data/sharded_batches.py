"""Takes one shard (see `sharding`) out of a stream of batches, for any scheduler to run on its own."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxq.data.batches import Batch, Batches
from onnxq.data.sharding import Shard, ShardSet
from onnxq.errors import DataError, InternalError
from onnxq.wording.plural import counted


class ShardedBatches(Batches):
    """The batches of one shard.

    Samples of a batch that belong to other shards are left out, and what remains is gathered to batches of the size the
    data came in. Reading the data costs the same for every shard, except for images, which only their shard decodes.

    Args:
        whole: The whole data; or, with `total_samples`, the shard's own part of it.
        shard: Which part to take.
        total_samples: Given where `whole` is cut down to the shard already: samples in the whole data.
    """

    def __init__(self, whole: Batches, shard: Shard, *, total_samples: int | None = None) -> None:
        known = whole.expected_samples
        if total_samples is None and known is not None:
            known = len(range(shard.index - 1, known, shard.count))
        super().__init__(
            self._share,
            inputs=whole.inputs,
            notes=whole._notes,
            expected_samples=known,
            one_shot=whole._one_shot,
            label=whole.label,
        )
        self._whole = whole
        self._shard = shard
        self._is_cut = total_samples is not None
        self._total_samples = total_samples
        # Where the model fixes its batch at more than one sample, whole runs are dealt out.
        self._run_samples = max([1, *(spec.fixed_batch or 1 for spec in whole.inputs.values() if self._is_cut)])

    @property
    def shards(self) -> ShardSet | None:
        """What the statistics of these batches hold; known once the data was read to its end. None: all of it."""
        if self._total_samples is None:
            raise InternalError("a shard is accounted for before its data was read")
        held = ShardSet(count=self._shard.count, total_samples=self._total_samples, indices=(self._shard.index,))
        return None if held.complete else held

    def _share(self) -> Iterator[Batch]:
        empty = True
        for batch in self._batches():
            empty = False
            yield batch
        total = self._total_samples or 0
        if empty and total:
            runs = total // self._run_samples
            apart = "" if runs == total else f", {counted(runs, 'batch', 'batches')} of the size that the model fixes"
            raise DataError(
                f"shard {self._shard} is empty: the data holds {counted(total, 'sample')}{apart}",
                where=f"{self.label} data",
                hint=f"split it into at most {counted(runs, 'shard')} with shard= (--shard).",
            )

    def _batches(self) -> Iterator[Batch]:
        if not self._is_cut:
            return gathered(self._selected())
        return self._whole.stream() if self.expected_samples else iter(())

    def _selected(self) -> Iterator[tuple[Batch, int]]:
        """What this shard has of each batch, and the size of the batch it was taken from."""
        total = 0
        for number, batch in enumerate(self._whole.stream()):
            fixed = any(self.inputs[name].fixed_batch for name in batch.per_sample)
            if fixed or batch.samples == 1:
                self._run_samples = batch.samples
                if self._shard.holds(number if fixed else total):
                    yield batch, batch.samples
            else:
                keep = [i for i in range(batch.samples) if self._shard.holds(total + i)]
                if keep:
                    yield _taken(batch, keep), batch.samples
            total += batch.samples
        self._total_samples = total


def gathered(parts: Iterator[tuple[Batch, int]]) -> Iterator[Batch]:
    """Join small batches that follow each other up to the size asked for, where their shapes agree."""
    waiting: list[Batch] = []
    size = 0
    for batch, wanted in parts:
        held = sum(b.samples for b in waiting)
        if waiting and (held + batch.samples > size or not _joinable(waiting[0], batch)):
            yield _joined(waiting)
            waiting = []
        waiting.append(batch)
        size = wanted
    if waiting:
        yield _joined(waiting)


def _taken(batch: Batch, samples: list[int]) -> Batch:
    arrays = {n: np.ascontiguousarray(a[samples]) if n in batch.per_sample else a for n, a in batch.arrays.items()}
    return replace(batch, arrays=arrays, samples=len(samples))


def _joinable(one: Batch, other: Batch) -> bool:
    if not one.per_sample or one.per_sample != other.per_sample:
        return False
    return all(
        a.shape[1:] == other.arrays[n].shape[1:] if n in one.per_sample else np.array_equal(a, other.arrays[n])
        for n, a in one.arrays.items()
    )


def _joined(parts: list[Batch]) -> Batch:
    first = parts[0]
    if len(parts) == 1:
        return first
    arrays: dict[str, NDArray[Any]] = {
        n: np.concatenate([p.arrays[n] for p in parts]) if n in first.per_sample else a for n, a in first.arrays.items()
    }
    return replace(first, arrays=arrays, samples=sum(p.samples for p in parts))
