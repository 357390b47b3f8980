"""An If that always goes the same way becomes the nodes of its branch.

Exporters leave such Ifs where a choice was settled by an option or a shape. Operator:
https://onnx.ai/onnx/operators/onnx__If.html
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from onnx import AttributeProto, GraphProto, NodeProto

from onnxq.graph.messages import attribute, bodies, rename_captured
from onnxq.graph.view import STANDARD_DOMAINS, Graph
from onnxq.passes.base import Pass, PassLog, PassResult

_BODIES = (AttributeProto.GRAPH, AttributeProto.GRAPHS)


class InlineIf(Pass):
    """Put the branch that is taken in the place of the If.

    1. The condition is a constant: nodes and initializers of the branch join the graph, under new names where theirs
       are taken; bodies inside the branch follow.
    2. What the If gives out is handed on by an Identity, which another pass removes.
    3. Left alone: the condition is computed, or the branch has sparse initializers.
    4. Left alone: a Range in the branch or behind it is not given scalars for certain. onnxruntime computes one of
       vectors of one element as long as a branch hides their shape; then it refuses the model.
    """

    def run(self, graph: Graph) -> PassResult:
        log = PassLog()
        for node in graph.nodes:
            if node.op_type != "If" or node.domain not in STANDARD_DOMAINS:
                continue
            condition = graph.constant(node.input[0])
            if condition is None or condition.size != 1:
                continue
            taken = "then_branch" if bool(condition.reshape(())) else "else_branch"
            body: GraphProto = attribute(node, taken)
            if body.sparse_initializer:  # case 3
                log.miss("its branch has sparse initializers", node.name)
                continue
            if not _ranges_are_of_scalars(graph, body):  # case 4
                log.miss("its branch has a Range of what may be no scalar", node.name)
                continue
            _inline(graph, node, body)
            log.edit(f"its condition is constant: the {taken} took its place", node.name)
        if log.edits:
            graph.prune()
        return log.result(graph)


def _ranges_are_of_scalars(graph: Graph, body: GraphProto) -> bool:
    scalars = {t.name for t in body.initializer if not t.dims}
    scalars |= {t for n in body.node if n.op_type == "Constant" for t in n.output if _is_scalar(n)}
    return all(
        tensor in scalars or graph.rank(tensor) == 0
        for node in (*body.node, *graph.nodes)
        if node.op_type == "Range"
        for tensor in node.input
    )


def _is_scalar(constant: NodeProto) -> bool:
    return any(
        (a.name == "value" and not a.t.dims) or a.name in ("value_int", "value_float") for a in constant.attribute
    )


def _inline(graph: Graph, node: NodeProto, body: GraphProto) -> None:
    outputs = list(node.output)
    graph.remove_node(node)
    own = [*(t.name for t in body.initializer), *(t for inner in body.node for t in inner.output if t)]
    names = {name: _fresh(graph, name, own) for name in own}
    for tensor in body.initializer:
        graph.add_initializer(names[tensor.name], tensor)
    for inner in body.node:
        _add(graph, inner, names, stem=node.name)
    for value, output in zip(body.output, outputs, strict=True):  # case 2
        if output:
            graph.add_node("Identity", [names.get(value.name, value.name)], [output], name=f"{output}_Identity")


def _fresh(graph: Graph, name: str, own: Collection[str]) -> str:
    """A name free in the graph that is no other name of the branch either: renaming one by one must not chain."""
    fresh = graph.unique_name(name)
    while fresh != name and fresh in own:
        fresh = graph.unique_name(name)
    return fresh


def _add(graph: Graph, inner: NodeProto, names: Mapping[str, str], *, stem: str) -> None:
    moved = NodeProto()
    moved.CopyFrom(inner)
    for body in bodies(moved):
        for old, new in names.items():
            rename_captured(body, old, new)
    held = {
        a.name: a.g if a.type == AttributeProto.GRAPH else list(a.graphs) for a in moved.attribute if a.type in _BODIES
    }
    node = graph.add_node(
        moved.op_type,
        [names.get(tensor, tensor) for tensor in moved.input],
        [names.get(tensor, tensor) for tensor in moved.output],
        name=moved.name or f"{stem}_{moved.op_type}",
        domain=moved.domain,
        attributes=held,
    )
    node.attribute.extend(a for a in moved.attribute if a.type not in _BODIES)
