"""The stages that the public functions put together: loading and planning, data, ranges, rewriting, and their facts."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from onnx import TensorProto

from onnxq.calibration.methods import MOVING_AVERAGE, Method
from onnxq.calibration.observers import observe_moving_average
from onnxq.calibration.progress import Progress
from onnxq.calibration.runner import CollectOptions, collect
from onnxq.calibration.solve import QParamsTable, RangeTable, ranges_from_stats, share_ranges
from onnxq.calibration.statistics.table import StatsTable
from onnxq.calibration.tensorrt_cache import TensorRTCache
from onnxq.calibration.trained import TrainedParams, trained_params
from onnxq.data.batches import Batches
from onnxq.data.kept import read_ahead
from onnxq.errors import ArtifactError, ConfigError, ModelError, UnsupportedModelError
from onnxq.graph.model import (
    ModelSource,
    load_graph,
    model_digest,
    quantized_nodes,
)
from onnxq.graph.view import Graph
from onnxq.graph.weights_file import WeightsFile
from onnxq.inference.faults import blamed_on
from onnxq.passes.adapt.compute_in_float16 import ComputeInFloat16
from onnxq.passes.adapt.fuse_hard_swish import with_whole_operators
from onnxq.passes.adapt.part_fused_sums import PartFusedSums
from onnxq.passes.adapt.part_prelu import PartPRelu
from onnxq.passes.adapt.settle_types import note_of_types, runnable, settle_types
from onnxq.passes.adapt.store_in_half import StoreInHalf
from onnxq.passes.base import Pass, PassManager, PassResult
from onnxq.passes.quantize.convert_widths import ConvertWidths
from onnxq.passes.quantize.fold_tables import FoldTables
from onnxq.passes.quantize.fold_weights import FoldWeights
from onnxq.passes.quantize.give_biases import GiveBiases
from onnxq.passes.quantize.hold_float import HoldFloat
from onnxq.passes.quantize.insert_qdq import InsertQDQ
from onnxq.passes.quantize.nonzero_biases import NonzeroBiases
from onnxq.passes.simplify.lift_constants import LiftConstants
from onnxq.passes.simplify.normalise import normalise_float
from onnxq.passes.simplify.remove_identity import RemoveIdentity
from onnxq.passes.simplify.settle_parameters import SettleParameters
from onnxq.passes.strip.strip_pairs import StripPairs, TrainedPairs, has_trained_pairs
from onnxq.pipeline.nested_plans import Nested, plan_nested, whole_plan
from onnxq.planning.options import PlanOptions
from onnxq.planning.overridden import check_named
from onnxq.planning.plan import Action, QuantPlan
from onnxq.planning.planner import make_plan
from onnxq.recovery.finite_samples import finite_batches
from onnxq.recovery.registry import Recovery
from onnxq.targets import TargetSource, resolve_target
from onnxq.targets.forms import with_types
from onnxq.targets.schema import Target
from onnxq.wording.plural import counted

ProgressCallback = Callable[[Progress], None]

DEFAULT_RECOVERY = "fast"


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """A model ready for calibration.

    Attributes:
        source: The model as given.
        graph: The same function after the float passes, at the opset that the target needs.
        target: The resolved target.
        plan: The plan for it.
        passes: What the float passes did.
        widened: Whether what was float16 in the source computes in float32.
        nested: The subgraphs of If, Loop and Scan, planned too.
        trained: What the Q/DQ pairs of a quantization-aware training say, where the model came with some.
        reach: Where what is not quantized computes in float16, the largest magnitudes of tensors on samples.
    """

    source: Graph
    graph: Graph
    target: Target
    plan: QuantPlan
    passes: PassResult
    widened: bool = False
    nested: tuple[Nested, ...] = ()
    trained: TrainedParams | None = None
    reach: Mapping[str, float] = field(default_factory=dict, repr=False)


def prepare(
    model: ModelSource,
    target: TargetSource,
    options: PlanOptions,
    recovery: Recovery | None = None,
    *,
    note: str | None = None,
) -> Prepared:
    """Load, normalise and plan, for `recovery` (the default one unless given).

    Args:
        model: The model.
        target: Its target; its name or file is resolved.
        options: What the user says about placement.
        recovery: What will be done to win back accuracy.
        note: What is to be said about the choice of a target that is resolved already.

    Raises:
        ModelError: the model cannot be read, is not valid, or is quantized already.
        ConfigError: there is no such target, its file is wrong, or an option names what is not there.
    """
    table, chosen = resolve_target(target)
    check_float16(table, options)
    blocks = any(one.block_size is not None for one in options.overrides)
    table, remarks = with_types(table, options.activations, options.weights, options.types(), blocks=blocks)
    source = load_graph(model)
    done = quantized_nodes(source)
    if done and not has_trained_pairs(source):
        raise already_quantized(source, done)
    recovery = Recovery.of(DEFAULT_RECOVERY) if recovery is None else recovery
    give_biases = [GiveBiases()] if recovery.needs_biases else []
    with blamed_on(source):
        graph, changed = settle_types(source, table, float16=options.float16)
        notes = tuple(filter(None, [note or chosen, *remarks, note_of_types(changed)]))
        pairs = TrainedPairs()
        if done:
            settling = [LiftConstants(), RemoveIdentity(), SettleParameters()]
            PassManager([*settling, StripPairs(pairs)], name="strip pairs").run(graph)
        passes = normalise_float(trained=bool(done)).run(graph)
        graph = with_whole_operators(graph, table)
        PassManager(give_biases, name="prepare").run(graph)
        digest = model_digest(source)
        nested_passes = PassManager([normalise_float(trained=bool(done)), *give_biases], name="prepare subgraph")
        nested = plan_nested(graph, table, nested_passes, options=options, digest=digest)
        made = make_plan(graph, table, options=options, digest=digest, notes=notes, source=source)
        check_named(graph, whole_plan(made, nested), options.overrides)
        trained = trained_params(graph, made, pairs) if done else None
    return Prepared(
        source=source,
        graph=graph,
        target=table,
        plan=made,
        passes=passes,
        widened=TensorProto.FLOAT16 in changed,
        nested=nested,
        trained=trained,
    )


def rescaled(
    prepared: Prepared, recovery: Recovery, batches: Batches, options: CollectOptions
) -> tuple[Prepared, Batches, tuple[str, ...]]:
    """The model with its float graph rewritten as `recovery` asks, the data to calibrate on, and what was done."""
    if not recovery.rewrites:
        return prepared, batches, ()
    batches, samples = read_ahead(batches)
    finite = list(finite_batches(runnable(prepared.graph), prepared.plan.observed(), samples, options))
    graph, facts = recovery.rewritten(prepared.graph, prepared.plan, prepared.target, finite, options)
    return replace(prepared, graph=graph), batches, facts


def of_rescaled(known: Known, recovery: Recovery) -> Known:
    """`known` with statistics that no other form of the model takes for its own, where the graph was rewritten."""
    if not recovery.rewrites:
        return known
    text = f"{known.stats.digest} {' '.join(recovery.names)}"
    return replace(known, stats=replace(known.stats, digest=hashlib.sha256(text.encode()).hexdigest()))


def check_float16(target: Target, options: PlanOptions) -> None:
    """See that what is not quantized may compute in float16, if it is to.

    Raises:
        ConfigError: the target's engine computes in float32 around its int8 nodes.
    """
    if options.float16 and not target.half_types:
        raise ConfigError(
            f"{target.name} takes no pairs in float16: the model computes in float32 around them",
            hint="leave --float-type (float_type=) out, or choose --target tensorrt (target=)",
        )


def rewrite(  # noqa: PLR0913 - what shapes the quantized graph
    graph: Graph,
    plan: QuantPlan,
    qparams: QParamsTable,
    *,
    widened: bool = False,
    reach: Mapping[str, float] | None = None,
    weights: WeightsFile | None = None,
) -> Graph:
    """The quantized graph: pairs inserted, weights folded. `graph` is not changed.

    Args:
        graph: The graph of the plan.
        plan: What to quantize.
        qparams: The parameters.
        widened: Whether `graph` was brought from float16 to float32; large constants then go back.
        reach: The largest magnitudes of tensors on samples, for a plan with `float16`.
        weights: The file that quantized weights go to; None keeps them in the graph.
    """
    quantized = graph.copy()
    passes: list[Pass] = [
        InsertQDQ(plan, qparams),
        FoldWeights(plan, qparams, weights),
        FoldTables(plan, qparams, weights),
        HoldFloat(plan),
    ]
    if plan.slow_prelu:
        passes.append(PartPRelu())
    if plan.slow_sums:
        passes.append(PartFusedSums())
    if plan.nonzero_biases:
        passes.append(NonzeroBiases())
    if plan.one_width:
        passes.append(ConvertWidths())
    if widened:
        passes.append(StoreInHalf())
    if plan.float16:
        passes.append(ComputeInFloat16(reach or {}))
    PassManager(passes, name="rewrite").run(quantized)
    return quantized


def refuse_quantized(source: Graph) -> None:
    """See that a model is float.

    Raises:
        ModelError: it has quantized nodes.
    """
    done = quantized_nodes(source)
    if done:
        raise already_quantized(source, done)


def already_quantized(source: Graph, nodes: Sequence[str]) -> ModelError:
    """What to say of a model that is to be quantized and has the quantized `nodes`."""
    ops = {source.node(name).op_type for name in nodes}
    if ops <= {"QuantizeLinear", "DequantizeLinear"}:
        way = "give the float model, or the one that onnxq.strip(...) (onnxq strip) makes by taking the Q/DQ pairs out"
    else:
        others = ", ".join(sorted(ops - {"QuantizeLinear", "DequantizeLinear"})[:3])
        way = f"give the float model: {others} cannot be turned back"
    return ModelError(
        f"the model is quantized already: it has {counted(len(nodes), 'quantized node')}, first {nodes[0]!r}",
        hint=f"{way}; to check a quantized model use onnxq.verify(...) (onnxq verify)",
    )


@dataclass(frozen=True)
class Known:
    """What is known of the activations.

    Attributes:
        stats: Their statistics.
        ranges: The ranges of those to quantize.
        label: How the ranges were found.
        replaced: Tensors that got the range of `max` in place of the method's, which would have ruined them.
    """

    stats: StatsTable
    ranges: RangeTable
    label: str
    replaced: tuple[str, ...] = ()


def observe(
    prepared: Prepared,
    batches: Batches,
    method: Method,
    options: CollectOptions,
    progress: ProgressCallback | None,
) -> Known:
    """Run the model over `batches` and find the ranges that `method` gives.

    Raises:
        DataError: the data does not fit the model, is empty, or holds NaN/Inf.
    """
    graph, plan, digest = runnable(prepared.graph), prepared.plan, prepared.plan.digest
    if method.name == MOVING_AVERAGE:
        seen = observe_moving_average(
            graph, plan.observed(), batches, digest=digest, momentum=method.momentum, options=options
        )
        stats = replace(no_stats(prepared), samples=seen.samples, data_fingerprint=seen.data_fingerprint)
        return Known(stats, share_ranges(plan, seen.ranges), method.label)
    stats = collect(graph, plan.observed(), batches, digest=digest, options=options, progress=progress)
    return known_from_stats(plan, stats, method)


def find_ranges(  # noqa: PLR0913 - what `quantize` hands through
    prepared: Prepared,
    batches: Batches,
    method: Method,
    options: CollectOptions,
    *,
    stats: StatsTable | None,
    cache: TensorRTCache | None,
    progress: ProgressCallback | None,
) -> Known:
    """The ranges of the plan's tensors: from a cache, from statistics, or from running the model over `batches`.

    Raises:
        ArtifactError: `stats` or `cache` belong to another model, or lack tensors.
        DataError: the data does not fit the model, is empty, or holds NaN/Inf.
    """
    if cache is not None:
        return Known(no_stats(prepared), cache.ranges(prepared.plan), "TensorRT calibration cache")
    if stats is None:
        return observe(prepared, batches, method, options, progress)
    check_stats(prepared, stats)
    return known_from_stats(prepared.plan, stats, method)


def known_from_stats(plan: QuantPlan, stats: StatsTable, method: Method) -> Known:
    """What `method` makes of statistics.

    Raises:
        ArtifactError: the statistics lack a tensor, or hold ranges only while `method` needs histograms.
    """
    found = ranges_from_stats(plan, stats, method)
    return Known(stats, found.ranges, method.label, found.replaced)


def no_stats(prepared: Prepared) -> StatsTable:
    """For ranges that come from elsewhere."""
    return StatsTable(tensors={}, digest=prepared.plan.digest, samples=0)


def read_through(batches: Batches) -> None:
    """Read data that nothing is calibrated on, for what is kept of it."""
    for _ in batches.stream():
        pass


def check_stats(prepared: Prepared, stats: StatsTable) -> None:
    """See that statistics belong to the model.

    Raises:
        ArtifactError: they do not.
    """
    if stats.digest != prepared.plan.digest:
        raise ArtifactError(
            "the statistics were collected on another model",
            hint="calibrate this model: onnxq.calibrate(model, data) (onnxq calibrate)",
        )


def nothing_to_quantize(plan: QuantPlan) -> UnsupportedModelError | ConfigError:
    """The error for a plan that leaves every node in float, with the most common reasons.

    Where the user's choice of nodes alone keeps them there, it is that which is wrong, not the model.
    """
    if plan.nodes and all(d.rule == "user" for d in plan.nodes):
        return ConfigError(
            f"nothing is left to quantize: every node is {plan.nodes[0].reason}",
            hint="include more or exclude fewer: exclude=, exclude_ops= and exclude_between= (--exclude, --exclude-op, "
            "--exclude-between) win over what is included",
        )
    reasons = Counter(d.reason for d in plan.nodes)
    listed = "; ".join(f"{reason} ({counted(count, 'node')})" for reason, count in reasons.most_common(3))
    return UnsupportedModelError(
        f"nothing in this model can be quantized for {plan.target}: {listed}",
        hint="`onnxq plan MODEL` gives the reason for each node; onnxq.plan(model).nodes in Python",
    )


def expected_int8(prepared: Prepared, plan: QuantPlan) -> list[str]:
    """Nodes of `plan` that the engine must be seen to run in int8: those with weights."""
    return [d.node for d in plan.nodes if d.action is Action.INT8 and d.op in prepared.target.compute]
