"""What is true of a graph before and after every pass.

Node names and tensor definitions are unique, every tensor read is defined, nodes stand in topological order, every
initializer is read, and onnx's own checker passes.
"""

from __future__ import annotations

import onnx

from onnxq.graph.checking import check_graph
from onnxq.graph.view import Graph, bodies, captured_names


def broken_invariants(graph: Graph) -> list[str]:
    """One sentence for each invariant that `graph` breaks; empty for a sound graph."""
    problems = [*_definition_problems(graph), *_unread_initializers(graph)]
    if problems:
        return problems
    try:
        check_graph(graph)
    except onnx.checker.ValidationError as error:
        problems.append(f"onnx.checker: {error}")
    return problems


def _definition_problems(graph: Graph) -> list[str]:
    """Single definition, nothing dangling, topological order."""
    problems: list[str] = []
    sparse = {t.values.name for t in graph.frame.graph.sparse_initializer}
    defined = set(graph.inputs) | set(graph.initializers) | sparse
    for node in graph.nodes:
        reads = {name for name in node.input if name}
        for body in bodies(node):
            reads |= captured_names(body)
        for tensor in sorted(reads - defined):
            what = "is read before it is computed" if graph.exists(tensor) else "is read but nothing defines it"
            problems.append(f"node {node.name!r}: tensor {tensor!r} {what}")
        for tensor in filter(None, node.output):
            if tensor in defined:
                problems.append(f"node {node.name!r}: tensor {tensor!r} is defined twice")
            defined.add(tensor)
    problems += [f"output {name!r} is not computed" for name in graph.outputs if name not in defined]
    return problems


def _unread_initializers(graph: Graph) -> list[str]:
    return [
        f"initializer {name!r} is read by nobody"
        for name in graph.initializers
        if not graph.uses(name) and not graph.is_output(name)
    ]
