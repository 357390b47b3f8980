"""The stage that `tune="latency"` adds: placements built from one set of ranges, raced on this machine."""

from __future__ import annotations

from dataclasses import replace

from onnxq.calibration.methods import MOVING_AVERAGE, Method
from onnxq.calibration.solve import RangeTable, solve_from_ranges
from onnxq.calibration.tensorrt_cache import TensorRTCache
from onnxq.data.batches import Batch, Batches
from onnxq.errors import ConfigError, ModelError
from onnxq.graph.view import Graph
from onnxq.pipeline.stages import Prepared, rewrite
from onnxq.planning.input_payoff import HANDS_ON_CODES
from onnxq.planning.options import FULL, PlanOptions
from onnxq.planning.plan import Action, Observed, QuantPlan, TensorPlan
from onnxq.planning.planner import make_plan
from onnxq.targets.schema import Engine, Placement, Target
from onnxq.tuning.blocks import blocks
from onnxq.tuning.race import Feed
from onnxq.tuning.search import DEFAULT_SECONDS, Floats, Racing, Search, Tuning
from onnxq.tuning.timers import Timer, timers_of
from onnxq.verification.engines.openvino import not_installed

LATENCY = "latency"


def check_tuning(tune: str | None, seconds: float, method: Method, cache: TensorRTCache | None) -> None:
    """Refuse what cannot be tuned.

    Raises:
        ConfigError: there is no such aim, the limit is no time, or ranges come from where no other placement has any.
    """
    if tune is None:
        if seconds != DEFAULT_SECONDS:
            raise ConfigError(
                "tune_seconds= (--tune-seconds) limits tune= (--tune), which is not given",
                hint="leave it out, or pass tune='latency' (--tune latency)",
            )
        return
    if tune != LATENCY:
        raise ConfigError(f"unknown aim {tune!r}; known: {LATENCY}", hint="pass tune='latency' (--tune latency)")
    if not seconds > 0.0:
        raise ConfigError(
            f"the time limit is {seconds} s", hint="pass a positive number as tune_seconds= (--tune-seconds)"
        )
    if method.name == MOVING_AVERAGE or cache is not None:
        given = "a TensorRT calibration cache" if cache is not None else "a moving average"
        raise ConfigError(
            f"tuning needs statistics of all tensors, which {given} does not give",
            hint="leave out tune= (--tune), or choose another method= (--method)",
        )


def timers_for_tuning(target: Target) -> tuple[Timer, ...]:
    """What times placements for `target`.

    Raises:
        ConfigError: nothing does that on this machine.
        EngineMissingError: the engine that would is not installed.
    """
    if found := timers_of(target):
        return found
    if target.engine is Engine.OPENVINO:
        raise not_installed()
    why = {
        Engine.TENSORRT: "TensorRT runs on a GPU, where onnxq times nothing",
        Engine.ONNXRUNTIME: f"{target.name} is for machines of another kind",
    }.get(target.engine, f"the engine of {target.name} does not run there")
    raise ConfigError(
        f"placements are raced on the machine that runs onnxq: {why}",
        hint="leave out tune= (--tune), or choose target='ort-cpu' or 'openvino' (--target)",
    )


def for_all_placements(prepared: Prepared, options: PlanOptions) -> Prepared:
    """`prepared` with a plan that observes the tensors of every placement."""
    tensors: dict[str, TensorPlan] = dict(prepared.plan.tensors)
    for name, tensor in _planned(prepared, options, frozenset()).tensors.items():
        if name not in tensors or not isinstance(tensors[name].source, Observed):
            tensors[name] = tensor
    return replace(prepared, plan=replace(prepared.plan, tensors=tensors))


def tune_placement(
    prepared: Prepared,
    options: PlanOptions,
    ranges: RangeTable,
    held_out: Batches,
    racing: Racing,
) -> tuple[Prepared, Tuning]:
    """The fastest placement, as `onnxq.tuning.search` finds it.

    Args:
        prepared: The model with its default plan.
        options: What the user keeps in float.
        ranges: A range for each tensor that any placement observes; see `for_all_placements`.
        held_out: Inputs to compare on.
        racing: How they are raced.

    Returns:
        The model with the plan of that placement, and what the search found.

    Raises:
        ModelError: the engine takes the float model or the default placement not.
    """
    costs = prepared.target.costs
    dear = frozenset(d.node for d in prepared.plan.nodes if costs is not None and d.rule == costs.rule)
    plans: dict[Floats, QuantPlan] = {dear: prepared.plan}

    def plan_of(floats: Floats) -> QuantPlan:
        if floats not in plans:
            plans[floats] = _planned(prepared, options, floats)
        return plans[floats]

    def build(floats: Floats) -> Graph | None:
        plan = plan_of(floats)
        if floats != dear and not any(decision.action is Action.INT8 for decision in plan.nodes):
            return None  # a float model is not what was asked for, however fast
        if not all(name in ranges for name in plan.observed()):
            return None
        return rewrite(prepared.graph, plan, solve_from_ranges(prepared.graph, plan, ranges, prepared.target))

    batches = list(held_out.stream())
    feeds = [dict(batch.arrays) for batch in batches]
    search = Search(build, prepared.source, feeds, _one_sample(prepared.graph, batches[0]), racing)
    handing = HANDS_ON_CODES if prepared.target.placement is Placement.INPUTS else frozenset()
    try:
        tuning = search.run(
            dear,
            frozenset(),
            lambda floats: blocks(prepared.graph, plan_of(floats), prepared.target.compute, dear, handing),
        )
    except ModelError as error:
        raise ModelError(
            f"placements cannot be raced: {error.message}", where=error.where, hint="leave out tune= (--tune)"
        ) from error
    plan = plan_of(tuning.floats)
    return replace(prepared, plan=replace(plan, notes=(*prepared.plan.notes, tuning.summary()))), tuning


def _one_sample(graph: Graph, batch: Batch) -> Feed:
    """The first sample of `batch`, or all of it where the model does not leave the batch open."""
    counted = {n for n, array in batch.arrays.items() if array.ndim and len(array) == batch.samples}
    if any(isinstance((graph.shape(name) or (None,))[0], int) for name in counted):
        return dict(batch.arrays)
    return {name: array[:1] if name in counted else array for name, array in batch.arrays.items()}


def _planned(prepared: Prepared, options: PlanOptions, floats: Floats) -> QuantPlan:
    """The plan that keeps `floats` in float beside what the user does, whatever nodes cost."""
    return make_plan(
        prepared.graph,
        prepared.target,
        options=replace(options, placement=FULL, slower=floats),
        digest=prepared.plan.digest,
        notes=prepared.plan.notes,
    )
