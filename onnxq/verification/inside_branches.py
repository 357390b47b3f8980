"""The quantized branches of If as graphs of their own, each with inputs that take it, so that engines can be asked."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ValueInfoProto

from onnxq.graph.branches import Branch, branch_graph, branches
from onnxq.graph.shapes import infer_shapes
from onnxq.graph.view import Graph
from onnxq.verification.agreement import Stretch
from onnxq.verification.engines.onnxruntime import OrtModel
from onnxq.verification.engines.result import EngineReport
from onnxq.verification.structure import is_qdq

Feed = Mapping[str, NDArray[Any]]


@dataclass(frozen=True)
class Inside:
    """A branch with Q and DQ nodes in it.

    Attributes:
        path: Where it stands, as in "If_0/then_branch".
        graph: The branch.
        feed: What it read for one of the given inputs; None where none of them takes it.
    """

    path: str
    graph: Graph
    feed: Feed | None

    def named(self, report: EngineReport) -> EngineReport:
        """`report` with the path before the names of nodes."""
        return replace(report, nodes=tuple(replace(n, node=f"{self.path}/{n.node}") for n in report.nodes))

    def placed(self, stretches: Sequence[Stretch]) -> tuple[Stretch, ...]:
        """`stretches` with the path before their names."""
        return tuple(replace(s, tensor=f"{self.path}/{s.tensor}", node=f"{self.path}/{s.node}") for s in stretches)


def quantized_branches(graph: Graph, feeds: Sequence[Feed], path: str = "") -> Iterator[Inside]:
    """Every branch of `graph`, to any depth, that has Q or DQ nodes.

    Args:
        graph: A quantized graph, its types inferred.
        feeds: Inputs of it, to choose from.
        path: Where `graph` stands in the model.

    Raises:
        ModelError: onnxruntime cannot run the graph.
    """
    for branch in branches(graph):
        inner = branch_graph(graph, branch)
        infer_shapes(inner)
        here = f"{path}/{branch.path}" if path else branch.path
        deeper = any(True for _ in branches(inner))
        own = any(is_qdq(node) for node in inner.nodes)
        if not own and not deeper:
            continue
        taken = list(_feeds_inside(graph, branch, list(inner.inputs), feeds))
        if own:
            yield Inside(here, inner, taken[0] if taken else None)
        yield from quantized_branches(inner, taken, here)


def _feeds_inside(graph: Graph, branch: Branch, names: Sequence[str], feeds: Sequence[Feed]) -> Iterator[Feed]:
    condition = graph.node(branch.node).input[0]
    computed = [n for n in dict.fromkeys([*names, condition]) if not graph.is_input(n) and not graph.is_constant(n)]
    around = graph.copy()
    around.outputs = {name: ValueInfoProto(name=name) for name in computed}
    around.prune()
    model = OrtModel(around.to_model(), optimised=False, base_dir=graph.base_dir) if computed else None
    for feed in feeds:
        given = {} if model is None else model({k: v for k, v in feed.items() if k in model.inputs})
        values = {**feed, **given}
        chosen = graph.constant(condition) if graph.is_constant(condition) else values[condition]
        if bool(np.asarray(chosen).reshape(())) is branch.taken_on:
            yield {name: values[name] for name in names}
