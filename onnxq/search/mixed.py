"""Mixed precision to a budget: which layers stay in float so that a quantized model meets demands on its accuracy."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from onnxq.calibration.batches import Batch
from onnxq.calibration.runner import CollectOptions
from onnxq.facts import Clock
from onnxq.passes.settle_types import runnable
from onnxq.plural import counted
from onnxq.search.budget import Budget
from onnxq.search.candidates import Candidate, Candidates, NotMadeError
from onnxq.search.distance import Effect
from onnxq.search.effects import Bench
from onnxq.search.fewest import Excluded, Search, TimeIsUpError
from onnxq.search.layers import layers_of
from onnxq.search.progress import Callback, report_to
from onnxq.search.ranking import LayerEffect
from onnxq.search.reading import Judged, first_samples
from onnxq.search.referee import Judgement, Referee
from onnxq.search.sensitivity import counted_plan, effects_of, measure_alone
from onnxq.verification.check import Check

STAGE = "searching"

_SHOWN_LAYERS = 8

_SENSITIVITY_SHARE = 0.5
"""Share of the time that may go into the order of the layers."""


@dataclass(frozen=True, kw_only=True)
class SearchResult:
    """What a search found.

    Attributes:
        met: Whether the model meets the budget.
        details: What was measured and demanded, one line for each demand.
        float_layers: Names of the layers left in float for it, in graph order.
        float_macs: Their multiply-accumulates for one sample.
        macs: Those of all layers that could run in int8.
        judged: Number of whole models that were run.
        samples: Samples that each was run on.
        doubts: What the samples cannot tell.
        layers: The layers by what each does alone, in graph order; empty where all of them could stay in int8.
        stopped: Why the search ended before it was through: "the time was over", "interrupted", or nothing.
        seconds: Time taken.
    """

    met: bool
    details: tuple[str, ...]
    float_layers: tuple[str, ...]
    float_macs: int
    macs: int
    judged: int
    samples: int
    doubts: tuple[str, ...] = ()
    layers: tuple[LayerEffect, ...] = ()
    stopped: str = ""
    seconds: float = 0.0

    def check(self) -> Check:
        """The budget as a check of the report."""
        share = f"{self.float_macs / self.macs:.1%} of the arithmetic" if self.macs else "no arithmetic"
        left = (
            f"{counted(len(self.float_layers), 'layer')} left in float, {share}" if self.float_layers else "all in int8"
        )
        return Check(
            name="accuracy budget",
            passed=self.met,
            detail=f"{'; '.join(self.details)}; {left}; {counted(self.judged, 'model')} judged on "
            f"{counted(self.samples, 'sample')}",
        )

    def notes(self) -> tuple[str, ...]:
        """What a user should know of the search."""
        found = [f"accuracy budget met: {self.check().detail}"] if self.met else []
        if self.float_layers:
            shown = ", ".join(self.float_layers[:_SHOWN_LAYERS])
            more = len(self.float_layers) - _SHOWN_LAYERS
            found.append(f"left in float for the accuracy budget: {shown}" + (f" and {more} more" if more > 0 else ""))
        found += self.doubts
        if self.stopped:
            found.append(f"the search was not through ({self.stopped}); a longer one may leave less in float")
        return tuple(found)


def checks_of(found: SearchResult | None) -> tuple[Check, ...]:
    """The check of a search, if there was one."""
    return () if found is None else (found.check(),)


def notes_of(found: SearchResult | None) -> tuple[str, ...]:
    """The notes of a search, if there was one."""
    return () if found is None else found.notes()


def search_if_asked(  # noqa: PLR0913, PLR0917 - the parts of one search
    budget: Budget | None,
    candidates: Candidates,
    samples: Sequence[Batch],
    judged: Callable[[Budget], Judged],
    options: CollectOptions,
    progress: Callback | None,
    clock: Clock,
) -> tuple[Candidate, SearchResult | None]:
    """The whole plan with its parameters, and no result, where no budget is given; else as `search_within`."""
    if budget is None:
        prepared = candidates.prepared
        return Candidate(prepared.plan, candidates.qparams, candidates.recovered, prepared.widened), None
    found = search_within(budget, candidates, judged(budget), samples, options=options, progress=progress)
    clock.lap("search")
    return found


def search_within(  # noqa: PLR0913 - the parts of one search
    budget: Budget,
    candidates: Candidates,
    judged: Judged,
    samples: Sequence[Batch],
    *,
    options: CollectOptions,
    progress: Callback | None,
) -> tuple[Candidate, SearchResult]:
    """The model with the fewest multiply-accumulates in float that meets `budget`; if none does, the closest.

    Ctrl-C ends the search with the best model found so far, and so does the time limit; at least one model is judged.

    Args:
        budget: The demands, and the time.
        candidates: Makes models.
        judged: The samples to judge on, and their labels.
        samples: Batches to rank layers on; where there are none, the first ones that are judged on.
        options: How to run models.
        progress: Called for each layer and each model, with a SearchProgress.

    Raises:
        OnnxqError: a model cannot be run, or the labels do not fit.
    """
    started = time.perf_counter()
    deadline = started + budget.seconds
    prepared = candidates.prepared
    samples = samples or first_samples(judged.batches)
    fused = prepared.target.name.startswith("ort-")
    referee = Referee(prepared.source, budget, judged, options=options, fused=fused)
    layers = layers_of(prepared.graph, counted_plan(prepared, samples), prepared.target)
    # Where open sizes leave the arithmetic open, the number of weights stands in for it.
    cost = {layer.node: layer.weights if layer.macs is None else layer.macs for layer in layers}
    everything = candidates.make(())
    report_to(progress, STAGE, 0, None)
    first = referee.judge(everything.quantized())
    search = Search(cost=cost, noise={}, ask=lambda _: first)
    search.judged[frozenset()] = first
    alone: dict[str, Effect] = {}
    stopped = ""
    if not first.met:
        try:
            until = min(deadline, started + _SENSITIVITY_SHARE * budget.seconds)
            bench = Bench(
                graph=runnable(prepared.graph),
                qparams=everything.qparams,
                samples=samples,
                options=options,
                deadline=until,
                outputs=referee.outputs,
            )
            measure_alone(bench, layers, alone, progress)
            search.noise = {name: _noise(alone.get(name)) for name in cost}
            search.ask = _Asker(candidates, referee, search, deadline, progress)
            search.run()
        except TimeIsUpError:
            stopped = "the time was over"
        except KeyboardInterrupt:
            stopped = "interrupted"
    chosen = candidates.make(search.best)
    judgement = search.judged[search.best]
    result = SearchResult(
        met=judgement.met,
        details=judgement.details,
        doubts=judgement.doubts,
        float_layers=tuple(layer.node for layer in layers if layer.node in search.best),
        float_macs=search.total(search.best),
        macs=sum(cost.values()),
        judged=len(search.judged),
        samples=referee.samples,
        layers=effects_of(layers, alone),
        stopped=stopped,
        seconds=time.perf_counter() - started,
    )
    return chosen, result


class _Asker:
    """Makes and judges the model with a set of layers in float, while there is time."""

    def __init__(
        self, candidates: Candidates, referee: Referee, search: Search, deadline: float, progress: Callback | None
    ) -> None:
        self._candidates, self._referee, self._search = candidates, referee, search
        self._deadline, self._progress = deadline, progress

    def __call__(self, excluded: Excluded) -> Judgement:
        if time.perf_counter() > self._deadline:
            raise TimeIsUpError
        search = self._search
        best = search.judged[search.best]
        share = search.total(search.best) / max(1, sum(search.cost.values()))
        text = f"best: {share:.1%} in float" if best.met else "none meets the budget yet"
        report_to(self._progress, STAGE, len(search.judged), None, text)
        try:
            candidate = self._candidates.make(excluded)
        except NotMadeError:
            return Judgement(shortfall=math.inf, details=("not tried",))
        return self._referee.judge(candidate.quantized())


def _noise(effect: Effect | None) -> float:
    """Noise power as a share of the signal's; a layer that was not measured goes last."""
    return 0.0 if effect is None else min(10.0 ** (-max(effect.sqnr_db, -300.0) / 10.0), 1e30)
