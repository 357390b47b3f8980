"""A part of a graph as a model of its own: what it reads from outside becomes an input."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from numpy.typing import NDArray
from onnx import ModelProto, ValueInfoProto, numpy_helper

from onnxq.graph.messages import reads_of
from onnxq.graph.view import Graph


def outside_reads(graph: Graph, nodes: Collection[str]) -> list[str]:
    """Tensors that `nodes` read and that other nodes compute or the user feeds, in the order of the reads."""
    own = {t for name in nodes for t in graph.node(name).output}
    reads = (t for name in nodes for t, _ in reads_of(graph.node(name)))
    return [t for t in dict.fromkeys(reads) if t not in own and (graph.producer(t) is not None or graph.is_input(t))]


def descendants(graph: Graph, tensors: Iterable[str]) -> list[str]:
    """Names of the nodes whose results depend on one of `tensors`, in graph order."""
    found: set[str] = set()
    stack = list(tensors)
    while stack:
        for node in graph.consumers(stack.pop()):
            if node.name not in found:
                found.add(node.name)
                stack += node.output
    return [node.name for node in graph.nodes if node.name in found]


def subgraph(
    graph: Graph,
    nodes: Sequence[str],
    outputs: Sequence[str],
    *,
    types: Mapping[str, int],
    constants: Mapping[str, NDArray[Any]] | None = None,
) -> Graph:
    """`nodes` alone.

    Args:
        graph: The whole; it is not changed.
        nodes: Names of nodes, in topological order.
        outputs: Tensors that they compute.
        types: TensorProto.DataType of what `outside_reads` says, where the graph does not know it.
        constants: Values in place of those of initializers.
    """
    new = constants or {}
    model = ModelProto()
    model.CopyFrom(graph.frame)
    model.graph.node.extend(graph.node(name) for name in nodes)
    reads = dict.fromkeys(t for name in nodes for t, _ in reads_of(graph.node(name)))
    model.graph.initializer.extend(
        numpy_helper.from_array(new[t], t) if t in new else graph.initializers[t] for t in reads if graph.is_constant(t)
    )
    model.graph.input.extend(_input(graph, t, types) for t in outside_reads(graph, nodes))
    # onnxruntime infers the types of outputs itself.
    model.graph.output.extend(ValueInfoProto(name=t) for t in outputs)
    return Graph(model, graph.base_dir)


def _input(graph: Graph, tensor: str, types: Mapping[str, int]) -> ValueInfoProto:
    known = graph.inputs.get(tensor) or graph.value_infos.get(tensor) or graph.outputs.get(tensor)
    value = ValueInfoProto()
    if known is not None and known.type.tensor_type.elem_type:
        value.CopyFrom(known)
    else:
        value.type.tensor_type.elem_type = types[tensor]
    value.name = tensor
    return value
