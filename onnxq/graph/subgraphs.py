"""The subgraphs of If, Loop and Scan as graphs of their own, and back.

    a = Conv(x)                             then_branch as a graph:   inputs a, b (captured); constant w
    y = If(flag) { Conv(a, w) + b }                                   outputs those of the branch

What a subgraph reads from outside becomes an input, or an initializer where it is a constant outside: what
works on a model works on a subgraph. Names of the scopes around are taken: nothing new may hide one of them.
Operators: https://onnx.ai/onnx/operators/onnx__If.html, onnx__Loop.html and onnx__Scan.html
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto, helper

from onnxq.graph.messages import attribute, bodies, captured_names, free_name, rename_captured
from onnxq.graph.view import STANDARD_DOMAINS, Graph

BODIES = {"If": ("then_branch", "else_branch"), "Loop": ("body",), "Scan": ("body",)}
"""Names of the subgraphs of each operator."""
_SCAN_SINCE = 9
"""Before this opset Scan had a batch axis of its own."""


@dataclass(frozen=True)
class Subgraph:
    """A branch of an If, or the body of a Loop or Scan.

    Attributes:
        node: Name of the node.
        name: "then_branch", "else_branch" or "body".
    """

    node: str
    name: str

    @property
    def path(self) -> str:
        """What the subgraph is called in names of what is inside."""
        return f"{self.node}/{self.name}"


def subgraphs(graph: Graph) -> Iterator[Subgraph]:
    """The subgraphs of the nodes of `graph`, not those inside subgraphs."""
    for node in graph.nodes:
        if node.domain in STANDARD_DOMAINS and (node.op_type != "Scan" or graph.opset >= _SCAN_SINCE):
            yield from (Subgraph(node.name, name) for name in BODIES.get(node.op_type, ()))


def own_graph(graph: Graph, subgraph: Subgraph) -> Graph:
    """`subgraph` as a graph of its own; `graph` is not changed."""
    body = _body(graph, subgraph)
    model = ModelProto()
    model.CopyFrom(graph.frame)
    model.graph.Clear()
    model.graph.name = subgraph.path
    own = model.graph
    own.input.extend(body.input)
    own.node.extend(body.node)
    own.initializer.extend(body.initializer)
    own.sparse_initializer.extend(body.sparse_initializer)
    own.output.extend(body.output)
    own.value_info.extend(body.value_info)
    _part_outputs(own, _names(graph))
    _forget_wrong_ranks(graph, subgraph, own)
    for name in sorted(captured_names(body)):
        if graph.is_constant(name):
            own.initializer.append(graph.initializers[name])
        else:
            own.input.append(helper.make_tensor_value_info(name, graph.dtype(name) or 0, graph.shape(name)))
    result = Graph(model, graph.base_dir)
    for name in sorted(_names(graph)):
        result.unique_name(name)
    return result


def _part_outputs(own: GraphProto, outside: set[str]) -> None:
    """Give an output that a body lists more than once, as state and as row, a name for each place."""
    taken, seen = outside.union(*map(_names_of, own.node), (v.name for v in own.input)), set[str]()
    for value in own.output:
        name = value.name
        if name in seen:
            value.name = free_name(name, taken)
            taken.add(value.name)
            own.node.append(helper.make_node("Identity", [name], [value.name], name=value.name))
        seen.add(name)


def _forget_wrong_ranks(graph: Graph, subgraph: Subgraph, own: GraphProto) -> None:
    """A state of a Loop that starts with another rank than its body declares has no fixed one.

    Decoders of tables that Paddle exports start so. Inside a Loop onnxruntime lets it pass, as an input of a model not.
    """
    node = graph.node(subgraph.node)
    if node.op_type != "Loop":
        return
    for name, value in zip(node.input[2:], own.input[2:], strict=False):
        shape, declared = graph.shape(name), value.type.tensor_type
        if shape is not None and declared.HasField("shape") and len(shape) != len(declared.shape.dim):
            declared.ClearField("shape")


def with_subgraph(graph: Graph, subgraph: Subgraph, content: Graph) -> None:
    """Let `subgraph` of `graph` be `content`, from `own_graph` and changed since. In place; prune after it."""
    node = graph.node(subgraph.node)
    body = GraphProto(name=_body(graph, subgraph).name)
    made = content.to_model().graph
    body.input.extend(_body(graph, subgraph).input)
    body.node.extend(made.node)
    body.output.extend(made.output)
    body.value_info.extend(made.value_info)
    body.sparse_initializer.extend(content.frame.graph.sparse_initializer)
    body.initializer.extend(t for t in made.initializer if not _is_outer(graph, t))
    _give_own_names(graph, body)
    held = {a.name: a.g for a in node.attribute if a.type == AttributeProto.GRAPH} | {subgraph.name: body}
    graph.remove_node(node)
    added = graph.add_node(node.op_type, list(node.input), list(node.output), name=node.name, attributes=held)
    added.attribute.extend(a for a in node.attribute if a.name not in held)
    for name in sorted(_names(content)):
        graph.unique_name(name)


def _give_own_names(graph: Graph, body: GraphProto) -> None:
    """Rename constants of `body` that came from outside and were changed since.

    ONNX lets no name inside hide one outside, and onnxruntime, which prepares weights by name, mixes the two up.
    """
    for tensor in body.initializer:
        if tensor.name in graph.initializers:
            own = graph.unique_name(tensor.name)
            rename_captured(body, tensor.name, own)
            tensor.name = own


def _is_outer(graph: Graph, tensor: TensorProto) -> bool:
    return tensor.name in graph.initializers and graph.initializers[tensor.name] == tensor


def _body(graph: Graph, subgraph: Subgraph) -> GraphProto:
    body: GraphProto = attribute(graph.node(subgraph.node), subgraph.name)
    return body


def _names(graph: Graph) -> set[str]:
    """Every tensor name that `graph` and its bodies use."""
    found = {*graph.inputs, *graph.outputs, *graph.initializers}
    for node in graph.nodes:
        found |= _names_of(node)
    return found


def _names_of(node: NodeProto) -> set[str]:
    found = {*node.input, *node.output}
    for body in bodies(node):
        found |= {t.name for t in body.initializer} | {v.name for v in body.output}
        for inner in body.node:
            found |= _names_of(inner)
    return found


def graphs_inside(graph: Graph, path: str = "") -> Iterator[tuple[str, Graph]]:
    """The subgraphs of `graph` as graphs of their own, to any depth, each with its path, which ends in a slash."""
    for subgraph in subgraphs(graph):
        inner, here = own_graph(graph, subgraph), f"{path}{subgraph.path}/"
        yield here, inner
        yield from graphs_inside(inner, here)


def nodes_inside(graph: Graph) -> dict[str, str]:
    """Operator types of the nodes inside subgraphs, to any depth, by their names with the path."""
    return {f"{path}{node.name}": node.op_type for path, inner in graphs_inside(graph) for node in inner.nodes}
