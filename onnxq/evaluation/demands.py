"""What a user demands of scores: each quantized model meets it or fails a check."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

from onnxq.errors import ConfigError
from onnxq.evaluation.evaluation import Evaluation, number_text
from onnxq.evaluation.metrics import Metric
from onnxq.verification.check import Check
from onnxq.wording.percent import percent_from, points_from
from onnxq.wording.plural import counted

_PERCENT = 100.0
_SLACK = 1e-12
"""Of a share: 0.992 - 0.987 is more than 0.005 in floating point."""


@dataclass(frozen=True, kw_only=True)
class Demands:
    """What every quantized model has to meet.

    Attributes:
        max_drop: Most percentage points that a score may lie below the float model's; None demands nothing.
        min_score: Least score: percent for shares, else in the metric's unit; None demands nothing.
    """

    max_drop: float | None = None
    min_score: float | None = None

    def judged(self, found: Evaluation) -> Evaluation:
        """`found` with a check for each demand and each quantized model."""
        return replace(found, checks=(*self._drops(found), *self._scores(found)))

    def _drops(self, found: Evaluation) -> Iterator[Check]:
        if self.max_drop is None:
            return
        before, *others = found.models
        for model in others:
            drop = _PERCENT * (before.score - model.score)
            scores = [number_text(m.score, found.unit) for m in (before, model)]
            yield Check(
                name=f"{model.name}: {found.metric} falls by at most {self.max_drop:g} points",
                passed=not math.isnan(drop) and drop <= self.max_drop + _PERCENT * _SLACK,
                detail=f"from {scores[0]} to {scores[1]}" + (", no fall" if drop <= 0 else f", by {drop:.2f} points"),
            )

    def _scores(self, found: Evaluation) -> Iterator[Check]:
        if self.min_score is None:
            return
        least = self.min_score / _PERCENT if found.unit == "%" else self.min_score
        for model in found.models[1:]:
            yield Check(
                name=f"{model.name}: {found.metric} at least {number_text(least, found.unit)}",
                passed=model.score >= least - _SLACK,
                detail=f"{number_text(model.score, found.unit)} on {counted(found.samples, 'sample')}",
            )


def demands_from(
    max_drop: float | str | None, min_score: float | str | None, *, metric: Metric, quantized: int
) -> Demands:
    """The demands, seen to make sense before anything runs.

    Args:
        max_drop: As `Demands`, or text such as "0.5%".
        min_score: As `Demands`, or text such as "95%".
        metric: The metric of the scores.
        quantized: How many quantized models there are.

    Raises:
        ConfigError: a demand is no number or has no meaning for the metric, or no model could meet it.
    """
    if max_drop is None and min_score is None:
        return Demands()
    if not quantized:
        raise ConfigError(
            "there is no quantized model that could meet a demand",
            hint="pass the quantized model too, or leave out max_drop= (--max-drop) and min_score= (--min-score)",
        )
    if max_drop is not None and metric.against_float:
        raise ConfigError(
            f"{metric.name} compares with the float model by itself, so there is no score to drop from",
            hint="use min_score= (--min-score), or labels= (--labels)",
        )
    return Demands(
        max_drop=None if max_drop is None else points_from(max_drop),
        min_score=None if min_score is None else _score(min_score, metric),
    )


def _score(given: float | str, metric: Metric) -> float:
    """A score as `Demands` has it."""
    if metric.unit == "%":
        return percent_from(given, "min_score")
    try:
        score = float(given)
    except ValueError:
        score = math.nan
    if not math.isfinite(score):
        unit = f"in {metric.unit}" if metric.unit else "in the metric's own unit"
        raise ConfigError(
            f"min_score is {given!r}",
            hint=f"{metric.name} is no share: min_score= (--min-score) is a number {unit}, without a percent sign.",
        )
    return score
