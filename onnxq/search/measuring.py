"""The effects of layers, each measured alone or left out alone: one after another, until the time is over."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby

from onnxq.calibration.progress import Callback, report_to
from onnxq.calibration.runner import CollectOptions
from onnxq.data.batches import Batch
from onnxq.graph.view import Graph
from onnxq.passes.adapt.settle_types import runnable
from onnxq.planning.macs import plan_with_macs
from onnxq.planning.plan import QuantPlan
from onnxq.search.distance import Arrays, Distance, Effect
from onnxq.search.effects import Bench, effects_alone
from onnxq.search.fewest import Excluded
from onnxq.search.layers import Layer
from onnxq.search.ranking import LayerEffect
from onnxq.search.space import NotMadeError, Space

STAGE = "measuring layers"


def counted_plan(plan: QuantPlan, graph: Graph, samples: Sequence[Batch]) -> QuantPlan:
    """The plan of `graph`, its arithmetic counted for the shapes of the samples."""
    return plan_with_macs(plan, graph, {name: array.shape for name, array in samples[0].arrays.items()})


def effects_of(layers: Sequence[Layer], found: Mapping[str, Effect]) -> tuple[LayerEffect, ...]:
    """Layers with their effects; those without are left out."""
    return tuple(
        LayerEffect(node=layer.node, op=layer.op, macs=layer.macs, weights=layer.weights, effect=found[layer.node])
        for layer in layers
        if layer.node in found
    )


def measure_alone(
    bench: Bench,
    layers: Sequence[Layer],
    found: dict[str, Effect],
    progress: Callback | None,
    expected: int | None = None,
) -> None:
    """Put the effect of each layer alone into `found`, by node: an interrupt leaves there what was measured.

    Args:
        bench: What to measure with.
        layers: What to measure, in that order.
        found: Takes the effects.
        progress: Called for each layer.
        expected: How many effects there will be at the end; None for those of `layers` beside what was found.
    """
    expected = len(found) + len(layers) if expected is None else expected
    report_to(progress, STAGE, len(found), expected)
    for node, effect in effects_alone(bench, layers):
        found[node] = effect
        report_to(progress, STAGE, len(found), expected)


@dataclass(frozen=True, kw_only=True)
class Subject:
    """What is to be measured.

    Attributes:
        space: The layers, and the models that differ in them.
        samples: Batches to measure on.
        method: How ranges or codes were chosen, in words.
    """

    space: Space
    samples: Sequence[Batch]
    method: str


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """A measurement of the layers of one model.

    Attributes:
        subject: What is measured.
        options: How to run models.
        deadline: Value of `time.perf_counter()` from which on no further layer is measured; None for never.
        progress: Called for each layer.
    """

    subject: Subject
    options: CollectOptions
    deadline: float | None
    progress: Callback | None

    def each_alone(self, layers: Sequence[Layer], found: dict[str, Effect]) -> None:
        """Quantize one layer at a time.

        What can be cut out of the float model is measured there, at the cost of what lies behind it; of the other
        layers (recurrent ones that round their state, weights that several nodes share, what is in subgraphs) the
        whole model is run, with all layers but that one in float.

        Args:
            layers: What to measure, in that order.
            found: Takes the effects, by node.
        """
        space, expected = self.subject.space, len(found) + len(layers)
        names = frozenset(layer.node for layer in space.layers)
        bench = replace(space.bench(self.subject.samples, self.options), deadline=self.deadline)
        for is_cut, group in groupby(layers, key=lambda layer: layer.node in space.measurable):
            if is_cut:
                measure_alone(bench, list(group), found, self.progress, expected)
            else:
                self._whole(list(group), lambda node: names - {node}, found, expected)

    def all_but_each(self, layers: Sequence[Layer], found: dict[str, Effect]) -> None:
        """Quantize all layers but one at a time. Arguments as of `each_alone`."""
        self._whole(layers, lambda node: frozenset({node}), found, len(found) + len(layers))

    def _whole(
        self, layers: Sequence[Layer], floats: Callable[[str], Excluded], found: dict[str, Effect], expected: int
    ) -> None:
        """Run whole models: that with the layers `floats(name)` in float, for each layer."""
        space = self.subject.space
        graph = space.bench(self.subject.samples, self.options).graph
        truth = self._outputs(graph, optimise=True)
        report_to(self.progress, STAGE, len(found), expected)
        for layer in layers:
            if self.deadline is not None and time.perf_counter() > self.deadline:
                return
            try:
                quantized = space.make(floats(layer.node), frozenset())
            except NotMadeError:
                continue
            distance = Distance(graph)
            for want, got in zip(truth, self._outputs(quantized, optimise=space.fused), strict=True):
                distance.add(want, got)
            found[layer.node] = distance.effect()
            report_to(self.progress, STAGE, len(found), expected)

    def _outputs(self, graph: Graph, *, optimise: bool) -> list[Arrays]:
        """The outputs of a model on each batch."""
        session = self.options.session(runnable(graph), optimise=optimise)
        values = [session.run(batch.arrays, where=batch.label) for batch in self.subject.samples]
        return [dict(zip(session.output_names, found, strict=True)) for found in values]
