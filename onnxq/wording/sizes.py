"""Sizes as people read them, in decimal units."""

from __future__ import annotations

import re


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


def bytes_from(text: str) -> int | None:
    """The bytes that a size such as "500MB" or "4 GB" stands for (decimal, as in reports); None where it is no size.

    >>> bytes_from("1.5GB"), bytes_from("4096"), bytes_from("-3")
    (1500000000, 4096, None)
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]?B)?", text.strip().upper(), re.ASCII)
    return None if found is None else int(float(found[1]) * _UNITS[found[2] or "B"]) or None


_UNITS = {"B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
