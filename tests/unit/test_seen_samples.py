"""What tells samples that were seen from others: merges exactly, says nothing it cannot know, stays small."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnxq.calibration.statistics import seen_samples as module
from onnxq.calibration.statistics.seen_samples import SeenBuilder, SeenSamples
from onnxq.errors import InternalError

BITS = random.Random(0)
MANY = [BITS.getrandbits(128) for _ in range(5000)]


@given(st.lists(st.integers(0, 2**128 - 1), max_size=60), st.integers(0, 60), st.randoms())
def test_any_split_and_order_gives_the_same(hashes: list[int], cut: int, order: random.Random) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "MOST_HASHES", 8)
        whole = SeenSamples.of(hashes)
        order.shuffle(hashes)
        one, other = SeenSamples.of(hashes[:cut]), SeenSamples.of(hashes[cut:])
        assert one.merge(other) == other.merge(one) == whole
        builder = SeenBuilder()
        for value in hashes:
            builder.add([value])
        assert builder.freeze() == whole


def test_few_samples_are_all_known() -> None:
    seen = SeenSamples.of(MANY[:100])
    overlap = seen.overlap(MANY[90:120])
    assert (overlap.shared, overlap.exact, str(overlap)) == (10, True, "10")
    both = seen.shared_with(SeenSamples.of(MANY[99:200]))
    assert (both.shared, both.exact) == (1, True)


def test_of_many_samples_a_share_is_known() -> None:
    seen = SeenSamples.of(MANY)
    assert len(seen.hashes) == module.MOST_HASHES
    overlap = seen.overlap(MANY[:100])
    # 1024 of 5000 hashes are kept: of 100 samples, 20 are known in the mean, with a standard deviation of 4.
    assert 4 <= overlap.shared <= 36
    assert str(overlap) == f"at least {overlap.shared}"
    assert seen.overlap([value + 1 for value in MANY[:100]]).shared == 0
    assert str(seen.shared_with(SeenSamples.of(MANY[:1]))).startswith("at least ")


@pytest.mark.parametrize("hashes", [(2, 1), (1, 1), (-1, 1), (1, 2**64), tuple(range(1025))])
def test_broken_sketches_are_internal_errors(hashes: tuple[int, ...]) -> None:
    with pytest.raises(InternalError, match="hash"):
        SeenSamples(hashes)
