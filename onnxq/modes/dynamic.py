"""Dynamic quantization from a float model to a verified one: `onnxq.quantize(mode="dynamic")`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from onnxq.data.batches import Batches
from onnxq.data.kept import keep_first
from onnxq.dynamic.kernels import UseDynamicKernels, import_domains_of
from onnxq.dynamic.weights import solve_dynamic
from onnxq.errors import ConfigError, OnnxqError, UnsupportedModelError
from onnxq.graph.saving import file_for_weights
from onnxq.graph.subgraphs import with_subgraph
from onnxq.graph.view import Graph
from onnxq.inference.faults import blamed_on
from onnxq.modes.finishing import Made, Request, finish
from onnxq.modes.result import QuantizeResult
from onnxq.numerics.qparams import QuantParams
from onnxq.passes.adapt.part_fused_sums import PartFusedSums
from onnxq.passes.adapt.share_constants import ShareConstants
from onnxq.passes.adapt.store_in_half import StoreInHalf
from onnxq.pipeline.facts import Clock
from onnxq.pipeline.nested_plans import Nested
from onnxq.pipeline.nested_plans import quantized as quantized_bodies
from onnxq.pipeline.stages import nothing_to_quantize, read_through
from onnxq.pipeline.uncalibrated_plans import DynamicPlan, plan_dynamically
from onnxq.planning.modes import DYNAMIC
from onnxq.planning.plan import Action, QuantPlan
from onnxq.search.budget import Budget
from onnxq.search.dynamic import dynamic_space, with_nodes_in_float
from onnxq.search.measuring import Subject, counted_plan
from onnxq.search.mixed import search_within
from onnxq.search.reading import first_samples
from onnxq.search.result import SearchResult, checks_of, notes_of
from onnxq.search.space import Space
from onnxq.targets.schema import Target
from onnxq.verification.engines.ort_products import has_kernels_of
from onnxq.verification.engines.unsigned_codes import unsaturated


def quantize_dynamic(request: Request, budget: Budget | None = None) -> QuantizeResult:
    """Quantize the weights of a model, and let its activations be quantized as they come; as far as a budget allows.

    Raises:
        ConfigError: the target's engine quantizes nothing dynamically, an option names what is not there, or a search
            has no data.
        ArtifactError: the ranking of a search is of another model.
        ModelError: the model cannot be read, is quantized already, or has nothing to quantize.
    """
    clock = Clock()
    table = request.target
    notes = [request.target_note] if request.target_note else []
    planned = plan_dynamically(request.model, table, request.wanted, notes)
    clock.lap("plan")
    source = planned.source
    with blamed_on(source):
        if not any(d.action in (Action.INT8, Action.WEIGHTS) for d in planned.whole.nodes):
            raise _nothing(planned.whole)
        batches, found = None, None
        if budget is not None:
            planned, batches, found = _searched(planned, request, budget)
            clock.lap("search")
        whole = planned.whole
        quantized, qparams = _quantized(planned.graph, planned.plan, planned.nested, table)
        ShareConstants().run(quantized)
        if planned.widened:
            StoreInHalf().run(quantized)
    made = Made(
        source=source,
        planned=planned.graph,
        quantized=quantized,
        plan=whole,
        qparams=qparams,
        expected=[d.node for d in whole.nodes if d.action is Action.INT8],
        metadata={"onnxq.mode": DYNAMIC},
        mode=DYNAMIC,
        label="dynamic",
        checks=checks_of(found),
        notes=notes_of(found),
        held_out=batches,
        search=found,
    )
    with file_for_weights(request.output, planned.graph.initializers.values()) as file:
        return finish(made, request, clock, file)


def dynamic_subject(request: Request, samples: int, clock: Clock) -> Subject:
    """The layers of a model in mode "dynamic", to be measured on so many samples.

    Raises:
        OnnxqError: as `quantize_dynamic`.
    """
    planned = plan_dynamically(request.model, request.target, request.wanted, ())
    with blamed_on(planned.source):
        if not any(d.action in (Action.INT8, Action.WEIGHTS) for d in planned.whole.nodes):
            raise _nothing(planned.whole)
        reader, kept = keep_first(request.feeds(planned.source), samples=samples)
        read_through(reader)
        clock.lap("plan")
        plan = counted_plan(planned.plan, planned.graph, kept)
        space = _space(replace(planned, plan=plan), request.target)
    return Subject(space=space, samples=kept, method=DYNAMIC)


def _space(planned: DynamicPlan, target: Target) -> Space:
    def made(one: DynamicPlan) -> Graph:
        quantized, _ = _quantized(one.graph, one.plan, one.nested, target)
        ShareConstants().run(quantized)
        return quantized if has_kernels_of(target) else unsaturated(quantized)

    return dynamic_space(planned, target, made)


def _searched(planned: DynamicPlan, request: Request, budget: Budget) -> tuple[DynamicPlan, Batches, SearchResult]:
    """The plan that meets a budget, the data, which can be read again, and what was found."""
    batches = request.feeds(planned.source, budget)
    judged = request.judged(planned.source, batches, budget)
    floats, _, found = search_within(
        budget,
        _space(planned, request.target),
        judged,
        first_samples(judged.batches),
        options=request.collecting,
        progress=request.progress,
    )
    return with_nodes_in_float(planned, floats), batches, found


def _nothing(plan: QuantPlan) -> OnnxqError:
    error = nothing_to_quantize(plan)
    if isinstance(error, ConfigError) or not any(d.op == "Conv" for d in plan.nodes):
        return error
    return UnsupportedModelError(
        error.message,
        hint="Convs gain from fixed ranges: mode='static' with data= (--mode static --data); placement='full' "
        "(--placement full) quantizes them as they come, which is smaller and slower",
    )


def _quantized(
    graph: Graph, plan: QuantPlan, nested: Sequence[Nested], target: Target, path: str = ""
) -> tuple[Graph, dict[str, QuantParams]]:
    """`graph` and what is in its subgraphs, quantized, and the parameters by key with the path."""
    quantized = graph.copy()
    found: dict[str, QuantParams] = {}
    for one in (bodies := quantized_bodies(nested)):
        here = f"{path}{one.subgraph.path}/"
        content, inner = _quantized(one.graph, one.plan, one.inner, target, here)
        with_subgraph(quantized, one.subgraph, content)
        import_domains_of(quantized, content)
        found |= inner
    own = solve_dynamic(quantized, plan, target)
    if bodies:
        quantized.prune()
        quantized.sort()
    UseDynamicKernels(plan, own).run(quantized)
    if target.slow_sums:
        PartFusedSums().run(quantized)
    return quantized, {**{f"{path}{key}": params for key, params in own.items()}, **found}
