"""The samples that a search judges models on, and their labels."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from numpy.typing import NDArray

from onnxq.data.batches import Batch, Batches
from onnxq.data.kept import keep_first
from onnxq.errors import ConfigError
from onnxq.evaluation.evaluate import labelled_data
from onnxq.evaluation.judging import Judge, judge_for
from onnxq.evaluation.labels import label_key, load_labels
from onnxq.evaluation.metrics import LABELLED, metric_from
from onnxq.graph.view import Graph
from onnxq.pipeline.reading import Reading
from onnxq.pipeline.stages import read_through
from onnxq.search.budget import Budget

_UNLABELLED = "min_sqnr= and min_cosine= (--min-sqnr with --search, --min-cosine)"
"""Demands that need no labels."""


@dataclass(frozen=True, kw_only=True)
class Judged:
    """Samples to judge on.

    Attributes:
        batches: The samples; they can be read again.
        labels: Their labels, where the budget needs and the data has them.
        limited: Whether only a part of the data is used, so that there may be more labels than samples.
    """

    batches: Batches
    labels: NDArray[Any] | None = None
    limited: bool = False


def open_for(budget: Budget | None, reading: Reading, graph: Graph, data: Any) -> Batches:
    """The calibration data; under a budget it can be read again, and labels that lie among it are left out.

    Raises:
        ConfigError: a budget has no real samples to be judged on.
        DataError: as `open_data`.
    """
    if budget is None:
        return reading.open(graph, data)
    if data is None and budget.data is None:
        raise ConfigError(
            "a search needs real samples to judge models on",
            hint="pass data= (--data), or eval_data= (--eval-data) beside statistics",
        )
    key = label_key(budget.labels, data) if budget.data is None else None
    batches = reading.open(graph, data, skip=() if key is None else (key,))
    return batches.cached() if batches.one_shot else batches


def judged_by(budget: Budget, reading: Reading, graph: Graph, data: Any, batches: Batches) -> Judged:
    """What a budget is judged on: its own samples, or the calibration data `batches`, read from `data`.

    Raises:
        ConfigError: the labels are of no known kind, or missing, or the output has to be chosen.
        DataError: the samples or labels cannot be read, or the metric does not take the labels.
    """
    source, limit = (data, reading.limit) if budget.data is None else (budget.data, None)
    if budget.data is not None:
        batches = labelled_data(graph, source, budget.labels, replace(reading, limit=None))
        batches = batches.cached() if batches.one_shot else batches
    labels = load_labels(budget.labels, source, limit=limit) if budget.max_drop is not None else None
    judge_of(graph, budget, labels)  # what is missing is told before any work is done
    return Judged(batches=batches, labels=labels, limited=limit is not None)


def judge_of(graph: Graph, budget: Budget, labels: NDArray[Any] | None) -> Judge | None:
    """Who judges forms of `graph` by the metric of a budget; None where it asks for none.

    Raises:
        OnnxqError: as `judge_for`.
    """
    if budget.max_drop is None:
        return None
    metric = metric_from(budget.metric or "top1", offered=LABELLED)
    argument = "output_name= (--output-name)"
    return judge_for(graph, metric, budget.output, labels, argument=argument, unlabelled=_UNLABELLED)


def first_samples(batches: Batches) -> list[Batch]:
    """The first batches of data that is read once more for them."""
    reader, kept = keep_first(batches)
    read_through(reader)
    return kept
