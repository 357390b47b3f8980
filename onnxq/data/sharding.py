"""Names the parts of a split of the calibration data, and keeps account of which parts statistics hold.

    shard i of n, i = 1..n, holds the samples whose index s (from 0, in the order of the data) has s mod n == i - 1

The split does not depend on the batch size. Where the model fixes its batch at k, runs of k samples stand for samples.
A table of statistics remembers which shards of which split it holds until it holds all of them; then it is the table of
the whole data, equal to that of a single run. Merging refuses a shard that is counted already and shards of another
split, so nothing is counted twice.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from onnxq.errors import ArtifactError, ConfigError, InternalError
from onnxq.wording.plural import counted

_TEXT = re.compile(r"(\d{1,9})/(\d{1,9})")


@dataclass(frozen=True, kw_only=True)
class Shard:
    """One part of a split. Made by `shard_from`, which checks it.

    Attributes:
        index: Which part, from 1.
        count: Number of parts.
    """

    index: int
    count: int

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"

    def holds(self, unit: int) -> bool:
        """Whether the sample (or run of samples) with this index, from 0, belongs to the shard."""
        return unit % self.count == self.index - 1


def shard_from(value: Shard | str | tuple[int, int]) -> Shard:
    """The shard that a user named.

    Args:
        value: "3/16" or (3, 16).

    Raises:
        ConfigError: it is no such pair, or the index is not in [1, count].

    >>> shard_from("3/16")
    Shard(index=3, count=16)
    """
    if isinstance(value, Shard):
        return value
    hint = "shard=(3, 16) (--shard 3/16) is the third of sixteen parts; parts are counted from 1."
    if isinstance(value, str):
        found = _TEXT.fullmatch(value.strip())
        pair: tuple[Any, ...] = tuple(map(int, found.groups())) if found else ()
    else:
        pair = tuple(value) if isinstance(value, (tuple, list)) else ()
    if len(pair) != 2 or not all(isinstance(number, int) for number in pair):
        raise ConfigError(f"{value!r} is no shard", hint=hint)
    index, count = pair
    if not 1 <= index <= count:
        raise ConfigError(f"there is no shard {index} of {count}", hint=hint)
    return Shard(index=index, count=count)


@dataclass(frozen=True, kw_only=True)
class ShardSet:
    """Which shards of a split a table of statistics holds.

    Attributes:
        count: Number of shards in the split.
        total_samples: Samples in the whole data; shards of other data are told apart by it.
        indices: The shards, ascending, from 1; at least one.
    """

    count: int
    total_samples: int
    indices: tuple[int, ...]

    def __post_init__(self) -> None:
        rising = all(a < b for a, b in zip(self.indices, self.indices[1:], strict=False))
        if not self.indices or not rising or self.indices[0] < 1 or self.indices[-1] > self.count:
            raise InternalError(f"{self.indices} are no shards of {self.count}")

    def __str__(self) -> str:
        if len(self.indices) == 1:
            return f"shard {self.indices[0]}/{self.count}"
        return f"shards {', '.join(map(str, self.indices))} of {self.count}"

    @property
    def complete(self) -> bool:
        return not self.missing

    @property
    def missing(self) -> tuple[int, ...]:
        """Shards of the split that are not held; those beyond the last sample hold nothing."""
        return tuple(sorted(set(range(1, min(self.count, self.total_samples) + 1)).difference(self.indices)))

    def to_json(self) -> dict[str, Any]:
        """For the header of the statistics file."""
        return {"count": self.count, "total_samples": self.total_samples, "indices": list(self.indices)}

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> ShardSet:
        """The reverse of `to_json`."""
        return cls(
            count=int(document["count"]),
            total_samples=int(document["total_samples"]),
            indices=tuple(int(i) for i in document["indices"]),
        )


def merge_shards(one: ShardSet | None, other: ShardSet | None) -> ShardSet | None:
    """The shards held by two tables together; None for whole data, which a complete split is.

    Raises:
        ArtifactError: a shard would be counted twice, the splits differ, or a shard meets whole data.
    """
    if one is None and other is None:
        return None
    if one is None or other is None:
        raise ArtifactError(
            f"statistics of {one or other} cannot be merged with statistics of whole data: "
            "the shard may be part of that data",
            hint="merge all shards of one split first (onnxq merge part-*.stats -o whole.stats)",
        )
    if (one.count, one.total_samples) != (other.count, other.total_samples):
        raise ArtifactError(
            f"these are shards of different splits: {one} of {counted(one.total_samples, 'sample')}, "
            f"and {other} of {counted(other.total_samples, 'sample')}",
            hint="run every shard with the same data, limit= (--limit) and number of shards in shard= (--shard)",
        )
    if twice := sorted(set(one.indices).intersection(other.indices)):
        raise ArtifactError(
            f"shard {twice[0]}/{one.count} would be counted twice",
            hint="give each shard's statistics once",
        )
    merged = replace(one, indices=tuple(sorted((*one.indices, *other.indices))))
    return None if merged.complete else merged
