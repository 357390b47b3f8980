"""Saves a long calibration while it runs, so that it can go on after an interruption.

The data is calibrated in segments that follow each other; after each the statistics so far are written:

    statistics = collect(segment 1) merged with collect(segment 2) ...      merging is exact, so the cuts do not show

A checkpoint holds those statistics, the options they were made with, the number of batches they are of, and the time
they took. Resuming reads these batches again without running them, and goes on only if they are the same samples.

    magic      17 bytes   b"onnxq-checkpoint\\n"
    checksum   32 bytes   SHA-256 of all that follows
    header     15 bytes   version (uint8), batches (uint32), seconds (float64), bytes of the options (uint16)
    options    JSON       what statistics depend on beside the data, by keyword
    statistics            as in a statistics file

All numbers are little-endian.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import signal
import struct
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import FrameType
from typing import Any, Protocol

from onnxq.calibration.progress import Progress
from onnxq.calibration.statistics.file import decode_stats, encode_stats
from onnxq.calibration.statistics.seen_samples import EMPTY_FINGERPRINT, combine_fingerprints
from onnxq.calibration.statistics.table import StatsTable
from onnxq.data.batches import Batch, Batches
from onnxq.errors import ArtifactError, ConfigError, InterruptedRunError
from onnxq.files.whole import write_kept
from onnxq.wording.plural import counted

MAGIC = b"onnxq-checkpoint\n"
VERSION = 2
DEFAULT_EVERY_S = 60.0

_CHECKSUM_BYTES = 32
_HEADER = struct.Struct("<BIdH")

_FLAGS: Mapping[str, str] = {
    "nonfinite": "nonfinite= (--nonfinite)",
    "full_histogram": "full_histogram= (--full-histogram)",
    "range_only": "range_only= (--range-only)",
    "providers": "providers= (--ep)",
}
"""How options that show in statistics are given."""

ProgressCallback = Callable[[Progress], None]


class Collect(Protocol):
    """Gathers statistics over batches: a function of the runner or of a cluster, the model already given."""

    def __call__(self, batches: Batches, *, progress: ProgressCallback | None) -> StatsTable:
        """Statistics over all of `batches`."""


def _never() -> int | None:
    return None


@dataclass(frozen=True, kw_only=True)
class Checkpointing:
    """Where and when to save.

    Attributes:
        path: The checkpoint; it is removed once the calibration is done.
        every_s: Seconds between two checkpoints.
        resume: Go on from the checkpoint, where there is one.
        overwrite: Start over although there is one.
        stop: Asked before each batch; the number of the signal that ends the run, or None. See `stop_on_signals`.
    """

    path: Path
    every_s: float = DEFAULT_EVERY_S
    resume: bool = False
    overwrite: bool = False
    stop: Callable[[], int | None] = _never

    def __post_init__(self) -> None:
        if not self.every_s > 0:
            raise ConfigError(
                f"a checkpoint every {self.every_s:g} seconds is impossible",
                hint="checkpoint_every_s= (--checkpoint-every) is a number of seconds above 0.",
            )


@dataclass(frozen=True, kw_only=True)
class Saved:
    """What a checkpoint holds.

    Attributes:
        stats: Statistics so far.
        batches: Batches that they are of.
        elapsed_s: Seconds that took.
        options: What they depend on beside the data, by keyword.
    """

    stats: StatsTable
    batches: int
    elapsed_s: float
    options: Mapping[str, str] = field(default_factory=dict)


def collect_with_checkpoints(  # noqa: PLR0913 - the parts of one run
    collect: Collect,
    batches: Batches,
    checkpointing: Checkpointing,
    *,
    digest: str,
    taps: Collection[str],
    options: Mapping[str, str],
    progress: ProgressCallback | None = None,
) -> StatsTable:
    """Statistics over all of `batches`, saved now and then; equal to those of `collect(batches)`.

    Args:
        collect: Called with one segment of the data after the other.
        batches: The data.
        checkpointing: Where and when to save.
        digest: Digest of the float model.
        taps: Names of the tensors that `collect` gives statistics of.
        options: With what `collect` was made that shows in statistics, by keyword.
        progress: Called after each batch, with figures of the whole run.

    Raises:
        ConfigError: there is a checkpoint, and nothing was said about it, or it cannot be written.
        ArtifactError: the checkpoint is damaged, or belongs to another model, plan or data, or to other options.
        InterruptedRunError: a signal ended the run; the checkpoint has been written.
    """
    saved = _start(checkpointing, digest, taps, options)
    stream = batches.stream()
    run = _Run(collect, batches, stream, checkpointing, options, progress)
    if saved is None:
        saved = run.segment(None, next(stream))
    else:
        _skip(stream, saved, checkpointing.path)
    while (first := next(stream, None)) is not None:
        saved = run.segment(saved, first)
    discard_checkpoint(checkpointing.path)
    return saved.stats


def save_checkpoint(saved: Saved, path: Path) -> None:
    """Write a checkpoint, which appears whole or not at all.

    Raises:
        ConfigError: it cannot be written.
    """
    options = json.dumps(dict(saved.options)).encode()
    header = _HEADER.pack(VERSION, saved.batches, saved.elapsed_s, len(options))
    payload = header + options + encode_stats(saved.stats)
    content = MAGIC + hashlib.sha256(payload).digest() + payload
    write_kept(path, content, what="the checkpoint", hint="choose a writable place with checkpoint= (--checkpoint)")


def load_checkpoint(path: Path) -> Saved:
    """Read a checkpoint.

    Raises:
        ArtifactError: it is missing, damaged, of another version, or no checkpoint.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ArtifactError(f"cannot read the checkpoint: {error.strerror or error}", where=str(path)) from error
    start = len(MAGIC) + _CHECKSUM_BYTES
    payload = content[start:]
    intact = hashlib.sha256(payload).digest() == content[len(MAGIC) : start]
    if not content.startswith(MAGIC) or not payload or not intact:
        raise ArtifactError(
            "this is no checkpoint, or a damaged one",
            where=str(path),
            hint="remove it and calibrate from the start, without resume=True (--resume)",
        )
    if (version := payload[0]) != VERSION:
        raise ArtifactError(
            f"the checkpoint has version {version}, this onnxq reads version {VERSION}",
            where=str(path),
            hint="resume with the onnxq that wrote it, or remove it and start over",
        )
    _, batches, elapsed_s, size = _HEADER.unpack_from(payload)
    end = _HEADER.size + size
    return Saved(
        stats=decode_stats(payload[end:], str(path)),
        batches=batches,
        elapsed_s=elapsed_s,
        options=json.loads(payload[_HEADER.size : end]),
    )


def discard_checkpoint(path: Path) -> None:
    """Remove a checkpoint, if there is one."""
    with contextlib.suppress(FileNotFoundError):
        path.unlink()


@contextlib.contextmanager
def stop_on_signals() -> Iterator[Callable[[], int | None]]:
    """Turns the first Ctrl-C or SIGTERM into a request to stop; a second one acts as ever.

    Returns:
        A function that tells the signal's number once it came, else None. Outside the main thread, where Python takes
        no signals, it is always None.
    """
    received: list[int] = []
    previous: dict[int, Any] = {}

    def restore() -> None:
        for number, handler in previous.items():
            signal.signal(number, handler)

    def note(number: int, frame: FrameType | None) -> None:
        received.append(number)
        restore()

    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGINT, signal.SIGTERM):
            previous[number] = signal.signal(number, note)
    try:
        yield lambda: received[0] if received else None
    finally:
        restore()


def _start(
    checkpointing: Checkpointing, digest: str, taps: Collection[str], options: Mapping[str, str]
) -> Saved | None:
    """The state to go on from; None starts from the beginning."""
    path = checkpointing.path
    if not path.exists():
        return None
    if not checkpointing.resume:
        if checkpointing.overwrite:
            return None
        raise ConfigError(
            "there is a checkpoint of an interrupted calibration",
            where=str(path),
            hint="go on from it with resume=True (--resume), or remove it (--force) to start over",
        )
    saved = load_checkpoint(path)
    if saved.stats.digest != digest:
        raise ArtifactError(
            "the checkpoint belongs to another model", where=str(path), hint="resume with the model it was begun with"
        )
    if other := sorted(saved.stats.keys() ^ set(taps)):
        raise ArtifactError(
            f"the checkpoint is of other tensors: {len(other)} differ, first {other[0]!r}",
            where=str(path),
            hint="resume with the same target= (--target), exclude= (--exclude) and exclude_ops= (--exclude-op)",
        )
    if changed := [name for name, value in options.items() if saved.options.get(name) != value]:
        listed = " and ".join(f"{name}={saved.options.get(name)}, not {options[name]}" for name in changed)
        raise ArtifactError(
            f"the checkpoint was made with {listed}",
            where=str(path),
            hint=f"resume with the options it was begun with: {', '.join(_FLAGS[name] for name in changed)}",
        )
    return saved


def _skip(stream: Iterator[Batch], saved: Saved, path: Path) -> None:
    """Pass over the batches that are counted already, and see that they are the same."""
    samples, fingerprint = 0, EMPTY_FINGERPRINT
    for _ in range(saved.batches):
        batch = next(stream, None)
        if batch is None:
            break
        samples += batch.samples
        fingerprint = combine_fingerprints(fingerprint, batch.fingerprint())
    if (samples, fingerprint) != (saved.stats.samples, saved.stats.data_fingerprint):
        raise ArtifactError(
            f"the checkpoint is of other data: its first {counted(saved.batches, 'batch', 'batches')} were "
            f"{counted(saved.stats.samples, 'sample')} that are not those of this run",
            where=str(path),
            hint="resume with the same data in the same order, and with the same options for it "
            "(batch_size= (--batch-size), limit= (--limit), shard= (--shard), layout= (--layout), images= (--images))",
        )


@dataclass(frozen=True)
class _Run:
    """What all segments have in common."""

    collect: Collect
    batches: Batches
    stream: Iterator[Batch]
    checkpointing: Checkpointing
    options: Mapping[str, str]
    progress: ProgressCallback | None

    def segment(self, before: Saved | None, first: Batch) -> Saved:
        """Collect from `first` on until a checkpoint is due, and write it, or to the end of the data."""
        start = 0 if before is None else before.batches
        segment = _Segment(self.batches, self.stream, first, start=start, until=self.checkpointing)
        started = time.monotonic()
        table = self.collect(segment.batches(), progress=_shifted(self.progress, before, self.batches.expected_samples))
        saved = Saved(
            stats=table if before is None else before.stats.merge(table),
            batches=start + segment.count,
            elapsed_s=(0.0 if before is None else before.elapsed_s) + time.monotonic() - started,
            options=self.options,
        )
        if segment.is_last:
            return saved
        save_checkpoint(saved, self.checkpointing.path)
        if (number := self.checkpointing.stop()) is not None:
            verb = "is" if saved.stats.samples == 1 else "are"
            raise InterruptedRunError(
                f"interrupted by {signal.Signals(number).name}: {counted(saved.stats.samples, 'sample')} {verb} done "
                f"and saved in {str(self.checkpointing.path)!r}",
                signal_number=number,
                hint="run the same with resume=True (--resume) to go on from there",
            )
        return saved


class _Segment:
    """The batches from `first` on, until it is time to save."""

    def __init__(
        self, whole: Batches, stream: Iterator[Batch], first: Batch, *, start: int, until: Checkpointing
    ) -> None:
        self.start = start
        self.count = 0
        self.is_last = False
        self._whole = whole
        self._stream = stream
        self._first: Batch | None = first
        self._until = until

    def batches(self) -> Batches:
        return Batches(self._read, inputs=self._whole.inputs, one_shot=self._whole.one_shot, label=self._whole.label)

    def _read(self) -> Iterator[Batch]:
        if self._first is None:
            # A runner that takes the model in groups reads a segment several times; its length is settled by then.
            yield from self._again()
            return
        due = time.monotonic() + self._until.every_s
        batch: Batch | None = self._first
        self._first = None
        while batch is not None:
            self.count += 1
            yield batch
            if self._until.stop() is not None or time.monotonic() >= due:
                return
            batch = next(self._stream, None)
        self.is_last = True

    def _again(self) -> Iterator[Batch]:
        for number, batch in enumerate(self._whole.stream()):
            if number >= self.start + self.count:
                return
            if number >= self.start:
                yield batch


def _shifted(
    progress: ProgressCallback | None, before: Saved | None, expected_samples: int | None
) -> ProgressCallback | None:
    """`progress`, told of the whole run where the runner knows one segment."""
    if progress is None:
        return None
    tell = progress

    def shifted(now: Progress) -> None:
        batches, samples, elapsed_s = (
            (0, 0, 0.0) if before is None else (before.batches, before.stats.samples, before.elapsed_s)
        )
        tell(
            replace(
                now,
                batches=now.batches + batches,
                samples=now.samples + samples,
                expected_samples=expected_samples,
                elapsed_s=now.elapsed_s + elapsed_s,
            )
        )

    return shifted
