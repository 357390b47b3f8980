"""The statistics file: exact round trip, and a typed error for everything else."""

from __future__ import annotations

import hashlib
import json
import os
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from onnxq.calibration.statistics import file as stats_file
from onnxq.calibration.statistics.curves import Curve
from onnxq.calibration.statistics.file import MAGIC, VERSION, decode_stats, encode_stats, load_stats, save_stats
from onnxq.calibration.statistics.following import FollowingStats
from onnxq.calibration.statistics.sampling import extract
from onnxq.calibration.statistics.seen_samples import SeenSamples
from onnxq.calibration.statistics.table import StatsBuilder, StatsTable, TensorStats
from onnxq.errors import ArtifactError, ConfigError


def sampled(values: np.ndarray, *, histogram: bool = True) -> TensorStats:
    builder = StatsBuilder()
    builder.add(extract(values, rows=len(values), histogram=histogram))
    return builder.freeze()


def sample() -> StatsTable:
    rng = np.random.default_rng(0)
    tensors = {
        "normal": TensorStats.of(rng.standard_normal(3000)),
        "relu": TensorStats.of(np.maximum(rng.standard_normal(70000), 0)),
        "spike of 70000": TensorStats.of(np.full(70000, 3.0)),
        "größe/0": TensorStats.of(np.float32([0.0, np.nan])),
        "unseen": TensorStats.empty(),
        "sampled": sampled(rng.standard_normal((2, 50000))),
        "range": sampled(np.float32([[1.0, 2.0]]), histogram=False),
    }
    seen = SeenSamples.of([5, 2**64 - 1, 2**127 + 3])
    return StatsTable(tensors=tensors, digest="abc", samples=32, data_fingerprint="0123456789abcdef" * 2, seen=seen)


def build(header: Any, bins: bytes = b"") -> bytes:
    """A file with a right checksum around any header."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    payload = struct.pack("<I", len(text)) + text + bins
    return MAGIC + struct.pack("<I32s", VERSION, hashlib.sha256(payload).digest()) + payload


def row(**change: Any) -> dict[str, Any]:
    zero = {"count": 1, "counted": 1, "zeros": 1, "nonfinite": 0, "rmin": "0x0.0p+0", "rmax": "0x0.0p+0"}
    return {"name": "a", **zero, "first": 0, "bins": 0, "itemsize": 1, **change}


def head(*rows: Any, **change: Any) -> dict[str, Any]:
    return {"digest": "d", "samples": 1, "data_fingerprint": "0" * 32, "tensors": list(rows), **change}


def test_round_trip(tmp_path: Path) -> None:
    table = sample()
    table.save(tmp_path / "m.stats")
    again = load_stats(tmp_path / "m.stats")
    assert again == table
    assert dict(again) == dict(table)
    assert not again["normal"].counts.flags.writeable
    save_stats(again, tmp_path / "again.stats")
    assert (tmp_path / "again.stats").read_bytes() == (tmp_path / "m.stats").read_bytes()


def follower(source: TensorStats, values: np.ndarray) -> FollowingStats:
    return FollowingStats(sampled(values[None], histogram=False), source, Curve(("Mul", "x", ("Sigmoid", "x"))))


def silu(x: np.ndarray) -> np.ndarray:
    return np.asarray(x / (1 + np.exp(-x)))


def test_what_follows_is_kept_by_its_row_alone() -> None:
    """The source is a tensor of the table, or a row without a name; histograms that follow are not in the file."""
    x, hidden = np.random.default_rng(0).standard_normal((2, 3000)).astype(np.float32)
    tensors = {
        "a": follower(TensorStats.of(x), silu(x)),
        "b": TensorStats.of(x),
        "c": follower(TensorStats.of(hidden), silu(hidden)),
        "d": follower(TensorStats.of(hidden), silu(hidden)),
    }
    table = StatsTable(tensors=tensors, digest="d", samples=1)
    content = encode_stats(table)
    again = decode_stats(content, "x")
    assert again == table
    assert list(again) == ["a", "b", "c", "d"]
    assert again["a"].source is again["b"]
    assert again["c"].source is again["d"].source
    np.testing.assert_array_equal(again["c"].counts, table["c"].counts)
    assert encode_stats(again) == content
    both = StatsTable(tensors={"b": TensorStats.of(x), "c": TensorStats.of(hidden)}, digest="d", samples=1)
    assert len(content) < len(encode_stats(both)) + 1200


@pytest.mark.parametrize("version", [2, 3])
def test_files_of_earlier_versions_are_read(version: int, tmp_path: Path) -> None:
    path = tmp_path / "m.stats"
    content = bytearray(build(head(row())))
    content[len(MAGIC)] = version
    path.write_bytes(content)
    assert load_stats(path)["a"] == TensorStats.of([0.0])
    assert load_stats(path).seen is None


def test_hand_built_file_loads(tmp_path: Path) -> None:
    # Guards the damage tests below: what they break is a file that loads.
    (tmp_path / "m.stats").write_bytes(build(head(row())))
    assert load_stats(tmp_path / "m.stats")["a"] == TensorStats.of([0.0])


def test_every_damaged_byte_is_found(tmp_path: Path) -> None:
    path = tmp_path / "m.stats"
    StatsTable(tensors={"a": TensorStats.of([0.5, -1.0, 0.0])}, digest="d", samples=1).save(path)
    good = path.read_bytes()
    rng = np.random.default_rng(0)
    # Every byte of the head, and of the rest a random choice.
    places = [*range(420), *rng.integers(420, len(good), 300).tolist()]
    for place in places:
        bad = bytearray(good)
        bad[place] ^= int(rng.integers(1, 256))
        path.write_bytes(bad)
        with pytest.raises(ArtifactError):
            load_stats(path)


def test_every_truncation_is_found(tmp_path: Path) -> None:
    path = tmp_path / "m.stats"
    StatsTable(tensors={"a": TensorStats.of([0.5])}, digest="d", samples=1).save(path)
    good = path.read_bytes()
    for length in range(len(good)):
        path.write_bytes(good[:length])
        with pytest.raises(ArtifactError):
            load_stats(path)
    path.write_bytes(good + b"\0")
    with pytest.raises(ArtifactError, match="checksum"):
        load_stats(path)


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b"", r"this is not an onnxq statistics file\nHint: pass a file written by"),
        (b"PK\x03\x04 npz", r"this is not an onnxq statistics file"),
        (MAGIC + b"\1\0", r"damaged \(it ends after 14 bytes\)\nHint: run the calibration again"),
        (
            MAGIC + struct.pack("<I", 1) + bytes(60),
            r"has version 1, this onnxq reads versions 2 to 4\nHint: use the onnxq",
        ),
        (
            MAGIC + struct.pack("<I", 5) + bytes(60),
            r"has version 5, this onnxq reads versions 2 to 4\nHint: use the onnxq",
        ),
        (MAGIC + struct.pack("<I", VERSION) + bytes(60), r"its checksum does not match its content"),
        (build(b"{"), r"damaged \(JSONDecodeError"),
        (build(b"\xff\xfe\xfd\xfc"), r"damaged \(UnicodeDecodeError"),
        (build(b"[" * 100_000), r"damaged \(RecursionError|damaged \(JSONDecodeError"),
        (build([]), r"damaged \(TypeError"),
        (build({"tensors": []}), r"damaged \(KeyError: 'digest'"),
        (build(head(row(), row())), r"tensor 'a' appears twice"),
        (build(head(row(bins=5))), r"damaged \(ValueError"),
        (build(head(row(bins=-1)), b"\1"), r"tensor 'a' has -1 bins"),
        (build(head(row(first=8192, bins=1)), b"\1"), r"bins \[8192, 8193\) do not exist"),
        (build(head(row(first=-1, bins=1)), b"\1"), r"bins \[-1, 0\) do not exist"),
        (build(head(row(itemsize=3))), r"damaged \(KeyError: 3"),
        (build(head(row(count=2, counted=2))), r"count is 2 and 2 were counted, but 1 zeros"),
        (build(head(row(rmin="nan"))), r"are not an interval around 0 of finite"),
        (build(head(row(rmin="x"))), r"invalid hexadecimal"),
        (build(head(row(rmin=0.0))), r"damaged \(TypeError"),
        (build(head(row()), b"\0"), r"1 byte left over"),
        (build(head(samples=-1)), r"samples is -1"),
        (build(head(data_fingerprint="x")), r"data fingerprint 'x' is not 32 hexadecimal digits"),
        (build(head(row(follows=0, curve="x"))), r"tensor 'a' follows row 0, which has no histogram of its own"),
        (build(head(row(follows=1, curve="x"))), r"tensor 'a' follows row 1, which has no histogram of its own"),
        (build(head(row(follows=-1, curve="x"))), r"tensor 'a' follows row -1, which has no histogram of its own"),
        (build(head(row(follows=1), row(name="b"))), r"damaged \(KeyError: 'curve'"),
        (build(head(row(follows=1, curve=["Sqrt", "x"]), row(name="b"))), r"\('Sqrt', 'x'\) is no expression"),
        (build(head(row(bins=1, itemsize=8, rmin="-0x1p-114")), b"\xff" * 8), r"damaged"),
    ],
)
def test_malformed_files(tmp_path: Path, content: bytes, text: str) -> None:
    path = tmp_path / "m.stats"
    path.write_bytes(content)
    with pytest.raises(ArtifactError, match=text) as caught:
        load_stats(path)
    assert caught.value.where == str(path)


def test_too_many_tensors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stats_file, "MAX_TENSORS", 1)
    (tmp_path / "m.stats").write_bytes(build(head(row(), row(name="b"))))
    with pytest.raises(ArtifactError, match=r"2 tensors, at most 1 are read"):
        load_stats(tmp_path / "m.stats")


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"m\.stats: cannot read statistics: No such file(.|\n)*Hint: check"):
        load_stats(tmp_path / "m.stats")


def test_unwritable_place(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot write statistics: No such file.*\nHint: .*output= \(-o\)"):
        sample().save(tmp_path / "no" / "m.stats")


def test_a_file_of_another_run_is_kept_unless_forced(tmp_path: Path) -> None:
    (tmp_path / "m.stats").write_text("theirs")
    with pytest.raises(ConfigError, match="the file exists"):
        save_stats(sample(), tmp_path / "m.stats", force=False)
    assert (tmp_path / "m.stats").read_text() == "theirs"
    sample().save(tmp_path / "m.stats")
    assert load_stats(tmp_path / "m.stats") == sample()


def test_a_failed_write_leaves_the_old_file_and_no_debris(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "m.stats"
    path.write_bytes(b"old")

    def full_disk(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(ConfigError, match="No space left on device"):
        sample().save(path)
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["m.stats"]


def test_file_is_compact(tmp_path: Path) -> None:
    path = tmp_path / "m.stats"
    rng = np.random.default_rng(0)
    tensors = {f"t{i}": TensorStats.of(rng.standard_normal(50_000)) for i in range(20)}
    StatsTable(tensors=tensors, digest="d", samples=1).save(path)
    assert path.stat().st_size < 20 * 9_000
