"""Int8 inside the subgraphs of If, Loop and Scan: each goes through all stages as a model of its own.

    plan       the subgraph as a graph whose inputs are its own and the tensors that it reads from outside
    calibrate  the model around it runs up to those tensors; the subgraph runs on them, once for each iteration
    rewrite    the quantized subgraph is put back before the graph around it is quantized

What is inside is named by its path, as in "If_0/then_branch/Conv_3". A subgraph that no batch runs stays float: nothing
is known of its activations.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from numpy.typing import NDArray

from onnxq.calibration.runner import CollectOptions
from onnxq.data.batches import Batch, Batches
from onnxq.graph.messages import reads_of
from onnxq.graph.shapes import infer_shapes
from onnxq.graph.subgraph_feeds import Feed, subgraph_feeds
from onnxq.graph.subgraphs import Subgraph, graphs_inside, own_graph, subgraphs, with_subgraph
from onnxq.graph.view import CAPTURED, Graph
from onnxq.inference.outputs import with_readable_outputs
from onnxq.inference.session import Session
from onnxq.passes.base import Pass
from onnxq.planning.macs import macs
from onnxq.planning.options import PlanOptions
from onnxq.planning.plan import Action, NodeDecision, QuantPlan
from onnxq.planning.planner import make_plan
from onnxq.targets.schema import Placement, Target


@dataclass(frozen=True, kw_only=True)
class Nested:
    """A branch or body of control flow, planned on its own.

    Attributes:
        subgraph: Which one, in the graph around it.
        graph: The branch after the float passes.
        options: What the user says about it.
        plan: Its plan.
        inner: Branches inside it.
        left: Why all of it stays float; "" where something in it, or in a branch inside it, is quantized.
    """

    subgraph: Subgraph
    graph: Graph
    options: PlanOptions
    plan: QuantPlan
    inner: tuple[Nested, ...] = ()
    left: str = ""

    def left_float(self, why: str) -> Nested:
        """The same with everything in float."""
        nodes = tuple(
            d if d.action in (Action.FLOAT, Action.OTHER) else replace(d, action=Action.FLOAT, reason=why, rule="")
            for d in self.plan.nodes
        )
        plan = replace(self.plan, tensors={}, nodes=nodes, notes=())
        return replace(self, plan=plan, inner=tuple(one.left_float(why) for one in self.inner), left=why)


def quantized(nested: Iterable[Nested]) -> tuple[Nested, ...]:
    """Those in which something is quantized."""
    return tuple(one for one in nested if not one.left)


NOTHING = "there is nothing to quantize"


def plan_nested(  # noqa: PLR0913 - the parts of a plan
    graph: Graph,
    target: Target,
    passes: Pass,
    *,
    options: PlanOptions,
    digest: str,
    planner: Callable[..., QuantPlan] = make_plan,
    untyped: Pass | None = None,
) -> tuple[Nested, ...]:
    """Plan the subgraphs of `graph` that the user does not exclude, and normalise, in place, those that are quantized.

    Args:
        graph: The graph around them, normalised, with types inferred.
        target: The target's table.
        passes: The float passes.
        options: What the user says about placement.
        digest: Digest of the model.
        planner: Makes the plan of one subgraph.
        untyped: The passes for subgraphs that read something of unknown rank, and so are no graph that could be run on
            its own; None leaves these as they are.
    """
    # TensorRT refuses quantized constants inside control flow; OpenVINO was not tried.
    if target.placement is not Placement.REGIONS:
        return ()
    # Names are checked when there is a plan of everything: here bodies are not yet what plans name.
    selection = options.select(graph, checked=False)
    found: list[Nested] = []
    for subgraph in subgraphs(graph):
        node = graph.node(subgraph.node)
        # What is inside may be included by its own name.
        if selection.forbids(node):
            continue
        content = own_graph(graph, subgraph)
        infer_shapes(content)
        within = options.inside(subgraph.path, included=selection.names(node))
        unknown = _unknown(content)
        if (own_passes := passes if unknown is None else untyped) is None:
            left = f"the type or rank of {unknown!r} in it is not known"
            plan = _float_plan(content, target, digest, left)
            found.append(Nested(subgraph=subgraph, graph=content, options=within, plan=plan, left=left))
            continue
        own_passes.run(content)
        inner = plan_nested(content, target, passes, options=within, digest=digest, planner=planner, untyped=untyped)
        plan = planner(content, target, options=within, digest=digest)
        some = any(d.action in (Action.INT8, Action.WEIGHTS) for d in plan.nodes)
        left = "" if some or quantized(inner) else NOTHING
        found.append(Nested(subgraph=subgraph, graph=content, options=within, plan=plan, inner=inner, left=left))
        if not left:
            with_subgraph(graph, subgraph, content)
    if quantized(found):
        graph.prune()
        graph.sort()
    return tuple(found)


def _unknown(content: Graph) -> str | None:
    """What goes in or out without its type and rank being known, which a graph of its own must say."""
    names = (*content.inputs, *content.outputs)
    return next((name for name in names if content.dtype(name) is None or content.rank(name) is None), None)


def _float_plan(content: Graph, target: Target, digest: str, why: str) -> QuantPlan:
    """A plan that leaves all nodes in float, to any depth."""
    decided = tuple(
        NodeDecision(
            node=f"{path}{n.name}", op=n.op_type, action=Action.FLOAT, reason=why, rule="", macs=macs(graph, n)
        )
        for path, graph in (("", content), *graphs_inside(content))
        for n in graph.nodes
    )
    return QuantPlan(target=target.name, opset=target.min_opset, tensors={}, nodes=decided, digest=digest)


def _told(decision: NodeDecision, nested: Sequence[Nested]) -> NodeDecision:
    """The decision on a node of control flow, with what became of its bodies."""
    bodies = [one for one in nested if one.subgraph.node == decision.node]
    left = {one.subgraph.name: one.left for one in bodies if one.left}
    if len(left) < len(bodies):
        return replace(
            decision, reason="; ".join([decision.reason, *(f"{n} stays float: {why}" for n, why in left.items())])
        )
    return replace(
        decision, reason=f"control flow; what is inside stays float: {'; '.join(dict.fromkeys(left.values()))}"
    )


def whole_plan(plan: QuantPlan, nested: Sequence[Nested]) -> QuantPlan:
    """`plan` with what is inside subgraphs, by path."""
    holders = {one.subgraph.node for one in nested}
    plan = replace(plan, nodes=tuple(_told(d, nested) if d.node in holders else d for d in plan.nodes))
    tensors, nodes, notes = dict(plan.tensors), list(plan.nodes), list(plan.notes)
    for one in nested:
        inner = whole_plan(one.plan, one.inner)
        path = f"{one.subgraph.path}/"
        tensors |= {f"{path}{key}": tensor.at_path(path) for key, tensor in inner.tensors.items()}
        nodes += [replace(d, node=f"{path}{d.node}") for d in inner.nodes]
        # What is said of the graph around need not be said again.
        notes += [f"{one.subgraph.path}: {note}" for note in inner.notes if note not in plan.notes]
    return replace(plan, tensors=tensors, nodes=tuple(nodes), notes=tuple(notes))


def walk(nested: Sequence[Nested], path: str = "") -> Iterator[tuple[str, Graph, QuantPlan]]:
    """Each subgraph and its own plan, to any depth, with its path, which ends in a slash."""
    for one in nested:
        here = f"{path}{one.subgraph.path}/"
        yield here, one.graph, one.plan
        yield from walk(one.inner, here)


def batches_inside(graph: Graph, one: Nested, batches: Batches, options: CollectOptions) -> Batches:
    """What the subgraph reads while `graph` runs over `batches`; an iteration of a Loop is a batch.

    Args:
        graph: The graph around it.
        one: The subgraph.
        batches: Batches of `graph`, which can be read again.
        options: How to run both.
    """
    return Batches(
        lambda: _read_inside(graph, one, batches, options),
        inputs=batches.inputs,
        label=f"{batches.label} ({one.subgraph.path})",
    )


def is_run(graph: Graph, one: Nested, batches: Batches, options: CollectOptions) -> bool:
    """Whether any of `batches` runs the subgraph; reads no further than the first that does."""
    return next(_read_inside(graph, one, batches, options), None) is not None


def _read_inside(graph: Graph, one: Nested, batches: Batches, options: CollectOptions) -> Iterator[Batch]:
    node, body = graph.node(one.subgraph.node), one.graph
    captured = [name for name in body.inputs if name in {tensor for tensor, slot in reads_of(node) if slot == CAPTURED}]
    names = dict.fromkeys([*captured, *filter(None, node.input)])
    computed = [name for name in names if not graph.is_input(name) and not graph.is_constant(name)]
    around = options.session(with_readable_outputs(graph, computed)) if computed else None
    inside = options.session(body) if node.op_type != "If" else None
    for batch in batches.stream():
        label = f"{batch.label} in {one.subgraph.path}"
        values = _values(graph, list(names), around, computed, batch)

        def step(feed: Feed, label: str = label) -> Sequence[NDArray[Any]]:
            return inside.run(feed, where=label) if inside is not None else ()

        for feed in subgraph_feeds(node, one.subgraph, captured, values, step):
            # Which axis of a tensor inside counts samples is not known: each batch counts as one.
            yield Batch(arrays=feed, samples=batch.samples, per_sample=frozenset(), label=label)


def _values(
    graph: Graph, names: Sequence[str], session: Session | None, computed: Sequence[str], batch: Batch
) -> Mapping[str, NDArray[Any]]:
    """Tensors of `graph` by name: inputs, constants, and what `session` computes."""
    found = {name: batch.arrays[name] for name in names if graph.is_input(name)}
    for name in names:
        if (constant := graph.constant(name)) is not None:
            found[name] = constant
    if session is not None:
        found |= dict(zip(computed, session.run(batch.arrays, where=batch.label), strict=True))
    return found
