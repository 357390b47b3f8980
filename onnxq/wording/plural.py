"""Counts in sentences: "1 sample", "2 samples"."""

from __future__ import annotations


def counted(count: int, one: str, many: str | None = None) -> str:
    """`count` with the noun in the right number; `many` where the plural is not `one` with an s.

    >>> counted(1, "batch", "batches"), counted(0, "sample")
    ('1 batch', '0 samples')
    """
    return f"{count} {one if count == 1 else many or one + 's'}"
