"""From a float model to the plans of the modes without calibration: "dynamic" and "weight-only"."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from onnx import TensorProto

from onnxq.dynamic.planning import DYNAMIC_OPSET, plan_dynamic
from onnxq.errors import ConfigError
from onnxq.graph.float_types import HALF_SCALE_OPSET, mentions
from onnxq.graph.model import ModelSource, load_graph, model_digest
from onnxq.graph.opset import lower_opset, upgrade_opset
from onnxq.graph.shapes import infer_shapes
from onnxq.graph.subgraphs import own_graph, subgraphs
from onnxq.graph.view import Graph
from onnxq.inference.faults import blamed_on
from onnxq.passes.adapt.settle_types import note_of_types, settle_types
from onnxq.passes.base import PassManager
from onnxq.passes.simplify.capture_invariants import CaptureInvariants
from onnxq.passes.simplify.fold_fragment import FoldFragment
from onnxq.passes.simplify.lift_constants import LiftConstants
from onnxq.passes.simplify.normalise import normalise_float
from onnxq.passes.simplify.remove_identity import RemoveIdentity
from onnxq.pipeline.nested_plans import NOTHING, Nested, plan_nested, whole_plan
from onnxq.pipeline.stages import refuse_quantized
from onnxq.planning.options import FULL, PlanOptions
from onnxq.planning.overridden import check_named
from onnxq.planning.plan import Action, QuantPlan
from onnxq.planning.weight_form import NBITS, QDQ, WeightForm
from onnxq.targets.schema import Engine, Target
from onnxq.weight_only.planning import BLOCKED_OPSET, CHANNEL_OPSET, WeightPlan, plan_weights, storage_of


@dataclass(frozen=True, kw_only=True)
class DynamicPlan:
    """A model that is to be quantized dynamically.

    Attributes:
        source: The model as given.
        graph: The same function after the float passes.
        plan: The plan of the model's own graph.
        nested: Its subgraphs, with their plans.
        widened: Whether what was float16 in the source computes in float32.
    """

    source: Graph
    graph: Graph
    plan: QuantPlan
    nested: tuple[Nested, ...]
    widened: bool = False

    @property
    def whole(self) -> QuantPlan:
        """The plan with what is in subgraphs, by path."""
        return whole_plan(self.plan, self.nested)


@dataclass(frozen=True, kw_only=True)
class WeightTree:
    """A graph with the plan of its weights, and the subgraphs in it with theirs.

    Attributes:
        graph: The graph.
        planned: Its own plan.
        nested: Its subgraphs that are quantized, with their trees.
        left: Those that stay float.
    """

    graph: Graph
    planned: WeightPlan
    nested: tuple[tuple[Nested, WeightTree], ...]
    left: tuple[Nested, ...] = ()

    @property
    def bodies(self) -> tuple[Nested, ...]:
        """Its subgraphs with their plans."""
        return (*(replace(one, plan=tree.planned.plan, inner=tree.bodies) for one, tree in self.nested), *self.left)

    @property
    def whole(self) -> WeightPlan:
        """The plan with what is in subgraphs, by path."""
        return replace(self.planned, plan=whole_plan(self.planned.plan, self.bodies))

    def walk(self, path: str = "") -> Iterator[tuple[str, WeightTree]]:
        """This tree and all in it, each with its path, which ends in a slash or is empty."""
        yield path, self
        for one, tree in self.nested:
            yield from tree.walk(f"{path}{one.subgraph.path}/")


def plan_dynamically(model: ModelSource, target: Target, options: PlanOptions, notes: Sequence[str]) -> DynamicPlan:
    """Load, normalise and plan for mode "dynamic".

    Raises:
        ConfigError: the target's engine quantizes nothing dynamically, or an option names what is not there.
        ModelError: the model cannot be read, or is quantized already.
    """
    if target.engine is not Engine.ONNXRUNTIME:
        raise ConfigError(
            f"{target.title} has no dynamically quantized operators of ONNX",
            hint="pass target='ort-cpu' (--target ort-cpu), or mode='static' (--mode static) with data",
        )
    source = load_graph(model)
    refuse_quantized(source)
    with blamed_on(source):
        graph, changed = settle_types(source, replace(target, min_opset=DYNAMIC_OPSET))
        normalise_float().run(graph)
        digest = model_digest(source)
        told = tuple(filter(None, [*notes, note_of_types(changed)]))
        nested = plan_nested(
            graph,
            target,
            PassManager([normalise_float()], name="prepare subgraph"),
            options=options,
            digest=digest,
            planner=plan_dynamic,
            untyped=FoldFragment(),
        )
        plan = plan_dynamic(graph, target, options=options, digest=digest, notes=told, source=source)
        check_named(graph, whole_plan(plan, nested), options.overrides)
    widened = TensorProto.FLOAT16 in changed
    return DynamicPlan(source=source, graph=graph, plan=plan, nested=nested, widened=widened)


def plan_weights_of(
    source: Graph, target: Target, form: WeightForm, options: PlanOptions, notes: Sequence[str]
) -> WeightTree:
    """Plan for mode "weight-only"; weights are not read.

    Args:
        source: The float model.
        target: The table of the engine.
        form: How weights are stored.
        options: What the user wants different from the default.
        notes: Facts to hand on to the user.

    Raises:
        ConfigError: an option names what is not there, or the target does not take.
        ModelError: the model is quantized already.
    """
    refuse_quantized(source)
    with blamed_on(source):
        graph = _prepared(source, target, form, options)
        tree = _tree(graph, target, form, options, model_digest(source), notes=notes, source=source)
        check_named(graph, tree.whole.plan, options.overrides, weights_alone=True)
        return tree


def _prepared(source: Graph, target: Target, form: WeightForm, options: PlanOptions) -> Graph:
    """A graph whose constants are initializers, in an opset that can hold the form."""
    half = mentions(source, {TensorProto.FLOAT16})
    blocked = form.block_size or form.weights != "int8" or half or options.overrides
    graph = lower_opset(source.copy())
    if storage_of(form, target) == QDQ:
        graph = upgrade_opset(graph, BLOCKED_OPSET if blocked else CHANNEL_OPSET)
    elif options.placement == FULL:  # weights of Conv, LSTM and the like are behind a DequantizeLinear in any case
        graph = upgrade_opset(graph, HALF_SCALE_OPSET if half else CHANNEL_OPSET)
    LiftConstants().run(graph)
    RemoveIdentity().run(graph)
    CaptureInvariants().run(graph)
    graph.prune()
    graph.sort()
    infer_shapes(graph)
    return graph


def _tree(  # noqa: PLR0913 - the parts of a plan
    graph: Graph,
    target: Target,
    form: WeightForm,
    options: PlanOptions,
    digest: str,
    *,
    notes: Sequence[str] = (),
    source: Graph | None = None,
) -> WeightTree:
    nested, left = list[tuple[Nested, WeightTree]](), list[Nested]()
    selection = options.select(graph, source)
    for subgraph in subgraphs(graph):
        node = graph.node(subgraph.node)
        if selection.forbids(node):
            continue
        content = own_graph(graph, subgraph)
        infer_shapes(content)
        FoldFragment().run(content)
        inner = form
        if target.engine is Engine.ONNXRUNTIME and form.storage == QDQ:
            # onnxruntime 1.32 fails to fuse a DequantizeLinear in a body whose codes lie outside of it.
            inner = replace(form, storage=NBITS)
        within = options.inside(subgraph.path, included=selection.names(node))
        tree = _tree(content, target, inner, within, digest)
        one = Nested(subgraph=subgraph, graph=content, options=within, plan=tree.planned.plan)
        if any(d.action is Action.WEIGHTS for d in tree.whole.plan.nodes):
            nested.append((one, tree))
        else:
            left.append(replace(one, inner=tree.bodies, left=NOTHING))
    plan = plan_weights(graph, target, form, options=options, digest=digest, notes=notes, source=source)
    return WeightTree(graph=graph, planned=plan, nested=tuple(nested), left=tuple(left))
