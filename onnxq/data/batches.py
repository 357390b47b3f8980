"""Calibration and verification data as a stream of batches that fit the model.

The fingerprint of a data set is the sum, modulo 2**128, of a 128-bit hash of each sample: it does not depend on the
order of the samples nor on how they were cut into batches. The hash is BLAKE2b (RFC 7693) over names, types, shapes and
the CRC-32 of each 64 KiB of the values: it tells data sets apart that are not made to deceive, at the speed of memory.
"""

from __future__ import annotations

import hashlib
import zlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol

from numpy.typing import NDArray

from onnxq.data.cutting import Column, Cutter, Piece
from onnxq.data.inputs import InputSpecs
from onnxq.errors import DataError
from onnxq.wording.plural import counted

_FINGERPRINT_BYTES = 16
_CRC_BYTES = 1 << 16
_FINGERPRINT_MODULUS = 1 << (8 * _FINGERPRINT_BYTES)

# At most this share of the batches is set aside for the report; the rest is worth more in calibration.
_HELD_OUT_SHARE = 4


@dataclass(frozen=True, kw_only=True)
class Batch:
    """What one run of the model takes.

    Attributes:
        arrays: A C-contiguous array for each input, of the model's shape and element type.
        samples: Samples in it.
        per_sample: Inputs whose first axis counts those samples; the others belong to each of them.
        label: What the batch is called in messages, such as "calibration batch 3"; counted from 1.
    """

    arrays: Mapping[str, NDArray[Any]]
    samples: int
    per_sample: frozenset[str]
    label: str

    def fingerprint(self) -> str:
        """Sum of the samples' hashes modulo 2**128, as 32 hexadecimal digits."""
        return fingerprint_of(self.hashes())

    def hashes(self) -> list[int]:
        """A hash of 128 bits of each sample."""
        inputs = [_hashed(n, self.arrays[n], n in self.per_sample) for n in sorted(self.arrays)]
        found = []
        for i in range(self.samples):
            digest = hashlib.blake2b(digest_size=_FINGERPRINT_BYTES)
            for head, samples in inputs:
                digest.update(head)
                data = samples[i % len(samples)]
                for start in range(0, len(data), _CRC_BYTES):
                    digest.update(zlib.crc32(data[start : start + _CRC_BYTES]).to_bytes(4, "little"))
            found.append(int.from_bytes(digest.digest(), "little"))
        return found

    def part(self, start: int, stop: int) -> Batch:
        """Samples `start` to `stop`, that one not included."""
        if (start, stop) == (0, self.samples):
            return self
        arrays = {n: a[start:stop] if n in self.per_sample else a for n, a in self.arrays.items()}
        return replace(self, arrays=arrays, samples=stop - start)


def fingerprint_of(hashes: Iterable[int]) -> str:
    """Sum of hashes modulo 2**128, as 32 hexadecimal digits."""
    return f"{sum(hashes) % _FINGERPRINT_MODULUS:0{2 * _FINGERPRINT_BYTES}x}"


def _hashed(name: str, array: NDArray[Any], per_sample: bool) -> tuple[bytes, list[memoryview]]:
    """What the hash of a sample says of an input, and its values: of each sample, or once for all of them."""
    count, shape = (len(array), array.shape[1:]) if per_sample else (1, array.shape)
    data = array.data.cast("B") if array.ndim and array.size else memoryview(array.tobytes())
    size = len(data) // count
    return f"{name}\0{array.dtype.str}\0{shape}\0".encode(), [data[i * size : (i + 1) * size] for i in range(count)]


@dataclass(frozen=True)
class Item:
    """One item of a data source: a file's columns or one feed.

    Attributes:
        columns: Data by input name.
        size: Samples to feed at once where the model leaves that open; None feeds the item whole.
        stacked: Whether the first axis may come on top of the model's own axes.
        origin: File or position that the item came from, for messages.
        starts: Whether the item starts a sequence, for models that carry a state.
    """

    columns: Mapping[str, Column]
    size: int | None
    stacked: bool
    origin: str | None = None
    starts: bool = True


class Source(Protocol):
    """Where items come from."""

    one_shot: bool
    """Whether `items` works only once."""

    samples: int | None
    """Number of samples where it is known without reading the data."""

    def items(self, note: Callable[[str], None]) -> Iterator[Item]:
        """Read the data from its start; facts that the user should read go to `note`."""


class Notes:
    """Facts about the data that a user should read, each once, in the order they were found; and warnings likewise."""

    def __init__(self) -> None:
        self._texts: dict[str, None] = {}
        self._warnings: dict[str, None] = {}

    def add(self, text: str) -> None:
        self._texts[text] = None

    def warn(self, text: str) -> None:
        self._warnings[text] = None

    @property
    def warnings(self) -> tuple[str, ...]:
        return tuple(self._warnings)

    def __iter__(self) -> Iterator[str]:
        return iter(self._texts)


class Batches:
    """Data for one model: checked, counted, and cut to the batches that the model takes.

    Iterating gives `{input name: array}`; `stream` gives the same with counts and labels. Data that can be read again
    is read again by every iteration; a generator or an iterator is consumed by the first, and a second is refused.

    Args:
        read: Reads the data from its start.
        inputs: What the model expects.
        notes: Filled while the data is read.
        expected_samples: Number of samples, for showing progress; None where it is unknown before the data is read.
        one_shot: Whether `read` works only once.
        label: What the data is called in messages.
    """

    def __init__(  # noqa: PLR0913 - the fields of a value
        self,
        read: Callable[[], Iterator[Batch]],
        *,
        inputs: InputSpecs,
        notes: Notes | None = None,
        expected_samples: int | None = None,
        one_shot: bool = False,
        label: str = "calibration",
    ) -> None:
        self._read = read
        self.inputs = inputs
        self.label = label
        self.expected_samples = expected_samples
        self._notes = Notes() if notes is None else notes
        self._one_shot = one_shot
        self._consumed = False

    @property
    def notes(self) -> tuple[str, ...]:
        """Facts about the data that a user should read; complete once the data has been read."""
        return tuple(self._notes)

    @property
    def warnings(self) -> tuple[str, ...]:
        """What is probably wrong with the data; complete once it has been read."""
        return self._notes.warnings

    def warn(self, text: str) -> None:
        """Add to the warnings."""
        self._notes.warn(text)

    @property
    def one_shot(self) -> bool:
        """Whether the data can be read only once."""
        return self._one_shot

    def __iter__(self) -> Iterator[Mapping[str, NDArray[Any]]]:
        return (batch.arrays for batch in self.stream())

    def stream(self) -> Iterator[Batch]:
        """Read the data from its start.

        Raises:
            DataError: the data does not fit the model, is empty, or was a generator that is used up.
        """
        if self._consumed and self._one_shot:
            raise DataError(
                "it can be read only once, and it has been",
                where=f"{self.label} data",
                hint="pass a function that returns a new generator, or a list, instead of a generator.",
            )
        self._consumed = True
        empty = True
        for batch in self._read():
            empty = False
            yield batch
        if empty:
            raise DataError(
                f"no {self.label} data: the source holds no sample that the model can take"
                + "".join(f"; {note}" for note in self._notes),
                hint="pass data= (--data) a .npz file, a folder of files or images, "
                "or an iterable of {input name: array}.",
            )

    def cached(self) -> Batches:
        """The same batches, read now and kept in memory.

        Raises:
            DataError: as `stream` does.
        """
        kept = list(self.stream())
        return Batches(
            lambda: iter(kept),
            inputs=self.inputs,
            notes=self._notes,
            expected_samples=sum(batch.samples for batch in kept),
            label=self.label,
        )

    def hold_out(self, count: int) -> tuple[Batches, Batches]:
        """Set the last `count` batches aside, for a report on inputs that calibration has not seen.

        At most a quarter of the batches is set aside. Fewer than four batches leave nothing to set aside: then the last
        `count` serve both, and a warning says so. The first result streams; no more than `count` batches are kept in
        memory. The second is known once the first was read to its end, and reads it if it was not.

        Returns:
            The batches for calibration, and the batches set aside.
        """
        aside = _HeldOut(self, count, self._notes)
        known = self.expected_samples
        calibration = Batches(
            aside.remaining,
            inputs=self.inputs,
            notes=self._notes,
            expected_samples=None if known is None else known - min(count, known // _HELD_OUT_SHARE),
            one_shot=self._one_shot,
            label=self.label,
        )
        held = Batches(lambda: aside.held(calibration), inputs=self.inputs, notes=self._notes, label=self.label)
        return calibration, held


CALIBRATED_ON = "errors are measured on inputs that were calibrated on, and look smaller than they are"


class _HeldOut:
    """Splits a stream of unknown length into its last batches and those before."""

    def __init__(self, whole: Batches, count: int, notes: Notes) -> None:
        self._whole = whole
        self._count = count
        self._notes = notes
        self._held: list[Batch] | None = None

    def remaining(self) -> Iterator[Batch]:
        last: deque[Batch] = deque()
        total = 0
        for batch in self._whole.stream():
            total += 1
            last.append(batch)
            if len(last) > self._count:
                yield last.popleft()
        share = min(self._count, total // _HELD_OUT_SHARE)
        self._held = list(last)[-share:] if share else list(last)
        if self._count and not share:
            few = counted(total, "batch is", "batches are")
            self._notes.warn(
                f"{few} too few to hold any out: {CALIBRATED_ON}. Give more samples, or measure on others with "
                "onnxq verify --data SRC."
            )
        while len(last) > share:
            yield last.popleft()

    def held(self, calibration: Batches) -> Iterator[Batch]:
        if self._held is None:
            for _ in calibration.stream():
                pass
        return iter(self._held or ())


class Fill(Protocol):
    """Completes what is fed with what the data does not hold; see `recurrence`."""

    def starting(self) -> Fill:
        """The same for another reading of the data, which begins with no state."""

    def columns(self, item: Item) -> Mapping[str, Column]:
        """What the cutter gets of an item, whose turn it is now."""

    def complete(self, piece: Piece, where: str) -> Piece:
        """The piece with an array for every input of the model."""


def read_batches(
    source: Source, cutter: Cutter, *, limit: int | None, label: str, fill: Fill | None = None
) -> Iterator[Batch]:
    """Cut everything in `source` into batches, at most `limit` samples of them.

    Raises:
        DataError: an item does not fit the model.
    """
    left = limit
    for batch in _cut(source, cutter, label, fill):
        if left is not None and batch.samples > left:
            # The limit is a most: a batch whose size the model fixes cannot be cut and is left out.
            if not any(cutter.inputs[name].fixed_batch for name in batch.per_sample):
                yield batch.part(0, left)
            return
        yield batch
        if left is not None:
            left -= batch.samples
            if not left:
                return


class _Label:
    """Names the batch that is being made; a call gives the name."""

    def __init__(self, label: str) -> None:
        self._label = label
        self.number = 1
        self.origin: str | None = None

    def __call__(self) -> str:
        return f"{self._label} batch {self.number}" + (f" ({self.origin})" if self.origin else "")


def _cut(source: Source, cutter: Cutter, label: str, fill: Fill | None) -> Iterator[Batch]:
    name = _Label(label)
    filling = None if fill is None else fill.starting()
    for item in source.items(cutter.note):
        name.origin = item.origin
        columns = item.columns if filling is None else filling.columns(item)
        for piece in cutter.pieces(columns, size=item.size, stacked=item.stacked, where=name):
            whole = piece if filling is None else filling.complete(piece, name())
            yield Batch(arrays=whole.arrays, samples=whole.samples, per_sample=whole.per_sample, label=name())
            name.number += 1
