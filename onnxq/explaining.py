"""Plans to look at: what would be quantized, why not, and with which parameters as far as they are known."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from onnxq.calibration.methods import method_from_name
from onnxq.calibration.solve import ranges_from_stats, solve_from_ranges, solve_without_data
from onnxq.calibration.statistics import StatsTable
from onnxq.calibration.synthetic import synthetic_batches
from onnxq.errors import OnnxqError
from onnxq.graph.model import ModelSource
from onnxq.nested import whole_plan
from onnxq.planning.macs import plan_with_macs
from onnxq.planning.options import FAST, Ends, PlanOptions
from onnxq.planning.overrides import Override
from onnxq.planning.plan import QuantPlan
from onnxq.report.explanation import Explanation, explain_plan
from onnxq.stages import Prepared, check_stats, prepare
from onnxq.targets import ORT_CPU, TargetSource


def plan(  # noqa: PLR0913 - one keyword for each choice of the user
    model: ModelSource,
    *,
    target: TargetSource = ORT_CPU,
    activations: str | None = None,
    weights: str | None = None,
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
    choices = (
        *(exclude, exclude_ops, exclude_between, include, include_ops, include_between, overrides, placement),
        *(activations, weights),
    )
    prepared = prepare(model, target, PlanOptions.of(*choices))
    return whole_plan(prepared.plan, prepared.nested)


def explain(  # noqa: PLR0913 - one keyword for each choice of the user
    model: ModelSource,
    *,
    target: TargetSource = ORT_CPU,
    stats: StatsTable | None = None,
    method: str = "auto",
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
        choices: exclude, include, overrides and so on, as for `plan`.

    Raises:
        ModelError: the model cannot be read, is not valid, or is quantized already.
        ConfigError: an argument has an impossible value, or names what the model does not have.
        ArtifactError: `stats` belong to another model, or lack tensors.
    """
    chosen = method_from_name(method, percentile=percentile)
    prepared = prepare(model, target, PlanOptions.of(**choices))
    graph, made = prepared.graph, _counted(prepared)
    if stats is not None:
        check_stats(prepared, stats)
        ranges = ranges_from_stats(made, stats, chosen).ranges
        known = solve_from_ranges(graph, made, ranges, prepared.target)
    else:
        known = solve_without_data(graph, made, prepared.target) if parameters else {}
    whole = whole_plan(made, prepared.nested)
    # Of subgraphs the nodes alone are shown: their tensors' parameters are found with the data that reaches them.
    nodes = explain_plan(graph, replace(whole, tensors={}))
    return whole, replace(nodes, tensors=explain_plan(graph, made, known).tensors)


def _counted(prepared: Prepared) -> QuantPlan:
    """The plan, its arithmetic counted for likely sizes where the model leaves them open."""
    if all(decision.macs is not None for decision in prepared.plan.nodes):
        return prepared.plan
    try:
        batch = next(synthetic_batches(prepared.source, count=1).stream())
    except OnnxqError:  # no likely sizes run: the arithmetic stays unknown
        return prepared.plan
    shapes = {name: array.shape for name, array in batch.arrays.items()}
    counted = plan_with_macs(prepared.plan, prepared.graph, shapes)
    sizes = ", ".join(f"{name} {shape}" for name, shape in shapes.items())
    return replace(counted, notes=(*counted.notes, f"the model leaves sizes open; arithmetic is counted for {sizes}"))
