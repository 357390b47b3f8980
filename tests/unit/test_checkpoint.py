"""Checkpoints: an interrupted calibration goes on to the very bytes of one that was not."""

from __future__ import annotations

import itertools
import signal
import struct
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import onnxq
from onnxq.calibration import checkpoint as module
from onnxq.calibration.checkpoint import (
    Checkpointing,
    Saved,
    load_checkpoint,
    save_checkpoint,
    stop_on_signals,
)
from onnxq.calibration.progress import Progress
from onnxq.calibration.statistics.file import encode_stats
from onnxq.errors import ArtifactError, ConfigError, DataError, InterruptedRunError
from tests.graphs import model_of, normal
from tests.planned import ORT

TEXT = """(float[N,16,8,8] x) => (float[N,16,8,8] y) {
    [c1] a = Conv<pads=[1,1,1,1]>(x, w)
    [r] ar = Relu(a)
    [c2] y = Conv<pads=[1,1,1,1]>(ar, v)
    }"""
MODEL = model_of(TEXT, w=normal(16, 16, 3, 3), v=normal(16, 16, 3, 3, seed=1))
DATA = normal(20, 16, 8, 8)
EACH = 1e-9
"""Seconds: a checkpoint after every batch."""


@pytest.fixture(scope="module")
def whole() -> bytes:
    return encode_stats(onnxq.calibrate(MODEL, DATA, target=ORT))


def stop_after(batches: int) -> Callable[[], int | None]:
    """SIGTERM, as it were, once so many batches were asked for."""
    asked = iter(range(10**6))
    return lambda: signal.SIGTERM if next(asked) >= batches else None


def interrupted(path: Path, batches: int, **options: Any) -> InterruptedRunError:
    saving = Checkpointing(path=path, stop=stop_after(batches), resume=True)
    with pytest.raises(InterruptedRunError) as error:
        onnxq.calibrate(MODEL, DATA, target=ORT, checkpoint=saving, **options)
    return error.value


def resumed(path: Path, data: Any = DATA, model: Any = MODEL, **options: Any) -> onnxq.StatsTable:
    return onnxq.calibrate(model, data, target=ORT, checkpoint=path, resume=True, **options)


# ---- going on --------------------------------------------------------------------------------------------------------


def test_checkpoints_do_not_show_in_the_result(tmp_path: Path, whole: bytes) -> None:
    saving = Checkpointing(path=tmp_path / "c", every_s=EACH)
    assert encode_stats(onnxq.calibrate(MODEL, DATA, target=ORT, checkpoint=saving)) == whole
    assert list(tmp_path.iterdir()) == []


def test_a_run_in_one_piece_writes_no_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(module, "write_kept")
    onnxq.calibrate(MODEL, DATA, target=ORT, checkpoint=tmp_path / "c")


@pytest.mark.parametrize("batch_size", [1, 3])
@pytest.mark.parametrize("stops", [[0], [5], [2, 0, 7], [19]])
def test_resumed_run_gives_the_same_bytes(stops: list[int], batch_size: int, tmp_path: Path, whole: bytes) -> None:
    path = tmp_path / "c"
    done = 0
    for batches in stops:
        done += batches + 1
        if done * batch_size >= len(DATA):
            break
        error = interrupted(path, batches, batch_size=batch_size)
        assert error.signal_number == signal.SIGTERM
        samples = "1 sample is" if done * batch_size == 1 else f"{done * batch_size} samples are"
        assert str(error) == (
            f"interrupted by SIGTERM: {samples} done and saved in {str(path)!r}\n"
            "Hint: run the same with resume=True (--resume) to go on from there"
        )
        assert load_checkpoint(path).batches == done
    assert encode_stats(resumed(path, batch_size=batch_size)) == whole
    assert not path.exists()


def test_counted_batches_are_not_run_again(tmp_path: Path) -> None:
    interrupted(tmp_path / "c", 4)
    seen: list[Progress] = []
    resumed(tmp_path / "c", progress=seen.append)
    assert [p.samples for p in seen] == list(range(6, 21))
    assert [p.batches for p in seen] == list(range(6, 21))
    assert {p.expected_samples for p in seen} == {20}
    assert all(a.elapsed_s <= b.elapsed_s for a, b in itertools.pairwise(seen))


def test_an_error_in_the_middle_leaves_the_last_checkpoint(tmp_path: Path, whole: bytes) -> None:
    bad = DATA.copy()
    bad[12] = np.nan
    with pytest.raises(DataError, match="calibration batch 13"):
        onnxq.calibrate(MODEL, bad, target=ORT, checkpoint=Checkpointing(path=tmp_path / "c", every_s=EACH))
    assert load_checkpoint(tmp_path / "c").batches == 12
    assert encode_stats(resumed(tmp_path / "c")) == whole


def test_generators_can_be_resumed(tmp_path: Path, whole: bytes) -> None:
    interrupted(tmp_path / "c", 4)
    feeds = ({"x": sample[None]} for sample in DATA)
    assert encode_stats(resumed(tmp_path / "c", feeds)) == whole


def test_a_run_in_several_passes_can_be_resumed(tmp_path: Path, whole: bytes) -> None:
    # A tapped tensor takes 4 KiB in each of three batches that are alive, so that only one fits.
    options: dict[str, Any] = {"memory_limit": 16 * 8 * 8 * 4 * 3, "target": ORT}
    saving = Checkpointing(path=tmp_path / "c", every_s=EACH, stop=stop_after(6))
    with pytest.raises(InterruptedRunError):
        onnxq.calibrate(MODEL, DATA, checkpoint=saving, **options)
    seen: list[Progress] = []
    again = onnxq.calibrate(MODEL, DATA, checkpoint=tmp_path / "c", resume=True, progress=seen.append, **options)
    assert {p.passes for p in seen} == {2}
    assert encode_stats(again) == whole


def test_shards_can_be_resumed(tmp_path: Path) -> None:
    part = onnxq.calibrate(MODEL, DATA, target=ORT, shard="2/3")
    interrupted(tmp_path / "c", 2, shard="2/3")
    again = resumed(tmp_path / "c", shard="2/3")
    assert encode_stats(again) == encode_stats(part)
    assert again.shards is not None


def test_nothing_to_resume_starts_from_the_beginning(tmp_path: Path, whole: bytes) -> None:
    assert encode_stats(resumed(tmp_path / "c")) == whole


def test_starting_over_on_demand(tmp_path: Path, whole: bytes) -> None:
    interrupted(tmp_path / "c", 4)
    saving = Checkpointing(path=tmp_path / "c", overwrite=True)
    assert encode_stats(onnxq.calibrate(MODEL, DATA, target=ORT, checkpoint=saving)) == whole


def test_empty_data_is_the_usual_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no calibration data"):
        onnxq.calibrate(MODEL, [], target=ORT, checkpoint=tmp_path / "c")


# ---- refusals --------------------------------------------------------------------------------------------------------


def test_a_checkpoint_is_not_thrown_away_unasked(tmp_path: Path) -> None:
    interrupted(tmp_path / "c", 4)
    with pytest.raises(ConfigError) as error:
        onnxq.calibrate(MODEL, DATA, target=ORT, checkpoint=tmp_path / "c")
    assert str(error.value) == (
        f"{tmp_path / 'c'}: there is a checkpoint of an interrupted calibration\n"
        "Hint: go on from it with resume=True (--resume), or remove it (--force) to start over"
    )


def test_another_model_is_refused(tmp_path: Path) -> None:
    interrupted(tmp_path / "c", 4)
    other = model_of(TEXT, w=normal(16, 16, 3, 3, seed=7), v=normal(16, 16, 3, 3, seed=1))
    with pytest.raises(ArtifactError) as error:
        resumed(tmp_path / "c", model=other)
    assert str(error.value) == (
        f"{tmp_path / 'c'}: the checkpoint belongs to another model\nHint: resume with the model it was begun with"
    )


def test_other_taps_are_refused(tmp_path: Path) -> None:
    interrupted(tmp_path / "c", 4)
    with pytest.raises(ArtifactError) as error:
        resumed(tmp_path / "c", exclude=["c2"])
    assert "the checkpoint is of other tensors: " in str(error.value)
    assert str(error.value).endswith(
        "Hint: resume with the same target= (--target), exclude= (--exclude) and exclude_ops= (--exclude-op)"
    )


@pytest.mark.parametrize(
    ("begun", "goes_on", "difference", "option"),
    [
        ({}, {"full_histogram": True}, "full_histogram=False, not True", "full_histogram= (--full-histogram)"),
        ({"nonfinite": "ignore"}, {}, "nonfinite=ignore, not error", "nonfinite= (--nonfinite)"),
        ({"range_only": True}, {}, "range_only=True, not False", "range_only= (--range-only)"),
    ],
)
def test_other_options_that_show_in_the_result_are_refused(
    begun: dict[str, Any], goes_on: dict[str, Any], difference: str, option: str, tmp_path: Path
) -> None:
    interrupted(tmp_path / "c", 4, **begun)
    with pytest.raises(ArtifactError) as error:
        resumed(tmp_path / "c", **goes_on)
    assert str(error.value) == (
        f"{tmp_path / 'c'}: the checkpoint was made with {difference}\n"
        f"Hint: resume with the options it was begun with: {option}"
    )


def test_options_that_do_not_show_may_change(tmp_path: Path, whole: bytes) -> None:
    interrupted(tmp_path / "c", 4)
    table = resumed(tmp_path / "c", threads=1, memory_limit="10MB", providers=["cpu"])
    assert encode_stats(table) == whole


def changed() -> Iterator[tuple[str, Any, dict[str, Any]]]:
    other = DATA.copy()
    other[3, 0, 0, 0] += 1
    yield "a sample of the past", other, {}
    yield "the order", DATA[::-1].copy(), {}
    yield "too little of it", DATA[:3], {}
    yield "the batch size", DATA, {"batch_size": 2}
    yield "the shard", DATA, {"shard": "1/2"}


@pytest.mark.parametrize(("data", "options"), [pytest.param(d, o, id=name) for name, d, o in changed()])
def test_other_data_are_refused(data: Any, options: dict[str, Any], tmp_path: Path) -> None:
    interrupted(tmp_path / "c", 4)
    with pytest.raises(ArtifactError) as error:
        resumed(tmp_path / "c", data, **options)
    assert str(error.value) == (
        f"{tmp_path / 'c'}: the checkpoint is of other data: its first 5 batches were 5 samples that are not those of "
        "this run\nHint: resume with the same data in the same order, and with the same options for it (batch_size= "
        "(--batch-size), limit= (--limit), shard= (--shard), layout= (--layout), images= (--images))"
    )


def test_resume_without_a_place_is_refused() -> None:
    with pytest.raises(ConfigError) as error:
        onnxq.calibrate(MODEL, DATA, target=ORT, resume=True)
    assert str(error.value) == (
        "there is no checkpoint to resume from\nHint: name it with checkpoint= (--checkpoint) beside resume=True"
    )


def test_impossible_time(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as error:
        Checkpointing(path=tmp_path, every_s=0)
    assert str(error.value) == (
        "a checkpoint every 0 seconds is impossible\n"
        "Hint: checkpoint_every_s= (--checkpoint-every) is a number of seconds above 0."
    )


def saved() -> Saved:
    table = onnxq.StatsTable(tensors={}, digest="d", samples=3)
    return Saved(stats=table, batches=2, elapsed_s=1.5, options={"nonfinite": "error"})


def test_round_trip_and_every_damaged_byte(tmp_path: Path) -> None:
    path = tmp_path / "c"
    save_checkpoint(saved(), path)
    assert load_checkpoint(path) == saved()
    content = path.read_bytes()
    for i in range(len(content)):
        path.write_bytes(content[:i] + bytes([content[i] ^ 1]) + content[i + 1 :])
        with pytest.raises(ArtifactError, match="this is no checkpoint, or a damaged one\nHint: remove it and"):
            load_checkpoint(path)
    for end in range(len(content)):
        path.write_bytes(content[:end])
        with pytest.raises(ArtifactError, match="this is no checkpoint, or a damaged one"):
            load_checkpoint(path)


def test_other_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "VERSION", 3)
    save_checkpoint(saved(), tmp_path / "c")
    monkeypatch.undo()
    with pytest.raises(ArtifactError, match="the checkpoint has version 3, this onnxq reads version 2\nHint: resume "):
        load_checkpoint(tmp_path / "c")


def test_places_that_cannot_be_used(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot write the checkpoint: No such file or directory\nHint: choose a"):
        save_checkpoint(saved(), tmp_path / "absent" / "c")
    with pytest.raises(ArtifactError, match="cannot read the checkpoint: No such file or directory"):
        load_checkpoint(tmp_path / "c")


def test_header_is_as_documented(tmp_path: Path) -> None:
    save_checkpoint(saved(), tmp_path / "c")
    content = (tmp_path / "c").read_bytes()
    assert content.startswith(b"onnxq-checkpoint\n")
    assert struct.unpack_from("<BIdH", content, 17 + 32) == (2, 2, 1.5, 22)
    assert content[17 + 32 + 15 :].startswith(b'{"nonfinite": "error"}')


# ---- signals ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_is_noted_and_the_second_acts(number: int) -> None:
    received = []
    before = signal.signal(number, lambda n, _: received.append(n))
    try:
        with stop_on_signals() as stop:
            assert stop() is None
            signal.raise_signal(number)
            assert stop() == number
            assert received == []
            signal.raise_signal(number)
            assert received == [number]
    finally:
        signal.signal(number, before)


def test_handlers_are_put_back() -> None:
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    with stop_on_signals():
        assert signal.getsignal(signal.SIGINT) is not before[0]
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


def test_other_threads_take_no_signals() -> None:
    told = []

    def run() -> None:
        with stop_on_signals() as stop:
            told.append(stop())

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert told == [None]
