"""Mixed precision to a budget: which layers stay in float so that a quantized model meets demands on its accuracy."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
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

_Sets = tuple[Excluded, Excluded]
"""Layers in float, and layers with wider activations."""

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
        wide_layers: Names of the layers whose activations got a wider type for it, in graph order.
        wide_macs: Their multiply-accumulates.
        wide_type: That type; empty where the target has none.
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
    wide_layers: tuple[str, ...] = ()
    wide_macs: int = 0
    wide_type: str = ""
    stopped: str = ""
    seconds: float = 0.0

    def check(self) -> Check:
        """The budget as a check of the report."""
        parts = [f"{counted(len(self.float_layers), 'layer')} left in float, {self._share(self.float_macs)}"]
        if self.wide_type:
            wide = f"{counted(len(self.wide_layers), 'layer')} with {self.wide_type} activations"
            parts = [f"{wide}, {self._share(self.wide_macs)}", *(parts if self.float_layers else [])]
        left = ", ".join(parts) if self.float_layers or self.wide_layers else "no layer left in float"
        return Check(
            name="accuracy budget",
            passed=self.met,
            detail=f"{'; '.join(self.details)}; {left}; {counted(self.judged, 'model')} judged on "
            f"{counted(self.samples, 'sample')}",
        )

    def _share(self, macs: int) -> str:
        return f"{macs / self.macs:.1%} of the arithmetic" if self.macs else "no arithmetic"

    def notes(self) -> tuple[str, ...]:
        """What a user should know of the search."""
        found = [f"accuracy budget met: {self.check().detail}"] if self.met else []
        for layers, what in (
            (self.float_layers, "left in float"),
            (self.wide_layers, f"activations are {self.wide_type}"),
        ):
            if layers:
                shown = ", ".join(layers[:_SHOWN_LAYERS])
                more = len(layers) - _SHOWN_LAYERS
                found.append(f"{what} for the accuracy budget: {shown}" + (f" and {more} more" if more > 0 else ""))
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
    cost = {layer.node: layer.cost for layer in layers}
    arithmetic = {layer.node: layer.arithmetic for layer in layers}
    everything = candidates.make(())
    report_to(progress, STAGE, 0, None)
    first = referee.judge(everything.quantized())
    asker = _Asker(candidates, referee, deadline, progress)
    form = _Form(asker, cost, first)
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
            form.search({name: _noise(alone.get(name)) for name in cost}, steps=candidates.wider is not None)
        except TimeIsUpError:
            stopped = "the time was over"
        except KeyboardInterrupt:
            stopped = "interrupted"
    excluded, wide, judgement = form.best()
    chosen = candidates.make(excluded, wide)
    wide -= excluded
    result = SearchResult(
        met=judgement.met,
        details=judgement.details,
        doubts=judgement.doubts,
        float_layers=tuple(layer.node for layer in layers if layer.node in excluded),
        float_macs=sum(arithmetic[name] for name in excluded),
        macs=sum(arithmetic.values()),
        judged=asker.judged,
        samples=referee.samples,
        layers=effects_of(layers, alone),
        wide_layers=tuple(layer.node for layer in layers if layer.node in wide),
        wide_macs=sum(arithmetic[name] for name in wide),
        wide_type="" if candidates.wider is None else candidates.wider.type,
        stopped=stopped,
        seconds=time.perf_counter() - started,
    )
    return chosen, result


class _Form:
    """Which layers are in float and which have wider activations: up to three searches over sets of layers.

    1. layers become wider until the budget is met; on targets without that step, layers go to float
    2. where all of them wider do not meet it, layers go to float while the others are wider
    3. then those others go back to 8 bits where the budget is still met
    """

    def __init__(self, asker: _Asker, cost: Mapping[str, int], first: Judgement) -> None:
        self._asker, self._cost, self._all = asker, cost, frozenset(cost)
        self._known: list[tuple[Search, Callable[[Excluded], _Sets]]] = []
        self._add({}, lambda floats: (floats, frozenset()), first)

    def search(self, noise: Mapping[str, float], *, steps: bool) -> None:
        """Search for the cheapest form. Raises TimeIsUpError; `best` is valid at any time."""
        first = self._known[0][0].judged[frozenset()]
        if not steps:
            self._add(noise, lambda floats: (floats, frozenset()), first).run()
            return
        wide = self._add(noise, lambda wide: (frozenset(), wide), first)
        wide.run()
        if wide.judged[wide.best].met:
            return
        # What is quantized around a layer in float stays wide as well.
        floats = self._add(noise, lambda floats: (floats, self._all))
        floats.run()
        fixed = floats.best
        if floats.judged[fixed].met and len(fixed) < len(self._all):
            others = {name: value for name, value in noise.items() if name not in fixed}
            self._add(others, lambda wide: (fixed, wide | fixed)).run()

    def best(self) -> tuple[Excluded, Excluded, Judgement]:
        """Layers in float, wider layers, and how that form did: of those that meet the budget the cheapest."""
        found = [(*sets(search.best), search.judged[search.best]) for search, sets in self._known if search.judged]

        def key(form: tuple[Excluded, Excluded, Judgement]) -> tuple[float, int, int]:
            floats, wide = form[0], form[1] - form[0]
            return form[2].shortfall, self._total(floats), self._total(wide)

        return min(found, key=key)

    def _total(self, names: Excluded) -> int:
        return sum(self._cost[name] for name in names)

    def _add(
        self, noise: Mapping[str, float], sets: Callable[[Excluded], _Sets], first: Judgement | None = None
    ) -> Search:
        cost = {name: self._cost[name] for name in (noise or self._cost)}
        search = Search(cost=cost, noise=noise, ask=lambda chosen: self._asker(search, *sets(chosen)))
        if first is not None:
            search.judged[frozenset()] = first
        self._known.append((search, sets))
        return search


class _Asker:
    """Makes and judges the model with layers in float and wider ones, while there is time."""

    def __init__(self, candidates: Candidates, referee: Referee, deadline: float, progress: Callback | None) -> None:
        self._candidates, self._referee = candidates, referee
        self._deadline, self._progress = deadline, progress
        self.judged = 1  # the model with every layer in int8

    def __call__(self, search: Search, excluded: Excluded, wide: Excluded) -> Judgement:
        if time.perf_counter() > self._deadline:
            raise TimeIsUpError
        text = "none meets the budget yet"
        if search.best in search.judged and search.judged[search.best].met:
            share = search.total(search.best) / max(1, sum(search.cost.values()))
            text = f"best: {share:.1%} of the arithmetic in float or 16 bits"
        report_to(self._progress, STAGE, self.judged, None, text)
        try:
            candidate = self._candidates.make(excluded, wide)
        except NotMadeError:
            return Judgement(shortfall=math.inf, details=("not tried",))
        self.judged += 1
        return self._referee.judge(candidate.quantized())


def _noise(effect: Effect | None) -> float:
    """Noise power as a share of the signal's; a layer that was not measured goes last."""
    return 0.0 if effect is None else min(10.0 ** (-max(effect.sqnr_db, -300.0) / 10.0), 1e30)
