"""Runs whole quantized models on the samples of a budget and says whether they meet it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxq.calibration.runner import CollectOptions
from onnxq.data.batches import Batch
from onnxq.evaluation.evaluation import UNTOLD, compare
from onnxq.evaluation.intervals import Interval
from onnxq.evaluation.judging import labelled, run
from onnxq.graph.view import Graph
from onnxq.passes.adapt.settle_types import runnable
from onnxq.search.budget import Budget
from onnxq.search.distance import Distance
from onnxq.search.reading import Judged, judge_of
from onnxq.wording.plural import counted

_KEPT_BYTES = 2**30
"""Samples and float outputs that fit are kept; others are read and computed again for each model."""

_DB_STEP = 3.0
"""A shortfall of 3 dB counts as much as one of a percentage point, or as twice the distance of a cosine from 1."""


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """How one quantized model did.

    Attributes:
        shortfall: 0 where every demand is met, else how far it is from that; comparable between models alone.
        details: One line for each demand: what was measured, and what was demanded.
        doubts: What the samples cannot tell.
        missing_db: How much less noise would meet the demands, in dB, negative where there could be more of it; None
            where not all demands are ones of noise.
    """

    shortfall: float
    details: tuple[str, ...]
    doubts: tuple[str, ...] = ()
    missing_db: float | None = None

    @property
    def met(self) -> bool:
        """Whether every demand is met."""
        return self.shortfall == 0.0


class Referee:
    """Judges quantized forms of one model.

    Args:
        graph: The float model.
        budget: The demands.
        judged: The samples, which can be read again, and their labels.
        options: How to run them.
        fused: Whether onnxruntime's int8 kernels run the models, or Q and DQ as written.
    """

    def __init__(
        self,
        graph: Graph,
        budget: Budget,
        judged: Judged,
        *,
        options: CollectOptions,
        fused: bool,
    ) -> None:
        self._graph, self._budget, self._options, self._fused = graph, budget, options, fused
        self._judge = judge_of(graph, budget, judged.labels)
        self._float = options.session(runnable(graph))
        self._batches, self._limited = judged.batches, judged.limited
        self._kept: list[tuple[Batch, dict[str, NDArray[Any]]]] | None = None
        self._baseline: NDArray[np.float64] | None = None
        self.samples = 0

    @property
    def outputs(self) -> frozenset[str] | None:
        """The outputs that the demands look at; None for all of them."""
        only_metric = self._budget.min_sqnr is None and self._budget.min_cosine is None
        chosen = self._judge.output if self._judge is not None and only_metric else None
        return None if chosen is None else frozenset({chosen})

    def judge(self, quantized: Graph) -> Judgement:
        """Run one quantized model on all samples.

        Raises:
            DataError: it fails, or the outputs or labels are not what the metric needs.
            ModelError: onnxruntime cannot load it.
        """
        session = self._options.session(runnable(quantized), optimise=self._fused)
        distance, values, start = Distance(self._graph), list[NDArray[np.float64]](), 0
        baseline = list[NDArray[np.float64]]()
        for batch, truth in self._pairs():
            got = run(session, batch)
            distance.add(truth, got)
            if self._judge is not None:
                values.append(self._judge.values(got, truth, batch, start))
                if self._baseline is None:
                    baseline.append(self._judge.values(truth, truth, batch, start))
            start += batch.samples
        self.samples = start
        if self._judge is not None and self._baseline is None:
            self._baseline = np.concatenate(baseline)
        return self._judgement(distance, np.concatenate(values) if values else None)

    def _pairs(self) -> Iterator[tuple[Batch, dict[str, NDArray[Any]]]]:
        """The batches with the float model's outputs."""
        if self._kept is not None:
            yield from self._kept
            return
        kept, room = list[tuple[Batch, dict[str, NDArray[Any]]]](), _KEPT_BYTES
        source = self._batches.stream()
        if self._judge is not None:
            source = labelled(self._batches, self._judge, limited=self._limited)
        for batch in source:
            truth = run(self._float, batch)
            room -= sum(a.nbytes for a in (*batch.arrays.values(), *truth.values()))
            if room >= 0:
                kept.append((batch, truth))
            yield batch, truth
        if room >= 0:
            self._kept = kept

    def _judgement(self, distance: Distance, values: NDArray[np.float64] | None) -> Judgement:
        budget, effect = self._budget, distance.effect()
        short, details, doubts = [0.0], list[str](), list[str]()
        missing = list[float]()
        if (
            budget.max_drop is not None
            and values is not None
            and self._judge is not None
            and self._baseline is not None
        ):
            found = compare(self._judge.metric, ("float", "quantized"), self._baseline, values)
            change, low, high = (100.0 * value for value in (found.difference, found.low, found.high))
            # Shares of n samples are exact in floats to far less than one sample.
            short.append(max(0.0, -change - budget.max_drop - 1e-9))
            told = Interval(low, high).is_told
            interval = f"95 %: {low:+.2f} to {high:+.2f}" if told else UNTOLD
            details.append(
                f"{self._judge.metric.name} changes by {change:+.2f} points ({interval}) and may fall by "
                f"{budget.max_drop:g}"
            )
            # Where the demand is missed, the fall is a fact and no doubt.
            if -change - budget.max_drop <= 1e-9 and -low > budget.max_drop:
                fall = f"a fall by {-low:.1f} points" if told else "a larger fall"
                doubts.append(
                    f"on {counted(len(values), 'sample')} {fall} is within chance; judge on more of them to be surer: "
                    "eval_data= (--eval-data)"
                )
        if budget.min_sqnr is not None:
            short.append(max(0.0, (budget.min_sqnr - effect.sqnr_db) / _DB_STEP))
            missing.append(budget.min_sqnr - effect.sqnr_db)
            details.append(f"SQNR {effect.sqnr_db:.1f} dB, at least {budget.min_sqnr:g}")
        if budget.min_cosine is not None:
            away = max(0.0, budget.min_cosine - effect.cosine)
            short.append(away / max(1.0 - budget.min_cosine, 1e-6))
            # Beside small noise, a cosine falls short of 1 by half of its power.
            missing.append(10.0 * math.log10(max(1.0 - effect.cosine, 1e-12) / max(1.0 - budget.min_cosine, 1e-12)))
            details.append(f"cosine {effect.cosine:.6f}, at least {budget.min_cosine:g}")
        known = budget.max_drop is None and all(math.isfinite(value) for value in missing)
        return Judgement(
            shortfall=max(short),
            details=tuple(details),
            doubts=tuple(doubts),
            missing_db=max(missing) if known else None,
        )
