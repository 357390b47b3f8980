"""Mixed precision to a budget: what becomes of each layer so that a quantized model meets demands on its accuracy."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from onnxq.calibration.progress import Callback
from onnxq.calibration.runner import CollectOptions
from onnxq.data.batches import Batch
from onnxq.search.budget import Budget
from onnxq.search.distance import Effect
from onnxq.search.fewest import Excluded, TimeIsUpError
from onnxq.search.form import Asker, Form
from onnxq.search.measuring import effects_of, measure_alone
from onnxq.search.ranking import Sensitivity
from onnxq.search.ranking_file import check_ranking
from onnxq.search.reading import Judged
from onnxq.search.referee import Judgement, Referee
from onnxq.search.result import SearchResult
from onnxq.search.space import Space
from onnxq.wording.plural import counted

_LEAST_SHARE, _LARGEST_SHARE = 0.25, 0.75
"""Of the time that is left, what may go into the order of the layers: the more, the cheaper a try is."""

_TRIES = 4
"""Models that a search of n layers asks for, in units of log2 n: two orders, doubling and bisection in each."""


def search_within(  # noqa: PLR0913 - the parts of one search
    budget: Budget,
    space: Space,
    judged: Judged,
    samples: Sequence[Batch],
    *,
    options: CollectOptions,
    progress: Callback | None,
) -> tuple[Excluded, Excluded, SearchResult]:
    """The cheapest model of `space` that meets `budget`; if none does, the closest.

    Ctrl-C ends the search with the best model found so far, and so does the time limit; at least one model is judged.

    Args:
        budget: The demands, and the time.
        space: The models.
        judged: The samples to judge on, and their labels.
        samples: Batches to rank layers on, one at least.
        options: How to run models.
        progress: Called for each layer and each model, with a StageProgress.

    Returns:
        Names of the layers in float, of those with the step's type (which may hold some of the first), and the result.

    Raises:
        ArtifactError: the ranking that the budget brings is of another model.
        OnnxqError: a model cannot be run, or the labels do not fit.
    """
    started = time.perf_counter()
    if budget.ranking is not None:
        check_ranking(budget.ranking, space.mode, space.digest, space.cost)
    referee = Referee(space.source, budget, judged, options=options, fused=space.fused)
    asker = Asker(space, referee, started + budget.seconds, progress)
    first = asker.first()
    form = Form(space, asker, first)
    order, stopped = _Order(ranking=budget.ranking), ""
    if not first.met and budget.search:
        try:
            if budget.ranking is None:
                _measure(space, order, samples, options, progress, asker, started + budget.seconds, referee)
            form.search(order.noise(space), complete=len(order.measured(space)) == len(space.cost))
        except TimeIsUpError:
            stopped = "the time was over"
        except KeyboardInterrupt:
            stopped = "interrupted"
    excluded, wide, judgement = form.best()
    result = _result(space, excluded, wide - excluded, judgement)
    if not first.met and budget.search:
        result = order.told(result, space)
    return (
        excluded,
        wide,
        replace(
            result,
            judged=asker.judged,
            samples=referee.samples,
            searched=budget.search,
            stopped=stopped,
            seconds=time.perf_counter() - started,
        ),
    )


@dataclass(kw_only=True)
class _Order:
    """What is known of single layers.

    Attributes:
        ranking: A ranking made before, in place of measurements.
        alone: What was measured, by name.
        samples: Samples that every one of these was measured on, at least.
    """

    ranking: Sensitivity | None
    alone: dict[str, Effect] = field(default_factory=dict)
    samples: int = 0

    def measured(self, space: Space) -> dict[str, float]:
        """How much layers hurt, by name, where that is known."""
        if self.ranking is not None:
            return {name: noise for name, noise in self.ranking.noise().items() if name in space.cost}
        power = Sensitivity(target="", method="", by="sqnr", samples=0, layers=effects_of(space.layers, self.alone))
        return power.noise()

    def noise(self, space: Space) -> dict[str, float]:
        """A number for every layer, larger for what hurts more; what was not measured comes behind the rest."""
        return ranked_behind(self.measured(space), space.expected(), space.cost)

    def told(self, result: SearchResult, space: Space) -> SearchResult:
        """`result` with what is to be said of the order."""
        known = self.measured(space)
        unranked = tuple(layer.node for layer in space.layers if layer.node not in known)
        text = ""
        if self.ranking is not None:
            text = (
                f"layers were tried in the order of a ranking measured for {self.ranking.target} on "
                f"{counted(self.ranking.samples, 'sample')}"
            )
        elif known:
            text = (
                f"{counted(len(known), 'layer')} of {len(space.layers)} measured alone on "
                f"{counted(self.samples, 'sample')}"
            )
        return replace(
            result,
            layers=effects_of(space.layers, self.alone),
            unranked=unranked,
            ranked_by=text,
            ranked_samples=self.samples,
        )


def ranked_behind(
    measured: Mapping[str, float], expected: Mapping[str, float], cost: Mapping[str, int]
) -> dict[str, float]:
    """A noise for every layer that ranks those not measured behind the others, in the order of what is expected.

    It does so by noise, and by noise for each unit of cost.

    Args:
        measured: Noise of the layers that were measured.
        expected: What is expected of each layer's own rounding.
        cost: Of all layers.

    >>> ranked_behind({"a": 4.0}, {"a": 1.0, "b": 2.0, "c": 8.0}, {"a": 2, "b": 1, "c": 1})
    {'a': 4.0, 'b': 0.25, 'c': 1.0}
    """
    least = min((noise / max(1, cost[name]) for name, noise in measured.items() if noise > 0.0), default=1.0)
    left = {name: expected[name] for name in cost if name not in measured}
    largest = max(left.values(), default=0.0) or 1.0
    behind = {name: 0.5 * least * noise / largest for name, noise in left.items()}
    return {name: measured[name] if name in measured else behind[name] for name in cost}


def _measure(  # noqa: PLR0913, PLR0917 - the parts of one measurement
    space: Space,
    order: _Order,
    samples: Sequence[Batch],
    options: CollectOptions,
    progress: Callback | None,
    asker: Asker,
    deadline: float,
    referee: Referee,
) -> None:
    """Measure layers alone, in a part of the time that is left.

    All of them on one batch, those first that are expected to hurt: all layers on little data rank better than some on
    much. Then, the most harmful first, on as many batches as there is surely time for: n take at most n times as long.
    """
    expected = space.expected()
    layers = [layer for layer in space.layers if layer.node in space.measurable]
    layers.sort(key=lambda layer: -expected[layer.node])
    if not layers:
        return
    started = time.perf_counter()
    until = started + ranking_seconds(deadline - started, len(layers), asker.seconds)

    def measure(batches: Sequence[Batch]) -> bool:
        found: dict[str, Effect] = {}
        bench = replace(space.bench(batches, options), deadline=until, outputs=referee.outputs)
        try:
            measure_alone(bench, layers, found, progress)
        finally:
            order.alone.update(found)
        return len(found) == len(layers)

    order.samples = samples[0].samples
    if not measure(samples[:1]):
        return
    now = time.perf_counter()
    batches = spread(samples, int((until - now) / (now - started)))
    if len(batches) > 1:
        noise = order.measured(space)
        layers.sort(key=lambda layer: -noise[layer.node])
        if measure(batches):
            order.samples = sum(batch.samples for batch in batches)


def ranking_seconds(left: float, layers: int, try_seconds: float) -> float:
    """How much of the time that is left goes into the order of the layers.

    The rest is for tries: as many as a search of so many layers usually asks for, where there is time for them.

    >>> ranking_seconds(100.0, 16, 1.0), ranking_seconds(100.0, 16, 10.0)
    (75.0, 25.0)
    """
    tries = _TRIES * math.ceil(math.log2(layers + 1))
    share = 1.0 - tries * try_seconds / max(left, 1e-9)
    return max(0.0, left) * min(_LARGEST_SHARE, max(_LEAST_SHARE, share))


def spread(batches: Sequence[Batch], most: int) -> list[Batch]:
    """At most so many of the batches, spread over all."""
    count = max(0, min(most, len(batches)))
    return [batches[i * len(batches) // count] for i in range(count)]


def _result(space: Space, floats: Excluded, wide: Excluded, judgement: Judgement) -> SearchResult:
    layers = space.layers
    step = space.step
    return SearchResult(
        met=judgement.met,
        details=judgement.details,
        doubts=judgement.doubts,
        float_layers=tuple(layer.node for layer in layers if layer.node in floats),
        float_macs=sum(layer.arithmetic for layer in layers if layer.node in floats),
        float_weights=sum(layer.weights for layer in layers if layer.node in floats),
        macs=sum(layer.arithmetic for layer in layers),
        weights=sum(layer.weights for layer in layers),
        judged=0,
        samples=0,
        wide_layers=tuple(layer.node for layer in layers if layer.node in wide),
        wide_macs=sum(layer.arithmetic for layer in layers if layer.node in wide),
        wide_weights=sum(layer.weights for layer in layers if layer.node in wide),
        wide_type="" if step is None else step.type,
        wide_role="activations" if step is None else step.role,
        counted=space.counted,
    )
