"""Sizes as people read them, in decimal units."""

from __future__ import annotations


def size_text(size_bytes: float) -> str:
    """A size as people read it.

    >>> size_text(14_307_948)
    '14.3 MB'
    """
    for unit in ("B", "kB", "MB"):
        if size_bytes < 1000:
            return f"{size_bytes:.0f} {unit}" if unit == "B" else f"{size_bytes:.1f} {unit}"
        size_bytes /= 1000
    return f"{size_bytes:.1f} GB"
