"""onnx's own checker, on models without their large weights.

It asks for a shape of every input and output. Exporters leave it out where they do not know the rank (tf2onnx,
skl2onnx), people who add an output by its name also the type; runtimes ask for neither. Here the rank may stay open.
"""

from __future__ import annotations

from itertools import chain

import onnx
from onnx import ModelProto, ValueInfoProto

from onnxq.graph.view import Graph


def check_graph(graph: Graph) -> None:
    """See that `graph` is a valid model.

    Raises:
        onnx.checker.ValidationError: it is not.
        UnicodeDecodeError: a text in it is none.
    """
    onnx.checker.check_model(_with_shapes(graph.skeleton()))


def lacks_type(value: ValueInfoProto) -> bool:
    """Whether an input or output does not say of which type or rank it is."""
    kind = value.type.tensor_type
    return not value.type.WhichOneof("value") or (
        value.type.WhichOneof("value") == "tensor_type" and not (kind.elem_type and kind.HasField("shape"))
    )


def _with_shapes(model: ModelProto) -> ModelProto:
    """`model`, in place, with a shape for each input and output that has none: the checker asks no further."""
    for value in chain(model.graph.input, model.graph.output):
        if value.type.WhichOneof("value") == "tensor_type" and not value.type.tensor_type.HasField("shape"):
            value.type.tensor_type.shape.SetInParent()
    return model
