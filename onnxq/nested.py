"""Int8 inside the branches of If: each branch goes through all stages as a model of its own.

    plan       the branch as a graph whose inputs are the tensors that it reads from outside
    calibrate  the model around it runs up to those tensors and the condition; the branch runs on batches that take it
    rewrite    the quantized branch is put back before the graph around it is quantized

What is inside is named by its path, as in "If_0/then_branch/Conv_3". A branch that no batch takes stays float: nothing
is known of its activations.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxq.calibration.batches import Batch, Batches
from onnxq.calibration.runner import CollectOptions
from onnxq.calibration.session import Session
from onnxq.calibration.taps import with_readable_outputs
from onnxq.graph.branches import Branch, branch_graph, branches, with_branch
from onnxq.graph.shapes import infer_shapes
from onnxq.graph.view import Graph
from onnxq.passes.base import Pass
from onnxq.planning.options import PlanOptions
from onnxq.planning.plan import Action, Derived, QuantPlan, SharedWith, TensorPlan
from onnxq.planning.planner import make_plan
from onnxq.targets.schema import Placement, Target


@dataclass(frozen=True, kw_only=True)
class Nested:
    """A branch that is quantized, or has a branch in it that is.

    Attributes:
        branch: Which one, in the graph around it.
        graph: The branch after the float passes.
        plan: Its plan.
        inner: Branches inside it.
    """

    branch: Branch
    graph: Graph
    plan: QuantPlan
    inner: tuple[Nested, ...] = ()


def plan_branches(
    graph: Graph, target: Target, passes: Pass, *, options: PlanOptions, digest: str
) -> tuple[Nested, ...]:
    """Normalise the branches of `graph`, in place, and plan those that can run in int8.

    Args:
        graph: The graph around them, normalised, with types inferred.
        target: The target's table.
        passes: The float passes.
        options: What the user keeps in float.
        digest: Digest of the model.
    """
    # TensorRT refuses quantized constants inside control flow; OpenVINO was not tried.
    if target.placement is not Placement.REGIONS:
        return ()
    found: list[Nested] = []
    for branch in branches(graph):
        if options.excludes(graph.node(branch.node)):
            continue
        content = branch_graph(graph, branch)
        infer_shapes(content)
        if not _is_typed(content):
            continue
        passes.run(content)
        within = options.inside(branch.path)
        inner = plan_branches(content, target, passes, options=within, digest=digest)
        plan = make_plan(content, target, options=within, digest=digest)
        if inner or any(d.action is Action.INT8 for d in plan.nodes):
            found.append(Nested(branch=branch, graph=content, plan=plan, inner=inner))
            with_branch(graph, branch, content)
    if found:
        graph.prune()
        graph.sort()
    return tuple(found)


def _is_typed(content: Graph) -> bool:
    """Whether type and rank of everything that goes in and out are known, which a graph of its own must say."""
    return all(
        content.dtype(name) is not None and content.rank(name) is not None
        for name in (*content.inputs, *content.outputs)
    )


def whole_plan(plan: QuantPlan, nested: Sequence[Nested]) -> QuantPlan:
    """`plan` with what is inside branches, by path."""
    tensors, nodes = dict(plan.tensors), list(plan.nodes)
    for one in nested:
        inner = whole_plan(one.plan, one.inner)
        path = one.branch.path
        tensors |= {f"{path}/{key}": _renamed(tensor, path) for key, tensor in inner.tensors.items()}
        nodes += [replace(d, node=f"{path}/{d.node}") for d in inner.nodes]
    return replace(plan, tensors=tensors, nodes=tuple(nodes))


def _renamed(tensor: TensorPlan, path: str) -> TensorPlan:
    source = tensor.source
    if isinstance(source, SharedWith):
        source = SharedWith(f"{path}/{source.tensor}")
    elif isinstance(source, Derived):
        source = Derived(f"{path}/{source.data}", f"{path}/{source.weight}")
    uses = tuple(replace(use, node=f"{path}/{use.node}") for use in tensor.uses)
    return replace(tensor, name=f"{path}/{tensor.name}", source=source, uses=uses)


def batches_inside(graph: Graph, one: Nested, batches: Batches, options: CollectOptions) -> Batches:
    """What the branch reads, for each batch of `batches` that takes it.

    Args:
        graph: The graph around it.
        one: The branch.
        batches: Batches of `graph`, which can be read again.
        options: How to run it.
    """
    return Batches(
        lambda: _read_inside(graph, one, batches, options),
        inputs=batches.inputs,
        label=f"{batches.label} ({one.branch.path})",
    )


def is_taken(graph: Graph, one: Nested, batches: Batches, options: CollectOptions) -> bool:
    """Whether any of `batches` takes the branch; reads no further than the first that does."""
    return next(_read_inside(graph, one, batches, options), None) is not None


def _read_inside(graph: Graph, one: Nested, batches: Batches, options: CollectOptions) -> Iterator[Batch]:
    condition, wanted = graph.node(one.branch.node).input[0], list(one.graph.inputs)
    names = dict.fromkeys([*wanted, condition])
    computed = [name for name in names if not graph.is_input(name) and not graph.is_constant(name)]
    session = options.session(with_readable_outputs(graph, computed)) if computed else None
    for batch in batches.stream():
        values = _values(graph, session, computed, batch)
        chosen = graph.constant(condition) if graph.is_constant(condition) else values[condition]
        if bool(np.asarray(chosen).reshape(())) is one.branch.taken_on:
            # Which axis of a tensor inside counts samples is not known: each batch counts as one.
            yield Batch(
                arrays={name: np.asarray(values[name], order="C") for name in wanted},
                samples=batch.samples,
                per_sample=frozenset(),
                label=f"{batch.label} in {one.branch.path}",
            )


def _values(graph: Graph, session: Session | None, names: Sequence[str], batch: Batch) -> Mapping[str, NDArray[Any]]:
    found = {name: array for name, array in batch.arrays.items() if graph.is_input(name)}
    if session is not None:
        found |= dict(zip(names, session.run(batch.arrays, where=batch.label), strict=True))
    return found
