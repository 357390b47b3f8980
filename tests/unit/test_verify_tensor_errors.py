"""The error of each inner tensor, against a computation by hand."""

from __future__ import annotations

import numpy as np
import pytest

from onnxq.graph.view import Graph
from onnxq.numerics.metrics import sqnr_db
from onnxq.verification import tensor_errors as module
from onnxq.verification.engines.onnxruntime import OrtModel
from onnxq.verification.tensor_errors import tensor_errors
from tests.verify_models import conv_feeds, float_conv, int8_conv

FEEDS = list(conv_feeds())[:2]


def test_errors_are_those_behind_the_pair() -> None:
    found = tensor_errors(Graph(float_conv()), Graph(int8_conv()), FEEDS)
    assert list(found) == ["c", "y"]
    want = [OrtModel(float_conv())(feed)["y"] for feed in FEEDS]
    got = [OrtModel(int8_conv(), optimised=False)(feed)["y"] for feed in FEEDS]
    # The float model runs optimised here, which moves its values by some 1e-7 of theirs.
    assert found["y"].sqnr_db == pytest.approx(sqnr_db(np.stack(want), np.stack(got)), abs=1e-4)
    assert found["c"].sqnr_db > 10.0


def test_a_model_against_itself_is_exact() -> None:
    found = tensor_errors(Graph(float_conv()), Graph(float_conv()), FEEDS)
    assert all(e.mismatch_share == 0.0 for e in found.values())


def test_little_memory_gives_the_same() -> None:
    calls: list[tuple[int, int]] = []
    whole = tensor_errors(Graph(float_conv()), Graph(int8_conv()), FEEDS)
    parts = tensor_errors(
        Graph(float_conv()), Graph(int8_conv()), FEEDS, group_bytes=1, progress=lambda *now: calls.append(now)
    )
    assert parts == whole
    assert calls == [(1, 4), (2, 4), (3, 4), (4, 4)]


def test_what_no_reader_tells_apart_is_no_error() -> None:
    free = tensor_errors(Graph(float_conv()), Graph(int8_conv()), FEEDS)["c"]
    bound = tensor_errors(Graph(float_conv()), Graph(int8_conv()), FEEDS, bounds={"c": (0.0, None)})["c"]
    assert bound.sqnr_db != free.sqnr_db
    assert bound.peak <= free.peak


def test_of_large_tensors_a_part_is_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = tensor_errors(Graph(float_conv()), Graph(int8_conv()), FEEDS)["y"]
    monkeypatch.setattr(module, "LOOKED_AT", 100)
    part = tensor_errors(Graph(float_conv()), Graph(int8_conv()), FEEDS)["y"]
    assert 50 <= part.elements <= 400 < whole.elements
    assert part.sqnr_db == pytest.approx(whole.sqnr_db, abs=3.0)  # some hundred elements


def test_nothing_to_run_on() -> None:
    assert tensor_errors(Graph(float_conv()), Graph(int8_conv()), []) == {}
