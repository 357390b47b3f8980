"""Dynamic quantization from a float model to a verified one: `onnxq.quantize(mode="dynamic")`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from onnxq.dynamic.kernels import UseDynamicKernels, import_domains_of
from onnxq.dynamic.planning import DYNAMIC_OPSET, plan_dynamic
from onnxq.dynamic.weights import solve_dynamic
from onnxq.errors import ConfigError
from onnxq.facts import Clock
from onnxq.faults import blamed_on
from onnxq.finishing import Made, Request, finish, refuse_quantized
from onnxq.graph.model import load_graph, model_digest
from onnxq.graph.saving import file_for_weights
from onnxq.graph.subgraphs import with_subgraph
from onnxq.graph.view import Graph
from onnxq.modes import DYNAMIC
from onnxq.nested import Nested, plan_nested, whole_plan
from onnxq.numerics.qparams import QuantParams
from onnxq.passes.base import PassManager
from onnxq.passes.fold_fragment import FoldFragment
from onnxq.passes.normalise import normalise_float
from onnxq.passes.settle_types import note_of_types, settle_types
from onnxq.passes.share_constants import ShareConstants
from onnxq.planning.plan import Action, QuantPlan
from onnxq.result import QuantizeResult
from onnxq.stages import nothing_to_quantize
from onnxq.targets.schema import Engine, Target


def quantize_dynamic(request: Request) -> QuantizeResult:
    """Quantize the weights of a model, and let its activations be quantized as they come.

    Raises:
        ConfigError: the target's engine quantizes nothing dynamically, or an option names what is not there.
        ModelError: the model cannot be read, is quantized already, or has nothing to quantize.
    """
    clock = Clock()
    table = request.target
    if table.engine is not Engine.ONNXRUNTIME:
        raise ConfigError(
            f"{table.title} has no dynamically quantized operators of ONNX",
            hint="pass target='ort-cpu' (--target ort-cpu), or mode='static' (--mode static) with data",
        )
    source = load_graph(request.model)
    refuse_quantized(source)
    with blamed_on(source):
        graph, changed = settle_types(source, replace(table, min_opset=DYNAMIC_OPSET))
        normalise_float().run(graph)
        digest = model_digest(source)
        notes = tuple(filter(None, [request.target_note, note_of_types(changed)]))
        plan = plan_dynamic(graph, table, options=request.wanted, digest=digest, notes=notes, source=source)
        passes = PassManager([normalise_float()], name="prepare subgraph")
        nested = plan_nested(
            graph,
            table,
            passes,
            options=request.wanted,
            digest=digest,
            source=source,
            planner=plan_dynamic,
            untyped=FoldFragment(),
        )
        plan = plan_dynamic(graph, table, options=request.wanted, digest=digest, notes=notes, source=source)
        clock.lap("plan")
        whole = whole_plan(plan, nested)
        if not any(d.action in (Action.INT8, Action.WEIGHTS) for d in whole.nodes):
            raise nothing_to_quantize(whole)
        quantized, qparams = _quantized(graph, plan, nested, table)
        ShareConstants().run(quantized)
    made = Made(
        source=source,
        planned=graph,
        quantized=quantized,
        plan=whole,
        qparams=qparams,
        expected=[d.node for d in whole.nodes if d.action is Action.INT8],
        metadata={"onnxq.mode": DYNAMIC},
        label="dynamic",
    )
    with file_for_weights(request.output, source.initializers.values()) as file:
        return finish(made, request, clock, file)


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
