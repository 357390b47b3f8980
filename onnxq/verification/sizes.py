"""Outputs whose size follows from values: boxes that were kept, steps until a decoder was done.

Rounding changes such a size now and then, as it changes which class comes first: no fault of the model's, and nothing
that batches of one size could be compared by.
"""

from __future__ import annotations

from onnx import NodeProto, TensorProto

from onnxq.graph.messages import attribute
from onnxq.graph.view import STANDARD_DOMAINS, Graph
from onnxq.verification.compare import OutputError
from onnxq.wording.plural import counted

_SIZED_BY_VALUES = frozenset(
    {"NonZero", "NonMaxSuppression", "Unique", "Compress", "If", "Loop", "Scan", "SequenceMap", "StringSplit"}
)
_INTEGERS = frozenset({TensorProto.INT32, TensorProto.INT64})


def resized(float_graph: Graph, error: OutputError) -> bool:
    """Whether an output had other sizes in some batches, and was comparable in the rest, by the nature of the model.

    Args:
        float_graph: The float model, with types inferred.
        error: Of one of its outputs.
    """
    if not error.shape_mismatches or not error.elements or error.nonfinite:
        return False
    return _follows_values(float_graph, error.name)


def resized_warning(error: OutputError) -> str:
    """What to say of an output that is `resized`."""
    batches = counted(error.shape_mismatches, "batch", "batches")
    return (
        f"Output {error.name!r} has another size than the float model's in {batches}: it follows from values, as the "
        "number of boxes or decoded steps does. These batches were not compared; judge such a model on labelled data "
        "(onnxq.evaluate, onnxq evaluate)."
    )


def _follows_values(graph: Graph, output: str) -> bool:
    waiting, seen = [output], {output}
    while waiting:
        node = graph.producer(waiting.pop())
        if node is None:
            continue
        if _sizes_by_values(graph, node):
            return True
        fresh = {name for name in node.input if name} - seen
        seen |= fresh
        waiting += fresh
    return False


def _sizes_by_values(graph: Graph, node: NodeProto) -> bool:
    """A Cast of floats to integers counts: durations of speech become sizes by it."""
    if node.domain not in STANDARD_DOMAINS or node.op_type in _SIZED_BY_VALUES:
        return True
    return node.op_type == "Cast" and attribute(node, "to") in _INTEGERS and graph.is_float(node.input[0])
