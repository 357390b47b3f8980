"""The stages for what is inside the subgraphs of If, Loop and Scan (see `nested_plans`)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from onnxq.calibration.methods import Method
from onnxq.calibration.runner import CollectOptions, collect
from onnxq.calibration.solve import QParamsTable, solve_from_ranges
from onnxq.calibration.statistics.table import StatsTable, TensorStats
from onnxq.data.batches import Batches
from onnxq.data.kept import keep_first
from onnxq.graph.view import Graph
from onnxq.pipeline.nested_plans import Nested, batches_inside, is_run, quantized, whole_plan
from onnxq.pipeline.stages import (
    Known,
    Prepared,
    known_from_stats,
    no_stats,
    nothing_to_quantize,
    observe,
    read_through,
)
from onnxq.planning.plan import Action
from onnxq.recovery.registry import Recovery
from onnxq.recovery.solved import Solved


@dataclass(frozen=True, kw_only=True)
class SolvedInside:
    """A subgraph with all that it is quantized from.

    Attributes:
        nested: The subgraph, and its plan.
        path: Where it is in the model; ends in a slash.
        stats: Statistics of its activations, by tensor.
        qparams: Its parameters, by key of its plan.
        recovered: Its float graph with the constants that will be quantized; subgraphs in it are float.
        inner: Subgraphs in it that are quantized.
        left: Those that stay float.
    """

    nested: Nested
    path: str
    stats: StatsTable
    qparams: QParamsTable
    recovered: Graph
    inner: tuple[SolvedInside, ...] = ()
    left: tuple[Nested, ...] = ()

    def walk(self) -> Iterator[SolvedInside]:
        """This one and all in it."""
        yield self
        for one in self.inner:
            yield from one.walk()


@dataclass(frozen=True, kw_only=True)
class InsideNested:
    """What was found out about the subgraphs of a model.

    Attributes:
        parts: Those of the model's own graph that are quantized.
        left: Those of the model's own graph that stay float.
        skipped: Paths of subgraphs that stay float because no batch ran them.
    """

    parts: tuple[SolvedInside, ...] = ()
    left: tuple[Nested, ...] = ()
    skipped: tuple[str, ...] = ()

    @property
    def stats(self) -> dict[str, TensorStats]:
        """Statistics by tensor, with its path."""
        return {
            f"{one.path}{name}": stats
            for part in self.parts
            for one in part.walk()
            for name, stats in one.stats.tensors.items()
        }

    def notes(self) -> tuple[str, ...]:
        """What the user should know."""
        return tuple(
            f"{path} stays float: no calibration data runs it (data= (--data) that does)" for path in self.skipped
        )


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

    def solve(self, graph: Graph, batches: Batches) -> InsideNested:
        """What is needed to quantize the subgraphs.

        Args:
            graph: The model's graph, float; it is not changed.
            batches: Its calibration data.

        Raises:
            OnnxqError: as the stages do.
        """
        skipped: list[str] = []
        parts, left = self._solve(graph, self.prepared.nested, batches, "", skipped)
        return InsideNested(parts=parts, left=left, skipped=tuple(skipped))

    def _solve(
        self, graph: Graph, nested: Sequence[Nested], batches: Batches, path: str, skipped: list[str]
    ) -> tuple[tuple[SolvedInside, ...], tuple[Nested, ...]]:
        """The subgraphs of `graph`, which stands at `path`, and those of them that stay float."""
        found, left = list[SolvedInside](), [one for one in nested if one.left]
        for one in quantized(nested):
            here = f"{path}{one.subgraph.path}/"
            inside = batches_inside(graph, one, batches, self.options)
            known = self._known(one, inside, here, graph, batches)
            if known is None:
                skipped.append(here.rstrip("/"))
                left.append(one.left_float("no calibration data runs it"))
                continue
            found.append(self._solved(one, known, inside, here, skipped))
        return tuple(found), tuple(left)

    def _known(self, one: Nested, inside: Batches, here: str, graph: Graph, batches: Batches) -> Known | None:
        """What is known of the activations inside; None where nothing runs it."""
        sub = replace(self.prepared, source=one.graph, graph=one.graph, plan=one.plan, nested=())
        if self.stats is not None:
            own = below(self.stats, here)
            if one.plan.observed() and not any(found.finite for found in own.tensors.values()):
                return None
            return known_from_stats(one.plan, own, self.method)
        if not is_run(graph, one, batches, self.options):
            return None
        if not one.plan.observed():
            return Known(no_stats(sub), {}, self.method.label)
        return observe(sub, inside, self.method, self.options, None)

    def _solved(self, one: Nested, known: Known, inside: Batches, here: str, skipped: list[str]) -> SolvedInside:
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
        inner, left = self._solve(content, one.inner, inside, here, skipped)
        return SolvedInside(
            nested=one,
            path=here,
            stats=known.stats,
            qparams=qparams,
            recovered=content,
            inner=inner,
            left=left,
        )


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
    return batches.cached() if quantized(prepared.nested) and batches.one_shot else batches


def with_inside(table: StatsTable, prepared: Prepared, batches: Batches, options: CollectOptions) -> StatsTable:
    """`table` with the statistics of what is inside subgraphs, by name with the path; empty where nothing runs it."""
    found = _collect(prepared.graph, prepared.nested, batches, options, table.digest, "")
    return replace(table, tensors={**table.tensors, **found}) if found else table


def _collect(  # noqa: PLR0913, PLR0917 - the parts of one graph
    graph: Graph, nested: Sequence[Nested], batches: Batches, options: CollectOptions, digest: str, path: str
) -> dict[str, TensorStats]:
    found: dict[str, TensorStats] = {}
    for one in quantized(nested):
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


def below(stats: StatsTable, path: str) -> StatsTable:
    """The statistics of what is at `path`, by name without it."""
    found = {name[len(path) :]: one for name, one in stats.tensors.items() if name.startswith(path)}
    return replace(stats, tensors=found)
