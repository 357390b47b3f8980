"""Mixed precision to a budget: what becomes of each layer so that a quantized model meets demands on its accuracy."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from onnxq.calibration.progress import Callback
from onnxq.calibration.runner import CollectOptions
from onnxq.data.batches import Batch
from onnxq.search.budget import Budget
from onnxq.search.distance import Effect
from onnxq.search.estimated import estimated_noise, spread_order
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

_TRIES = 8
"""Models after which a search that knows the noise of all layers is nearly where it ends."""


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
            form.search(order.noise(space))
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
        available: Samples that they would all have been measured on, had there been time.
    """

    ranking: Sensitivity | None
    alone: dict[str, Effect] = field(default_factory=dict)
    samples: int = 0
    available: int = 0

    def measured(self, space: Space) -> dict[str, float]:
        """How much layers hurt, by name, where that is known."""
        if self.ranking is not None:
            return {name: noise for name, noise in self.ranking.noise().items() if name in space.cost}
        power = Sensitivity(target="", method="", by="sqnr", samples=0, layers=effects_of(space.layers, self.alone))
        return power.noise()

    def noise(self, space: Space) -> dict[str, float]:
        """What every layer alone brings to the outputs; estimated where it was not measured."""
        return estimated_noise(space.layers, self.measured(space), space.own_noise())

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
            if self.samples < self.available:
                text += (
                    f" of {self.available}, for which there was time: another run may have more or less of it and "
                    "leave other layers in float, unless search_seconds= (--search-seconds) is longer"
                )
        return replace(
            result,
            layers=effects_of(space.layers, self.alone),
            unranked=unranked,
            ranked_by=text,
            ranked_samples=self.samples,
        )


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

    All of them on one batch, those first that tell most of the others: all layers on little data rank better than some
    on much. Then, the most harmful first, on as many batches as there is surely time for: n take at most n times as
    long. Those are all batches or 1, 2, 4, 8, ... of them, so that a run that is a little slower measures the same.
    """
    layers = spread_order([layer for layer in space.layers if layer.node in space.measurable])
    if not layers:
        return
    started = time.perf_counter()
    until = started + ranking_seconds(deadline - started, asker.seconds)

    def measure(batches: Sequence[Batch]) -> bool:
        found: dict[str, Effect] = {}
        bench = replace(space.bench(batches, options), deadline=until, outputs=referee.outputs)
        try:
            measure_alone(bench, layers, found, progress)
        finally:
            order.alone.update(found)
        return len(found) == len(layers)

    order.samples, order.available = samples[0].samples, sum(batch.samples for batch in samples)
    if not measure(samples[:1]):
        return
    now = time.perf_counter()
    batches = spread(samples, int((until - now) / (now - started)))
    if len(batches) > 1:
        noise = order.measured(space)
        layers.sort(key=lambda layer: -noise[layer.node])
        if measure(batches):
            order.samples = sum(batch.samples for batch in batches)


def ranking_seconds(left: float, try_seconds: float) -> float:
    """How much of the time that is left goes into the order of the layers.

    The rest is for tries: as many as find a good model where the order is known, if there is time for them.

    >>> ranking_seconds(100.0, 1.0), ranking_seconds(100.0, 6.0), ranking_seconds(100.0, 20.0)
    (75.0, 52.0, 25.0)
    """
    share = 1.0 - _TRIES * try_seconds / max(left, 1e-9)
    return max(0.0, left) * min(_LARGEST_SHARE, max(_LEAST_SHARE, share))


def spread(batches: Sequence[Batch], most: int) -> list[Batch]:
    """All batches if they may be so many, else the most that are a power of two, spread over all."""
    count = len(batches) if most >= len(batches) else 1 << max(0, most).bit_length() >> 1
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
        choices=len(layers),
    )
