"""Codes of weights with one reader each, as `session.x64quantprecision` needs them.

By that option onnxruntime turns int8 weights and their zero-points to uint8, node by node and under new names. What two
nodes read it makes twice, and it then refuses the model ("Attempt to replace the existing tensor"; 1.23 to 1.32). It
also gives each reader of a DequantizeLinear one of its own, whose weights the copies share.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Iterator

from onnx import GraphProto, ModelProto, NodeProto, TensorProto

from onnxq.graph.messages import bodies, nodes_within


def with_own_codes(model: ModelProto) -> ModelProto:
    """`model`, in place, in which every reader of int8 constants has them for itself, in bodies of If and Loop too."""
    _own_codes(model.graph)
    return model


def _own_codes(graph: GraphProto) -> None:
    for node in graph.node:
        for body in bodies(node):
            _own_codes(body)
    _own_pairs(graph)
    taken = {tensor.name: tensor for tensor in graph.initializer if tensor.data_type == TensorProto.INT8}
    seen = Counter[str]()
    for node in graph.node:
        for name, own in _renamed(node, taken, seen):
            copy = graph.initializer.add()
            copy.CopyFrom(taken[name])
            copy.name = own


def _own_pairs(graph: GraphProto) -> None:
    """One DequantizeLinear of a constant for each of its readers, in place."""
    constants = {tensor.name for tensor in graph.initializer if tensor.data_type == TensorProto.INT8}
    pairs = {n.output[0]: n for n in graph.node if n.op_type == "DequantizeLinear" and n.input[0] in constants}
    seen, nodes = Counter[str](value.name for value in graph.output), list[NodeProto]()
    for original in graph.node:
        node = NodeProto()
        node.CopyFrom(original)
        for name, own in _renamed(node, pairs, seen):
            pair = NodeProto()
            pair.CopyFrom(pairs[name])
            pair.name, pair.output[0] = f"{pair.name}@{seen[name]}", own
            nodes.append(pair)
        nodes.append(node)
    del graph.node[:]
    graph.node.extend(nodes)


def _renamed(node: NodeProto, names: Container[str], seen: Counter[str]) -> Iterator[tuple[str, str]]:
    """Every use of one of `names` in `node` and its bodies but the first that `seen` counts gets a name of its own.

    Yields:
        The name and the new one, which nothing writes yet.
    """
    for reader in nodes_within([node]):
        for slot, name in enumerate(reader.input):
            if name not in names:
                continue
            seen[name] += 1
            if seen[name] > 1:
                reader.input[slot] = f"{name}@{seen[name]}"
                yield name, reader.input[slot]
