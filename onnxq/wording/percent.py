"""Shares and percentage points as people write them, "95%" or 95. What could be both, 0.9 or 90 %, is refused."""

from __future__ import annotations

import math

from onnxq.errors import ConfigError
from onnxq.wording.flags import flag_of


def percent_from(given: float | str, argument: str) -> float:
    """A share in percent, from 95 or "95%".

    Args:
        given: What the user wrote.
        argument: Of what argument.

    >>> percent_from("0.9%", "min_int8"), percent_from(90, "min_int8")
    (0.9, 90.0)

    Raises:
        ConfigError: it is no share, or a bare number of at most 1, which may be percent or a share of 1.
    """
    percent = _number(given)
    name = f"{argument}= ({flag_of(argument)})"
    if not 0.0 <= percent <= 100.0:
        raise ConfigError(f"{argument} is {given!r}", hint=f"{name} is a number of percent from 0 to 100, or '95%'.")
    if 0.0 < percent <= 1.0 and not str(given).strip().endswith("%"):
        raise ConfigError(
            f"{argument} is {given!r}, which may be {percent:g} % or {100 * percent:g} %",
            hint=f"{name} is in percent: '{percent:g}%' or '{100 * percent:g}%'",
        )
    return percent


def points_from(given: float | str) -> float:
    """Percentage points of `max_drop`, from 0.5 or "0.5%".

    >>> points_from("0.5%"), points_from(1)
    (0.5, 1.0)

    Raises:
        ConfigError: it is no number of points that a score could fall by.
    """
    points = _number(given)
    if not 0 <= points < 100:
        raise ConfigError(
            f"max_drop is {given!r}",
            hint="max_drop= (--max-drop) is a number of percentage points, such as 0.5 or '0.5%'.",
        )
    return points


def _number(given: float | str) -> float:
    try:
        return float(given.strip().removesuffix("%")) if isinstance(given, str) else float(given)
    except ValueError:
        return math.nan
