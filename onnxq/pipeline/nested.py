"""The stages for what is inside the subgraphs of If, Loop and Scan (see `nested_plans`)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from onnxq.calibration.methods import Method
from onnxq.calibration.runner import CollectOptions, collect
from onnxq.calibration.solve import solve_from_ranges
from onnxq.calibration.statistics.table import StatsTable, TensorStats
from onnxq.data.batches import Batches
from onnxq.data.kept import keep_first
from onnxq.graph.subgraphs import with_subgraph
from onnxq.graph.view import Graph
from onnxq.numerics.qparams import QuantParams
from onnxq.passes.adapt.share_constants import ShareConstants
from onnxq.pipeline.nested_plans import Nested, batches_inside, is_run, whole_plan
from onnxq.pipeline.stages import (
    Known,
    Prepared,
    known_from_stats,
    no_stats,
    nothing_to_quantize,
    observe,
    read_through,
    rewrite,
)
from onnxq.planning.plan import Action, QuantPlan
from onnxq.recovery.registry import Recovery
from onnxq.recovery.solved import Solved


@dataclass(kw_only=True)
class InsideNested:
    """What became of the subgraphs.

    Attributes:
        plan: What is inside subgraphs, less those that stay float; nothing of the model's own graph.
        stats: Statistics by tensor, with its path.
        qparams: Parameters by tensor, with its path.
        replaced: Tensors, with their paths, that got the range of `max` in place of the method's.
        skipped: Paths of subgraphs that stay float because no batch ran them.
    """

    plan: QuantPlan
    stats: dict[str, TensorStats] = field(default_factory=dict)
    qparams: dict[str, QuantParams] = field(default_factory=dict)
    replaced: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)

    def notes(self) -> tuple[str, ...]:
        """What the user should know."""
        return tuple(
            f"{path} stays float: no calibration data runs it (data= (--data) that does)" for path in self.skipped
        )

    def with_outer(self, plan: QuantPlan) -> QuantPlan:
        """`plan`, which is of the model's own graph, with what is inside subgraphs."""
        return replace(plan, tensors={**plan.tensors, **self.plan.tensors}, nodes=(*plan.nodes, *self.plan.nodes))

    def added_to(self, stats: StatsTable) -> StatsTable:
        """`stats` with those of what is inside."""
        return replace(stats, tensors={**stats.tensors, **self.stats}) if self.stats else stats


@dataclass(frozen=True, kw_only=True)
class NestedRun:
    """How subgraphs are quantized, the same for all of one model.

    Attributes:
        prepared: The model.
        method: The calibration method.
        options: How to run what is around and inside.
        stats: Statistics from an earlier run; None to collect them.
        recovery: What is done to win back accuracy.
        data: The data as the user gave them.
    """

    prepared: Prepared
    method: Method
    options: CollectOptions
    stats: StatsTable | None
    recovery: Recovery
    data: Any

    def apply(self, graph: Graph, batches: Batches) -> tuple[Graph, InsideNested]:
        """`graph` with int8 inside its subgraphs, and what there is to know of them.

        Args:
            graph: The model's graph, float so far; it is not changed.
            batches: Its calibration data.

        Raises:
            OnnxqError: as the stages do.
        """
        nothing = replace(self.prepared.plan, tensors={}, nodes=())
        found = InsideNested(plan=whole_plan(nothing, self.prepared.nested))
        if not self.prepared.nested:
            return graph, found
        graph = graph.copy()
        self._quantize(graph, self.prepared.nested, batches, "", found)
        if found.skipped:
            found.plan = _without(found.plan, found.skipped)
        ShareConstants().run(graph)
        return graph, found

    def _quantize(
        self, graph: Graph, nested: Sequence[Nested], batches: Batches, path: str, found: InsideNested
    ) -> None:
        """Quantize the subgraphs of `graph`, which stands at `path`, in place."""
        for one in nested:
            here = f"{path}{one.subgraph.path}/"
            inside = batches_inside(graph, one, batches, self.options)
            known = self._known(one, inside, here, graph, batches)
            if known is None:
                found.skipped.append(here.rstrip("/"))
                continue
            self._rewrite(graph, one, known, inside, here, found)
        if nested:
            graph.prune()
            graph.sort()

    def _known(self, one: Nested, inside: Batches, here: str, graph: Graph, batches: Batches) -> Known | None:
        """What is known of the activations inside; None where nothing runs it."""
        sub = replace(self.prepared, source=one.graph, graph=one.graph, plan=one.plan, nested=())
        if self.stats is not None:
            own = _under(self.stats, here)
            if not any(found.finite for found in own.tensors.values()):
                return None
            return known_from_stats(one.plan, own, self.method)
        if not is_run(graph, one, batches, self.options):
            return None
        if not one.plan.observed():
            return Known(no_stats(sub), {}, self.method.label)
        return observe(sub, inside, self.method, self.options, None)

    def _rewrite(  # noqa: PLR0913, PLR0917 - the parts of one subgraph
        self, graph: Graph, one: Nested, known: Known, inside: Batches, here: str, found: InsideNested
    ) -> None:
        target = self.prepared.target
        clips = self.recovery.clips_weights
        qparams = solve_from_ranges(one.graph, one.plan, known.ranges, target, clip_weights=clips)
        content = one.graph.copy()
        if self.recovery.needs_samples and (self.stats is None or self.data is not None):
            read, samples = keep_first(inside)
            read_through(read)
            content = self.recovery.adjusted(
                Solved(
                    graph=content,
                    plan=one.plan,
                    qparams=qparams,
                    samples=samples,
                    options=self.options,
                    target=target,
                )
            )
        self._quantize(content, one.inner, inside, here, found)
        with_subgraph(graph, one.subgraph, rewrite(content, one.plan, qparams))
        found.stats |= {f"{here}{name}": s for name, s in known.stats.tensors.items()}
        found.qparams |= {f"{here}{name}": q for name, q in qparams.items()}
        found.replaced += [f"{here}{name}" for name in known.replaced]


def check_plan(prepared: Prepared) -> None:
    """See that there is something to quantize.

    Raises:
        UnsupportedModelError: there is nothing.
    """
    plan = whole_plan(prepared.plan, prepared.nested)
    if not any(d.action is Action.INT8 for d in plan.nodes):
        raise nothing_to_quantize(plan)


def readable_for(prepared: Prepared, batches: Batches) -> Batches:
    """`batches` in a form that can be read once more for each subgraph; kept in memory where it cannot."""
    return batches.cached() if prepared.nested and batches.one_shot else batches


def with_inside(table: StatsTable, prepared: Prepared, batches: Batches, options: CollectOptions) -> StatsTable:
    """`table` with the statistics of what is inside subgraphs, by name with the path; empty where nothing runs it."""
    found = _collect(prepared.graph, prepared.nested, batches, options, table.digest, "")
    return replace(table, tensors={**table.tensors, **found}) if found else table


def _collect(  # noqa: PLR0913, PLR0917 - the parts of one graph
    graph: Graph, nested: Sequence[Nested], batches: Batches, options: CollectOptions, digest: str, path: str
) -> dict[str, TensorStats]:
    found: dict[str, TensorStats] = {}
    for one in nested:
        here = f"{path}{one.subgraph.path}/"
        inside = batches_inside(graph, one, batches, options)
        if not is_run(graph, one, batches, options):
            # Another shard of the data may run it; to merge, both must name the same tensors.
            names = whole_plan(one.plan, one.inner).observed()
            found |= {f"{here}{name}": TensorStats.empty() for name in names}
            continue
        if one.plan.observed():
            table = collect(one.graph, one.plan.observed(), inside, digest=digest, options=options)
            found |= {f"{here}{name}": stats for name, stats in table.tensors.items()}
        found |= _collect(one.graph, one.inner, inside, options, digest, here)
    return found


def _under(stats: StatsTable, path: str) -> StatsTable:
    """The statistics of what is at `path`, by name without it."""
    found = {name[len(path) :]: one for name, one in stats.tensors.items() if name.startswith(path)}
    return replace(stats, tensors=found)


def _without(plan: QuantPlan, paths: Sequence[str]) -> QuantPlan:
    gone = tuple(f"{path}/" for path in paths)
    tensors = {name: t for name, t in plan.tensors.items() if not name.startswith(gone)}
    return replace(plan, tensors=tensors, nodes=tuple(d for d in plan.nodes if not d.node.startswith(gone)))
