"""What each sample contributes to a score, and how the contributions become one.

top1, top5    1 where the label is among the 1 or 5 largest entries of the output, else 0; mean
cosine        cos(r, c) = r.c / (|r| |c|) of each sample's output with the float model's; mean
sqnr          10 log10( sum r^2 / sum (r - c)^2 ) over all samples, in dB
FILE.py:FUNCTION, or a function in Python
              function(outputs, labels) gives one number for each sample, larger is better; mean. `outputs` is
              {output name: array} of a batch, `labels` are those of its samples or None. Where all numbers are 0 or 1,
              they count right answers, as top1 does.

Equal entries rank in the order of their classes, as argmax has it. A row with NaN is wrong.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from onnxq.data.user_code import function_from, names_function
from onnxq.errors import ConfigError, DataError
from onnxq.evaluation.intervals import Interval, bootstrap, wilson
from onnxq.wording.plural import counted

Arrays = Mapping[str, NDArray[Any]]
Function = Callable[[Arrays, Any], Any]

LABELLED = ("top1", "top5")
METRICS = (*LABELLED, "cosine", "sqnr")
_WITHOUT_LABELS = "there are no labels: pass labels= (--labels) if it needs them, else "


class Metric(ABC):
    """A score over samples.

    Attributes:
        name: What the user calls it.
        unit: "%" for shares, "dB", or nothing.
        needs_labels: Whether it compares with labels.
        against_float: Whether it compares with the float model's output.
        counts_right_answers: Whether each sample is right (1) or wrong (0) by definition.
    """

    name: str
    unit: ClassVar[str] = ""
    needs_labels: ClassVar[bool] = False
    against_float: ClassVar[bool] = False
    counts_right_answers: ClassVar[bool] = False

    @abstractmethod
    def measure(self, outputs: Arrays, reference: Arrays, labels: Any, samples: int, where: str) -> NDArray[np.float64]:
        """What each sample of a batch contributes, float64, shape (samples, columns).

        Args:
            outputs: The chosen output, or all of them for a function of the user.
            reference: The float model's.
            labels: The labels of the batch, or None.
            samples: Number of samples.
            where: What the batch is called in errors.

        Raises:
            DataError: the outputs are not what the metric needs.
        """

    def are_right_answers(self, *values: NDArray[np.float64]) -> bool:
        """Whether each sample is right (1) or wrong (0) in all of `values`, so that the score is a share."""
        return self.counts_right_answers

    def total(self, sums: NDArray[np.float64], samples: int) -> NDArray[np.float64]:
        """Scores from sums over `samples` samples; sums have shape (n, columns), the result (n,)."""
        return np.asarray(sums[:, 0] / samples, np.float64)

    def score(self, values: NDArray[np.float64]) -> float:
        """The score of all samples."""
        return float(self.total(values.sum(axis=0, keepdims=True), len(values))[0])

    def interval(self, values: NDArray[np.float64]) -> Interval:
        """Its 95 % confidence interval."""
        if self.are_right_answers(values):
            return wilson(int(values[:, 0].sum()), len(values))
        return bootstrap(values, lambda sums: self.total(sums, len(values)))


class TopK(Metric):
    """Share of samples whose label is among the k largest entries."""

    unit = "%"
    needs_labels = True
    counts_right_answers = True

    def __init__(self, k: int) -> None:
        self.name = f"top{k}"
        self._k = k

    def measure(self, outputs: Arrays, reference: Arrays, labels: Any, samples: int, where: str) -> NDArray[np.float64]:
        name, output = next(iter(outputs.items()))
        wanted = np.asarray(labels)
        if output.dtype.kind in "iu" and output.size == samples and self._k == 1:
            return np.asarray(output.reshape(-1) == wanted, np.float64)[:, None]
        logits = _logits(name, output, samples, self.name, where)
        classes = logits.shape[1]
        outside = (wanted < 0) | (wanted >= classes)
        if outside.any():
            raise DataError(
                f"label {int(wanted[outside][0])} is out of range: "
                f"output {name!r} has {counted(classes, 'class', 'classes')}, 0 to {classes - 1}",
                where=where,
                hint="labels= (--labels) hold class numbers that count from 0, in the model's own order.",
            )
        own = np.take_along_axis(logits, wanted[:, None].astype(np.int64), axis=1)
        earlier = np.arange(classes)[None, :] < wanted[:, None]
        ahead = (logits > own) | ((logits == own) & earlier)
        right = (ahead.sum(axis=1) < self._k) & ~np.isnan(logits).any(axis=1)
        return np.asarray(right, np.float64)[:, None]


def _logits(name: str, output: NDArray[Any], samples: int, metric: str, where: str) -> NDArray[Any]:
    """`output` as (samples, classes); trailing axes of size 1 are dropped."""
    shape = output.shape
    while len(shape) > 2 and shape[-1] == 1:
        shape = shape[:-1]
    if output.dtype.kind != "f" or len(shape) != 2 or shape[0] != samples or shape[1] < 2:
        raise DataError(
            f"output {name!r} is {output.dtype} {output.shape} for {counted(samples, 'sample')}; "
            f"{metric} needs one score for each class, ({samples}, classes)",
            where=where,
            hint="choose another output with output= (--output), or write a metric of your own: "
            "metric='file.py:function' (--metric).",
        )
    return output.reshape(shape)


class _AgainstFloat(Metric):
    against_float = True

    def measure(self, outputs: Arrays, reference: Arrays, labels: Any, samples: int, where: str) -> NDArray[np.float64]:
        name, got = next(iter(outputs.items()))
        want = reference[name]
        if want.dtype.kind != "f":
            raise DataError(
                f"output {name!r} is {want.dtype}; {self.name} compares float outputs",
                where=where,
                hint="choose another output with output= (--output).",
            )
        if want.shape != got.shape:
            raise DataError(
                f"output {name!r} is {want.shape} in the float model and {got.shape} in the quantized one",
                where=where,
                hint="choose an output whose shape does not depend on the values: output= (--output).",
            )
        if samples > 1 and (not want.shape or want.shape[0] != samples):
            raise DataError(
                f"output {name!r} has shape {want.shape} for {counted(samples, 'sample')}, so they "
                "cannot be told apart",
                where=where,
                hint="feed one sample at a time: batch_size=1 (--batch-size 1).",
            )
        r, c = (a.astype(np.float64).reshape(samples, -1) for a in (want, got))
        same = ~(np.isfinite(r) & np.isfinite(c)) & ((r == c) | (np.isnan(r) & np.isnan(c)))
        r, c = np.where(same, 0.0, r), np.where(same, 0.0, c)
        c = np.where(np.isfinite(c), c, np.inf)
        return self._of_pairs(np.where(np.isfinite(r), r, 0.0), c)

    @abstractmethod
    def _of_pairs(self, r: NDArray[np.float64], c: NDArray[np.float64]) -> NDArray[np.float64]:
        """Contributions of samples; shapes (samples, values)."""


class Cosine(_AgainstFloat):
    """Mean cosine similarity with the float model's output."""

    name = "cosine"

    def _of_pairs(self, r: NDArray[np.float64], c: NDArray[np.float64]) -> NDArray[np.float64]:
        sound = np.asarray(np.isfinite(c).all(axis=1))
        c = np.where(sound[:, None], c, 0.0)
        lengths = np.sqrt((r * r).sum(axis=1)) * np.sqrt((c * c).sum(axis=1))
        product = (r * c).sum(axis=1)
        both_zero = (lengths == 0) & (np.abs(r).max(axis=1, initial=0) == 0) & (np.abs(c).max(axis=1, initial=0) == 0)
        with np.errstate(invalid="ignore", divide="ignore"):
            found = np.where(lengths > 0, product / lengths, 0.0)
        return np.where(both_zero & sound, 1.0, np.clip(found, -1.0, 1.0))[:, None]


class Sqnr(_AgainstFloat):
    """Signal to quantization noise ratio in dB. Columns: power of the signal, power of the noise."""

    name = "sqnr"
    unit = "dB"

    def _of_pairs(self, r: NDArray[np.float64], c: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.stack([(r * r).sum(axis=1), ((r - c) ** 2).sum(axis=1)], axis=1)

    def total(self, sums: NDArray[np.float64], samples: int) -> NDArray[np.float64]:
        with np.errstate(divide="ignore", invalid="ignore"):
            ratio = 10.0 * np.log10(sums[:, 0] / sums[:, 1])
        return np.where(sums[:, 1] == 0.0, np.inf, np.where(sums[:, 0] == 0.0, -np.inf, ratio))


class UserMetric(Metric):
    """A function of the user.

    Args:
        function: From outputs by name and labels to one number for each sample, larger is better.
        name: What it is called.
    """

    def __init__(self, function: Function, name: str) -> None:
        self.name = name
        self._function = function

    def are_right_answers(self, *values: NDArray[np.float64]) -> bool:
        return all(bool(np.isin(found, (0.0, 1.0)).all()) for found in values)

    def measure(self, outputs: Arrays, reference: Arrays, labels: Any, samples: int, where: str) -> NDArray[np.float64]:
        try:
            values = np.asarray(self._function(dict(outputs), labels), np.float64)
        except Exception as error:
            raise DataError(
                f"the metric failed: {type(error).__name__}: {error}",
                where=f"{self.name}, {where}",
                hint=f"{_WITHOUT_LABELS if labels is None else ''}mend the function in metric= (--metric); it gets "
                "{output name: array} of a batch, and the labels of its samples or None.",
            ) from error
        if values.shape != (samples,) or not np.isfinite(values).all():
            what = f"shape {values.shape}" if values.shape != (samples,) else "NaN or Inf"
            raise DataError(
                f"the metric gave {what}, expected {counted(samples, 'finite number')}, one for each sample",
                where=f"{self.name}, {where}",
                hint="metric= (--metric): function(outputs, labels) returns one number for each sample.",
            )
        return values[:, None]


def metric_from(given: str | Function, *, offered: Sequence[str] = METRICS) -> Metric:
    """The metric that `metric=` or --metric names.

    Args:
        given: Its name, "FILE.py:FUNCTION" or a function.
        offered: Those that are of use here, for the error.

    Raises:
        ConfigError: there is none of that name, or the file or function does not exist.
    """
    if callable(given):
        return UserMetric(given, getattr(given, "__name__", "metric"))
    known: dict[str, Callable[[], Metric]] = {
        "top1": lambda: TopK(1),
        "top5": lambda: TopK(5),
        "cosine": Cosine,
        "sqnr": Sqnr,
    }
    if given in known:
        return known[given]()
    if names_function(given):
        return UserMetric(function_from(given, what="metric", argument="metric= (--metric)"), given)
    raise ConfigError(
        f"unknown metric {given!r}",
        hint=f"metric= (--metric) is one of {', '.join(offered)} or FILE.py:FUNCTION",
    )
