"""Which samples statistics are of: a fingerprint of all of them, and as many hashes as tell one sample from others.

Of the hashes of all samples, cut to 64 bits, the MOST_HASHES smallest are kept. Of a sample whose hash is not above the
largest of them it is known whether it was seen; of others only while no hash had to be let go. The smallest of a union
are the smallest of what is kept of its parts, so this merges exactly, in any order, and takes 8 kB at most.
Source: A. Broder, "On the resemblance and containment of documents", SEQUENCES 1997 (the sketch of smallest hashes).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field

from onnxq.errors import ArtifactError, InternalError

FINGERPRINT_BITS = 128
EMPTY_FINGERPRINT = "0" * (FINGERPRINT_BITS // 4)

MOST_HASHES = 1024
HASH_BITS = 64
_CUT = (1 << HASH_BITS) - 1


def combine_fingerprints(*fingerprints: str) -> str:
    """Fingerprint of several data sets together, whatever their order: the sum modulo 2^128.

    Args:
        fingerprints: 32 hexadecimal digits each, of one sample or of a set.

    Returns:
        32 hexadecimal digits; of nothing, EMPTY_FINGERPRINT.

    Raises:
        ArtifactError: an argument is not 32 lower-case hexadecimal digits.
    """
    total = 0
    for text in fingerprints:
        if len(text) != len(EMPTY_FINGERPRINT) or not set(text) <= set("0123456789abcdef"):
            raise ArtifactError(f"data fingerprint {text!r} is not {len(EMPTY_FINGERPRINT)} hexadecimal digits")
        total += int(text, 16)
    return f"{total % 2**FINGERPRINT_BITS:0{len(EMPTY_FINGERPRINT)}x}"


@dataclass(frozen=True)
class Overlap:
    """How many samples were seen.

    Attributes:
        shared: Of how many that is known.
        exact: Whether there cannot be more of them.
    """

    shared: int
    exact: bool

    def __str__(self) -> str:
        return f"{'' if self.exact else 'at least '}{self.shared}"


@dataclass(frozen=True)
class SeenSamples:
    """The smallest hashes of some samples.

    Attributes:
        hashes: Below 2^64, ascending, each once, MOST_HASHES at most: fewer are those of all samples.
    """

    hashes: tuple[int, ...] = field(default=(), repr=False)

    def __post_init__(self) -> None:
        ascending = all(one < other for one, other in zip(self.hashes, self.hashes[1:], strict=False))
        if len(self.hashes) > MOST_HASHES or not ascending or (self.hashes and self.hashes[0] < 0):
            raise InternalError("hashes of samples are not ascending, or too many")
        if self.hashes and self.hashes[-1] > _CUT:
            raise InternalError(f"a hash has more than {HASH_BITS} bits")

    @classmethod
    def of(cls, hashes: Iterable[int]) -> SeenSamples:
        """Of samples with these hashes, of any number of bits."""
        return cls(tuple(sorted({value & _CUT for value in hashes})[:MOST_HASHES]))

    @property
    def limit(self) -> int:
        """The largest hash of which it is known whether it was seen."""
        return _CUT if len(self.hashes) < MOST_HASHES else self.hashes[-1]

    def merge(self, other: SeenSamples) -> SeenSamples:
        """Of the samples of both."""
        return SeenSamples.of((*self.hashes, *other.hashes))

    def overlap(self, hashes: Collection[int]) -> Overlap:
        """How many of the samples with these hashes were seen."""
        known = set(self.hashes)
        cut = [value & _CUT for value in hashes]
        return Overlap(sum(value in known for value in cut), all(value <= self.limit for value in cut))

    def shared_with(self, other: SeenSamples) -> Overlap:
        """How many samples both have seen."""
        return Overlap(len({*self.hashes} & {*other.hashes}), self.limit == other.limit == _CUT)


class SeenBuilder:
    """Takes in samples as they come."""

    def __init__(self) -> None:
        self._hashes: list[int] = []
        self._limit = _CUT

    def add(self, hashes: Iterable[int]) -> None:
        """Take in samples with these hashes."""
        self._hashes += [cut for value in hashes if (cut := value & _CUT) <= self._limit]
        if len(self._hashes) >= 2 * MOST_HASHES:
            seen = self.freeze()
            self._hashes, self._limit = list(seen.hashes), seen.limit

    def freeze(self) -> SeenSamples:
        """Of those so far."""
        return SeenSamples.of(self._hashes)
