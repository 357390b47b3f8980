"""Dynamic quantization from a float model to a verified one: `onnxq.quantize(mode="dynamic")`."""

from __future__ import annotations

from collections.abc import Sequence

from onnxq.dynamic.kernels import UseDynamicKernels, import_domains_of
from onnxq.dynamic.weights import solve_dynamic
from onnxq.errors import UnsupportedModelError
from onnxq.facts import Clock
from onnxq.faults import blamed_on
from onnxq.finishing import Made, Request, finish
from onnxq.graph.saving import file_for_weights
from onnxq.graph.subgraphs import with_subgraph
from onnxq.graph.view import Graph
from onnxq.mode_plans import plan_dynamically
from onnxq.modes import DYNAMIC
from onnxq.nested import Nested
from onnxq.numerics.qparams import QuantParams
from onnxq.passes.share_constants import ShareConstants
from onnxq.planning.plan import Action, QuantPlan
from onnxq.result import QuantizeResult
from onnxq.stages import nothing_to_quantize
from onnxq.targets.schema import Target


def quantize_dynamic(request: Request) -> QuantizeResult:
    """Quantize the weights of a model, and let its activations be quantized as they come.

    Raises:
        ConfigError: the target's engine quantizes nothing dynamically, or an option names what is not there.
        ModelError: the model cannot be read, is quantized already, or has nothing to quantize.
    """
    clock = Clock()
    table = request.target
    notes = [request.target_note] if request.target_note else []
    planned = plan_dynamically(request.model, table, request.wanted, notes)
    clock.lap("plan")
    source, whole = planned.source, planned.whole
    with blamed_on(source):
        if not any(d.action in (Action.INT8, Action.WEIGHTS) for d in whole.nodes):
            raise _nothing(whole)
        quantized, qparams = _quantized(planned.graph, planned.plan, planned.nested, table)
        ShareConstants().run(quantized)
    made = Made(
        source=source,
        planned=planned.graph,
        quantized=quantized,
        plan=whole,
        qparams=qparams,
        expected=[d.node for d in whole.nodes if d.action is Action.INT8],
        metadata={"onnxq.mode": DYNAMIC},
        label="dynamic",
    )
    with file_for_weights(request.output, planned.graph.initializers.values()) as file:
        return finish(made, request, clock, file)


def _nothing(plan: QuantPlan) -> UnsupportedModelError:
    error = nothing_to_quantize(plan)
    if not any(d.op == "Conv" for d in plan.nodes):
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
    for one in nested:
        here = f"{path}{one.subgraph.path}/"
        content, inner = _quantized(one.graph, one.plan, one.inner, target, here)
        with_subgraph(quantized, one.subgraph, content)
        import_domains_of(quantized, content)
        found |= inner
    own = solve_dynamic(quantized, plan, target)
    if nested:
        quantized.prune()
        quantized.sort()
    UseDynamicKernels(plan, own).run(quantized)
    return quantized, {**{f"{path}{key}": params for key, params in own.items()}, **found}
