"""One question that verification asked, and its answer."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from onnxq.errors import GateError


@dataclass(frozen=True, kw_only=True)
class Check:
    """The outcome of one check.

    Attributes:
        name: Short stable name, for machines and for gates ("engine builds").
        passed: Whether it holds.
        detail: What was looked at and what was found, in a sentence.
    """

    name: str
    passed: bool
    detail: str


def check_all(name: str, failures: list[str], examined: int, subject: str) -> Check:
    """A check over many things: passes when it examined at least one of them and none failed.

    Args:
        name: Name of the check.
        failures: A sentence for each thing that failed.
        examined: How many things were looked at.
        subject: What the things are, with its first noun in the plural: "nodes meant to run in int8".

    >>> check_all("agreement", [], 0, "tensors").passed
    False
    """
    if examined == 0:
        return Check(name=name, passed=False, detail=f"nothing was checked: there are no {subject}")
    if examined == 1:
        subject = re.sub(r"(\w+)s\b", r"\1", subject, count=1)
    if failures:
        shown = "; ".join(failures[:3]) + (f"; and {len(failures) - 3} more" if len(failures) > 3 else "")
        return Check(name=name, passed=False, detail=f"{len(failures)} of {examined} {subject}: {shown}")
    return Check(name=name, passed=True, detail=f"{'1 of 1' if examined == 1 else f'all {examined}'} {subject}")


def gate_error(failed: Sequence[Check]) -> GateError:
    """The error for checks that did not pass, naming each.

    >>> str(gate_error([Check(name="engine builds", passed=False, detail="a layer is refused")]))
    'not passed: engine builds: a layer is refused'
    """
    named = "; ".join(f"{check.name}: {check.detail}" for check in failed)
    return GateError(f"not passed: {named or 'nothing was checked'}")
