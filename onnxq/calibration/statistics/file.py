"""The statistics file.

    magic      12 bytes   b"onnxq-stats\\n"
    version    uint32     4; 3, without hashes, and 2, in which nothing follows either, are read, too
    checksum   32 bytes   SHA-256 of all that follows
    length     uint32     bytes of the header
    header     JSON       digest, samples, data_fingerprint, shards (null, or which of a split), seen (null, or how many
                          hashes), tensors: a list of rows
    bins       the rows' used bins, one after the other
    hashes     uint64     of samples, ascending (see `seen_samples`)

All numbers are little-endian. A row holds the scalars of one tensor (extremes as exact hexadecimal floats), the first
used bin, how many come behind it, and the narrowest unsigned type that holds its counts. Where a tensor's histogram
follows from another one's (see `following`), its row also has the number of that row and the curve (see `curves`); rows
without a name are of sources that the table does not hold. Nothing in the file is executed or decompressed: its size
bounds what is read, and the checksum finds every damaged byte.
"""

from __future__ import annotations

import hashlib
import json
import os
import struct
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxq.calibration.statistics.curves import Curve
from onnxq.calibration.statistics.following import FollowingStats
from onnxq.calibration.statistics.histogram import BINS
from onnxq.calibration.statistics.seen_samples import SeenSamples
from onnxq.calibration.statistics.table import StatsTable, TensorStats
from onnxq.data.sharding import ShardSet
from onnxq.errors import ArtifactError, InternalError
from onnxq.files.whole import write_kept
from onnxq.wording.plural import counted

MAGIC = b"onnxq-stats\n"
VERSION = 4
_READ_VERSIONS = (2, 3, VERSION)
MAX_TENSORS = 65_536
"""Far above any model's; a tensor takes 64 KiB in memory however little of the file it fills."""

_PREFIX = struct.Struct("<I32s")
_LENGTH = struct.Struct("<I")
_HASHES = np.dtype("<u8")
_DTYPES: dict[int, np.dtype[Any]] = {1: np.dtype("<u1"), 2: np.dtype("<u2"), 4: np.dtype("<u4"), 8: np.dtype("<u8")}


def save_stats(table: StatsTable, path: str | Path, *, force: bool = True) -> None:
    """Write statistics to a file, which appears whole or not at all.

    Args:
        table: What to write. Equal tables give byte-identical files.
        path: Where to.
        force: Whether an existing file is replaced.

    Raises:
        ConfigError: the file cannot be written, or exists and is not to be replaced.
    """
    hint = "choose a writable place with output= (-o)"
    write_kept(Path(path), encode_stats(table), what="statistics", hint=hint, replace=force)


def encode_stats(table: StatsTable) -> bytes:
    """The content of a statistics file. Equal tables give equal bytes."""
    rows, bins = _rows(table)
    header = json.dumps(
        {
            "digest": table.digest,
            "samples": table.samples,
            "data_fingerprint": table.data_fingerprint,
            "shards": None if table.shards is None else table.shards.to_json(),
            "seen": None if table.seen is None else len(table.seen.hashes),
            "tensors": rows,
        },
        separators=(",", ":"),
    ).encode()
    hashes = np.array(() if table.seen is None else table.seen.hashes, _HASHES)
    payload = b"".join([_LENGTH.pack(len(header)), header, *bins, hashes.tobytes()])
    return MAGIC + _PREFIX.pack(VERSION, hashlib.sha256(payload).digest()) + payload


def load_stats(path: str | Path) -> StatsTable:
    """Read statistics from a file.

    Args:
        path: Written by `save_stats`.

    Returns:
        A table equal to the one that was saved.

    Raises:
        ArtifactError: the file is missing, damaged, of a newer version, or no statistics file.
    """
    try:
        content = Path(path).read_bytes()
    except (OSError, ValueError) as error:  # a null character in the path is a ValueError
        raise ArtifactError(
            f"cannot read statistics: {getattr(error, 'strerror', None) or error}",
            where=str(path),
            hint="check the path; statistics are written by onnxq.calibrate(...).save(path) (onnxq calibrate -o FILE)",
        ) from error
    return decode_stats(content, str(path))


def stats_from(given: StatsTable | str | os.PathLike[str] | None) -> StatsTable | None:
    """Statistics, from their file where that is given. Raises as `load_stats`."""
    return given if given is None or isinstance(given, StatsTable) else load_stats(Path(given))


def decode_stats(content: bytes, where: str) -> StatsTable:
    """The reverse of `encode_stats`.

    Args:
        content: What `encode_stats` gave.
        where: What it came from, for messages.

    Raises:
        ArtifactError: it is damaged, of another version, or no statistics.
    """
    try:
        return _parse(_checked_payload(content, where))
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError, struct.error, InternalError) as error:
        raise _damaged(where, f"{type(error).__name__}: {error}") from error
    except ArtifactError as error:
        if error.where is not None:
            raise
        raise _damaged(where, error.message) from error


def _damaged(where: str, why: str) -> ArtifactError:
    return ArtifactError(
        f"the statistics file is damaged ({why})", where=where, hint="run the calibration again (onnxq calibrate)"
    )


def _checked_payload(content: bytes, where: str) -> memoryview:
    if not content.startswith(MAGIC):
        raise ArtifactError(
            "this is not an onnxq statistics file", where=where, hint="pass a file written by `onnxq calibrate -o`"
        )
    if len(content) < len(MAGIC) + _PREFIX.size + _LENGTH.size:
        raise _damaged(where, f"it ends after {counted(len(content), 'byte')}")
    version, checksum = _PREFIX.unpack_from(content, len(MAGIC))
    payload = memoryview(content)[len(MAGIC) + _PREFIX.size :]
    if version not in _READ_VERSIONS:
        raise ArtifactError(
            f"the statistics file has version {version}, this onnxq reads versions {_READ_VERSIONS[0]} to {VERSION}",
            where=where,
            hint="use the onnxq that wrote it, or calibrate again",
        )
    if hashlib.sha256(payload).digest() != checksum:
        raise _damaged(where, "its checksum does not match its content")
    return payload


def _parse(payload: memoryview) -> StatsTable:
    (length,) = _LENGTH.unpack_from(payload)
    start = _LENGTH.size + length
    header = json.loads(bytes(payload[_LENGTH.size : start]).decode())
    rows = header["tensors"]
    if len(rows) > MAX_TENSORS:
        raise ValueError(f"{len(rows)} tensors, at most {MAX_TENSORS} are read")
    found: list[TensorStats] = []
    for row in rows:
        used, dtype = int(row["bins"]), _DTYPES[row["itemsize"]]
        if used < 0:
            raise ValueError(f"tensor {row['name']!r} has {counted(used, 'bin')}")
        data = np.frombuffer(payload, dtype, used, start) if used else np.empty(0, np.uint8)
        start += used * dtype.itemsize
        found.append(_from_row(row, data))
    seen = None
    if (count := header.get("seen")) is not None:
        seen = SeenSamples(tuple(np.frombuffer(payload, _HASHES, int(count), start).tolist() if count else ()))
        start += count * _HASHES.itemsize
    if start != len(payload):
        raise ValueError(f"{counted(len(payload) - start, 'byte')} left over")
    return StatsTable(
        tensors=_by_name(rows, found),
        digest=str(header["digest"]),
        samples=int(header["samples"]),
        data_fingerprint=str(header["data_fingerprint"]),
        shards=None if header.get("shards") is None else ShardSet.from_json(header["shards"]),
        seen=seen,
    )


def _rows(table: StatsTable) -> tuple[list[dict[str, Any]], list[bytes]]:
    """Rows and their bins: of the tensors by name, then of sources that are none of them."""
    listed: list[tuple[str | None, TensorStats]] = [*sorted(table.items())]
    # By value, for sources of merged statistics are equal to what the table holds, not the same objects.
    numbers = {stats: number for number, (_, stats) in reversed(list(enumerate(listed))) if not stats.follows}
    rows, bins = [], []
    for name, stats in listed:
        added: dict[str, Any] = {}
        if isinstance(stats, FollowingStats):
            if stats.source not in numbers:
                numbers[stats.source] = len(listed)
                listed.append((None, stats.source))
            added = {"follows": numbers[stats.source], "curve": stats.curve.to_json()}
        row, data = _to_row(name, stats.own if isinstance(stats, FollowingStats) else stats)
        rows.append(row | added)
        bins.append(data)
    return rows, bins


def _by_name(rows: list[dict[str, Any]], found: list[TensorStats]) -> dict[str, TensorStats]:
    tensors: dict[str, TensorStats] = {}
    for row, stats in zip(rows, found, strict=True):
        if row["name"] is None:
            continue
        name = str(row["name"])
        if name in tensors:
            raise ValueError(f"tensor {name!r} appears twice")
        tensors[name] = stats
        if "follows" in row:
            number = int(row["follows"])
            if not 0 <= number < len(rows) or "follows" in rows[number]:
                raise ValueError(f"tensor {name!r} follows row {number}, which has no histogram of its own")
            tensors[name] = FollowingStats(stats, found[number], Curve.from_json(row["curve"]))
    return tensors


def _to_row(name: str | None, stats: TensorStats) -> tuple[dict[str, Any], bytes]:
    used = np.flatnonzero(stats.counts)
    first, stop = (int(used[0]), int(used[-1]) + 1) if used.size else (0, 0)
    data = stats.counts[first:stop]
    largest = int(data.max(initial=0))
    itemsize = next(size for size in _DTYPES if largest < 1 << (8 * size))
    row = {
        "name": name,
        "count": stats.count,
        "counted": stats.counted,
        "zeros": stats.zeros,
        "nonfinite": stats.nonfinite,
        "rmin": stats.rmin.hex(),
        "rmax": stats.rmax.hex(),
        "first": first,
        "bins": stop - first,
        "itemsize": itemsize,
    }
    return row, data.astype(_DTYPES[itemsize]).tobytes()


def _from_row(row: dict[str, Any], data: NDArray[np.unsignedinteger[Any]]) -> TensorStats:
    first = int(row["first"])
    if not 0 <= first <= first + data.size <= 2 * BINS:
        raise ValueError(f"bins [{first}, {first + data.size}) do not exist")
    counts = np.zeros(2 * BINS, np.int64)
    counts[first : first + data.size] = data
    return TensorStats(
        count=int(row["count"]),
        counted=int(row["counted"]),
        zeros=int(row["zeros"]),
        nonfinite=int(row["nonfinite"]),
        rmin=float.fromhex(row["rmin"]),
        rmax=float.fromhex(row["rmax"]),
        counts=counts,
    )
