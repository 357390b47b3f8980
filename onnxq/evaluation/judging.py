"""Models run on labelled batches, and what their samples contribute to a metric."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxq.data.batches import Batch, Batches
from onnxq.errors import ConfigError, DataError
from onnxq.evaluation.agreement import Agreement
from onnxq.evaluation.labels import as_classes, as_column, check_count
from onnxq.evaluation.metrics import Arrays, Cosine, Metric, UserMetric
from onnxq.graph.view import Graph
from onnxq.inference.session import Session


@dataclass(frozen=True, kw_only=True)
class Judge:
    """A metric, the output it looks at, and the labels.

    Attributes:
        metric: The metric.
        output: Name of the output; None hands all of them over.
        labels: One for each sample, shape (n,), for a function of the user (n, ...) as given; or None.
    """

    metric: Metric
    output: str | None
    labels: NDArray[Any] | None = None

    def values(self, outputs: Arrays, reference: Arrays, batch: Batch, start: int) -> NDArray[np.float64]:
        """What the samples of `batch`, the first of which is sample `start`, contribute.

        Raises:
            DataError: the outputs are not what the metric needs, or labels are missing.
        """
        labels = None
        if self.labels is not None:
            labels = self.labels[start : start + batch.samples]
            if len(labels) < batch.samples:
                check_count(self.labels, start + batch.samples, limited=True)
        if self.output is not None:
            outputs, reference = {self.output: outputs[self.output]}, {self.output: reference[self.output]}
        return self.metric.measure(outputs, reference, labels, batch.samples, batch.label)


def judge_for(  # noqa: PLR0913 - one for each choice of the user, two for the words of the caller
    graph: Graph,
    metric: Metric,
    output: str | None,
    labels: NDArray[Any] | None,
    *,
    argument: str = "output= (--output)",
    unlabelled: str = "metric='cosine' and 'sqnr' (--metric)",
) -> Judge:
    """A judge of `graph` and its quantized forms.

    Args:
        graph: The float model.
        metric: The metric.
        output: Name of the output to judge; None is enough for a model that has one.
        labels: The labels, if there are any.
        argument: What the caller names the output with.
        unlabelled: What the caller has for data without labels.

    Raises:
        ConfigError: the output has to be chosen, or does not exist; labels are missing; or the metric says nothing
            about this output.
        DataError: the labels are no class numbers, and the metric needs them.
    """
    if metric.needs_labels and labels is None:
        raise ConfigError(
            f"{metric.name} needs labels",
            hint="pass labels= (--labels): a .npy, .npz, .txt or .csv file, the name of an array in the .npz of the "
            f"data, or 'folders'; without labels there are {unlabelled}.",
        )
    if metric.needs_labels and labels is not None:
        labels = as_classes(labels, metric.name)
    elif labels is not None and isinstance(metric, Agreement):
        labels = as_column(labels)
    names = list(graph.outputs)
    if output is not None and output not in names:
        raise ConfigError(
            f"the model has no output {output!r}; it has {', '.join(map(repr, names))}",
            hint=f"{argument} names one of them.",
        )
    if isinstance(metric, (Agreement, UserMetric)):
        return Judge(metric=metric, output=output, labels=labels)
    if output is None and len(names) > 1:
        raise ConfigError(
            f"the model has {len(names)} outputs: {', '.join(map(repr, names))}",
            hint=f"choose the one that {metric.name} looks at with {argument}.",
        )
    judge = Judge(metric=metric, output=output or names[0], labels=labels)
    if isinstance(metric, Cosine) and (graph.shape(judge.output or "") or ())[1:] == (1,):
        raise ConfigError(
            f"output {judge.output!r} is one number for each sample, whose cosine is 1 however far off it is",
            hint="use metric='sqnr' (--metric sqnr), or a function of your own, such as one of errors against labels.",
        )
    return judge


def run(session: Session, batch: Batch) -> dict[str, NDArray[Any]]:
    """The outputs of a model by name; an output that is no tensor (a sequence) is left out.

    Raises:
        DataError: the model fails on the batch.
    """
    values = session.run(batch.arrays, where=batch.label)
    return {n: v for n, v in zip(session.output_names, values, strict=True) if isinstance(v, np.ndarray)}


def judged(
    judge: Judge, sessions: Mapping[str, Session], reference: str, batches: Iterable[Batch]
) -> dict[str, NDArray[np.float64]]:
    """Run several models on the same batches, read once.

    Args:
        judge: Metric and labels.
        sessions: The models by name.
        reference: Which of them is the float one.
        batches: The data.

    Returns:
        What each sample contributes, shape (samples, columns), for each model.

    Raises:
        DataError: a model fails, the outputs do not fit the metric, or there are fewer labels than samples.
    """
    parts: dict[str, list[NDArray[np.float64]]] = {name: [] for name in sessions}
    start = 0
    for batch in batches:
        truth = run(sessions[reference], batch)
        for name, session in sessions.items():
            outputs = truth if name == reference else run(session, batch)
            try:
                parts[name].append(judge.values(outputs, truth, batch, start))
            except KeyError as error:
                raise DataError(
                    f"the model has no output {error.args[0]!r}",
                    where=name,
                    hint="judge forms of one and the same model",
                ) from error
            except DataError as error:
                error.where = f"{name}, {error.where}" if error.where else name
                raise
        start += batch.samples
    return {name: np.concatenate(found) for name, found in parts.items()}


def labelled(batches: Batches, judge: Judge, *, limited: bool) -> Iterator[Batch]:
    """`batches`, with the labels counted: before the first batch where the number of samples is known, else behind it.

    Raises:
        DataError: there are more or fewer labels than samples.
    """
    labels, known = judge.labels, batches.expected_samples
    if labels is not None and known is not None:
        check_count(labels, known, limited=limited)
    samples = 0
    for batch in batches.stream():
        samples += batch.samples
        yield batch
    if labels is not None and known is None:
        check_count(labels, samples, limited=limited)
