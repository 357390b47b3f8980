"""Plans to look at: what would be quantized, why not, and with which parameters as far as they are known."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from onnxq.calibration.methods import method_from_name
from onnxq.calibration.solve import ranges_from_stats, solve_from_ranges, solve_without_data
from onnxq.calibration.statistics.table import StatsTable
from onnxq.data.synthetic import likely_shapes
from onnxq.dynamic.weights import solve_dynamic
from onnxq.errors import ConfigError
from onnxq.graph.model import ModelSource, load_graph
from onnxq.graph.view import Graph
from onnxq.numerics.qparams import QuantParams
from onnxq.pipeline.nested_plans import whole_plan
from onnxq.pipeline.stages import check_stats, prepare
from onnxq.pipeline.uncalibrated_plans import plan_dynamically, plan_weights_of
from onnxq.planning.macs import plan_with_macs
from onnxq.planning.modes import DYNAMIC, STATIC, check_mode
from onnxq.planning.options import FAST, Ends, PlanOptions
from onnxq.planning.overrides import Override
from onnxq.planning.plan import QuantPlan
from onnxq.planning.weight_form import FORM_ARGUMENTS, WeightForm
from onnxq.report.explanation import Explanation, codes_of_nodes, explain_plan
from onnxq.targets import ORT_CPU, TargetSource, resolve_target

_AUTO = "auto"


def plan(  # noqa: PLR0913 - one keyword for each choice of the user
    model: ModelSource,
    *,
    target: TargetSource = ORT_CPU,
    mode: str = STATIC,
    activations: str | None = None,
    weights: str | None = None,
    block_size: int | None = None,
    symmetric: bool | None = None,
    rounding: str | None = None,
    weight_format: str | None = None,
    accuracy_level: int | None = None,
    exclude: Sequence[str] = (),
    exclude_ops: Sequence[str] = (),
    exclude_between: Sequence[Ends] = (),
    include: Sequence[str] = (),
    include_ops: Sequence[str] = (),
    include_between: Sequence[Ends] = (),
    overrides: Sequence[Override | Mapping[str, Any]] = (),
    placement: str = FAST,
) -> QuantPlan:
    """What would be quantized for `target`, and why not, without any data. Arguments as for `quantize`.

    Raises:
        ModelError: the model cannot be read, is not valid, or is quantized already.
        ConfigError: an argument has an impossible value, or names what the model does not have.
    """
    return _planned(dict(locals())).whole


def explain(
    model: ModelSource,
    *,
    stats: StatsTable | None = None,
    method: str = _AUTO,
    percentile: float | None = None,
    parameters: bool = True,
    **choices: Any,
) -> tuple[QuantPlan, Explanation]:
    """A plan, and its rows for each node and tensor.

    Args:
        model: As for `quantize`, and so are all arguments that are not listed here.
        stats: Statistics of the model: the activations' scales are known then.
        method: How ranges are chosen from them.
        percentile: For method "percentile".
        parameters: Whether scales and zero-points are wanted, for which weights have to be read.
        choices: target, mode, exclude, include, overrides and so on, as for `plan`.

    Raises:
        ModelError: the model cannot be read, is not valid, or is quantized already.
        ConfigError: an argument has an impossible value, or names what the model does not have.
        ArtifactError: `stats` belong to another model, or lack tensors.
    """
    chosen = method_from_name(method, percentile=percentile)
    defaults = {name: p.default for name, p in inspect.signature(plan).parameters.items()}
    given = {**defaults, **choices, "model": model}
    if given["mode"] != STATIC and (stats is not None or method != _AUTO or percentile is not None):
        raise ConfigError(
            f"mode {given['mode']!r} calibrates nothing, so statistics and methods have no meaning in it",
            hint="leave out stats=, method= and percentile= (--stats, --method, --percentile), or plan mode='static'",
        )
    planned = _planned(given)
    own = _counted(planned)
    if stats is not None:
        check_stats(prepare(model, given["target"], _options(given)), stats)
        ranges = ranges_from_stats(own, stats, chosen).ranges
        known = solve_from_ranges(planned.graph, own, ranges, resolve_target(given["target"])[0])
    else:
        known = dict(planned.solve(own)) if parameters else {}
    whole = planned.whole_with(own)
    # Of subgraphs the nodes alone are shown: their tensors' parameters are found with the data that reaches them.
    nodes = explain_plan(planned.graph, replace(whole, tensors={}), codes=codes_of_nodes(whole))
    return whole, replace(nodes, tensors=explain_plan(planned.graph, own, known).tensors)


@dataclass(frozen=True, kw_only=True)
class _Planned:
    """A plan of any mode.

    Attributes:
        source: The model as given.
        graph: The graph that was planned.
        own: The plan of that graph.
        whole_with: The plan with what is in subgraphs, from that of the graph.
        solve: The parameters that are known without data.
    """

    source: Graph
    graph: Graph
    own: QuantPlan
    whole_with: Callable[[QuantPlan], QuantPlan]
    solve: Callable[[QuantPlan], Mapping[str, QuantParams]]

    @property
    def whole(self) -> QuantPlan:
        return self.whole_with(self.own)


def _planned(given: Mapping[str, Any]) -> _Planned:
    """The plan for the arguments of `plan`.

    Raises:
        OnnxqError: as `plan`.
    """
    mode = given["mode"]
    check_mode(mode, plan, given)
    if mode == STATIC:
        prepared = prepare(given["model"], given["target"], _options(given))
        return _Planned(
            source=prepared.source,
            graph=prepared.graph,
            own=prepared.plan,
            whole_with=lambda own: whole_plan(own, prepared.nested),
            solve=lambda own: solve_without_data(prepared.graph, own, prepared.target),
        )
    table, note = resolve_target(given["target"])
    notes = [note] if note else []
    options = _options({**given, "weights": None})
    if mode == DYNAMIC:
        dynamic = plan_dynamically(given["model"], table, options, notes)
        return _Planned(
            source=dynamic.source,
            graph=dynamic.graph,
            own=dynamic.plan,
            whole_with=lambda own: whole_plan(own, dynamic.nested),
            solve=lambda own: solve_dynamic(dynamic.graph.copy(), own, table),
        )
    source = load_graph(given["model"])
    form = WeightForm.of(*(given[name] for name in FORM_ARGUMENTS))
    tree = plan_weights_of(source, table, form, options, notes)
    return _Planned(
        source=source,
        graph=tree.graph,
        own=tree.planned.plan,
        whole_with=lambda own: replace(tree, planned=replace(tree.planned, plan=own)).whole.plan,
        solve=lambda own: {},  # scales are chosen together with the codes
    )


def _options(given: Mapping[str, Any]) -> PlanOptions:
    names = inspect.signature(PlanOptions.of).parameters
    return PlanOptions.of(**{name: given[name] for name in names})


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
