"""Initializers with the same content become one."""

from __future__ import annotations

import hashlib

from onnx import TensorProto

from onnxq.graph.view import CAPTURED, Graph
from onnxq.passes.base import Pass, PassLog, PassResult


class DedupeInitializers(Pass):
    """Let the readers of an initializer read the first one of the same type, shape and bytes.

    1. Same bytes: one remains, the first in the model's order.
    2. Same external reference (location, offset, length): one remains; external files are not read for this.
    3. Left alone: the same values in another type or shape, or in another encoding of the message.
    4. Left alone: an initializer that is an output of the graph, or that a body reads.
    """

    def run(self, graph: Graph) -> PassResult:
        log = PassLog()
        first: dict[bytes, str] = {}
        for name, proto in list(graph.initializers.items()):
            uses = graph.uses(name)
            if graph.is_output(name) or any(use.slot == CAPTURED for use in uses):  # case 4
                continue
            kept = first.setdefault(_content(proto), name)
            if kept != name:
                graph.replace_uses(name, kept)
                log.edit(f"initializer {name!r} is the same as {kept!r}", *(use.node for use in uses))
        if log.edits:
            graph.prune()
        return log.result(graph)


def _content(proto: TensorProto) -> bytes:
    """A digest of everything but the name and the remarks."""
    bare = TensorProto()
    bare.CopyFrom(proto)
    for field in ("name", "doc_string"):
        bare.ClearField(field)
    return hashlib.sha256(bare.SerializeToString(deterministic=True)).digest()
