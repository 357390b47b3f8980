"""What an evaluation found: scores with intervals, and whether differences are more than chance.

JSON, schema onnxq.evaluation/1 (keys are added, never renamed or removed):
    {schema, metric, unit, output, samples, confidence, warnings, notes,
     models: [{name, score, low, high, run_as}],
     comparisons: [{baseline, candidate, difference, low, high, p_value, test, only_baseline, only_candidate, shown,
                    verdict}],
     passed, checks: [{name, passed, detail}]}
Shares are 0..1; a score that is infinite (outputs equal to the float model's) is null, and so are the ends of an
interval that the samples do not tell (every one contributes the same). `passed` is null where nothing was demanded.
"""

from __future__ import annotations

import dataclasses
import json
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxq.evaluation.intervals import (
    ALPHA,
    CONFIDENCE,
    Interval,
    mcnemar_p,
    paired_bootstrap,
    paired_share_difference,
    sign_test_p,
)
from onnxq.evaluation.metrics import Metric
from onnxq.report.columns import columns
from onnxq.verification.check import Check, gate_error
from onnxq.wording.brief import brief
from onnxq.wording.plural import counted

SCHEMA = "onnxq.evaluation/1"

MCNEMAR = "McNemar, exact"
BOOTSTRAP = "paired bootstrap"
SIGN = "sign test, exact"

UNTOLD = "the same on every sample, which tells no interval"


@dataclass(frozen=True, kw_only=True)
class ModelScore:
    """The score of one model.

    Attributes:
        name: The file, or "float" and "quantized" for models in memory.
        score: The metric; shares are 0..1.
        low: Lower end of the 95 % confidence interval.
        high: Upper end.
        run_as: How onnxruntime ran it.
    """

    name: str
    score: float
    low: float
    high: float
    run_as: str


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Two models on the same samples.

    Attributes:
        baseline: Name of the one.
        candidate: Name of the other.
        difference: Score of the candidate minus that of the baseline.
        low: Lower end of its 95 % confidence interval; -inf where the difference is the same on every sample, which
            tells no interval.
        high: Upper end; inf likewise.
        p_value: Probability of such a difference by chance; None where a bootstrap gives the interval alone.
        test: Where p and interval come from.
        only_baseline: Samples that only the baseline gets right; None for metrics without right and wrong.
        only_candidate: Samples that only the candidate gets right.
    """

    baseline: str
    candidate: str
    difference: float
    low: float
    high: float
    p_value: float | None
    test: str
    only_baseline: int | None = None
    only_candidate: int | None = None

    @property
    def shown(self) -> bool:
        """Whether these samples show a difference."""
        if self.p_value is not None:
            return self.p_value < ALPHA
        return not self.low <= 0.0 <= self.high

    @property
    def verdict(self) -> str:
        """The difference in a word."""
        if not self.shown:
            return "no difference shown"
        return "better" if self.difference > 0 else "worse"


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """Scores of a float model and its quantized forms on the same samples.

    Attributes:
        metric: Name of the metric.
        unit: "%" for shares (which are 0..1 here), "dB", or nothing.
        output: The output judged; None where a function of the user saw all.
        samples: Number of samples.
        models: The float model first.
        comparisons: Each quantized model with the float one (for metrics that compare with float themselves: with the
            first quantized one), then each further quantized one with the first.
        warnings: Reasons to mistrust the numbers.
        notes: Facts about the data.
        checks: Whether each quantized model meets each demand; empty where nothing was demanded.
    """

    metric: str
    unit: str
    output: str | None
    samples: int
    models: tuple[ModelScore, ...]
    comparisons: tuple[Comparison, ...] = ()
    warnings: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    checks: tuple[Check, ...] = ()

    def __repr__(self) -> str:
        scores = (f"{m.name} {number_text(m.score, self.unit)}" for m in self.models)
        return brief(self, f"{self.metric} of {counted(self.samples, 'sample')}", *scores)

    @property
    def passed(self) -> bool | None:
        """Whether every demand is met; None where nothing was demanded."""
        return all(c.passed for c in self.checks) if self.checks else None

    @property
    def failed_checks(self) -> tuple[Check, ...]:
        """The demands that were not met, each with `name` and `detail`."""
        return tuple(c for c in self.checks if not c.passed)

    def raise_if_failed(self) -> None:
        """Raise GateError, which names them, where demands were not met."""
        if self.failed_checks:
            raise gate_error(self.failed_checks)

    def to_dict(self) -> dict[str, Any]:
        """Plain values in the schema of the module's docstring."""
        return {
            "schema": SCHEMA,
            "metric": self.metric,
            "unit": self.unit,
            "output": self.output,
            "samples": self.samples,
            "confidence": CONFIDENCE,
            "models": [_plain(m) for m in self.models],
            "comparisons": [{**_plain(c), "shown": c.shown, "verdict": c.verdict} for c in self.comparisons],
            "warnings": list(self.warnings),
            "notes": list(self.notes),
            "passed": self.passed,
            "checks": [dataclasses.asdict(c) for c in self.checks],
        }

    def to_json(self, *, indent: int | None = 2) -> str:
        """The evaluation as JSON."""
        return json.dumps(self.to_dict(), indent=indent, allow_nan=False)

    def to_html(self) -> str:
        """The scores as one self-contained page."""
        from onnxq.report.html.run_page import render_part  # noqa: PLC0415 - only where a page is wanted

        return render_part(self.to_dict(), title=f"{self.metric} on {counted(self.samples, 'sample')}")

    def to_junit(self) -> str:
        """The checks as JUnit XML, for CI servers; where nothing was demanded, one case that says: scored."""
        from onnxq.report.junit import junit  # noqa: PLC0415 - only where it is wanted

        there = Check(name="scored", passed=True, detail=f"{self.metric} on {counted(self.samples, 'sample')}")
        facts = {"metric": self.metric, **{m.name: number_text(m.score, self.unit) for m in self.models}}
        return junit(
            f"onnxq evaluate {self.models[0].name}", self.checks or (there,), facts=facts, output=self.to_text()
        )

    def to_text(self) -> str:
        """Tables for a person."""
        of = f" of output {self.output}" if self.output else ""
        lines = [
            f"{self.metric}{of} on {counted(self.samples, 'sample')}, with {CONFIDENCE:.0%} confidence intervals",
            "",
        ]
        rows = [
            [
                m.name,
                number_text(m.score, self.unit),
                interval_text(m.low, m.high, self.unit),
                m.run_as,
            ]
            for m in self.models
        ]
        lines.append(columns(["model", self.metric, "interval", "run as"], rows, numbers=[1]))
        for c in self.comparisons:
            lines += ["", *_comparison_lines(c, self.unit)]
        if self.checks:
            lines += ["", *(f"{'passed' if c.passed else 'FAILED'}: {c.name} ({c.detail})" for c in self.checks)]
        lines += [f"warning: {w}" for w in self.warnings]
        lines += [f"note: {n}" for n in self.notes]
        return "\n".join(lines) + "\n"


def _plain(value: Any) -> dict[str, Any]:
    found = dataclasses.asdict(value)
    return {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in found.items()}


def number_text(value: float, unit: str, *, signed: bool = False) -> str:
    """A score as people read it: shares in percent."""
    sign = "+" if signed else ""
    if math.isinf(value):
        return "equal" if value > 0 else "-inf"
    if unit == "%":
        return f"{100 * value:{sign}.2f} %"
    return f"{value:{sign}.2f} dB" if unit == "dB" else f"{value:{sign}.5f}"


def interval_text(low: float, high: float, unit: str) -> str:
    """An interval as people read it; empty where there is none: a model and itself, a score that never varies."""
    if math.isinf(low) and math.isinf(high):
        return ""
    return f"{number_text(low, unit)} to {number_text(high, unit)}"


def _comparison_lines(c: Comparison, unit: str) -> list[str]:
    points = "points" if unit == "%" else unit
    ends = [
        number_text(end, unit, signed=True).removesuffix(" %").removesuffix(" dB")
        for end in (c.difference, c.low, c.high)
    ]
    interval = f"95 %: {ends[1]} to {ends[2]}" if Interval(c.low, c.high).is_told else UNTOLD
    text = f"{c.candidate} against {c.baseline}: {ends[0]} {points}".rstrip() + f" ({interval})"
    if c.p_value is None:
        return [f"{text}: {c.verdict}"]
    chance = f"p = {c.p_value:.2g} ({c.test})"
    if c.only_baseline is None:
        return [f"{text}: {c.verdict}", f"  {chance}"]
    split = f"{c.only_baseline} right only by {c.baseline}, {c.only_candidate} only by {c.candidate}"
    return [f"{text}: {c.verdict}", f"  {split}; {chance}"]


def compare(
    metric: Metric, names: tuple[str, str], baseline: NDArray[np.float64], candidate: NDArray[np.float64]
) -> Comparison:
    """Two models on the same samples.

    Args:
        metric: The metric.
        names: What the two are called.
        baseline: What each sample contributes to the one's score.
        candidate: And to the other's, in the same order.
    """
    gap = metric.score(candidate) - metric.score(baseline)
    difference = 0.0 if math.isnan(gap) else gap  # both infinite: equal
    if not metric.are_right_answers(baseline, candidate):
        samples = len(baseline)
        found = paired_bootstrap(baseline, candidate, lambda sums: metric.total(sums, samples))
        if found.is_told:
            return _comparison(names, difference, found, None, BOOTSTRAP)
        return _comparison(names, difference, found, sign_test_p(samples if difference else 0), SIGN)
    first, second = baseline[:, 0] > 0, candidate[:, 0] > 0
    only = int((first & ~second).sum()), int((second & ~first).sum())
    found = paired_share_difference(*only, len(first))
    return _comparison(names, difference, found, mcnemar_p(*only), MCNEMAR, only)


def _comparison(  # noqa: PLR0913, PLR0917 - the fields of a value
    names: tuple[str, str],
    difference: float,
    interval: Interval,
    p_value: float | None,
    test: str,
    only: tuple[int, int] | tuple[None, None] = (None, None),
) -> Comparison:
    return Comparison(
        baseline=names[0],
        candidate=names[1],
        difference=difference,
        low=interval.low,
        high=interval.high,
        p_value=p_value,
        test=test,
        only_baseline=only[0],
        only_candidate=only[1],
    )
