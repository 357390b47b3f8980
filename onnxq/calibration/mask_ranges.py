"""Ranges of masked scores and of their masks, which end where a Softmax tells nothing apart (`planning/masks.py`)."""

from __future__ import annotations

from collections.abc import Mapping

from onnxq.graph.view import Graph
from onnxq.numerics.qparams import Range
from onnxq.planning.masks import REACH, mask_source, masked_scores, readers_of_mask
from onnxq.planning.plan import FromValues, Observed, QuantPlan, root_of


def with_mask_ends(graph: Graph, plan: QuantPlan, ranges: Mapping[str, Range]) -> dict[str, Range]:
    """`ranges` with those of masked scores and masks as the scores alone ask for, whether data hid any or not.

    Args:
        graph: The normalised float graph the plan was made for.
        plan: What to quantize.
        ranges: A range for each tensor in `plan.observed()`.

    Returns:
        These, and ranges of the masks that are constants.
    """
    found = dict(ranges)
    masks: dict[str, tuple[float, set[str]]] = {}
    for masked in masked_scores(graph):
        total = _settable(plan, masked.total)
        if total is None:
            continue
        # Of scores that no pair rounds, the sum has seen those that are not hidden.
        scores = found.get(root_of(plan.tensors, masked.scores), ranges.get(total) if masked.unseen else None)
        if scores is None:
            continue
        low, high = float(scores.rmin), float(scores.rmax)
        found[total] = Range.of(low - REACH, high)
        mask = _settable(plan, masked.mask) or _settable(plan, mask_source(graph, masked.mask))
        if mask is not None:
            lowest, readers = masks.get(mask, (0.0, set[str]()))
            masks[mask] = min(lowest, low - high - REACH), readers | {masked.node}
    for mask, (lowest, readers) in masks.items():
        if readers_of_mask(graph, plan.tensors[mask].name) <= readers:
            found[mask] = Range.of(lowest, 0.0)
    return found


def _settable(plan: QuantPlan, tensor: str) -> str | None:
    """The key of the tensor whose range decides on `tensor`, if nothing but data or its own values does."""
    key = root_of(plan.tensors, tensor)
    planned = plan.tensors.get(key)
    if planned is None or planned.group is not None:
        return None
    if isinstance(planned.source, FromValues):
        return key if planned.source.amax is None else None
    return key if isinstance(planned.source, Observed) else None
