"""Codes of weights with one reader each, as `session.x64quantprecision` needs them.

By that option onnxruntime turns int8 weights and their zero-points to uint8, node by node and under new names. What two
nodes read it makes twice, and it then refuses the model ("Attempt to replace the existing tensor"; 1.23 to 1.32). It
also gives each reader of a DequantizeLinear one of its own, whose weights the copies share.
"""

from __future__ import annotations

from collections import Counter

from onnx import GraphProto, ModelProto, NodeProto, TensorProto

from onnxq.graph.view import bodies


def with_own_codes(model: ModelProto) -> ModelProto:
    """`model`, in place, in which every reader of int8 constants has them for itself."""
    _own_pairs(model.graph)
    taken = {tensor.name: tensor for tensor in model.graph.initializer if tensor.data_type == TensorProto.INT8}
    seen = Counter[str]()
    for node in _nodes(model.graph):
        for slot, name in enumerate(node.input):
            if name not in taken:
                continue
            seen[name] += 1
            if seen[name] > 1:
                node.input[slot] = f"{name}@{seen[name]}"
                copy = model.graph.initializer.add()
                copy.CopyFrom(taken[name])
                copy.name = node.input[slot]
    return model


def _own_pairs(graph: GraphProto) -> None:
    """One DequantizeLinear of a constant for each of its readers, in place."""
    constants = {tensor.name for tensor in graph.initializer if tensor.data_type == TensorProto.INT8}
    pairs = {n.output[0]: n for n in graph.node if n.op_type == "DequantizeLinear" and n.input[0] in constants}
    seen, nodes = Counter[str](value.name for value in graph.output), list[NodeProto]()
    for original in graph.node:
        node = NodeProto()
        node.CopyFrom(original)
        for reader in _with_inner(node):
            for slot, name in enumerate(reader.input):
                if name not in pairs:
                    continue
                seen[name] += 1
                if seen[name] > 1:
                    reader.input[slot] = f"{name}@{seen[name]}"
                    pair = NodeProto()
                    pair.CopyFrom(pairs[name])
                    pair.name, pair.output[0] = f"{pair.name}@{seen[name]}", reader.input[slot]
                    nodes.append(pair)
        nodes.append(node)
    del graph.node[:]
    graph.node.extend(nodes)


def _nodes(graph: GraphProto) -> list[NodeProto]:
    return [inner for node in graph.node for inner in _with_inner(node)]


def _with_inner(node: NodeProto) -> list[NodeProto]:
    """A node and those in its bodies."""
    return [node, *(inner for body in bodies(node) for one in body.node for inner in _with_inner(one))]
