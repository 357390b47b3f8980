"""The branches of an If as graphs of their own, and back.

    a = Conv(x)                             then_branch as a graph:   inputs a, b (captured); constant w
    y = If(flag) { Conv(a, w) + b }                                   outputs those of the branch

What a branch reads from outside becomes an input, or an initializer where it is a constant outside; so everything that
works on a model works on a branch. Names of the scopes around are taken: nothing new in a branch may hide one of them.
Operator: https://onnx.ai/onnx/operators/onnx__If.html
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper

from onnxq.graph.messages import attribute, bodies, captured_names
from onnxq.graph.view import STANDARD_DOMAINS, Graph

BRANCHES = ("then_branch", "else_branch")


@dataclass(frozen=True)
class Branch:
    """A branch of an If.

    Attributes:
        node: Name of the If.
        name: "then_branch" or "else_branch".
    """

    node: str
    name: str

    @property
    def path(self) -> str:
        """What the branch is called in names of what is inside."""
        return f"{self.node}/{self.name}"

    @property
    def taken_on(self) -> bool:
        """The condition on which it runs."""
        return self.name == BRANCHES[0]


def branches(graph: Graph) -> Iterator[Branch]:
    """The branches of every If of `graph`, not of those inside branches."""
    for node in graph.nodes:
        if node.op_type == "If" and node.domain in STANDARD_DOMAINS:
            yield from (Branch(node.name, name) for name in BRANCHES)


def branch_graph(graph: Graph, branch: Branch) -> Graph:
    """`branch` as a graph of its own; `graph` is not changed."""
    body = _body(graph, branch)
    model = ModelProto()
    model.CopyFrom(graph.frame)
    model.graph.Clear()
    model.graph.name = branch.path
    own = model.graph
    own.node.extend(body.node)
    own.initializer.extend(body.initializer)
    own.sparse_initializer.extend(body.sparse_initializer)
    own.output.extend(body.output)
    own.value_info.extend(body.value_info)
    for name in sorted(captured_names(body)):
        if graph.is_constant(name):
            own.initializer.append(graph.initializers[name])
        else:
            own.input.append(helper.make_tensor_value_info(name, graph.dtype(name) or 0, graph.shape(name)))
    result = Graph(model, graph.base_dir)
    for name in sorted(_names(graph)):
        result.unique_name(name)
    return result


def with_branch(graph: Graph, branch: Branch, content: Graph) -> None:
    """Let `branch` of `graph` be `content`, from `branch_graph` and changed since. In place; prune after it."""
    node = graph.node(branch.node)
    body = GraphProto(name=_body(graph, branch).name)
    made = content.to_model().graph
    body.node.extend(made.node)
    body.output.extend(made.output)
    body.value_info.extend(made.value_info)
    body.sparse_initializer.extend(content.frame.graph.sparse_initializer)
    body.initializer.extend(t for t in made.initializer if not _is_outer(graph, t))
    attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    graph.remove_node(node)
    graph.add_node(
        "If", list(node.input), list(node.output), name=node.name, attributes={**attributes, branch.name: body}
    )
    for name in sorted(_names(content)):
        graph.unique_name(name)


def _is_outer(graph: Graph, tensor: TensorProto) -> bool:
    return tensor.name in graph.initializers and graph.initializers[tensor.name] == tensor


def _body(graph: Graph, branch: Branch) -> GraphProto:
    body: GraphProto = attribute(graph.node(branch.node), branch.name)
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


def nodes_inside(graph: Graph) -> dict[str, str]:
    """Operator types of the nodes inside branches, to any depth, by their names with the path."""
    found: dict[str, str] = {}
    for branch in branches(graph):
        inner = branch_graph(graph, branch)
        found |= {f"{branch.path}/{n.name}": n.op_type for n in inner.nodes}
        found |= {f"{branch.path}/{name}": op for name, op in nodes_inside(inner).items()}
    return found
