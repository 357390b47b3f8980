"""Plans to look at: what would be quantized, why not, and with which parameters as far as they are known."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from onnxq.calibration.methods import method_from_name
from onnxq.calibration.methods.solve import RangeKeywords
from onnxq.calibration.solve import ranges_from_stats, solve_from_ranges, solve_without_data
from onnxq.calibration.statistics.file import stats_from
from onnxq.data.synthetic import likely_shapes
from onnxq.dynamic.weights import solve_dynamic
from onnxq.errors import ConfigError
from onnxq.graph.model import ModelSource, load_graph
from onnxq.graph.view import Graph
from onnxq.keywords import complete, defaults_of, takes
from onnxq.modes.arguments import check_mode
from onnxq.numerics.qparams import QuantParams
from onnxq.pipeline.nested import below
from onnxq.pipeline.nested_plans import Nested, walk, whole_plan
from onnxq.pipeline.stages import check_stats, prepare
from onnxq.pipeline.uncalibrated_plans import plan_dynamically, plan_weights_of
from onnxq.planning.macs import plan_with_macs
from onnxq.planning.modes import DYNAMIC, STATIC, WEIGHT_ONLY
from onnxq.planning.options import PlacementKeywords, PlanOptions, TypeKeywords
from onnxq.planning.plan import Action, QuantPlan
from onnxq.planning.weight_form import FormKeywords, WeightForm
from onnxq.report.explanation import Explanation, codes_of_nodes, explain_plan
from onnxq.targets import ORT_CPU, TargetSource, resolve_target
from onnxq.verification.engines.ort_products import saturation_note

if TYPE_CHECKING:
    from typing_extensions import Unpack


class PlanKeywords(TypeKeywords, FormKeywords, PlacementKeywords, total=False):
    """What a plan depends on beside model, target and mode."""


@takes(PlanKeywords)
def plan(
    model: ModelSource, *, target: TargetSource = ORT_CPU, mode: str = STATIC, **options: Unpack[PlanKeywords]
) -> QuantPlan:
    """What would be quantized for `target`, and why not, without any data.

    Args:
        model: As for `quantize`.
        target: As for `quantize`.
        mode: As for `quantize`.
        options: As for `quantize`: activations, weights, block_size, symmetric, rounding, weight_format,
            accuracy_level, exclude, exclude_ops, exclude_between, include, include_ops, include_between, overrides,
            placement.

    Raises:
        ModelError: the model cannot be read, is not valid, or is quantized already.
        ConfigError: an argument has an impossible value, or names what the model does not have.
    """
    return _planned(model, target, mode, options).whole


class ExplainKeywords(RangeKeywords, PlanKeywords, total=False):
    """What rows depend on beside model, target and mode."""


@takes(ExplainKeywords)
def explain(
    model: ModelSource,
    *,
    target: TargetSource = ORT_CPU,
    mode: str = STATIC,
    parameters: bool = True,
    **options: Unpack[ExplainKeywords],
) -> tuple[QuantPlan, Explanation]:
    """A plan, and its rows for each node and tensor.

    Args:
        model: As for `quantize`.
        target: As for `quantize`.
        mode: As for `quantize`.
        parameters: Whether scales and zero-points are wanted, for which weights have to be read.
        options: As for `plan`; and method, percentile and stats, from which the activations' scales are known then.

    Raises:
        ModelError: the model cannot be read, is not valid, or is quantized already.
        ConfigError: an argument has an impossible value, or names what the model does not have.
        ArtifactError: `stats` belong to another model, or lack tensors.
    """
    ranges = complete(RangeKeywords, options)
    stats = stats_from(ranges["stats"])
    chosen = method_from_name(ranges["method"], percentile=ranges["percentile"])
    if mode != STATIC and ranges != defaults_of(RangeKeywords):
        raise ConfigError(
            f"mode {mode!r} calibrates nothing, so statistics and methods have no meaning in it",
            hint="leave out stats=, method= and percentile= (--stats, --method, --percentile), or plan mode='static'",
        )
    if stats is None and ranges != defaults_of(RangeKeywords):
        raise ConfigError(
            "method= and percentile= (--method, --percentile) choose ranges from stats= (--stats), which is not given",
            hint="leave them out, or pass stats= (--stats)",
        )
    planned = _planned(model, target, mode, options)
    own = _counted(planned)
    if stats is not None:
        check_stats(prepare(model, target, PlanOptions.of(options)), stats)

    def solve(graph: Graph, plan: QuantPlan, path: str) -> Mapping[str, QuantParams]:
        if stats is not None:
            inner = below(stats, path)
            # A body that no data ran has no ranges.
            if not path or any(one.finite for one in inner.tensors.values()):
                found = ranges_from_stats(plan, inner, chosen).ranges
                return solve_from_ranges(graph, plan, found, resolve_target(target)[0])
        return planned.solve(graph, plan) if parameters else {}

    whole = planned.whole_with(own)
    nodes = explain_plan(planned.graph, replace(whole, tensors={}), codes=codes_of_nodes(whole))
    tensors = (
        row
        for path, graph, plan in (("", planned.graph, own), *walk(planned.nested))
        for row in explain_plan(graph, plan, solve(graph, plan, path), path=path).tensors
    )
    return whole, replace(nodes, tensors=tuple(tensors))


@dataclass(frozen=True, kw_only=True)
class _Planned:
    """A plan of any mode.

    Attributes:
        source: The model as given.
        graph: The graph that was planned.
        own: The plan of that graph.
        nested: What is in subgraphs.
        whole_with: The plan with that, from the plan of the graph.
        solve: The parameters that are known without data, from a graph and its plan.
    """

    source: Graph
    graph: Graph
    own: QuantPlan
    nested: tuple[Nested, ...]
    whole_with: Callable[[QuantPlan], QuantPlan]
    solve: Callable[[Graph, QuantPlan], Mapping[str, QuantParams]]

    @property
    def whole(self) -> QuantPlan:
        return self.whole_with(self.own)


def _planned(model: ModelSource, target: TargetSource, mode: str, options: PlanKeywords) -> _Planned:
    """The plan for the arguments of `plan`.

    Raises:
        OnnxqError: as `plan`.
    """
    check_mode(mode, PlanKeywords, options)
    planned = _planned_for(model, target, mode, options)
    computes_on_codes = any(decision.action is Action.INT8 for decision in planned.whole.nodes)
    remark = saturation_note(resolve_target(target)[0]) if computes_on_codes else None
    return planned if remark is None else replace(planned, own=replace(planned.own, notes=(*planned.own.notes, remark)))


def _planned_for(model: ModelSource, target: TargetSource, mode: str, options: PlanKeywords) -> _Planned:
    wanted = PlanOptions.of(options, with_types=mode == STATIC)
    if mode == STATIC:
        prepared = prepare(model, target, wanted)
        return _Planned(
            source=prepared.source,
            graph=prepared.graph,
            own=prepared.plan,
            nested=prepared.nested,
            whole_with=lambda own: whole_plan(own, prepared.nested),
            solve=lambda graph, plan: solve_without_data(graph, plan, prepared.target),
        )
    table, note = resolve_target(target, weights_alone=mode == WEIGHT_ONLY)
    notes = [note] if note else []
    if mode == DYNAMIC:
        dynamic = plan_dynamically(model, table, wanted, notes)
        return _Planned(
            source=dynamic.source,
            graph=dynamic.graph,
            own=dynamic.plan,
            nested=dynamic.nested,
            whole_with=lambda own: whole_plan(own, dynamic.nested),
            solve=lambda graph, plan: solve_dynamic(graph.copy(), plan, table),
        )
    source = load_graph(model)
    tree = plan_weights_of(source, table, WeightForm.of(options), wanted, notes)
    return _Planned(
        source=source,
        graph=tree.graph,
        own=tree.planned.plan,
        nested=tree.bodies,
        whole_with=lambda own: replace(tree, planned=replace(tree.planned, plan=own)).whole.plan,
        solve=lambda graph, plan: {},  # scales are chosen together with the codes
    )


def _counted(planned: _Planned) -> QuantPlan:
    """The plan, its arithmetic counted for likely sizes where the model leaves them open."""
    own = planned.own
    if all(decision.macs is not None for decision in own.nodes):
        return own
    shapes = likely_shapes(planned.source)
    if not shapes:  # the arithmetic stays unknown
        return own
    counted = plan_with_macs(own, planned.graph, shapes)
    sizes = ", ".join(f"{name} {shape}" for name, shape in shapes.items())
    return replace(counted, notes=(*counted.notes, f"the model leaves sizes open; arithmetic is counted for {sizes}"))
