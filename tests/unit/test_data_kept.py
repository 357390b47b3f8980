"""Data that can be read only once is kept whole where it is small, so that it can be read again."""

from __future__ import annotations

from typing import Any

import numpy as np

import onnxq
from onnxq.data.batches import Batches
from onnxq.data.inputs import InputSpecs
from onnxq.data.kept import KeptWhole
from onnxq.data.sources import open_data
from tests.graphs import graph_of, model_of, normal
from tests.unit.test_levelling import SCALED, scaled, seldom

BYTES = 2 * 6 * 4
"""Of one feed."""


def stream(*, once: bool) -> Batches:
    graph = graph_of("(float[n,m] x) => (float[n,m] y) { y = Relu(x) }")
    feeds: Any = [{"x": normal(2, 6, seed=i)} for i in range(5)]
    return open_data(iter(feeds) if once else feeds, inputs=InputSpecs.from_graph(graph))


def test_small_data_can_be_read_again() -> None:
    for once in (True, False):
        kept = KeptWhole(stream(once=once), size_bytes=5 * BYTES)
        read = [batch.arrays["x"] for batch in kept.batches.stream()]
        again = kept.again()
        assert again is not None
        for _ in range(2):
            for want, batch in zip(read, again.stream(), strict=True):
                np.testing.assert_array_equal(batch.arrays["x"], want)


def test_larger_data_is_let_go() -> None:
    kept = KeptWhole(stream(once=True), size_bytes=5 * BYTES - 1)
    assert kept.again() is None  # nothing has been read
    assert sum(batch.samples for batch in kept.batches.stream()) == 10
    assert kept.again() is None
    # What can be read again is not kept, and has no such limit.
    assert KeptWhole(stream(once=False), size_bytes=1).again() is not None


def test_levelling_is_the_same_of_a_list_and_of_a_generator() -> None:
    model = model_of(SCALED.replace("c,d", "9,9"), **scaled())
    feeds = [{"x": feed["x"][i : i + 1]} for feed in seldom(*range(24)) for i in range(2)]
    options: dict[str, Any] = {"target": "ort-x64-vnni", "placement": "full", "recover": ["level"]}
    one = onnxq.quantize(model, feeds, **options)
    other = onnxq.quantize(model, (feed for feed in feeds), **options)
    assert any("levelling" in note for note in one.report.notes)
    assert one.model.SerializeToString(deterministic=True) == other.model.SerializeToString(deterministic=True)
