"""Constants that several bodies of If, Loop and Scan hold become one, in the graph around them.

Exporters merge both steps of a decoder into one If, whose branches read the same weights from outside. Once these have
been quantized in each branch, each has codes of its own; this pass puts them where the weights were. Recurrent layers
that converters wrote as Loops multiply by the same weights inside and outside.

Cases:
  1. The same type, shape and bytes in two bodies or more, at any depth: one initializer of the graph, which all read.
  2. The same in one body and among the initializers of the graph: the body reads the graph's.
  3. Left alone: constants of fewer than 256 bytes, those in files of their own, and those of one body alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from onnx import AttributeProto, GraphProto, NodeProto, TensorProto

from onnxq.graph.external_data import is_external
from onnxq.graph.messages import rename_captured
from onnxq.graph.view import Graph, bodies
from onnxq.passes.base import Pass, PassLog, PassResult

_SMALLEST_BYTES = 256


class ShareConstants(Pass):
    """See the module's docstring."""

    def run(self, graph: Graph) -> PassResult:
        log = PassLog()
        found: dict[bytes, list[TensorProto]] = {}
        for node in graph.nodes:
            for body in _all_bodies(node):
                for tensor in filter(_counts, body.initializer):
                    found.setdefault(_content(tensor), []).append(tensor)
        names = _outside(graph, found)
        shared = {key: tensors[0] for key, tensors in found.items() if len(tensors) > 1 and key not in names}
        names |= {key: _shared_name(graph, tensor) for key, tensor in shared.items()}
        if not names:
            return log.result(graph)
        for node in list(graph.nodes):
            if any(_content(t) in names for body in _all_bodies(node) for t in filter(_counts, body.initializer)):
                _let_read(graph, node, names)
                log.edit("its bodies read constants of the graph", node.name)
        graph.sort()
        return log.result(graph)


def _outside(graph: Graph, found: Mapping[bytes, Sequence[TensorProto]]) -> dict[bytes, str]:
    """Names of the graph's own initializers among what bodies hold (2)."""
    forms = {(tensors[0].data_type, tuple(tensors[0].dims)) for tensors in found.values()}
    return {
        key: name
        for name, tensor in graph.initializers.items()
        if (tensor.data_type, tuple(tensor.dims)) in forms and _counts(tensor) and (key := _content(tensor)) in found
    }


def _shared_name(graph: Graph, tensor: TensorProto) -> str:
    name = graph.unique_name(tensor.name)
    return graph.add_initializer(name, tensor)


def _all_bodies(node: NodeProto) -> Iterator[GraphProto]:
    for body in bodies(node):
        yield body
        for inner in body.node:
            yield from _all_bodies(inner)


def _counts(tensor: TensorProto) -> bool:
    return not is_external(tensor) and len(tensor.raw_data) >= _SMALLEST_BYTES


def _content(tensor: TensorProto) -> bytes:
    bare = TensorProto(data_type=tensor.data_type, dims=tensor.dims, raw_data=tensor.raw_data)
    return bytes(bare.SerializeToString(deterministic=True))


def _let_read(graph: Graph, node: NodeProto, names: dict[bytes, str]) -> None:
    """Put `node` back with bodies that read initializers of the graph in place of their own."""
    own = NodeProto()
    own.CopyFrom(node)
    for body in _all_bodies(own):
        kept = []
        for tensor in body.initializer:
            name = names.get(_content(tensor)) if _counts(tensor) else None
            if name is None:
                kept.append(tensor)
            else:
                rename_captured(body, tensor.name, name)
        copies = [TensorProto.FromString(t.SerializeToString()) for t in kept]
        del body.initializer[:]
        body.initializer.extend(copies)
    graph.remove_node(node)
    held = {a.name: a.g for a in own.attribute if a.type == AttributeProto.GRAPH}
    added = graph.add_node(own.op_type, list(own.input), list(own.output), name=own.name, attributes=held)
    added.attribute.extend(a for a in own.attribute if a.name not in held)
