"""Shards: every sample in exactly one, merged statistics equal to those of one run, and nothing counted twice."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import onnxq
from onnxq.calibration.statistics.file import encode_stats
from onnxq.data.inputs import InputSpecs
from onnxq.data.sharded_batches import ShardedBatches
from onnxq.data.sharding import Shard, ShardSet, merge_shards, shard_from
from onnxq.data.sources import open_data
from onnxq.errors import ArtifactError, ConfigError, DataError, InternalError
from onnxq.graph.view import Graph
from tests.graphs import model_of, normal
from tests.planned import ORT

TEXT = """(float[N,16,8,8] x) => (float[N,16,8,8] y) {
    [c1] a = Conv<pads=[1,1,1,1]>(x, w)
    [r] ar = Relu(a)
    [c2] y = Conv<pads=[1,1,1,1]>(ar, v)
    }"""
MODEL = model_of(TEXT, w=normal(16, 16, 3, 3), v=normal(16, 16, 3, 3, seed=1))
LINE = "(float[N,4] x) => (float[N,4] y) { y = Relu(x) }"
DATA = normal(11, 16, 8, 8)


def opened(data: Any, shard: Shard | None, text: str = LINE, **options: Any) -> Any:
    return open_data(data, inputs=InputSpecs.from_graph(Graph(model_of(text))), shard=shard, **options)


def rows(batches: Any) -> list[int]:
    """First element of every sample."""
    return [int(value) for batch in batches.stream() for value in batch.arrays["x"][:, 0]]


def numbered(count: int) -> np.ndarray:
    return np.repeat(np.arange(count, dtype=np.float32)[:, None], 4, axis=1)


# ---- the split -------------------------------------------------------------------------------------------------------


@given(count=st.integers(1, 40), shards=st.integers(1, 7), size=st.integers(1, 9))
def test_samples_are_dealt_out_by_index_whatever_the_batch_size(count: int, shards: int, size: int) -> None:
    for index in range(1, min(shards, count) + 1):
        part = opened(numbered(count), Shard(index=index, count=shards), batch_size=size)
        assert part.expected_samples == len(range(index - 1, count, shards))
        assert rows(part) == list(range(count))[index - 1 :: shards]
        if min(shards, count) > 1:
            assert part.shards == ShardSet(count=shards, total_samples=count, indices=(index,))


def test_what_is_left_of_batches_is_gathered_to_their_size() -> None:
    part = opened(numbered(20), Shard(index=2, count=2), batch_size=4)
    assert [b.samples for b in part.stream()] == [4, 4, 2]
    assert all(b.arrays["x"].flags.c_contiguous for b in part.stream())


def test_batches_of_different_shapes_are_not_gathered() -> None:
    text = "(float[N,L] x) => (float[N,L] y) { y = Relu(x) }"
    feeds = [{"x": np.zeros((2, length), np.float32)} for length in (3, 3, 5, 5)]
    part = opened(lambda: iter(feeds), Shard(index=1, count=2), text)
    assert [b.arrays["x"].shape for b in part.stream()] == [(2, 3), (2, 5)]
    assert [b.samples for b in part.stream()] == [2, 2]


def test_inputs_without_samples_come_along() -> None:
    text = "(float[N,4] x, float s) => (float[N,4] y) { y = Mul(x, s) }"
    data = {"x": numbered(6), "s": np.float32(3.0)}
    part = opened(data, Shard(index=1, count=2), text, batch_size=4)
    assert rows(part) == [0, 2, 4]
    assert all(float(b.arrays["s"]) == 3.0 for b in part.stream())
    feeds = [{"x": numbered(2), "s": np.float32(s)} for s in (1, 1, 2)]
    gathered = opened(feeds, Shard(index=1, count=2), text)
    assert [(b.samples, float(b.arrays["s"])) for b in gathered.stream()] == [(2, 1.0), (1, 2.0)]


def test_whole_runs_are_dealt_out_where_the_model_fixes_its_batch() -> None:
    text = "(float[2,4] x) => (float[2,4] y) { y = Relu(x) }"
    assert rows(opened(numbered(8), Shard(index=2, count=2), text)) == [2, 3, 6, 7]


def test_limit_comes_before_the_split() -> None:
    assert rows(opened(numbered(100), Shard(index=2, count=3), limit=7)) == [1, 4]


def test_a_shard_decodes_only_its_own_images(tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image")
    text = "(float[N,3,4,4] x) => (float[N,3,4,4] y) { y = Relu(x) }"
    for i in range(7):
        image.new("RGB", (4, 4), (i, i, i)).save(tmp_path / f"{i}.png")
    (tmp_path / "1.png").write_bytes(b"not read by the other shards")
    options = onnxq.ImageOptions(mean=(0, 0, 0), std=(1, 1, 1))
    part = opened(tmp_path, Shard(index=1, count=3), text, images=options, batch_size=2)
    pixels = [round(255 * float(v)) for b in part.stream() for v in b.arrays["x"][:, 0, 0, 0]]
    assert pixels == [0, 3, 6]
    assert part.shards == ShardSet(count=3, total_samples=7, indices=(1,))
    assert part.expected_samples == 3
    with pytest.raises(DataError, match="shard 8/9 is empty: the data holds 7 samples"):
        list(opened(tmp_path, Shard(index=8, count=9), text, images=options).stream())


def test_images_of_a_fixed_batch_stay_together(tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image")
    for i in range(6):
        image.new("RGB", (4, 4), (i, i, i)).save(tmp_path / f"{i}.png")
    options = onnxq.ImageOptions(mean=(0, 0, 0), std=(1, 1, 1))
    part = opened(
        tmp_path,
        Shard(index=2, count=2),
        "(float[2,3,4,4] x) => (float[2,3,4,4] y) { y = Relu(x) }",
        images=options,
    )
    assert [round(255 * float(v)) for b in part.stream() for v in b.arrays["x"][:, 0, 0, 0]] == [2, 3]


# ---- merging ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch_size", [1, 4])
@pytest.mark.parametrize("order", list(itertools.permutations(range(3)))[::2])
def test_merged_shards_are_the_whole_to_the_last_bit(order: tuple[int, ...], batch_size: int) -> None:
    whole = onnxq.calibrate(MODEL, DATA, target=ORT, batch_size=batch_size)
    parts = [onnxq.calibrate(MODEL, DATA, target=ORT, shard=(i, 3), batch_size=batch_size) for i in (1, 2, 3)]
    first, second, third = (parts[i] for i in order)
    merged = first.merge(second).merge(third)
    assert merged.shards is None
    assert encode_stats(merged) == encode_stats(whole)


def test_shards_survive_the_file(tmp_path: Path) -> None:
    part = onnxq.calibrate(MODEL, DATA, target=ORT, shard="2/3")
    part.save(tmp_path / "p.stats")
    assert onnxq.load_stats(tmp_path / "p.stats").shards == ShardSet(count=3, total_samples=11, indices=(2,))


def test_one_shard_of_one_is_the_whole() -> None:
    assert onnxq.calibrate(MODEL, DATA, target=ORT, shard=(1, 1)).shards is None


def test_synthetic_data_can_be_split_too() -> None:
    assert onnxq.calibrate(MODEL, target=ORT, shard=(1, 4)).samples == 4


def test_quantizing_from_some_shards_warns() -> None:
    part = onnxq.calibrate(MODEL, DATA, target=ORT, shard="2/3")
    result = onnxq.quantize(MODEL, DATA, target=ORT, stats=part)
    assert (
        "the statistics are of shard 2/3 only, not of all calibration data; "
        "merge the rest: StatsTable.merge (onnxq merge)" in (result.report.warnings)
    )


ONE = ShardSet(count=4, total_samples=9, indices=(1,))


@pytest.mark.parametrize(
    ("one", "other", "text"),
    [
        (ONE, ONE, "shard 1/4 would be counted twice\nHint: give each shard's statistics once"),
        (
            ONE,
            ShardSet(count=4, total_samples=10, indices=(2,)),
            "these are shards of different splits: shard 1/4 of 9 samples, and shard 2/4 of 10 samples\n"
            "Hint: run every shard with the same data, limit= (--limit) and number of shards in shard= (--shard)",
        ),
        (
            ONE,
            ShardSet(count=5, total_samples=9, indices=(2, 3)),
            "these are shards of different splits: shard 1/4 of 9 samples, and shards 2, 3 of 5 of 9 samples\n"
            "Hint: run every shard with the same data, limit= (--limit) and number of shards in shard= (--shard)",
        ),
        (
            None,
            ONE,
            "statistics of shard 1/4 cannot be merged with statistics of whole data: the shard may be part of that data"
            "\nHint: merge all shards of one split first (onnxq merge part-*.stats -o whole.stats)",
        ),
    ],
)
def test_merges_that_could_count_twice_are_refused(one: Any, other: Any, text: str) -> None:
    for pair in ((one, other), (other, one)):
        with pytest.raises(ArtifactError) as error:
            merge_shards(*pair)
        if pair == (one, other):
            assert str(error.value) == text


@given(st.permutations(range(1, 6)))
def test_the_account_does_not_depend_on_the_order(order: list[int]) -> None:
    held: ShardSet | None = ShardSet(count=6, total_samples=9, indices=(6,))
    for i in order[:-1]:
        held = merge_shards(held, ShardSet(count=6, total_samples=9, indices=(i,)))
    assert held is not None
    assert held.missing == (order[-1],)
    assert merge_shards(held, ShardSet(count=6, total_samples=9, indices=(order[-1],))) is None


# ---- refusals --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", ["3", "a/b", "1/2/3", (1,), (1, 2, 3), ("1", 2), 7])
def test_what_is_no_shard(value: Any) -> None:
    with pytest.raises(ConfigError) as error:
        shard_from(value)
    assert str(error.value) == (
        f"{value!r} is no shard\n"
        "Hint: shard=(3, 16) (--shard 3/16) is the third of sixteen parts; parts are counted from 1."
    )


@pytest.mark.parametrize("value", ["0/4", "5/4", (0, 4)])
def test_shards_that_do_not_exist(value: Any) -> None:
    with pytest.raises(ConfigError, match=r"there is no shard [05] of 4\nHint: shard=\(3, 16\)"):
        shard_from(value)


def test_shards_are_taken_as_they_come() -> None:
    assert shard_from(Shard(index=1, count=2)) == shard_from("1/2") == shard_from((1, 2)) == Shard(index=1, count=2)
    assert str(Shard(index=1, count=2)) == "1/2"


def test_empty_shard() -> None:
    with pytest.raises(DataError) as error:
        onnxq.calibrate(MODEL, DATA, target=ORT, shard=(12, 16))
    assert str(error.value) == (
        "calibration data: shard 12/16 is empty: the data holds 11 samples\n"
        "Hint: split it into at most 11 shards with shard= (--shard)."
    )


def test_shards_beyond_the_last_sample_are_not_missed() -> None:
    whole = onnxq.calibrate(MODEL, DATA[:3], target=ORT)
    parts = [onnxq.calibrate(MODEL, DATA[:3], target=ORT, shard=(i, 5)) for i in (1, 2, 3)]
    two = parts[0].merge(parts[1])
    assert two.shards is not None
    assert two.shards.missing == (3,)
    assert encode_stats(two.merge(parts[2])) == encode_stats(whole)


def test_empty_shards_where_whole_batches_are_dealt_out(tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image")
    for i in range(5):
        image.new("RGB", (4, 4), (i, i, i)).save(tmp_path / f"{i}.png")
    text = "(float[2,3,4,4] x) => (float[2,3,4,4] y) { y = Relu(x) }"
    options = onnxq.ImageOptions(mean=(0, 0, 0), std=(1, 1, 1))
    # The image that is left over makes no shard of its own.
    for data, held, how in ((tmp_path, 5, {"images": options}), (np.ones((5, 3, 4, 4), np.float32), 4, {})):
        assert [batch.samples for batch in opened(data, Shard(index=2, count=3), text, **how).stream()] == [2]
        with pytest.raises(DataError) as error:
            list(opened(data, Shard(index=3, count=3), text, **how).stream())
        assert str(error.value) == (
            f"calibration data: shard 3/3 is empty: the data holds {held} samples, 2 batches of the size that the "
            "model fixes\nHint: split it into at most 2 shards with shard= (--shard)."
        )


def test_broken_promises() -> None:
    with pytest.raises(InternalError, match=r"\(3, 2\) are no shards of 4"):
        ShardSet(count=4, total_samples=9, indices=(3, 2))
    part = opened(numbered(4), Shard(index=1, count=2))
    assert isinstance(part, ShardedBatches)
    with pytest.raises(InternalError, match="a shard is accounted for before its data was read"):
        _ = part.shards
