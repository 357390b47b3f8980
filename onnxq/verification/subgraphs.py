"""The quantized subgraphs of If, Loop and Scan as graphs of their own, each with inputs it really reads."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

from numpy.typing import NDArray
from onnx import ValueInfoProto

from onnxq.graph.messages import reads_of
from onnxq.graph.shapes import infer_shapes
from onnxq.graph.subgraph_feeds import Feed, subgraph_feeds
from onnxq.graph.subgraphs import Subgraph, own_graph, subgraphs
from onnxq.graph.view import CAPTURED, Graph
from onnxq.verification.agreement import Stretch
from onnxq.verification.engines.onnxruntime import OrtModel
from onnxq.verification.engines.result import EngineReport
from onnxq.verification.structure import OTHER_FORMS, is_qdq

_FEEDS_KEPT = 32


@dataclass(frozen=True)
class Inside:
    """A subgraph with quantized nodes in it.

    Attributes:
        path: Where it stands, as in "If_0/then_branch".
        graph: The subgraph.
        feed: What it read for one of the given inputs; None where none of them runs it.
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


def quantized_subgraphs(graph: Graph, feeds: Sequence[Feed], path: str = "") -> Iterator[Inside]:
    """Every subgraph of `graph`, to any depth, that has quantized nodes.

    Args:
        graph: A quantized graph, its types inferred.
        feeds: Inputs of it, to choose from.
        path: Where `graph` stands in the model.

    Raises:
        ModelError: onnxruntime cannot run the graph.
    """
    for subgraph in subgraphs(graph):
        inner = own_graph(graph, subgraph)
        infer_shapes(inner)
        here = f"{path}/{subgraph.path}" if path else subgraph.path
        deeper = any(True for _ in subgraphs(inner))
        own = any(is_qdq(node) or node.op_type in OTHER_FORMS for node in inner.nodes)
        if not own and not deeper:
            continue
        read = list(islice(_feeds_inside(graph, subgraph, inner, feeds), _FEEDS_KEPT))
        if own:
            yield Inside(here, inner, read[0] if read else None)
        yield from quantized_subgraphs(inner, read, here)


def _feeds_inside(graph: Graph, subgraph: Subgraph, inner: Graph, feeds: Sequence[Feed]) -> Iterator[Feed]:
    node = graph.node(subgraph.node)
    outside = {tensor for tensor, slot in reads_of(node) if slot == CAPTURED}
    captured = [name for name in inner.inputs if name in outside]
    names = dict.fromkeys([*captured, *filter(None, node.input)])
    computed = [n for n in names if not graph.is_input(n) and not graph.is_constant(n)]
    around = graph.copy()
    around.outputs = {name: ValueInfoProto(name=name) for name in computed}
    around.prune()
    model = OrtModel(around.to_model(), optimised=False, base_dir=graph.base_dir) if computed else None
    body = OrtModel(inner.to_model(), optimised=False, base_dir=graph.base_dir) if node.op_type != "If" else None
    constants = {name: value for name in names if (value := graph.constant(name)) is not None}

    def step(feed: Feed) -> Sequence[NDArray[Any]]:
        return () if body is None else list(body({k: v for k, v in feed.items() if k in body.inputs}).values())

    for feed in feeds:
        given = {} if model is None else model({k: v for k, v in feed.items() if k in model.inputs})
        yield from subgraph_feeds(node, subgraph, captured, {**feed, **given, **constants}, step)
